//! Sessions of other writers: which are alive, and ending the others.
//!
//! A session may be fenced at any time without danger: its writer begins again. That prune leaves live ones alone is
//! courtesy (rule 9 of docs/durability.md). Whether a writer lives is asked of its process, where that is one of this boot and
//! this namespace of processes; else it lives as long as it gives signs of life.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::format::snapshot::Session;
use crate::local::watch::{Moment, SessionWatch, StalledSession};
use crate::model::{SnapshotId, Timestamp, escape};
use crate::repo::small::{self, Small};
use crate::repo::{Repository, beat, parallel, session};
use crate::storage::{Class, Name};

/// Time between two looks at sessions that are waited for.
const PAUSE: Duration = Duration::from_millis(500);

/// The open sessions. What one says is `Err` when it cannot be read; one that has ended meanwhile is left out.
pub fn open(repo: &Repository) -> Result<Vec<(SnapshotId, Result<Session>)>> {
    Ok(list(repo)?.sessions)
}

/// What is in `sessions/`.
struct ListedSessions {
    sessions: Vec<(SnapshotId, Result<Session>)>,
    /// What nobody with the key made, and so is no session.
    made_up: Vec<Name>,
    /// The numbers of the signs of life of each, sorted.
    beats: HashMap<SnapshotId, Vec<u64>>,
}

impl ListedSessions {
    /// The number of the newest sign of life that is authentic; 0: there is none.
    fn newest(&self, repo: &Repository, id: SnapshotId) -> u64 {
        let beats = self.beats.get(&id).map(Vec::as_slice).unwrap_or_default();
        beats.iter().rev().copied().find(|number| beat::is_authentic(repo, id, *number).is_ok()).unwrap_or(0)
    }
}

/// Objects in `sessions/` that are not authentic, and the signs of life that belong to no session. The latter are removed
/// even if they are authentic: no writer depends on them.
pub(super) fn made_up(repo: &Repository) -> Result<Vec<Name>> {
    let ListedSessions { sessions, mut made_up, beats } = list(repo)?;
    let open: HashSet<SnapshotId> = sessions.into_iter().map(|(id, _)| id).collect();
    let lone = beats.into_iter().filter(|(id, _)| !open.contains(id));
    made_up.extend(lone.flat_map(|(id, numbers)| numbers.into_iter().map(move |number| Name::Beat(id, number))));
    Ok(made_up)
}

/// Reads everything in `sessions/`; what has ended meanwhile is left out. What is not authentic is told, once.
fn list(repo: &Repository) -> Result<ListedSessions> {
    let (mut ids, mut beats) = (Vec::new(), HashMap::<SnapshotId, Vec<u64>>::new());
    for (name, _) in repo.storage().list(Class::Sessions)? {
        match name {
            Name::Session(id) => ids.push(id),
            Name::Beat(id, number) => beats.entry(id).or_default().push(number),
            _ => {}
        }
    }
    ids.sort_unstable();
    let (mut sessions, mut ignored) = (Vec::new(), Vec::new());
    for (id, found) in ids.iter().zip(parallel::many(repo, &ids, |id| session::judge(repo, *id))) {
        match found? {
            Small::Sound(session) => sessions.push((*id, Ok(session))),
            Small::Newer(e, _) | Small::Damaged(_, e) => sessions.push((*id, Err(e))),
            Small::MadeUp(e) => ignored.push((Name::Session(*id), e)),
            Small::Gone => {}
        }
    }
    small::tell(repo, &ignored, "yester prune removes it");
    beats.values_mut().for_each(|numbers| numbers.sort_unstable());
    Ok(ListedSessions { sessions, made_up: ignored.into_iter().map(|(name, _)| name).collect(), beats })
}

/// How sessions are judged and waited for.
#[derive(Debug)]
pub(crate) struct SessionWait {
    /// How long others stood still.
    pub(crate) watch: SessionWatch,
    /// After this time without a sign of life a writer is dead that cannot be asked.
    pub(crate) dead_after: Duration,
    /// Ends the waiting.
    pub(crate) stop: Arc<AtomicBool>,
}

/// What to do about sessions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settle<'a> {
    /// End these even if they live.
    pub(crate) fence: &'a [SnapshotId],
    /// Only those that are older than one of these lists: that do not name all of them (rule 1). `None`: all.
    pub(crate) older_than: Option<&'a [SnapshotId]>,
    /// The time, for the fences.
    pub(crate) now: Timestamp,
    /// How they are judged.
    pub(crate) patience: &'a SessionWait,
    /// What is done about those that live.
    pub(crate) living: Living,
}

/// What is done about sessions that live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Living {
    /// They are an error.
    Refuse,
    /// They are waited for, until then.
    WaitUntil(Instant),
    /// They are left alone.
    Leave,
}

/// A session that is to be ended.
struct Dead {
    id: SnapshotId,
    session: Option<Session>,
    beats: Vec<u64>,
}

impl Settle<'_> {
    fn concerns(&self, session: &Result<Session>) -> bool {
        match (self.older_than, session) {
            (Some(lists), Ok(session)) => lists.iter().any(|id| !session.lists.contains(id)),
            _ => true,
        }
    }

    /// Looks whether the sessions that must be ended may be. A live one is [`ErrorKind::Busy`], and named.
    pub(super) fn find(&self, repo: &Repository) -> Result<()> {
        self.dead(repo).map(drop)
    }

    fn dead(&self, repo: &Repository) -> Result<Vec<Dead>> {
        let mut listed = list(repo)?;
        let foreign: Vec<(SnapshotId, u64)> = listed
            .sessions
            .iter()
            .filter(|(_, session)| session.as_ref().is_ok_and(|session| !session::identity(session).is_here()))
            .map(|(id, _)| (*id, listed.newest(repo, *id)))
            .collect();
        let still = self.patience.watch.look(&foreign, &Moment::now());
        let mut out = Vec::new();
        for (id, session) in std::mem::take(&mut listed.sessions).into_iter().filter(|(_, session)| self.concerns(session)) {
            let stands = still.get(&id);
            let is_dead = |session: &Session| {
                session::identity(session).is_gone() || stands.is_some_and(|still| still.time >= self.patience.dead_after)
            };
            if !self.fence.contains(&id) && !session.as_ref().is_ok_and(is_dead) {
                if self.living == Living::Leave {
                    continue;
                }
                return Err(self.busy(id, &session, stands));
            }
            out.push(Dead { id, session: session.ok(), beats: listed.beats.remove(&id).unwrap_or_default() });
        }
        Ok(out)
    }

    /// The same, and waits for live ones until the time that was given.
    fn wait(&self, repo: &Repository) -> Result<Vec<Dead>> {
        let mut told = None;
        loop {
            let e = match self.dead(repo) {
                Err(e) if e.kind() == ErrorKind::Busy => e,
                other => return other,
            };
            if self.patience.stop.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, "the prune was stopped while it waited"));
            }
            match self.living {
                Living::WaitUntil(until) if Instant::now() < until => {}
                _ => return Err(e),
            }
            let text = e.to_string();
            if told.as_ref() != Some(&text) {
                repo.reports().note("", format!("waiting: {text}"));
                told = Some(text);
            }
            thread::sleep(PAUSE);
        }
    }

    /// Ends them: each has a snapshot or a fence, durable, before its session goes (rule 4). What its writer left of
    /// objects that it did not finish goes in between: nobody will know any more whose it was.
    pub(super) fn settle(&self, repo: &Repository) -> Result<u64> {
        let found = self.wait(repo)?;
        if !found.is_empty() {
            // What a killed writer left may be seen and not be durable; nobody will know any more that it was killed.
            repo.storage().sync_everything()?;
        }
        for dead in &found {
            session::fence(repo, dead.id, self.now)?;
            if let Some(session) = &dead.session {
                repo.storage().leftovers_of(&session::identity(session))?;
            }
            for number in &dead.beats {
                repo.storage().delete(&Name::Beat(dead.id, *number))?;
            }
            session::end(repo, dead.id)?;
        }
        self.drop_lone_beats(repo)?;
        Ok(found.len() as u64)
    }

    /// Deletes signs of life of sessions that have ended: their writer was stopped in between.
    fn drop_lone_beats(&self, repo: &Repository) -> Result<()> {
        let listed = repo.storage().list(Class::Sessions)?;
        for (name, _) in listed {
            if let Name::Beat(id, _) = name
                && session::has_ended(repo, id)?
            {
                repo.storage().delete(&name)?;
            }
        }
        Ok(())
    }

    fn busy(&self, id: SnapshotId, session: &Result<Session>, still: Option<&StalledSession>) -> Error {
        let who = match session {
            Ok(session) => {
                let (pid, host, since) = (session.pid, escape(&session.host), shown(session.time));
                format!("of process {pid} on {host}, since {since}")
            }
            Err(e) => format!("that cannot be read ({e})"),
        };
        let what = match still {
            Some(StalledSession { since, .. }) => {
                let dead = since.secs.saturating_add(i64::try_from(self.patience.dead_after.as_secs()).unwrap_or(i64::MAX));
                let dead = shown(Timestamp { secs: dead, nanos: 0 });
                format!(
                    "may be at work: it has given no new sign of life since {}, and counts as dead from {dead} on",
                    shown(*since)
                )
            }
            None => "is at work".to_owned(),
        };
        let short = id.short();
        let text = format!(
            "session {short} {who}, {what}: wait until it ends (--wait 30m), or end it with: yester prune --fence {short}"
        );
        Error::new(ErrorKind::Busy, text)
    }
}

fn shown(time: Timestamp) -> String {
    jiff::Timestamp::from_second(time.secs).map_or_else(|_| format!("@{}", time.secs), |time| time.to_string())
}
