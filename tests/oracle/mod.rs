//! One oracle, several exits: trees are made and edited, and after each snapshot the same comparison runs on what the
//! repository holds, on the mount's view of it, on a restored directory and on a real mount.
#![allow(missing_docs)]

mod in_place;

use crate::common::trees::capture;
use crate::common::trees::exits;
use crate::common::trees::generate;
use std::time::Duration;

use crate::common::record::Operation;
use crate::common::trees::fixture::{BASE, Fixture};
use capture::{Births, Tree, assert_same};
use generate::Live;
use yester::ingest::IngestOptions;
use yester::model::Snapshot;
use yester::storage::{Class, Name};

/// A file is trusted as unchanged only when it is two seconds older than the scan.
fn settle() {
    std::thread::sleep(Duration::from_millis(3100));
}

fn check_all(fixture: &Fixture, history: &[(Snapshot, Tree)]) {
    let trees = fixture.trees();
    let place = fixture.scratch.path().join("in place");
    for (number, (snapshot, tree)) in history.iter().enumerate() {
        let same = |found: &Tree, births, what: &str| assert_same(tree, found, births, &format!("snapshot {number} {what}"));
        same(&capture::snapshot(&trees, snapshot, &BASE), Births::All, "in the repository");
        same(&exits::view(fixture, snapshot), Births::All, "in the view");
        same(&exits::mounted(fixture, snapshot), exits::births(snapshot), "in the mount");
        let to = fixture.scratch.path().join(format!("restored {number}"));
        same(&exits::restored(fixture, snapshot, &to, 64 << 20), Births::None, "restored");
        // So little memory that most groups of hard links are remembered elsewhere.
        same(&exits::restored(fixture, snapshot, &place, 1), Births::None, "restored over the one before");
    }
    if let Some((snapshot, tree)) = history.first() {
        let found = exits::restored(fixture, snapshot, &place, 64 << 20);
        assert_same(tree, &found, Births::None, "the first snapshot restored over the last");
    }
}

fn count_deltas(index: &yester::repo::index::Index) -> usize {
    let mut deltas = 0;
    for segment in 0..index.segments().len() {
        let count = &mut |_: &_, _, frame: &yester::format::pack::FrameInfo| {
            deltas += usize::from(!frame.bases.is_empty());
            Ok(())
        };
        index.scan_frames(segment, count).expect("the frames can be read");
    }
    deltas
}

/// One history; answers how many differences it stored.
fn run(seed: u64) -> usize {
    let fixture = Fixture::new();
    let mut live = Live::new(&fixture.scratch.path().join("live"), seed);
    let mut history = Vec::new();
    for (edits, old) in [(700, false), (100, true), (0, true), (400, false), (60, false)] {
        live.edit(edits);
        if history.is_empty() {
            live.deepen();
            live.edit(60);
        }
        if old {
            // Old enough for the next ingest to take it over unread.
            settle();
        }
        let tree = capture::directory(&live.root);
        let report = fixture.ingest(&live.root);
        assert!(report.is_complete(), "{report:?}");
        assert_eq!(report.snapshot.root.directory().map(|d| d.entries), Some(1));
        history.push((report.snapshot, tree));
    }
    check_all(&fixture, &history);
    let index = yester::repo::index::Index::load(&fixture.repo).expect("the index loads");
    let deltas = count_deltas(&index);
    // A third and a fourth time from scratch: the same content has the same tree, whatever was adopted.
    let fresh = Fixture::new();
    let first = fresh.ingest(&live.root);
    let again = fixture.ingest_with(&live.root, &IngestOptions { parent: yester::ingest::Parent::None, ..Default::default() });
    let again = again.expect("the ingest succeeds");
    let trees = fixture.trees();
    let node = |snapshot: &Snapshot| trees.walk_to(&snapshot.root, &BASE).expect("the base is there").0;
    assert_eq!(node(&again.snapshot), node(&history[4].0));
    assert_eq!(first.snapshot.nodes(), again.snapshot.nodes());
    deltas
}

/// Odd and even seeds, from `first` on. More of them, by hand: YESTER_TEST_SEEDS=20.
fn run_all(first: u64) {
    let count = std::env::var("YESTER_TEST_SEEDS").map_or(1, |number| number.parse().expect("a number of seeds"));
    let run_one = |seed: u64| {
        eprintln!("seed {seed}");
        run(seed)
    };
    let deltas: usize = (first..).step_by(2).take(count).map(run_one).sum();
    assert!(deltas > 0, "edited files were not stored as differences");
}

#[test]
fn every_exit_gives_back_what_was_given_1() {
    run_all(1);
}

#[test]
fn every_exit_gives_back_what_was_given_2() {
    run_all(2);
}

fn packs(log: &[Operation]) -> usize {
    log.iter().filter(|op| matches!(op, Operation::Create(Name::Pack(_), _))).count()
}

#[test]
fn an_unchanged_ingest_opens_no_file_and_writes_no_pack() {
    let fixture = Fixture::new();
    let mut live = Live::new(&fixture.scratch.path().join("live"), 7);
    live.edit(300);
    settle();
    let first = fixture.ingest(&live.root).snapshot;
    assert!(packs(&fixture.storage.take()) >= 2);
    let second = fixture.ingest(&live.root).snapshot;
    let log = fixture.storage.take();
    assert_eq!(packs(&log), 0);
    assert_eq!((&second.root, second.scan), (&first.root, first.scan));
    assert!(!log.iter().any(|op| matches!(op, Operation::Create(Name::Segment(_), _))));
    // Second names of a file are counted with their first.
    assert_eq!(second.statistics.files_new + second.statistics.files_changed, 0);
    assert_eq!(second.statistics.bytes_stored, 0);
    let skip = IngestOptions { skip_if_unchanged: true, ..Default::default() };
    assert!(!fixture.ingest_with(&live.root, &skip).expect("the ingest succeeds").committed);
    assert!(fixture.storage.list_names(Class::Sessions).is_empty());
}

#[test]
fn a_dry_run_changes_nothing() {
    let fixture = Fixture::new();
    let mut live = Live::new(&fixture.scratch.path().join("live"), 8);
    live.edit(100);
    fixture.storage.take();
    let options = IngestOptions { dry_run: true, ..Default::default() };
    let report = fixture.ingest_with(&live.root, &options).expect("the ingest succeeds");
    assert!(report.snapshot.statistics.bytes_new > 0 && !report.committed);
    let changes = |op: &Operation| !matches!(op, Operation::List(_) | Operation::Read(..));
    assert!(!fixture.storage.take().iter().any(changes));
}

#[test]
fn a_failing_storage_commits_nothing_and_the_next_ingest_is_whole() {
    let fixture = Fixture::new();
    let mut live = Live::new(&fixture.scratch.path().join("live"), 9);
    live.edit(250);
    let tree = capture::directory(&live.root);
    for changes in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10] {
        fixture.storage.fail_after(changes);
        let result = fixture.ingest_with(&live.root, &IngestOptions::default());
        fixture.storage.fail_after(u64::MAX);
        let listed = yester::repo::snapshots::list(&fixture.repo).expect("snapshots are listed");
        let trees = fixture.trees();
        // Whatever is listed is whole; an ingest that failed after its commit is one of them.
        listed.iter().for_each(|s| assert_same(&tree, &capture::snapshot(&trees, s, &BASE), Births::All, "after a failure"));
        assert!(result.is_err() || !listed.is_empty());
    }
    let report = fixture.ingest(&live.root);
    check_all(&fixture, &[(report.snapshot, tree)]);
}

#[test]
fn a_stopped_ingest_leaves_what_it_stored_for_the_next() {
    let fixture = Fixture::new();
    let mut live = Live::new(&fixture.scratch.path().join("live"), 10);
    live.edit(300);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let source = crate::common::trees::fixture::source(&live.root);
    let result = yester::ingest::ingest(
        &fixture.repo,
        &source,
        &IngestOptions::default(),
        &yester::task::Task::default().stopped_by(&stop),
    );
    assert_eq!(result.map(|_| ()).map_err(|e| e.kind()), Err(yester::ErrorKind::Interrupted));
    assert!(yester::repo::snapshots::list(&fixture.repo).expect("snapshots are listed").is_empty());
    assert!(fixture.storage.list_names(Class::Sessions).is_empty());
    assert!(fixture.ingest(&live.root).is_complete());
}

#[test]
fn listing_a_directory_reads_one_path_of_pages() {
    let fixture = Fixture::new();
    let mut live = Live::new(&fixture.scratch.path().join("live"), 11);
    live.edit(400);
    let snapshot = fixture.ingest(&live.root).snapshot;
    let trees = fixture.trees();
    fixture.storage.take();
    let (node, _) = trees.walk_to(&snapshot.root, &BASE).expect("the base is there");
    let directory = node.directory().expect("a directory");
    assert!(trees.entries(directory).all(|e| e.is_ok()));
    // All pages of this small tree are in one frame: its pack's first bytes and the frame are read, once.
    let reads = fixture.storage.take().iter().filter(|op| matches!(op, Operation::Read(Name::Pack(_), _))).count();
    assert_eq!(reads, 2);
}
