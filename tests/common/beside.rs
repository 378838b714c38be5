//! What lies on this machine beside a repository, made of bytes: copies of segments and trees, and the local memory. They
//! may hold anything; what is read by them is right, or read from the repository.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use yester::local::state::LocalState;
use yester::model::{PackId, RepositoryId, SegmentId, Timestamp};
use yester::repo::cache::{SegmentCache, SegmentSource};
use yester::storage::memory::MemoryStorage;
use yester::storage::{Name, Storage};

fn scratch() -> PathBuf {
    let base = Path::new("/dev/shm");
    let base = if base.is_dir() { base.to_owned() } else { std::env::temp_dir() };
    base.join(format!("yester-beside-{}", std::process::id()))
}

/// A cache whose files are these bytes, and the memory with one of its files replaced by them.
pub fn beside(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let directory = scratch();
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    if kind % 4 == 0 {
        memory(&directory, rest)
    } else {
        cache(&directory, *kind, rest)
    }
    let _ = std::fs::remove_dir_all(&directory);
}

fn cache(directory: &Path, kind: u8, bytes: &[u8]) {
    let (id, pack) = (SegmentId([1; 32]), PackId([2; 32]));
    let storage = Arc::new(MemoryStorage::default());
    let whole: Vec<u8> = (0..2000_u16).flat_map(u16::to_le_bytes).collect();
    storage.create(&Name::Segment(id), &[&whole]).unwrap();
    let cap = u64::from(kind) * 100;
    let Some(cache) = SegmentCache::open(directory, cap) else { return };
    std::fs::write(directory.join("index").join(id.to_string()), bytes).unwrap();
    std::fs::write(directory.join("trees").join(pack.to_string()), bytes).unwrap();
    let cache = Arc::new(cache);
    // A size that is not the segment's, as a list may say.
    let said = match bytes.first_chunk() {
        Some(size) if kind & 32 != 0 => u64::from_le_bytes(*size),
        _ => whole.len() as u64,
    };
    let source = SegmentSource::new(storage, Some(cache.clone()), id, said);
    let mut out = Vec::new();
    let (from, to) = (u64::from(kind) * 3, u64::from(kind) * 9 + 1);
    if source.read(from..to, &mut out).is_ok() && bytes.len() != said as usize {
        assert!(out == whole[from as usize..to as usize], "a copy of another length was believed");
    }
    source.drop_cached();
    source.read(from..to, &mut out).unwrap();
    assert!(out == whole[from as usize..to as usize]);
    cache.keep_tree(&pack, from, bytes);
    let _ = cache.read_tree(&pack, &(from..to), &mut out);
    let _ = cache.read_tree(&pack, &(to..from), &mut out);
}

fn memory(directory: &Path, bytes: &[u8]) {
    let (id, pack) = (RepositoryId([1; 16]), PackId([2; 32]));
    let now = Timestamp { secs: 5, nanos: 6 };
    let open = || LocalState::open(directory, id);
    if let Some(state) = open() {
        state.note_verified(&[pack], now);
    }
    let files = |at: &Path| -> Vec<PathBuf> {
        let mut all = vec![at.to_owned()];
        let mut out = Vec::new();
        while let Some(next) = all.pop() {
            for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
                if entry.path().is_dir() { all.push(entry.path()) } else { out.push(entry.path()) }
            }
        }
        out.sort();
        out
    };
    let files = files(directory);
    let Some((which, bytes)) = bytes.split_first() else { return };
    let Some(victim) = files.get(usize::from(*which) % files.len().max(1)) else { return };
    let mut old = std::fs::read(victim).unwrap();
    // Over it from some place on, or instead of it.
    let at = usize::from(*which) * 16 % old.len().max(1);
    match which & 1 {
        0 => bytes.iter().zip(&mut old[at..]).for_each(|(new, old)| *old = *new),
        _ => old = bytes.to_vec(),
    }
    std::fs::write(victim, old).unwrap();
    if let Some(state) = open() {
        let told = state.verified(pack);
        assert!(told.is_none_or(|told| told == now), "{told:?} was never noted");
        state.note_verified(&[pack], now);
    }
}
