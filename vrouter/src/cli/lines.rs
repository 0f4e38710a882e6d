//! JSON lines in, JSON lines out: one answer for each line, in the order of the lines.
//!
//! A line that is not understood gets an error object and the run goes on. Answers are flushed as soon as no further
//! whole line is waiting, so that whoever asks through a pipe line by line gets each answer at once.
//!
//! Invariants: a line longer than [`LINE_MAX`] is never held in memory; blank lines have no answer.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::CliError;

/// The longest line that is read.
pub const LINE_MAX: usize = 1 << 20;

/// Answers every line of stdin on stdout.
pub fn answer<Q: DeserializeOwned>(
    expected: &str,
    mut ask: impl FnMut(Q) -> Result<Value, String>,
) -> Result<(), CliError> {
    let mut one = |line: &str| {
        let question = serde_json::from_str(line).map_err(|error| format!("found {error}, expected {expected}"));
        question.and_then(&mut ask)
    };
    match serve(io::stdin().lock(), io::stdout().lock(), &mut one) {
        // Whoever read the answers has had enough of them.
        Err(CliError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        served => served,
    }
}

fn serve(
    input: impl Read,
    mut output: impl Write,
    ask: &mut impl FnMut(&str) -> Result<Value, String>,
) -> Result<(), CliError> {
    let unreadable = |source| CliError::Read { path: "stdin".into(), source };
    let mut input = BufReader::with_capacity(1 << 16, input);
    let mut answers = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut input).take(LINE_MAX as u64 + 1).read_until(b'\n', &mut line).map_err(unreadable)?;
        if read == 0 {
            output.write_all(&answers).map_err(CliError::Output)?;
            return output.flush().map_err(CliError::Output);
        }
        let answer = if line.len() > LINE_MAX && line.last() != Some(&b'\n') {
            skip_line(&mut input).map_err(unreadable)?;
            Some(Err(format!("found a line of more than {LINE_MAX} bytes, expected a shorter one")))
        } else {
            match std::str::from_utf8(&line) {
                Ok(text) if text.trim().is_empty() => None,
                Ok(text) => Some(ask(text.trim())),
                Err(error) => Some(Err(format!("found bytes that are no text ({error}), expected UTF-8"))),
            }
        };
        if let Some(answer) = answer {
            let answer = answer.unwrap_or_else(|message| json!({ "error": message }));
            answers.extend(answer.to_string().bytes());
            answers.push(b'\n');
        }
        if answers.len() > 1 << 16 || !input.buffer().contains(&b'\n') {
            output.write_all(&answers).and_then(|()| output.flush()).map_err(CliError::Output)?;
            answers.clear();
        }
    }
}

fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(input: &[u8]) -> String {
        let mut output = Vec::new();
        let mut echo = |line: &str| match line {
            "bad" => Err("found bad, expected good".to_string()),
            line => Ok(json!({ "line": line.len() })),
        };
        serve(input, &mut output, &mut echo).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn every_line_has_its_answer_in_order() {
        let expected = "{\"line\":1}\n{\"error\":\"found bad, expected good\"}\n{\"line\":2}\n";
        assert_eq!(served(b"a\nbad\n\n  \nbb"), expected);
        assert_eq!(served(b""), "");
    }

    #[test]
    fn a_line_that_is_too_long_or_no_text_does_not_end_the_run() {
        let mut input = vec![b'x'; LINE_MAX + 5];
        input.extend(b"\n\xff\xfe\nok\n");
        let answers = served(&input);
        let answers: Vec<&str> = answers.lines().collect();
        assert!(answers[0].contains("more than 1048576 bytes"), "{}", answers[0]);
        assert!(answers[1].contains("expected UTF-8"), "{}", answers[1]);
        assert_eq!(answers[2..], ["{\"line\":2}"]);
    }

    /// Gives one line per read, and looks whether the answer to the one before was there by then.
    struct Pipe<'a> {
        lines: Vec<&'static [u8]>,
        written: &'a std::cell::RefCell<Vec<u8>>,
        seen: &'a std::cell::RefCell<Vec<usize>>,
    }

    impl Read for Pipe<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.seen.borrow_mut().push(self.written.borrow().iter().filter(|byte| **byte == b'\n').count());
            if self.lines.is_empty() {
                return Ok(0);
            }
            let line = self.lines.remove(0);
            buffer[..line.len()].copy_from_slice(line);
            Ok(line.len())
        }
    }

    struct Sink<'a>(&'a std::cell::RefCell<Vec<u8>>);

    impl Write for Sink<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_answer_does_not_wait_for_the_next_line() {
        let (written, seen) = Default::default();
        let input = Pipe { lines: vec![b"a\n", b"b\nc", b"c\n"], written: &written, seen: &seen };
        serve(input, Sink(&written), &mut |line| Ok(json!(line))).unwrap();
        assert_eq!(*seen.borrow(), [0, 1, 2, 3]);
    }
}
