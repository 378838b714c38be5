//! The job API: what a client and a server say to each other about jobs (docs/api.md).

pub mod client;
pub mod report;

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Error, Result};
use crate::remote::control::report::ReportedSet;
use crate::remote::protocol::{Code, Refusal};

/// What all paths of the API begin with.
pub(crate) const ROOT: &str = "/api/v1";
/// The header that makes a repeat of a request the same job, as long as that is kept.
pub(crate) const IDEMPOTENCY: &str = "idempotency-key";
/// The longest body of a request, in bytes.
pub(crate) const MAX_BODY: usize = 16 << 10;
/// The longest message of a job, in bytes.
pub(crate) const MAX_MESSAGE: usize = 1 << 10;
/// The most bytes of the next steps of a job.
pub(crate) const MAX_STEPS: usize = 8 << 10;
/// The most jobs of one page.
pub(crate) const MAX_PAGE: usize = 1000;
/// The longest that a request for work waits, in seconds.
pub(crate) const MAX_WAIT: u64 = 55;

/// The one of `all` whose name this is; `what` they are is for people.
fn parse<T: Copy>(all: &[T], name: fn(T) -> &'static str, what: &str, text: &str) -> Result<T> {
    all.iter().copied().find(|one| name(*one) == text).ok_or_else(|| {
        let names = all.iter().map(|one| name(*one)).collect::<Vec<_>>().join(", ");
        Error::invalid(format!("{} is no {what}: there are {names}", crate::model::escape(text.as_bytes())))
    })
}

/// Whether a text is lower-case hexadecimal digits, so many.
pub fn is_hex(text: &str, count: RangeInclusive<usize>) -> bool {
    count.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether a text is the id of a job.
pub(crate) fn is_id(text: &str) -> bool {
    is_hex(text, 16..=16)
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Take a snapshot of a set.
    Ingest,
    /// Restore a set.
    Restore,
    /// Check the repository.
    Check,
    /// Forget snapshots of a set by its `keep` rules.
    Forget,
    /// Remove from the repository what nothing needs.
    Prune,
}

impl JobKind {
    /// All of them.
    pub const ALL: [JobKind; 5] = [JobKind::Ingest, JobKind::Restore, JobKind::Check, JobKind::Forget, JobKind::Prune];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            JobKind::Ingest => "ingest",
            JobKind::Restore => "restore",
            JobKind::Check => "check",
            JobKind::Forget => "forget",
            JobKind::Prune => "prune",
        }
    }

    /// The kind of this name.
    pub fn parse(text: &str) -> Result<Self> {
        parse(&Self::ALL, JobKind::name, "kind of job", text)
    }

    /// Whether it is about a set, and not about the whole repository.
    pub(crate) fn has_set(self) -> bool {
        matches!(self, JobKind::Ingest | JobKind::Restore | JobKind::Forget)
    }
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// No agent has taken it.
    Queued,
    /// An agent has taken it.
    Running,
    /// It was done, all of it.
    Done,
    /// It failed, or not all of it was done, or nobody knows what became of it: `message` says which.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// It was done, and the snapshot that it made has been forgotten since.
    Deleted,
}

impl JobStatus {
    /// All of them.
    pub(crate) const ALL: [JobStatus; 6] =
        [JobStatus::Queued, JobStatus::Running, JobStatus::Done, JobStatus::Failed, JobStatus::Cancelled, JobStatus::Deleted];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            JobStatus::Queued => "queued",
            JobStatus::Running => "running",
            JobStatus::Done => "done",
            JobStatus::Failed => "failed",
            JobStatus::Cancelled => "cancelled",
            JobStatus::Deleted => "deleted",
        }
    }

    /// The state of this name.
    pub fn parse(text: &str) -> Result<Self> {
        parse(&Self::ALL, JobStatus::name, "state of a job", text)
    }

    /// Whether nothing more happens.
    pub fn is_over(self) -> bool {
        !matches!(self, JobStatus::Queued | JobStatus::Running)
    }
}

/// A job that somebody wants done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJob {
    /// What is to be done.
    pub kind: JobKind,
    /// The host whose agent is to do it.
    #[schema(min_length = 1, max_length = 253)]
    pub host: String,
    /// The set, as the configuration file of the host names it; not for `check` and `prune`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    pub set: Option<String>,
    /// Of a restore: the id of the snapshot, or its first digits, 8 at least. Without it: the newest of the set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9a-f]{8,64}$")]
    pub snapshot: Option<String>,
    /// Of a restore, in place of `snapshot`: the id of the job that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9a-f]{16}$")]
    pub backup: Option<String>,
}

impl NewJob {
    /// Checks what can be told of it without knowing the host.
    pub fn check(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::invalid(text));
        let plain = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        if !plain(&self.host) || self.host.len() > 253 {
            return wrong("host must be a name of 1 to 253 bytes".to_owned());
        }
        match (&self.set, self.kind.has_set()) {
            (None, true) => return wrong(format!("a job of the kind {} needs a set", self.kind.name())),
            (Some(_), false) => {
                return wrong(format!("a job of the kind {} is for the whole repository: leave set out", self.kind.name()));
            }
            (Some(set), true) if !plain(set) || set.len() > 128 => {
                return wrong("set must be a name of 1 to 128 bytes".to_owned());
            }
            _ => {}
        }
        if self.kind != JobKind::Restore && (self.snapshot.is_some() || self.backup.is_some()) {
            return wrong("only a job of the kind restore has snapshot or backup".to_owned());
        }
        if self.snapshot.is_some() && self.backup.is_some() {
            return wrong("give snapshot or backup, not both".to_owned());
        }
        match &self.snapshot {
            Some(id) if !is_hex(id, 8..=64) => wrong("snapshot must be 8 to 64 hexadecimal digits".to_owned()),
            _ => Ok(()),
        }
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its id: 16 hexadecimal digits.
    pub id: String,
    /// What is to be done.
    pub kind: JobKind,
    /// The host whose agent is to do it.
    pub host: String,
    /// The set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// How far it is.
    pub state: JobStatus,
    /// Why it failed, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it was asked for, RFC 3339, by the server's clock like all times here.
    pub created_at: String,
    /// When something was last heard of it.
    pub(crate) updated_at: String,
    /// When an agent took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// The id of the token that asked for it.
    pub token: String,
    /// The agent that took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<String>,
    /// The snapshot that was made; of a restore the one that was asked for: none if that is the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The bytes of content in the snapshot, or that were restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The bytes that the repository did not have before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<u64>,
    /// The exit code of the command that did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 255)]
    pub exit_code: Option<u8>,
    /// Of a restore that was done: what a person still has to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_steps: Vec<String>,
    /// Whether the server can give the content. It has no key, so it cannot.
    pub(crate) is_downloadable: bool,
    /// Somebody wants it to end, and its agent has not said yet that it has.
    pub cancel_requested: bool,
    /// The agent has not been heard of for too long: nobody knows what became of the job.
    pub lost: bool,
    /// How far the agent is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<JobProgress>,
}

/// How far an agent is with a job.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct JobProgress {
    /// 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// Bytes done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_done: Option<u64>,
    /// Bytes in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Bytes a second, since it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Seconds until the end, if it goes on so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
    /// What it is doing, or waiting for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Some jobs, the newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// What `after` is to be for the next page; without it this is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The jobs of one set of one host, the newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct SetJobs {
    /// The host.
    pub(crate) host: String,
    /// The set.
    pub(crate) set: String,
    /// How it stands, as the host's agent has said; none if no agent has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) standing: Option<ReportedSet>,
    /// When the agent has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reported_at: Option<String>,
    /// The 100 newest jobs of the kind `ingest`.
    pub(crate) backups: Vec<Job>,
    /// The 100 newest jobs of the kind `restore`.
    pub(crate) restores: Vec<Job>,
}

/// Kinds of jobs that an agent can ask for.
pub(crate) const MAX_KINDS: usize = 5;

/// One event of a stream of events, as readers of `text/event-stream` see it.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "it describes the stream; the server writes its lines")]
pub(crate) struct JobFrame {
    /// Always `job`.
    event: String,
    /// The job as it stands, as JSON.
    data: String,
}

/// An agent asks for work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimRequest {
    /// The host that the agent runs on.
    #[schema(min_length = 1, max_length = 253)]
    pub host: String,
    /// A random word that the agent has kept before it asks: asked again with the same word, the server answers the same job.
    #[schema(pattern = "^[0-9a-f]{16,64}$")]
    pub claim: String,
    /// The kinds of jobs that it takes.
    #[schema(max_items = 5)]
    pub kinds: Vec<JobKind>,
    /// How many seconds it waits for a job to come, 55 at most.
    #[serde(default)]
    #[schema(maximum = 55)]
    pub wait: u64,
}

/// An agent says how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProgressReport {
    /// The word with which the job was taken.
    pub claim: String,
    /// How far it is.
    #[serde(default)]
    pub progress: JobProgress,
}

/// What the server says to that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ProgressAnswer {
    /// Somebody wants the job to end.
    pub(crate) cancel: bool,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobOutcome {
    /// All of it was done.
    Done,
    /// It failed, or not all of it was done.
    Failed,
    /// It was ended because somebody wanted that.
    Cancelled,
}

/// An agent says how a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndReport {
    /// The word with which the job was taken.
    pub claim: String,
    /// How it ended.
    pub outcome: JobOutcome,
    /// Why it failed. What is longer than 1,024 bytes is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The whole id of the snapshot that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub snapshot: Option<String>,
    /// The bytes of content in it, or that were restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The bytes that the repository did not have before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<u64>,
    /// The exit code of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 255)]
    pub exit_code: Option<u8>,
    /// Of a restore: what a person still has to do. What is longer than 8 KiB in all is cut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_steps: Vec<String>,
}

/// A refusal (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ProblemDetails {
    /// `about:blank`: the status says all about the kind.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The kind of refusal, for people.
    pub(crate) title: String,
    /// The HTTP status.
    pub(crate) status: u16,
    /// What is wrong, and what to do.
    pub(crate) detail: String,
    /// The kind of refusal, for programs.
    pub(crate) error: String,
}

impl From<&Refusal> for ProblemDetails {
    fn from(refusal: &Refusal) -> Self {
        let error = refusal.error.name();
        let (kind, title) = ("about:blank".to_owned(), error.replace('_', " "));
        ProblemDetails { kind, title, status: refusal.error.status(), detail: refusal.message.clone(), error }
    }
}

impl ProblemDetails {
    /// The error that a caller gets.
    pub(crate) fn into_error(self) -> Error {
        let code: Code = serde_json::from_value(self.error.into()).unwrap_or(Code::Failed);
        Error::new(code.kind(), crate::model::escape(self.detail.as_bytes()))
    }
}

/// Cuts a text at this many bytes, not inside a character.
pub(crate) fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// The first of these steps, as many as fit into the body of a request.
pub(crate) fn cut_steps(mut steps: Vec<String>) -> Vec<String> {
    let mut left = MAX_STEPS;
    let fits = |step: &String| {
        // As it is sent: what is escaped there is longer.
        let length = serde_json::to_string(step).map_or(usize::MAX, |text| text.len() + 1);
        left.checked_sub(length).map(|rest| left = rest).is_some()
    };
    let count = steps.iter().map(fits).take_while(|fits| *fits).count();
    if count < steps.len() {
        steps.truncate(count);
        steps.push("there is more: yester restore --next-steps on the host prints all".to_owned());
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_steps_fit_into_a_request() {
        let few = vec!["do this".to_owned(), "\u{1}".repeat(100)];
        assert_eq!(cut_steps(few.clone()), few);
        let cut = cut_steps(vec!["\u{1}".repeat(1000); 50]);
        assert!(cut.len() == 2 && cut[1].starts_with("there is more"), "{cut:?}");
        assert!(serde_json::to_string(&cut).unwrap().len() + MAX_MESSAGE * 6 < MAX_BODY);
        assert_eq!(cut_steps(cut.clone()), cut);
    }

    #[test]
    fn a_job_is_of_a_set_or_of_a_repository() {
        let job = |kind, set: Option<&str>, snapshot: Option<&str>, backup: Option<&str>| {
            let own = |text: Option<&str>| text.map(str::to_owned);
            NewJob { kind, host: "h".into(), set: own(set), snapshot: own(snapshot), backup: own(backup) }.check().is_ok()
        };
        assert!(job(JobKind::Ingest, Some("a"), None, None) && job(JobKind::Prune, None, None, None));
        assert!(job(JobKind::Restore, Some("a"), Some("0123abcd"), None) && job(JobKind::Restore, Some("a"), None, Some("x")));
        assert!(!job(JobKind::Ingest, None, None, None) && !job(JobKind::Check, Some("a"), None, None));
        assert!(!job(JobKind::Ingest, Some("a\n"), None, None) && !job(JobKind::Ingest, Some(""), None, None));
        assert!(!job(JobKind::Ingest, Some("a"), Some("01234567"), None));
        assert!(!job(JobKind::Restore, Some("a"), Some("latest; x"), None));
        assert!(!job(JobKind::Restore, Some("a"), Some("01234567"), Some("x")));
        assert_eq!(cut("aä".to_owned(), 2), "a");
    }
}
