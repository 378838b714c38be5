//! A run as a process of its own: a crash of it takes nothing else with it.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{IoContext, Result};
use crate::sys::flow::{Came, CommandStream};
use crate::sys::open_file;

/// How often it is looked whether it is to end.
const WAIT: Duration = Duration::from_millis(200);
/// The most that is read at once.
const PIECE: usize = 16 << 10;
/// The longest line that is told as one.
const LINE: usize = 1 << 20;
/// So many bytes that were read of a file with what a command says are given back to the disk.
const MOST: usize = 1 << 20;
/// What a command ended with that was killed, or could not be told.
const KILLED: u8 = 1;

/// Runs a command to its end and returns its exit code; lines of its output and of its errors are told as they come. Setting
/// `stop` asks it to end, once. It holds `lock` as long as it lives.
pub(crate) fn run(
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

/// What a command says, in a file: its lines as they come.
struct SaidFile {
    file: File,
    bytes: Vec<u8>,
    /// Up to here it is a hole.
    freed: u64,
}

impl SaidFile {
    /// An empty file at `path`, and another handle of it for who writes.
    fn new(path: &Path) -> Result<(Self, File)> {
        let what = || format!("cannot write {}", path.display());
        let writer = OpenOptions::new().create(true).append(true).mode(0o600).open(path).at(what)?;
        writer.set_len(0).at(what)?;
        Ok((SaidFile { file: File::open(path).at(what)?, bytes: Vec::new(), freed: 0 }, writer))
    }

    /// Tells the lines that have come since; with `all` also one that has no end.
    fn tell(&mut self, writer: &File, line: &mut dyn FnMut(&[u8]), all: bool) -> Result<()> {
        let what = || "what a command says cannot be read".to_owned();
        while (&self.file).take(MOST as u64).read_to_end(&mut self.bytes).at(what)? > 0 {
            while let Some(end) = self.bytes.iter().position(|b| *b == b'\n').or((self.bytes.len() >= LINE).then_some(LINE - 1)) {
                let said: Vec<u8> = self.bytes.drain(..=end).collect();
                line(said.trim_ascii_end());
            }
        }
        if all && !self.bytes.is_empty() {
            line(&std::mem::take(&mut self.bytes));
        }
        let read = self.file.stream_position().at(what)?;
        if read - self.freed > MOST as u64 {
            // Its writer goes on at its end meanwhile. Where there are no holes it keeps all until the next job.
            let _ = open_file::punch_hole(writer, self.freed, read - self.freed);
            self.freed = read;
        }
        Ok(())
    }
}

/// The same as [`run`] with its output and its errors in files at these paths, which it goes on to write if this process is
/// killed.
pub(crate) fn run_into(
    command: &[OsString],
    lock: File,
    stop: &AtomicBool,
    paths: [&Path; 2],
    out: &mut dyn FnMut(&[u8]),
    err: &mut dyn FnMut(&[u8]),
) -> Result<u8> {
    let what = || "a command cannot be run".to_owned();
    let ((mut outs, out_writer), (mut errs, err_writer)) = (SaidFile::new(paths[0])?, SaidFile::new(paths[1])?);
    let writers = (out_writer.try_clone().at(what)?, err_writer.try_clone().at(what)?);
    let mut flow = CommandStream::start_into(command, lock, writers.0, writers.1).at(what)?;
    let mut asked = false;
    loop {
        let ended = flow.ended(WAIT, &mut |_| {}).at(what)?;
        outs.tell(&out_writer, out, ended.is_some())?;
        errs.tell(&err_writer, err, ended.is_some())?;
        if let Some(status) = ended {
            return Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(KILLED));
        }
        if stop.load(Ordering::Relaxed) && !std::mem::replace(&mut asked, true) {
            flow.ask();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

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
        let dir = tempfile::tempdir().unwrap();
        let (one, two, mut lines, mut errors) = (dir.path().join("1"), dir.path().join("2"), Vec::new(), Vec::new());
        std::fs::write(&one, "of before").unwrap();
        let script = "seq 300000; echo oops >&2; sleep 0.5; printf end; exit 7";
        let err = &mut |line: &[u8]| errors.push(line.to_vec());
        let code = run_into(&shell(script), null(), &stop, [&one, &two], &mut |line| lines.push(line.to_vec()), err);
        assert_eq!((code.unwrap(), errors), (7, vec![b"oops".to_vec()]));
        let said = (1..=300_000).map(|n| n.to_string().into_bytes()).chain([b"end".to_vec()]);
        assert!(lines.into_iter().eq(said), "every line, and as it was");
        let kept = one.metadata().unwrap();
        assert!(kept.blocks() * 512 < kept.len() / 2, "what was read is given back");
        stop.store(true, Ordering::Relaxed);
        let code = run(&shell("trap 'exit 9' TERM; while :; do sleep 0.01; done"), null(), &stop, &mut |_| {}, &mut |_| {});
        assert!(matches!(code.unwrap(), 9 | KILLED), "asked before it could set the trap, it is killed");
    }
}
