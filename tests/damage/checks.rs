//! `check` finds what is wrong, says what it costs, and takes nothing sound for damaged.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common;
use crate::common::program;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::record::{Operation, RecordingStorage};
use common::forge::{self, Forge, child, inline, node};
use common::tiny::{About, CHUNK, Piece, Tiny, dir, file, noise, sparse};
use program::{World, shown, with};
use yester::chunk::keys::Credential;
use yester::format::page::{self, PageKind};
use yester::ingest::{IngestOptions, Source, ingest};
use yester::maintain::check::{CheckOptions, CheckReport, Subset, check};
use yester::model::{Content, Item, Kind, LinkGroup, PackId, Root, SnapshotId, Timestamp, Xattrs, escape};
use yester::observe::{Event, Observer};
use yester::repo::Repository;
use yester::storage::{Class, Name, Storage};
use yester::task::{Clock, Task};

/// What was told.
#[derive(Default)]
struct Told {
    damage: Mutex<Vec<(String, String)>>,
    hits: Mutex<Vec<(String, String, String)>>,
    more: Mutex<Vec<(String, u64)>>,
}

impl Observer for Told {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Damage { object, message } => {
                self.damage.lock().unwrap().push(((*object).to_owned(), (*message).to_owned()));
            }
            Event::Hit { snapshot, path, message } => {
                self.hits.lock().unwrap().push(((*snapshot).to_owned(), escape(path), (*message).to_owned()));
            }
            Event::MoreHits { snapshot, entries } => self.more.lock().unwrap().push(((*snapshot).to_owned(), *entries)),
            _ => {}
        }
    }
}

impl Told {
    /// The damage, as lines.
    fn lines(&self) -> Vec<String> {
        self.damage.lock().unwrap().iter().map(|(object, message)| format!("{object}: {message}")).collect()
    }

    /// Paths that are hit in a snapshot, in the order they were told.
    fn paths(&self, id: SnapshotId) -> Vec<String> {
        let hits = self.hits.lock().unwrap();
        hits.iter().filter(|(snapshot, ..)| *snapshot == id.to_string()).map(|(_, path, _)| path.clone()).collect()
    }

    #[track_caller]
    fn holds(&self, words: &[&str]) {
        let lines = self.lines();
        assert!(lines.iter().any(|line| words.iter().all(|word| line.contains(word))), "{words:?} is in no line of {lines:#?}");
    }
}

const STRUCTURE: fn() -> CheckOptions = CheckOptions::default;

fn all_data() -> CheckOptions {
    CheckOptions { read: Some(Subset::All), ..CheckOptions::default() }
}

fn run(repo: &Arc<Repository>, options: &CheckOptions) -> (CheckReport, Told, Vec<PackId>) {
    run_by(Clock::System, repo, options)
}

fn run_by(clock: Clock, repo: &Arc<Repository>, options: &CheckOptions) -> (CheckReport, Told, Vec<PackId>) {
    let (told, mut sound) = (Told::default(), Vec::new());
    let task = Task { clock, ..Task::new(&told) };
    let report = check(repo, options, &task, &mut |pack, whole| sound.extend(whole.then_some(pack))).unwrap();
    (report, told, sound)
}

/// Nothing is wrong, whether or not data is read.
#[track_caller]
fn is_sound(repo: &Arc<Repository>) -> CheckReport {
    let (_, told, _) = run(repo, &STRUCTURE());
    assert!(told.lines().is_empty(), "{:#?}", told.lines());
    let (report, told, sound) = run(repo, &all_data());
    assert!(report.is_sound() && told.lines().is_empty(), "{report:?} {:#?}", told.lines());
    assert_eq!(sound.len() as u64, report.packs);
    report
}

/// Files of several chunks, one of which fills a frame or more by itself.
fn tree() -> common::tiny::Tree {
    let linked = || file(noise(9, 3 * CHUNK)).with(|t| t.link = Some("group"));
    dir([
        ("a", dir([("one", file(noise(1, 5 * CHUNK))), ("two", file(noise(2, 5 * CHUNK)))])),
        ("b", dir([("link", linked()), ("same", linked()), ("small", file("small"))])),
        ("c", dir([("deep", dir([("big", file(noise(3, 100 * CHUNK)))]))])),
        ("holes", sparse(vec![Piece::Hole(1 << 20), Piece::Data(noise(4, CHUNK))])),
    ])
}

fn chunk_of(tiny: &Tiny, seed: u64, len: usize, number: usize) -> yester::model::ChunkId {
    let bytes = noise(seed, len);
    tiny.repo.keys().chunk_id(yester::format::pack::PackKind::Data, bytes.chunks(CHUNK).nth(number).unwrap())
}

#[test]
fn a_sound_repository_is_sound_and_pages_are_visited_once() {
    let tiny = Tiny::new();
    tiny.commit(&tree(), About::at(1));
    let once = is_sound(&tiny.repo);
    for time in 2..20 {
        tiny.commit(&tree(), About::at(time));
    }
    let often = is_sound(&tiny.repo);
    assert_eq!((once.snapshots, often.snapshots), (1, 19));
    // The links of a snapshot are compared with each tree anew only when either is another.
    assert_eq!((often.pages, often.references), (once.pages, once.references));
    assert!(once.pages > 5 && once.references > 100, "{once:?}");
    assert_eq!((once.packs, once.unused_packs, once.damage), (2, 0, 0));
}

#[test]
fn a_damaged_frame_names_the_files_of_every_snapshot() {
    let tiny = Tiny::new();
    let first = tiny.commit(&tree(), About::at(1));
    let data = first.data.unwrap();
    // A second snapshot with one of the files, and the same content under another name.
    let second = dir([("elsewhere", file(noise(1, 5 * CHUNK))), ("whole", file("whole"))]);
    let second = tiny.commit(&second, About::at(2));
    tiny.lose(second.data.as_ref().unwrap());
    tiny.storage.list(Class::Index).unwrap();
    tiny.damage(&data, &chunk_of(&tiny, 1, 5 * CHUNK, 0));
    tiny.damage(&data, &chunk_of(&tiny, 9, 3 * CHUNK, 2));
    // Without a look at the data only the lost pack is seen, and costs nothing: another has the same chunks.
    let (report, told, _) = run(&tiny.repo, &STRUCTURE());
    assert_eq!((report.damage, report.hits, report.gone_packs), (0, 0, 1), "{:#?}", told.lines());
    let (report, told, sound) = run(&tiny.repo, &all_data());
    told.holds(&[&Name::Pack(data.id).to_string(), "authentication tag", "frames"]);
    let hit = told.paths(first.id);
    for path in ["/a/one", "/b/link", "/b/same"] {
        assert!(hit.iter().any(|p| p == path), "{path} is not in {hit:?}");
    }
    // Frames hold a few chunks, so a neighbour may be hit; what is far away is not.
    assert!(!hit.iter().any(|p| p == "/holes" || p == "/b/small" || p == "/c/deep"), "{hit:?}");
    assert_eq!(told.paths(second.id), ["/elsewhere"]);
    assert_eq!((report.hits, report.hit_snapshots), ((hit.len() + 1) as u64, 2));
    assert_eq!(sound.len(), 2, "the two packs of trees");
    // What is told is what cannot be read.
    let reader = yester::repo::reader::ChunkReader::new(
        tiny.repo.clone(),
        Arc::new(yester::repo::index::Index::load(&tiny.repo).unwrap()),
        8 << 20,
    );
    let reader = yester::repo::tree::TreeReader::new(Arc::new(reader.unwrap()), 1 << 20).unwrap();
    let mut bytes = Vec::new();
    for (path, broken) in [("a/one", true), ("b/link", true), ("b/same", true), ("b/small", false), ("holes", false)] {
        let names: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
        let (node, _) = reader.walk_to(&first.root, &names).unwrap();
        let Kind::File(content) = &node.kind else { panic!() };
        assert_eq!(reader.read(content, 0, 1 << 22, &mut bytes).is_err(), broken, "{path}");
    }
}

#[test]
fn what_is_lost_is_named_without_reading_data() {
    let tiny = Tiny::new();
    let kept = tiny.commit(&dir([("kept", file(noise(50, CHUNK * 2)))]), About::at(1));
    let lost = tiny.commit(&tree(), About::at(2));
    tiny.lose(lost.data.as_ref().unwrap());
    let (report, told, _) = run(&tiny.repo, &STRUCTURE());
    told.holds(&[&Name::Pack(lost.data.as_ref().unwrap().id).to_string(), "missing"]);
    assert_eq!(told.lines().len(), 1, "{:#?}", told.lines());
    assert_eq!((report.hits, report.hit_snapshots), (6, 1));
    assert_eq!(told.paths(lost.id), ["/a/one", "/a/two", "/b/link", "/b/same", "/c/deep/big", "/holes"]);
    assert!(told.paths(kept.id).is_empty());
    // A pack that is too short costs what lay behind its end.
    let tiny = Tiny::new();
    let cut = tiny.commit(&tree(), About::at(1));
    let pack = cut.data.unwrap();
    let half = pack.entries[pack.entries.len() / 2].frame.offset as usize;
    tiny.storage.damage(&Name::Pack(pack.id), |bytes| bytes.truncate(half));
    for read in [None, Some(Subset::All)] {
        let (_, told, _) = run(&tiny.repo, &CheckOptions { read, names: None, ..CheckOptions::default() });
        told.holds(&[&Name::Pack(pack.id).to_string(), &format!("it has {half} bytes")]);
        let hit = told.paths(cut.id);
        assert!(hit.contains(&"/c/deep/big".to_owned()) && !hit.contains(&"/a/one".to_owned()), "{hit:?}");
    }
}

#[test]
fn a_lost_base_costs_what_is_stored_as_a_difference() {
    let (storage, repo, ids) = versions();
    let deltas = |pack: &Name| {
        let mut bytes = Vec::new();
        storage.read(pack, None, &mut bytes).unwrap();
        let Name::Pack(id) = *pack else { panic!() };
        let (_, entries) = yester::repo::pack::read_directory(&repo, id, bytes.len() as u64).unwrap();
        entries.iter().filter(|e| !e.frame.bases.is_empty()).count()
    };
    let packs: Vec<Name> = storage.list(Class::Packs).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(packs.iter().map(deltas).sum::<usize>(), 1);
    let base = packs.iter().find(|pack| deltas(pack) == 0 && is_data(&storage, pack)).unwrap();
    // Lost, and damaged where only a look at the data shows it.
    let mut object = Vec::new();
    storage.read(base, None, &mut object).unwrap();
    let flip = |bytes: &mut Vec<u8>| bytes.iter_mut().skip(200).take(2000).for_each(|b| *b ^= 1);
    for (damage, read) in [(true, None), (false, Some(Subset::All))] {
        match damage {
            true => storage.delete(base).unwrap(),
            false => storage.damage(base, flip),
        }
        let (report, told, _) = run(&repo, &CheckOptions { read, names: None, ..CheckOptions::default() });
        assert!(!report.is_sound());
        for id in &ids {
            assert!(told.paths(*id).iter().any(|p| p.ends_with("/versioned")), "{:?} {:#?}", told.paths(*id), told.lines());
        }
        let _ = storage.delete(base);
        storage.create(base, &[&object]).unwrap();
    }
    // That it was mended is known once it was read.
    run(&repo, &all_data());
    is_sound(&repo);
}

fn is_data(storage: &yester::storage::memory::MemoryStorage, pack: &Name) -> bool {
    let mut first = Vec::new();
    storage.read(pack, Some(0..112), &mut first).unwrap();
    first[108] == 1
}

type Versions = (Arc<yester::storage::memory::MemoryStorage>, Arc<Repository>, [SnapshotId; 2]);

/// Two versions of a file, the second as a difference from the first.
fn versions() -> Versions {
    let tiny = Tiny::new();
    let live = tempfile::tempdir().unwrap();
    let mut bytes = noise(70, 9000);
    let source = [Source { path: live.path().to_owned(), stored: b"/live".to_vec() }];
    let take = || ingest(&tiny.repo, &source, &IngestOptions::default(), &Task::default()).unwrap().snapshot.id;
    fs::write(live.path().join("versioned"), &bytes).unwrap();
    let first = take();
    bytes[4000] ^= 1;
    fs::write(live.path().join("versioned"), &bytes).unwrap();
    (tiny.storage, tiny.repo.clone(), [first, take()])
}

#[test]
fn a_damaged_or_lost_segment_costs_nothing_but_is_told() {
    let tiny = Tiny::new();
    let one = tiny.commit(&tree(), About::at(1));
    tiny.commit(&dir([("other", file(noise(60, 3 * CHUNK)))]), About::at(2));
    let segments = tiny.storage.list(Class::Index).unwrap();
    assert_eq!(segments.len(), 2);
    for (name, size) in &segments {
        let mut object = Vec::new();
        tiny.storage.read(name, None, &mut object).unwrap();
        for at in (0..*size as usize).step_by(37) {
            tiny.storage.damage(name, |bytes| bytes[at] ^= 0x80);
            let (report, told, _) = run(&tiny.repo, &all_data());
            told.holds(&[&name.to_string(), "yester repair index"]);
            assert_eq!((report.damage, report.hits), (1, 0), "byte {at}: {:#?}", told.lines());
            tiny.storage.damage(name, |bytes| bytes[at] ^= 0x80);
        }
        tiny.storage.delete(name).unwrap();
        let (report, told, _) = run(&tiny.repo, &all_data());
        told.holds(&["index", "yester repair index"]);
        assert_eq!((report.damage, report.hits), (1, 0), "{:#?}", told.lines());
        tiny.storage.create(name, &[&object]).unwrap();
    }
    // With a segment and a pack gone, what was in the pack is lost.
    tiny.storage.delete(&segments[0].0).unwrap();
    tiny.storage.delete(&segments[1].0).unwrap();
    tiny.lose(one.data.as_ref().unwrap());
    let (report, told, _) = run(&tiny.repo, &CheckOptions { names: None, ..CheckOptions::default() });
    assert_eq!(told.paths(one.id).len(), 6, "{report:?} {:#?}", told.lines());
    told.holds(&["chunk", "in no pack"]);
    told.holds(&["more chunks"]);
}

#[test]
fn every_copy_of_small_objects_is_looked_at() {
    let tiny = Tiny::new();
    tiny.commit(&tree(), About::at(1));
    for class in [Class::Config, Class::Keys] {
        for (name, _) in tiny.storage.list(class).unwrap() {
            let mut object = Vec::new();
            tiny.storage.read(&name, None, &mut object).unwrap();
            tiny.storage.delete(&name).unwrap();
            let (report, told, _) = run(&tiny.repo, &STRUCTURE());
            // A slot without its last copy is one whose addition was stopped.
            let unfinished = matches!(name, Name::Key(_, 2));
            assert_eq!((report.damage, report.hits), (u64::from(!unfinished), 0));
            assert_eq!(report.unfinished_keys, u64::from(unfinished));
            if !unfinished {
                told.holds(&[&name.to_string(), "missing", "copy"]);
            }
            tiny.storage.create(&name, &[&object]).unwrap();
            tiny.storage.damage(&name, |bytes| bytes[40] ^= 1);
            run(&tiny.repo, &STRUCTURE()).1.holds(&[&name.to_string(), "checksum", "copy"]);
            tiny.storage.damage(&name, |bytes| bytes[40] ^= 1);
        }
    }
    let id = SnapshotId([7; 32]);
    for name in [Name::Session(id), Name::Forgotten(id), Name::Condemned(id), Name::Snapshot(id)] {
        tiny.storage.create(&name, &[b"no object"]).unwrap();
        let (report, told, _) = run(&tiny.repo, &STRUCTURE());
        // A forgotten snapshot hides the one of the same name.
        told.holds(&[&name.to_string(), "too few"]);
        assert_eq!((report.damage, report.hits), (1, 0), "{:#?}", told.lines());
        tiny.storage.delete(&name).unwrap();
    }
    is_sound(&tiny.repo);
}

/// Two segments that disagree about a frame, as a repair of the index once made: by one it is a difference whose base is, by
/// the other, in the same frame.
#[test]
fn a_frame_that_is_its_own_base_is_damage_and_no_wait() {
    let (storage, repo, ids) = versions();
    let index = yester::repo::index::Index::load(&repo).unwrap();
    let data: Vec<_> = index.packs().filter(|pack| pack.kind == yester::format::pack::PackKind::Data).copied().collect();
    let entries = |id: PackId, size: u64| yester::repo::pack::read_directory(&repo, id, size).unwrap().1;
    let is_delta = |id: PackId, size: u64| entries(id, size).iter().any(|entry| !entry.frame.bases.is_empty());
    let delta = data.iter().find(|pack| is_delta(pack.id, pack.size)).unwrap();
    let base = data.iter().find(|pack| pack.id != delta.id).unwrap();
    let frames = entries(delta.id, delta.size);
    let lie = yester::repo::pack::StoredPack { id: base.id, kind: base.kind, size: base.size, one_way: false, entries: frames };
    yester::repo::index::segment::Segment::of_packs(&[lie]).store(&repo, Vec::new()).unwrap();
    storage.damage(&Name::Pack(delta.id), |bytes| bytes[130] ^= 1);
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || drop(done.send(Box::new(run(&repo, &all_data()).0))));
    let report = wait.recv_timeout(Duration::from_secs(900)).expect("the check ends");
    assert!(report.damage > 1, "{report:?} of {ids:?}");
}

#[test]
fn packs_that_nobody_names_are_no_damage() {
    let tiny = Tiny::new();
    tiny.commit(&tree(), About::at(1));
    let frame = yester::repo::pack::PlainFrame {
        bytes: b"left over".to_vec(),
        chunks: vec![(tiny.repo.keys().chunk_id(yester::format::pack::PackKind::Data, b"left over"), 9)],
        ..Default::default()
    };
    let left = forge::store_frames(&tiny.repo, yester::format::pack::PackKind::Data, SnapshotId([5; 32]), &[frame]);
    let report = is_sound(&tiny.repo);
    assert_eq!((report.unused_packs, report.unused_bytes, report.packs), (1, left.size, 2));
}

#[test]
fn subsets_cover_everything_and_fresh_packs_are_left_out() {
    let tiny = Tiny::new();
    for n in 0..20 {
        tiny.commit(&dir([("f", file(noise(100 + n, 2 * CHUNK)))]), About::at(n as i64));
    }
    let mut seen = BTreeSet::new();
    for part in 1..=3 {
        let options = CheckOptions { read: Some(Subset::Part { part, of: 3 }), ..CheckOptions::default() };
        for pack in run(&tiny.repo, &options).2 {
            assert!(seen.insert(pack), "{pack} is in two parts");
        }
    }
    assert_eq!(seen.len(), 40);
    // By share, what was not seen for longest comes first.
    let (mut verified, mut seen) = (HashMap::new(), BTreeSet::new());
    for round in 0..4 {
        let options = CheckOptions { read: Some(Subset::Share(0.25)), verified: verified.clone(), ..CheckOptions::default() };
        let (report, _, sound) = run(&tiny.repo, &options);
        assert_eq!(report.read_packs, 10);
        verified.extend(sound.iter().map(|pack| (*pack, Timestamp { secs: round, nanos: 0 })));
        seen.extend(sound);
    }
    assert_eq!(seen.len(), 40);
    let now = Timestamp { secs: 1003, nanos: 0 };
    let fresh = |seconds| {
        let max_age = Some(Duration::from_secs(seconds));
        let options = CheckOptions { verified: verified.clone(), max_age, ..all_data() };
        let report = run_by(Clock::Fixed(now), &tiny.repo, &options).0;
        (report.read_packs, report.fresh_packs)
    };
    assert_eq!((fresh(2000), fresh(1002), fresh(10)), ((0, 40), (20, 20), (40, 0)));
    // Without time none is read, and that is said; what is left is not damage.
    let most = |max_duration| run(&tiny.repo, &CheckOptions { max_duration: Some(max_duration), ..all_data() }).0;
    let (none, all) = (most(Duration::ZERO), most(Duration::MAX));
    assert_eq!((none.read_packs, none.left_packs, none.is_sound()), (0, 40, true));
    assert_eq!((all.read_packs, all.left_packs), (40, 0));
    // A clock that went back proves nothing.
    let options = CheckOptions { max_age: Some(Duration::from_secs(9)), verified, ..all_data() };
    assert!(run_by(Clock::Fixed(Timestamp::default()), &tiny.repo, &options).0.read_packs > 0);
}

#[test]
fn every_byte_is_read_once_and_large_pieces_at_a_time() {
    let tiny = Tiny::new();
    tiny.commit(&dir([("big", file(noise(1, 12 << 20)))]), About::at(1));
    let recording = Arc::new(RecordingStorage::new(tiny.storage.clone()));
    let repo = Arc::new(Repository::open(recording.clone(), &Credential::KeyFile([7; 32])).unwrap());
    recording.take();
    let (report, _, _) = run(&repo, &all_data());
    let mut reads: BTreeMap<Name, (u64, u64)> = BTreeMap::new();
    for operation in recording.take() {
        match operation {
            Operation::Read(name @ Name::Pack(_), bytes) => {
                let read = reads.entry(name).or_default();
                *read = (read.0 + 1, read.1 + bytes);
            }
            Operation::Create(..) | Operation::Delete(_) | Operation::Sync => panic!("a check writes: {operation:?}"),
            _ => {}
        }
    }
    for (name, size) in tiny.storage.list(Class::Packs).unwrap().into_iter().filter(|(name, _)| is_data(&tiny.storage, name)) {
        let (requests, bytes) = reads[&name];
        // The ends once more, for the directory.
        assert!(bytes <= size + (257 << 10) && requests <= size / (3 << 20) + 4, "{requests} requests, {bytes} of {size} bytes");
    }
    assert!(report.read_bytes > 12 << 20);
}

#[test]
fn names_are_told_up_to_a_limit() {
    let tiny = Tiny::new();
    let files = (0..50).map(|n| (format!("f{n:02}"), file(noise(n, CHUNK)))).collect::<Vec<_>>();
    let lost = tiny.commit(&dir([("d", dir(files))]), About::at(1));
    tiny.lose(lost.data.as_ref().unwrap());
    let (report, told, _) = run(&tiny.repo, &CheckOptions { names: Some(7), ..CheckOptions::default() });
    assert_eq!(report.hits, 50);
    assert_eq!(told.paths(lost.id), (0..7).map(|n| format!("/d/f{n:02}")).collect::<Vec<_>>());
    assert_eq!(*told.more.lock().unwrap(), [(lost.id.to_string(), 43)]);
}

#[test]
fn a_damaged_page_costs_what_is_below_it() {
    let tiny = Tiny::new();
    let many =
        |seed: u64| dir((0..900).map(|n| (format!("{seed} a rather long name of a file {n:05}"), file("x"))).collect::<Vec<_>>());
    let committed = tiny.commit(&dir([("a", many(1)), ("b", many(2)), ("z", file(noise(1, CHUNK)))]), About::at(1));
    let pages = committed.tree.unwrap();
    is_sound(&tiny.repo);
    // The first page is a leaf of `a`.
    tiny.storage.damage(&Name::Pack(pages.id), |bytes| bytes[300] ^= 1);
    for read in [None, Some(Subset::All)] {
        let (report, told, _) = run(&tiny.repo, &CheckOptions { read, names: None, ..CheckOptions::default() });
        told.holds(&[&Name::Pack(pages.id).to_string(), "authentication tag"]);
        let hits = told.hits.lock().unwrap();
        assert!(
            !hits.is_empty() && hits.iter().all(|(_, path, message)| path == "/a" && message.contains("entries")),
            "{hits:?}"
        );
        assert_eq!(report.hits, hits.len() as u64);
    }
}

/// Checks what a forge made: there must be damage whose line holds `words`, and `path` must be hit.
#[track_caller]
fn finds(make: impl FnOnce(&mut Forge<'_>) -> yester::model::Node, words: &[&str], path: &str) {
    let tiny = Tiny::new();
    let mut forge = Forge::new(&tiny.repo);
    let root = make(&mut forge);
    let (snapshot, _) = forge.commit(root, |_| {});
    let (_, told, _) = run(&tiny.repo, &CheckOptions { names: None, ..CheckOptions::default() });
    told.holds(words);
    assert!(told.paths(snapshot.id).iter().any(|p| p == path), "{:?}", told.hits.lock().unwrap());
}

#[test]
fn trees_that_lie_are_found() {
    // The least that is true of a forged tree.
    let tiny = Tiny::new();
    let mut forge = Forge::new(&tiny.repo);
    let id = forge.data(b"content");
    let root = forge.dir("", &[forge::file("f", id, 7), inline("g", "g")]);
    forge.commit(root, |_| {});
    is_sound(&tiny.repo);

    let lies = |change: fn(&mut yester::model::Directory)| {
        move |forge: &mut Forge<'_>| {
            let mut below = forge.directory(&[inline("f", "f"), node("s", Kind::Directory(Default::default()))]);
            change(&mut below);
            forge.dir("", &[node("d", Kind::Directory(below))])
        }
    };
    finds(lies(|d| (d.entries, d.descendants) = (3, 3)), &["another number of entries"], "/d");
    finds(lies(|d| d.descendants += 1), &["another number of entries"], "/d");
    finds(lies(|d| d.subdirs += 1), &["subdirectories"], "/d");
    finds(lies(|d| d.subdirs = 0), &["subdirectories"], "/d");
    finds(
        |f| {
            let id = f.data(b"seven..");
            f.dir("", &[forge::file("f", id, 6)])
        },
        &["length"],
        "/f",
    );
    // A recipe that states another size, other bytes in chunks, or a page that is none of a recipe.
    let recipe = |size, data, page: fn(&mut Forge<'_>) -> yester::model::ChunkId| {
        move |forge: &mut Forge<'_>| {
            let root = Root { page: page(forge), height: 0 };
            forge.dir("", &[node("f", Kind::File(Content::Tree { root, size, data }))])
        }
    };
    let items: fn(&mut Forge<'_>) -> yester::model::ChunkId = |forge| {
        let id = forge.data(b"seven..");
        forge.items(&[Item::Chunk { id, len: 7 }, Item::Hole { len: 3 }])
    };
    finds(recipe(11, 7, items), &["tree page", "stated"], "/f");
    finds(recipe(10, 8, items), &["bytes in chunks"], "/f");
    finds(recipe(10, 7, |forge| forge.leaf(&[inline("x", "x")])), &["another kind"], "/f");
    finds(
        |forge| {
            let mut file = inline("f", "f");
            file.meta.xattrs = Xattrs::Stored(forge.page(b"\x02no attributes"));
            forge.dir("", &[file])
        },
        &["extended attributes"],
        "/f",
    );
}

/// A directory of two leaves below an inner page.
fn two_leaves(forge: &mut Forge<'_>, first: [&str; 2], second: [&str; 2], keys: [&str; 2]) -> yester::model::Node {
    let leaf = |forge: &mut Forge<'_>, names: [&str; 2]| forge.leaf(&names.map(|name| inline(name, name)));
    let (one, two) = (leaf(forge, first), leaf(forge, second));
    let children = [child(one, 2, 2, keys[0].as_bytes()), child(two, 2, 2, keys[1].as_bytes())];
    let page = forge.inner(PageKind::Directory, 1, &children);
    let directory = yester::model::Directory { root: Some(Root { page, height: 1 }), entries: 4, descendants: 4, subdirs: 0 };
    let node = node("d", Kind::Directory(directory));
    forge.dir("", &[node])
}

#[test]
fn leaves_that_overlap_or_hide_names_are_found() {
    let tiny = Tiny::new();
    let mut forge = Forge::new(&tiny.repo);
    let root = two_leaves(&mut forge, ["a", "b"], ["c", "d"], ["a", "c"]);
    forge.commit(root, |_| {});
    is_sound(&tiny.repo);
    // The second leaf begins before the first one ends; a key is not its leaf's first name.
    finds(|forge| two_leaves(forge, ["a", "d"], ["c", "e"], ["a", "c"]), &["name"], "/d");
    finds(|forge| two_leaves(forge, ["a", "b"], ["c", "d"], ["a", "b"]), &["name"], "/d");
}

#[test]
fn tables_of_links_and_scans_are_compared_with_the_tree() {
    let group = LinkGroup([9; 16]);
    let forged = |entries: &[(LinkGroup, u64, u32)], scan: Option<u64>| {
        let tiny = Tiny::new();
        let mut forge = Forge::new(&tiny.repo);
        let linked = |name: &str| yester::model::Node { link: Some(group), ..inline(name, "same") };
        let root = forge.dir("", &[inline("a", "a"), linked("b"), linked("c")]);
        let mut bytes = Vec::new();
        page::start(PageKind::Links, 0, &mut bytes);
        for (group, first, count) in entries {
            page::put_link(&page::LinkEntry { group: *group, first: *first, count: *count }, &mut bytes);
        }
        let links = (!entries.is_empty()).then(|| Root { page: forge.page(&bytes), height: 0 });
        let scan = scan.map(|records| {
            page::start(PageKind::Scan, 0, &mut bytes);
            (0..records).for_each(|_| page::put_scan(&Default::default(), &Default::default(), &mut bytes));
            Root { page: forge.page(&bytes), height: 0 }
        });
        let (snapshot, _) = forge.commit(root, |snapshot| (snapshot.links, snapshot.scan) = (links, scan));
        let (report, told, _) = run(&tiny.repo, &CheckOptions { names: None, ..CheckOptions::default() });
        (Name::Snapshot(snapshot.id).to_string(), report, told)
    };
    assert!(forged(&[(group, 2, 2)], Some(4)).1.is_sound());
    let other = LinkGroup([10; 16]);
    for bad in [&[][..], &[(group, 2, 3)], &[(group, 1, 2)], &[(group, 99, 2)], &[(other, 2, 2)], &[(group, 2, 2), (other, 2, 1)]]
    {
        let (name, report, told) = forged(bad, None);
        told.holds(&[&name, "hard links"]);
        assert_eq!(report.hits, 1, "{bad:?}");
    }
    let (name, report, told) = forged(&[(group, 2, 2)], Some(3));
    told.holds(&[&name, "scan records", "reads every file again"]);
    assert_eq!(report.hits, 0);
}

/// Every directory holds the same one twice: 2⁴⁰ paths, 40 pages.
#[test]
fn a_tree_that_multiplies_is_gone_through_once() {
    for lost in [false, true] {
        let tiny = Tiny::new();
        let mut forge = Forge::new(&tiny.repo);
        let id = forge.data(b"at the bottom");
        let mut below = forge.directory(&[forge::file("f", id, 13)]);
        for _ in 0..40 {
            below = forge.directory(&[node("a", Kind::Directory(below)), node("b", Kind::Directory(below))]);
        }
        let (snapshot, packs) = forge.commit(node("", Kind::Directory(below)), |_| {});
        if lost {
            tiny.lose(&packs[0]);
        }
        let (report, told, _) = run(&tiny.repo, &CheckOptions { names: Some(3), ..CheckOptions::default() });
        assert_eq!((report.is_sound(), report.hits), (!lost, if lost { 1 << 40 } else { 0 }), "{:#?}", told.lines());
        assert_eq!(told.paths(snapshot.id).len(), if lost { 3 } else { 0 });
        assert!(report.pages < 200);
    }
}

#[test]
fn the_program_says_what_is_wrong_and_ends_with_1() {
    let world = World::new();
    let options = world.repository();
    world.file("src/a\x1b[2J", noise(1, 100_000));
    world.file("src/b", noise(2, 200_000));
    let ingested = world.run(&with(&options, &["ingest", "--json", "src"])).ok().json();
    let id = ingested.last().unwrap()["snapshot_id"].as_str().unwrap().to_owned();
    // What was just stored was looked at when it was.
    let run = world.run(&with(&options, &["check", "--read-data", "--max-age", "1d"])).ok();
    assert!(run.text().contains("read 0 packs") && run.text().contains("2 left out"), "{}", run.text());
    let run = world.run(&with(&options, &["check", "--read-data"])).ok();
    assert!(run.err.is_empty() && run.text().contains("no damage"), "{}{}", run.text(), run.err);
    // What was read is remembered.
    let run = world.run(&with(&options, &["check", "--read-data", "--max-age", "1d"])).ok();
    assert!(run.text().contains("read 0 packs") && run.text().contains("2 left out"), "{}", run.text());
    world.run(&with(&options, &["check", "--max-age", "1d"])).fails(2, &["--read-data"]);
    let run = world.run(&with(&options, &["check", "--read-data", "--max-duration", "0s"])).ok();
    assert!(run.text().contains("not read, since the time was over"), "{}", run.text());
    world.run(&with(&options, &["check", "--read-data", "--max-duration", "1h"])).ok();
    world.run(&with(&options, &["check", "--read-data-subset", "3/2"])).fails(2, &["3/2", "2/7"]);
    // The largest pack is the one of data.
    let packs = walk(&world.at("repo/packs"));
    let data = packs.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let whole = fs::read(data).unwrap();
    fs::set_permissions(data, fs::Permissions::from_mode(0o600)).unwrap();
    let flipped: Vec<u8> = whole.iter().enumerate().map(|(at, b)| if at == 5000 { b ^ 1 } else { *b }).collect();
    fs::write(data, flipped).unwrap();
    world.run(&with(&options, &["check"])).ok();
    let run = world.run(&with(&options, &["check", "--read-data"]));
    assert_eq!(run.code, Some(1));
    let lines: Vec<&str> = run.err.lines().collect();
    let name = data.file_name().unwrap().to_str().unwrap();
    assert!(lines[0].starts_with("yester: damage: packs/") && lines[0].contains(name), "{lines:#?}");
    assert!(lines[1].starts_with(&format!("yester: hit: {}:", &id[..8])) && lines[1].contains("/src/a\\u{1b}[2J"), "{lines:#?}");
    assert!(lines.last().unwrap().starts_with("yester: the repository is damaged: 1 finding; "), "{lines:#?}");
    assert!(lines.iter().all(|line| !line.contains('\x1b')) && run.text().contains("damage found"));
    let run = world.run(&with(&options, &["check", "--read-data", "--json"]));
    assert_eq!(run.code, Some(1));
    let json = run.json();
    let kinds: Vec<&str> = json.iter().map(|line| line["message_type"].as_str().unwrap()).collect();
    assert_eq!((kinds.first(), kinds.last()), (Some(&"damage"), Some(&"summary")), "{kinds:?}");
    assert_eq!((&json[1]["message_type"], &json[1]["snapshot"]), (&"hit".into(), &id.as_str().into()));
    assert_eq!(json[1]["path"], format!("{}/src/a\x1b[2J", shown(world.home())));
    let summary = json.last().unwrap();
    assert_eq!((&summary["sound"], &summary["damage"]), (&false.into(), &1.into()));
    // That it was sound before is forgotten.
    fs::write(data, whole).unwrap();
    let run = world.run(&with(&options, &["check", "--read-data-subset", "100%", "--max-age", "1d"])).ok();
    assert!(run.text().contains("read 1 pack (") && run.text().contains("1 left out"), "{}", run.text());
}

#[test]
fn a_snapshot_that_vanished_is_damage() {
    let world = World::new();
    let options = world.repository();
    world.file("src/a", "a");
    world.run(&with(&options, &["ingest", "src"])).ok();
    world.run(&with(&options, &["ingest", "src"])).ok();
    world.run(&with(&options, &["check"])).ok();
    let gone = fs::read_dir(world.at("repo/snapshots")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&gone).unwrap();
    let id = gone.file_name().unwrap().to_str().unwrap();
    let run = world.run(&with(&options, &["check"]));
    assert_eq!(run.code, Some(14));
    // The other one names it, if it is not the last one.
    let before = format!("damage: snapshot {id}: was here before");
    let named = format!("damage: snapshots/{id}: it is gone and was not forgotten");
    assert!(run.err.contains(&before) != run.err.contains(&named), "{}", run.err);
}

fn walk(path: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(path).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() { out.extend(walk(&entry)) } else { out.push(entry) }
    }
    out
}

/// A writer that was killed between its commit and the end leaves a sign of life: it is told, with what removes it.
#[test]
fn signs_of_life_of_sessions_that_have_ended_are_told() {
    let tiny = Tiny::new();
    let id = SnapshotId([7; 32]);
    yester::repo::beat::give(&tiny.repo, id, 3).unwrap();
    let told = Told::default();
    let report = check(&tiny.repo, &CheckOptions::default(), &Task::new(&told), &mut |_, _| ()).unwrap();
    assert_eq!((report.lone_beats, report.sessions, told.lines().len()), (1, 0, 0));
    tiny.storage.delete(&Name::Beat(id, 3)).unwrap();
    let report = check(&tiny.repo, &CheckOptions::default(), &Task::new(&told), &mut |_, _| ()).unwrap();
    assert_eq!(report.lone_beats, 0);
}
