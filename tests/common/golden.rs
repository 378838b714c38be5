//! The golden repository: where it is, how its objects are opened with nothing but the documented layout.
#![allow(dead_code)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use yester::chunk::codec::Decoder;
use yester::chunk::keys::{ClassKey, Credential};
use yester::chunk::seal::{self, SealKey};
use yester::format::envelope::{self, ObjectType};
use yester::format::pack::{self, DirectoryEntry, PackKind, Preamble, Tail};
use yester::format::segment::{self, SegmentRoot};
use yester::model::ChunkKey;
use yester::repo::Repository;
use yester::storage::directory::DirectoryStorage;
use yester::storage::{Class, Name};

/// Where the golden repository of format version 1 is.
pub fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// The key file beside it.
pub fn key() -> Credential {
    let bytes = std::fs::read(home().join("key")).expect("the golden key file");
    Credential::KeyFile(bytes.try_into().expect("32 bytes"))
}

/// Copies every file below `from`; only directories that hold one are made.
pub fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a listing") {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("a type").is_dir() {
            true => copy_files(&entry.path(), &to.join(entry.file_name())),
            false => {
                std::fs::create_dir_all(to).expect("a directory");
                std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
            }
        }
    }
}

/// A copy of the golden repository that may be written to. The empty directories that git does not keep are made.
pub fn open_copy() -> (TempDir, Arc<Repository>) {
    let place = TempDir::new().expect("a temporary directory");
    let path = place.path().join("repository");
    drop(DirectoryStorage::create(&path).expect("the directories"));
    copy_files(&home().join("repository"), &path);
    let storage = Arc::new(DirectoryStorage::open(&path).expect("the golden repository"));
    (place, Arc::new(Repository::open(storage, &key()).expect("opening the golden repository")))
}

/// All objects of a class, sorted by name.
pub fn objects(repo: &Repository, class: Class) -> Vec<(Name, Vec<u8>)> {
    let mut names = repo.storage().list(class).expect("a listing");
    names.sort_unstable();
    let read = |(name, _)| {
        let mut bytes = Vec::new();
        repo.storage().read(&name, None, &mut bytes).expect("an object");
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

/// The id in the name of a small sealed object.
pub fn id_of(name: &Name) -> [u8; 32] {
    match name {
        Name::Session(id)
        | Name::Beat(id, _)
        | Name::Snapshot(id)
        | Name::Forgotten(id)
        | Name::Condemned(id)
        | Name::Damaged(id)
        | Name::Run(id)
        | Name::Annotation(id)
        | Name::Group(id, _) => id.0,
        Name::Removed(slot) => [slot.0, [0; 16]].concat().try_into().expect("32 bytes"),
        other => panic!("{other} has no such id"),
    }
}

/// The plain body of a small sealed object.
pub fn plain_body(repo: &Repository, kind: ObjectType, name: &Name, object: &[u8]) -> Vec<u8> {
    seal::open_object(kind, repo.id(), &id_of(name), &repo.keys().snapshot, object, "a golden object").expect("opening")
}

/// The key that the salt at `at` of `object` leads to; the commitment behind the salt must be its own.
pub fn key_at(class: &ClassKey, object: &[u8], at: usize) -> SealKey {
    let salt = object[at..at + 32].try_into().expect("32 bytes");
    // A pack's key is of its kind too.
    let bound = if object[8] == 3 { [&object[..28], &object[108..112]].concat() } else { object[..28].to_vec() };
    let key = SealKey::derive_bound(class, salt, &bound).expect("a key");
    assert_eq!(key.commitment, object[at + 32..at + 48], "the commitment");
    key
}

/// A pack, opened.
pub struct OpenPack {
    /// Its first bytes.
    pub preamble: Preamble,
    /// Its last ones.
    pub tail: Tail,
    /// Its directory's plain bytes.
    pub directory: Vec<u8>,
    /// Its directory.
    pub entries: Vec<DirectoryEntry>,
    /// What is sealed in each frame: still compressed.
    pub compressed: Vec<Vec<u8>>,
    /// Each frame's plain bytes.
    pub plain: Vec<Vec<u8>>,
}

/// The plain bytes of all chunks of frames of this kind that are no differences, by key: what bases are.
fn chunks_of(repo: &Repository, kind: PackKind) -> HashMap<ChunkKey, Vec<u8>> {
    let mut out = HashMap::new();
    for (_, object) in objects(repo, Class::Packs) {
        let open = open_pack_with(repo, &object, &mut |_| None);
        for (entry, plain) in open.entries.iter().zip(&open.plain).filter(|_| open.preamble.kind == kind) {
            let mut at = 0;
            for (key, len) in entry.chunks.iter().filter(|_| entry.frame.bases.is_empty()) {
                out.insert(*key, plain[at..at + *len as usize].to_vec());
                at += *len as usize;
            }
        }
    }
    out
}

/// Opens a whole pack.
pub fn open_pack(repo: &Repository, object: &[u8]) -> OpenPack {
    let kind = Preamble::decode(object).expect("a preamble").kind;
    let mut all = None;
    let mut prefix = |bases: &[ChunkKey]| {
        let all = all.get_or_insert_with(|| chunks_of(repo, kind));
        Some(bases.iter().flat_map(|key| all[key].clone()).collect())
    };
    open_pack_with(repo, object, &mut prefix)
}

/// The same; `prefix` has the bytes of bases, or `None` when frames that have bases are not asked for.
fn open_pack_with(repo: &Repository, object: &[u8], prefix: &mut dyn FnMut(&[ChunkKey]) -> Option<Vec<u8>>) -> OpenPack {
    let preamble = Preamble::decode(object).expect("a preamble");
    let tail = Tail::decode(object, object.len() as u64).expect("a tail");
    let key = key_at(repo.keys().pack(preamble.kind), object, 28);
    let start = tail.directory as usize;
    let mut directory = object[start..start + tail.directory_len as usize].to_vec();
    let aad = preamble.frame_aad(tail.frames, pack::Codec::Raw, 0);
    key.open(pack::DIRECTORY_NONCE, &aad, &mut directory).expect("the directory opens");
    let entries = pack::decode_directory(&directory, &tail).expect("a directory");
    let (mut compressed, mut plain) = (Vec::new(), Vec::new());
    for (number, entry) in entries.iter().enumerate() {
        let info = &entry.frame;
        let mut frame = object[info.offset as usize..][..info.stored as usize].to_vec();
        key.open(number as u64, &preamble.frame_aad(number as u32, info.codec, info.plain), &mut frame).expect("a frame opens");
        let mut out = Vec::new();
        let mut decoder = Decoder::new().expect("a decoder");
        let prefix = if info.bases.is_empty() { Some(Vec::new()) } else { prefix(&info.bases) };
        match prefix {
            Some(prefix) if !prefix.is_empty() => {
                decoder.decode_delta(&frame, &prefix, info.plain as usize, &mut out).expect("a difference decodes");
            }
            Some(_) => decoder.decode(info.codec, &frame, info.plain as usize, &mut out).expect("a frame decodes"),
            None => {}
        }
        compressed.push(frame);
        plain.push(out);
    }
    OpenPack { preamble, tail, directory, entries, compressed, plain }
}

/// A segment, opened: the plain bytes of its root and of its pages.
pub struct OpenSegment {
    /// The root.
    pub root: SegmentRoot,
    /// The root's bytes.
    pub root_bytes: Vec<u8>,
    /// Pages of frames.
    pub frame_pages: Vec<Vec<u8>>,
    /// Pages of entries.
    pub entry_pages: Vec<Vec<u8>>,
    /// Pages of the filter.
    pub filter_pages: Vec<Vec<u8>>,
}

/// Opens a whole segment.
pub fn open_segment(repo: &Repository, object: &[u8]) -> OpenSegment {
    let key = key_at(&repo.keys().index, object, 28);
    let header = envelope::header(ObjectType::Segment, repo.id());
    let (start, len, pages) = segment::decode_tail(object, object.len() as u64).expect("a tail");
    let (start, len) = (start as usize, len as usize);
    let open = |nonce, from: usize, len: usize| {
        let mut page = object[from..from + len].to_vec();
        key.open(nonce, &header, &mut page).expect("a page opens");
        page
    };
    let root_bytes = open(segment::ROOT_NONCE, start, len);
    let root = segment::decode_root(&root_bytes).expect("a root");
    let lengths = root.frame_pages.iter().copied().chain(root.entry_pages.iter().map(|(_, len)| *len));
    let lengths: Vec<u32> = lengths.chain(root.filter_pages.iter().copied()).collect();
    assert_eq!(lengths.len(), pages as usize);
    let mut at = segment::PREAMBLE;
    let mut opened = Vec::new();
    for (number, len) in lengths.iter().enumerate() {
        opened.push(open(number as u64, at, *len as usize));
        at += *len as usize;
    }
    assert_eq!(at, start);
    let mut entry_pages = opened.split_off(root.frame_pages.len());
    let filter_pages = entry_pages.split_off(root.entry_pages.len());
    OpenSegment { root, root_bytes, frame_pages: opened, entry_pages, filter_pages }
}
