//! What was said of a snapshot after it was made: tags, a note, a pin.

use std::collections::BTreeSet;

use crate::model::{Snapshot, SnapshotId, Timestamp};

/// One change to what is said of a snapshot. It never changes; a later one may say something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// The snapshot that it is about.
    pub snapshot: SnapshotId,
    /// When it was said. Of two that say different things the later one holds.
    pub time: Timestamp,
    /// The host on which it was said.
    pub host: Vec<u8>,
    /// The user who said it.
    pub user: Vec<u8>,
    /// Whether all tags of before go.
    pub clears_tags: bool,
    /// Tags that go.
    pub removed: Vec<Vec<u8>>,
    /// Tags that come.
    pub added: Vec<Vec<u8>>,
    /// A new note. An empty one takes the old one away; `None` leaves it.
    pub note: Option<Vec<u8>>,
    /// Whether the snapshot is pinned from now on; `None` leaves it as it is.
    pub pin: Option<Pin>,
}

/// Whether a policy may forget a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pin {
    /// It may.
    #[default]
    Off,
    /// It may not.
    Forever,
    /// It may not before this time.
    Until(Timestamp),
}

impl Pin {
    /// Whether it holds at this time.
    pub fn holds(self, now: Timestamp) -> bool {
        match self {
            Pin::Off => false,
            Pin::Forever => true,
            Pin::Until(end) => now < end,
        }
    }
}

/// A note, a pin, and that it is as it should be, as all annotations of a snapshot together say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remarks {
    /// The note; empty for none.
    pub note: Vec<u8>,
    /// The pin.
    pub pin: Pin,
    /// Whether somebody has said that the snapshot is as it should be, though it shows signs of the contrary: by the tag
    /// [`EXPECTED`]. A tag that it was made with does not say so: whoever turned the source over may have made it.
    pub expected: bool,
}

/// The tag that says of a snapshot with signs of a turned-over source that it is as it should be.
pub const EXPECTED: &[u8] = b"as-expected";

impl Annotation {
    /// Changes the tags of the snapshot and its remarks.
    pub fn apply(&self, snapshot: &mut Snapshot, remarks: &mut Remarks) {
        if self.clears_tags || !self.removed.is_empty() || !self.added.is_empty() {
            let mut tags: BTreeSet<Vec<u8>> = if self.clears_tags { BTreeSet::new() } else { snapshot.tags.drain(..).collect() };
            tags.retain(|tag| !self.removed.contains(tag));
            tags.extend(self.added.iter().cloned());
            snapshot.tags = tags.into_iter().collect();
        }
        let names = |tags: &[Vec<u8>]| tags.iter().any(|tag| tag == EXPECTED);
        remarks.expected &= !(self.clears_tags || names(&self.removed));
        remarks.expected |= names(&self.added);
        if let Some(note) = &self.note {
            remarks.note.clone_from(note);
        }
        if let Some(pin) = self.pin {
            remarks.pin = pin;
        }
    }
}
