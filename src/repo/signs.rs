//! Signs that something turned a source over, as ransomware does: by the counts of a snapshot and of the one before it.
//!
//! No file is looked at. A snapshot that is the first of its series, or one of a small tree, shows no signs. Nor does one
//! that is new in all its bytes in a series where that is so each time.

use std::collections::HashMap;

use crate::model::{Snapshot, SnapshotId, Statistics, WriterId};

/// Trees with fewer bytes of files show no signs by their bytes.
const FEW_BYTES: u64 = 8 << 20;
/// Trees with fewer files show no signs by their files.
const FEW_FILES: u64 = 100;
/// Nearly all, in percent.
const NEARLY_ALL: u64 = 80;

/// What is striking about a snapshot, beside the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Nearly all its bytes are new.
    New,
    /// It has less than half the bytes or files.
    Shrunk,
    /// Nearly all its files have other names.
    Renamed,
}

impl Sign {
    /// For programs.
    pub fn code(self) -> &'static str {
        match self {
            Sign::New => "bytes_new",
            Sign::Shrunk => "shrunk",
            Sign::Renamed => "names_new",
        }
    }

    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Sign::New => "nearly all its bytes are new",
            Sign::Shrunk => "it has less than half of what the one before it has",
            Sign::Renamed => "nearly all its files have new names",
        }
    }
}

/// Several, in words.
pub fn text(signs: &[Sign]) -> String {
    let texts: Vec<&str> = signs.iter().map(|sign| sign.text()).collect();
    texts.join(", ")
}

fn nearly_all(part: u64, whole: u64) -> bool {
    u128::from(part) * 100 >= u128::from(whole) * u128::from(NEARLY_ALL)
}

fn is_new(statistics: &Statistics) -> bool {
    statistics.bytes >= FEW_BYTES && nearly_all(statistics.bytes_new, statistics.bytes)
}

/// The signs of a snapshot beside `before`, which is the one before it of the same source.
pub fn between(before: &Snapshot, snapshot: &Snapshot) -> Vec<Sign> {
    let (old, new) = (&before.statistics, &snapshot.statistics);
    let mut out = Vec::new();
    // What only writes stores everything each time. So do others whose content is another each time; the first is always new.
    let each_time = before.parent.is_some() && is_new(old);
    if snapshot.writer.is_none() && old.bytes >= FEW_BYTES && is_new(new) && !each_time {
        out.push(Sign::New);
    }
    let halved = |old: u64, new: u64, few: u64| old >= few && new < old / 2;
    if halved(old.bytes, new.bytes, FEW_BYTES) || halved(old.files, new.files, FEW_FILES) {
        out.push(Sign::Shrunk);
    }
    // New are files that the parent does not have.
    let compared = snapshot.parent == Some(before.id);
    if compared && old.files >= FEW_FILES && new.files >= FEW_FILES && nearly_all(new.files_new, new.files) {
        out.push(Sign::Renamed);
    }
    out
}

/// The signs of each of these snapshots (oldest first) that shows any, beside the one before it in its series.
pub fn all(list: &[Snapshot]) -> HashMap<SnapshotId, Vec<Sign>> {
    type OfSource<'a> = ((&'a [u8], &'a [Vec<u8>]), Option<WriterId>);
    let mut last: HashMap<OfSource<'_>, &Snapshot> = HashMap::new();
    let mut out = HashMap::new();
    for snapshot in list {
        if let Some(before) = last.insert((snapshot.series(), snapshot.writer), snapshot) {
            let signs = between(before, snapshot);
            if !signs.is_empty() {
                out.insert(snapshot.id, signs);
            }
        }
    }
    out
}

/// The signs of a snapshot that was just made, beside its parent.
pub(crate) fn beside(parent: Option<&Snapshot>, snapshot: &Snapshot) -> Vec<Sign> {
    let before = parent.filter(|before| before.series() == snapshot.series());
    before.map_or_else(Vec::new, |before| between(before, snapshot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::snapshot::unfilled;

    const MIB: u64 = 1 << 20;

    fn snapshot(id: u8, parent: Option<u8>, (bytes, new): (u64, u64), (files, files_new): (u64, u64)) -> Snapshot {
        let statistics = Statistics { bytes, bytes_new: new, files, files_new, ..Statistics::default() };
        let parent = parent.map(|id| SnapshotId([id; 32]));
        Snapshot { id: SnapshotId([id; 32]), parent, statistics, ..unfilled(SnapshotId([id; 32])) }
    }

    #[test]
    fn what_turns_a_source_over_is_told_and_nothing_else() {
        let first = snapshot(1, None, (100 * MIB, 100 * MIB), (1000, 1000));
        let signs = |bytes, files| between(&first, &snapshot(2, Some(1), bytes, files));
        assert_eq!(signs((100 * MIB, 3 * MIB), (1000, 10)), []);
        assert_eq!(signs((200 * MIB, 110 * MIB), (1900, 900)), []);
        assert_eq!(signs((101 * MIB, 85 * MIB), (1000, 10)), [Sign::New]);
        assert_eq!(signs((49 * MIB, 0), (1000, 0)), [Sign::Shrunk]);
        assert_eq!(signs((100 * MIB, 0), (499, 0)), [Sign::Shrunk]);
        assert_eq!(signs((50 * MIB, 0), (500, 0)), []);
        assert_eq!(signs((100 * MIB, 0), (1000, 800)), [Sign::Renamed]);
        assert_eq!(signs((100 * MIB, 100 * MIB), (1000, 1000)), [Sign::New, Sign::Renamed]);
        // Without it as the parent all files count as new.
        assert_eq!(between(&first, &snapshot(2, None, (100 * MIB, 0), (1000, 1000))), []);
        // Small trees.
        let small = snapshot(1, None, (7 * MIB, 7 * MIB), (99, 99));
        assert_eq!(between(&small, &snapshot(2, Some(1), (7 * MIB, 7 * MIB), (99, 99))), []);
        assert_eq!(between(&small, &snapshot(2, Some(1), (0, 0), (0, 0))), []);
        // A series of which each is new.
        let second = snapshot(2, Some(1), (100 * MIB, 100 * MIB), (1, 0));
        assert_eq!(between(&second, &snapshot(3, Some(2), (100 * MIB, 100 * MIB), (1, 0))), []);
    }

    #[test]
    fn each_is_compared_with_the_one_before_it_of_the_same_source() {
        let other = Snapshot { host: b"other".to_vec(), ..snapshot(2, None, (1, 1), (1, 1)) };
        let list = [
            snapshot(1, None, (100 * MIB, 100 * MIB), (1000, 1000)),
            other,
            snapshot(3, Some(1), (10 * MIB, 0), (1000, 0)),
            snapshot(4, Some(3), (10 * MIB, 0), (1000, 0)),
        ];
        assert_eq!(all(&list), HashMap::from([(SnapshotId([3; 32]), vec![Sign::Shrunk])]));
    }
}
