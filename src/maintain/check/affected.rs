//! What each snapshot loses by damage: counted, and named up to a limit.

use crate::model::SnapshotId;
use crate::observe::{Event, Observer};

/// Entries that lose something.
pub(super) struct Affected<'a> {
    observer: &'a dyn Observer,
    /// How many of one snapshot are named; `None`: all.
    limit: Option<u64>,
    snapshot: String,
    /// Of this snapshot.
    named: u64,
    hits: u64,
    /// Of all of them.
    total: u64,
    snapshots: u64,
}

impl<'a> Affected<'a> {
    /// Only counts.
    pub(crate) fn counting(observer: &'a dyn Observer) -> Self {
        Self::naming(observer, Some(0))
    }

    /// Names up to `limit` entries of each snapshot.
    pub(crate) fn naming(observer: &'a dyn Observer, limit: Option<u64>) -> Self {
        Affected { observer, limit, snapshot: String::new(), named: 0, hits: 0, total: 0, snapshots: 0 }
    }

    pub(crate) fn observer(&self) -> &'a dyn Observer {
        self.observer
    }

    /// From here on it is about this snapshot.
    pub(crate) fn begin(&mut self, snapshot: SnapshotId) {
        (self.snapshot, self.named, self.hits) = (snapshot.to_string(), 0, 0);
    }

    /// The entry at `path` loses something.
    pub(crate) fn hit(&mut self, path: &[u8], message: &str) {
        self.hits = self.hits.saturating_add(1);
        if !self.is_full() {
            self.named += 1;
            let path = if path.is_empty() { b"/" } else { path };
            self.observer.event(&Event::Hit { snapshot: &self.snapshot, path, message });
        }
    }

    /// So many entries more do, which are known from another look.
    pub(crate) fn more(&mut self, hits: u64) {
        self.hits = self.hits.saturating_add(hits);
    }

    /// Whether no more are named of this snapshot.
    pub(crate) fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.named >= limit)
    }

    /// Ends the snapshot.
    pub(crate) fn end(&mut self) {
        let entries = self.hits - self.named.min(self.hits);
        if entries > 0 && self.limit != Some(0) {
            self.observer.event(&Event::MoreHits { snapshot: &self.snapshot, entries });
        }
        self.total = self.total.saturating_add(self.hits);
        self.snapshots += u64::from(self.hits > 0);
    }

    /// Entries and snapshots that lose something.
    pub(crate) fn total(&self) -> (u64, u64) {
        (self.total, self.snapshots)
    }
}
