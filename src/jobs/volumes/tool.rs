//! Running the tools of file systems: each with a limit of time, and what they say believed no further than it must be.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::model::escape;
use crate::observe::{Event, Observer};
use crate::sys::flow::{self, Came, CommandStream};

/// How long a tool may take.
const LIMIT: Duration = Duration::from_secs(600);
/// How often a tool that says nothing is looked after.
const WAIT: Duration = Duration::from_millis(50);
/// The most that is read of a tool's answer at once, and in all.
const PIECE: usize = 16 << 10;
const LONGEST: usize = 16 << 20;

/// Runs tools, and says what happens.
#[derive(Clone)]
pub(super) struct VolumeTools {
    observer: Arc<dyn Observer>,
    stop: Arc<AtomicBool>,
}

/// Whether an interruption ends a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ToolKind {
    /// It makes or looks for something.
    Makes,
    /// It takes something away: that comes to its end.
    Removes,
}

impl VolumeTools {
    /// Tools that are ended when `stop` is set.
    pub(super) fn new(observer: Arc<dyn Observer>, stop: Arc<AtomicBool>) -> Self {
        VolumeTools { observer, stop }
    }

    /// Runs a tool (its name and arguments), and answers what it writes. An error says which one it was, and why it failed.
    pub(super) fn run<W: AsRef<OsStr>>(&self, kind: ToolKind, command: &[W]) -> Result<Vec<u8>> {
        let words: Vec<_> = command.iter().map(|word| word.as_ref().to_owned()).collect();
        let shown = words.iter().take(2).map(|word| escape(word.as_encoded_bytes())).collect::<Vec<_>>().join(" ");
        let failed = |how: String| Error::new(ErrorKind::Io, format!("{shown}: {how}"));
        let started = CommandStream::start(&words, &[("LC_ALL".into(), "C".into())]);
        let mut flow = started.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => failed(format!("the program is not there: {}", package(&words))),
            _ => failed(e.to_string()),
        })?;
        let (mut out, until, mut quiet) = (Vec::new(), Instant::now() + LIMIT, |_: &[u8]| {});
        let wanted = || {
            if kind == ToolKind::Makes && self.stop.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
            }
            match Instant::now() < until {
                true => Ok(()),
                false => Err(failed(format!("it took longer than {} s, and was ended", LIMIT.as_secs()))),
            }
        };
        while flow.read(&mut out, PIECE, WAIT, &mut quiet).map_err(|e| failed(e.to_string()))? != Came::End {
            wanted()?;
            if out.len() > LONGEST {
                return Err(failed("it does not stop to write, and was ended".to_owned()));
            }
        }
        loop {
            if let Some(status) = flow.ended(WAIT, &mut quiet).map_err(|e| failed(e.to_string()))? {
                let said = if flow.last_line().is_empty() { String::new() } else { format!(": {}", escape(flow.last_line())) };
                return flow::failure(status).map_or(Ok(out), |how| Err(failed(format!("{how}{said}"))));
            }
            wanted()?;
        }
    }

    /// Says something of a path.
    pub(super) fn note(&self, subject: &[u8], message: &str) {
        self.observer.event(&Event::Note { subject, message });
    }

    /// Says what went wrong with a path.
    pub(super) fn warn(&self, subject: &[u8], message: &str) {
        self.observer.event(&Event::Warning { subject, message });
    }
}

/// What has to be installed for a tool.
fn package(words: &[std::ffi::OsString]) -> &'static str {
    match words.first().map(|word| word.as_encoded_bytes()).unwrap_or_default() {
        b"btrfs" => "install btrfs-progs",
        b"zfs" => "install zfsutils-linux",
        b"mount" | b"umount" => "install mount",
        _ => "install lvm2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Silent;

    #[test]
    fn tools_fail_with_their_names_and_reasons() {
        let stop = Arc::new(AtomicBool::new(false));
        let tools = VolumeTools::new(Arc::new(Silent), stop.clone());
        let run = |kind, words: &[&str]| {
            tools.run(kind, words).map(|out| String::from_utf8_lossy(&out).into_owned()).map_err(|e| e.to_string())
        };
        assert_eq!(run(ToolKind::Makes, &["sh", "-c", "echo $LC_ALL"]), Ok("C\n".to_owned()));
        let failed = run(ToolKind::Makes, &["sh", "-c", "echo no space >&2; exit 5"]).unwrap_err();
        assert_eq!(failed, "sh -c: exit status 5: no space");
        let missing = run(ToolKind::Makes, &["/nonexistent/btrfs", "x"]).unwrap_err();
        assert!(missing.contains("the program is not there"), "{missing}");
        assert!(run(ToolKind::Makes, &["yes"]).unwrap_err().contains("does not stop"));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(run(ToolKind::Makes, &["sleep", "1000"]).unwrap_err(), "interrupted");
        assert_eq!(run(ToolKind::Removes, &["sh", "-c", "sleep 0.2; echo done"]), Ok("done\n".to_owned()));
    }
}
