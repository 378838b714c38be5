//! A tree of a snapshot as an archive that other programs unpack: tar, or zip.
//!
//! ```text
//! snapshot ──▶ entries in the order of the walk ──▶ tar: everything that a tree holds, as PAX records
//!                                              └──▶ zip: names, modes, times, content
//! ```
//!
//! An archive is written from front to back and needs no seeking, so it can go into a pipe. Memory is bounded by what is
//! decoded ahead, and by the names of files with several hard links (tar) or of all entries (zip, whose directory comes last).

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::{Content, Item, Kind, LinkGroup, Node, Owners, Snapshot};
use crate::observe::{Event, Observer};
use crate::repo::tree::TreeReader;
use crate::task::Task;
use crate::vfs::attr::ViewFault;
use crate::vfs::below::{FoundNode, NodeFinder};
use crate::vfs::readahead::{FileRead, ReadAhead};
use crate::vfs::root::MountedSnapshot;

mod pax;
mod tar;
mod zip;

const STOPPED: &str = "the export was stopped";

/// What kind of archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// tar with PAX records: GNU tar and bsdtar unpack all of it.
    Tar,
    /// zip: for people whose system has nothing else.
    Zip,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Archived {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of the content of files; holes count.
    pub bytes: u64,
    /// What the archive cannot hold.
    pub losses: ArchiveLosses,
}

/// What an archive lacks of the tree, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArchiveLosses {
    /// Entries that the format has no place for: sockets; of zip also pipes and devices.
    pub left_out: u64,
    /// Entries with `chattr` flags, which no archive holds.
    pub flags: u64,
    /// Entries with extended attributes or ACLs that are not in the archive.
    pub attributes: u64,
    /// Hard links that are files of their own in the archive.
    pub links: u64,
    /// Names that are not UTF-8, and are changed in the archive.
    pub names: u64,
}

/// An entry on its way into an archive.
struct ArchiveEntry<'a> {
    /// Its path below the directory that is exported, without a slash at the beginning; `.` for that directory.
    path: &'a [u8],
    node: &'a Node,
    /// Extended attributes, sorted by name.
    xattrs: &'a [(Vec<u8>, Vec<u8>)],
    user: Option<&'a [u8]>,
    group: Option<&'a [u8]>,
    /// The path of an earlier entry that is the same file.
    same_as: Option<&'a [u8]>,
    body: Body<'a>,
}

/// What writes entries of one format.
trait ArchiveWriter {
    /// Writes an entry. False: the format has no place for it.
    fn entry(&mut self, entry: &ArchiveEntry<'_>, losses: &mut ArchiveLosses) -> Result<bool>;

    /// Ends the archive.
    fn finish(&mut self) -> Result<()>;

    /// Whether a hard link can be said.
    fn knows_links(&self) -> bool;

    /// Whether the directory that is exported has an entry of its own.
    fn holds_top(&self) -> bool;
}

/// The content of a file.
struct Body<'a> {
    walk: &'a ArchiveWalk<'a>,
    found: &'a FoundNode,
    position: u64,
}

impl Body<'_> {
    fn content(&self) -> Option<&Content> {
        match &self.found.node().kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    /// The parts that hold data, as offset and length; neighbouring ones are one.
    fn extents(&self) -> Result<Vec<(u64, u64)>> {
        let mut out: Vec<(u64, u64)> = Vec::new();
        let Some(content) = self.content() else { return Ok(out) };
        if let Content::Inline(bytes) = content {
            out.push((0, bytes.len() as u64));
            return Ok(out);
        }
        self.walk.trees.items(content, 0, &mut |start, item| {
            if let Item::Chunk { len, .. } = item {
                match out.last_mut() {
                    Some((at, sum)) if *at + *sum == start => *sum += u64::from(*len),
                    _ => out.push((start, u64::from(*len))),
                }
            }
            Ok(true)
        })?;
        Ok(out)
    }

    /// Gives the bytes from front to back. Holes are zeros, or left out.
    fn write(&self, holes: bool, out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Some(content) = self.content() else { return Ok(()) };
        if let Content::Inline(bytes) = content {
            return out(bytes);
        }
        let walk = self.walk;
        walk.trees.items(content, 0, &mut |start, item| {
            walk.task.go_on(STOPPED)?;
            match item {
                Item::Chunk { id, len } => {
                    let (tree, position, range) = (&walk.mounted, self.position, (start, u64::from(*len)));
                    walk.read_ahead.reading(&FileRead { tree, position, found: self.found, ino: None, range });
                    out(&walk.trees.data(id, *len)?)?;
                }
                Item::Hole { len } if holes => zeros(*len, out)?,
                Item::Hole { .. } => {}
            }
            Ok(true)
        })
    }
}

fn zeros(mut len: u64, out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    while len > 0 {
        let some = len.min(ZEROS.len() as u64);
        out(&ZEROS[..some as usize])?;
        len -= some;
    }
    Ok(())
}

/// A walk through a directory of a snapshot.
struct ArchiveWalk<'a> {
    trees: Arc<TreeReader>,
    finder: Arc<NodeFinder>,
    read_ahead: ReadAhead,
    mounted: Arc<MountedSnapshot>,
    task: &'a Task<'a>,
}

/// Which directory goes into an archive, and how.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// The format.
    pub format: ArchiveFormat,
    /// The directory's position in the preorder of the snapshot; 0 is the root.
    pub position: u64,
    /// Bytes that are decoded ahead.
    pub memory: u64,
}

/// Writes the directory at a position of `snapshot` into `out`. Errors: something cannot be read; then what is in `out` is
/// no archive.
pub fn archive(
    trees: &Arc<TreeReader>,
    snapshot: Snapshot,
    options: &ArchiveOptions,
    task: &Task<'_>,
    out: &mut dyn Write,
) -> Result<Archived> {
    let finder = Arc::new(NodeFinder::new(trees.clone()));
    let read_ahead = ReadAhead::new(finder.clone(), options.memory)?;
    let owners = snapshot.owners.clone();
    let mounted = Arc::new(MountedSnapshot::new(0, snapshot));
    let walk = ArchiveWalk { trees: trees.clone(), finder, read_ahead, mounted, task };
    match options.format {
        ArchiveFormat::Tar => walk.run(options.position, &owners, &mut tar::TarWriter::new(out)),
        ArchiveFormat::Zip => walk.run(options.position, &owners, &mut zip::ZipArchive::new(out)),
    }
}

impl ArchiveWalk<'_> {
    fn run(&self, top: u64, owners: &Owners, out: &mut dyn ArchiveWriter) -> Result<Archived> {
        let mut done = Archived::default();
        let mut first: HashMap<LinkGroup, Vec<u8>> = HashMap::new();
        // The last position below each directory that leads here, and how long its path is.
        let mut stack: Vec<(u64, usize)> = Vec::new();
        let (mut path, mut position, mut end) = (Vec::new(), top, top);
        while position <= end {
            self.task.go_on(STOPPED)?;
            let found = self.finder.node(&self.mounted, position).map_err(ViewFault::into_error)?;
            let node = found.node();
            while stack.last().is_some_and(|(last, _)| position > *last) {
                stack.pop();
            }
            path.truncate(stack.last().map_or(0, |(_, len)| *len));
            if position == top {
                end = top + node.directory().map_or(0, |directory| directory.descendants);
            } else {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&node.name);
            }
            if let Some(directory) = node.directory() {
                stack.push((position + directory.descendants, path.len()));
            }
            let same_as = node.link.as_ref().and_then(|group| first.get(group)).cloned();
            let entry = ArchiveEntry {
                path: if path.is_empty() { b"." } else { &path },
                node,
                xattrs: &self.trees.xattrs(node)?,
                user: name_of(&owners.users, node.meta.uid),
                group: name_of(&owners.groups, node.meta.gid),
                same_as: same_as.as_deref(),
                body: Body { walk: self, found: &found, position },
            };
            if let Some(group) = &node.link
                && same_as.is_none()
            {
                first.insert(*group, path.clone());
            }
            if position > top || out.holds_top() {
                done.count(&entry, out, self.task.observer)?;
            }
            position += 1;
        }
        out.finish()?;
        Ok(done)
    }
}

impl Archived {
    /// Writes an entry, and counts it.
    fn count(&mut self, entry: &ArchiveEntry<'_>, out: &mut dyn ArchiveWriter, observer: &dyn Observer) -> Result<()> {
        let written = out.entry(entry, &mut self.losses).map_err(|e| e.about(crate::model::escape(entry.path)))?;
        if !written {
            self.losses.left_out += 1;
            return Ok(());
        }
        self.entries += 1;
        self.losses.flags += u64::from(entry.node.meta.flags != 0);
        if entry.same_as.is_some() && !out.knows_links() {
            self.losses.links += 1;
        }
        if let Kind::File(content) = &entry.node.kind
            && (entry.same_as.is_none() || !out.knows_links())
        {
            self.bytes += content.size();
        }
        let (entries, bytes) = (self.entries, self.bytes);
        observer.event(&Event::Progress { entries, bytes, total_entries: 0, total_bytes: 0, unit: "entries" });
        Ok(())
    }
}

fn name_of(names: &[(u32, Vec<u8>)], number: u32) -> Option<&[u8]> {
    let at = names.binary_search_by_key(&number, |(known, _)| *known).ok()?;
    names.get(at).map(|(_, name)| name.as_slice())
}

fn io(e: std::io::Error) -> Error {
    Error::io("cannot write the archive", e)
}

/// A SHA-256 digest of what was written, which `sha256sum` compares.
#[derive(Clone)]
pub struct Digest(aws_lc_rs::digest::Context);

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest")
    }
}

impl Default for Digest {
    fn default() -> Self {
        Digest(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
    }
}

impl Digest {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest in hexadecimal digits.
    pub fn finish(self) -> String {
        self.0.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Has `write` write into `out` through zstd. Errors: those of `write`, and of writing.
pub fn compressed<T>(out: &mut dyn Write, write: &mut dyn FnMut(&mut dyn Write) -> Result<T>) -> Result<T> {
    let mut encoder = zstd::stream::Encoder::new(out, 3).map_err(io)?;
    encoder.include_checksum(true).map_err(io)?;
    let written = write(&mut encoder)?;
    encoder.finish().map_err(io)?;
    Ok(written)
}
