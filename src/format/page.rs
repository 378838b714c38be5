//! Pages of the four B-trees: directories, recipes, scan records, hard link groups.
//!
//! A page is the plain content of a tree chunk. Leaves hold entries of their own kind; inner pages are the same for
//! all: children with a count, a weight and a first key. Where a page ends is decided by its content (so that one
//! new entry rewrites one leaf and the way up to it, whatever the size): see `ends_page`.

use crate::error::{Error, Result};
use crate::format::cursor::{Cursor, Put};
use crate::model::{ChunkId, Item, LinkGroup, Node, Timestamp};

/// What a page belongs to; the number is its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PageKind {
    /// Nodes of one directory, sorted by name.
    Directory = 1,
    /// Items of one file's content, in order.
    Recipe = 2,
    /// Scan records of a snapshot, in preorder.
    Scan = 3,
    /// Hard link groups of a snapshot, sorted.
    Links = 4,
}

/// A page is closed before it would grow beyond this many bytes (one entry may still be longer).
pub(crate) const MAX_PAGE: usize = 64 << 10;
/// A page is not closed by its content before it has this many bytes.
pub(crate) const MIN_PAGE: usize = 16 << 10;
/// The longest page that a reader takes: one entry with the longest fields still fits.
pub(crate) const PAGE_LIMIT: usize = 1 << 20;
/// Levels of inner pages that a reader follows; 32 children a page would reach beyond 2⁶⁴ entries.
pub const MAX_HEIGHT: u8 = 12;
/// The most children of an inner page.
pub(crate) const MAX_CHILDREN: usize = 1024;
/// An inner page is not closed by its content before it has this many children.
pub(crate) const MIN_CHILDREN: usize = 32;

/// Whether an entry whose key hashes to `hash` may close a page: one in 256 does, so that pages have about
/// `MIN_PAGE` bytes plus 256 entries.
pub(crate) fn ends_page(hash: u64) -> bool {
    hash & 0xff == 0
}

/// The hash of a name, for `ends_page`: the first bytes of BLAKE3.
pub fn key_hash(key: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(key).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// One child of an inner page, or a leaf seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// The child page.
    pub page: ChunkId,
    /// Entries in all leaves below it.
    pub count: u64,
    /// Their weight: nodes with all descendants (directories), logical bytes (recipes), 0 (others).
    pub weight: u64,
    /// The key of its first entry: a name (directories), a group (links), empty (others).
    pub key: Vec<u8>,
}

/// What change detection knows of one node; not part of the tree, so that trees stay the same on every host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScanRecord {
    /// Inode number at the source.
    pub inode: u64,
    /// Time of the last change of the inode; both zero for nodes that must be read again.
    pub ctime: Timestamp,
    /// Birth time, where the file system has one.
    pub birth: Option<Timestamp>,
}

/// One group of hard links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkEntry {
    /// The group.
    pub group: LinkGroup,
    /// The preorder position of its first link.
    pub first: u64,
    /// How many links the snapshot holds.
    pub count: u32,
}

/// Starts a page: its kind and its level.
pub fn start(kind: PageKind, level: u8, out: &mut Vec<u8>) {
    out.clear();
    out.push(kind as u8);
    out.push(level);
}

/// Checks a page's kind and length and returns its level and a cursor behind it.
pub(crate) fn open(bytes: &[u8], kind: PageKind) -> Result<(u8, Cursor<'_>)> {
    let what = match kind {
        PageKind::Directory => "a directory page",
        PageKind::Recipe => "a recipe page",
        PageKind::Scan => "a page of scan records",
        PageKind::Links => "a page of hard links",
    };
    let mut cursor = Cursor::new(bytes, what);
    if bytes.len() > PAGE_LIMIT {
        return Err(cursor.error("it is longer than 1 MiB"));
    }
    if cursor.u8()? != kind as u8 {
        return Err(cursor.error("it is a page of another kind"));
    }
    let level = cursor.u8()?;
    if level > MAX_HEIGHT {
        return Err(cursor.error("it is on an impossible level"));
    }
    Ok((level, cursor))
}

/// Appends one child to an inner page.
pub fn put_child(child: &Child, out: &mut Vec<u8>) {
    out.extend_from_slice(&child.page.0);
    out.varint(child.count);
    out.varint(child.weight);
    out.bytes(&child.key);
}

/// The children of an inner page that stands on `level` (at least 1).
pub fn children(bytes: &[u8], kind: PageKind, level: u8) -> Result<Vec<Child>> {
    let (found, mut cursor) = open(bytes, kind)?;
    if found != level || level == 0 {
        return Err(cursor.error("it is on another level than its parent says"));
    }
    let mut out: Vec<Child> = Vec::new();
    while cursor.remaining() > 0 {
        let child = Child {
            page: ChunkId(cursor.array()?),
            count: cursor.varint()?,
            weight: cursor.varint()?,
            key: cursor.bytes(crate::model::node::MAX_NAME)?.to_vec(),
        };
        let ordered = matches!(kind, PageKind::Directory | PageKind::Links);
        if ordered && out.last().is_some_and(|last| last.key >= child.key) {
            return Err(cursor.error("its children are out of order"));
        }
        if child.count == 0 || out.len() == MAX_CHILDREN {
            return Err(cursor.error("it has an empty child, or too many"));
        }
        out.push(child);
    }
    if out.is_empty() { Err(cursor.error("it has no children")) } else { Ok(out) }
}

fn leaf(bytes: &[u8], kind: PageKind) -> Result<Cursor<'_>> {
    match open(bytes, kind)? {
        (0, cursor) => Ok(cursor),
        (_, cursor) => Err(cursor.error("an inner page stands where a leaf must be")),
    }
}

/// Whether a reader takes this page as one of `kind` on `level`: asked before a page is stored, since what is in a
/// snapshot cannot be mended any more.
pub(crate) fn check(bytes: &[u8], kind: PageKind, level: u8) -> Result<()> {
    match (kind, level) {
        (_, 1..) => children(bytes, kind, level).map(drop),
        (PageKind::Directory, 0) => nodes(bytes).map(drop),
        (PageKind::Recipe, 0) => items(bytes).map(drop),
        (PageKind::Scan, 0) => scan_records(bytes).map(drop),
        (PageKind::Links, 0) => links(bytes).map(drop),
    }
}

/// The nodes of a directory leaf: at least one, sorted by name without duplicates.
pub fn nodes(bytes: &[u8]) -> Result<Vec<Node>> {
    let mut cursor = leaf(bytes, PageKind::Directory)?;
    // A node has at least 7 bytes; the guess only saves re-allocation.
    let mut out: Vec<Node> = Vec::with_capacity(cursor.remaining() / 64);
    while cursor.remaining() > 0 {
        let node = crate::format::node::decode(&mut cursor)?;
        crate::model::node::check_name(&node.name)?;
        if out.last().is_some_and(|last| last.name >= node.name) {
            return Err(cursor.error("its names are out of order, or one stands twice"));
        }
        out.push(node);
    }
    if out.is_empty() { Err(cursor.error("it is empty")) } else { Ok(out) }
}

/// Appends one item to a recipe leaf: `len << 1` and the id for a chunk, `len << 1 | 1` for a hole.
pub fn put_item(item: &Item, out: &mut Vec<u8>) {
    match item {
        Item::Chunk { id, len } => {
            out.varint(u64::from(*len) << 1);
            out.extend_from_slice(&id.0);
        }
        Item::Hole { len } => out.varint(len << 1 | 1),
    }
}

/// One item. Lengths are above 0; a chunk has at most [`crate::format::pack::MAX_CHUNK`] bytes.
pub fn item(cursor: &mut Cursor<'_>) -> Result<Item> {
    let head = cursor.varint()?;
    let len = head >> 1;
    if len == 0 {
        return Err(cursor.error("an item has no length"));
    }
    if head & 1 == 1 {
        return Ok(Item::Hole { len });
    }
    if len > crate::format::pack::MAX_CHUNK as u64 {
        return Err(cursor.error("a chunk is longer than 16 MiB"));
    }
    Ok(Item::Chunk { id: ChunkId(cursor.array()?), len: len as u32 })
}

/// The items of a recipe leaf, at least one.
pub fn items(bytes: &[u8]) -> Result<Vec<Item>> {
    let mut cursor = leaf(bytes, PageKind::Recipe)?;
    let mut out = Vec::with_capacity(cursor.remaining() / 34);
    while cursor.remaining() > 0 {
        out.push(item(&mut cursor)?);
    }
    if out.is_empty() { Err(cursor.error("it is empty")) } else { Ok(out) }
}

/// Appends one scan record; numbers that are close to the previous record's (`last`) are short.
pub fn put_scan(record: &ScanRecord, last: &ScanRecord, out: &mut Vec<u8>) {
    out.signed(record.inode.wrapping_sub(last.inode) as i64);
    out.signed(record.ctime.secs.wrapping_sub(last.ctime.secs));
    match record.birth {
        None => out.varint(u64::from(record.ctime.nanos) << 1),
        Some(birth) => {
            out.varint(u64::from(record.ctime.nanos) << 1 | 1);
            out.signed(birth.secs.wrapping_sub(record.ctime.secs));
            out.signed(i64::from(birth.nanos) - i64::from(record.ctime.nanos));
        }
    }
}

/// The records of a scan leaf, at least one.
pub fn scan_records(bytes: &[u8]) -> Result<Vec<ScanRecord>> {
    let mut cursor = leaf(bytes, PageKind::Scan)?;
    let mut out = Vec::with_capacity(cursor.remaining() / 8);
    let mut last = ScanRecord::default();
    while cursor.remaining() > 0 {
        let inode = last.inode.wrapping_add(cursor.signed()? as u64);
        let secs = last.ctime.secs.wrapping_add(cursor.signed()?);
        let head = cursor.number(999_999_999 << 1 | 1)?;
        let ctime = Timestamp { secs, nanos: (head >> 1) as u32 };
        let birth = if head & 1 == 0 {
            None
        } else {
            let secs = ctime.secs.wrapping_add(cursor.signed()?);
            let nanos = cursor.signed()?.checked_add(i64::from(ctime.nanos));
            let nanos =
                nanos.filter(|n| (0..1_000_000_000).contains(n)).ok_or_else(|| cursor.error("a birth time is impossible"))?;
            Some(Timestamp { secs, nanos: nanos as u32 })
        };
        last = ScanRecord { inode, ctime, birth };
        out.push(last);
    }
    if out.is_empty() { Err(cursor.error("it is empty")) } else { Ok(out) }
}

/// Appends one hard link group.
pub fn put_link(entry: &LinkEntry, out: &mut Vec<u8>) {
    out.extend_from_slice(&entry.group.0);
    out.varint(entry.first);
    out.varint(u64::from(entry.count));
}

/// The groups of a leaf of hard links: at least one, sorted.
pub fn links(bytes: &[u8]) -> Result<Vec<LinkEntry>> {
    let mut cursor = leaf(bytes, PageKind::Links)?;
    let mut out: Vec<LinkEntry> = Vec::new();
    while cursor.remaining() > 0 {
        let entry = LinkEntry { group: LinkGroup(cursor.array()?), first: cursor.varint()?, count: cursor.number32()? };
        if out.last().is_some_and(|last| last.group >= entry.group) {
            return Err(Error::corrupt("a page of hard links: its groups are out of order"));
        }
        out.push(entry);
    }
    if out.is_empty() { Err(cursor.error("it is empty")) } else { Ok(out) }
}
