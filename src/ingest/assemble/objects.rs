//! Objects of buckets: taken over when they were read.

use std::io;

use crate::error::Result;
use crate::format::page::ScanRecord;
use crate::ingest::assemble::Assembler;
use crate::model::{Node, Timestamp};

/// What came of a bucket's objects that were read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ReadObjects {
    /// Those that could not be read as they were.
    pub(crate) errors: u64,
    /// Bytes of those that are stored.
    pub(crate) bytes: u64,
    /// When the last one was taken over.
    pub(crate) finished: Timestamp,
}

impl Assembler<'_> {
    /// Takes over an object of the input of this number; false when it is not stored. One that was deleted since it was
    /// listed is one that is not there.
    pub(super) fn object(&mut self, node: &mut Node, record: &mut ScanRecord, slot: u64, number: usize) -> Result<bool> {
        let errors = self.statistics.errors;
        let gone = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        let stored = self.read(node, record, slot, &gone)?;
        let of_bucket = self.objects.entry(number).or_default();
        of_bucket.errors += self.statistics.errors - errors;
        of_bucket.bytes += if stored { node.size() } else { 0 };
        of_bucket.finished = self.task.now();
        Ok(stored)
    }
}
