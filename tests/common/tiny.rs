//! A repository in memory, made of the library's own building blocks: packs, a segment, pages, a snapshot. Trees are
//! written down as values.

#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use yester::chunk::codec::{Compression, Encoder};
use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::format::node::encode_unchecked as encode;
use yester::format::pack::PackKind;
use yester::format::page::{self, LinkEntry, PageKind, ScanRecord};
use yester::model::{
    ChunkId, ChunkKey, Composition, Content, Directory, GroupPart, Item, Kind, LinkGroup, Metadata, Node, Owners, Root, Snapshot,
    SnapshotId, Statistics, Timestamp, Xattrs,
};
use yester::repo::index::segment::Segment;
use yester::repo::pack::{FrameSealer, PackKey, PlainFrame, StoredPack, store};
use yester::repo::tree::writer::{PageSink, TreeWriter};
use yester::repo::{InitOptions, Repository, snapshots};
use yester::storage::memory::MemoryStorage;
use yester::storage::{Class, Name, Storage};

/// Bytes of one chunk.
pub const CHUNK: usize = 10_000;
/// A frame is closed when it has so many bytes.
const FRAME: usize = 32 << 10;

/// A piece of a file.
#[derive(Debug, Clone)]
pub enum Piece {
    Data(Vec<u8>),
    Hole(u64),
}

#[derive(Debug, Clone)]
pub enum What {
    Dir(BTreeMap<Vec<u8>, Tree>),
    File(Vec<Piece>),
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    Char(u32, u32),
    Block(u32, u32),
}

/// One entry with all that is below it.
#[derive(Debug, Clone)]
pub struct Tree {
    pub what: What,
    pub mode: u16,
    pub owner: (u32, u32),
    pub mtime: Timestamp,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Entries with the same label are links of one file.
    pub link: Option<&'static str>,
    pub birth: Option<Timestamp>,
    pub flags: u32,
}

impl Tree {
    pub fn new(what: What) -> Tree {
        let mode = if matches!(what, What::Dir(_)) { 0o755 } else { 0o644 };
        let mtime = Timestamp { secs: 1_700_000_000, nanos: 123_456_789 };
        Tree { what, mode, owner: (0, 0), mtime, xattrs: Vec::new(), link: None, birth: None, flags: 0 }
    }

    pub fn with(mut self, change: impl FnOnce(&mut Tree)) -> Tree {
        change(&mut self);
        self
    }

    /// The entries of a directory.
    pub fn entries(&self) -> &BTreeMap<Vec<u8>, Tree> {
        match &self.what {
            What::Dir(entries) => entries,
            _ => panic!("not a directory"),
        }
    }

    /// The bytes of a file.
    pub fn bytes(&self) -> Vec<u8> {
        let What::File(pieces) = &self.what else { panic!("not a file") };
        let mut out = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Data(bytes) => out.extend_from_slice(bytes),
                Piece::Hole(len) => out.resize(out.len() + *len as usize, 0),
            }
        }
        out
    }
}

pub fn dir<N: AsRef<[u8]>>(entries: impl IntoIterator<Item = (N, Tree)>) -> Tree {
    Tree::new(What::Dir(entries.into_iter().map(|(name, tree)| (name.as_ref().to_vec(), tree)).collect()))
}

pub fn file(bytes: impl Into<Vec<u8>>) -> Tree {
    let bytes = bytes.into();
    Tree::new(What::File(if bytes.is_empty() { Vec::new() } else { vec![Piece::Data(bytes)] }))
}

pub fn sparse(pieces: Vec<Piece>) -> Tree {
    Tree::new(What::File(pieces))
}

pub fn symlink(target: &str) -> Tree {
    Tree::new(What::Symlink(target.into())).with(|t| t.mode = 0o777)
}

/// Bytes that do not repeat, and compress badly.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// A repository in memory.
pub struct Tiny {
    pub repo: Arc<Repository>,
    pub storage: Arc<MemoryStorage>,
}

/// What a commit made.
pub struct Committed {
    pub id: SnapshotId,
    pub data: Option<StoredPack>,
    pub tree: Option<StoredPack>,
    pub root: Node,
}

/// What a snapshot says of itself.
pub struct About {
    pub host: &'static str,
    pub tags: Vec<&'static str>,
    pub paths: Vec<&'static str>,
    pub time: i64,
}

impl About {
    pub fn at(time: i64) -> About {
        About { host: "web1", tags: Vec::new(), paths: vec!["/etc"], time }
    }
}

impl Tiny {
    pub fn new() -> Tiny {
        let storage = Arc::new(MemoryStorage::default());
        let options = InitOptions {
            chunker: ChunkerParameters::DEFAULT,
            derivation: Derivation::KeyFile,
            now: Timestamp::default(),
            label: Vec::new(),
        };
        let repo = Repository::init(storage.clone(), &Credential::KeyFile([7; 32]), &options).unwrap();
        Tiny { repo: Arc::new(repo), storage }
    }

    /// Stores a tree and commits a snapshot of it under a random id.
    pub fn commit(&self, tree: &Tree, about: About) -> Committed {
        self.commit_as(SnapshotId::random().unwrap(), tree, about)
    }

    pub fn commit_as(&self, id: SnapshotId, tree: &Tree, about: About) -> Committed {
        self.commit_part(id, tree, about, None)
    }

    /// A snapshot that is a part of a group.
    pub fn commit_part(&self, id: SnapshotId, tree: &Tree, about: About, group: Option<GroupPart>) -> Committed {
        let mut writer = Writer::new(&self.repo, id);
        let mut positions = 0;
        let root = writer.node(b"", tree, &mut positions);
        let (scan, links) = (writer.scan_list(), writer.link_table());
        let (data, tree) = writer.finish();
        let bytes = |texts: &[&str]| texts.iter().map(|t| t.as_bytes().to_vec()).collect::<Vec<_>>();
        let time = Timestamp { secs: about.time, nanos: 0 };
        let snapshot = Snapshot {
            id,
            time,
            finished: time,
            host: about.host.into(),
            user: b"root".to_vec(),
            paths: bytes(&about.paths),
            tags: bytes(&about.tags),
            parent: None,
            writer: None,
            chain: yester::model::Chain::default(),
            root: root.clone(),
            scan,
            scan_start: time,
            links,
            owners: Owners::default(),
            rules: Vec::new(),
            composition: Composition { group, ..Composition::default() },
            statistics: Statistics { bytes: 12_345, ..Statistics::default() },
            program: b"tiny".to_vec(),
        };
        assert!(snapshots::commit(&self.repo, &snapshot).unwrap());
        Committed { id, data, tree, root }
    }

    /// Forgets a snapshot, as far as readers see.
    pub fn forget(&self, id: SnapshotId) {
        yester::repo::marks::write(&self.repo, &yester::repo::marks::mark(id, Timestamp::default(), b"a test")).unwrap();
    }

    /// Flips a bit in the middle of the frame that holds a chunk.
    pub fn damage(&self, pack: &StoredPack, chunk: &ChunkId) {
        let key: ChunkKey = chunk.key();
        let entry = pack.entries.iter().find(|e| e.chunks.iter().any(|(k, _)| *k == key)).expect("the chunk is in the pack");
        let at = (entry.frame.offset + u64::from(entry.frame.stored) / 2) as usize;
        self.storage.damage(&Name::Pack(pack.id), |bytes| bytes[at] ^= 1);
    }

    /// Removes a pack.
    pub fn lose(&self, pack: &StoredPack) {
        self.storage.delete(&Name::Pack(pack.id)).unwrap();
    }

    /// Objects of a class.
    pub fn count(&self, class: Class) -> usize {
        self.storage.list(class).unwrap().len()
    }
}

/// Gathers chunks of one kind into frames.
struct Pack {
    kind: PackKind,
    frames: Vec<PlainFrame>,
    known: HashSet<ChunkId>,
}

impl Pack {
    fn new(kind: PackKind) -> Pack {
        Pack { kind, frames: Vec::new(), known: HashSet::new() }
    }

    fn put(&mut self, repo: &Repository, bytes: &[u8]) -> ChunkId {
        let id = repo.keys().chunk_id(self.kind, bytes);
        if self.known.insert(id) {
            if self.frames.last().is_none_or(|frame| frame.bytes.len() >= FRAME) {
                self.frames.push(PlainFrame::default());
            }
            let frame = self.frames.last_mut().unwrap();
            frame.bytes.extend_from_slice(bytes);
            frame.chunks.push((id, bytes.len() as u32));
        }
        id
    }

    fn store(self, repo: &Repository, session: SnapshotId) -> Option<StoredPack> {
        if self.frames.is_empty() {
            return None;
        }
        let key = PackKey::generate(repo, self.kind, session).unwrap();
        let mut sealer = FrameSealer::new(Encoder::new(Compression::Level(1)).unwrap()).unwrap();
        let sealed = self.frames.iter().enumerate();
        let sealed = sealed.map(|(n, frame)| sealer.seal(repo.keys(), &key, n as u32, frame, None).unwrap()).collect();
        Some(store(repo, &key, sealed).unwrap())
    }
}

struct Sink<'a> {
    repo: &'a Repository,
    pack: &'a mut Pack,
}

impl PageSink for Sink<'_> {
    fn page(&mut self, bytes: &[u8]) -> yester::Result<ChunkId> {
        Ok(self.pack.put(self.repo, bytes))
    }
}

struct Writer<'a> {
    repo: &'a Repository,
    session: SnapshotId,
    data: Pack,
    tree: Pack,
    scan: Vec<ScanRecord>,
    links: HashMap<&'static str, LinkEntry>,
}

impl<'a> Writer<'a> {
    fn new(repo: &'a Repository, session: SnapshotId) -> Self {
        let (data, tree) = (Pack::new(PackKind::Data), Pack::new(PackKind::Tree));
        Writer { repo, session, data, tree, scan: Vec::new(), links: HashMap::new() }
    }

    /// Stores everything below an entry and answers its node. `position` is the next one of the preorder.
    fn node(&mut self, name: &[u8], tree: &Tree, position: &mut u64) -> Node {
        let own = *position;
        *position += 1;
        self.scan.push(ScanRecord { inode: 1000 + own, ctime: tree.mtime, birth: tree.birth });
        let kind = match &tree.what {
            What::Dir(entries) => Kind::Directory(self.directory(entries, position)),
            What::File(pieces) => Kind::File(self.content(pieces)),
            What::Symlink(target) => Kind::Symlink(target.clone()),
            What::Fifo => Kind::Fifo,
            What::Socket => Kind::Socket,
            What::Char(major, minor) => Kind::CharDevice(*major, *minor),
            What::Block(major, minor) => Kind::BlockDevice(*major, *minor),
        };
        let mut xattrs = tree.xattrs.clone();
        xattrs.sort();
        let xattrs = if xattrs.is_empty() { Xattrs::None } else { Xattrs::Inline(xattrs) };
        let link = tree.link.map(|label| {
            let mut group = [0; 16];
            group.copy_from_slice(&blake3::hash(label.as_bytes()).as_bytes()[..16]);
            let group = LinkGroup(group);
            self.links.entry(label).or_insert(LinkEntry { group, first: own, count: 0 }).count += 1;
            group
        });
        let meta =
            Metadata { mode: tree.mode, uid: tree.owner.0, gid: tree.owner.1, mtime: tree.mtime, xattrs, flags: tree.flags };
        Node { name: name.to_vec(), meta, kind, link, given: true, changed: false, left_out: Default::default() }
    }

    fn directory(&mut self, entries: &BTreeMap<Vec<u8>, Tree>, position: &mut u64) -> Directory {
        let before = *position;
        let nodes: Vec<Node> = entries.iter().map(|(name, tree)| self.node(name, tree, position)).collect();
        let mut writer = TreeWriter::new(PageKind::Directory);
        let mut sink = Sink { repo: self.repo, pack: &mut self.tree };
        let mut bytes = Vec::new();
        for node in &nodes {
            bytes.clear();
            encode(node, &mut bytes);
            writer.push(&bytes, node.weight(), &node.name, || page::key_hash(&node.name), &mut sink).unwrap();
        }
        let subdirs = nodes.iter().filter(|n| n.directory().is_some()).count() as u64;
        let root = writer.finish(&mut sink).unwrap();
        Directory { root, entries: nodes.len() as u64, descendants: *position - before, subdirs }
    }

    fn content(&mut self, pieces: &[Piece]) -> Content {
        if let [Piece::Data(bytes)] = pieces
            && bytes.len() <= 64
        {
            return Content::Inline(bytes.clone());
        }
        let mut items = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Hole(len) => items.push(Item::Hole { len: *len }),
                Piece::Data(bytes) => {
                    for chunk in bytes.chunks(CHUNK) {
                        items.push(Item::Chunk { id: self.data.put(self.repo, chunk), len: chunk.len() as u32 });
                    }
                }
            }
        }
        if items.len() <= 8 { Content::Items(items) } else { self.recipe(&items) }
    }

    fn recipe(&mut self, items: &[Item]) -> Content {
        let mut writer = TreeWriter::new(PageKind::Recipe);
        let mut sink = Sink { repo: self.repo, pack: &mut self.tree };
        let mut bytes = Vec::new();
        for item in items {
            bytes.clear();
            page::put_item(item, &mut bytes);
            writer.push(&bytes, item.len(), &[], || page::key_hash(&bytes), &mut sink).unwrap();
        }
        let root: Root = writer.finish(&mut sink).unwrap().unwrap();
        let size = items.iter().map(Item::len).sum();
        let data = items.iter().map(|i| if let Item::Chunk { len, .. } = i { u64::from(*len) } else { 0 }).sum();
        Content::Tree { root, size, data }
    }

    fn scan_list(&mut self) -> Option<Root> {
        let mut writer = TreeWriter::new(PageKind::Scan);
        let mut sink = Sink { repo: self.repo, pack: &mut self.tree };
        let mut last = ScanRecord::default();
        for record in &self.scan {
            if writer.at_page_start() {
                last = ScanRecord::default();
            }
            let write = |out: &mut Vec<u8>| page::put_scan(record, &last, out);
            writer.push_with(write, || record.inode, 512, &mut sink).unwrap();
            last = *record;
        }
        writer.finish(&mut sink).unwrap()
    }

    fn link_table(&mut self) -> Option<Root> {
        let mut writer = TreeWriter::new(PageKind::Links);
        let mut sink = Sink { repo: self.repo, pack: &mut self.tree };
        let mut links: Vec<&LinkEntry> = self.links.values().collect();
        links.sort_by_key(|l| l.group);
        for link in links {
            let mut bytes = Vec::new();
            page::put_link(link, &mut bytes);
            writer.push(&bytes, 0, &link.group.0, || page::key_hash(&link.group.0), &mut sink).unwrap();
        }
        writer.finish(&mut sink).unwrap()
    }

    fn finish(self) -> (Option<StoredPack>, Option<StoredPack>) {
        let data = self.data.store(self.repo, self.session);
        let tree = self.tree.store(self.repo, self.session);
        let packs: Vec<StoredPack> = [data, tree].into_iter().flatten().collect();
        if !packs.is_empty() {
            Segment::of_packs(&packs).store(self.repo, Vec::new()).unwrap();
        }
        let (mut data, mut tree) = (None, None);
        for pack in packs {
            match pack.kind {
                PackKind::Data => data = Some(pack),
                PackKind::Tree => tree = Some(pack),
            }
        }
        (data, tree)
    }
}
