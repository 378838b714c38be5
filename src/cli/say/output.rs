//! Standard output: lines of text or JSON, and names in both.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use serde::Serialize;
use yester::model::escape;
use yester::sys::terminal::columns;
use yester::{Error, Result};

use crate::cli::given::carry::carry;
use crate::cli::say::exit;

/// Standard output, buffered. A reader that has gone ends the process quietly.
pub struct Output {
    out: BufWriter<StdoutLock<'static>>,
    terminal: bool,
    columns: Option<usize>,
}

impl Output {
    /// Takes standard output until it is dropped.
    pub fn new() -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let columns = columns(&stdout);
        Output { out: BufWriter::with_capacity(64 << 10, stdout.lock()), terminal, columns }
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).or_else(failed)
    }

    /// Writes a line of text, or a table. On a terminal a long line is broken between words.
    pub fn line(&mut self, text: &str) -> Result<()> {
        self.bytes(wrapped(text, self.columns).as_bytes())?;
        self.bytes(b"\n")
    }

    /// Writes a value as a line of JSON.
    pub fn json<T: Serialize>(&mut self, value: &T) -> Result<()> {
        match serde_json::to_writer(&mut self.out, value) {
            Ok(()) => self.bytes(b"\n"),
            Err(e) => failed(e.into()),
        }
    }

    /// A name as this output shows it: escaped on a terminal, as it is in a pipe or file.
    pub fn name<'a>(&self, name: &'a [u8]) -> Cow<'a, [u8]> {
        if self.terminal { Cow::Owned(escape(name).into_bytes()) } else { Cow::Borrowed(name) }
    }

    /// Hands everything to the system; call it last, since only then every error is known.
    pub fn finish(mut self) -> Result<()> {
        self.out.flush().or_else(failed)
    }
}

fn failed(e: io::Error) -> Result<()> {
    if e.kind() == io::ErrorKind::BrokenPipe {
        exit::broken_pipe();
    }
    Err(Error::io("cannot write to standard output", e))
}

/// Writes one line for people to standard error, where nobody may be left to read it.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", wrapped(&carry(line), columns(io::stderr())));
}

/// Writes one line to standard error as it is.
pub fn note_exactly(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A line that is broken between words where it is longer than the terminal is wide. Lines of their own stay.
pub fn wrapped(text: &str, columns: Option<usize>) -> Cow<'_, str> {
    let Some(columns) = columns.filter(|columns| *columns >= 20 && text.chars().count() > *columns && !text.contains('\n'))
    else {
        return Cow::Borrowed(text);
    };
    let mut out = String::with_capacity(text.len() + 16);
    let mut used = 0;
    for word in text.split_inclusive(' ') {
        let len = word.trim_end().chars().count();
        if used > 2 && used + len > columns {
            out.truncate(out.trim_end().len());
            out.push_str("\n  ");
            used = 2;
        }
        out.push_str(word);
        used += word.chars().count();
    }
    Cow::Owned(out)
}

/// A path in JSON: `path`, and `path_b64` beside it when it is not UTF-8.
#[derive(Serialize)]
pub struct JsonPath {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
}

impl JsonPath {
    /// Of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        JsonPath { path: lossy(bytes), path_b64: exact(bytes) }
    }
}

/// Bytes as JSON text; what is not UTF-8 becomes U+FFFD.
pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Bytes in base 64 where [`lossy`] is not exact.
pub fn exact(bytes: &[u8]) -> Option<String> {
    if std::str::from_utf8(bytes).is_ok() { None } else { Some(base64(bytes)) }
}

/// Standard base 64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().enumerate().fold(0u32, |bits, (at, b)| bits | u32::from(*b) << (16 - 8 * at));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let examples = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in examples {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(b"\xff\xfe\xfd"), "//79");
    }

    #[test]
    fn long_lines_break_between_words() {
        let text = "yester: warning: /home/eva/a-long-name-of-a-file: it cannot be read";
        assert_eq!(wrapped(text, Some(30)), "yester: warning:\n  /home/eva/a-long-name-of-a-file:\n  it cannot be read");
        for columns in [None, Some(200), Some(text.len())] {
            assert_eq!(wrapped(text, columns), text);
        }
        assert_eq!(wrapped("a table\nof lines that are as they are", Some(20)), "a table\nof lines that are as they are");
    }

    #[test]
    fn only_odd_names_have_a_second_form() {
        assert_eq!(serde_json::to_string(&JsonPath::new("/ä".as_bytes())).unwrap(), r#"{"path":"/ä"}"#);
        assert_eq!(serde_json::to_string(&JsonPath::new(b"/\xff")).unwrap(), "{\"path\":\"/\u{fffd}\",\"path_b64\":\"L/8=\"}");
    }
}
