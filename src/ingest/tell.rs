//! What became of each entry, for observers that want to know.

use crate::model::{EXPECTED, Kind, Node, Snapshot, Xattrs, escape};
use crate::observe::{Action, EntryKind, Event, Observer};
use crate::repo::signs::{self, Sign};
use crate::sys::FileKind;

/// Warns of signs that something turned the source over.
pub(crate) fn signs(snapshot: &Snapshot, signs: &[Sign], observer: &dyn Observer) {
    if signs.is_empty() {
        return;
    }
    let (id, tag) = (snapshot.id.short(), escape(EXPECTED));
    let message = format!(
        "{}. If nobody has done that on purpose, something may have turned the source over, as ransomware does. No rule of \
         forget takes anything before it until yester tag {id} --add {tag}",
        signs::text(signs)
    );
    observer.event(&Event::Warning { subject: format!("snapshot {id}").as_bytes(), message: &message });
}

/// Something to say in its place among the steps: of an entry that is in no step of its own.
#[derive(Debug)]
pub(crate) struct EntryNotice {
    /// What became of it.
    pub(crate) action: Action,
    /// Its name in the directory that began last.
    pub(crate) name: Vec<u8>,
    /// What it is.
    pub(crate) kind: EntryKind,
    /// Why.
    pub(crate) reason: String,
    /// Its logical bytes.
    pub(crate) bytes: u64,
}

impl EntryNotice {
    /// An entry that the parent snapshot has and the source has no more.
    pub(super) fn gone(node: &Node) -> Box<EntryNotice> {
        let below = node.directory().map_or(0, |directory| directory.descendants);
        let reason = match below {
            0 => String::new(),
            1 => "with 1 entry below it".to_owned(),
            n => format!("with {n} entries below it"),
        };
        Box::new(EntryNotice {
            action: Action::Removed,
            name: node.name.clone(),
            kind: kind_of(&node.kind),
            reason,
            bytes: node.size(),
        })
    }

    /// An entry that the user does not want in the snapshot.
    pub(super) fn left_out(name: &[u8], kind: FileKind, bytes: u64, reason: String) -> Box<EntryNotice> {
        Box::new(EntryNotice { action: Action::LeftOut, name: name.to_vec(), kind: kind_on_disk(kind), reason, bytes })
    }
}

/// What a node is.
pub(super) fn kind_of(kind: &Kind) -> EntryKind {
    match kind {
        Kind::File(_) => EntryKind::File,
        Kind::Directory(_) => EntryKind::Directory,
        Kind::Symlink(_) => EntryKind::Symlink,
        _ => EntryKind::Special,
    }
}

fn kind_on_disk(kind: FileKind) -> EntryKind {
    match kind {
        FileKind::File => EntryKind::File,
        FileKind::Directory => EntryKind::Directory,
        FileKind::Symlink => EntryKind::Symlink,
        _ => EntryKind::Special,
    }
}

/// What became of an entry that was `before` in the parent snapshot, and what of it differs.
pub(super) fn compared(before: Option<&Node>, node: &Node) -> (Action, String) {
    let Some(before) = before else { return (Action::New, String::new()) };
    let (was, is) = (&before.meta, &node.meta);
    let mut reasons = Vec::new();
    if std::mem::discriminant(&before.kind) != std::mem::discriminant(&node.kind) {
        reasons.push("type");
    } else if differs(&before.kind, &node.kind) {
        reasons.push("content");
    }
    let parts = [
        (was.mtime != is.mtime, "time"),
        (was.mode != is.mode, "mode"),
        ((was.uid, was.gid) != (is.uid, is.gid), "owner"),
        (was.xattrs != is.xattrs, "attributes"),
        (was.flags != is.flags, "flags"),
        (before.link != node.link, "hard links"),
    ];
    reasons.extend(parts.into_iter().filter(|(differs, _)| *differs).map(|(_, what)| what));
    if reasons.is_empty() { (Action::Unchanged, String::new()) } else { (Action::Changed, reasons.join(", ")) }
}

/// Whether the content differs; that of a directory is told entry by entry.
fn differs(before: &Kind, now: &Kind) -> bool {
    match (before, now) {
        (Kind::Directory(_), Kind::Directory(_)) => false,
        _ => before != now,
    }
}

/// A directory's attributes as far as they can be compared before they are stored.
pub(super) fn comparable(before: &Xattrs, found: &[(Vec<u8>, Vec<u8>)]) -> Xattrs {
    match before {
        Xattrs::Stored(id) if !found.is_empty() => Xattrs::Stored(*id),
        _ if found.is_empty() => Xattrs::None,
        _ => Xattrs::Inline(found.to_vec()),
    }
}
