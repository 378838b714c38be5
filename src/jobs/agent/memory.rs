//! What the agent remembers of each set, in files of the state directory. All of it may be lost: what was run is in the
//! repository.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{IoContext, Result};
use crate::jobs::agent::plan::SlotProgress;
use crate::jobs::agent::wishes::ClaimMemory;
use crate::sys::{lock, whole};

/// What is remembered of a set. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct SetMemory {
    /// When it was first seen.
    pub(crate) first: Option<i64>,
    /// Everything that was wanted until then has been done.
    pub done: Option<i64>,
    /// Attempts that failed since then.
    pub(crate) failures: u32,
    /// Not before then is it tried again.
    pub(crate) retry: Option<i64>,
    /// When its last good snapshot was taken.
    pub(crate) good: Option<i64>,
    /// When its last run ended.
    pub(crate) ran: Option<i64>,
    /// How its last run ended.
    pub(crate) code: Option<u8>,
    /// A run failed, or was not whole, and none was good since.
    pub(crate) failed: Option<SetTrouble>,
    /// It is overdue.
    pub(crate) overdue: Option<SetTrouble>,
}

/// Something that somebody is to be told of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SetTrouble {
    /// Since when.
    pub(crate) since: i64,
    /// What is wrong.
    pub(crate) message: String,
    /// Whether they were told that it began.
    pub(crate) told: bool,
    /// Whether it is over, and they are to be told that.
    pub(crate) over: bool,
}

impl SetMemory {
    /// What there is to know for the plan.
    pub(crate) fn progress(&self) -> SlotProgress {
        SlotProgress { done: self.done, failures: self.failures, retry: self.retry }
    }

    /// Takes over what the plan made of it.
    pub(crate) fn set_progress(&mut self, progress: SlotProgress) {
        (self.done, self.failures, self.retry) = (progress.done, progress.failures, progress.retry);
    }
}

/// The file with the job that was taken. Those of sets end with `.json`.
const CLAIM: &str = "job";

/// The files.
#[derive(Debug, Clone)]
pub struct Memory {
    dir: PathBuf,
}

impl Memory {
    /// Below this directory, which is made.
    pub fn open(state: &Path) -> Result<Self> {
        let dir = state.join("agent");
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).at(|| format!("cannot make {}", dir.display()))?;
        Ok(Memory { dir })
    }

    /// What is remembered of a set: nothing, if that cannot be read.
    pub fn of(&self, set: &str) -> SetMemory {
        let text = std::fs::read(self.dir.join(format!("{set}.json"))).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Remembers this of a set. Who does that has its lock.
    pub fn remember(&self, set: &str, memory: &SetMemory) -> Result<()> {
        let text = serde_json::to_vec(memory).map_err(std::io::Error::from).at(|| format!("the state of {set}"))?;
        self.write(&format!("{set}.json"), &text)
    }

    /// Keeps everybody else from running a set, until the file is closed here and in the command that it was handed to.
    /// `None`: somebody runs it.
    pub fn lock(&self, set: &str) -> Result<Option<File>> {
        let path = self.dir.join(format!("{set}.lock"));
        let what = || format!("cannot lock {}", path.display());
        let file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&path).at(what)?;
        Ok(lock::try_lock_file(&file).at(what)?.then_some(file))
    }

    /// The job that was taken: none, if that cannot be read.
    pub(crate) fn claim(&self) -> ClaimMemory {
        let text = std::fs::read(self.dir.join(CLAIM)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Where what the command of a job says goes: its output, and its errors.
    pub(crate) fn said(&self) -> [PathBuf; 2] {
        ["job.out", "job.err"].map(|name| self.dir.join(name))
    }

    /// Keeps the job that was taken, durably: what is begun after this is not begun again.
    pub fn keep_claim(&self, claim: &ClaimMemory) -> Result<()> {
        let what = || "the job that was taken".to_owned();
        let text = serde_json::to_vec(claim).map_err(std::io::Error::from).at(what)?;
        self.write(CLAIM, &text)
    }

    /// Keeps the text of a configuration for commands that begin later; where it is.
    pub fn keep_configuration(&self, text: &str) -> Result<PathBuf> {
        let name = format!("configuration-{}.toml", &blake3::hash(text.as_bytes()).to_hex()[..16]);
        self.write(&name, text.as_bytes())?;
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let other = entry.file_name();
            let old = || entry.metadata().and_then(|found| found.modified()).ok().and_then(|time| time.elapsed().ok());
            if other.to_string_lossy().starts_with("configuration-")
                && *other != *name
                && old().is_some_and(|age| age.as_secs() > 7 * 86_400)
            {
                // It is in nobody's way.
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(self.dir.join(name))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        let what = || format!("cannot write {}", path.display());
        whole::replace(&path, bytes).at(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_found_again_and_locks_hold() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path()).unwrap();
        assert_eq!(memory.of("a"), SetMemory::default());
        let known =
            SetMemory { done: Some(5), failed: Some(SetTrouble { told: true, ..SetTrouble::default() }), ..SetMemory::default() };
        memory.remember("a", &known).unwrap();
        assert_eq!(memory.of("a"), known);
        std::fs::write(dir.path().join("agent/a.json"), "{").unwrap();
        assert_eq!(memory.of("a"), SetMemory::default());
        let lock = memory.lock("a").unwrap();
        assert!(lock.is_some() && memory.lock("a").unwrap().is_none() && memory.lock("b").unwrap().is_some());
        drop(lock);
        assert!(memory.lock("a").unwrap().is_some());
        assert!(memory.keep_configuration("x = 1").unwrap().exists());
    }
}
