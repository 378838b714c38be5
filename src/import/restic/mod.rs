//! restic repositories, read without restic: versions 1 and 2, in a local directory.
//!
//! ```text
//! config ─ keys/<id> (scrypt) ─▶ master key ─▶ index/<id> (JSON) ─▶ where blobs are
//!                                           └▶ snapshots/<id> (JSON) ─▶ tree blob (JSON) ─▶ trees, contents in data/<pack>
//! ```
//!
//! The format is described in restic's `doc/design.rst`. Each file and each blob is verified by its MAC and by the SHA-256
//! that is its name.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::import::intake::TreeIntake;
use crate::import::restic::blobs::{ResticBlobs, unpacked};
use crate::import::restic::crypto::ResticKey;
use crate::import::restic::files::{ResticFiles, ResticId, short};
use crate::import::restic::json::{ConfigJson, KeyJson, MasterJson, SnapshotJson};
use crate::import::{PastHistory, PastList, PastSnapshot, key_of};
use crate::model::id::{from_hex, to_hex};
use crate::model::{Origin, RepositoryId, SnapshotId};
use crate::observe::Event;
use crate::task::Task;

mod blobs;
mod crypto;
mod files;
mod json;
mod text;
mod walk;

pub(crate) use text::base64;

/// The most that a key may ask of scrypt: bytes of memory, and passes over them. restic asks for 32 MiB and one.
const MAX_MEMORY: u64 = 1 << 30;
const MAX_PASSES: u32 = 64;

/// An open restic repository.
pub struct ResticHistory {
    files: ResticFiles,
    key: ResticKey,
    id: RepositoryId,
    blobs: Option<ResticBlobs>,
    scratch: Option<PathBuf>,
    /// The trees of the snapshots that were listed.
    trees: std::collections::HashMap<SnapshotId, ResticId>,
}

impl std::fmt::Debug for ResticHistory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResticHistory").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResticHistory {
    /// Opens the repository at `root` with one of its passwords. What becomes too much for memory goes to files without a
    /// name in `scratch`. Errors: it is none, or of another version; the password opens none of its keys.
    pub fn open(root: &Path, password: &[u8], scratch: Option<&Path>) -> Result<Self> {
        let files = ResticFiles::new(root)?;
        let key = unlock(&files, password)?;
        let bad = || Error::corrupt(format!("the file config of the restic repository {} is damaged", files.shown()));
        let config = unpacked(&key, &files.read("config", None)?).ok_or_else(bad)?;
        let config: ConfigJson = serde_json::from_slice(&config).map_err(|_| bad())?;
        if !(1..=2).contains(&config.version) {
            let text = format!("is of version {}, which this program does not read: it reads 1 and 2", config.version);
            return Err(Error::invalid(format!("the restic repository {} {text}", files.shown())));
        }
        let id = RepositoryId(key_of(&[b"restic", config.id.as_bytes()]));
        let (blobs, trees) = (None, std::collections::HashMap::new());
        Ok(ResticHistory { files, key, id, blobs, scratch: scratch.map(Path::to_owned), trees })
    }

    fn snapshot(&self, id: &ResticId) -> Result<(PastSnapshot, ResticId)> {
        let bad = || Error::corrupt(format!("snapshot {} of the restic repository cannot be read", short(id)));
        let plain = unpacked(&self.key, &self.files.read("snapshots", Some(id))?).ok_or_else(bad)?;
        let said: SnapshotJson = serde_json::from_slice(&plain).map_err(|_| bad())?;
        let tree = said.tree.as_deref().and_then(from_hex).ok_or_else(bad)?;
        let texts = |list: Option<Vec<String>>| list.unwrap_or_default().into_iter().map(String::into_bytes).collect();
        let version = said.program_version.as_str();
        let past = PastSnapshot {
            name: to_hex(id),
            origin: Origin { repository: self.id, snapshot: SnapshotId(*id) },
            time: text::time(&said.time).ok_or_else(bad)?,
            host: said.hostname.into_bytes(),
            user: said.username.into_bytes(),
            paths: texts(said.paths),
            tags: texts(said.tags).into_iter().filter(|tag: &Vec<u8>| !tag.is_empty()).collect(),
            note: Vec::new(),
            excludes: texts(said.excludes),
            program: if version.is_empty() { "restic".to_owned() } else { version.to_owned() },
        };
        Ok((past, tree))
    }
}

impl PastHistory for ResticHistory {
    fn snapshots(&mut self, task: &Task<'_>) -> Result<PastList> {
        let mut list = PastList::default();
        for id in self.files.list("snapshots")? {
            task.go_on("the import was stopped")?;
            match self.snapshot(&id) {
                Ok((past, tree)) => {
                    self.trees.insert(past.origin.snapshot, tree);
                    list.snapshots.push(past);
                }
                Err(e) => {
                    list.unreadable += 1;
                    task.observer.event(&Event::Warning { subject: b"", message: &e.to_string() });
                }
            }
        }
        list.snapshots.sort_by(|a, b| (a.time, &a.name).cmp(&(b.time, &b.name)));
        Ok(list)
    }

    fn walk(&mut self, snapshot: &PastSnapshot, intake: &mut TreeIntake<'_>) -> Result<()> {
        let Some(tree) = self.trees.get(&snapshot.origin.snapshot).copied() else {
            return Err(Error::new(ErrorKind::NotFound, format!("{} is no snapshot of the restic repository", snapshot.name)));
        };
        let blobs = match &mut self.blobs {
            Some(blobs) => blobs,
            none => none.insert(ResticBlobs::load(&mut self.files, &self.key, self.scratch.as_deref(), intake.task())?),
        };
        walk::ResticWalk { files: &mut self.files, key: &self.key, blobs }.run(snapshot, &tree, intake)
    }
}

/// Decodes `bytes` as each of the things that a repository holds once it is decrypted, and keeps nothing; answers how many of
/// them it could be. For tests of the decoders: what was decrypted is authentic, but who made it is a foreign program.
pub fn survey(bytes: &[u8]) -> usize {
    let could_be = [
        blobs::parse_header(bytes).is_some(),
        serde_json::from_slice::<json::IndexJson>(bytes).is_ok(),
        serde_json::from_slice::<SnapshotJson>(bytes).is_ok_and(|said| text::time(&said.time).is_some()),
        serde_json::from_slice::<KeyJson>(bytes).is_ok_and(|key| text::base64(&key.salt).is_some()),
        serde_json::from_slice::<json::TreeJson>(bytes).is_ok_and(|tree| walk::survey(&tree)),
    ];
    could_be.into_iter().filter(|could| *could).count()
}

/// The master key, by the first of the keys that the password opens.
fn unlock(files: &ResticFiles, password: &[u8]) -> Result<ResticKey> {
    let keys = files.list("keys")?;
    let mut damaged = 0;
    for id in &keys {
        match files.read("keys", Some(id)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            Some(key) => {
                if let Some(master) = try_key(&key, password) {
                    return Ok(master);
                }
            }
            None => damaged += 1,
        }
    }
    let shown = files.shown();
    Err(match (keys.len(), damaged) {
        (0, _) => Error::corrupt(format!("the restic repository {shown} has no keys")),
        (all, damaged) if all == damaged => Error::corrupt(format!("all keys of the restic repository {shown} are damaged")),
        _ => {
            let text = "wrong password: it opens none of the keys of the restic repository";
            Error::new(ErrorKind::Key, format!("{text} {shown}"))
        }
    })
}

fn try_key(key: &KeyJson, password: &[u8]) -> Option<ResticKey> {
    let memory = key.n.checked_mul(u64::from(key.r))?.checked_mul(128)?;
    if key.kdf != "scrypt" || !key.n.is_power_of_two() || memory > MAX_MEMORY || key.p > MAX_PASSES {
        return None;
    }
    let parameters = scrypt::Params::new(key.n.trailing_zeros() as u8, key.r, key.p).ok()?;
    let mut derived = zeroize::Zeroizing::new([0; 64]);
    scrypt::scrypt(password, &text::base64(&key.salt)?, &parameters, &mut derived[..]).ok()?;
    let plain = zeroize::Zeroizing::new(ResticKey::of(&derived).open(&text::base64(&key.data)?)?);
    let master: MasterJson = serde_json::from_slice(&plain).ok()?;
    let part = |text: &str| text::base64(text).map(zeroize::Zeroizing::new);
    Some(ResticKey {
        encrypt: part(&master.encrypt)?.as_slice().try_into().ok()?,
        k: part(&master.mac.k)?.as_slice().try_into().ok()?,
        r: part(&master.mac.r)?.as_slice().try_into().ok()?,
    })
}
