//! What an import remembers from one snapshot to the next: contents and whole directories that it had before, by what
//! stands for them in their source. Kept in tables that move to a file without a name when they grow.

use std::collections::BTreeMap;

use crate::error::{IoContext, Result};
use crate::format::cursor::Cursor;
use crate::import::intake::root;
use crate::model::{Content, Directory, Kind, LinkGroup, Node, Timestamp};
use crate::repo::Repository;
use crate::sys::table::{Heap, Table};

/// Where a value stands in the heap, and its length.
const RECORD: usize = 8 + 4;
/// More hard links than this below a directory are not remembered with it.
const MOST_LINKS: usize = 4096;
/// More owners than this below a directory are not, either.
const MOST_OWNERS: usize = 64;

/// What stands for content or a directory in its source: a hash.
pub(crate) type SourceKey = [u8; 16];

/// Names of owners by number.
pub(crate) type OwnerNames = BTreeMap<u32, Vec<u8>>;

/// What is below a directory.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Below {
    /// Regular files.
    pub(crate) files: u64,
    /// Directories.
    pub(crate) directories: u64,
    /// Everything else.
    pub(crate) others: u64,
    /// Logical bytes of files.
    pub(crate) bytes: u64,
    /// Entries with extended attributes.
    pub(crate) attributed: u64,
    /// Entries that could not be read.
    pub(crate) errors: u64,
    /// Names of users, and of groups.
    pub(crate) users: OwnerNames,
    pub(crate) groups: OwnerNames,
    /// Entries with several names: how far from the directory in preorder.
    pub(crate) links: Vec<(u64, LinkGroup)>,
    /// There is more below it than is remembered.
    pub(crate) too_much: bool,
}

impl Below {
    /// An entry with several names, so far from the directory.
    pub(crate) fn link(&mut self, offset: u64, group: LinkGroup) {
        match self.links.len() < MOST_LINKS {
            true => self.links.push((offset, group)),
            false => self.too_much = true,
        }
    }

    /// The entries with several names.
    pub(crate) fn links(&self) -> &[(u64, LinkGroup)] {
        &self.links
    }

    /// Adds what is below a directory that is so far from this one.
    pub(crate) fn add(&mut self, other: &Below, offset: u64) {
        self.files += other.files;
        self.directories += other.directories;
        self.others += other.others;
        self.bytes += other.bytes;
        self.attributed += other.attributed;
        self.errors += other.errors;
        for (mine, theirs) in [(&mut self.users, &other.users), (&mut self.groups, &other.groups)] {
            for (number, name) in theirs {
                mine.entry(*number).or_insert_with(|| name.clone());
            }
        }
        other.links.iter().for_each(|(at, group)| self.link(offset + at, *group));
        self.too_much |= other.too_much;
    }

    /// Whether a directory with this below it may be taken over without being looked at.
    fn is_whole(&self) -> bool {
        self.errors == 0 && !self.too_much && self.users.len() <= MOST_OWNERS && self.groups.len() <= MOST_OWNERS
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let numbers = [self.files, self.directories, self.others, self.bytes, self.attributed];
        numbers.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        for names in [&self.users, &self.groups] {
            out.extend_from_slice(&(names.len() as u64).to_le_bytes());
            for (number, name) in names {
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&(name.len() as u64).to_le_bytes());
                out.extend_from_slice(name);
            }
        }
        for (offset, group) in &self.links {
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&group.0);
        }
    }

    /// Reads what [`Self::encode`] wrote; `None` if it is not that.
    fn decode(mut bytes: &[u8]) -> Option<Below> {
        let rest = &mut bytes;
        let mut below = Below {
            files: number(rest)?,
            directories: number(rest)?,
            others: number(rest)?,
            bytes: number(rest)?,
            attributed: number(rest)?,
            ..Below::default()
        };
        for names in [&mut below.users, &mut below.groups] {
            for _ in 0..number(rest)? {
                let owner = u32::from_le_bytes(taken(rest)?);
                let len = usize::try_from(number(rest)?).ok()?;
                let (name, after) = rest.split_at_checked(len)?;
                *rest = after;
                names.insert(owner, name.to_vec());
            }
        }
        while !rest.is_empty() {
            below.links.push((number(rest)?, LinkGroup(taken(rest)?)));
        }
        Some(below)
    }
}

fn taken<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*first)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    taken(rest).map(u64::from_le_bytes)
}

/// Contents and directories by their keys.
#[derive(Debug)]
pub(crate) struct IntakeMemory {
    contents: Table<RECORD>,
    directories: Table<RECORD>,
    heap: Heap,
}

fn remember() -> String {
    "cannot remember what was imported".to_owned()
}

impl IntakeMemory {
    /// An empty one, with its files where the repository has room for such.
    pub(crate) fn new(repo: &Repository) -> Self {
        let scratch = repo.scratch();
        IntakeMemory { contents: Table::new(scratch), directories: Table::new(scratch), heap: Heap::new(scratch) }
    }

    fn value(&self, record: Option<[u8; RECORD]>) -> Result<Option<Vec<u8>>> {
        let Some(record) = record else { return Ok(None) };
        let (at, len) = record.split_at(8);
        let at = u64::from_le_bytes(at.try_into().unwrap_or_default());
        let len = u32::from_le_bytes(len.try_into().unwrap_or_default());
        self.heap.read(at, len as usize).at(remember).map(Some)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<[u8; RECORD]> {
        let at = self.heap.push(bytes).at(remember)?;
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&at.to_le_bytes());
        record[8..].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        Ok(record)
    }

    /// Content that was stored before.
    pub(crate) fn content(&self, key: &SourceKey) -> Result<Option<Content>> {
        let Some(bytes) = self.value(self.contents.get(key))? else { return Ok(None) };
        let node = crate::format::node::decode(&mut Cursor::new(&bytes, "a remembered file"))?;
        Ok(if let Kind::File(content) = node.kind { Some(content) } else { None })
    }

    /// Remembers content.
    pub(crate) fn put_content(&mut self, key: &SourceKey, content: &Content) -> Result<()> {
        let node = Node { name: b"-".to_vec(), kind: Kind::File(content.clone()), ..root(Timestamp::default()) };
        let mut bytes = Vec::new();
        crate::format::node::encode(&node, &mut bytes)?;
        let record = self.put(&bytes)?;
        self.contents.put(key, &record).at(remember).map(drop)
    }

    /// A directory that was built before, and what is below it.
    pub(crate) fn directory(&self, key: &SourceKey) -> Result<Option<(Directory, Below)>> {
        let Some(bytes) = self.value(self.directories.get(key))? else { return Ok(None) };
        let (len, rest) = bytes.split_first_chunk::<4>().map_or((0, &[][..]), |(len, rest)| (u32::from_le_bytes(*len), rest));
        let Some((node, below)) = rest.split_at_checked(len as usize) else { return Ok(None) };
        let node = crate::format::node::decode(&mut Cursor::new(node, "a remembered directory"))?;
        Ok(node.directory().copied().zip(Below::decode(below)))
    }

    /// Remembers a directory, unless it is one that must be looked at again.
    pub(crate) fn put_directory(&mut self, key: &SourceKey, directory: Directory, below: &Below) -> Result<()> {
        if !below.is_whole() {
            return Ok(());
        }
        let node = Node { name: b"-".to_vec(), kind: Kind::Directory(directory), ..root(Timestamp::default()) };
        let mut encoded = Vec::new();
        crate::format::node::encode(&node, &mut encoded)?;
        let mut bytes = (encoded.len() as u32).to_le_bytes().to_vec();
        bytes.append(&mut encoded);
        below.encode(&mut bytes);
        let record = self.put(&bytes)?;
        self.directories.put(key, &record).at(remember).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_is_the_same_when_it_is_read_again() {
        let mut below = Below { files: 3, bytes: 1 << 40, attributed: 1, ..Below::default() };
        below.users.insert(7, b"eva".to_vec());
        below.groups.insert(0, Vec::new());
        below.link(5, LinkGroup([9; 16]));
        let mut bytes = Vec::new();
        below.encode(&mut bytes);
        assert_eq!(Below::decode(&bytes), Some(below.clone()));
        assert_eq!(Below::decode(&bytes[..bytes.len() - 1]), None);
        let mut above = Below::default();
        above.add(&below, 10);
        above.add(&below, 20);
        assert_eq!((above.files, above.links.clone()), (6, vec![(15, LinkGroup([9; 16])), (25, LinkGroup([9; 16]))]));
        (0..MOST_LINKS as u64).for_each(|at| above.link(at, LinkGroup([1; 16])));
        assert!(!above.is_whole() && below.is_whole());
    }
}
