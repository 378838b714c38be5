//! A table whose size no memory bounds: in memory while it is small, then in a file without a name. Keys are hashes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A table in memory grows up to so many bytes.
const IN_MEMORY: usize = 8 << 20;
/// Places behind the last one, for what finds its own taken: nothing wraps around, so places stand in the order of keys.
const TAIL: u64 = 256;
/// Places that are read at once.
const AT_ONCE: usize = 32;
const SMALLEST: u64 = 256;

/// What names a value: 16 bytes of a hash. Keys that are no hashes make a table slow and large.
pub type Key = [u8; 16];

#[derive(Debug)]
enum Held {
    Memory(Vec<u8>),
    File(File),
}

impl Held {
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        match self {
            Held::File(file) => file.read_exact_at(out, at),
            Held::Memory(bytes) => {
                let start = at as usize;
                let from = bytes.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
                out.copy_from_slice(from);
                Ok(())
            }
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            Held::File(file) => file.write_all_at(bytes, at),
            Held::Memory(held) => {
                let start = at as usize;
                let to = held.get_mut(start..start + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
                to.copy_from_slice(bytes);
                Ok(())
            }
        }
    }
}

/// Values of `V` bytes by key. Nothing is ever removed.
#[derive(Debug)]
pub struct Table<const V: usize> {
    held: Held,
    /// How many places there are but for the tail: a power of two.
    places: u64,
    len: u64,
    directory: Option<PathBuf>,
}

impl<const V: usize> Table<V> {
    /// Whether the place is taken, the key, the value.
    const RECORD: usize = 1 + size_of::<Key>() + V;

    /// An empty table. The file is made in `directory`; without one, or where it cannot be made, all stays in memory.
    pub fn new(directory: Option<&Path>) -> Self {
        let held = Held::Memory(vec![0; (SMALLEST + TAIL) as usize * Self::RECORD]);
        Table { held, places: SMALLEST, len: 0, directory: directory.map(Path::to_owned) }
    }

    /// How many keys there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it has grown out of memory.
    pub fn is_spilled(&self) -> bool {
        matches!(self.held, Held::File(_))
    }

    /// The value of `key`. Errors are those of the file.
    pub fn get(&self, key: &Key) -> io::Result<Option<[u8; V]>> {
        Ok(self.find(key)?.and_then(|(_, value)| value))
    }

    /// Sets the value of `key`; false when it had one.
    pub fn put(&mut self, key: &Key, value: &[u8; V]) -> io::Result<bool> {
        loop {
            match self.find(key)? {
                Some((at, found)) => {
                    let mut record = vec![1; Self::RECORD];
                    record[1..17].copy_from_slice(key);
                    record[17..].copy_from_slice(value);
                    self.held.write(at * Self::RECORD as u64, &record)?;
                    self.len += u64::from(found.is_none());
                    if self.len > self.places / 4 * 3 {
                        self.grow()?;
                    }
                    return Ok(found.is_none());
                }
                None => self.grow()?,
            }
        }
    }

    /// The place where `key` stands or would stand, with its value; `None` when the table must grow first.
    fn find(&self, key: &Key) -> io::Result<Option<(u64, Option<[u8; V]>)>> {
        let end = self.places + TAIL;
        let mut buffer = vec![0; AT_ONCE.min(TAIL as usize) * Self::RECORD];
        let mut at = self.home(key);
        while at < end {
            let count = (end - at).min(AT_ONCE as u64) as usize;
            let records = &mut buffer[..count * Self::RECORD];
            self.held.read(at * Self::RECORD as u64, records)?;
            for record in records.chunks_exact(Self::RECORD) {
                if record[0] == 0 {
                    return Ok(Some((at, None)));
                }
                if record[1..17] == key[..] {
                    let mut value = [0; V];
                    value.copy_from_slice(&record[17..]);
                    return Ok(Some((at, Some(value))));
                }
                at += 1;
            }
        }
        Ok(None)
    }

    fn home(&self, key: &Key) -> u64 {
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

    fn room(&self, bytes: u64) -> io::Result<Held> {
        if bytes > IN_MEMORY as u64
            && let Some(Ok(file)) = self.directory.as_ref().map(tempfile::tempfile_in)
        {
            file.set_len(bytes)?;
            return Ok(Held::File(file));
        }
        Ok(Held::Memory(vec![0; usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?]))
    }

    /// Calls `visit` with every key and value, in the order of the keys; an error of it ends that.
    pub fn each(&self, visit: &mut dyn FnMut(&Key, &[u8; V]) -> io::Result<()>) -> io::Result<()> {
        // What stands without a gap is in no order; before and behind the gaps, it is.
        let mut together: Vec<(Key, [u8; V])> = Vec::new();
        let mut buffer = vec![0; 1024 * Self::RECORD];
        let (mut at, end) = (0, self.places + TAIL);
        while at < end {
            let count = (end - at).min(1024);
            let records = &mut buffer[..count as usize * Self::RECORD];
            self.held.read(at * Self::RECORD as u64, records)?;
            for record in records.chunks_exact(Self::RECORD) {
                if record[0] != 0 {
                    let (mut key, mut value) = ([0; 16], [0; V]);
                    key.copy_from_slice(&record[1..17]);
                    value.copy_from_slice(&record[17..]);
                    together.push((key, value));
                    continue;
                }
                Self::flush(&mut together, visit)?;
            }
            at += count;
        }
        Self::flush(&mut together, visit)
    }

    fn flush(together: &mut Vec<(Key, [u8; V])>, visit: &mut dyn FnMut(&Key, &[u8; V]) -> io::Result<()>) -> io::Result<()> {
        together.sort_unstable_by_key(|(key, _)| *key);
        together.drain(..).try_for_each(|(key, value)| visit(&key, &value))
    }
}

/// Bytes one after the other, which can be read again: in memory while they are few, then in a file without a name.
#[derive(Debug)]
pub struct Heap {
    held: Held,
    len: u64,
    directory: Option<PathBuf>,
}

impl Heap {
    /// An empty one; `directory` is as for [`Table::new`].
    pub fn new(directory: Option<&Path>) -> Self {
        Heap { held: Held::Memory(Vec::new()), len: 0, directory: directory.map(Path::to_owned) }
    }

    /// Appends; answers where the bytes stand.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.len;
        if let Held::Memory(held) = &mut self.held {
            held.extend_from_slice(bytes);
            self.len += bytes.len() as u64;
            if held.len() > IN_MEMORY
                && let Some(Ok(file)) = self.directory.as_ref().map(tempfile::tempfile_in)
            {
                file.write_all_at(held, 0)?;
                self.held = Held::File(file);
            }
            return Ok(at);
        }
        self.held.write(at, bytes)?;
        self.len += bytes.len() as u64;
        Ok(at)
    }

    /// The `len` bytes at `at`.
    pub fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut out = vec![0; len];
        self.held.read(at, &mut out)?;
        Ok(out)
    }
}

/// The first 16 bytes of the BLAKE3 of `bytes`: a key for what is no hash itself.
pub fn key_of(bytes: &[u8]) -> Key {
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
                assert_eq!(table.get(&key_of(&number.to_le_bytes())).expect("a get"), Some(number.to_le_bytes()));
            }
            assert_eq!(table.get(&key_of(b"another")).expect("a get"), None);
            let mut keys: Vec<Key> = Vec::new();
            let mut sum = 0;
            let visit = &mut |key: &Key, value: &[u8; 8]| {
                keys.push(*key);
                sum += u64::from_le_bytes(*value);
                Ok(())
            };
            table.each(visit).expect("all of them");
            assert!(keys.is_sorted() && keys.len() as u64 == count);
            assert_eq!(sum, count * count.saturating_sub(1) / 2);
            if count > 0 {
                assert!(!table.put(&key_of(&7u64.to_le_bytes()), &[9; 8]).expect("a put"));
                assert_eq!(table.get(&key_of(&7u64.to_le_bytes())).expect("a get"), Some([9; 8]));
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
            assert_eq!(matches!(heap.held, Held::File(_)), directory.is_some());
            assert!(heap.read(heap.len, 1).is_err());
        }
    }
}
