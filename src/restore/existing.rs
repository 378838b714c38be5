//! What to do with an entry, seen what is there already.

use crate::model::{Content, Kind, Node};
use crate::restore::Overwrite;
use crate::restore::metadata::WantedMetadata;
use crate::restore::run::RestoreRun;
use crate::sys::{Dir, FileKind, Stat, open_file, xattr};

/// What becomes of an entry that is not a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It stays, though it may differ.
    Keep,
    /// It is right.
    Same,
    /// Its content is right, its metadata is not.
    Metadata,
    /// It is made anew.
    Write {
        /// A file is there whose content may be right in whole or in parts.
        local: bool,
    },
}

/// The kind that a node has on disk.
pub(crate) fn file_kind(kind: &Kind) -> FileKind {
    match kind {
        Kind::File(_) => FileKind::File,
        Kind::Directory(_) => FileKind::Directory,
        Kind::Symlink(_) => FileKind::Symlink,
        Kind::Fifo => FileKind::Fifo,
        Kind::Socket => FileKind::Socket,
        Kind::CharDevice(..) => FileKind::CharDevice,
        Kind::BlockDevice(..) => FileKind::BlockDevice,
    }
}

/// Whether the policy lets what is there be changed at all.
pub(crate) fn may_replace(overwrite: Overwrite, node: &Node, there: &Stat) -> bool {
    match overwrite {
        Overwrite::Never => false,
        Overwrite::IfNewer => node.meta.mtime > there.mtime,
        Overwrite::IfChanged | Overwrite::Always => true,
    }
}

/// Compares `node` with the entry `name` of `dir`, which is `there`, without reading content.
pub(crate) fn decide(
    run: &RestoreRun<'_>,
    dir: &Dir,
    name: &[u8],
    node: &Node,
    wanted: &WantedMetadata,
    there: &Stat,
    rewritten: bool,
) -> Decision {
    let overwrite = run.options.overwrite;
    let mut same_content = same_content(overwrite, dir, name, node, there);
    if let (true, Some(true), Kind::File(Content::Inline(bytes))) = (rewritten, same_content, &node.kind) {
        // Size and time may be those of what the snapshot has.
        same_content = Some(has(dir, name, bytes));
    }
    if same_content == Some(true) {
        // Attributes are read last: most entries differ before, or not at all.
        let met = xattr::list_at(dir, name).is_ok_and(|xattrs| wanted.is_met(there, &xattrs));
        if met && wanted.flags_met(run, there, || dir.open_file(name)) {
            return Decision::Same;
        }
    }
    if !may_replace(overwrite, node, there) {
        return Decision::Keep;
    }
    match same_content {
        // An inode with other names is not this run's to change: they may lie anywhere.
        Some(true) if there.links == 1 => Decision::Metadata,
        _ => Decision::Write { local: same_content.is_some() && there.kind == FileKind::File },
    }
}

/// Whether a file holds just these bytes.
fn has(dir: &Dir, name: &[u8], bytes: &[u8]) -> bool {
    let mut found = Vec::new();
    let read = dir.open_file(name).and_then(|file| open_file::read_up_to(&file, 0, bytes.len() + 1, &mut found));
    read.is_ok() && found == bytes
}

/// Whether the content is right, by kind, size and time: `None` when it cannot be.
fn same_content(overwrite: Overwrite, dir: &Dir, name: &[u8], node: &Node, there: &Stat) -> Option<bool> {
    if there.kind != file_kind(&node.kind) {
        return None;
    }
    match &node.kind {
        Kind::File(content) => {
            let size = content.size() == there.size;
            Some(size && overwrite != Overwrite::Always && there.mtime == node.meta.mtime)
        }
        Kind::Symlink(target) => (dir.read_link(name).ok()? == *target).then_some(true),
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => (there.rdev == (*major, *minor)).then_some(true),
        _ => Some(true),
    }
}
