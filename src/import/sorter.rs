//! Records in the order of their keys, whatever the order in which they came: sorted in memory while they are few, then in
//! runs in files without a name that are merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};

use crate::error::{Error, IoContext, Result};
use crate::sys::spool::{Spool, Spooled};

/// Bytes of a run.
const RUN: usize = 16 << 20;

/// A key, and what belongs to it.
pub(crate) type SortedRecord = (Vec<u8>, Vec<u8>);

/// Takes records. Those of the same key keep their order.
#[derive(Debug)]
pub(crate) struct RecordSorter {
    waiting: Vec<SortedRecord>,
    bytes: usize,
    most: usize,
    runs: Vec<Spooled>,
    directory: Option<PathBuf>,
}

fn sort() -> String {
    "cannot sort the entries of the archive".to_owned()
}

impl RecordSorter {
    /// An empty one, with its files in `directory`; without one all stays in memory.
    pub(crate) fn new(directory: Option<&Path>) -> Self {
        RecordSorter { waiting: Vec::new(), bytes: 0, most: RUN, runs: Vec::new(), directory: directory.map(Path::to_owned) }
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        self.bytes += key.len() + value.len() + 64;
        self.waiting.push((key, value));
        if self.bytes >= self.most && self.directory.is_some() { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let mut records = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        records.sort_by(|a, b| a.0.cmp(&b.0));
        let mut spool = Spool::in_file(directory).at(sort)?;
        for (key, value) in records {
            for part in [key, value] {
                spool.write(&(part.len() as u32).to_le_bytes()).at(sort)?;
                spool.write(&part).at(sort)?;
            }
        }
        self.runs.push(spool.finish().at(sort)?);
        Ok(())
    }

    /// Gives all records to `visit`, in order.
    pub(crate) fn each(mut self, visit: &mut dyn FnMut(Vec<u8>, Vec<u8>) -> Result<()>) -> Result<()> {
        let mut last = std::mem::take(&mut self.waiting);
        last.sort_by(|a, b| a.0.cmp(&b.0));
        let mut runs: Vec<RunReader<'_>> = self.runs.iter().map(|run| RunReader::Spooled(run)).collect();
        runs.push(RunReader::Memory(last.into_iter()));
        let mut heads = BinaryHeap::new();
        for (number, run) in runs.iter_mut().enumerate() {
            heads.extend(run.next()?.map(|(key, value)| Reverse((key, number, value))));
        }
        while let Some(Reverse((key, number, value))) = heads.pop() {
            if let Some(run) = runs.get_mut(number) {
                heads.extend(run.next()?.map(|(key, value)| Reverse((key, number, value))));
            }
            visit(key, value)?;
        }
        Ok(())
    }
}

enum RunReader<'a> {
    Spooled(&'a [u8]),
    Memory(std::vec::IntoIter<SortedRecord>),
}

impl RunReader<'_> {
    fn next(&mut self) -> Result<Option<SortedRecord>> {
        match self {
            RunReader::Memory(records) => Ok(records.next()),
            RunReader::Spooled([]) => Ok(None),
            RunReader::Spooled(rest) => {
                let mut part = || {
                    let (len, after) = rest.split_first_chunk::<4>()?;
                    let (part, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
                    *rest = after;
                    Some(part.to_vec())
                };
                let record = part().zip(part());
                record.map(Some).ok_or_else(|| Error::corrupt("a file of sorted entries is cut short"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_in_order_from_memory_and_from_files() {
        let place = tempfile::tempdir().expect("a directory");
        for directory in [None, Some(place.path())] {
            let mut sorter = RecordSorter { most: 10_000, ..RecordSorter::new(directory) };
            for n in 0..3000u32 {
                let key = (n * 7919 % 1000).to_be_bytes().to_vec();
                sorter.push(key, n.to_be_bytes().to_vec()).expect("a push");
            }
            assert_eq!(sorter.runs.len() > 10, directory.is_some());
            let mut all: Vec<SortedRecord> = Vec::new();
            sorter
                .each(&mut |key, value| {
                    all.push((key, value));
                    Ok(())
                })
                .expect("all");
            assert_eq!(all.len(), 3000);
            assert!(all.is_sorted(), "records of one key keep their order");
        }
    }
}
