//! Temporary files of a directory storage, and of restores: which process writes them, and which are abandoned.
//!
//! A temporary name says which process writes it: host, boot, namespace, number and start of the process. The file
//! of a process that is known to be gone may be removed; a file of another host is left to that host.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::storage::Leftovers;
use crate::sys::process::ProcessIdentity;
use crate::sys::{Dir, lock};

const PREFIX: &str = ".tmp-";
/// What the name of a claim begins with (`naming`): the name that is claimed follows. It holds its owner's temporary name.
pub(crate) const CLAIM: &str = ".claim-";
/// No temporary name is longer.
const LONGEST: u64 = 255;

/// A process, as temporary names say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WriterProcess {
    host: String,
    boot: String,
    namespace: u64,
    pid: u32,
    started: u64,
}

/// Host names may hold anything and be long; their hash is enough to compare.
fn tag(text: &[u8]) -> String {
    crate::model::id::to_hex(&blake3::hash(text).as_bytes()[..6])
}

/// Hosts of one name are several machines.
fn host_tag(identity: &ProcessIdentity) -> String {
    tag(&[&identity.host[..], b"\0", &identity.machine].concat())
}

impl WriterProcess {
    /// This process.
    pub(crate) fn this_process() -> Self {
        Self::of(&ProcessIdentity::this())
    }

    /// Any process.
    pub(crate) fn of(identity: &ProcessIdentity) -> Self {
        let ProcessIdentity { namespace, pid, started, .. } = *identity;
        WriterProcess { host: host_tag(identity), boot: tag(&identity.boot), namespace, pid, started }
    }

    /// A new temporary name of this process. Nobody else in it has the same, whichever storage is written to.
    pub(crate) fn temporary(&self) -> Vec<u8> {
        static UNIQUE: AtomicU64 = AtomicU64::new(0);
        self.name(PREFIX, UNIQUE.fetch_add(1, Ordering::Relaxed))
    }

    /// The name, beginning with `prefix`, of its temporary file number `unique`.
    pub(crate) fn name(&self, prefix: &str, unique: u64) -> Vec<u8> {
        let WriterProcess { host, boot, namespace, pid, started } = self;
        format!("{prefix}{host}-{boot}-{namespace}-{pid}-{started}-{unique}").into_bytes()
    }

    /// Whether `name` is a temporary name that begins with `prefix`, of a process that is known to be gone.
    pub(crate) fn has_left(prefix: &str, name: &[u8]) -> bool {
        name.starts_with(prefix.as_bytes()) && WriterProcess::parse(prefix, name).is_some_and(|writer| writer.is_gone())
    }

    /// The process that writes a file of this name; `None` when it is no temporary name of this program.
    fn parse(prefix: &str, name: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(name).ok()?.strip_prefix(prefix)?.split('-');
        let (host, boot) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let (namespace, pid, started) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let writer = WriterProcess { host, boot, namespace, pid, started };
        let unique: u64 = parts.next()?.parse().ok()?;
        (parts.next().is_none() && writer.name(prefix, unique) == name).then_some(writer)
    }

    /// Removes a claim whose owner is known to be gone; with `empty` also one that does not say whose it is: its owner was
    /// stopped before it could. Those of one host do this one after the other, so that nobody removes what another of them
    /// has made meanwhile.
    pub(crate) fn remove_left_claim(&self, dir: &Dir, claim: &[u8], empty: bool) -> io::Result<bool> {
        // A file system without locks: then it stays until a prune that is alone.
        let Ok(held) = lock::lock(dir) else { return Ok(false) };
        let removed = match owner(dir, claim)? {
            Some(Some(owner)) if owner.is_gone() => true,
            Some(None) => empty,
            _ => false,
        };
        if removed {
            dir.remove(claim)?;
        }
        drop(held);
        Ok(removed)
    }

    /// Whether it is known to be gone. Tags stand for names: a writer of this host and boot has this process' tags.
    fn is_gone(&self) -> bool {
        let mut identity = ProcessIdentity::this();
        if self.boot != tag(&identity.boot) {
            if self.host != host_tag(&identity) {
                return false;
            }
            identity.boot = self.boot.clone().into_bytes();
        }
        (identity.namespace, identity.pid, identity.started) = (self.namespace, self.pid, self.started);
        identity.is_gone()
    }
}

/// Whose claim this is: nothing where there is none, and where it does not say.
fn owner(dir: &Dir, claim: &[u8]) -> io::Result<Option<Option<WriterProcess>>> {
    let mut name = Vec::new();
    // It may go at any moment; over a network also while it is read.
    match dir.open_file(claim).and_then(|file| file.take(LONGEST).read_to_end(&mut name)) {
        Ok(_) => Ok(Some(WriterProcess::parse(PREFIX, &name))),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes what this process left in `dir`, and adds it to `out`.
pub(crate) fn remove_of(dir: &Dir, process: &ProcessIdentity, out: &mut Leftovers) -> io::Result<()> {
    let writer = WriterProcess::of(process);
    let names =
        dir.find(|name| name.starts_with(PREFIX.as_bytes()) && WriterProcess::parse(PREFIX, name).as_ref() == Some(&writer))?;
    for name in names {
        let bytes = dir.stat(&name).map(|stat| stat.size).unwrap_or_default();
        match dir.remove(&name) {
            Ok(()) => *out = Leftovers { files: out.files + 1, bytes: out.bytes + bytes },
            // Somebody else was faster.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Adds what dead writers left in `dir`, and with `remove` removes it.
pub(crate) fn find(dir: &Dir, remove: bool, out: &mut Leftovers) -> io::Result<()> {
    let names = dir.list()?;
    for at in 0..names.len() {
        let name = names.name(at);
        let is_claim = name.starts_with(CLAIM.as_bytes());
        if !is_claim && !WriterProcess::has_left(PREFIX, name) {
            continue;
        }
        if is_claim && !owner(dir, name)?.flatten().is_some_and(|owner| owner.is_gone()) {
            continue;
        }
        let bytes = match dir.stat(name) {
            Ok(stat) => stat.size,
            // Somebody else was faster.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        if remove {
            dir.remove(name)?;
        }
        *out = Leftovers { files: out.files + 1, bytes: out.bytes + bytes };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_dead_is_taken() {
        let scratch = tempfile::tempdir().unwrap();
        let me = WriterProcess::this_process();
        let dead = WriterProcess { started: me.started + 1, ..me.clone() };
        let before_boot = WriterProcess { boot: tag(b"another boot"), ..me.clone() };
        // A host of another name before, a process of another namespace, and one of another host.
        let renamed = WriterProcess { host: tag(b"an old name"), ..dead.clone() };
        let contained = WriterProcess { namespace: me.namespace + 1, ..dead.clone() };
        let elsewhere = WriterProcess { host: tag(b"another host"), ..before_boot.clone() };
        let names = [&me, &dead, &before_boot, &elsewhere, &renamed, &contained].map(|writer| writer.temporary());
        for name in &names {
            assert!(WriterProcess::parse(PREFIX, name).is_some());
            std::fs::write(scratch.path().join(std::str::from_utf8(name).unwrap()), b"12345").unwrap();
        }
        for foreign in [".tmp-", ".tmp-1-2-3", ".tmp-a-b-0-1-2-03", "notes", ".tmp-a-b-1-2-3-4-5"] {
            assert_eq!(WriterProcess::parse(PREFIX, foreign.as_bytes()), None, "{foreign}");
            std::fs::write(scratch.path().join(foreign), b"x").unwrap();
        }
        let dir = Dir::open(scratch.path()).unwrap();
        let three = Leftovers { files: 3, bytes: 15 };
        for remove in [false, true] {
            let mut found = Leftovers::default();
            find(&dir, remove, &mut found).unwrap();
            assert_eq!(found, three);
        }
        let left = dir.list().unwrap();
        assert!([0, 3, 5].iter().all(|at| left.contains(&names[*at])) && left.len() == 8);
    }
}
