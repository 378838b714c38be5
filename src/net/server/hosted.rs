//! A repository that is served: its directory, who began which session in it, and how much it holds. Everything here
//! blocks on the disk.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::model::SnapshotId;
use crate::net::protocol::{Code, Refusal};
use crate::storage::directory::DirectoryStorage;
use crate::storage::{Class, Name, Storage};

/// The directory with who began which session, inside the repository's.
const OWNERS: &str = ".owners";
/// How long a count of the repository's bytes is believed when it says that a quota is used up.
const COUNT_AGAIN: Duration = Duration::from_secs(10);

/// An open repository.
#[derive(Debug)]
pub struct Hosted {
    /// Its objects.
    pub storage: Arc<DirectoryStorage>,
    /// Which directory it was when it was opened.
    directory: (u64, u64),
    used: Mutex<Option<(u64, Instant)>>,
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    path.metadata().map(|m| (m.dev(), m.ino()))
}

impl Hosted {
    /// Opens the repository in a directory. What can be seen in it is durable when this returns: whoever wrote it may have
    /// been killed before its own barrier.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let storage = Arc::new(DirectoryStorage::open(path)?);
        storage.sync_everything()?;
        let directory = identity(path).at(|| "cannot look at the repository".to_owned())?;
        Ok(Arc::new(Hosted { storage, directory, used: Mutex::new(None) }))
    }

    /// Makes an empty one there.
    pub fn create(path: &Path) -> Result<Arc<Self>> {
        DirectoryStorage::create(path)?;
        Self::open(path)
    }

    /// Whether `path` still leads to it.
    pub fn is_at(&self, path: &Path) -> bool {
        identity(path).is_ok_and(|found| found == self.directory)
    }

    fn owner_file(&self, id: SnapshotId) -> PathBuf {
        self.storage.path().join(OWNERS).join(id.to_string())
    }

    /// Who began a session; `None` when nobody did, or it has ended.
    pub fn owner(&self, id: SnapshotId) -> Result<Option<String>> {
        match fs::read_to_string(self.owner_file(id)) {
            Ok(owner) => Ok(Some(owner)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("cannot tell who began session {}", id.short()), e)),
        }
    }

    /// Notes who begins a session, durably. One that another has begun stays that one's.
    pub fn claim(&self, id: SnapshotId, who: &str) -> Result<bool> {
        match self.owner(id)? {
            Some(owner) if owner == who => return Ok(true),
            // Begun by somebody else, or on this machine and not by the server.
            _ if self.has(&Name::Session(id)) => return Ok(false),
            _ => {}
        }
        let failed = || format!("cannot note who began session {}", id.short());
        let path = self.owner_file(id);
        let directory = self.storage.path().join(OWNERS);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).at(failed)?;
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).at(failed)?;
        file.write_all(who.as_bytes()).and_then(|()| file.sync_all()).at(failed)?;
        fs::File::open(&directory).and_then(|d| d.sync_all()).at(failed)?;
        Ok(true)
    }

    /// Forgets who began a session that has ended.
    pub fn release(&self, id: SnapshotId) {
        // One that stays is some bytes; its session is gone.
        let _ = fs::remove_file(self.owner_file(id));
    }

    /// Whether an object is there.
    pub fn has(&self, name: &Name) -> bool {
        self.storage.open_object(name).is_ok()
    }

    /// Whether nothing is stored yet: keys and configuration are still being made.
    pub fn is_new(&self) -> Result<bool> {
        for class in [Class::Packs, Class::Index, Class::Sessions, Class::Snapshots] {
            if !self.storage.list(class)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn count(&self) -> Result<u64> {
        let mut total = 0;
        for class in Class::ALL {
            total += self.storage.list(class)?.iter().map(|(_, size)| size).sum::<u64>();
        }
        Ok(total)
    }

    /// The bytes of all objects, as counted and kept account of since.
    pub fn used(&self) -> Result<u64> {
        let mut used = self.used.lock().unwrap_or_else(|e| e.into_inner());
        match *used {
            Some((bytes, _)) => Ok(bytes),
            None => {
                let counted = self.count()?;
                *used = Some((counted, Instant::now()));
                Ok(counted)
            }
        }
    }

    /// Takes `bytes` from what `quota` leaves; given back by [`Hosted::give_back`].
    pub fn reserve(&self, bytes: u64, quota: u64) -> Result<(), Refusal> {
        let failed = |e: Error| refuse(&e);
        let mut used = self.used.lock().unwrap_or_else(|e| e.into_inner());
        let full = |used: u64| used.saturating_add(bytes) > quota;
        let (mut held, at) = match *used {
            Some(counted) => counted,
            None => (self.count().map_err(failed)?, Instant::now()),
        };
        // Others may have deleted, past this server.
        let counted = if full(held) && at.elapsed() > COUNT_AGAIN {
            held = self.count().map_err(failed)?;
            Instant::now()
        } else {
            at
        };
        *used = Some((held, counted));
        if full(held) {
            let text = format!("the quota is used up: {held} of {quota} bytes are used, and {bytes} more are needed");
            return Err(Refusal::new(Code::Quota, text));
        }
        *used = Some((held + bytes, counted));
        Ok(())
    }

    /// The bytes are not used after all, or no more.
    pub fn give_back(&self, bytes: u64) {
        if let Some((used, _)) = &mut *self.used.lock().unwrap_or_else(|e| e.into_inner()) {
            *used = used.saturating_sub(bytes);
        }
    }
}

/// What a client is told of a failure here: no paths, which are none of its business; the log has them.
pub fn refuse(e: &Error) -> Refusal {
    let full = e.raw_os_error().map(|number| io::Error::from_raw_os_error(number).kind());
    match (e.kind(), full) {
        (_, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) => {
            Refusal::new(Code::NoSpace, "the server's disk is full")
        }
        (ErrorKind::NotFound, _) => Refusal::new(Code::NotFound, "it is not there"),
        (ErrorKind::NoRepository, _) => Refusal::new(Code::NoRepository, "there is no repository of this name"),
        _ => {
            tracing::error!(error = %e, "a request failed");
            Refusal::new(Code::Failed, "the server failed: its log says how")
        }
    }
}
