//! The groups of hard links of an ingest: what their first names had, for the others, and the table that the snapshot
//! gets. There may be more of them than memory holds.

use std::path::Path;

use crate::error::{IoContext, Result};
use crate::format::cursor::Cursor;
use crate::format::page::{self, LinkEntry, PageKind};
use crate::model::{LinkGroup, Node, Root};
use crate::repo::tree::writer::{PageSink, TreeWriter};
use crate::sys::table::{Heap, Table};

/// First position, count, and where the node is that was first.
const RECORD: usize = 8 + 4 + 8 + 4;

/// The groups so far.
#[derive(Debug)]
pub(crate) struct LinkGroups {
    table: Table<RECORD>,
    nodes: Heap,
}

struct GroupRecord {
    first: u64,
    count: u32,
    at: u64,
    len: u32,
}

impl GroupRecord {
    fn of(record: &[u8; RECORD]) -> GroupRecord {
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| record[at + i]));
        let short = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| record[at + i]));
        GroupRecord { first: long(0), count: short(8), at: long(12), len: short(20) }
    }

    fn record(&self) -> [u8; RECORD] {
        let mut out = [0; RECORD];
        out[..8].copy_from_slice(&self.first.to_le_bytes());
        out[8..12].copy_from_slice(&self.count.to_le_bytes());
        out[12..20].copy_from_slice(&self.at.to_le_bytes());
        out[20..].copy_from_slice(&self.len.to_le_bytes());
        out
    }
}

fn remember() -> String {
    "cannot remember hard links".to_owned()
}

impl LinkGroups {
    /// None yet. What becomes too much for memory goes to files without a name in `scratch`.
    pub(crate) fn new(scratch: Option<&Path>) -> Self {
        LinkGroups { table: Table::new(scratch), nodes: Heap::new(scratch) }
    }

    /// The node that was first in `group`, where that is known.
    pub(crate) fn first(&self, group: &LinkGroup) -> Result<Option<Node>> {
        let Some(record) = self.table.get(&group.0) else { return Ok(None) };
        let known = GroupRecord::of(&record);
        if known.len == 0 {
            return Ok(None);
        }
        let bytes = self.nodes.read(known.at, known.len as usize).at(remember)?;
        crate::format::node::decode(&mut Cursor::new(&bytes, "a hard link")).map(Some)
    }

    /// Counts an entry of `group` of which no more is known than that it stands at `position`.
    pub(crate) fn count(&mut self, group: &LinkGroup, position: u64) -> Result<()> {
        let known = match self.table.get(&group.0).map(|record| GroupRecord::of(&record)) {
            Some(known) => GroupRecord { count: known.count.saturating_add(1), ..known },
            None => GroupRecord { first: position, count: 1, at: 0, len: 0 },
        };
        self.table.put(&group.0, &known.record()).at(remember)?;
        Ok(())
    }

    /// Counts `node`, which stands at `position`, if it is in a group.
    pub(crate) fn join(&mut self, node: &Node, position: u64) -> Result<()> {
        let Some(group) = node.link else { return Ok(()) };
        let known = match self.table.get(&group.0) {
            Some(record) => {
                let known = GroupRecord::of(&record);
                GroupRecord { count: known.count.saturating_add(1), ..known }
            }
            None => {
                let mut bytes = Vec::new();
                crate::format::node::encode(node, &mut bytes)?;
                GroupRecord { first: position, count: 1, at: self.nodes.push(&bytes).at(remember)?, len: bytes.len() as u32 }
            }
        };
        self.table.put(&group.0, &known.record()).at(remember)?;
        Ok(())
    }

    /// Writes the snapshot's table, sorted by group; `before` is the parent's.
    pub(crate) fn write(&self, before: Option<Root>, sink: &mut dyn PageSink) -> Result<Option<Root>> {
        let mut writer = TreeWriter::new(PageKind::Links).over(before);
        let mut bytes = Vec::new();
        let mut push = |group: &[u8; 16], record: &[u8; RECORD]| {
            let known = GroupRecord::of(record);
            bytes.clear();
            page::put_link(&LinkEntry { group: LinkGroup(*group), first: known.first, count: known.count }, &mut bytes);
            writer.push(&bytes, 0, group, || u64::from(group[0]), sink)
        };
        self.table.each(&mut push)?;
        writer.finish(sink)
    }
}
