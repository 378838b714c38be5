//! What became of each entry, for observers that want to know.

use crate::model::{Kind, Node};
use crate::observe::{Action, EntryKind, Event};
use crate::restore::Overwrite;
use crate::restore::existing::file_kind;
use crate::restore::job::RestoreJob;
use crate::restore::run::RestoreRun;
use crate::restore::target::TargetDirectory;
use crate::sys::{FileKind, Stat};

impl RestoreRun<'_> {
    /// Says what became of `node`, which is in `directory`.
    pub(crate) fn tell(&self, directory: &TargetDirectory, node: &Node, action: Action, reason: &str) {
        if self.listing {
            let (path, kind) = (self.target.path_of(directory, &node.name), kind_of(file_kind(&node.kind)));
            self.task.observer.event(&Event::Entry { action, path: &path, kind, reason, bytes: node.size() });
        }
    }

    /// Says which file is at work.
    pub(crate) fn tell_current(&self, directory: &TargetDirectory, node: &Node) {
        self.task.observer.event(&Event::Current { subject: &self.target.path_of(directory, &node.name) });
    }

    /// Says that an entry which the snapshot does not have stays.
    pub(crate) fn tell_spared(&self, directory: &TargetDirectory, name: &[u8], kind: FileKind, reason: &str) {
        if self.listing {
            let (path, action) = (self.target.path_of(directory, name), Action::Kept);
            self.task.observer.event(&Event::Entry { action, path: &path, kind: kind_of(kind), reason, bytes: 0 });
        }
    }

    /// Says that an entry which the snapshot does not have was removed.
    pub(crate) fn tell_removed(&self, directory: &TargetDirectory, name: &[u8], kind: FileKind, bytes: u64) {
        if self.listing {
            let (path, action) = (self.target.path_of(directory, name), Action::Removed);
            self.task.observer.event(&Event::Entry { action, path: &path, kind: kind_of(kind), reason: "", bytes });
        }
    }
}

impl RestoreJob<'_, '_> {
    /// Says that the entry was made, in place of what was there.
    pub(crate) fn tell_made(&self) {
        let (action, reason) = match &self.there {
            None => (Action::New, ""),
            Some(there) => (Action::Changed, difference(self.run.options.overwrite, &self.node, there)),
        };
        self.run.tell(&self.directory, &self.node, action, reason);
    }

    /// Says that it was made as a further link of a file.
    pub(crate) fn tell_linked(&self) {
        let action = if self.there.is_some() { Action::Changed } else { Action::New };
        self.run.tell(&self.directory, &self.node, action, "hard link");
    }
}

/// What of `node` is not as it is in what is there.
fn difference(overwrite: Overwrite, node: &Node, there: &Stat) -> &'static str {
    match &node.kind {
        kind if file_kind(kind) != there.kind => "type",
        Kind::File(content) if content.size() != there.size => "size",
        Kind::File(_) if node.meta.mtime != there.mtime => "time",
        // An inode with other names is made anew for its metadata, too.
        Kind::File(_) if overwrite != Overwrite::Always => "metadata",
        _ => "content",
    }
}

fn kind_of(kind: FileKind) -> EntryKind {
    match kind {
        FileKind::File => EntryKind::File,
        FileKind::Directory => EntryKind::Directory,
        FileKind::Symlink => EntryKind::Symlink,
        _ => EntryKind::Special,
    }
}
