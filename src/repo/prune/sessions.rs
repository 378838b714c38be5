//! Other people's sessions: which live, and ending those that do not.
//!
//! A session may be fenced at any time without danger: its writer begins again. That prune leaves live ones alone is
//! courtesy (rule 9 of the protocol).

use crate::error::{Error, ErrorKind, Result};
use crate::format::snapshot::Session;
use crate::model::{SnapshotId, Timestamp, escape};
use crate::repo::{Repository, session};
use crate::storage::{Class, Name};
use crate::sys::process;

/// The open sessions. What one says is `Err` when it cannot be read; one that has ended meanwhile is left out.
pub fn open(repo: &Repository) -> Result<Vec<(SnapshotId, Result<Session>)>> {
    let mut out = Vec::new();
    for (name, _) in repo.storage().list(Class::Sessions)? {
        let Name::Session(id) = name else { continue };
        match session::read(repo, id) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            found => out.push((id, found)),
        }
    }
    out.sort_by_key(|(id, _)| *id);
    Ok(out)
}

/// Whether the writer is known to be gone.
fn is_gone(session: &Session) -> bool {
    process::is_gone(&session.host, &session.boot, session.pid, session.started)
}

/// What to do about sessions.
#[derive(Debug, Clone, Copy)]
pub struct Settle<'a> {
    /// End these even if they live.
    pub fence: &'a [SnapshotId],
    /// Only those that are older than one of these sentences: that do not name all of them (rule 1). `None`: all.
    pub older_than: Option<&'a [SnapshotId]>,
    /// The time, for the fences.
    pub now: Timestamp,
}

impl Settle<'_> {
    fn concerns(&self, session: &Result<Session>) -> bool {
        match (self.older_than, session) {
            (Some(sentences), Ok(session)) => sentences.iter().any(|id| !session.sentences.contains(id)),
            _ => true,
        }
    }

    /// The sessions that must be ended, all of which may be. A live one is [`ErrorKind::Busy`], and named.
    pub fn find(&self, repo: &Repository) -> Result<Vec<SnapshotId>> {
        let mut out = Vec::new();
        for (id, session) in open(repo)?.into_iter().filter(|(_, session)| self.concerns(session)) {
            let may = self.fence.contains(&id) || session.as_ref().is_ok_and(is_gone);
            if !may {
                return Err(busy(id, &session));
            }
            out.push(id);
        }
        Ok(out)
    }

    /// Ends them: each has a snapshot or a fence, durable, before its session goes (rule 4).
    pub fn settle(&self, repo: &Repository) -> Result<u64> {
        let found = self.find(repo)?;
        if !found.is_empty() {
            // What a killed writer left may be seen and not be durable; nobody will know any more that it was killed.
            repo.storage().sync_everything()?;
        }
        for id in &found {
            session::abandon(repo, *id, self.now)?;
        }
        Ok(found.len() as u64)
    }
}

fn busy(id: SnapshotId, session: &Result<Session>) -> Error {
    let who = match session {
        Ok(session) => {
            let since = jiff::Timestamp::from_second(session.time.secs).map(|time| time.to_string());
            let since = since.unwrap_or_else(|_| format!("@{}", session.time.secs));
            format!("of process {} on {}, since {since}", session.pid, escape(&session.host))
        }
        Err(e) => format!("that cannot be read ({e})"),
    };
    let short = id.short();
    let text = format!("session {short} {who}, is at work: wait until it ends, or end it with: yester prune --fence {short}");
    Error::new(ErrorKind::Busy, text)
}
