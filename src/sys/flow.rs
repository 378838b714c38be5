//! Bytes that come by themselves: a command's output, or what this process is given on an open file. Nothing here waits
//! longer than it is told, so a reader can stop at any time.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{self, Pid, Signal, WaitId, WaitIdOptions};

/// What a pipe holds, where the kernel allows so much: fewer and longer reads.
const PIPE: usize = 1 << 20;
/// The longest line of standard error that is told as one.
const LINE: usize = 1000;
/// How long a command may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(5);
/// How often an end is looked for where nothing tells of it.
const LOOK: Duration = Duration::from_millis(50);

/// Receives lines of standard error, without their ends.
pub(crate) type LineSink<'a> = &'a mut dyn FnMut(&[u8]);

/// What came within the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The end: nothing will come any more.
    End,
}

/// A flow of bytes. When it is dropped, its command is ended with everything in its process group.
#[derive(Debug)]
pub struct CommandStream {
    out: Option<File>,
    err: Option<File>,
    child: Option<Child>,
    /// The line of standard error that has begun.
    line: Vec<u8>,
    /// The last whole line.
    last: Vec<u8>,
}

impl CommandStream {
    /// What an open file gives until its end.
    pub(crate) fn of(file: File) -> Self {
        CommandStream { out: Some(file), err: None, child: None, line: Vec::new(), last: Vec::new() }
    }

    /// Starts a command (its name and arguments) in a process group of its own, with these variables beside those of this
    /// process, and nothing on its standard input.
    pub fn start(command: &[OsString], variables: &[(OsString, OsString)]) -> io::Result<Self> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no command"));
        };
        let mut start = Command::new(program);
        start.args(arguments).envs(variables.iter().map(|(name, value)| (name, value))).process_group(0);
        Self::spawn(start.stdin(Stdio::null())).map(|(flow, _)| flow)
    }

    /// The same with something on its standard input, which the caller writes.
    pub fn start_fed(command: &[OsString], variables: &[(OsString, OsString)]) -> io::Result<(Self, ChildStdin)> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no command"));
        };
        let mut start = Command::new(program);
        start.args(arguments).envs(variables.iter().map(|(name, value)| (name, value))).process_group(0);
        let (flow, input) = Self::spawn(start.stdin(Stdio::piped()))?;
        Ok((flow, input.ok_or(io::ErrorKind::BrokenPipe)?))
    }

    /// The same with an open file on its standard input: a lock on it lives as long as the command.
    pub fn start_holding(command: &[OsString], variables: &[(OsString, OsString)], file: File) -> io::Result<Self> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no command"));
        };
        let mut start = Command::new(program);
        start.args(arguments).envs(variables.iter().map(|(name, value)| (name, value))).process_group(0);
        Self::spawn(start.stdin(Stdio::from(file))).map(|(flow, _)| flow)
    }

    /// The same where all that it says goes into files, so that it outlives whoever reads them.
    pub fn start_into(command: &[OsString], file: File, out: File, err: File) -> io::Result<Self> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no command"));
        };
        let mut start = Command::new(program);
        start.args(arguments).process_group(0).stdin(Stdio::from(file)).stdout(Stdio::from(out)).stderr(Stdio::from(err));
        Ok(CommandStream { out: None, err: None, child: Some(start.spawn()?), line: Vec::new(), last: Vec::new() })
    }

    fn spawn(start: &mut Command) -> io::Result<(Self, Option<ChildStdin>)> {
        let mut child = start.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let out = child.stdout.take().map(|out| File::from(OwnedFd::from(out)));
        let err = child.stderr.take().map(|err| File::from(OwnedFd::from(err)));
        if let Some(out) = &out {
            // Refused: it holds less.
            let _ = rustix::pipe::fcntl_setpipe_size(out, PIPE);
        }
        let input = child.stdin.take();
        Ok((CommandStream { out, err, child: Some(child), line: Vec::new(), last: Vec::new() }, input))
    }

    /// Appends at most `most` bytes to `into`, waiting no longer than `wait` for the first.
    pub fn read(&mut self, into: &mut Vec<u8>, most: usize, wait: Duration, said: LineSink<'_>) -> io::Result<Came> {
        let (ready, _) = self.poll(wait, said)?;
        let Some(out) = &mut self.out else { return Ok(Came::End) };
        if !ready {
            return Ok(Came::Nothing);
        }
        let len = into.len();
        into.resize(len + most, 0);
        let read = rustix::io::read(&*out, into.get_mut(len..).unwrap_or_default());
        into.truncate(len + read.unwrap_or(0));
        match read {
            Ok(0) => {
                self.out = None;
                Ok(Came::End)
            }
            Ok(read) => Ok(Came::Bytes(read)),
            Err(Errno::INTR | Errno::AGAIN) => Ok(Came::Nothing),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits no longer than `wait` for the command to end. `None`: it has not. What was no command has ended well.
    pub fn ended(&mut self, wait: Duration, said: LineSink<'_>) -> io::Result<Option<ExitStatus>> {
        let until = Instant::now() + wait;
        loop {
            let Some(child) = &mut self.child else { return Ok(Some(ExitStatus::default())) };
            if let Some(status) = child.try_wait()? {
                self.child = None;
                while self.err.is_some() && self.poll(Duration::ZERO, said)?.1 {}
                self.end_line(said);
                return Ok(Some(status));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            match self.err.is_some() {
                true => drop(self.poll(left.min(LOOK), said)?),
                false => std::thread::sleep(left.min(LOOK)),
            }
        }
    }

    /// The number of its process group; `None` when it has ended, and of what is no command.
    pub(crate) fn group(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The last line of its standard error.
    pub(crate) fn last_line(&self) -> &[u8] {
        &self.last
    }

    /// Asks the command to end, and does not wait for it.
    pub(crate) fn ask(&self) {
        if let Some(group) = self.child.as_ref().and_then(|child| Pid::from_raw(child.id() as i32)) {
            // It has ended already: then there is nothing to be told.
            let _ = process::kill_process_group(group, Signal::TERM);
        }
    }

    /// Ends the command and its process group: asked first, killed when it takes longer than a few seconds.
    pub(crate) fn stop(&mut self) {
        self.out = None;
        let Some(mut child) = self.child.take() else { return };
        if let Some(group) = Pid::from_raw(child.id() as i32) {
            // It has ended already: then there is nothing to be told.
            let _ = process::kill_process_group(group, Signal::TERM);
            let until = Instant::now() + GRACE;
            // Until it is waited for, its number is nobody else's.
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            while matches!(process::waitid(WaitId::Pid(group), look), Ok(None)) && Instant::now() < until {
                std::thread::sleep(LOOK);
            }
            let _ = process::kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
    }

    /// Waits for something to be read: whether output is there, and whether standard error was.
    fn poll(&mut self, wait: Duration, said: LineSink<'_>) -> io::Result<(bool, bool)> {
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut files: Vec<PollFd<'_>> =
            self.out.iter().chain(&self.err).map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)).collect();
        match poll(&mut files, Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut ready = files.iter().map(|file| !file.revents().is_empty());
        let out = self.out.is_some() && ready.next().unwrap_or(false);
        let err = self.err.is_some() && ready.next().unwrap_or(false);
        if err {
            self.hear(said);
        }
        Ok((out, err))
    }

    fn hear(&mut self, said: LineSink<'_>) {
        let mut bytes = [0; 4096];
        let read = self.err.as_ref().map_or(Ok(0), |err| rustix::io::read(err, &mut bytes));
        match read {
            Ok(0) => self.err = None,
            Ok(read) => {
                for byte in bytes.get(..read).unwrap_or_default() {
                    if *byte != b'\n' {
                        self.line.push(*byte);
                    }
                    if *byte == b'\n' || self.line.len() >= LINE {
                        self.end_line(said);
                    }
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.err = None,
        }
    }

    fn end_line(&mut self, said: LineSink<'_>) {
        let line = std::mem::take(&mut self.line);
        let line = line.trim_ascii_end();
        if !line.is_empty() {
            said(line);
            self.last = line.to_vec();
        }
    }
}

impl Drop for CommandStream {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether nobody reads from the other end of this pipe any more.
pub(crate) fn is_closed(pipe: &impl AsFd) -> bool {
    let mut files = [PollFd::new(pipe, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut files, Some(&now)).is_ok() && files.iter().any(|file| file.revents().contains(PollFlags::ERR))
}

/// Why a command that ended like this failed; `None` for one that did not.
pub(crate) fn failure(status: ExitStatus) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("exit status {code}")),
        (None, Some(signal)) => Some(format!("killed by signal {signal}")),
        (None, None) => Some("it ended in an unknown way".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(100);

    fn shell(script: &str) -> CommandStream {
        CommandStream::start(&["sh".into(), "-c".into(), script.into()], &[("GIVEN".into(), "yes".into())]).expect("a shell")
    }

    fn all(flow: &mut CommandStream, lines: &mut Vec<String>) -> (Vec<u8>, ExitStatus) {
        let mut out = Vec::new();
        let mut said = |line: &[u8]| lines.push(String::from_utf8_lossy(line).into_owned());
        while flow.read(&mut out, 1000, WAIT, &mut said).expect("reading") != Came::End {}
        loop {
            if let Some(status) = flow.ended(WAIT, &mut said).expect("waiting") {
                return (out, status);
            }
        }
    }

    #[test]
    fn output_and_errors_come_apart() {
        let mut lines = Vec::new();
        let mut flow = shell("echo one; echo two >&2; echo $GIVEN; printf three >&2; exit 4");
        let (out, status) = all(&mut flow, &mut lines);
        assert_eq!((out.as_slice(), status.code()), (&b"one\nyes\n"[..], Some(4)));
        assert_eq!(lines, ["two", "three"]);
        assert_eq!((flow.last_line(), failure(status)), (&b"three"[..], Some("exit status 4".to_owned())));
        let (_, status) = all(&mut shell("kill -9 $$"), &mut lines);
        assert_eq!(failure(status), Some("killed by signal 9".to_owned()));
        assert!(CommandStream::start(&["/nonexistent/program".into()], &[]).is_err() && CommandStream::start(&[], &[]).is_err());
    }

    #[test]
    fn what_is_stopped_takes_its_children_with_it() {
        let mut flow = shell("sleep 1000 & echo $!; wait");
        let mut out = Vec::new();
        while !out.ends_with(b"\n") {
            flow.read(&mut out, 100, WAIT, &mut |_| {}).expect("reading");
        }
        let below: u32 = String::from_utf8_lossy(&out).trim().parse().expect("a number");
        assert!(super::process::test_kill_process(Pid::from_raw(below as i32).expect("a process")).is_ok());
        drop(flow);
        // Nobody may have waited for it yet; then it is a zombie, which has no start time here.
        while crate::sys::process::start_time(below).is_some() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_open_file_is_read_to_its_end() {
        let mut out = Vec::new();
        let mut flow = CommandStream::of(File::open("/dev/null").expect("a file"));
        assert_eq!(flow.read(&mut out, 10, WAIT, &mut |_| {}).expect("reading"), Came::End);
        assert!(flow.ended(WAIT, &mut |_| {}).expect("waiting").is_some_and(|status| status.success()));
    }
}
