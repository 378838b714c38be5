//! A table whose size no memory bounds: in memory while it is small, then in a file without a name. Keys are hashes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memmap2::MmapMut;

use crate::sys::map;

/// A table in memory grows up to so many bytes.
const IN_MEMORY: usize = 8 << 20;
/// Places behind the last one, for what finds its own taken: nothing wraps around, so places stand in the order of keys.
const TAIL: u64 = 256;
/// A heap collects so many bytes before it writes them to its file.
const BUFFER: usize = 1 << 20;
const SMALLEST: u64 = 256;

/// Is shown keys and values.
pub(crate) type TableVisitor<'v, const V: usize, E> = dyn FnMut(&TableKey, &[u8; V]) -> Result<(), E> + 'v;

/// What names a value: 16 bytes of a hash. Keys that are no hashes make a table slow and large.
pub(crate) type TableKey = [u8; 16];

#[derive(Debug)]
enum TableStorage {
    Memory(Vec<u8>),
    Mapped(MmapMut),
}

impl TableStorage {
    fn bytes(&self) -> &[u8] {
        match self {
            TableStorage::Memory(bytes) => bytes,
            TableStorage::Mapped(map) => map,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            TableStorage::Memory(bytes) => bytes,
            TableStorage::Mapped(map) => map,
        }
    }
}

/// Values of `V` bytes by key. Nothing is ever removed.
#[derive(Debug)]
pub(crate) struct Table<const V: usize> {
    held: TableStorage,
    /// How many places there are but for the tail: a power of two.
    places: u64,
    len: u64,
    directory: Option<PathBuf>,
}

impl<const V: usize> Table<V> {
    /// Whether the place is taken, the key, the value.
    const RECORD: usize = 1 + size_of::<TableKey>() + V;

    /// An empty table. The file is made in `directory`; without one, or where it cannot be made, all stays in memory.
    pub(crate) fn new(directory: Option<&Path>) -> Self {
        let held = TableStorage::Memory(vec![0; (SMALLEST + TAIL) as usize * Self::RECORD]);
        Table { held, places: SMALLEST, len: 0, directory: directory.map(Path::to_owned) }
    }

    /// How many keys there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it has grown out of memory.
    #[cfg(test)]
    pub(crate) fn is_spilled(&self) -> bool {
        matches!(self.held, TableStorage::Mapped(_))
    }

    /// The value of `key`.
    pub(crate) fn get(&self, key: &TableKey) -> Option<[u8; V]> {
        let (_, record) = self.find(key).filter(|(_, record)| record[0] != 0)?;
        record[1 + size_of::<TableKey>()..].try_into().ok()
    }

    /// Sets the value of `key`; false when it had one. Fails when there is no memory to grow.
    pub(crate) fn put(&mut self, key: &TableKey, value: &[u8; V]) -> io::Result<bool> {
        loop {
            let found = self.find(key).map(|(at, record)| (at, record[0] == 0));
            let Some((at, new)) = found else {
                self.grow()?;
                continue;
            };
            let start = at as usize * Self::RECORD;
            let record = &mut self.held.bytes_mut()[start..start + Self::RECORD];
            record[0] = 1;
            record[1..17].copy_from_slice(key);
            record[17..].copy_from_slice(value);
            self.len += u64::from(new);
            if self.len > self.places / 4 * 3 {
                self.grow()?;
            }
            return Ok(new);
        }
    }

    /// The place where `key` stands or would stand, and what is there; `None` when the table must grow first.
    fn find(&self, key: &TableKey) -> Option<(u64, &[u8])> {
        let home = self.home(key);
        let records = self.held.bytes().chunks_exact(Self::RECORD).skip(home as usize);
        (home..).zip(records).find(|(_, record)| record[0] == 0 || record[1..17] == key[..])
    }

    fn home(&self, key: &TableKey) -> u64 {
        let mut high = [0; 8];
        high.copy_from_slice(&key[..8]);
        u64::from_be_bytes(high) >> (64 - self.places.trailing_zeros())
    }

    fn grow(&mut self) -> io::Result<()> {
        let places = self.places * 2;
        let held = self.room((places + TAIL) * Self::RECORD as u64)?;
        let mut larger = Table { held, places, len: 0, directory: self.directory.clone() };
        self.each(&mut |key, value| larger.put(key, value).map(drop))?;
        *self = larger;
        Ok(())
    }

    fn room(&self, bytes: u64) -> io::Result<TableStorage> {
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        if bytes > IN_MEMORY
            && let Some(directory) = &self.directory
            && let Ok(map) = tempfile::tempfile_in(directory).and_then(|file| map::writable(&file, bytes))
        {
            return Ok(TableStorage::Mapped(map));
        }
        // A disk that is full, or has no such files, is no reason to give up.
        Ok(TableStorage::Memory(vec![0; bytes]))
    }

    /// Calls `visit` with every key and value, in the order of the keys; an error of it ends that.
    pub(crate) fn each<E>(&self, visit: &mut TableVisitor<'_, V, E>) -> Result<(), E> {
        // What stands without a gap is in no order; before and behind the gaps, it is.
        let mut together: Vec<(TableKey, [u8; V])> = Vec::new();
        for record in self.held.bytes().chunks_exact(Self::RECORD) {
            if record[0] != 0 {
                let (mut key, mut value) = ([0; 16], [0; V]);
                key.copy_from_slice(&record[1..17]);
                value.copy_from_slice(&record[17..]);
                together.push((key, value));
            } else if !together.is_empty() {
                Self::flush(&mut together, visit)?;
            }
        }
        Self::flush(&mut together, visit)
    }

    fn flush<E>(together: &mut Vec<(TableKey, [u8; V])>, visit: &mut TableVisitor<'_, V, E>) -> Result<(), E> {
        together.sort_unstable_by_key(|(key, _)| *key);
        together.drain(..).try_for_each(|(key, value)| visit(&key, &value))
    }
}

/// Bytes one after the other, which can be read again: in memory while they are few, then in a file without a name.
#[derive(Debug)]
pub(crate) struct Heap {
    file: Option<File>,
    /// Bytes in the file; what is in memory follows them.
    written: u64,
    memory: Vec<u8>,
    directory: Option<PathBuf>,
}

impl Heap {
    /// An empty one; `directory` is as for [`Table::new`].
    pub(crate) fn new(directory: Option<&Path>) -> Self {
        Heap { file: None, written: 0, memory: Vec::new(), directory: directory.map(Path::to_owned) }
    }

    /// Appends; answers where the bytes stand.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.written + self.memory.len() as u64;
        self.memory.extend_from_slice(bytes);
        if self.file.is_none() && self.memory.len() > IN_MEMORY {
            // One try: where no file can be made, all stays in memory.
            self.file = self.directory.take().and_then(|directory| tempfile::tempfile_in(directory).ok());
        }
        if let Some(file) = self.file.as_ref().filter(|_| self.memory.len() >= BUFFER) {
            file.write_all_at(&self.memory, self.written)?;
            self.written += self.memory.len() as u64;
            self.memory.clear();
            self.memory.shrink_to(BUFFER);
        }
        Ok(at)
    }

    /// The `len` bytes at `at`, as they were appended at once.
    pub(crate) fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        if let Some(start) = at.checked_sub(self.written) {
            let piece = usize::try_from(start).ok().and_then(|start| self.memory.get(start..start.checked_add(len)?));
            return piece.map(<[u8]>::to_vec).ok_or(io::ErrorKind::UnexpectedEof.into());
        }
        let mut out = vec![0; len];
        self.file.as_ref().ok_or(io::ErrorKind::UnexpectedEof)?.read_exact_at(&mut out, at)?;
        Ok(out)
    }
}

/// The first 16 bytes of the BLAKE3 of `bytes`: a key for what is no hash itself.
pub(crate) fn key_of(bytes: &[u8]) -> TableKey {
    let mut key = [0; 16];
    key.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(directory: Option<&Path>, count: u64) -> Table<8> {
        let mut table = Table::new(directory);
        for number in 0..count {
            assert!(table.put(&key_of(&number.to_le_bytes()), &number.to_le_bytes()).expect("a put"));
        }
        table
    }

    #[test]
    fn everything_is_found_again_in_memory_and_in_a_file() {
        let place = tempfile::tempdir().expect("a directory");
        for (directory, count, spilled) in [(None, 100_000, false), (Some(place.path()), 600_000, true), (None, 0, false)] {
            let mut table = filled(directory, count);
            assert_eq!((table.len(), table.is_spilled(), table.is_empty()), (count, spilled, count == 0));
            for number in 0..count {
                assert_eq!(table.get(&key_of(&number.to_le_bytes())), Some(number.to_le_bytes()));
            }
            assert_eq!(table.get(&key_of(b"another")), None);
            let mut keys: Vec<TableKey> = Vec::new();
            let mut sum = 0;
            let visit = &mut |key: &TableKey, value: &[u8; 8]| {
                keys.push(*key);
                sum += u64::from_le_bytes(*value);
                Ok::<(), io::Error>(())
            };
            table.each(visit).expect("all of them");
            assert!(keys.is_sorted() && keys.len() as u64 == count);
            assert_eq!(sum, count * count.saturating_sub(1) / 2);
            if count > 0 {
                assert!(!table.put(&key_of(&7u64.to_le_bytes()), &[9; 8]).expect("a put"));
                assert_eq!(table.get(&key_of(&7u64.to_le_bytes())), Some([9; 8]));
                assert_eq!(table.len(), count);
            }
        }
        assert_eq!(std::fs::read_dir(place.path()).expect("a directory").count(), 0);
    }

    #[test]
    fn a_heap_gives_back_what_it_got() {
        let place = tempfile::tempdir().expect("a directory");
        for directory in [None, Some(place.path())] {
            let mut heap = Heap::new(directory);
            let piece = |number: u32| vec![number as u8; 1 + number as usize % 700];
            let places: Vec<u64> = (0..40_000).map(|n| heap.push(&piece(n)).expect("a push")).collect();
            for (number, at) in (0..).zip(places) {
                assert_eq!(heap.read(at, piece(number).len()).expect("a read"), piece(number));
            }
            assert_eq!(heap.file.is_some(), directory.is_some());
            assert!(heap.read(heap.written + heap.memory.len() as u64, 1).is_err());
        }
    }
}
