//! The way back of a set: streams into their commands, and steps.

use std::ffi::OsString;
use std::io::Write;
use std::process::ChildStdin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::jobs::config::check::words;
use crate::jobs::hooks::{Ended, HookRun, LIMIT, attend};
use crate::jobs::units;
use crate::jobs::watcher::InputWatcher;
use crate::model::{Content, Item};
use crate::observe::Event;
use crate::repo::tree::TreeReader;
use crate::sys::flow::CommandStream;
use crate::task::Task;

/// What commands of a restore are run with.
pub struct Back<'a> {
    /// Hears what they write, and ends them.
    pub task: &'a Task<'a>,
    /// Variables for them.
    pub variables: Vec<(OsString, OsString)>,
}

impl Back<'_> {
    /// Runs a step.
    pub fn step(&self, name: &str, command: &[String], timeout: Option<&str>) -> HookRun {
        let started = self.task.now();
        let result = self.run(name, command, timeout);
        HookRun { name: name.to_owned(), started, finished: self.task.now(), failure: result.err().map(|e| e.to_string()) }
    }

    fn run(&self, name: &str, command: &[String], timeout: Option<&str>) -> Result<()> {
        let limit = timeout.map_or(Ok(LIMIT), units::parse_wait).map_err(Error::invalid)?;
        let mut flow =
            CommandStream::start(&words(command), &self.variables).map_err(|e| Error::new(ErrorKind::Io, e.to_string()))?;
        self.follow(&mut flow, name, Some(limit))
    }

    fn follow(&self, flow: &mut CommandStream, name: &str, limit: Option<Duration>) -> Result<()> {
        let until = limit.map(|limit| Instant::now() + limit);
        let wanted = || match (self.task.is_stopped(), until) {
            (true, _) => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
            (_, Some(until)) if Instant::now() >= until => {
                let seconds = limit.unwrap_or_default().as_secs();
                Err(Error::new(ErrorKind::Io, format!("it took longer than {seconds} s, and was ended")))
            }
            _ => Ok(()),
        };
        let mut told = |line: &[u8]| {
            let message = String::from_utf8_lossy(line);
            self.task.observer.event(&Event::Note { subject: name.as_bytes(), message: &message });
        };
        attend(flow, &mut told, &wanted).map_err(|ended| match ended {
            Ended::Failed(how) => Error::new(ErrorKind::Io, how),
            Ended::Unwanted(e) => e,
        })
    }

    /// Gives a file of a snapshot to a command on its standard input.
    pub fn pour(&self, name: &str, command: &[String], trees: &TreeReader, content: &Content) -> HookRun {
        let started = self.task.now();
        let result = self.fed(name, command, trees, content);
        HookRun { name: name.to_owned(), started, finished: self.task.now(), failure: result.err().map(|e| e.to_string()) }
    }

    fn fed(&self, name: &str, command: &[String], trees: &TreeReader, content: &Content) -> Result<()> {
        let start = CommandStream::start_fed(&words(command), &self.variables);
        let (mut flow, input) = start.map_err(|e| Error::new(ErrorKind::Io, e.to_string()))?;
        // When the file cannot be read to its end, the command is ended before its input is: it must not take half of
        // the file for all of it.
        let broken = AtomicBool::new(false);
        let watcher = flow.group().map(|group| InputWatcher::start(group, &input)).transpose()?;
        let input = CommandInput { pipe: Some(input), watcher, broken: &broken };
        std::thread::scope(|scope| {
            let feeder = scope.spawn(|| input.write(trees, content, self.task));
            let followed = self.follow_fed(&mut flow, name, &broken);
            flow.stop();
            let written = feeder.join().unwrap_or_else(|_| Err(Error::panicked()));
            match (written, followed) {
                (Err(e), _) if broken.load(Ordering::Acquire) => Err(e),
                (_, Err(e)) => Err(e),
                (Err(_), Ok(())) => Err(Error::new(ErrorKind::Io, "it ended well, but did not read all of its input")),
                (Ok(()), Ok(())) => Ok(()),
            }
        })
    }

    fn follow_fed(&self, flow: &mut CommandStream, name: &str, broken: &AtomicBool) -> Result<()> {
        let mut told = |line: &[u8]| {
            let message = String::from_utf8_lossy(line);
            self.task.observer.event(&Event::Note { subject: name.as_bytes(), message: &message });
        };
        let wanted = || match self.task.is_stopped() || broken.load(Ordering::Acquire) {
            true => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
            false => Ok(()),
        };
        attend(flow, &mut told, &wanted).map_err(|ended| match ended {
            Ended::Failed(how) => Error::new(ErrorKind::Io, how),
            Ended::Unwanted(e) => e,
        })
    }
}

/// The standard input of a command.
struct CommandInput<'a> {
    pipe: Option<ChildStdin>,
    /// Holds it open, too.
    watcher: Option<InputWatcher>,
    broken: &'a AtomicBool,
}

impl CommandInput<'_> {
    fn write(mut self, trees: &TreeReader, content: &Content, task: &Task<'_>) -> Result<()> {
        let Some(mut pipe) = self.pipe.take() else { return Ok(()) };
        let mut closed = false;
        let result = each(trees, content, &mut |bytes| {
            task.go_on("interrupted")?;
            closed = pipe.write_all(bytes).is_err();
            if closed { Err(Error::new(ErrorKind::Io, "it does not read any more")) } else { Ok(()) }
        });
        if result.is_err() && !closed {
            self.broken.store(true, Ordering::Release);
            // Held open until the command is gone: its end is what the other side waits for.
            while matches!(pipe.write(&[]), Ok(0)) && !self.is_gone(&pipe) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        drop(pipe);
        drop(self.watcher.take());
        result
    }

    /// Whether nobody has the other end any more.
    fn is_gone(&self, pipe: &ChildStdin) -> bool {
        crate::sys::flow::is_closed(pipe)
    }
}

/// Gives the bytes of a file to `visit`, one chunk after another.
pub(crate) fn each(trees: &TreeReader, content: &Content, visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    if let Content::Inline(bytes) = content {
        return visit(bytes);
    }
    trees.items(content, 0, &mut |_, item| {
        match item {
            Item::Chunk { id, len } => visit(&trees.data(id, *len)?)?,
            Item::Hole { len } => {
                let mut left = *len;
                while left > 0 {
                    let now = left.min(ZEROS.len() as u64);
                    visit(ZEROS.get(..now as usize).unwrap_or_default())?;
                    left -= now;
                }
            }
        }
        Ok(true)
    })
}
