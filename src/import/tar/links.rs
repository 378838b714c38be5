//! What the entries of an archive had, for hard links to them. There may be more of them than memory holds.

use std::path::Path;

use crate::error::{IoContext, Result};
use crate::format::cursor::Cursor;
use crate::import::intake::{PastEntry, root};
use crate::model::{LinkGroup, Node, Timestamp};
use crate::sys::table::{Heap, Table, key_of};

/// Where an entry stands in the heap, and its length.
const RECORD: usize = 8 + 4;

/// An entry, and its number in the archive.
#[derive(Debug, Clone)]
pub(super) struct NumberedEntry {
    pub(super) number: u64,
    pub(super) entry: PastEntry,
}

impl NumberedEntry {
    /// The group of hard links that the entry would begin.
    pub(super) fn group(&self) -> LinkGroup {
        LinkGroup(key_of(&[&b"tar"[..], &self.number.to_le_bytes()].concat()))
    }

    /// The entry as bytes. Errors: it cannot be stored.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let PastEntry { node, xattrs, user, group } = &self.entry;
        let mut encoded = Vec::new();
        crate::format::node::encode(node, &mut encoded)?;
        let mut out = self.number.to_le_bytes().to_vec();
        let pairs = xattrs.iter().flat_map(|(name, value)| [name.as_slice(), value]);
        for part in [encoded.as_slice(), user, group].into_iter().chain(pairs) {
            out.extend_from_slice(&(part.len() as u32).to_le_bytes());
            out.extend_from_slice(part);
        }
        Ok(out)
    }

    /// The entry of what [`Self::encode`] wrote.
    pub(super) fn decode(bytes: &[u8]) -> Result<NumberedEntry> {
        let (number, mut rest) = bytes.split_first_chunk::<8>().map_or((0, bytes), |(n, rest)| (u64::from_le_bytes(*n), rest));
        let mut part = || {
            let (len, after) = rest.split_first_chunk::<4>()?;
            let (part, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            rest = after;
            Some(part.to_vec())
        };
        let node = part().unwrap_or_default();
        let node: Node = crate::format::node::decode(&mut Cursor::new(&node, "a remembered entry"))?;
        let (user, group) = (part().unwrap_or_default(), part().unwrap_or_default());
        let mut xattrs = Vec::new();
        while let Some(pair) = part().zip(part()) {
            xattrs.push(pair);
        }
        Ok(NumberedEntry { number, entry: PastEntry { node, xattrs, user, group } })
    }
}

/// Entries by their paths.
pub(super) struct SeenEntries {
    places: Table<RECORD>,
    heap: Heap,
    /// Those that have other names.
    linked: Table<1>,
}

fn remember() -> String {
    "cannot remember the entries of the archive".to_owned()
}

impl SeenEntries {
    /// None yet.
    pub(super) fn new(scratch: Option<&Path>) -> Self {
        SeenEntries { places: Table::new(scratch), heap: Heap::new(scratch), linked: Table::new(scratch) }
    }

    /// Remembers an entry as it was encoded.
    pub(super) fn put(&mut self, key: &[u8], encoded: &[u8]) -> Result<()> {
        let at = self.heap.push(encoded).at(remember)?;
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&at.to_le_bytes());
        record[8..].copy_from_slice(&(encoded.len() as u32).to_le_bytes());
        self.places.put(&key_of(key), &record).at(remember).map(drop)
    }

    /// The newest entry of this path, which from now on has several names.
    pub(super) fn link(&mut self, key: &[u8]) -> Result<Option<NumberedEntry>> {
        let Some(record) = self.places.get(&key_of(key)) else { return Ok(None) };
        let (at, len) = record.split_at(8);
        let at = u64::from_le_bytes(at.try_into().unwrap_or_default());
        let len = u32::from_le_bytes(len.try_into().unwrap_or_default());
        let entry = NumberedEntry::decode(&self.heap.read(at, len as usize).at(remember)?)?;
        self.linked.put(&entry.group().0, &[1]).at(remember)?;
        Ok(Some(entry))
    }

    /// Whether an entry has several names.
    pub(super) fn is_linked(&self, entry: &NumberedEntry) -> bool {
        self.linked.get(&entry.group().0).is_some()
    }
}

/// A directory of which the archive says nothing.
pub(super) fn unsaid(name: &[u8], time: Timestamp) -> PastEntry {
    let node = root(time);
    PastEntry::new(name.to_vec(), node.kind, node.meta)
}
