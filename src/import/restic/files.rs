//! The files of a restic repository in a local directory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::model::escape;
use crate::model::id::{from_hex, to_hex};

/// The longest file that is read whole: an index, a snapshot. restic closes an index at some megabytes.
const MAX_FILE: u64 = 1 << 30;

/// The name of a file, and of a blob: the SHA-256 of what is in it.
pub(super) type ResticId = [u8; 32];

/// The first digits of a name, as restic shows them.
pub(super) fn short(id: &ResticId) -> String {
    to_hex(&id[..4])
}

/// Whether `bytes` have this name.
pub(super) fn is_named(bytes: &[u8], id: &ResticId) -> bool {
    digest::digest(&digest::SHA256, bytes).as_ref() == id
}

/// A repository's directory.
#[derive(Debug)]
pub(super) struct ResticFiles {
    root: PathBuf,
    /// The pack that was read last.
    open: Option<(ResticId, File)>,
}

impl ResticFiles {
    /// The repository at `root`. Errors: there is none.
    pub(super) fn new(root: &Path) -> Result<Self> {
        let shown = || escape(root.as_os_str().as_encoded_bytes());
        match root.join("config").symlink_metadata() {
            Ok(_) => Ok(ResticFiles { root: root.to_owned(), open: None }),
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.kind() == io::ErrorKind::NotADirectory => {
                let text = "is no restic repository: it has no file called config (a remote one can be mounted, or copied here \
                            with rclone or restic copy)";
                Err(Error::new(ErrorKind::NoRepository, format!("{} {text}", shown())))
            }
            Err(e) => Err(Error::io(format!("cannot read the restic repository {}", shown()), e)),
        }
    }

    /// Where it is, for messages.
    pub(super) fn shown(&self) -> String {
        escape(self.root.as_os_str().as_encoded_bytes())
    }

    /// The names of all files in `kind`, sorted; what has another name is none.
    pub(super) fn list(&self, kind: &str) -> Result<Vec<ResticId>> {
        let mut out = Vec::new();
        let at = || format!("cannot list {kind} of the restic repository {}", self.shown());
        let mut todo = vec![self.root.join(kind)];
        while let Some(directory) = todo.pop() {
            let entries = match std::fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e).at(at),
            };
            for entry in entries {
                let entry = entry.at(at)?;
                let name = entry.file_name();
                let Some(name) = name.to_str() else { continue };
                match from_hex(name) {
                    Some(id) => out.push(id),
                    // Packs are in directories of the first two digits.
                    None if name.len() == 2 && kind == "data" => todo.push(entry.path()),
                    None => {}
                }
            }
        }
        out.sort_unstable();
        Ok(out)
    }

    /// A small file whole, as it is named in messages; its name must be the hash of it, where it has one.
    pub(super) fn read(&self, kind: &str, id: Option<&ResticId>) -> Result<Vec<u8>> {
        let name = id.map_or_else(|| kind.to_owned(), |id| format!("{kind}/{}", to_hex(id)));
        let what = || format!("cannot read {name} of the restic repository {}", self.shown());
        let file = File::open(self.root.join(&name)).at(what)?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).at(what)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(Error::corrupt(format!("{name} of the restic repository is longer than {MAX_FILE} bytes")));
        }
        match id {
            Some(id) if !is_named(&bytes, id) => Err(Error::corrupt(format!(
                "{name} of the restic repository is damaged: its SHA-256 is not its name (restic check says more)"
            ))),
            _ => Ok(bytes),
        }
    }

    /// Opens a pack, where it is.
    fn pack(&mut self, id: &ResticId) -> io::Result<&File> {
        if self.open.as_ref().is_none_or(|(open, _)| open != id) {
            let name = to_hex(id);
            let place = self.root.join("data").join(name.get(..2).unwrap_or_default()).join(&name);
            let file = match File::open(place) {
                // Repositories that come from an object store may be flat.
                Err(e) if e.kind() == io::ErrorKind::NotFound => File::open(self.root.join("data").join(&name))?,
                other => other?,
            };
            self.open = Some((*id, file));
        }
        self.open.as_ref().map(|(_, file)| file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// A range of a pack.
    pub(super) fn pack_range(&mut self, id: &ResticId, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let file = self.pack(id)?;
        // What is said of it may be wrong: no memory is taken for what is not there.
        if file.metadata()?.len() < offset.saturating_add(len as u64) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the pack is shorter than the index says"));
        }
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// The length of a pack.
    pub(super) fn pack_len(&mut self, id: &ResticId) -> io::Result<u64> {
        Ok(self.pack(id)?.metadata()?.len())
    }
}
