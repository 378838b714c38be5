//! Builds repositories with given trees through the public building blocks, without an ingest.

use std::sync::Arc;

use yester::chunk::codec::{Compression, Encoder};
use yester::chunk::keys::Credential;
use yester::error::Result;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::format::node;
use yester::format::pack::PackKind;
use yester::format::page::{self, LinkEntry, PageKind};
use yester::model::{
    ChunkId, Content, Directory, Item, Kind, LinkGroup, Metadata, Node, Owners, Root, Snapshot, SnapshotId, Statistics,
    Timestamp, Xattrs,
};
use yester::repo::Repository;
use yester::repo::index::Index;
use yester::repo::index::segment::Segment;
use yester::repo::pack::{FrameSealer, PackKey, PlainFrame, StoredPack, store};
use yester::repo::reader::ChunkReader;
use yester::repo::tree::TreeReader;
use yester::repo::tree::writer::{PageSink, TreeWriter};
use yester::repo::{InitOptions, snapshots};
use yester::storage::Storage;

/// Bytes of a chunk of test data.
pub const CHUNK: usize = 8 << 10;
/// Bytes after which a frame is closed.
const FRAME: usize = 32 << 10;
/// Frames of a pack.
const PACK: usize = 64;

/// A piece of a file.
#[derive(Clone)]
pub enum Part {
    Data(Vec<u8>),
    Hole(u64),
}

/// An entry to be.
#[derive(Clone)]
pub struct Spec {
    pub node: Node,
    pub parts: Vec<Part>,
    pub children: Vec<Spec>,
}

impl Spec {
    fn new(name: &str, mode: u16, kind: Kind) -> Spec {
        let mtime = Timestamp { secs: 1_500_000_000, nanos: 123_456_789 };
        let meta = Metadata { mode, mtime, ..Metadata::default() };
        let node = Node {
            name: name.as_bytes().to_vec(),
            meta,
            kind,
            link: None,
            given: true,
            changed: false,
            left_out: Default::default(),
        };
        Spec { node, parts: Vec::new(), children: Vec::new() }
    }

    pub fn file(name: &str, content: impl AsRef<[u8]>) -> Spec {
        Spec::parts(name, vec![Part::Data(content.as_ref().to_vec())])
    }

    pub fn parts(name: &str, parts: Vec<Part>) -> Spec {
        Spec { parts, ..Spec::new(name, 0o644, Kind::File(Content::Items(Vec::new()))) }
    }

    pub fn inline(name: &str, content: &str) -> Spec {
        Spec::new(name, 0o600, Kind::File(Content::Inline(content.as_bytes().to_vec())))
    }

    pub fn dir(name: &str, children: Vec<Spec>) -> Spec {
        Spec { children, ..Spec::new(name, 0o755, Kind::Directory(Directory::default())) }
    }

    pub fn symlink(name: &str, target: &str) -> Spec {
        Spec::new(name, 0o777, Kind::Symlink(target.as_bytes().to_vec()))
    }

    pub fn special(name: &str, kind: Kind) -> Spec {
        Spec::new(name, 0o640, kind)
    }

    /// A directory that only leads to what was given.
    pub fn parent(name: &str, children: Vec<Spec>) -> Spec {
        let mut spec = Spec::dir(name, children);
        spec.node.given = false;
        spec
    }

    pub fn mode(mut self, mode: u16) -> Spec {
        self.node.meta.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u32, gid: u32) -> Spec {
        (self.node.meta.uid, self.node.meta.gid) = (uid, gid);
        self
    }

    pub fn mtime(mut self, secs: i64, nanos: u32) -> Spec {
        self.node.meta.mtime = Timestamp { secs, nanos };
        self
    }

    pub fn xattrs(mut self, list: &[(&str, &[u8])]) -> Spec {
        let mut list: Vec<_> = list.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect();
        list.sort();
        self.node.meta.xattrs = Xattrs::Inline(list);
        self
    }

    pub fn flags(mut self, flags: u32) -> Spec {
        self.node.meta.flags = flags;
        self
    }

    pub fn link(mut self, group: u8) -> Spec {
        self.node.link = Some(LinkGroup([group; 16]));
        self
    }
}

/// Bytes that look random and are the same every time.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

/// Makes a repository on `storage`.
pub fn repository(storage: Arc<dyn Storage>) -> Arc<Repository> {
    let options = InitOptions {
        chunker: ChunkerParameters::DEFAULT,
        derivation: Derivation::KeyFile,
        now: Timestamp { secs: 1, nanos: 0 },
        label: b"test".to_vec(),
    };
    Arc::new(Repository::init(storage, &Credential::KeyFile([7; 32]), &options).unwrap())
}

/// Gathers chunks of one kind into frames and packs.
struct Chunks<'r> {
    repo: &'r Repository,
    kind: PackKind,
    session: SnapshotId,
    frame: PlainFrame,
    frames: Vec<PlainFrame>,
    known: std::collections::HashSet<ChunkId>,
    packs: Vec<StoredPack>,
}

impl<'r> Chunks<'r> {
    fn new(repo: &'r Repository, kind: PackKind, session: SnapshotId) -> Self {
        let (frame, frames) = (PlainFrame::default(), Vec::new());
        Chunks { repo, kind, session, frame, frames, known: Default::default(), packs: Vec::new() }
    }

    fn add(&mut self, bytes: &[u8]) -> ChunkId {
        let id = self.repo.keys().chunk_id(self.kind, bytes);
        if self.known.insert(id) {
            self.frame.bytes.extend_from_slice(bytes);
            self.frame.chunks.push((id, bytes.len() as u32));
            if self.frame.bytes.len() >= FRAME {
                self.frames.push(std::mem::take(&mut self.frame));
            }
            if self.frames.len() == PACK {
                self.close();
            }
        }
        id
    }

    fn close(&mut self) {
        if !self.frame.chunks.is_empty() {
            self.frames.push(std::mem::take(&mut self.frame));
        }
        if self.frames.is_empty() {
            return;
        }
        let key = PackKey::generate(self.repo, self.kind, self.session).unwrap();
        let mut sealer = FrameSealer::new(Encoder::new(Compression::Auto).unwrap()).unwrap();
        let frames = std::mem::take(&mut self.frames);
        let seal =
            |(number, frame): (usize, &PlainFrame)| sealer.seal(self.repo.keys(), &key, number as u32, frame, None).unwrap();
        let sealed = frames.iter().enumerate().map(seal).collect();
        self.packs.push(store(self.repo, &key, sealed).unwrap());
    }
}

impl PageSink for Chunks<'_> {
    fn page(&mut self, bytes: &[u8]) -> Result<ChunkId> {
        Ok(self.add(bytes))
    }
}

struct Builder<'r> {
    data: Chunks<'r>,
    trees: Chunks<'r>,
    statistics: Statistics,
}

impl Builder<'_> {
    fn content(&mut self, parts: &[Part]) -> Content {
        let mut items = Vec::new();
        for part in parts {
            match part {
                Part::Hole(len) => items.push(Item::Hole { len: *len }),
                Part::Data(bytes) => {
                    items.extend(bytes.chunks(CHUNK).map(|c| Item::Chunk { id: self.data.add(c), len: c.len() as u32 }));
                }
            }
        }
        if items.len() <= node::MAX_ITEMS {
            return Content::Items(items);
        }
        let mut tree = TreeWriter::new(PageKind::Recipe);
        let mut bytes = Vec::new();
        for item in &items {
            bytes.clear();
            page::put_item(item, &mut bytes);
            tree.push(&bytes, item.len(), &[], || page::key_hash(&bytes), &mut self.trees).unwrap();
        }
        let root = tree.finish(&mut self.trees).unwrap().unwrap();
        let short = Content::Items(items);
        Content::Tree { root, size: short.size(), data: short.data() }
    }

    fn node(&mut self, spec: &Spec) -> Node {
        let mut node = spec.node.clone();
        match &mut node.kind {
            Kind::File(content) => {
                if !spec.parts.is_empty() {
                    *content = self.content(&spec.parts);
                }
                self.statistics.files += 1;
                self.statistics.bytes += content.size();
            }
            Kind::Directory(directory) => *directory = self.directory(&spec.children),
            _ => {}
        }
        node
    }

    fn directory(&mut self, children: &[Spec]) -> Directory {
        let mut sorted: Vec<&Spec> = children.iter().collect();
        sorted.sort_by_key(|spec| spec.node.name.clone());
        let mut tree = TreeWriter::new(PageKind::Directory).unchecked();
        let mut out = Directory { entries: sorted.len() as u64, ..Directory::default() };
        let (mut bytes, mut page) = (Vec::new(), Vec::new());
        page::start(PageKind::Directory, 0, &mut page);
        let forged = sorted.iter().any(|spec| yester::model::node::check_name(&spec.node.name).is_err());
        for spec in sorted {
            let child = self.node(spec);
            out.descendants += child.weight();
            out.subdirs += u64::from(child.directory().is_some());
            bytes.clear();
            node::encode_unchecked(&child, &mut bytes);
            if forged {
                // No writer stores such a page.
                page.extend_from_slice(&bytes);
                continue;
            }
            tree.push(&bytes, child.weight(), &child.name, || page::key_hash(&child.name), &mut self.trees).unwrap();
        }
        out.root = match forged {
            true => Some(Root { height: 0, page: self.trees.page(&page).unwrap() }),
            false => tree.finish(&mut self.trees).unwrap(),
        };
        out
    }

    fn links(&mut self, root: &Spec) -> Option<Root> {
        fn collect(spec: &Spec, position: &mut u64, out: &mut std::collections::BTreeMap<LinkGroup, LinkEntry>) {
            if let Some(group) = spec.node.link {
                out.entry(group).or_insert(LinkEntry { group, first: *position, count: 0 }).count += 1;
            }
            *position += 1;
            let mut sorted: Vec<&Spec> = spec.children.iter().collect();
            sorted.sort_by_key(|spec| spec.node.name.clone());
            sorted.into_iter().for_each(|child| collect(child, position, out));
        }
        let mut groups = Default::default();
        collect(root, &mut 0, &mut groups);
        let mut tree = TreeWriter::new(PageKind::Links);
        let mut bytes = Vec::new();
        for entry in groups.values() {
            bytes.clear();
            page::put_link(entry, &mut bytes);
            tree.push(&bytes, 0, &entry.group.0, || page::key_hash(&entry.group.0), &mut self.trees).unwrap();
        }
        tree.finish(&mut self.trees).unwrap()
    }
}

/// Stores `root` (a directory without name) as a snapshot.
pub fn snapshot(repo: &Repository, root: &Spec, owners: Owners) -> Snapshot {
    let mut builder = Builder::new(repo);
    let node = builder.node(root);
    let links = builder.links(root);
    commit(builder, node, links, owners)
}

/// Stores a directory of files, each of which holds its own name, as a snapshot. `names` are sorted: they can be so many
/// that there is no room for a [`Spec`] of each.
#[allow(dead_code)] // Only the mount is shown so many.
pub fn long_directory(repo: &Repository, names: impl Iterator<Item = String>) -> Snapshot {
    let mut builder = Builder::new(repo);
    let mut tree = TreeWriter::new(PageKind::Directory).unchecked();
    let mut directory = Directory::default();
    let mut bytes = Vec::new();
    for name in names {
        let node = Spec::inline(&name, &name).node;
        bytes.clear();
        node::encode_unchecked(&node, &mut bytes);
        tree.push(&bytes, node.weight(), &node.name, || page::key_hash(&node.name), &mut builder.trees).unwrap();
        (directory.entries, directory.descendants) = (directory.entries + 1, directory.descendants + 1);
    }
    directory.root = tree.finish(&mut builder.trees).unwrap();
    let mut root = Spec::dir("", Vec::new()).node;
    root.kind = Kind::Directory(directory);
    commit(builder, root, None, Owners::default())
}

impl<'r> Builder<'r> {
    fn new(repo: &'r Repository) -> Self {
        let id = SnapshotId::random().unwrap();
        let (data, trees) = (Chunks::new(repo, PackKind::Data, id), Chunks::new(repo, PackKind::Tree, id));
        Builder { data, trees, statistics: Statistics::default() }
    }
}

fn commit(mut builder: Builder<'_>, node: Node, links: Option<Root>, owners: Owners) -> Snapshot {
    let (repo, id) = (builder.data.repo, builder.data.session);
    builder.data.close();
    builder.trees.close();
    let mut packs = builder.data.packs;
    packs.append(&mut builder.trees.packs);
    Segment::of_packs(&packs).store(repo, Vec::new()).unwrap();
    let now = Timestamp { secs: 1_700_000_000, nanos: 0 };
    let snapshot = Snapshot {
        id,
        time: now,
        finished: now,
        host: b"host".to_vec(),
        user: b"user".to_vec(),
        paths: vec![b"/".to_vec()],
        tags: Vec::new(),
        parent: None,
        writer: None,
        chain: yester::model::Chain::default(),
        root: node,
        scan: None,
        scan_start: now,
        links,
        owners,
        rules: Vec::new(),
        composition: Default::default(),
        statistics: builder.statistics,
        program: b"test".to_vec(),
    };
    assert!(snapshots::commit(repo, &snapshot).unwrap());
    snapshot
}

/// A reader of everything that is in the repository now.
pub fn reader(repo: &Arc<Repository>) -> Arc<TreeReader> {
    let index = Arc::new(Index::load(repo).unwrap());
    let chunks = Arc::new(ChunkReader::new(repo.clone(), index, 8 << 20).unwrap());
    Arc::new(TreeReader::new(chunks, 8 << 20).unwrap())
}
