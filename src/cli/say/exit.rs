//! Exit codes, and the one line that says why.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use yester::ErrorKind;
use yester::sys::terminal::columns;

use crate::cli::given::carry::carry;
use crate::cli::say::output::wrapped;

/// All of it was done.
pub const DONE: u8 = 0;
/// It failed, or damage was found.
pub const FAILED: u8 = 1;
/// The request makes no sense.
pub const USAGE: u8 = 2;
/// Done, but not all of it.
pub const PARTIAL: u8 = 3;
/// There is no repository.
pub const NO_REPOSITORY: u8 = 10;
/// Somebody else is at work.
pub const BUSY: u8 = 11;
/// The wrong key, or none to be had.
pub const NO_KEY: u8 = 12;
/// Something is still alive that must not be.
pub const ALIVE: u8 = 13;
/// The repository went back: snapshots are gone that nobody forgot.
pub const WENT_BACK: u8 = 14;
/// The user stopped it.
pub const INTERRUPTED: u8 = 130;

/// Whether this process has nobody who reads its standard error now: that is a log.
pub static IN_BACKGROUND: AtomicBool = AtomicBool::new(false);

/// How a command that did not fail ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was done.
    Done,
    /// Not everything: what is missing, for the user.
    Partial(String),
}

/// The exit code of an error.
pub fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotFound | ErrorKind::Exists | ErrorKind::Corrupt | ErrorKind::Io => FAILED,
        ErrorKind::Unsupported | ErrorKind::Unsettled | ErrorKind::Full => FAILED,
        ErrorKind::Invalid => USAGE,
        ErrorKind::NoRepository => NO_REPOSITORY,
        ErrorKind::Busy => BUSY,
        ErrorKind::Key => NO_KEY,
        ErrorKind::Alive => ALIVE,
        ErrorKind::WentBack => WENT_BACK,
        ErrorKind::Interrupted => INTERRUPTED,
    }
}

#[derive(Serialize)]
struct ExitError<'a> {
    message_type: &'static str,
    code: u8,
    message: &'a str,
}

/// Prints `yester: <message>` as one line on standard error, with `json` also as an object on a line of its own, and
/// returns `code`.
pub fn report(code: u8, message: &str, json: bool) -> u8 {
    let message = one_line(&carry(message));
    if IN_BACKGROUND.load(Ordering::Relaxed) {
        // The log's lines have times.
        tracing::error!("{message}");
        return code;
    }
    let mut err = io::stderr().lock();
    // Nobody is left to be told when standard error is gone; the code still tells.
    let _ = writeln!(err, "{}", wrapped(&format!("yester: {message}"), columns(&err)));
    if json && let Ok(line) = serde_json::to_string(&ExitError { message_type: "exit_error", code, message: &message }) {
        let _ = writeln!(err, "{line}");
    }
    code
}

/// Library errors have escaped their names already; this keeps whatever else is in a message on its line.
pub fn one_line(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for c in message.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Ends the process like any other whose reader has gone: quietly, by SIGPIPE.
pub fn broken_pipe() -> ! {
    let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGPIPE);
    std::process::exit(i32::from(FAILED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_manual() {
        assert_eq!(code(ErrorKind::NotFound), 1);
        assert_eq!(code(ErrorKind::Invalid), 2);
        assert_eq!(code(ErrorKind::NoRepository), 10);
        assert_eq!(code(ErrorKind::Busy), 11);
        assert_eq!(code(ErrorKind::Key), 12);
        assert_eq!(code(ErrorKind::Alive), 13);
        assert_eq!(code(ErrorKind::WentBack), 14);
        assert_eq!(code(ErrorKind::Interrupted), 130);
    }

    #[test]
    fn a_message_stays_on_its_line() {
        assert_eq!(one_line("a\nb\x1b[2J"), "a\\nb\\u{1b}[2J");
    }
}
