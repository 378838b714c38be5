//! Giving a complete file its name: at once, and only if the name is free.
//!
//! `rename` replaces what has the name, so something better is needed, and not every file system has the same. Which one
//! works is tried when a repository is made:
//!
//! 1. `renameat2` with `RENAME_NOREPLACE`: local file systems, and CIFS.
//! 2. `link`, then `unlink` of the temporary name: NFS, 9p, sshfs.
//! 3. A claim: a writer makes the file `.claim-NAME` with `O_EXCL`, which only one can, checks that the name is free,
//!    renames, and removes the claim. exFAT. All writers of a repository must do the same then, so a file in its top directory says so.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::storage::Created;
use crate::storage::leftovers::{CLAIM, WriterProcess};
use crate::sys::Dir;
use crate::sys::lock::is_unknown;

/// The file in a repository's top directory that says that names are given by claims.
pub(crate) const MARK: &[u8] = b"names-by-claim";
const MARK_TEXT: &[u8] =
    b"This file system can neither rename without replacing nor link, so yester gives names by claims here.\n\
    If the repository is moved to one that can, this file may be removed while nobody uses the repository.\n";
/// After this time a claim that does not say whose it is may be removed; after twice this time waiting for any claim ends
/// with an error. A claim is held for two calls only.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);

/// How names are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamingMethod {
    /// By a rename that replaces nothing.
    Rename,
    /// By a second link.
    Link,
    /// By a claim.
    Claim,
}

/// How names are given in one repository, by one process.
#[derive(Debug)]
pub(crate) struct Naming {
    way: AtomicU8,
    writer: WriterProcess,
}

impl Naming {
    /// As it is done in the repository whose top directory is `root`.
    pub(crate) fn of(root: &Dir, writer: WriterProcess) -> io::Result<Self> {
        let way = match root.stat(MARK) {
            Ok(_) => NamingMethod::Claim,
            Err(e) if e.kind() == io::ErrorKind::NotFound => NamingMethod::Rename,
            Err(e) => return Err(e),
        };
        Ok(Naming { way: AtomicU8::new(way as u8), writer })
    }

    fn way(&self) -> NamingMethod {
        match self.way.load(Ordering::Relaxed) {
            0 => NamingMethod::Rename,
            1 => NamingMethod::Link,
            _ => NamingMethod::Claim,
        }
    }

    /// Gives `temporary` in `dir` the name `leaf`, if that is free; the temporary name is gone then in any case. After an
    /// error it may still be there.
    pub(crate) fn give(&self, dir: &Dir, temporary: &[u8], leaf: &[u8]) -> io::Result<Created> {
        if self.way() == NamingMethod::Rename {
            match rename(dir, temporary, leaf) {
                Err(e) if is_unknown(&e) => self.way.store(NamingMethod::Link as u8, Ordering::Relaxed),
                other => return other,
            }
        }
        if self.way() == NamingMethod::Claim {
            return self.by_claim(dir, temporary, leaf);
        }
        match link(dir, temporary, leaf) {
            Err(e) if is_unknown(&e) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this file system can neither rename without replacing nor link, and the repository was made on one that can: \
                 reach it through yester serve or ssh",
            )),
            other => other,
        }
    }

    fn by_claim(&self, dir: &Dir, temporary: &[u8], leaf: &[u8]) -> io::Result<Created> {
        let claim = [CLAIM.as_bytes(), leaf].concat();
        let held = match self.claim(dir, &claim, temporary, leaf)? {
            Some(held) => held,
            None => return taken(dir, temporary),
        };
        let named = match is_there(dir, leaf) {
            Ok(true) => taken(dir, temporary),
            Ok(false) => dir.rename(temporary, leaf).map(|()| Created::New),
            Err(e) => Err(e),
        };
        drop(held);
        named
    }

    /// Makes the claim; `None` when the name is taken. One that a process of this host left is removed, of others it is
    /// not known whether they are at work.
    fn claim<'d>(&self, dir: &'d Dir, claim: &'d [u8], temporary: &[u8], leaf: &[u8]) -> io::Result<Option<Claim<'d>>> {
        let began = Instant::now();
        loop {
            match dir.create_file(claim, 0o600) {
                Ok(mut file) => {
                    let held = Claim { dir, name: claim };
                    file.write_all(temporary)?;
                    return Ok(Some(held));
                }
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                Err(_) => {}
            }
            if is_there(dir, leaf)? {
                return Ok(None);
            }
            self.writer.remove_left_claim(dir, claim, began.elapsed() >= PATIENCE)?;
            if began.elapsed() >= PATIENCE * 2 {
                let text = "another process has claimed the name for two minutes; if none is at work on any machine, remove";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{text} {}", crate::model::escape(claim))));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// A claim that is held.
struct Claim<'d> {
    dir: &'d Dir,
    name: &'d [u8],
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // What cannot be removed now goes when somebody wants the name, or with the next prune.
        let _ = self.dir.remove(self.name);
    }
}

fn is_there(dir: &Dir, leaf: &[u8]) -> io::Result<bool> {
    match dir.stat(leaf) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// The name is another's: what was written is not needed.
fn taken(dir: &Dir, temporary: &[u8]) -> io::Result<Created> {
    dir.remove(temporary)?;
    Ok(Created::Exists)
}

fn rename(dir: &Dir, temporary: &[u8], leaf: &[u8]) -> io::Result<Created> {
    match dir.rename_new(temporary, leaf) {
        Ok(()) => Ok(Created::New),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => taken(dir, temporary),
        Err(e) => Err(e),
    }
}

fn link(dir: &Dir, temporary: &[u8], leaf: &[u8]) -> io::Result<Created> {
    match dir.make_link(temporary, dir, leaf) {
        Ok(()) => {}
        // A request whose answer was lost is sent again by the kernel (NFS), and then finds what it made itself.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let (own, there) = (dir.stat(temporary)?, dir.stat(leaf)?);
            if own.links < 2 || (own.device, own.inode) != (there.device, there.inode) {
                return taken(dir, temporary);
            }
        }
        Err(e) => return Err(e),
    }
    // The object is there. A temporary name that cannot be removed now goes with a prune.
    let _ = dir.remove(temporary);
    Ok(Created::New)
}

/// Finds how names can be given in a new repository's top directory, by trying, and notes it there if need be.
pub(crate) fn prove(root: &Dir, writer: &WriterProcess) -> io::Result<NamingMethod> {
    let names = [(); 2].map(|()| writer.temporary());
    let found = prove_with(root, &names);
    for name in &names {
        let _ = root.remove(name);
    }
    if found.as_ref().is_ok_and(|way| *way == NamingMethod::Claim) {
        let mut mark = root.create_file(MARK, 0o600)?;
        mark.write_all(MARK_TEXT)?;
        mark.sync_data()?;
    }
    found
}

type Give = fn(&Dir, &[u8], &[u8]) -> io::Result<Created>;

fn prove_with(root: &Dir, names: &[Vec<u8>; 2]) -> io::Result<NamingMethod> {
    for (way, give) in [(NamingMethod::Rename, rename as Give), (NamingMethod::Link, link)] {
        match works(root, names, give) {
            Ok(true) => return Ok(way),
            Ok(false) => {}
            Err(e) if is_unknown(&e) => {}
            Err(e) => return Err(e),
        }
        for name in names {
            if is_there(root, name)? {
                root.remove(name)?;
            }
        }
    }
    write(root, &names[0])?;
    match write(root, &names[0]) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(NamingMethod::Claim),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "the file system lets two processes make the same file")),
    }
}

/// Makes a file that holds its name.
fn write(root: &Dir, name: &[u8]) -> io::Result<()> {
    root.create_file(name, 0o600)?.write_all(name)
}

/// Whether names are given as they should: one that is taken stays as it is, one that is free is given.
fn works(root: &Dir, [one, two]: &[Vec<u8>; 2], give: Give) -> io::Result<bool> {
    let holds = |name: &[u8], content: &[u8]| -> io::Result<bool> {
        let mut found = Vec::new();
        root.open_file(name)?.read_to_end(&mut found)?;
        Ok(found == content)
    };
    write(root, one)?;
    write(root, two)?;
    if give(root, one, two)? != Created::Exists || !holds(two, two)? {
        return Ok(false);
    }
    root.remove(two)?;
    write(root, one)?;
    Ok(give(root, one, two)? == Created::New && holds(two, one)? && !is_there(root, one)?)
}
