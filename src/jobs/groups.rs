//! Taking part in a group, and following one. Nobody coordinates: whoever looks decides what can be decided, and of all
//! who do, the first one has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::jobs::runs;
use crate::model::{GroupEntry, GroupPart, GroupRound, GroupSlot, GroupStep, SnapshotId, escape};
use crate::repo::Repository;
use crate::repo::groups::state::{self, GroupView, POLL, SLOWEST, Waited};
use crate::repo::groups::{self, GroupEntries, GroupReader};
use crate::sys::clock::now;

/// How long what cannot be read is asked for again, beyond the limit of a wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// What this host and user say now.
pub fn saying(slot: GroupSlot) -> GroupEntry {
    let (host, user) = runs::who();
    GroupEntry { slot, time: now(), host, user, ..GroupEntry::default() }
}

/// Opens a round; answers its id.
pub fn open(repo: &Repository, round: GroupRound) -> Result<SnapshotId> {
    let id = SnapshotId::random()?;
    groups::say(repo, id, &GroupEntry { round: Some(round), ..saying(GroupSlot::of_round(GroupStep::Round)) })?;
    Ok(id)
}

/// Follows one group. Its limits are counted by this machine's clock, from when something was first seen.
pub struct GroupWatch {
    repo: Arc<Repository>,
    id: SnapshotId,
    reader: GroupReader,
    records: GroupEntries,
    round_seen: Instant,
    begin_seen: Option<Instant>,
    news_seen: Instant,
}

impl GroupWatch {
    /// Begins to follow a group.
    pub fn new(repo: &Arc<Repository>, id: SnapshotId) -> Result<Self> {
        let now = Instant::now();
        let mut watch = GroupWatch {
            repo: repo.clone(),
            id,
            reader: GroupReader::default(),
            records: GroupEntries::new(),
            round_seen: now,
            begin_seen: None,
            news_seen: now,
        };
        watch.read()?;
        Ok(watch)
    }

    /// Reads what is new.
    fn read(&mut self) -> Result<()> {
        self.reader.refresh(&self.repo, Some(self.id))?;
        let records = self.reader.of(self.id);
        if records.len() != self.records.len() {
            self.news_seen = Instant::now();
        }
        self.records = records;
        if self.begin_seen.is_none() && self.records.contains_key(&GroupSlot::of_round(GroupStep::Begin)) {
            self.begin_seen = Some(Instant::now());
        }
        Ok(())
    }

    /// How it stands, by what was read last.
    pub fn view(&self) -> Result<GroupView> {
        state::view(&self.records).ok_or_else(|| {
            let text = format!("nothing can be read of the round of group {}: open another one", self.id.short());
            Error::new(ErrorKind::NotFound, text)
        })
    }

    /// What was said in one place.
    pub fn said(&self, slot: GroupSlot) -> Option<&GroupEntry> {
        self.records.get(&slot)
    }

    /// Reads what is new, decides what can be decided, and answers how it stands.
    pub fn look(&mut self) -> Result<GroupView> {
        self.read()?;
        let waited = Waited {
            round: self.round_seen.elapsed(),
            begin: self.begin_seen.map(|seen| seen.elapsed()).unwrap_or_default(),
            news: self.news_seen.elapsed(),
        };
        if let Some(decision) = state::decide(&self.records, waited) {
            groups::say(&self.repo, self.id, &with(saying(decision.slot), decision))?;
            self.read()?;
        }
        self.view()
    }

    /// How long until it is worth to look again.
    fn gap(&self) -> Duration {
        state::gap(&self.records, self.news_seen.elapsed())
    }

    /// How long a repository that cannot be asked is asked again: for as long as members do.
    fn patience(&self) -> Duration {
        let limit = self.view().map(|view| Duration::from_millis(view.round.limit)).unwrap_or_default();
        limit.saturating_add(PATIENCE.min(limit))
    }

    /// Looks again and again, until the group is over or `limit` has passed; `told` sees each state. What cannot be asked is
    /// asked again, for as long as the members of the group do that.
    pub fn wait(&mut self, limit: Option<Duration>, stop: &AtomicBool, told: &mut dyn FnMut(&GroupView)) -> Result<GroupView> {
        let (began, mut asked) = (Instant::now(), Instant::now());
        loop {
            let is_late = || limit.is_some_and(|limit| began.elapsed() >= limit);
            match self.look() {
                Ok(view) => {
                    asked = Instant::now();
                    told(&view);
                    if view.over {
                        return Ok(view);
                    }
                    if is_late() {
                        let text = format!("the group is still {} (yester group status {})", view.state.word(), self.id.short());
                        return Err(Error::new(ErrorKind::Busy, text));
                    }
                }
                Err(e) if e.kind() == ErrorKind::Corrupt || is_late() || asked.elapsed() >= self.patience() => return Err(e),
                Err(_) => {}
            }
            pause(stop, limit.map_or(SLOWEST, |limit| limit.saturating_sub(began.elapsed())).min(self.gap()))?;
        }
    }
}

/// A decision by whoever says it.
fn with(saying: GroupEntry, decision: GroupEntry) -> GroupEntry {
    GroupEntry { goes_on: decision.goes_on, members: decision.members, message: decision.message, ..saying }
}

fn given_up(why: &[u8]) -> Error {
    Error::new(ErrorKind::Io, format!("the group was given up: {}", escape(why)))
}

fn pause(stop: &AtomicBool, gap: Duration) -> Result<()> {
    let until = Instant::now() + gap;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted while it waited for others of the group"));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(POLL));
    }
}

/// One member of a group: this process.
pub struct GroupMember {
    watch: Mutex<GroupWatch>,
    round: GroupRound,
    member: u16,
    joined: AtomicBool,
    stop: Arc<AtomicBool>,
}

impl GroupMember {
    /// Takes the part of the member of this name in a group of this kind. Nothing is said yet.
    pub fn new(repo: &Arc<Repository>, id: SnapshotId, (kind, name): (u64, &[u8]), stop: &Arc<AtomicBool>) -> Result<Self> {
        let watch = GroupWatch::new(repo, id)?;
        let view = watch.view()?;
        let short = id.short();
        if view.round.kind != kind {
            let is = if kind == GroupRound::INGEST { "a restore, and takes no snapshots" } else { "no restore" };
            return Err(Error::invalid(format!("group {short} is {is} (see: yester group status {short})")));
        }
        let Some(member) = view.round.member(name) else {
            let names: Vec<String> = view.round.members.iter().map(|name| escape(name)).collect();
            let text = format!("group {short} expects no member {}: name one with --member ({})", escape(name), names.join(", "));
            return Err(Error::invalid(text));
        };
        let out = GroupMember {
            watch: Mutex::new(watch),
            round: view.round,
            member,
            joined: AtomicBool::new(false),
            stop: stop.clone(),
        };
        if out.watch.lock().records.keys().any(|slot| slot.step.is_of_member() && slot.member == member) {
            return Err(out.is_taken());
        }
        if view.over {
            return Err(Error::new(ErrorKind::Exists, format!("group {short} is over: open another one (yester group create)")));
        }
        Ok(out)
    }

    fn is_taken(&self) -> Error {
        let watch = self.watch.lock();
        let said = watch.said(GroupSlot::of_member(self.member, GroupStep::Joined));
        let by = said.map(|record| format!(" by {}", escape(&record.host))).unwrap_or_default();
        let text = format!("{} has been taken{by} in group {}: each member takes part once", self.name(), watch.id.short());
        Error::new(ErrorKind::Exists, text)
    }

    fn name(&self) -> String {
        self.round.members.get(usize::from(self.member)).map(|name| escape(name)).unwrap_or_default()
    }

    /// What the round is of.
    pub fn round(&self) -> &GroupRound {
        &self.round
    }

    /// What its snapshot says of the group.
    pub fn part(&self) -> GroupPart {
        let member = self.round.members.get(usize::from(self.member)).cloned().unwrap_or_default();
        GroupPart { group: self.watch.lock().id, member }
    }

    /// Of a restore: the part that it takes.
    pub fn restores(&self) -> &[u8] {
        self.round.parts.get(usize::from(self.member)).map(Vec::as_slice).unwrap_or_default()
    }

    fn put(&self, record: GroupEntry) -> Result<GroupEntry> {
        let watch = self.watch.lock();
        groups::say(&watch.repo, watch.id, &record)
    }

    fn saying(&self, step: GroupStep) -> GroupEntry {
        saying(GroupSlot::of_member(self.member, step))
    }

    /// Joins. Of two who want to be the same member, one does.
    pub fn join(&self) -> Result<()> {
        let nonce = Some(SnapshotId::random()?);
        let said = self.put(GroupEntry { nonce, ..self.saying(GroupStep::Joined) })?;
        self.watch.lock().read()?;
        match said.nonce == nonce {
            true => self.joined.store(true, Ordering::Relaxed),
            false => return Err(self.is_taken()),
        }
        Ok(())
    }

    /// Says that it has come so far.
    pub fn say(&self, step: GroupStep) -> Result<()> {
        self.put(self.saying(step)).map(drop)
    }

    /// Says that it goes on, and how long it stood still.
    pub fn thawed(&self, still: Duration) -> Result<()> {
        let still = u64::try_from(still.as_millis()).unwrap_or(u64::MAX);
        self.put(GroupEntry { still, ..self.saying(GroupStep::Thawed) }).map(drop)
    }

    /// Says that its part is there, and looks whether that was the last one.
    pub fn done(&self, snapshot: SnapshotId, errors: u64) -> Result<()> {
        self.put(GroupEntry { snapshot: Some(snapshot), errors, ..self.saying(GroupStep::Done) })?;
        // Whoever looks next sees it as well.
        let _ = self.watch.lock().look();
        Ok(())
    }

    /// Says that its part will not come. Whoever is another member of the same name says nothing.
    pub fn failed(&self, why: &str) -> Result<()> {
        let joined = GroupSlot::of_member(self.member, GroupStep::Joined);
        if !self.joined.load(Ordering::Relaxed) {
            let mut watch = self.watch.lock();
            // The other one may have come since this was read.
            watch.read()?;
            if watch.said(joined).is_some() {
                return Ok(());
            }
        }
        self.put(GroupEntry { message: why.as_bytes().to_vec(), ..self.saying(GroupStep::Failed) })?;
        let _ = self.watch.lock().look();
        Ok(())
    }

    /// Waits for a decision, and for no longer than this member's own limit. An error if the others go on without it.
    pub fn wait_for(&self, step: GroupStep) -> Result<()> {
        let decision = self.decision(step)?;
        match decision.goes_on {
            true if decision.members.contains(&self.member) => Ok(()),
            true => Err(Error::new(ErrorKind::Io, "this member was too late: the others of the group went on without it")),
            false => Err(given_up(&decision.message)),
        }
    }

    /// Waits for a decision.
    pub fn decision(&self, step: GroupStep) -> Result<GroupEntry> {
        let limit = match step {
            GroupStep::Barrier => state::barrier_limit(&self.round),
            _ => Duration::from_millis(self.round.limit),
        };
        let began = Instant::now();
        loop {
            let mut watch = self.watch.lock();
            let looked = watch.look();
            if let Some(record) = watch.said(GroupSlot::of_round(step)) {
                return Ok(record.clone());
            }
            let gap = watch.gap();
            drop(watch);
            match looked {
                // The decision cannot be made, or read, by anybody.
                Err(e) if e.kind() == ErrorKind::Corrupt => return Err(e),
                // The others may wait for this one for as long as it does for them.
                Err(e) if began.elapsed() >= limit.saturating_add(PATIENCE.min(limit)) => {
                    return Err(e.context("the others of the group could not be asked in time"));
                }
                Ok(view) if view.over => return Err(given_up(&view.message)),
                _ => pause(&self.stop, gap)?,
            }
        }
    }

    /// Of a restore: says that this member has exchanged, and waits for what is decided. If it cannot be told, or waits for
    /// no longer, it decides that all take back what they exchanged, unless somebody has decided before it: then that counts.
    /// An error if not even that can be said or read.
    pub fn exchanged(&self) -> Result<GroupEntry> {
        let verdict = self.say(GroupStep::Cut).and_then(|()| self.decision(GroupStep::Verdict));
        verdict.or_else(|e| {
            let unknown = "it is not known whether the others keep what they exchanged (yester group status on one of them)";
            match self.give_up(&e).map_err(|e| e.context(unknown))? {
                verdict if verdict.goes_on => Ok(verdict),
                _ => Err(e),
            }
        })
    }

    /// Decides that nothing stays of a restore, unless it is decided; answers what is.
    fn give_up(&self, why: &Error) -> Result<GroupEntry> {
        let message = format!("{} does not wait any longer: {why}", self.name()).into_bytes();
        self.put(GroupEntry { message, ..saying(GroupSlot::of_round(GroupStep::Verdict)) })
    }
}
