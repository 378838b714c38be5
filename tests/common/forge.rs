//! Makes objects that no writer of ours makes, sealed with the repository's own keys: what a broken or hostile writer
//! would leave.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used)] // Every test file uses its own part of this.

use std::collections::HashSet;

use yester::chunk::codec::{Compression, Encoder};
use yester::chunk::seal::SealKey;
use yester::format::node;
use yester::format::pack::{self, Codec, DirectoryEntry, FrameInfo, PackKind, Preamble};
use yester::format::page::{self, Child, PageKind};
use yester::model::{
    ChunkId, ChunkKey, Content, Directory, Item, Kind, Metadata, Node, Owners, PackId, Root, Snapshot, SnapshotId, Statistics,
    Timestamp,
};
use yester::repo::index::segment::Segment;
use yester::repo::pack::{FrameSealer, PackKey, PlainFrame, StoredPack, store};
use yester::repo::{Repository, snapshots};
use yester::storage::Name;

/// The time that everything has.
pub const NOW: Timestamp = Timestamp { secs: 1_700_000_000, nanos: 0 };

/// A node with the least that it needs.
pub fn node(name: impl AsRef<[u8]>, kind: Kind) -> Node {
    let mode = if matches!(kind, Kind::Directory(_)) { 0o755 } else { 0o644 };
    let meta = Metadata { mode, mtime: NOW, ..Metadata::default() };
    Node { name: name.as_ref().to_vec(), meta, kind, link: None, given: true, changed: false, left_out: Default::default() }
}

/// A small file.
pub fn inline(name: impl AsRef<[u8]>, content: &str) -> Node {
    node(name, Kind::File(Content::Inline(content.as_bytes().to_vec())))
}

/// A file of one chunk.
pub fn file(name: impl AsRef<[u8]>, id: ChunkId, len: u32) -> Node {
    node(name, Kind::File(Content::Items(vec![Item::Chunk { id, len }])))
}

/// A child of an inner page.
pub fn child(page: ChunkId, count: u64, weight: u64, key: &[u8]) -> Child {
    Child { page, count, weight, key: key.to_vec() }
}

/// What is to be stored.
pub struct Forge<'r> {
    pub repo: &'r Repository,
    pub id: SnapshotId,
    data: Frames,
    trees: Frames,
}

/// Chunks of one kind, gathered into frames.
#[derive(Default)]
struct Frames {
    frames: Vec<PlainFrame>,
    known: HashSet<ChunkId>,
}

impl<'r> Forge<'r> {
    pub fn new(repo: &'r Repository) -> Self {
        let id = SnapshotId::random().unwrap();
        Forge { repo, id, data: Frames::default(), trees: Frames::default() }
    }

    fn put(repo: &Repository, kind: PackKind, frames: &mut Frames, bytes: &[u8]) -> ChunkId {
        let id = repo.keys().chunk_id(kind, bytes);
        if frames.known.insert(id) {
            let full = |frame: &PlainFrame| frame.bytes.len() + bytes.len() > 4 << 20 || frame.chunks.len() >= 4096;
            if frames.frames.last().is_none_or(full) {
                frames.frames.push(PlainFrame::default());
            }
            let frame = frames.frames.last_mut().unwrap();
            frame.bytes.extend_from_slice(bytes);
            frame.chunks.push((id, bytes.len() as u32));
        }
        id
    }

    /// A chunk of a file.
    pub fn data(&mut self, bytes: &[u8]) -> ChunkId {
        Self::put(self.repo, PackKind::Data, &mut self.data, bytes)
    }

    /// A chunk of a tree, whatever is in it.
    pub fn page(&mut self, bytes: &[u8]) -> ChunkId {
        Self::put(self.repo, PackKind::Tree, &mut self.trees, bytes)
    }

    /// A leaf of a directory with these nodes as they stand.
    pub fn leaf(&mut self, nodes: &[Node]) -> ChunkId {
        let mut bytes = Vec::new();
        page::start(PageKind::Directory, 0, &mut bytes);
        nodes.iter().for_each(|node| node::encode_unchecked(node, &mut bytes));
        self.page(&bytes)
    }

    /// An inner page.
    pub fn inner(&mut self, kind: PageKind, level: u8, children: &[Child]) -> ChunkId {
        let mut bytes = Vec::new();
        page::start(kind, level, &mut bytes);
        children.iter().for_each(|child| page::put_child(child, &mut bytes));
        self.page(&bytes)
    }

    /// A recipe's leaf.
    pub fn items(&mut self, items: &[Item]) -> ChunkId {
        let mut bytes = Vec::new();
        page::start(PageKind::Recipe, 0, &mut bytes);
        items.iter().for_each(|item| page::put_item(item, &mut bytes));
        self.page(&bytes)
    }

    /// A directory with these nodes, which states what is true of them.
    pub fn directory(&mut self, nodes: &[Node]) -> Directory {
        if nodes.is_empty() {
            return Directory::default();
        }
        Directory {
            root: Some(Root { page: self.leaf(nodes), height: 0 }),
            entries: nodes.len() as u64,
            descendants: nodes.iter().map(Node::weight).fold(0, u64::wrapping_add),
            subdirs: nodes.iter().filter(|n| n.directory().is_some()).count() as u64,
        }
    }

    /// A directory node with these nodes.
    pub fn dir(&mut self, name: impl AsRef<[u8]>, nodes: &[Node]) -> Node {
        let directory = self.directory(nodes);
        node(name, Kind::Directory(directory))
    }

    /// Stores what was made; a segment names it.
    pub fn store(&mut self) -> Vec<StoredPack> {
        let mut packs = Vec::new();
        for (kind, frames) in [(PackKind::Data, &mut self.data), (PackKind::Tree, &mut self.trees)] {
            if !frames.frames.is_empty() {
                packs.push(store_frames(self.repo, kind, self.id, &std::mem::take(frames).frames));
            }
        }
        if !packs.is_empty() {
            Segment::of_packs(&packs).store(self.repo, Vec::new()).unwrap();
        }
        packs
    }

    /// The same, and a snapshot of `root`, which `change` may spoil.
    pub fn commit(&mut self, root: Node, change: impl FnOnce(&mut Snapshot)) -> (Snapshot, Vec<StoredPack>) {
        let packs = self.store();
        let mut snapshot = Snapshot {
            id: self.id,
            time: NOW,
            finished: NOW,
            host: b"host".to_vec(),
            user: b"user".to_vec(),
            paths: vec![b"/".to_vec()],
            tags: Vec::new(),
            parent: None,
            writer: None,
            chain: yester::model::Chain::default(),
            root,
            scan: None,
            scan_start: NOW,
            links: None,
            owners: Owners::default(),
            rules: Vec::new(),
            composition: Default::default(),
            statistics: Statistics::default(),
            program: b"forge".to_vec(),
        };
        change(&mut snapshot);
        assert!(snapshots::commit(self.repo, &snapshot).unwrap());
        (snapshot, packs)
    }
}

/// Stores frames as one pack, without a segment.
pub fn store_frames(repo: &Repository, kind: PackKind, session: SnapshotId, frames: &[PlainFrame]) -> StoredPack {
    let key = PackKey::generate(repo, kind, session).unwrap();
    let mut sealer = FrameSealer::new(Encoder::new(Compression::Auto).unwrap()).unwrap();
    let seal = |(number, frame): (usize, &PlainFrame)| sealer.seal(repo.keys(), &key, number as u32, frame, None).unwrap();
    let sealed = frames.iter().enumerate().map(seal).collect();
    store(repo, &key, sealed).unwrap()
}

/// A pack of which nothing need be right.
pub struct RawPack {
    /// What it is sealed with, unless the preamble is changed.
    pub key: SealKey,
    /// The first bytes.
    pub preamble: Preamble,
    /// What is sealed into each frame (compressed bytes, or plain ones).
    pub frames: Vec<Vec<u8>>,
    /// How each frame is described where it is sealed: codec and plain length are authenticated with it.
    pub described: Vec<(Codec, u32)>,
    /// The plain bytes of the directory.
    pub directory: Vec<u8>,
    /// How many frames the tail states.
    pub stated: u32,
}

impl RawPack {
    /// One with these frames, of which nothing is said yet.
    pub fn new(repo: &Repository, kind: PackKind, frames: &[(Codec, u32, &[u8])]) -> RawPack {
        let (salt, writer) = ([0x5a; 32], repo.keys().writer());
        let mut session = SnapshotId([1; 32]);
        if let Some(writer) = writer {
            session.0[24..].copy_from_slice(&writer.0);
        }
        let mut preamble = Preamble { repository: repo.id(), salt, commitment: [0; 16], session, kind, writer };
        let key = match writer {
            Some(_) => {
                let (salt, key) = SealKey::fresh(repo.keys().pack(kind), &preamble.bound()).unwrap();
                preamble.salt = salt;
                key
            }
            None => SealKey::derive_bound(repo.keys().pack(kind), &salt, &preamble.bound()).unwrap(),
        };
        preamble.commitment = key.commitment;
        RawPack {
            preamble,
            key,
            frames: frames.iter().map(|(_, _, bytes)| bytes.to_vec()).collect(),
            described: frames.iter().map(|(codec, plain, _)| (*codec, *plain)).collect(),
            directory: Vec::new(),
            stated: frames.len() as u32,
        }
    }

    /// Stores it after `change` did something to the whole of its bytes (the checksum is put right behind it), and
    /// answers what an honest index would say of it with these chunks.
    pub fn store(self, repo: &Repository, chunks: &[&[(ChunkKey, u32)]], change: impl FnOnce(&mut Vec<u8>)) -> StoredPack {
        let key = match self.preamble.writer {
            Some(_) => self.key,
            None => {
                let class = repo.keys().pack(self.preamble.kind);
                SealKey::derive_bound(class, &self.preamble.salt, &self.preamble.bound()).unwrap()
            }
        };
        let mut bytes = self.preamble.encode().to_vec();
        let mut entries = Vec::new();
        for (number, (frame, (codec, plain))) in self.frames.iter().zip(&self.described).enumerate() {
            let mut sealed = frame.clone();
            key.seal(number as u64, &self.preamble.frame_aad(number as u32, *codec, *plain), &mut sealed).unwrap();
            let (offset, stored) = (bytes.len() as u64, sealed.len() as u32);
            let info = FrameInfo { offset, stored, plain: *plain, codec: *codec, bases: Vec::new() };
            let of_frame = chunks.get(number).map(|chunks| chunks.to_vec()).unwrap_or_default();
            entries.push(DirectoryEntry { frame: info, chunks: of_frame });
            bytes.extend_from_slice(&sealed);
        }
        let mut directory = if self.directory.is_empty() { pack::encode_directory_unchecked(&entries) } else { self.directory };
        let aad = self.preamble.frame_aad(self.stated, Codec::Raw, 0);
        key.seal(pack::DIRECTORY_NONCE, &aad, &mut directory).unwrap();
        let tail = pack::Tail { directory: bytes.len() as u64, directory_len: directory.len() as u32, frames: self.stated };
        bytes.extend_from_slice(&directory);
        bytes.extend_from_slice(&tail.encode());
        change(&mut bytes);
        let id = PackId(*blake3::hash(&bytes).as_bytes());
        bytes.extend_from_slice(&id.0);
        repo.storage().create(&Name::Pack(id), &[&bytes]).unwrap();
        let one_way = self.preamble.writer.is_some();
        StoredPack { id, kind: self.preamble.kind, size: bytes.len() as u64, one_way, entries }
    }
}
