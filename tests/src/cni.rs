//! Network plugins called as libcni calls them, and cases in text that say what has to come of it: `tests/data/cni/*.txt`.
//!
//! ```text
//! case a-container-whose-id-is-a-path
//! call ADD
//! set CONTAINERID ../x
//! fails 4 container
//! ```
//!
//! | line | meaning |
//! |---|---|
//! | `case NAME`, `about TEXT` | a new case; why it is there |
//! | `call VERB`, `call nothing` | a call with the usual variables and configuration; what follows changes it or judges it |
//! | `set VARIABLE TEXT`, `unset VARIABLE` | one of CONTAINERID, NETNS, IFNAME, ARGS, PATH or another, without `CNI_` |
//! | `config {..}` | keys in place of the usual ones, or with `null` away |
//! | `ipam {..}` | the same, in what the configuration says of addresses |
//! | `previous` | the result of the case's last ADD as prevResult |
//! | `stdin TEXT` | this in place of a configuration; several lines are one text |
//! | `inside LINE`, `outside LINE` | a command in the container's network namespace, in the plugin's, that must succeed before the next call |
//! | `ok` | nothing printed, status 0 |
//! | `answers {..}` | status 0, and of what is printed at least this: `"*"` is anything, `null` is absent, lists are whole |
//! | `fails CODE[,CODE].. [TEXT]` | an error object with one of the codes (`*`: any), which says that text somewhere |
//! | `error {..}` | of the error object at least this |
//! | `says TEXT` | on standard error |
//!
//! `N*TEXT` as a whole text is that text N times, `\n \r \t \\` are escapes, and `$NETNS` and `$ID` stand for the usual values. A line
//! that begins with a blank continues the one before. Outcomes are judged at the next call or the end of a case.
//!
//! Left out: the chain of a network's plugins and the cache, which are the runtime's; `containers/` has real ones.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::{Map, Value, json};

/// A plugin that is not done by then never is.
const LIMIT: &str = "30";

/// What a runtime asks of a plugin. A variable that is `None` is not in the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    pub verb: Option<String>,
    pub container: Option<String>,
    pub netns: Option<String>,
    pub ifname: Option<String>,
    pub args: Option<String>,
    pub path: Option<String>,
    /// Variables that are none of these.
    pub others: Vec<(String, String)>,
    /// All of standard input.
    pub config: Vec<u8>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// None if a signal ended it.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Call {
    /// With all that the verbs about an attachment need.
    pub fn new(verb: &str, container: &str, netns: &str, config: &Value) -> Call {
        Call {
            verb: Some(verb.to_owned()),
            container: Some(container.to_owned()),
            netns: Some(netns.to_owned()),
            ifname: Some("eth0".to_owned()),
            path: Some("/usr/lib/cni".to_owned()),
            config: config.to_string().into_bytes(),
            ..Call::default()
        }
    }

    /// Calls a plugin. `entering` is a command that runs what is added to it, in the plugin's network namespace.
    pub fn run(&self, mut entering: Command, plugin: &Path) -> Answer {
        entering.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let named = [
            ("COMMAND", &self.verb),
            ("CONTAINERID", &self.container),
            ("NETNS", &self.netns),
            ("IFNAME", &self.ifname),
            ("ARGS", &self.args),
            ("PATH", &self.path),
        ];
        for (name, value) in named.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
            entering.env(format!("CNI_{name}"), value);
        }
        entering.envs(self.others.iter().map(|(name, value)| (format!("CNI_{name}"), value)));
        entering.args(["timeout", "--signal=KILL", LIMIT]).arg(plugin);
        entering.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = entering.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = thread::scope(|scope| {
            // Who reads no more than it needs closes the pipe, and that is fine.
            scope.spawn(move || stdin.write_all(&self.config));
            child.wait_with_output().unwrap()
        });
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap_or_else(|error| format!("not UTF-8: {error}"));
        Answer { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn set(&mut self, name: &str, value: Option<String>) {
        let place = match name {
            "COMMAND" => &mut self.verb,
            "CONTAINERID" => &mut self.container,
            "NETNS" => &mut self.netns,
            "IFNAME" => &mut self.ifname,
            "ARGS" => &mut self.args,
            "PATH" => &mut self.path,
            _ => return self.others.extend(value.map(|value| (name.to_owned(), value))),
        };
        *place = value;
    }
}

impl Answer {
    /// What was printed, if it is JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.stdout).ok()
    }

    pub fn is_success(&self) -> bool {
        self.status == Some(0)
    }

    /// The result of an ADD that must have worked.
    #[track_caller]
    pub fn result(&self) -> Value {
        assert!(self.is_success(), "{self:?}");
        self.json().unwrap_or_else(|| panic!("no JSON: {self:?}"))
    }
}

/// A story of calls.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Case {
    pub name: String,
    pub about: String,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Call { line: usize, verb: String, changes: Vec<Change>, expected: Vec<Expected> },
    Inside(String),
    Outside(String),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Set(String, Option<String>),
    Config(Map<String, Value>),
    Ipam(Map<String, Value>),
    Previous,
    Stdin(String),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    Ok,
    Answers(Value),
    Fails { codes: Vec<u64>, text: String },
    Error(Value),
    Says(String),
}

/// The cases of a file below `tests/data/cni`.
pub fn cases(file: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/cni").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads the text. The error says which line is wrong, and why.
pub fn parse(text: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    let mut names = BTreeSet::new();
    for (number, line) in whole_lines(text) {
        let wrong = |what: String| format!("line {number}: {what}");
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let rest = rest.trim();
        if word == "case" {
            if !names.insert(rest.to_owned()) {
                return Err(wrong(format!("a second case {rest}")));
            }
            cases.push(Case { name: rest.to_owned(), ..Case::default() });
            continue;
        }
        let case = cases.last_mut().ok_or_else(|| wrong("comes before the first case".to_owned()))?;
        case.line(number, word, rest).map_err(wrong)?;
    }
    Ok(cases)
}

/// Lines without comments, each with those that continue it.
fn whole_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        match lines.last_mut() {
            _ if line.trim().is_empty() || line.starts_with('#') => {}
            Some((_, last)) if line.starts_with(' ') => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => lines.push((number, line.trim_end().to_owned())),
        }
    }
    lines
}

impl Case {
    fn line(&mut self, number: usize, word: &str, rest: &str) -> Result<(), String> {
        match word {
            "about" => self.about = rest.to_owned(),
            "inside" => self.steps.push(Step::Inside(rest.to_owned())),
            "outside" => self.steps.push(Step::Outside(rest.to_owned())),
            "call" => {
                let verb = rest.to_owned();
                self.steps.push(Step::Call { line: number, verb, changes: Vec::new(), expected: Vec::new() });
            }
            _ => {
                let Some(Step::Call { changes, expected, .. }) = self.steps.last_mut() else {
                    return Err(format!("{word} belongs to a call"));
                };
                if let Some(change) = change(word, rest)? {
                    changes.push(change);
                } else {
                    expected.push(outcome(word, rest)?);
                }
            }
        }
        Ok(())
    }
}

fn change(word: &str, rest: &str) -> Result<Option<Change>, String> {
    let object = || -> Result<Map<String, Value>, String> {
        serde_json::from_str(rest).map_err(|error| format!("{rest}: {error}"))
    };
    Ok(Some(match word {
        "set" => {
            let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
            Change::Set(name.to_owned(), Some(unescaped(value)?))
        }
        "unset" => Change::Set(rest.to_owned(), None),
        "config" => Change::Config(object()?),
        "ipam" => Change::Ipam(object()?),
        "previous" => Change::Previous,
        "stdin" => Change::Stdin(unescaped(rest)?),
        _ => return Ok(None),
    }))
}

fn outcome(word: &str, rest: &str) -> Result<Expected, String> {
    Ok(match word {
        "ok" => Expected::Ok,
        "answers" => Expected::Answers(serde_json::from_str(rest).map_err(|error| format!("{rest}: {error}"))?),
        "error" => Expected::Error(serde_json::from_str(rest).map_err(|error| format!("{rest}: {error}"))?),
        "fails" => {
            let (codes, text) = rest.split_once(' ').unwrap_or((rest, ""));
            let codes = if codes == "*" { "" } else { codes };
            let codes: Result<Vec<u64>, String> = codes
                .split(',')
                .filter(|code| !code.is_empty())
                .map(|code| code.parse().map_err(|error| format!("{code}: {error}")))
                .collect();
            Expected::Fails { codes: codes?, text: text.to_owned() }
        }
        "says" => Expected::Says(rest.to_owned()),
        other => return Err(format!("no such line: {other}")),
    })
}

/// Repetition and escapes made real.
fn unescaped(text: &str) -> Result<String, String> {
    if let Some((count, text)) = text.split_once('*')
        && let Ok(count) = count.parse()
    {
        return Ok(unescaped(text)?.repeat(count));
    }
    let mut made = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        made.push(match character {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('\\') => '\\',
                other => return Err(format!("no such escape: {other:?}")),
            },
            other => other,
        });
    }
    Ok(made)
}

/// What a case is played against.
pub trait Stage {
    /// The usual configuration.
    fn config(&self) -> Value;
    /// The usual namespace of the container.
    fn netns(&self) -> String;
    fn call(&self, call: &Call) -> Answer;
    /// A command in the container's namespace; what is wrong if it fails.
    fn inside(&self, line: &str) -> Result<(), String>;
    /// A command in the plugin's.
    fn outside(&self, line: &str) -> Result<(), String>;
}

impl Case {
    /// Plays it, and says everything that is otherwise than it should be.
    pub fn play(&self, stage: &impl Stage) -> Result<(), String> {
        let mut previous = Value::Null;
        let mut wrong = Vec::new();
        for step in &self.steps {
            match step {
                Step::Inside(command) => wrong.extend(stage.inside(&self.fill(stage, command)).err()),
                Step::Outside(command) => wrong.extend(stage.outside(&self.fill(stage, command)).err()),
                Step::Call { line, verb, changes, expected } => {
                    let answer = stage.call(&self.made(stage, verb, changes, &previous));
                    if verb == "ADD" && answer.is_success() {
                        previous = answer.json().unwrap_or_default();
                    }
                    if expected.is_empty() {
                        wrong.push(format!("line {line}: {verb} expects nothing; there was {answer:?}"));
                    }
                    let judged = expected.iter().filter_map(|expected| expected.judge(&answer).err());
                    wrong.extend(judged.map(|what| format!("line {line}: {verb}: {what}\n      {}", shown(&answer))));
                }
            }
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(format!("{} ({})\n    {}", self.name, self.about, wrong.join("\n    ")))
        }
    }

    /// The names of usual values, in place.
    fn fill(&self, stage: &impl Stage, text: &str) -> String {
        text.replace("$NETNS", &stage.netns()).replace("$ID", &self.name)
    }

    fn made(&self, stage: &impl Stage, verb: &str, changes: &[Change], previous: &Value) -> Call {
        let mut config = stage.config();
        let mut call = Call::new(verb, &self.name, &stage.netns(), &Value::Null);
        if verb == "nothing" {
            call.verb = None;
        }
        let mut stdin: Option<String> = None;
        for change in changes {
            match change {
                Change::Set(name, value) => call.set(name, value.as_ref().map(|value| self.fill(stage, value))),
                Change::Config(keys) => merge(&mut config, keys),
                Change::Ipam(keys) => merge(&mut config["ipam"], keys),
                Change::Previous => config["prevResult"] = previous.clone(),
                Change::Stdin(text) => stdin.get_or_insert_default().push_str(text),
            }
        }
        call.config = stdin.unwrap_or_else(|| self.fill(stage, &config.to_string())).into_bytes();
        call
    }
}

fn merge(into: &mut Value, keys: &Map<String, Value>) {
    if !into.is_object() {
        *into = json!({});
    }
    let object = into.as_object_mut().unwrap();
    for (key, value) in keys {
        match value {
            Value::Null => drop(object.remove(key)),
            value => drop(object.insert(key.clone(), value.clone())),
        }
    }
}

/// An answer in a line, long ones cut.
fn shown(answer: &Answer) -> String {
    let cut = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(600).collect::<String>();
    format!("status {:?}, printed {:?}, said {:?}", answer.status, cut(&answer.stdout), cut(&answer.stderr))
}

impl Expected {
    fn judge(&self, answer: &Answer) -> Result<(), String> {
        match self {
            Expected::Ok if answer.is_success() && answer.stdout.trim().is_empty() => Ok(()),
            Expected::Ok => Err("should have succeeded and printed nothing".to_owned()),
            Expected::Says(text) if answer.stderr.contains(text) => Ok(()),
            Expected::Says(text) => Err(format!("should have said {text:?}")),
            Expected::Answers(_) if !answer.is_success() => Err("should have succeeded".to_owned()),
            Expected::Error(_) if answer.is_success() => Err("should have failed".to_owned()),
            Expected::Answers(wanted) | Expected::Error(wanted) => match answer.json() {
                Some(found) => holds(wanted, &found, ""),
                None => Err("should have printed JSON".to_owned()),
            },
            Expected::Fails { codes, text } => failed(answer, codes, text),
        }
    }
}

/// An error has the form of the specification, whatever it is.
fn failed(answer: &Answer, codes: &[u64], text: &str) -> Result<(), String> {
    if answer.is_success() || answer.status.is_none() {
        return Err("should have failed, with a status".to_owned());
    }
    let error = answer.json().ok_or("should have printed an error as JSON")?;
    let code = error["code"].as_u64().ok_or("an error has a number for its code")?;
    if !codes.is_empty() && !codes.contains(&code) {
        return Err(format!("should have failed with {codes:?}, and it was {code}"));
    }
    let message = error["msg"].as_str().filter(|text| !text.is_empty()).ok_or("an error has a message")?;
    let details = error["details"].as_str().unwrap_or_default();
    let is_told = format!("{message}\n{details}").to_lowercase().contains(&text.to_lowercase());
    if is_told { Ok(()) } else { Err(format!("should have told of {text:?}")) }
}

/// Whether what is found has all that is wanted.
fn holds(wanted: &Value, found: &Value, path: &str) -> Result<(), String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted.iter().try_for_each(|(key, wanted)| {
            let path = format!("{path}.{key}");
            match (wanted, found.get(key)) {
                (Value::Null, None) => Ok(()),
                (Value::Null, Some(found)) => Err(format!("{path} should be absent, and is {found}")),
                (wanted, Some(found)) => holds(wanted, found, &path),
                (wanted, None) => Err(format!("{path} should be {wanted}, and is absent")),
            }
        }),
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            let mut pairs = wanted.iter().zip(found).enumerate();
            pairs.try_for_each(|(at, (wanted, found))| holds(wanted, found, &format!("{path}[{at}]")))
        }
        (Value::String(any), _) if any == "*" => Ok(()),
        (wanted, found) if wanted == found => Ok(()),
        (wanted, found) => Err(format!("{path} should be {wanted}, and is {found}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: i32, stdout: &str) -> Answer {
        Answer { status: Some(status), stdout: stdout.to_owned(), stderr: String::new() }
    }

    #[test]
    fn every_file_can_be_read_and_every_call_is_judged() {
        for file in ["library.txt", "alone.txt", "node.txt", "delegates.txt"] {
            for case in cases(file) {
                let is_judged = |step: &Step| !matches!(step, Step::Call { expected, .. } if expected.is_empty());
                assert!(!case.about.is_empty() && case.steps.iter().all(is_judged), "{file}: {case:?}");
            }
        }
    }

    #[test]
    fn wrong_lines_are_named() {
        for (text, expected) in [
            ("call ADD", "line 1: comes before the first case"),
            ("case a\ncase a", "line 2: a second case a"),
            ("case a\nok", "line 2: ok belongs to a call"),
            ("case a\ncall ADD\nconfig [", "line 3: ["),
            ("case a\ncall ADD\nfails x", "line 3: x"),
            ("case a\ncall ADD\nset X \\q", "line 3: no such escape"),
            ("case a\ncall ADD\nsucceeds", "line 3: no such line"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn texts_are_repeated_and_escaped() {
        assert_eq!(unescaped("3*ab").unwrap(), "ababab");
        assert_eq!(unescaped("a\\r\\nb").unwrap(), "a\r\nb");
        assert_eq!(unescaped("*b").unwrap(), "*b");
    }

    #[test]
    fn outcomes_are_told_apart() {
        let judge = |line: &str, answer: &Answer| {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            outcome(word, rest).unwrap().judge(answer).is_ok()
        };
        let error = answer(1, r#"{"code": 7, "msg": "no name", "details": "of the network"}"#);
        assert!(judge("fails 7", &error) && judge("fails 4,7 Name", &error) && judge("fails * network", &error));
        assert!(!judge("fails 4", &error) && !judge("fails 7 pool", &error) && !judge("ok", &error));
        assert!(!judge("fails *", &answer(0, r#"{"code": 7, "msg": "no name"}"#)));
        assert!(!judge("fails *", &answer(1, "no name")) && !judge("answers {}", &error));
        assert!(judge("ok", &answer(0, "\n")) && !judge("ok", &answer(0, "{}")));
        let result = answer(0, r#"{"ips": [{"address": "10.0.0.1/32", "version": "4"}]}"#);
        assert!(judge(r#"answers {"ips": [{"address": "*"}], "dns": null}"#, &result));
        assert!(!judge(r#"answers {"ips": [{"version": null}]}"#, &result));
        assert!(!judge(r#"answers {"ips": []}"#, &result));
    }

    #[test]
    fn a_configuration_is_the_usual_one_with_changes() {
        struct Nobody;
        impl Stage for Nobody {
            fn config(&self) -> Value {
                json!({"name": "net", "type": "x", "ipam": {"type": "y"}})
            }
            fn netns(&self) -> String {
                "/run/netns/n".to_owned()
            }
            fn call(&self, call: &Call) -> Answer {
                answer(0, &json!({"config": String::from_utf8_lossy(&call.config), "id": call.container}).to_string())
            }
            fn inside(&self, _: &str) -> Result<(), String> {
                Ok(())
            }
            fn outside(&self, _: &str) -> Result<(), String> {
                Ok(())
            }
        }
        let text = "case one\nabout why\ncall ADD\nconfig {\"type\": null,\n  \"x\": 1}\nipam {\"z\": 2}\n\
            answers {\"id\": \"one\", \"config\": \"{\\\"ipam\\\":{\\\"type\\\":\\\"y\\\",\\\"z\\\":2},\\\"name\\\":\\\"net\\\",\\\"x\\\":1}\"}\n\
            call ADD\nstdin a\nstdin 2*bc\nset CONTAINERID of-$ID\nanswers {\"id\": \"of-one\", \"config\": \"abcbc\"}";
        parse(text).unwrap()[0].play(&Nobody).unwrap();
    }
}
