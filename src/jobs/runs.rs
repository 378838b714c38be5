//! A run while it goes on: what it says is kept for its end.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::format::run::{MAX_LOG, MAX_STEPS};
use crate::jobs::hooks::HookRun;
use crate::model::{Run, RunStep, SnapshotId, Timestamp, escape};
use crate::observe::{Event, Observer};
use crate::repo::{Repository, runs, session};
use crate::storage::{Class, Name};
use crate::sys::clock::now;
use crate::sys::{process, users};

/// An observer that keeps the end of what is said, and passes everything on.
pub struct Logged {
    inner: Arc<dyn Observer>,
    lines: Mutex<(VecDeque<String>, usize)>,
}

impl Logged {
    /// Passes on to `inner`.
    pub fn new(inner: Arc<dyn Observer>) -> Self {
        Logged { inner, lines: Mutex::default() }
    }

    /// Keeps a line.
    pub(crate) fn line(&self, line: String) {
        let (lines, len) = &mut *self.lines.lock();
        *len += line.len() + 1;
        lines.push_back(line);
        while *len > MAX_LOG {
            *len -= lines.pop_front().map_or(*len, |first| first.len() + 1);
        }
    }

    /// The last lines.
    pub fn text(&self) -> Vec<u8> {
        let lines = self.lines.lock();
        lines.0.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect()
    }
}

impl Observer for Logged {
    fn event(&self, event: &Event<'_>) {
        let line = match event {
            Event::Warning { subject, message } => Some(format!("warning: {}: {}", escape(subject), escape(message.as_bytes()))),
            Event::Note { subject, message } => Some(format!("{}: {}", escape(subject), escape(message.as_bytes()))),
            Event::Damage { object, message } => Some(format!("damage: {object}: {}", escape(message.as_bytes()))),
            _ => None,
        };
        if let Some(line) = line {
            self.line(line);
        }
        self.inner.event(event);
    }

    fn wants_entries(&self) -> bool {
        self.inner.wants_entries()
    }
}

/// A writer that is gone without a word, on this host: killed, or lost with its machine.
#[derive(Debug)]
pub struct LostWriter {
    /// The snapshot that it would have committed.
    pub id: SnapshotId,
    /// Its host.
    pub host: Vec<u8>,
    /// Its process.
    pub pid: u32,
    /// When it began.
    pub began: Timestamp,
}

/// Writers that are known here to be gone without having ended their sessions: of their runs nothing was written down. They
/// are seen until the next prune.
pub fn lost(repo: &Repository) -> Result<Vec<LostWriter>> {
    let mut out = Vec::new();
    for (name, _) in repo.storage().list(Class::Sessions)? {
        let Name::Session(id) = name else { continue };
        // One that has ended meanwhile, or is damaged, tells nothing of a run.
        let Ok(found) = session::read(repo, id) else { continue };
        let identity = session::identity(&found);
        if identity.is_gone() {
            out.push(LostWriter { id, host: identity.host, pid: identity.pid, began: found.time });
        }
    }
    out.sort_by_key(|lost| lost.began);
    Ok(out)
}

/// This host and this user, for what is written of who did something.
pub fn who() -> (Vec<u8>, Vec<u8>) {
    let user = users::user_name(process::user()).unwrap_or_else(|| process::user().to_string().into_bytes());
    (process::host_name(), user)
}

/// A run of `kind` that begins now.
pub fn begin(kind: u64) -> Run {
    let (host, user) = who();
    let program = format!("yester {}", env!("CARGO_PKG_VERSION")).into_bytes();
    Run { kind, host, user, started: now(), program, ..Run::default() }
}

/// Sets how it ended: with this error.
pub fn failed(run: &mut Run, error: &Error) {
    run.state = if error.kind() == ErrorKind::Interrupted { Run::INTERRUPTED } else { Run::FAILED };
    run.message = error.to_string().into_bytes();
}

/// Hooks as steps.
pub fn steps(steps: Vec<HookRun>) -> Vec<RunStep> {
    let step = |step: HookRun| RunStep {
        name: step.name.into_bytes(),
        started: step.started,
        finished: step.finished,
        failure: step.failure.unwrap_or_default().into_bytes(),
    };
    steps.into_iter().take(MAX_STEPS).map(step).collect()
}

/// Records that it has ended. A client that may only read cannot record it, which is no error.
pub fn end(repo: &Repository, run: Run) -> Result<()> {
    let requests = repo.storage().requests();
    runs::write(repo, &Run { finished: now(), requests, ..run }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Silent;

    #[test]
    fn the_end_of_a_log_is_kept() {
        let logged = Logged::new(Arc::new(Silent));
        logged.event(&Event::Note { subject: b"hook before", message: "first" });
        assert_eq!(logged.text(), b"hook before: first\n");
        (0..100_000).for_each(|n| logged.event(&Event::Warning { subject: b"/x", message: &n.to_string() }));
        let text = logged.text();
        assert!(text.len() <= MAX_LOG && text.ends_with(b"warning: /x: 99999\n") && !text.starts_with(b"hook"));
    }
}
