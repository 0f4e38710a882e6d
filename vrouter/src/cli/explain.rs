//! explain: what an error code means, what a kind is for, what a field may say.

use clap::Args;
use config::explain::{self, Entry, KindPage};
use config::resource::Kind;
use config::suggest;
use control::http::api::ErrorCode;
use serde_json::json;

use super::error::CliError;
use super::render::{self, Table, harmless};
use super::{Format, help};

#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// VR1203, codes, kinds, commands, KIND or KIND.field.path
    #[arg(value_name = "CODE|KIND[.FIELD]")]
    what: String,
}

pub fn explain(format: Format, arguments: &ExplainArguments) -> Result<(), CliError> {
    let what = arguments.what.as_str();
    match what {
        "codes" => codes(format),
        "kinds" => kinds(format),
        "commands" => commands(format),
        _ => match ErrorCode::from_id(what) {
            Some(code) => one_code(format, code),
            None if looks_like_a_code(what) => {
                let near = suggest::nearest(what, ErrorCode::ALL.iter().map(|code| code.id()));
                let near = near.map(|id| format!("; did you mean {id}?")).unwrap_or_default();
                let message = format!("no error has the code {what:?}{near} `vrouter explain codes` lists them all");
                Err(CliError::refused(ErrorCode::NotFound, message))
            }
            None => field(format, what),
        },
    }
}

fn looks_like_a_code(word: &str) -> bool {
    let digits = word.get(..2).filter(|start| start.eq_ignore_ascii_case("vr")).and(word.get(2..));
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn one_code(format: Format, code: ErrorCode) -> Result<(), CliError> {
    let page = code.page();
    let value = json!({
        "code": code, "title": page.title, "class": code.class().word(), "exitStatus": code.exit_status(),
        "httpStatus": code.http_status(), "cause": page.cause, "example": page.example, "next": page.next,
    });
    if let Some(text) = render::structured(format, &value)? {
        return render::print(&text);
    }
    render::print(&format!(
        "{code}: {}\n\nCause    {}\nExample  {}\nNext     {}\n\nExit status {}, HTTP {}\n",
        page.title,
        wrapped(page.cause),
        page.example,
        wrapped(page.next),
        code.exit_status(),
        code.http_status()
    ))
}

/// Lines of at most 78 letters, those after the first indented under it.
fn wrapped(text: &str) -> String {
    const INDENT: usize = 9;
    const WIDTH: usize = 78;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        if let Some(line) = lines.last_mut()
            && (line.is_empty() || INDENT + line.len() + word.len() < WIDTH)
        {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        } else {
            lines.push(word.to_string());
        }
    }
    lines.join(&format!("\n{}", " ".repeat(INDENT)))
}

fn codes(format: Format) -> Result<(), CliError> {
    let all: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|code| json!({ "code": code, "title": code.page().title, "exitStatus": code.exit_status() }))
        .collect();
    if let Some(text) = render::structured(format, &all)? {
        return render::print(&text);
    }
    let mut table = Table::new(["CODE", "EXIT", "MEANING"]);
    for code in ErrorCode::ALL {
        table.row([code.to_string(), code.exit_status().to_string(), code.page().title.to_string()]);
    }
    render::print(&table.text())
}

fn kinds(format: Format) -> Result<(), CliError> {
    let rows: Vec<(Kind, &str)> = Kind::ALL.iter().map(|kind| (*kind, explain::kind(*kind).meaning)).collect();
    let value: Vec<_> = rows
        .iter()
        .map(|(kind, meaning)| {
            let (version, namespaced) = (kind.api_version(), kind.is_namespaced());
            json!({ "kind": kind.name(), "apiVersion": version, "namespaced": namespaced, "meaning": meaning })
        })
        .collect();
    if let Some(text) = render::structured(format, &value)? {
        return render::print(&text);
    }
    let mut table = Table::new(["KIND", "NAMESPACED", "APIVERSION", "MEANING"]);
    for (kind, meaning) in rows {
        let namespaced = if kind.is_namespaced() { "yes" } else { "no" };
        let row = [kind.name(), namespaced, kind.api_version(), meaning];
        table.row(row.map(str::to_string));
    }
    render::print(&table.text())
}

fn commands(format: Format) -> Result<(), CliError> {
    let all = help::commands();
    let value: Vec<_> = all.iter().map(|(name, about)| json!({ "command": name, "about": about })).collect();
    if let Some(text) = render::structured(format, &value)? {
        return render::print(&text);
    }
    let mut table = Table::new(["COMMAND", "WHAT IT DOES"]);
    for (name, about) in all {
        table.row([name, about]);
    }
    render::print(&table.text())
}

fn field(format: Format, what: &str) -> Result<(), CliError> {
    let (word, path) = what.split_once('.').unwrap_or((what, ""));
    let kind = super::kind(word)?;
    let page = explain::kind(kind);
    let entry = explain::field(kind, path)
        .map_err(|unknown| CliError::refused(ErrorCode::UnknownField, unknown.to_string()))?;
    if let Some(text) = render::structured(format, &value(kind, path, &page, entry.as_ref()))? {
        return render::print(&text);
    }
    render::print(&text(kind, path, &page, entry.as_ref()))
}

fn value(kind: Kind, path: &str, page: &KindPage, entry: Option<&Entry>) -> serde_json::Value {
    let one = |entry: &Entry| {
        json!({
            "name": entry.name, "type": entry.kind, "default": entry.default, "checks": entry.checks,
            "meaning": entry.meaning,
        })
    };
    let fields: Vec<_> = explain::fields_below(kind, entry).iter().map(one).collect();
    json!({
        "kind": kind.name(), "apiVersion": kind.api_version(), "path": path,
        "meaning": entry.map_or(page.meaning, |entry| entry.meaning), "field": entry.map(one), "fields": fields,
    })
}

fn text(kind: Kind, path: &str, page: &KindPage, entry: Option<&Entry>) -> String {
    let mut text = String::new();
    match entry {
        None => {
            text.push_str(&format!("{kind}  ({})\n\n{}\n", kind.api_version(), wrapped_plain(page.meaning)));
            for rule in &page.rules {
                text.push_str(&format!("- {}\n", wrapped_plain(rule).replace('\n', "\n  ")));
            }
        }
        Some(entry) => {
            text.push_str(&format!("{kind}.{}\n\n", harmless(path)));
            let rows = [
                ("Type", entry.kind),
                ("Default", entry.default),
                ("Checks", entry.checks),
                ("Meaning", entry.meaning),
            ];
            for (title, words) in rows.iter().filter(|(_, words)| !words.is_empty()) {
                text.push_str(&format!("{title:<9}{}\n", wrapped(words)));
            }
        }
    }
    let below = explain::fields_below(kind, entry);
    if !below.is_empty() {
        let mut table = Table::new(["FIELD", "TYPE", "DEFAULT", "CHECKS", "MEANING"]);
        for entry in below {
            table.row([entry.name, entry.kind, entry.default, entry.checks, entry.meaning].map(str::to_string));
        }
        text.push_str(&format!("\n{}", table.text()));
    }
    text
}

fn wrapped_plain(text: &str) -> String {
    wrapped(text).replace(&format!("\n{}", " ".repeat(9)), "\n")
}
