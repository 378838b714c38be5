//! Runs that are under way on this host: each keeps a small file in the user's state directory, which says how far it is, so
//! that another process can tell. Nothing of it is in a repository: a restore may be of the host that has it, or of one
//! whose network is away. What ended is in `runs/`.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::{Run, Timestamp};
use crate::sys::process::{self, ProcessIdentity};

/// The directory below the user's state directory.
const DIRECTORY: &str = "under-way";
/// What the name of a file ends with that takes another one's place next.
const NEW: &str = "new";
/// No file of this is longer.
const MAX: u64 = 64 << 10;

/// What a run says of itself while it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunUnderWay {
    /// The repository: the bytes of its directory's path, or its address.
    pub repository: Vec<u8>,
    /// As `Run::kind_name` has it.
    pub kind: String,
    /// Its set; empty without one.
    pub set: Vec<u8>,
    /// When it began, in seconds and nanoseconds: what its run will say.
    pub started: (i64, u32),
    /// The process.
    pub process: ProcessIdentity,
    /// How far it is: the object that `--json` prints, of type `status`.
    #[serde(default)]
    pub status: serde_json::Value,
    /// The same in a line for people.
    #[serde(default)]
    pub text: String,
    /// Its process is gone without a word: it was killed.
    #[serde(skip)]
    pub gone: bool,
}

impl RunUnderWay {
    /// This process, with a run that has begun.
    pub fn of(repository: Vec<u8>, run: &Run) -> Self {
        RunUnderWay {
            repository,
            kind: run.kind_name().to_owned(),
            set: run.set.clone(),
            started: (run.started.secs, run.started.nanos),
            process: ProcessIdentity::this(),
            status: serde_json::Value::Null,
            text: String::new(),
            gone: false,
        }
    }

    /// When it began.
    pub fn began(&self) -> Timestamp {
        Timestamp { secs: self.started.0, nanos: self.started.1 }
    }

    /// Whether this is what became of it.
    pub fn is(&self, run: &Run) -> bool {
        run.started == self.began() && run.host == self.process.host && run.kind_name() == self.kind && run.set == self.set
    }
}

/// The file of a run that is under way; it goes with this.
#[derive(Debug)]
pub struct RunBeacon {
    path: PathBuf,
    run: RunUnderWay,
}

impl RunBeacon {
    /// Says below the user's state directory `state` that this run is under way. `None` where that cannot be written: nobody
    /// can follow it then, and that is all.
    pub fn light(state: &Path, run: RunUnderWay) -> Option<Self> {
        let directory = state.join(DIRECTORY);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).ok()?;
        let path = directory.join(format!("{}-{}-{}", run.process.namespace, run.process.pid, run.started.0));
        let mut beacon = RunBeacon { path, run };
        beacon.write().ok()?;
        Some(beacon)
    }

    /// Says how far it is.
    pub fn tell(&mut self, status: &str, text: String) {
        self.run.status = serde_json::from_str(status).unwrap_or_default();
        self.run.text = text;
        // The next one may succeed.
        let _ = self.write();
    }

    fn write(&mut self) -> io::Result<()> {
        let new = self.path.with_extension(NEW);
        fs::write(&new, serde_json::to_vec(&self.run)?)?;
        fs::rename(new, &self.path)
    }
}

impl Drop for RunBeacon {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// What is under way here by what the user's state directory says, the oldest first. Those whose process is
/// [gone](RunUnderWay::gone) are listed once: their files are removed.
pub fn list(state: &Path) -> io::Result<Vec<RunUnderWay>> {
    let entries = match fs::read_dir(state.join(DIRECTORY)) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut out: Vec<_> = entries.filter_map(|entry| read(&entry.ok()?.path())).collect();
    out.sort_by_key(|run| (run.started, run.process.pid));
    Ok(out)
}

/// One of them. What cannot be read is no run: it may have ended since it was listed.
fn read(path: &Path) -> Option<RunUnderWay> {
    let about = fs::symlink_metadata(path).ok()?;
    if !about.is_file() || about.uid() != process::user() || about.len() > MAX {
        return None;
    }
    let mut run: RunUnderWay = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    run.gone = run.process.is_gone();
    if run.gone {
        let _ = fs::remove_file(path);
    }
    // One that takes another one's place says nothing more than that.
    path.extension().is_none_or(|end| end != NEW).then_some(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_is_listed_and_what_is_dead_is_listed_once() {
        let state = tempfile::tempdir().unwrap();
        assert!(list(state.path()).unwrap().is_empty());
        let run = Run { kind: Run::CHECK, started: Timestamp { secs: 5, nanos: 1 }, set: b"\xff".to_vec(), ..Run::default() };
        let mut beacon = RunBeacon::light(state.path(), RunUnderWay::of(b"/r".to_vec(), &run)).unwrap();
        beacon.tell(r#"{"message_type":"status","items_done":3}"#, "3 packs".to_owned());
        let mut dead = RunUnderWay::of(b"/r".to_vec(), &run);
        dead.process.started += 1;
        dead.started = (4, 0);
        std::mem::forget(RunBeacon::light(state.path(), dead).unwrap());
        let files = || fs::read_dir(state.path().join(DIRECTORY)).unwrap().count();
        assert_eq!(files(), 2);
        let listed = list(state.path()).unwrap();
        assert_eq!(listed.iter().map(|run| run.gone).collect::<Vec<_>>(), [true, false]);
        let listed = list(state.path()).unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((&*listed[0].text, &listed[0].status["items_done"]), ("3 packs", &serde_json::json!(3)));
        assert!(listed[0].is(&Run { host: listed[0].process.host.clone(), ..run.clone() }) && !listed[0].is(&Run::default()));
        assert_eq!(files(), 1);
        drop(beacon);
        assert_eq!(files(), 0);
    }
}
