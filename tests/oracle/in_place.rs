//! Files that are written in place: how they are cut, and what their versions cost.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;
use yester::chunk::by_place::SamePlace;
use yester::chunk::codec::{Compression, Decoder, Encoder};
use yester::model::{Item, Kind, Snapshot};
use yester::repo::tree::TreeReader;

use crate::common::trees::capture::{self, Tree};
use crate::common::trees::fixture::{BASE, Fixture};
use crate::oracle::check_all;

const GRID: u64 = 64 << 10;
const PAGE: usize = 8192;

/// Rows with a number and some noise, as a page of a database has them.
fn page(seed: u64) -> Vec<u8> {
    let mut noise = vec![0; PAGE / 8];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise.chunks(4).flat_map(|four| [four, &[b' '; 28]].concat()).collect()
}

fn write_pages(path: &Path, pages: impl Iterator<Item = (u64, u64)>) {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
    pages.for_each(|(number, seed)| file.write_all_at(&page(seed), number * PAGE as u64).unwrap());
}

/// Where the chunks of a file begin and how long they are.
fn cuts(trees: &TreeReader, snapshot: &Snapshot, name: &str) -> Vec<(u64, u64)> {
    let node = trees.walk_to(&snapshot.root, &[BASE[0], name.as_bytes()]).unwrap().0;
    let Kind::File(content) = &node.kind else { panic!("{name} is no file") };
    let mut cuts = Vec::new();
    let mut visit = |start, item: &Item| {
        if matches!(item, Item::Chunk { .. }) {
            cuts.push((start, item.len()));
        }
        Ok(true)
    };
    trees.items(content, 0, &mut visit).unwrap();
    cuts
}

/// Whether all chunks but those before a hole or the end fill a field of the grid.
fn is_grid(cuts: &[(u64, u64)]) -> bool {
    cuts.iter().all(|(start, len)| start / GRID == (start + len - 1) / GRID)
}

struct History {
    fixture: Fixture,
    live: std::path::PathBuf,
    all: Vec<(Snapshot, Tree)>,
}

impl History {
    fn new() -> Self {
        let fixture = Fixture::new();
        let live = fixture.scratch.path().join("live");
        fs::create_dir(&live).unwrap();
        History { fixture, live, all: Vec::new() }
    }

    /// Takes the next snapshot; returns what it added to the repository and how `name` was cut.
    fn take(&mut self, name: &str) -> (u64, Vec<(u64, u64)>) {
        let tree = capture::directory(&self.live);
        let report = self.fixture.ingest(&self.live);
        assert!(report.is_complete(), "{report:?}");
        let (stored, cuts) = (report.snapshot.statistics.bytes_stored, cuts(&self.fixture.trees(), &report.snapshot, name));
        self.all.push((report.snapshot, tree));
        (stored, cuts)
    }
}

#[test]
fn a_file_of_pages_is_cut_at_the_grid_while_its_size_allows_it() {
    let mut history = History::new();
    let path = history.live.join("base.db");
    write_pages(&path, (0..500).map(|n| (n, n)));
    let (first, grid) = history.take("base.db");
    assert!(is_grid(&grid) && grid.len() == 500 * PAGE / GRID as usize + 1, "{grid:?}");
    // One page in sixteen changes, then others: only their fields are stored, as differences from the first version.
    for version in 1..4 {
        write_pages(&path, (0..500).filter(|n| n % 16 == version).map(|n| (n, 1000 * version + n)));
        let (stored, grid) = history.take("base.db");
        assert!(is_grid(&grid));
        assert!(stored < first / 4, "{stored} of {first} bytes in version {version}");
    }
    // A byte more at the front: cut by content from now on, and still a difference.
    let bytes = [&b"x"[..], &fs::read(&path).unwrap()].concat();
    fs::write(&path, bytes).unwrap();
    let (stored, by_content) = history.take("base.db");
    assert!(!is_grid(&by_content));
    assert!(stored < first / 2, "{stored} of {first} bytes after an insertion");
    // It has a whole number of pages again: what was cut by content stays so.
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, [bytes, vec![b'y'; PAGE - 1]].concat()).unwrap();
    let (stored, again) = history.take("base.db");
    assert_eq!(again[..again.len() - 1], by_content[..by_content.len() - 1]);
    assert!(stored < first / 8, "{stored} of {first} bytes after an addition");
    check_all(&history.fixture, &history.all);
}

#[test]
fn holes_keep_the_grid() {
    let mut history = History::new();
    let path = history.live.join("disk.img");
    let written = |n: &u64| matches!(n, 3..=40 | 200..=299 | 420..=421);
    write_pages(&path, (0..500).filter(written).map(|n| (n, n)));
    OpenOptions::new().write(true).open(&path).unwrap().set_len(4 << 20).unwrap();
    let (first, grid) = history.take("disk.img");
    assert!(is_grid(&grid) && grid[0].0 == 3 * PAGE as u64, "{grid:?}");
    write_pages(&path, [(5, 5005), (210, 5210), (421, 5421), (499, 5499)].into_iter());
    let (stored, grid) = history.take("disk.img");
    assert!(is_grid(&grid));
    assert!(stored < first / 4, "{stored} of {first} bytes");
    check_all(&history.fixture, &history.all);
}

#[test]
fn an_archive_is_cut_by_content() {
    let mut history = History::new();
    let path = history.live.join("all.tar");
    write_pages(&path, (0..200).map(|n| (n, n)));
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"ustar", 257).unwrap();
    let (_, cuts) = history.take("all.tar");
    assert!(!is_grid(&cuts));
}

/// Fields of a frame with their previous versions among the bases, in any order, and edits of them.
type Plan = (Vec<(u16, u16)>, Vec<(u32, u8)>);

fn plan() -> impl Strategy<Value = Plan> {
    let fields = proptest::collection::vec((any::<u16>(), 1..20_000u16), 1..6);
    (fields, proptest::collection::vec((any::<u32>(), any::<u8>()), 0..40))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Whatever lies where: a frame decodes to what it was made of, with its bases as they are.
    #[test]
    fn differences_by_place_decode((fields, edits) in plan()) {
        let bases: Vec<u8> = (0..12).flat_map(page).collect();
        let (mut plain, mut same) = (Vec::new(), Vec::new());
        for (base, len) in fields {
            let base = usize::from(base) % (bases.len() - usize::from(len));
            same.push(SamePlace { at: plain.len() as u32, len: u32::from(len), base: base as u32 });
            plain.extend_from_slice(&bases[base..][..usize::from(len)]);
        }
        for (at, byte) in edits {
            let at = at as usize % plain.len();
            plain[at] = byte;
        }
        let mut encoder = Encoder::new(Compression::Auto).unwrap();
        let (mut stored, mut back) = (Vec::new(), Vec::new());
        encoder.encode_delta(&plain, &bases, &same, &mut stored).unwrap();
        Decoder::new().unwrap().decode_delta(&stored, &bases, plain.len(), &mut back).unwrap();
        prop_assert!(back == plain);
    }
}
