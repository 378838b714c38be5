//! Bytes that a program writes, or that stand on standard input, read so that an import can be stopped at any time.

use std::io::{self, Read};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::import::stopped;
use crate::model::escape;
use crate::observe::Event;
use crate::sys::flow::{self, Came, CommandStream};
use crate::task::Task;

/// Bytes that are taken at once.
const PIECE: usize = 512 << 10;
/// How often a reader that nothing comes to looks whether it is still wanted.
const WAIT: Duration = Duration::from_millis(100);

/// A flow of bytes. What its program says on standard error is told.
pub(crate) struct FlowReader<'t> {
    flow: CommandStream,
    name: &'static str,
    task: &'t Task<'t>,
    held: Vec<u8>,
    at: usize,
    ended: bool,
    last: Vec<u8>,
}

impl<'t> FlowReader<'t> {
    /// Reads `flow`, whose program is called `name`.
    pub(crate) fn new(flow: CommandStream, name: &'static str, task: &'t Task<'t>) -> Self {
        FlowReader { flow, name, task, held: Vec::new(), at: 0, ended: false, last: Vec::new() }
    }

    /// Waits for the program to end. Errors: it failed to do `what`, by an exit status above `fine`.
    pub(crate) fn finish(mut self, what: &str, fine: i32) -> Result<()> {
        let name = self.name;
        let failed = |e| Error::io(format!("cannot read what {name} writes"), e);
        // What was not read would keep it from ending.
        while !self.ended {
            self.held.clear();
            if let Err(e) = self.fill() {
                return Err(if self.task.is_stopped() { stopped() } else { failed(e) });
            }
        }
        let status = loop {
            let said = &mut told(self.name, self.task, &mut self.last);
            match self.flow.ended(WAIT, said) {
                Ok(Some(status)) => break status,
                Ok(None) if self.task.is_stopped() => return Err(stopped()),
                Ok(None) => {}
                Err(e) => return Err(Error::io(format!("cannot wait for {}", self.name), e)),
            }
        };
        match flow::failure(status) {
            Some(how) if status.code().is_none_or(|code| code > fine) => {
                let last = escape(&self.last);
                let said = if last.is_empty() { String::new() } else { format!(": {last}") };
                Err(Error::new(ErrorKind::Corrupt, format!("{} could not {what} ({how}){said}", self.name)))
            }
            _ => Ok(()),
        }
    }

    /// An import that is stopped gets an error, which is not that of an interrupted call: readers would try again for ever.
    fn fill(&mut self) -> io::Result<()> {
        loop {
            if self.task.is_stopped() {
                return Err(io::Error::other("the import was stopped"));
            }
            let said = &mut told(self.name, self.task, &mut self.last);
            match self.flow.read(&mut self.held, PIECE, WAIT, said)? {
                Came::Bytes(_) => return Ok(()),
                Came::Nothing => {}
                Came::End => {
                    self.ended = true;
                    return Ok(());
                }
            }
        }
    }
}

/// Tells lines of a program's standard error, and remembers the last.
fn told<'a>(name: &'static str, task: &'a Task<'_>, last: &'a mut Vec<u8>) -> impl FnMut(&[u8]) + 'a {
    move |line| {
        *last = line.to_vec();
        task.observer.event(&Event::Note { subject: name.as_bytes(), message: &String::from_utf8_lossy(line) });
    }
}

impl Read for FlowReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.held.len() && !self.ended {
            self.held.clear();
            self.at = 0;
            self.fill()?;
        }
        let rest = self.held.get(self.at..).unwrap_or_default();
        let len = rest.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        self.at += len;
        Ok(len)
    }
}
