//! Jobs on disk: a file for the wish, and one for each thing that happened to it, all created once and never changed. They
//! are in `.jobs/` of the repository's directory: `<id>`, `<id>.1`, `<id>.2` and so on, as lines of JSON.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind as IoKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{IoContext, Result};
use crate::remote::control::{JobOutcome, NewJob, is_id};
use crate::sys::whole;

/// Where they are, below the repository's directory.
const DIRECTORY: &str = ".jobs";
/// The longest file that is read.
const LONGEST: u64 = 64 << 10;
/// The most things that happen to a job: taken, wanted to end, lost, ended.
const MOST: usize = 8;

/// A job as it was wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wish {
    /// What is to be done.
    pub(crate) job: NewJob,
    /// The id of the token that wanted it.
    pub(crate) token: String,
    /// When, in milliseconds since 1970.
    pub(crate) at: i64,
}

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum JobMark {
    /// An agent took it.
    Claimed {
        /// The agent's host, for people.
        agent: String,
        /// Its token.
        token: String,
        /// The word with which it asked.
        claim: String,
    },
    /// Somebody wants it to end.
    Cancel {
        /// Whose token that was.
        token: String,
    },
    /// It ended.
    Ended {
        /// How.
        outcome: JobOutcome,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// The snapshot that was made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<String>,
        /// The bytes of content.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
        /// The bytes that were new.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        added: Option<u64>,
        /// The exit code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<u8>,
        /// What a person still has to do.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        next_steps: Vec<String>,
    },
    /// Its agent has not been heard of for too long.
    Lost,
    /// What happened cannot be read.
    Damaged,
}

/// When what happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobEvent {
    /// In milliseconds since 1970.
    pub(crate) at: i64,
    /// What.
    #[serde(flatten)]
    pub(crate) mark: JobMark,
}

/// The directory.
#[derive(Debug)]
pub(crate) struct Ledger {
    directory: PathBuf,
}

impl Ledger {
    /// In this repository's directory. It is made with the first job.
    pub(crate) fn of(repository: &Path) -> Self {
        Ledger { directory: repository.join(DIRECTORY) }
    }

    /// Writes down a wish, durably. False: there is one of this id.
    pub(super) fn wish(&self, id: &str, wish: &Wish) -> Result<bool> {
        self.create(id, wish)
    }

    /// Writes down the `n`th thing that happened, durably. False: there is such a one.
    pub(super) fn event(&self, id: &str, n: usize, event: &JobEvent) -> Result<bool> {
        self.create(&format!("{id}.{n}"), event)
    }

    fn create(&self, name: &str, value: &impl Serialize) -> Result<bool> {
        let what = || format!("cannot write down job {name}");
        let text = serde_json::to_vec(value).map_err(std::io::Error::from).at(what)?;
        let mut builder = DirBuilder::new();
        match builder.mode(0o700).create(&self.directory) {
            Ok(()) => self.directory.parent().map_or(Ok(()), |above| File::open(above)?.sync_all()).at(what)?,
            Err(e) if e.kind() == IoKind::AlreadyExists => {}
            Err(e) => return Err(e).at(what),
        }
        whole::create(&self.directory.join(name), &text).at(what)
    }

    /// What happened to a job, as far as it is written down.
    pub(super) fn events(&self, id: &str) -> Result<Vec<JobEvent>> {
        let mut out = Vec::new();
        for n in 1..=MOST {
            match self.read(&format!("{id}.{n}"))? {
                Some(event) => out.push(event.unwrap_or(JobEvent { at: 0, mark: JobMark::Damaged })),
                None => break,
            }
        }
        Ok(out)
    }

    /// Every job. One whose wish cannot be read is left out: nobody knows what was wanted.
    pub(super) fn all(&self) -> Result<BTreeMap<String, (Wish, Vec<JobEvent>)>> {
        let what = || "cannot list the jobs of the repository".to_owned();
        let mut out = BTreeMap::new();
        let entries = match fs::read_dir(&self.directory) {
            Err(e) if e.kind() == IoKind::NotFound => return Ok(out),
            entries => entries.at(what)?,
        };
        for entry in entries {
            let name = entry.at(what)?.file_name();
            let Some(id) = name.to_str() else { continue };
            if id.starts_with(whole::UNFINISHED) {
                // Its writer was killed: nothing counts on it.
                let _ = fs::remove_file(self.directory.join(id));
            }
            if let Some((of, _)) = id.split_once('.').filter(|(of, _)| is_id(of)) {
                self.drop_stray(of, id);
            }
            if !is_id(id) {
                continue;
            }
            match self.read::<Wish>(id)? {
                // What `backup` stood for is kept beside it.
                Some(Some(wish)) if (NewJob { backup: None, ..wish.job.clone() }).check().is_ok() => {
                    out.insert(id.to_owned(), (wish, self.events(id)?));
                }
                Some(_) => tracing::error!(job = id, "the record of a job is damaged, so it is left out"),
                None => {}
            }
        }
        Ok(out)
    }

    /// Removes something that happened to a job that is not there: its server was killed while it removed the job. A job
    /// that gets the same id, which a key gives again, must not take it for its own.
    fn drop_stray(&self, id: &str, name: &str) {
        let wish = fs::symlink_metadata(self.directory.join(id));
        if wish.is_err_and(|e| e.kind() == IoKind::NotFound)
            && let Err(e) = fs::remove_file(self.directory.join(name))
        {
            tracing::error!(job = id, error = %e, "cannot remove what is left of a job");
        }
    }

    /// The value of a file: `None` if it is not there, `Some(None)` if it makes no sense.
    fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<Option<T>>> {
        let path = self.directory.join(name);
        let text = match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == IoKind::NotFound => return Ok(None),
            Ok(found) if !found.is_file() || found.len() > LONGEST => return Ok(Some(None)),
            _ => fs::read(&path).at(|| format!("cannot read job {name}"))?,
        };
        Ok(Some(serde_json::from_slice(&text).ok()))
    }

    /// Removes a job that is over. The wish goes first: without it what happened means nothing, and the other way round the
    /// job would be wanted again.
    pub(super) fn remove(&self, id: &str) -> Result<()> {
        let what = || format!("cannot remove job {id}");
        let gone = |name: String| match fs::remove_file(self.directory.join(name)) {
            Err(e) if e.kind() != IoKind::NotFound => Err(e).at(what),
            _ => Ok(()),
        };
        gone(id.to_owned())?;
        File::open(&self.directory).and_then(|directory| directory.sync_all()).at(what)?;
        (1..=MOST).try_for_each(|n| gone(format!("{id}.{n}")))
    }
}
