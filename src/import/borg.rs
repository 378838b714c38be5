//! borg repositories, through borg itself: `borg list` says which archives there are, `borg export-tar` what is in one.
//!
//! borg's tar has no extended attributes, no ACLs and whole seconds only. All else that an archive holds is in it.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};
use crate::import::flow::FlowReader;
use crate::import::intake::TreeIntake;
use crate::import::tar::{TarReader, TarWalk};
use crate::import::{PastHistory, PastList, PastSnapshot, key_of, stopped};
use crate::model::id::from_hex;
use crate::model::{Origin, RepositoryId, SnapshotId, Timestamp, escape};
use crate::observe::Event;
use crate::sys::flow::CommandStream;
use crate::task::Task;

/// What is asked of each archive.
const FORMAT: &str = "{hostname}{username}{comment}{id}{start}";
/// The exit status of borg for warnings: what they are about, it has said.
const WARNINGS: i32 = 1;
/// The longest list.
const MAX_LIST: u64 = 256 << 20;

/// A borg repository, or one archive of it.
#[derive(Debug)]
pub struct BorgHistory {
    repository: OsString,
    archive: Option<OsString>,
    variables: Vec<(OsString, OsString)>,
    scratch: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct BorgList {
    archives: Vec<BorgArchive>,
    repository: BorgRepository,
}

#[derive(Debug, Deserialize)]
struct BorgRepository {
    id: String,
}

#[derive(Debug, Deserialize)]
struct BorgArchive {
    id: String,
    name: String,
    start: String,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    comment: String,
}

impl BorgHistory {
    /// The repository, or the archive (`REPO::ARCHIVE`), as borg takes it. A password is handed to borg; without one, borg
    /// finds it as it always does, but cannot ask for it.
    pub fn new(place: &OsStr, password: Option<&[u8]>, scratch: Option<&Path>) -> Self {
        let bytes = place.as_bytes();
        let parted = bytes.windows(2).rposition(|two| two == b"::");
        let archive = parted.and_then(|at| bytes.get(at + 2..)).filter(|name| !name.is_empty());
        let repository = bytes.get(..parted.unwrap_or(bytes.len())).unwrap_or_default();
        let mut variables: Vec<(OsString, OsString)> = vec![("TZ".into(), "UTC".into())];
        variables.extend(password.map(|password| ("BORG_PASSPHRASE".into(), OsString::from_vec(password.to_vec()))));
        let owned = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        BorgHistory {
            repository: owned(repository),
            archive: archive.map(owned),
            variables,
            scratch: scratch.map(Path::to_owned),
        }
    }

    fn run<'t>(&self, words: &[&OsStr], task: &'t Task<'t>) -> Result<FlowReader<'t>> {
        let command: Vec<OsString> = std::iter::once("borg".into()).chain(words.iter().map(OsString::from)).collect();
        let flow = CommandStream::start(&command, &self.variables).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                let text = "the program borg is not installed here; it is what reads borg repositories (Debian: apt install \
                            borgbackup)";
                Error::new(ErrorKind::Invalid, text)
            }
            _ => Error::io("cannot start borg", e),
        })?;
        Ok(FlowReader::new(flow, "borg", task))
    }

    fn list(&self, task: &Task<'_>) -> Result<BorgList> {
        let words = ["list", "--json", "--format", FORMAT].map(OsStr::new);
        let mut output = self.run(&[&words[..], &[&self.repository]].concat(), task)?;
        let mut json = Vec::new();
        let read = (&mut output).take(MAX_LIST).read_to_end(&mut json);
        output.finish("list the archives", WARNINGS)?;
        read.map_err(|e| Error::io("cannot read what borg writes", e))?;
        serde_json::from_slice(&json)
            .map_err(|e| Error::corrupt(format!("borg lists its archives in a way that is not known: {e}")))
    }
}

impl PastHistory for BorgHistory {
    fn snapshots(&mut self, task: &Task<'_>) -> Result<PastList> {
        let BorgList { archives, repository } = self.list(task)?;
        let mut list = PastList::default();
        for archive in archives {
            if self.archive.as_ref().is_some_and(|wanted| wanted.as_bytes() != archive.name.as_bytes()) {
                continue;
            }
            let (Some(id), Some(time)) = (from_hex(&archive.id), time(&archive.start)) else {
                list.unreadable += 1;
                let message = "borg says no id and time of it that are known";
                task.observer.event(&Event::Warning { subject: archive.name.as_bytes(), message });
                continue;
            };
            list.snapshots.push(PastSnapshot {
                name: archive.name,
                origin: Origin {
                    repository: RepositoryId(key_of(&[b"borg", repository.id.as_bytes()])),
                    snapshot: SnapshotId(id),
                },
                time,
                host: archive.hostname.into_bytes(),
                user: archive.username.into_bytes(),
                paths: vec![b"/".to_vec()],
                tags: Vec::new(),
                note: archive.comment.into_bytes(),
                excludes: Vec::new(),
                program: "borg".to_owned(),
            });
        }
        if let Some(wanted) = self.archive.as_ref().filter(|_| list.snapshots.is_empty() && list.unreadable == 0) {
            let text = format!("the borg repository has no archive {}", escape(wanted.as_bytes()));
            return Err(Error::new(ErrorKind::NotFound, text));
        }
        list.snapshots.sort_by(|a, b| (a.time, &a.name).cmp(&(b.time, &b.name)));
        Ok(list)
    }

    fn walk(&mut self, past: &PastSnapshot, intake: &mut TreeIntake<'_>) -> Result<()> {
        let place = [self.repository.as_bytes(), b"::", past.name.as_bytes()].concat();
        let words = [OsStr::new("export-tar"), OsStr::from_bytes(&place), OsStr::new("-")];
        let task = intake.task();
        let mut output = self.run(&words, task)?;
        let walk = TarWalk::new(Vec::new(), past.time, self.scratch.as_deref());
        let walked = walk.read(&mut TarReader::new(&mut output), intake);
        if task.is_stopped() {
            return Err(stopped());
        }
        // What borg says of its failure is more than that its output ended.
        match walked {
            Err(e) if e.kind() != ErrorKind::Corrupt => Err(e),
            walked => {
                output.finish(&format!("export {}", escape(past.name.as_bytes())), WARNINGS)?;
                walked?.build(intake)
            }
        }
    }
}

/// A time in UTC, as borg writes it in JSON when that is its time zone: without one.
fn time(text: &str) -> Option<Timestamp> {
    let time: jiff::civil::DateTime = text.parse().ok()?;
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some(Timestamp { secs: time.as_second(), nanos: u32::try_from(time.subsec_nanosecond()).unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_named_behind_two_colons() {
        let of = |place: &str| {
            let history = BorgHistory::new(OsStr::new(place), None, None);
            (history.repository.into_string().unwrap(), history.archive.map(|name| name.into_string().unwrap()))
        };
        assert_eq!(of("/srv/borg"), ("/srv/borg".to_owned(), None));
        assert_eq!(of("ssh://me@host:22/srv/b::home-1"), ("ssh://me@host:22/srv/b".to_owned(), Some("home-1".to_owned())));
        assert_eq!(of("/srv/borg::"), ("/srv/borg".to_owned(), None));
    }

    #[test]
    fn times_are_those_of_utc() {
        assert_eq!(time("2026-11-29T20:17:53.500000"), Some(Timestamp { secs: 1_795_983_473, nanos: 500_000_000 }));
        assert_eq!(time("yesterday"), None);
    }
}
