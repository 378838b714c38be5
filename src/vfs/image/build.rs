//! Making an image: three passes over a tree.
//!
//! 1. Preorder: every inode with its attributes is appended. What is behind it (a link's target, a map of holes, room for a
//!    small directory) is as well. A number for each position says where its inode is.
//! 2. The directories, in preorder: their lists, for which all numbers must be known.
//! 3. The positions, without the tree: each file gets its address.
//!
//! Nothing is held in memory but the way down from the root; the rest is in areas. Only what `format` has validated comes
//! here, and what it does not look at (the order of names across pages, tables of links) is looked at here: an
//! image is read by the kernel.

use std::collections::HashMap;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Content, Directory, Kind, LinkGroup, Node, Timestamp};
use crate::vfs::image::area::{Area, Areas};
use crate::vfs::image::bytes::{self, INODE, Inode, InodeFields, Layout, PLACE_AT, SIZE_AT, SLOT, Superblock};
use crate::vfs::image::directory::{self, DirectoryBlocks};
use crate::vfs::image::holes::{self, NOWHERE};
use crate::vfs::image::made::Image;
use crate::vfs::image::tree::Tree;
use crate::vfs::image::{BLOCK, attributes};

/// The root's number: no inode may have 0.
const ROOT: u32 = 2;
/// A directory with more entries is not tried behind its inode.
const FEW: u64 = 160;
/// Groups of links whose first link is elsewhere that are remembered.
const MOST_OUTSIDE: usize = 1 << 20;

/// What an image does not show as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Files with holes: `st_blocks` is their whole length.
    pub sparse: u64,
    /// Those of them whose holes are not shown whole, but as zeros.
    pub zeros: u64,
    /// Entries with `chattr` flags.
    pub flags: u64,
    /// Extended attributes of other kinds than `user`, `trusted`, `security` and ACLs, and too long ones.
    pub attributes: u64,
}

/// What an image is called.
#[derive(Debug, Clone, Copy)]
pub struct ImageName {
    /// Its own number, made of what is in it.
    pub(crate) uuid: [u8; 16],
    /// The time it is of.
    pub(crate) time: Timestamp,
}

/// Makes the metadata of an image of `tree`. An error of kind [`ErrorKind::Unsupported`] says that there is no room for
/// them, or that the tree is too large for EROFS.
pub fn build<T: Tree>(tree: &T, areas: &Areas, name: ImageName) -> Result<Image> {
    let mut build = Build {
        tree,
        inodes: areas.area()?,
        numbers: areas.area()?,
        blocks: areas.area()?,
        outside: HashMap::new(),
        losses: Losses::default(),
        pieces: false,
        count: 0,
    };
    build.inodes.append(&[0; (ROOT as u64 * SLOT) as usize])?;
    build.place()?;
    build.inodes.pad(BLOCK)?;
    build.list()?;
    build.address(areas.area()?, name)
}

struct Build<'t, T> {
    tree: &'t T,
    /// From block 1 on.
    inodes: Area,
    /// For each position the number of its inode: four bytes.
    numbers: Area,
    /// Behind the inodes.
    blocks: Area,
    /// Files whose first link is not in this tree, or not where the table says.
    outside: HashMap<LinkGroup, u32>,
    losses: Losses,
    pieces: bool,
    count: u64,
}

/// A directory on the way down.
struct DirectoryFrame<E> {
    directory: Directory,
    position: u64,
    next: Option<E>,
}

fn too_large() -> Error {
    Error::new(ErrorKind::Unsupported, "the tree is too large for an image of EROFS (16 TiB with holes, 2³² places of inodes)")
}

impl<T: Tree> Build<'_, T> {
    /// Visits every node in preorder.
    fn walk(&mut self, visit: &mut dyn FnMut(&mut Self, u64, &Node) -> Result<()>) -> Result<()> {
        let root = self.tree.root()?;
        visit(self, 0, &root)?;
        let mut stack = Vec::new();
        let enter = |tree: &T, stack: &mut Vec<DirectoryFrame<T::Entry>>, position, directory: &Directory| {
            let next = tree.first(directory)?;
            stack.push(DirectoryFrame { directory: *directory, position, next });
            Ok::<(), Error>(())
        };
        if let Some(directory) = root.directory() {
            enter(self.tree, &mut stack, 0, directory)?;
        }
        while let Some(top) = stack.last_mut() {
            let Some(entry) = top.next.take() else {
                stack.pop();
                continue;
            };
            top.next = self.tree.next(&top.directory, &entry)?;
            let position = top.position + self.tree.offset(&entry);
            let node = self.tree.node(&entry);
            visit(self, position, node)?;
            if let Some(directory) = node.directory() {
                enter(self.tree, &mut stack, position, directory)?;
            }
        }
        Ok(())
    }

    /// The first pass.
    fn place(&mut self) -> Result<()> {
        self.walk(&mut |build, position, node| {
            if build.numbers.len() != position * 4 {
                return Err(Error::corrupt("a directory holds another number of entries than stated"));
            }
            let number = match build.earlier(position, node)? {
                Some(number) => number,
                None => build.inode(position, node)?,
            };
            build.numbers.append(&number.to_le_bytes())
        })
    }

    fn number(&self, position: u64) -> Result<u32> {
        self.numbers.array(position * 4).map(u32::from_le_bytes)
    }

    /// The inode of an earlier link of the same file.
    fn earlier(&mut self, position: u64, node: &Node) -> Result<Option<u32>> {
        let Some(group) = &node.link else { return Ok(None) };
        match self.tree.first_link(node)? {
            Some(first) if first == position => return Ok(None),
            Some(first) if first < position && self.tree.is_link_of(first, node)? => return self.number(first).map(Some),
            _ => {}
        }
        if let Some(number) = self.outside.get(group) {
            return Ok(Some(*number));
        }
        if self.outside.len() >= MOST_OUTSIDE {
            return Err(Error::new(ErrorKind::Unsupported, "too many hard links have their first name elsewhere"));
        }
        let group = *group;
        let number = self.inode(position, node)?;
        self.outside.insert(group, number);
        Ok(Some(number))
    }

    /// Appends the inode of a node, and what is behind it. Its number.
    fn inode(&mut self, position: u64, node: &Node) -> Result<u32> {
        let shown = self.tree.shown(position, node)?;
        let (attributes, lost) = attributes::encode(&self.tree.xattrs(node)?);
        self.losses.attributes += lost;
        self.losses.flags += u64::from(node.meta.flags != 0);
        self.count += 1;
        let mut inode = Inode {
            layout: Layout::Plain,
            attributes: attributes.len() as u64,
            mode: kind(&node.kind) | shown.mode,
            size: 0,
            place: 0,
            number: u32::try_from(position + 1).unwrap_or(u32::MAX),
            owner: shown.owner,
            mtime: node.meta.mtime,
            links: shown.links.max(1),
        };
        let mut behind = Vec::new();
        match &node.kind {
            Kind::File(content) => self.file(content, &mut inode, &mut behind)?,
            Kind::Directory(directory) => {
                if let Some(size) = self.fits(directory, INODE + inode.attributes)? {
                    (inode.layout, inode.size) = (Layout::Inline, size);
                    behind.resize(size as usize, 0);
                }
            }
            Kind::Symlink(target) => {
                inode.size = target.len() as u64;
                if INODE + inode.attributes + inode.size <= BLOCK {
                    inode.layout = Layout::Inline;
                    behind.extend_from_slice(target);
                }
            }
            Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => inode.place = device(*major, *minor),
            Kind::Fifo | Kind::Socket => {}
        }
        self.inodes.pad(SLOT)?;
        let length = INODE + inode.attributes + behind.len() as u64;
        let crosses = |at: u64, length: u64| at / BLOCK != (at + length - 1) / BLOCK;
        if crosses(self.inodes.len(), INODE) || inode.layout == Layout::Inline && crosses(self.inodes.len(), length) {
            self.inodes.pad(BLOCK)?;
        }
        let number = u32::try_from(self.inodes.len() / SLOT).map_err(|_| too_large())?;
        self.inodes.append(&inode.bytes())?;
        self.inodes.append(&attributes)?;
        self.inodes.append(&behind)?;
        Ok(number)
    }

    /// A file without holes is in blocks one after the other; one with holes has a map behind its inode.
    fn file(&mut self, content: &Content, inode: &mut Inode, behind: &mut Vec<u8>) -> Result<()> {
        inode.size = content.size();
        if content.data() >= inode.size {
            return Ok(());
        }
        let map = holes::map(inode.size, &|visit| self.tree.items(content, visit))?.ok_or_else(too_large)?;
        self.losses.sparse += 1;
        self.losses.zeros += u64::from(!map.exact);
        self.pieces = true;
        (inode.layout, inode.place) = (Layout::Pieces, map.bits);
        map.pieces.iter().for_each(|piece| behind.extend_from_slice(&piece.to_le_bytes()));
        Ok(())
    }

    /// The length of a directory's list, if it fits behind so many bytes of its inode.
    fn fits(&self, directory: &Directory, before: u64) -> Result<Option<u64>> {
        let room = BLOCK.saturating_sub(before);
        // `.` and `..` with their names, and names of one byte at least.
        if directory.entries > FEW || directory.entries * 13 + 27 > room {
            return Ok(None);
        }
        let mut size = 27;
        let mut next = self.tree.first(directory)?;
        while let Some(entry) = next {
            size += 12 + self.tree.node(&entry).name.len() as u64;
            if size > room {
                return Ok(None);
            }
            next = self.tree.next(directory, &entry)?;
        }
        Ok(Some(size))
    }

    fn seen(&self, number: u32) -> Result<InodeFields> {
        self.inodes.array(u64::from(number) * SLOT).map(|inode| bytes::seen(&inode))
    }

    /// The block after all that there are so far.
    fn next_block(&self) -> Result<u32> {
        u32::try_from(1 + (self.inodes.len() + self.blocks.len()) / BLOCK).map_err(|_| too_large())
    }

    /// The second pass.
    fn list(&mut self) -> Result<()> {
        let mut way: Vec<(u64, u32)> = Vec::new();
        self.walk(&mut |build, position, node| {
            let number = build.number(position)?;
            match &node.kind {
                Kind::Directory(directory) => {
                    while way.last().is_some_and(|(end, _)| *end <= position) {
                        way.pop();
                    }
                    let parent = way.last().map_or(number, |(_, number)| *number);
                    way.push((position + node.weight(), number));
                    build.directory(position, directory, (number, parent))
                }
                Kind::Symlink(target) => build.target(number, target),
                _ => Ok(()),
            }
        })
    }

    /// The target of a link, if it is not behind its inode.
    fn target(&mut self, number: u32, target: &[u8]) -> Result<()> {
        let seen = self.seen(number)?;
        if seen.mode & 0o170_000 != 0o120_000 || seen.inline || seen.place != 0 {
            return Ok(());
        }
        let block = self.next_block()?;
        self.blocks.append(target)?;
        self.blocks.pad(BLOCK)?;
        self.inodes.patch(u64::from(number) * SLOT + PLACE_AT, &block.to_le_bytes())
    }

    fn directory(&mut self, position: u64, directory: &Directory, (own, parent): (u32, u32)) -> Result<()> {
        let (seen, block, before) = (self.seen(own)?, self.next_block()?, self.blocks.len());
        let mut listing = DirectoryBlocks::new(u64::from(own), u64::from(parent));
        let (mut inline, mut size) = (Vec::new(), 0);
        let blocks = &mut self.blocks;
        let mut take = |block: &[u8]| {
            size += block.len() as u64;
            if seen.inline {
                inline.extend_from_slice(block);
                return Ok(());
            }
            blocks.append(block)
        };
        let mut next = self.tree.first(directory)?;
        while let Some(entry) = next {
            let at = position + self.tree.offset(&entry);
            let number = self.numbers.array(at * 4).map(u32::from_le_bytes)?;
            let mode = u16::from_le_bytes(self.inodes.array(u64::from(number) * SLOT + 4)?);
            listing.add(&self.tree.node(&entry).name, u64::from(number), directory::kind(mode), &mut take)?;
            next = self.tree.next(directory, &entry)?;
        }
        listing.finish(&mut take)?;
        let inode = u64::from(own) * SLOT;
        if seen.inline {
            if size != seen.size {
                return Err(Error::corrupt("a directory is not the same when it is read again"));
            }
            return self.inodes.patch(inode + INODE + seen.attributes, &inline);
        }
        debug_assert_eq!(before % BLOCK, 0);
        self.blocks.pad(BLOCK)?;
        self.inodes.patch(inode + SIZE_AT, &size.to_le_bytes())?;
        self.inodes.patch(inode + PLACE_AT, &block.to_le_bytes())
    }

    /// The third pass: addresses for files, in preorder.
    fn address(mut self, mut files: Area, name: ImageName) -> Result<Image> {
        let data = self.next_block()?;
        let (mut next, mut last) = (u64::from(data), 0);
        for position in 0..self.numbers.len() / 4 {
            let number = self.number(position)?;
            // Numbers ascend; what does not is another link of an earlier file.
            if number <= last {
                continue;
            }
            last = number;
            let seen = self.seen(number)?;
            if seen.mode & 0o170_000 != 0o100_000 || seen.size == 0 {
                continue;
            }
            let begin = u32::try_from(next).map_err(|_| too_large())?;
            next += seen.size.div_ceil(BLOCK);
            // The last number means "nowhere".
            if next >= u64::from(u32::MAX) {
                return Err(too_large());
            }
            let inode = u64::from(number) * SLOT;
            match seen.pieces {
                false => self.inodes.patch(inode + PLACE_AT, &begin.to_le_bytes())?,
                true => self.shift(inode + INODE + seen.attributes, &seen, begin)?,
            }
            let position = u32::try_from(position).map_err(|_| too_large())?;
            files.append(&[begin.to_le_bytes(), position.to_le_bytes()].concat())?;
        }
        let superblock = Superblock {
            root: ROOT as u16,
            inodes: self.count,
            time: name.time,
            blocks: next as u32,
            first: 1,
            uuid: name.uuid,
            pieces: self.pieces,
        };
        Ok(Image::new(superblock.bytes(), [self.inodes, self.blocks, files], data, next as u32, self.losses))
    }

    /// Makes a map of holes speak of places in the image.
    fn shift(&mut self, map: u64, seen: &InodeFields, begin: u32) -> Result<()> {
        for at in 0..seen.size.div_ceil(BLOCK << seen.place) {
            let piece = u32::from_le_bytes(self.inodes.array(map + at * 4)?);
            if piece != NOWHERE {
                self.inodes.patch(map + at * 4, &piece.saturating_add(begin).to_le_bytes())?;
            }
        }
        Ok(())
    }
}

fn kind(kind: &Kind) -> u16 {
    match kind {
        Kind::File(_) => 0o100_000,
        Kind::Directory(_) => 0o040_000,
        Kind::Symlink(_) => 0o120_000,
        Kind::Fifo => 0o010_000,
        Kind::Socket => 0o140_000,
        Kind::CharDevice(..) => 0o020_000,
        Kind::BlockDevice(..) => 0o060_000,
    }
}

/// A device number in 32 bits, as the kernel shows it through FUSE, too.
fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}
