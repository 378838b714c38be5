//! What objects of a repository there are.

/// What an object is. The number is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectType {
    /// Repository configuration.
    Config = 1,
    /// A wrapped master key.
    KeySlot = 2,
    /// A pack of data or tree frames.
    Pack = 3,
    /// An index segment.
    Segment = 4,
    /// A writer at work.
    Session = 5,
    /// A snapshot.
    Snapshot = 6,
    /// Nobody may commit under this snapshot id any more.
    Fence = 7,
    /// A snapshot that is forgotten.
    Forgotten = 8,
    /// A list of packs that prune has marked for deletion.
    Condemned = 9,
    /// What was found damaged of packs.
    Damaged = 10,
    /// A sign of life of a writer at work.
    Beat = 11,
    /// The removal of a key slot has begun.
    Removed = 12,
    /// What became of a run.
    Run = 13,
    /// What was said of a snapshot later.
    Annotation = 14,
    /// A step of a group.
    Group = 15,
    /// A row of parity over a group of packs.
    Parity = 16,
}

impl ObjectType {
    /// Whether a key that only writes may make one: nothing that takes something away, or speaks of what others stored.
    pub(crate) fn may_only_write(self) -> bool {
        use ObjectType::{Beat, Fence, Pack, Run, Segment, Session, Snapshot};
        matches!(self, Pack | Segment | Session | Snapshot | Fence | Beat | Run)
    }
}
