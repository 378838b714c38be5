//! A run as a process of its own: a crash of it takes nothing else with it.

use std::ffi::OsString;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{IoContext, Result};
use crate::sys::flow::{Came, CommandStream};

/// How often it is looked whether it is to end.
const WAIT: Duration = Duration::from_millis(200);
/// The most that is read at once.
const PIECE: usize = 16 << 10;
/// The longest line that is told as one.
const LINE: usize = 1 << 20;
/// What a command ended with that was killed, or could not be told.
const KILLED: u8 = 1;

/// Runs a command to its end and returns its exit code; lines of its output and of its errors are told as they come. Setting
/// `stop` asks it to end, once. It holds `lock` as long as it lives.
pub fn run(
    command: &[OsString],
    lock: File,
    stop: &AtomicBool,
    out: &mut dyn FnMut(&[u8]),
    err: &mut dyn FnMut(&[u8]),
) -> Result<u8> {
    let what = || "a command cannot be run".to_owned();
    let mut flow = CommandStream::start_holding(command, &[], lock).at(what)?;
    let (mut bytes, mut asked) = (Vec::new(), false);
    let mut look = |flow: &CommandStream| {
        if stop.load(Ordering::Relaxed) && !std::mem::replace(&mut asked, true) {
            flow.ask();
        }
    };
    while flow.read(&mut bytes, PIECE, WAIT, err).at(what)? != Came::End {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n').or((bytes.len() >= LINE).then_some(LINE - 1)) {
            let line: Vec<u8> = bytes.drain(..=end).collect();
            out(line.trim_ascii_end());
        }
        look(&flow);
    }
    if !bytes.is_empty() {
        out(&bytes);
    }
    loop {
        if let Some(status) = flow.ended(WAIT, err).at(what)? {
            return Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(KILLED));
        }
        look(&flow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_codes_come_back_and_it_ends_when_asked() {
        let shell = |script: &str| ["sh", "-c", script].map(OsString::from).to_vec();
        let null = || File::open("/dev/null").unwrap();
        let (stop, mut out, mut err) = (AtomicBool::new(false), Vec::new(), Vec::new());
        let code = run(
            &shell("echo one; echo two >&2; printf three; exit 7"),
            null(),
            &stop,
            &mut |line| out.push(line.to_vec()),
            &mut |line| err.push(line.to_vec()),
        );
        assert_eq!((code.unwrap(), out, err), (7, vec![b"one".to_vec(), b"three".to_vec()], vec![b"two".to_vec()]));
        stop.store(true, Ordering::Relaxed);
        let code = run(&shell("trap 'exit 9' TERM; while :; do sleep 0.01; done"), null(), &stop, &mut |_| {}, &mut |_| {});
        assert!(matches!(code.unwrap(), 9 | KILLED), "asked before it could set the trap, it is killed");
    }
}
