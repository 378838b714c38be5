//! The jobs of one repository: what is written down, in memory, and who may do what with it. Everything here blocks on the
//! disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch as channel;

use crate::error::Result;
use crate::model::SnapshotId;
use crate::model::id::{random_bytes, to_hex};
use crate::remote::control::{
    ClaimRequest, EndReport, Job, JobKind, JobOutcome, JobPage, JobProgress, JobStatus, MAX_MESSAGE, MAX_PAGE, NewJob,
    ProgressReport, cut, cut_steps, is_id,
};
use crate::remote::protocol::{Code, Refusal};
use crate::serve::api::hosts::Hosts;
use crate::serve::api::ledger::{JobEvent, JobMark, Ledger, Wish};
use crate::serve::objects::hosted::refuse;
use crate::serve::objects::in_turn;

/// The most jobs of one token that are kept. Of more the oldest that are over go.
const PER_TOKEN: usize = 10_000;
/// The most jobs of a repository.
const IN_ALL: usize = 50_000;

/// What is lost for so many milliseconds is over, and goes as the others do.
const LONG_LOST: i64 = 30 * 24 * 3600 * 1000;

/// What is known of a job.
#[derive(Debug)]
struct BoardEntry {
    wish: Wish,
    events: Vec<JobEvent>,
    progress: Option<JobProgress>,
    /// When its agent was last heard of; for one of before, when this server began.
    heard: Instant,
    /// The same in milliseconds since 1970; 0 for never.
    heard_at: i64,
    /// That was too long ago.
    lost: bool,
}

impl BoardEntry {
    fn new(wish: Wish, events: Vec<JobEvent>) -> Self {
        let lost = events.iter().any(|event| matches!(event.mark, JobMark::Lost));
        BoardEntry { wish, events, progress: None, heard: Instant::now(), heard_at: 0, lost }
    }

    fn claim(&self) -> Option<(&str, &str, &str)> {
        self.events.iter().find_map(|event| match &event.mark {
            JobMark::Claimed { agent, token, claim } => Some((agent.as_str(), token.as_str(), claim.as_str())),
            _ => None,
        })
    }

    fn has(&self, mark: fn(&JobMark) -> bool) -> bool {
        self.events.iter().any(|event| mark(&event.mark))
    }

    /// How it ended, as its agent or who cancelled it has said.
    fn ended(&self) -> Option<&JobEvent> {
        self.events.iter().find(|event| matches!(event.mark, JobMark::Ended { .. }))
    }

    /// Whether its agent was last heard of too long ago.
    fn is_lost(&self) -> bool {
        self.lost && self.ended().is_none()
    }

    /// Notes that its agent was heard of.
    fn hear(&mut self) {
        (self.heard, self.heard_at, self.lost) = (Instant::now(), now(), false);
    }

    fn status(&self) -> JobStatus {
        match self.ended().map(|event| &event.mark) {
            Some(JobMark::Ended { outcome: JobOutcome::Done, .. }) => JobStatus::Done,
            Some(JobMark::Ended { outcome: JobOutcome::Cancelled, .. }) => JobStatus::Cancelled,
            Some(_) => JobStatus::Failed,
            None if self.is_lost() || self.has(|mark| matches!(mark, JobMark::Damaged)) => JobStatus::Failed,
            None if self.claim().is_some() => JobStatus::Running,
            None => JobStatus::Queued,
        }
    }
}

/// What is asked for in a list.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobFilter {
    /// Only of this host.
    pub(crate) host: Option<String>,
    /// Only of this set.
    pub(crate) set: Option<String>,
    /// Only of this kind.
    pub(crate) kind: Option<JobKind>,
    /// Only in this state.
    pub(crate) state: Option<JobStatus>,
    /// Only what was asked for before this one.
    pub(crate) after: Option<String>,
    /// So many at most.
    pub(crate) limit: usize,
}

#[derive(Debug, Default)]
struct Jobs {
    all: BTreeMap<String, BoardEntry>,
    /// By the time they were asked for.
    order: BTreeSet<(i64, String)>,
    /// Those that nobody has taken, by host, and then likewise.
    queued: BTreeSet<(String, i64, String)>,
    running: BTreeSet<String>,
    /// Those that were taken, by token and claim.
    claims: BTreeMap<(String, String), String>,
    /// How many each token has asked for.
    counts: BTreeMap<String, usize>,
}

impl Jobs {
    /// The time of a new job, in milliseconds: later than that of the last one, so that two of one moment keep their order.
    fn next_time(&self) -> i64 {
        let now = now();
        // What is further ahead was written by a clock that was wrong.
        let last = self.order.range(..(now.saturating_add(1000), String::new())).next_back();
        last.map_or(now, |(at, _)| now.max(at.saturating_add(1)))
    }

    fn add(&mut self, id: String, entry: BoardEntry) {
        self.order.insert((entry.wish.at, id.clone()));
        *self.counts.entry(entry.wish.token.clone()).or_default() += 1;
        self.all.insert(id.clone(), entry);
        self.sort(&id);
    }

    /// Takes out a job that is over.
    fn remove(&mut self, id: &str) {
        let Some(entry) = self.all.remove(id) else { return };
        if let Some((_, token, claim)) = entry.claim() {
            self.claims.remove(&(token.to_owned(), claim.to_owned()));
        }
        if let Some(count) = self.counts.get_mut(&entry.wish.token) {
            *count -= 1;
        }
        self.counts.retain(|_, count| *count > 0);
        self.order.remove(&(entry.wish.at, id.to_owned()));
    }

    /// The oldest job that is over, of a token or of any.
    fn oldest(&self, token: Option<&str>) -> Option<String> {
        // One that is lost may still tell how it ended.
        let silent = |entry: &BoardEntry| entry.is_lost() && entry.wish.at > now().saturating_sub(LONG_LOST);
        let over = |entry: &BoardEntry| entry.status().is_over() && !silent(entry);
        let wanted = |entry: &BoardEntry| token.is_none_or(|token| entry.wish.token == token) && over(entry);
        self.order.iter().find(|(_, id)| self.all.get(id).is_some_and(wanted)).map(|(_, id)| id.clone())
    }

    /// Puts a job where its state belongs.
    fn sort(&mut self, id: &str) {
        let Some(entry) = self.all.get(id) else { return };
        if let Some((_, token, claim)) = entry.claim() {
            self.claims.insert((token.to_owned(), claim.to_owned()), id.to_owned());
        }
        let key = (entry.wish.job.host.clone(), entry.wish.at, id.to_owned());
        match entry.status() {
            JobStatus::Queued => drop(self.queued.insert(key)),
            _ => drop(self.queued.remove(&key)),
        }
        match entry.status() {
            JobStatus::Running => drop(self.running.insert(id.to_owned())),
            _ => drop(self.running.remove(id)),
        }
    }
}

/// The jobs of a repository.
#[derive(Debug)]
pub(crate) struct Board {
    ledger: Ledger,
    hosts: Hosts,
    jobs: Mutex<Jobs>,
    /// Who works with the jobs: the others wait for it without a thread.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The most jobs of one token, and in all.
    most: (usize, usize),
    silence: Duration,
    /// Counts what happens, for those who wait.
    changes: channel::Sender<u64>,
    /// Counts new jobs of each host, for agents that wait for one.
    wanted: Mutex<BTreeMap<String, channel::Sender<u64>>>,
}

/// Milliseconds since 1970.
fn now() -> i64 {
    let now = crate::sys::clock::now();
    now.secs.saturating_mul(1000).saturating_add(i64::from(now.nanos / 1_000_000))
}

fn time(at: i64) -> String {
    jiff::Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |time| time.to_string())
}

fn none(id: &str) -> Refusal {
    let id = crate::model::escape(cut(id.to_owned(), 64).as_bytes());
    Refusal::new(Code::NotFound, format!("there is no job {id} in this repository"))
}

fn conflict(text: impl Into<String>) -> Refusal {
    Refusal::new(Code::Conflict, text)
}

impl Board {
    /// Reads what is written down in a repository's directory.
    pub(crate) fn open(repository: &Path, silence: Duration) -> Result<Self> {
        let ledger = Ledger::of(repository);
        let mut jobs = Jobs::default();
        for (id, (wish, events)) in ledger.all()? {
            jobs.add(id, BoardEntry::new(wish, events));
        }
        let (jobs, changes, most) = (Mutex::new(jobs), channel::Sender::new(0), (PER_TOKEN, IN_ALL));
        let hosts = Hosts::of(repository);
        Ok(Board { ledger, hosts, jobs, turn: Arc::default(), most, silence, changes, wanted: Mutex::default() })
    }

    /// What agents have said of their hosts.
    pub(super) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Works with the jobs, off the threads that serve connections.
    pub(crate) async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Board) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let board = self.clone();
        in_turn(&self.turn, move || work(&board)).await
    }

    /// Hears of everything that happens.
    pub(crate) fn changes(&self) -> channel::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Hears of new jobs of a host.
    pub(crate) fn wanted(&self, host: &str) -> channel::Receiver<u64> {
        let mut wanted = self.wanted.lock();
        if let Some(sender) = wanted.get(host) {
            return sender.subscribe();
        }
        wanted.retain(|_, sender| sender.receiver_count() > 0);
        let sender = channel::Sender::new(0);
        let receiver = sender.subscribe();
        wanted.insert(host.to_owned(), sender);
        receiver
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Writes down what happened to a job. If somebody else has written first, this is read and the answer is false.
    fn mark(&self, jobs: &mut Jobs, id: &str, mark: JobMark) -> Result<bool, Refusal> {
        let entry = jobs.all.get_mut(id).ok_or_else(|| none(id))?;
        let event = JobEvent { at: now(), mark };
        let written = self.ledger.event(id, entry.events.len() + 1, &event).map_err(|e| refuse(&e))?;
        match written {
            true => {
                entry.lost |= matches!(event.mark, JobMark::Lost);
                entry.events.push(event);
            }
            false => entry.events = self.ledger.events(id).map_err(|e| refuse(&e))?,
        }
        jobs.sort(id);
        self.changed();
        Ok(written)
    }

    /// Notes agents that have not been heard of for too long.
    fn sweep(&self, jobs: &mut Jobs) {
        let silent = |id: &&String| jobs.all.get(*id).is_some_and(|entry| entry.heard.elapsed() >= self.silence);
        let lost: Vec<String> = jobs.running.iter().filter(silent).cloned().collect();
        for id in lost {
            if let Some(entry) = jobs.all.get_mut(&id).filter(|entry| entry.has(|mark| matches!(mark, JobMark::Lost))) {
                entry.lost = true;
                jobs.sort(&id);
                self.changed();
                continue;
            }
            match self.mark(jobs, &id, JobMark::Lost) {
                Ok(_) => tracing::warn!(job = id, "the agent of a job is not heard of any more"),
                // Then it is noted at the next look.
                Err(refusal) => tracing::error!(job = id, error = refusal.message, "cannot note that an agent is lost"),
            }
        }
    }

    /// Takes a new job; false beside it: it is an old one, which the same key has asked for before.
    pub(crate) fn create(&self, mut job: NewJob, key: Option<&str>, token: &str) -> Result<(Job, bool), Refusal> {
        job.check().map_err(|e| Refusal::new(Code::Invalid, e.to_string()))?;
        let jobs = &mut *self.jobs.lock();
        self.sweep(jobs);
        let id = match key {
            Some(key) => {
                let mut hasher = blake3::Hasher::new_derive_key("yester 2026 job of an idempotency key");
                hasher.update(token.as_bytes()).update(&[0]).update(key.as_bytes());
                hasher.finalize().to_hex()[..16].to_owned()
            }
            None => to_hex(&random_bytes::<8>().map_err(|e| refuse(&e))?),
        };
        if let Some(backup) = job.backup.clone()
            && !jobs.all.contains_key(&id)
        {
            job.snapshot = Some(made_by(jobs, &job, &backup)?);
        }
        if let Some(entry) = jobs.all.get(&id) {
            // What `backup` stood for is part of what was kept.
            let same = NewJob { snapshot: None, ..entry.wish.job.clone() } == NewJob { snapshot: None, ..job.clone() }
                && (job.backup.is_some() || entry.wish.job.snapshot == job.snapshot);
            return match same {
                true => Ok((view(&id, entry), false)),
                false => Err(Refusal::new(Code::Mismatch, "the Idempotency-Key was used before for another job: take a new one")),
            };
        }
        self.make_room(jobs, token)?;
        let wish = Wish { job, token: token.to_owned(), at: jobs.next_time() };
        if !self.ledger.wish(&id, &wish).map_err(|e| refuse(&e))? {
            return Err(conflict("somebody else has just asked for this job: ask again"));
        }
        let entry = BoardEntry::new(wish, Vec::new());
        let job = view(&id, &entry);
        jobs.add(id, entry);
        self.changed();
        if let Some(sender) = self.wanted.lock().get(&job.host) {
            sender.send_modify(|count| *count = count.wrapping_add(1));
        }
        Ok((job, true))
    }

    /// Makes room for one more job of a token.
    fn make_room(&self, jobs: &mut Jobs, token: &str) -> Result<(), Refusal> {
        let (of_token, in_all) = self.most;
        let oldest = if jobs.counts.get(token).is_some_and(|count| *count >= of_token) {
            jobs.oldest(Some(token)).ok_or_else(|| {
                let text = "jobs that are not over, the most it may have: cancel some, or start the agents";
                Refusal::new(Code::TooMany, format!("this token has {of_token} {text}"))
            })?
        } else if jobs.order.len() >= in_all {
            jobs.oldest(None).ok_or_else(|| {
                let text = "jobs that are not over, the most it may have: cancel some, or start the agents";
                Refusal::new(Code::Quota, format!("the repository has {in_all} {text}"))
            })?
        } else {
            return Ok(());
        };
        self.ledger.remove(&oldest).map_err(|e| refuse(&e))?;
        jobs.remove(&oldest);
        Ok(())
    }

    /// One job.
    pub(crate) fn job(&self, id: &str, is_there: &dyn Fn(SnapshotId) -> bool) -> Result<Job, Refusal> {
        let jobs = &mut *self.jobs.lock();
        self.sweep(jobs);
        jobs.all.get(id).map(|entry| judged(view(id, entry), is_there)).ok_or_else(|| none(id))
    }

    /// Jobs, the newest first.
    pub(crate) fn list(&self, filter: &JobFilter, is_there: &dyn Fn(SnapshotId) -> bool) -> Result<JobPage, Refusal> {
        let jobs = &mut *self.jobs.lock();
        self.sweep(jobs);
        let limit = filter.limit.clamp(1, MAX_PAGE);
        let end = match &filter.after {
            Some(after) => Some((jobs.all.get(after).ok_or_else(|| none(after))?.wish.at, after.clone())),
            None => None,
        };
        let range: Box<dyn Iterator<Item = &(i64, String)>> = match end {
            Some(end) => Box::new(jobs.order.range(..end).rev()),
            None => Box::new(jobs.order.iter().rev()),
        };
        let mut page = JobPage { jobs: Vec::new(), next: None };
        for (_, id) in range {
            let Some(entry) = jobs.all.get(id).filter(|entry| filter.wants(entry)) else { continue };
            // Before the disk is asked. What comes may be one that is not wanted: then the next page is empty.
            if page.jobs.len() == limit {
                page.next = page.jobs.last().map(|last| last.id.clone());
                break;
            }
            let job = judged(view(id, entry), is_there);
            if filter.state.is_none_or(|state| state == job.state) {
                page.jobs.push(job);
            }
        }
        Ok(page)
    }

    /// Ends a job, or asks its agent to.
    pub(crate) fn cancel(&self, id: &str, token: &str) -> Result<Job, Refusal> {
        let jobs = &mut *self.jobs.lock();
        self.sweep(jobs);
        loop {
            let entry = jobs.all.get(id).ok_or_else(|| none(id))?;
            let mark = match entry.status() {
                JobStatus::Queued => ended(JobOutcome::Cancelled),
                JobStatus::Running if !entry.has(|mark| matches!(mark, JobMark::Cancel { .. })) => {
                    JobMark::Cancel { token: token.to_owned() }
                }
                JobStatus::Running | JobStatus::Cancelled => return Ok(view(id, entry)),
                state => return Err(conflict(format!("job {id} is {} already: there is nothing to cancel", state.name()))),
            };
            self.mark(jobs, id, mark)?;
        }
    }

    /// The oldest job that an agent may take, if there is one: it is this agent's from now on.
    pub(crate) fn claim(&self, request: &ClaimRequest, token: &str) -> Result<Option<Job>, Refusal> {
        let jobs = &mut *self.jobs.lock();
        self.sweep(jobs);
        // The answer to an earlier request may not have come.
        let before = jobs.claims.get(&(token.to_owned(), request.claim.clone())).cloned();
        if let Some((id, entry)) = before.and_then(|id| jobs.all.get_mut(&id).map(|entry| (id, entry))) {
            entry.hear();
            let job = view(&id, entry);
            jobs.sort(&id);
            return Ok(Some(job));
        }
        loop {
            let fits = |id: &str| jobs.all.get(id).is_some_and(|entry| request.kinds.contains(&entry.wish.job.kind));
            let of_host = jobs.queued.range((request.host.clone(), i64::MIN, String::new())..);
            let mut of_host = of_host.take_while(|(host, ..)| *host == request.host);
            let Some((.., id)) = of_host.find(|(.., id)| fits(id)).cloned() else { return Ok(None) };
            let mark = JobMark::Claimed { agent: request.host.clone(), token: token.to_owned(), claim: request.claim.clone() };
            if self.mark(jobs, &id, mark)?
                && let Some(entry) = jobs.all.get_mut(&id)
            {
                entry.hear();
                return Ok(Some(view(&id, entry)));
            }
        }
    }

    /// The job that an agent has taken, which is heard of by this.
    fn taken<'a>(jobs: &'a mut Jobs, id: &str, claim: &str, token: &str) -> Result<&'a mut BoardEntry, Refusal> {
        let entry = jobs.all.get_mut(id).ok_or_else(|| none(id))?;
        if !entry.claim().is_some_and(|(_, of, word)| of == token && word == claim) {
            return Err(conflict(format!("job {id} was not taken with this token and this claim")));
        }
        entry.hear();
        jobs.sort(id);
        jobs.all.get_mut(id).ok_or_else(|| none(id))
    }

    /// Notes how far an agent is; whether it is to end.
    pub(crate) fn progress(&self, id: &str, report: ProgressReport, token: &str) -> Result<bool, Refusal> {
        let jobs = &mut *self.jobs.lock();
        let entry = Self::taken(jobs, id, &report.claim, token)?;
        if entry.ended().is_some() {
            return Err(conflict(format!("job {id} is over")));
        }
        let mut progress = report.progress;
        progress.message = progress.message.map(|text| cut(text, MAX_MESSAGE));
        progress.percent = progress.percent.filter(|percent| (0.0..=100.0).contains(percent));
        let is_new = entry.progress.as_ref() != Some(&progress);
        entry.progress = Some(progress);
        let cancel = entry.has(|mark| matches!(mark, JobMark::Cancel { .. }));
        if is_new {
            self.changed();
        }
        Ok(cancel)
    }

    /// Notes how a job ended. Said twice, it is the first that counts.
    pub(crate) fn end(&self, id: &str, report: EndReport, token: &str) -> Result<(), Refusal> {
        let jobs = &mut *self.jobs.lock();
        let snapshot = report.snapshot.map(|text| match SnapshotId::parse(&text).ok() {
            Some(_) => Ok(text),
            None => Err(Refusal::new(Code::Invalid, "snapshot must be the whole id of a snapshot")),
        });
        let mark = JobMark::Ended {
            outcome: report.outcome,
            message: report.message.map(|text| cut(text, MAX_MESSAGE)),
            snapshot: snapshot.transpose()?,
            size: report.size,
            added: report.added,
            exit_code: report.exit_code,
            next_steps: cut_steps(report.next_steps),
        };
        while Self::taken(jobs, id, &report.claim, token)?.ended().is_none() {
            self.mark(jobs, id, mark.clone())?;
        }
        Ok(())
    }
}

impl JobFilter {
    /// Whether it is in question, as far as that can be told without the disk.
    fn wants(&self, entry: &BoardEntry) -> bool {
        let (job, status) = (&entry.wish.job, entry.status());
        let state = self.state.map(|state| if state == JobStatus::Deleted { JobStatus::Done } else { state });
        state.is_none_or(|state| state == status)
            && self.host.as_ref().is_none_or(|host| *host == job.host)
            && self.set.as_ref().is_none_or(|set| job.set.as_ref() == Some(set))
            && self.kind.is_none_or(|kind| kind == job.kind)
    }
}

fn ended(outcome: JobOutcome) -> JobMark {
    JobMark::Ended { outcome, message: None, snapshot: None, size: None, added: None, exit_code: None, next_steps: Vec::new() }
}

/// The snapshot that a job made, which another is to restore.
fn made_by(jobs: &Jobs, job: &NewJob, backup: &str) -> Result<String, Refusal> {
    let entry = is_id(backup).then(|| jobs.all.get(backup)).flatten().ok_or_else(|| none(backup))?;
    if entry.wish.job.kind != JobKind::Ingest || entry.wish.job.set != job.set {
        return Err(Refusal::new(Code::Invalid, format!("job {backup} is no ingest of the set that is to be restored")));
    }
    match entry.ended().map(|event| &event.mark) {
        Some(JobMark::Ended { snapshot: Some(snapshot), .. }) => Ok(snapshot.clone()),
        _ => Err(conflict(format!("job {backup} has made no snapshot"))),
    }
}

/// A job as others see it.
fn view(id: &str, entry: &BoardEntry) -> Job {
    let NewJob { kind, host, set, snapshot, .. } = entry.wish.job.clone();
    let claimed = entry.events.iter().find(|event| matches!(event.mark, JobMark::Claimed { .. }));
    let last = entry.events.iter().map(|event| event.at).fold(entry.wish.at.max(entry.heard_at), i64::max);
    let (state, lost) = (entry.status(), entry.is_lost());
    let mut job = Job {
        id: id.to_owned(),
        kind,
        host,
        set,
        state,
        message: None,
        created_at: time(entry.wish.at),
        updated_at: time(last),
        started_at: claimed.map(|event| time(event.at)),
        finished_at: entry.ended().map(|event| time(event.at)),
        token: entry.wish.token.clone(),
        agent: entry.claim().map(|(agent, _, _)| agent.to_owned()),
        snapshot,
        size: None,
        added: None,
        exit_code: None,
        next_steps: Vec::new(),
        is_downloadable: false,
        cancel_requested: state == JobStatus::Running && entry.has(|mark| matches!(mark, JobMark::Cancel { .. })),
        lost,
        progress: entry.progress.clone().filter(|_| state == JobStatus::Running),
    };
    match entry.ended().map(|event| event.mark.clone()) {
        Some(JobMark::Ended { message, snapshot, size, added, exit_code, next_steps, .. }) => {
            (job.message, job.size, job.added, job.exit_code) = (message, size, added, exit_code);
            job.next_steps = next_steps;
            job.snapshot = snapshot.or(job.snapshot);
        }
        _ if lost => {
            job.message = Some("lost: its agent is not heard of any more, so nobody knows what became of it".to_owned());
        }
        _ if state == JobStatus::Failed => {
            job.message = Some("what happened to it cannot be read: its record is damaged".to_owned());
        }
        _ => job.message = job.progress.as_ref().and_then(|progress| progress.message.clone()),
    }
    job
}

/// Says of a job whose snapshot is gone that it is deleted.
fn judged(mut job: Job, is_there: &dyn Fn(SnapshotId) -> bool) -> Job {
    let made = job.snapshot.as_deref().filter(|_| job.kind == JobKind::Ingest && job.state == JobStatus::Done);
    if made.and_then(|text| SnapshotId::parse(text).ok()).is_some_and(|id| !is_there(id)) {
        job.state = JobStatus::Deleted;
    }
    job
}

#[cfg(test)]
mod tests;
