//! The bytes of a node.
//!
//! ```text
//! name      length, bytes
//! head      1 byte: bits 0-2 kind, bit 3 not given, bit 4 changed while read; others: refuse
//! mode, uid, gid              numbers
//! mtime                       seconds (zigzag), nanoseconds
//! body      by kind, below
//! fields    tag, length, value …; 0 ends. Odd tags must not be ignored
//! ```

use crate::error::{Error, Result};
use crate::format::cursor::{Cursor, Put};
use crate::format::pack::MAX_CHUNK;
use crate::format::page;
use crate::model::escape;
use crate::model::node::{MAX_NAME, MAX_TARGET};
use crate::model::{ChunkId, Content, Directory, Item, Kind, LeftOut, LinkGroup, Metadata, Node, Root, Xattrs};

const FILE: u8 = 1;
const DIRECTORY: u8 = 2;
const SYMLINK: u8 = 3;
const FIFO: u8 = 4;
const SOCKET: u8 = 5;
const CHAR: u8 = 6;
const BLOCK: u8 = 7;
const NOT_GIVEN: u8 = 8;
const CHANGED: u8 = 16;

/// The most bytes of content that may stand in the node itself.
pub const MAX_INLINE: usize = 4096;
/// The most items that may stand in the node itself.
pub const MAX_ITEMS: usize = 64;
/// The most bytes of extended attributes that may stand in the node itself.
pub const MAX_INLINE_XATTRS: usize = 16 << 10;
/// The most attributes of one node.
pub const MAX_XATTRS: usize = 16 << 10;
/// The longest value of an extended attribute, as on Linux.
pub const MAX_XATTR_VALUE: usize = 64 << 10;

/// The most entries below a directory.
const MAX_DESCENDANTS: u64 = 1 << 48;

const INLINE: u64 = 0;
const ITEMS: u64 = 1;
const TREE: u64 = 2;

/// Field: the group of hard links (16 bytes).
const LINK: u64 = 1;
/// Field: extended attributes, in place.
const XATTRS: u64 = 3;
/// Field: extended attributes, in a chunk.
const XATTR_CHUNK: u64 = 5;
/// Field: `chattr` flags; an older reader may leave them.
const FLAGS: u64 = 6;
/// Field: what of a directory was left out; reading needs none of it.
const LEFT_OUT: u64 = 8;

/// Appends the canonical bytes of `node`; an error, and nothing appended, when no reader would take it.
pub fn encode(node: &Node, out: &mut Vec<u8>) -> Result<()> {
    check(node)?;
    encode_unchecked(node, out);
    Ok(())
}

/// What [`decode`] would refuse of `node`. The name is judged only by its length: a snapshot's root has none.
pub fn check(node: &Node) -> Result<()> {
    let bad = |what: &str| Err(Error::invalid(format!("{} {what}", escape(&node.name))));
    if node.name.len() > MAX_NAME {
        return bad(&format!("has a name of {} bytes; at most {MAX_NAME} can be stored", node.name.len()));
    }
    if node.meta.mode > 0o7777 || node.meta.mtime.nanos > 999_999_999 {
        return bad("has a mode or a time that does not exist");
    }
    match &node.kind {
        Kind::File(content) => check_content(content).or_else(bad)?,
        Kind::Directory(directory) => check_directory(directory, node.link.is_some()).or_else(bad)?,
        Kind::Symlink(target) if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) => {
            return bad(&format!("is a link with an impossible target of {} bytes", target.len()));
        }
        _ => {}
    }
    if let Xattrs::Inline(list) = &node.meta.xattrs {
        check_xattrs(list, MAX_INLINE_XATTRS).or_else(|e| bad(&format!("cannot keep its attributes: {e}")))?;
    }
    Ok(())
}

fn check_content(content: &Content) -> Result<(), &'static str> {
    let fits = |item: &Item| match item {
        Item::Chunk { len, .. } => (1..=MAX_CHUNK as u32).contains(len),
        Item::Hole { len } => (1..=i64::MAX as u64).contains(len),
    };
    let sum = |items: &[Item]| items.iter().try_fold(0u64, |sum, item| sum.checked_add(item.len()));
    match content {
        Content::Inline(bytes) if bytes.len() > MAX_INLINE => Err("has too much content of its own"),
        Content::Items(items) if items.len() > MAX_ITEMS || !items.iter().all(fits) => {
            Err("has too many pieces, or an impossible one")
        }
        Content::Items(items) if sum(items).is_none_or(|size| size > i64::MAX as u64) => Err("is longer than 2⁶³ bytes"),
        Content::Tree { root, size, data } if *size > i64::MAX as u64 || data > size || root.height > page::MAX_HEIGHT => {
            Err("is longer than 2⁶³ bytes, or has an impossible recipe")
        }
        _ => Ok(()),
    }
}

fn check_directory(directory: &Directory, link: bool) -> Result<(), &'static str> {
    let Directory { root, entries, descendants, subdirs } = directory;
    match root {
        _ if link => Err("is a directory and cannot be a hard link"),
        None if (*entries, *descendants, *subdirs) != (0, 0, 0) => Err("has entries and no page of them"),
        Some(root) if *entries == 0 || root.height > page::MAX_HEIGHT => Err("has an impossible page of entries"),
        Some(_) if descendants < entries || *descendants > MAX_DESCENDANTS || subdirs > entries => Err("has impossible counts"),
        _ => Ok(()),
    }
}

/// Appends the bytes of `node` whether or not a reader would take them: for tests of readers.
pub fn encode_unchecked(node: &Node, out: &mut Vec<u8>) {
    out.bytes(&node.name);
    let kind = match node.kind {
        Kind::File(_) => FILE,
        Kind::Directory(_) => DIRECTORY,
        Kind::Symlink(_) => SYMLINK,
        Kind::Fifo => FIFO,
        Kind::Socket => SOCKET,
        Kind::CharDevice(..) => CHAR,
        Kind::BlockDevice(..) => BLOCK,
    };
    out.push(kind | if node.given { 0 } else { NOT_GIVEN } | if node.changed { CHANGED } else { 0 });
    out.varint(u64::from(node.meta.mode));
    out.varint(u64::from(node.meta.uid));
    out.varint(u64::from(node.meta.gid));
    out.timestamp(node.meta.mtime);
    match &node.kind {
        Kind::File(content) => encode_content(content, out),
        Kind::Directory(directory) => encode_directory(directory, out),
        Kind::Symlink(target) => out.bytes(target),
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
            out.varint(u64::from(*major));
            out.varint(u64::from(*minor));
        }
        Kind::Fifo | Kind::Socket => {}
    }
    if let Some(group) = node.link {
        out.field(LINK, |v| v.extend_from_slice(&group.0));
    }
    match &node.meta.xattrs {
        Xattrs::None => {}
        Xattrs::Inline(list) => out.field(XATTRS, |v| encode_xattrs_unchecked(list, v)),
        Xattrs::Stored(id) => out.field(XATTR_CHUNK, |v| v.extend_from_slice(&id.0)),
    }
    if node.meta.flags != 0 {
        out.field(FLAGS, |v| v.varint(u64::from(node.meta.flags)));
    }
    if node.left_out.0 != 0 {
        out.field(LEFT_OUT, |v| v.varint(u64::from(node.left_out.0)));
    }
    out.push(0);
}

fn encode_content(content: &Content, out: &mut Vec<u8>) {
    match content {
        Content::Inline(bytes) => {
            out.varint(INLINE);
            out.bytes(bytes);
        }
        Content::Items(items) => {
            out.varint(ITEMS);
            out.varint(items.len() as u64);
            items.iter().for_each(|item| page::put_item(item, out));
        }
        Content::Tree { root, size, data } => {
            out.varint(TREE);
            out.varint(*size);
            out.varint(*data);
            encode_root(root, out);
        }
    }
}

fn encode_directory(directory: &Directory, out: &mut Vec<u8>) {
    out.varint(directory.entries);
    if let Some(root) = &directory.root {
        out.varint(directory.descendants);
        out.varint(directory.subdirs);
        encode_root(root, out);
    }
}

/// Appends a B-tree's root: height and page.
pub(crate) fn encode_root(root: &Root, out: &mut Vec<u8>) {
    out.push(root.height);
    out.extend_from_slice(&root.page.0);
}

/// Reads a B-tree's root.
pub(crate) fn decode_root(cursor: &mut Cursor<'_>) -> Result<Root> {
    let height = cursor.u8()?;
    if height > page::MAX_HEIGHT {
        return Err(cursor.error("a B-tree is too high"));
    }
    Ok(Root { height, page: ChunkId(cursor.array()?) })
}

/// Appends extended attributes: count, then name and value each. The chunk of [`Xattrs::Stored`] holds the same. An
/// error, and nothing appended, when no reader would take them.
pub fn encode_xattrs(list: &[(Vec<u8>, Vec<u8>)], out: &mut Vec<u8>) -> Result<()> {
    check_xattrs(list, MAX_CHUNK)?;
    encode_xattrs_unchecked(list, out);
    Ok(())
}

/// What [`decode_xattrs`] would refuse, and more than `most` encoded bytes.
fn check_xattrs(list: &[(Vec<u8>, Vec<u8>)], most: usize) -> Result<()> {
    // Numbers of up to 65,536 have three bytes.
    let size: usize = list.iter().map(|(name, value)| name.len() + value.len() + 6).sum();
    if list.len() > MAX_XATTRS || size + 3 > most && xattrs_len(list) > most {
        return Err(Error::invalid(format!("{} extended attributes of {size} bytes are too many", list.len())));
    }
    for (at, (name, value)) in list.iter().enumerate() {
        let ordered = at == 0 || list.get(at - 1).is_some_and(|(last, _)| last < name);
        if !is_xattr(name, value) || !ordered {
            let text = "has an impossible name, is too long, or stands twice";
            return Err(Error::invalid(format!("the extended attribute {} {text}", escape(name))));
        }
    }
    Ok(())
}

fn xattrs_len(list: &[(Vec<u8>, Vec<u8>)]) -> usize {
    let mut out = Vec::new();
    encode_xattrs_unchecked(list, &mut out);
    out.len()
}

/// Whether one attribute can be stored.
pub(crate) fn is_xattr(name: &[u8], value: &[u8]) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && !name.contains(&0) && value.len() <= MAX_XATTR_VALUE
}

/// Appends extended attributes whether or not a reader would take them: for tests of readers.
pub fn encode_xattrs_unchecked(list: &[(Vec<u8>, Vec<u8>)], out: &mut Vec<u8>) {
    out.varint(list.len() as u64);
    for (name, value) in list {
        out.bytes(name);
        out.bytes(value);
    }
}

/// Reads what [`encode_xattrs`] wrote.
pub fn decode_xattrs(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut cursor = Cursor::new(bytes, "extended attributes");
    let count = cursor.count(2)?.min(MAX_XATTRS + 1);
    if count > MAX_XATTRS {
        return Err(cursor.error("there are too many"));
    }
    let mut out: Vec<(Vec<u8>, Vec<u8>)> = Vec::with_capacity(count);
    for _ in 0..count {
        let name = cursor.bytes(MAX_NAME)?.to_vec();
        if name.is_empty() || name.contains(&0) || out.last().is_some_and(|(last, _)| *last >= name) {
            return Err(cursor.error("their names are empty or out of order"));
        }
        out.push((name, cursor.bytes(MAX_XATTR_VALUE)?.to_vec()));
    }
    cursor.end()?;
    Ok(out)
}

/// Reads one node. The name is not judged here: a snapshot's root has none.
pub fn decode(cursor: &mut Cursor<'_>) -> Result<Node> {
    let name = cursor.bytes(MAX_NAME)?.to_vec();
    let head = cursor.u8()?;
    if head & !(7 | NOT_GIVEN | CHANGED) != 0 {
        return Err(cursor.error("a node has unknown properties"));
    }
    let mut meta = Metadata {
        mode: cursor.number(0o7777)? as u16,
        uid: cursor.number32()?,
        gid: cursor.number32()?,
        mtime: cursor.timestamp()?,
        ..Metadata::default()
    };
    let kind = match head & 7 {
        FILE => Kind::File(decode_content(cursor)?),
        DIRECTORY => Kind::Directory(decode_directory(cursor)?),
        SYMLINK => Kind::Symlink(decode_target(cursor)?),
        FIFO => Kind::Fifo,
        SOCKET => Kind::Socket,
        CHAR => Kind::CharDevice(cursor.number32()?, cursor.number32()?),
        BLOCK => Kind::BlockDevice(cursor.number32()?, cursor.number32()?),
        _ => return Err(cursor.error("a node is of an unknown kind")),
    };
    let (mut link, mut left_out) = (None, LeftOut::default());
    cursor.fields(|tag, mut value| {
        match tag {
            LINK => link = Some(LinkGroup(value.array()?)),
            XATTRS if value.remaining() > MAX_INLINE_XATTRS => {
                return Err(value.error("a node has too many attributes of its own"));
            }
            XATTRS => meta.xattrs = Xattrs::Inline(decode_xattrs(value.take(value.remaining())?)?),
            XATTR_CHUNK => meta.xattrs = Xattrs::Stored(ChunkId(value.array()?)),
            FLAGS => meta.flags = value.number32()?,
            LEFT_OUT => left_out = LeftOut(value.number32()?),
            _ => return Ok(false),
        }
        value.end().map(|()| true)
    })?;
    if link.is_some() && matches!(kind, Kind::Directory(_)) {
        return Err(cursor.error("a directory claims to be a hard link"));
    }
    Ok(Node { name, meta, kind, link, given: head & NOT_GIVEN == 0, changed: head & CHANGED != 0, left_out })
}

fn decode_content(cursor: &mut Cursor<'_>) -> Result<Content> {
    match cursor.varint()? {
        INLINE => Ok(Content::Inline(cursor.bytes(MAX_INLINE)?.to_vec())),
        ITEMS => {
            let count = cursor.number(MAX_ITEMS as u64)? as usize;
            let items = (0..count).map(|_| page::item(cursor)).collect::<Result<Vec<Item>>>()?;
            if items.iter().try_fold(0u64, |sum, item| sum.checked_add(item.len())).is_none_or(|size| size > i64::MAX as u64) {
                return Err(cursor.error("a file is longer than 2⁶³ bytes"));
            }
            Ok(Content::Items(items))
        }
        TREE => {
            let size = cursor.number(i64::MAX as u64)?;
            let data = cursor.number(size)?;
            Ok(Content::Tree { size, data, root: decode_root(cursor)? })
        }
        _ => Err(cursor.error("a file's content is of an unknown kind")),
    }
}

fn decode_directory(cursor: &mut Cursor<'_>) -> Result<Directory> {
    let entries = cursor.varint()?;
    if entries == 0 {
        return Ok(Directory::default());
    }
    let descendants = cursor.number(MAX_DESCENDANTS)?;
    let subdirs = cursor.number(entries)?;
    if descendants < entries {
        return Err(cursor.error("a directory has more entries than descendants"));
    }
    Ok(Directory { entries, descendants, subdirs, root: Some(decode_root(cursor)?) })
}

fn decode_target(cursor: &mut Cursor<'_>) -> Result<Vec<u8>> {
    let target = cursor.bytes(MAX_TARGET)?;
    if target.is_empty() || target.contains(&0) {
        return Err(cursor.error("a symbolic link has an impossible target"));
    }
    Ok(target.to_vec())
}
