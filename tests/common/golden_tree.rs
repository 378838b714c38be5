//! What the golden repository was made of: the same table makes the source and says what must be in the snapshot.
#![allow(dead_code)]

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use yester::model::Timestamp;
use yester::sys::{self, Dir, FileKind};

/// Who owns everything below the given path.
pub const OWNER: (u32, u32) = (1234, 5678);
/// Where it stands in the snapshot.
pub const STORED: &str = "/golden/source";
/// Entries of the long directory.
pub const MANY: usize = 1500;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A file with these bytes.
    File(Vec<u8>),
    /// A file with these bytes at its start and its end, and a hole between them: its size.
    Sparse(Vec<u8>, u64),
    /// Another name of the entry with this path.
    Link(&'static str),
    /// A symbolic link.
    Symlink(&'static [u8]),
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its path below the given one.
    pub path: Vec<u8>,
    /// What it is.
    pub what: What,
    /// Its permissions.
    pub mode: u16,
    /// Its time.
    pub mtime: Timestamp,
    /// Its attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn entry(path: &[u8], what: What, mode: u16, secs: i64, nanos: u32) -> Entry {
    Entry { path: path.to_vec(), what, mode, mtime: Timestamp { secs, nanos }, xattrs: Vec::new() }
}

/// Bytes that do not compress, from BLAKE3's output.
pub fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut out);
    out
}

fn lines(count: usize) -> Vec<u8> {
    (0..count).flat_map(|n| format!("line {n} of a text that compresses well\n").into_bytes()).collect()
}

/// The entries of state 1 or 2, parents before what is in them, links after what they link.
pub fn entries(state: u8) -> Vec<Entry> {
    let long_name = [b'n'; 255];
    let mut out = vec![
        entry(b"", What::Directory, 0o755, 1_000_000_000, 1),
        entry(b"empty", What::File(Vec::new()), 0o644, 0, 0),
        entry(b"inline", What::File(noise(96, 1)), 0o600, -1, 999_999_999),
        entry(b"chunk", What::File(noise(97, 2)), 0o4755, 1_500_000_000, 123_456_789),
        entry(b"batched", What::File(lines(if state == 1 { 2000 } else { 2001 })), 0o640, 1_600_000_000 + i64::from(state), 0),
        // One period of noise again and again: a recipe of thousands of items, and hardly a byte to store.
        entry(b"long", What::File(noise(8 << 10, 3).repeat(400)), 0o644, 1_700_000_000, 0),
        entry(b"sparse", What::Sparse(noise(4096, 4), 1 << 20), 0o644, 1_700_000_001, 0),
        entry(b"link", What::Symlink(b"nowhere/at all"), 0o777, 1_700_000_002, 5),
        entry(b"pipe", What::Fifo, 0o620, 1_700_000_003, 0),
        entry(b"empty-directory", What::Directory, 0o1700, 1_700_000_004, 7),
        entry(b"names", What::Directory, 0o2755, 1_700_000_005, 0),
        entry(b"names/caf\xe9", What::File(b"not UTF-8".to_vec()), 0o644, 1_700_000_006, 0),
        entry(b"names/ \t\n", What::File(b"white".to_vec()), 0o644, 1_700_000_007, 0),
        entry(&[b"names/", &long_name[..]].concat(), What::File(b"long".to_vec()), 0o644, 1_700_000_008, 0),
        entry(b"hard", What::Directory, 0o755, 1_700_000_009, 0),
        entry(b"hard/first", What::File(noise(700, 5)), 0o444, 1_700_000_010, 0),
        entry(b"hard/second", What::Link("hard/first"), 0o444, 1_700_000_010, 0),
        entry(b"third", What::Link("hard/first"), 0o444, 1_700_000_010, 0),
        entry(b"many", What::Directory, 0o755, 1_700_000_011, 0),
    ];
    let mut attributes = entry(b"attributes", What::File(b"x".to_vec()), 0o644, 1_700_000_012, 0);
    attributes.xattrs = vec![(b"user.empty".to_vec(), Vec::new()), (b"user.noise".to_vec(), noise(200, 6))];
    let mut stored = entry(b"attributes-stored", What::Directory, 0o755, 1_700_000_013, 0);
    stored.xattrs = vec![(b"user.long".to_vec(), lines(40))];
    out.extend([attributes, stored]);
    let of =
        |n: usize| entry(format!("many/entry-{n:05}").as_bytes(), What::File(Vec::new()), 0o644, 1_700_000_100 + n as i64, 0);
    out.extend((0..MANY).map(of));
    match state {
        1 => out.push(entry(b"gone", What::File(b"only in the first".to_vec()), 0o644, 1_700_000_014, 0)),
        _ => out.push(entry(b"new", What::File(noise(3000, 7)), 0o644, 1_700_000_015, 0)),
    }
    out
}

fn place(root: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { root.to_owned() } else { root.join(std::ffi::OsStr::from_bytes(path)) }
}

/// The directory that holds `path`, and the name in it.
fn parent(root: &Path, path: &[u8]) -> (Dir, Vec<u8>) {
    let whole = place(root, path);
    let dir = Dir::open(whole.parent().expect("a parent")).expect("a directory");
    (dir, whole.file_name().expect("a name").as_bytes().to_vec())
}

fn make_content(root: &Path, entry: &Entry) {
    let at = place(root, &entry.path);
    match &entry.what {
        What::File(bytes) => std::fs::write(&at, bytes).expect("a file"),
        What::Sparse(bytes, size) => {
            let file = std::fs::File::create(&at).expect("a file");
            file.set_len(*size).expect("its size");
            std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).expect("its start");
            std::os::unix::fs::FileExt::write_all_at(&file, bytes, size - bytes.len() as u64).expect("its end");
        }
        What::Link(to) => std::fs::hard_link(place(root, to.as_bytes()), &at).expect("a hard link"),
        What::Symlink(target) => std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &at).expect("a link"),
        What::Directory => std::fs::create_dir_all(&at).expect("a directory"),
        What::Fifo => {
            let (dir, name) = parent(root, &entry.path);
            dir.make_node(&name, FileKind::Fifo, (0, 0)).expect("a pipe");
        }
    }
}

fn finish(root: &Path, entry: &Entry) {
    let (dir, name) = parent(root, &entry.path);
    dir.set_owner(&name, OWNER.0, OWNER.1).expect("giving it away");
    if !matches!(entry.what, What::Symlink(_)) {
        dir.set_mode(&name, entry.mode).expect("its mode");
    }
    entry.xattrs.iter().for_each(|(key, value)| sys::xattr::set_at(&dir, &name, key, value).expect("an attribute"));
    dir.set_mtime(&name, entry.mtime).expect("its time");
}

/// Makes the source of state 1 at `root`, which must not exist. Needs root's rights: it gives everything to [`OWNER`].
pub fn make(root: &Path) {
    let all = entries(1);
    all.iter().for_each(|entry| make_content(root, entry));
    // From the leaves up, so that a directory's time is set after what is in it.
    all.iter().rev().for_each(|entry| finish(root, entry));
}

/// Turns state 1 into state 2 and touches nothing else.
pub fn change(root: &Path) {
    std::fs::remove_file(root.join("gone")).expect("removing");
    let all = entries(2);
    let changed = |e: &&Entry| [&b"batched"[..], b"new", b""].contains(&&e.path[..]);
    all.iter().filter(changed).for_each(|entry| make_content(root, entry));
    all.iter().filter(changed).rev().for_each(|entry| finish(root, entry));
}
