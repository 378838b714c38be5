//! Who watches over a command that is being fed when this process is killed: the end of its input would be the end of half a
//! file for it, and half a dump would be committed.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::error::{IoContext, Result};

/// Waits for a line. If there is none until the end, whoever should have written it is gone, and the process group is killed.
/// All the time the input of that is open, as this process' output.
const SCRIPT: &str = "read -r done || kill -s KILL -- \"-$1\"";

/// A process that kills a command if this one ends without having given it all of its input.
#[derive(Debug)]
pub(crate) struct InputWatcher(Child);

impl InputWatcher {
    /// Watches over the process group `group`, whose input is `input`.
    pub(crate) fn start(group: u32, input: &ChildStdin) -> Result<Self> {
        let what = || "cannot watch over the command".to_owned();
        let held = input.as_fd().try_clone_to_owned().at(what)?;
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh", &group.to_string()]).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::from(held)).stderr(Stdio::null());
        Ok(InputWatcher(command.spawn().at(what)?))
    }
}

impl Drop for InputWatcher {
    fn drop(&mut self) {
        // Where it is gone already, nothing has to be told.
        let _ = self.0.stdin.take().map(|mut line| line.write_all(b"\n"));
        let _ = self.0.wait();
    }
}
