//! The golden repository of format version 1: whatever the program becomes, it must read this one, and write what it
//! would have written. `YESTER_WRITE_GOLDEN=1 cargo test --test project golden` (as root) makes it and the fuzz seeds anew.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::golden;
use crate::common::golden_tree;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Once};

use golden_tree::{MANY, OWNER, STORED, What};
use tempfile::TempDir;
use yester::chunk::codec::Compression;
use yester::chunk::seal;
use yester::format::config::{self, ChunkerParameters, Derivation};
use yester::format::damage::{self, Damage, DamagedExtent};
use yester::format::envelope::{self, ObjectType};
use yester::format::node;
use yester::format::pack::{self, PackKind};
use yester::format::page::{self, PageKind};
use yester::format::parity as format_of_parity;
use yester::format::snapshot::{self, Mark, Session};
use yester::format::{annotation, filter, group, run, segment};
use yester::ingest::{Exclude, FreezeHooks, IngestOptions, Parent, Source, ingest};
use yester::keys::keyring::KeyRing;
use yester::model::{
    Annotation, ChunkId, Content, GroupEntry, GroupPart, GroupRound, GroupSlot, GroupStep, Item, Kind, Node, PackId, Pin,
    Requests, Run, RunRewrite, RunStep, SetText, SlotId, Snapshot, SnapshotId, Timestamp, Xattrs,
};
use yester::parity::{self, AddOptions, ParityPlace};
use yester::repo::index::Index;
use yester::repo::reader::ChunkReader;
use yester::repo::tree::TreeReader;
use yester::repo::{InitOptions, Repository, snapshots};
use yester::storage::directory::DirectoryStorage;
use yester::storage::{Class, Name, Storage};
use yester::task::Task;

const CHUNKER: ChunkerParameters = ChunkerParameters { min: 256, avg: 1024, max: 4096 };
const TIME: Timestamp = Timestamp { secs: 1_700_000_000, nanos: 42 };

/// Makes everything anew, once, when the environment asks for it.
fn regenerate() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os("YESTER_WRITE_GOLDEN").is_some() {
            write_golden();
        }
    });
}

fn write_golden() {
    let work = TempDir::new().unwrap();
    let path = work.path().join("repository");
    let home = golden::home();
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir_all(&home).unwrap();
    std::fs::write(home.join("key"), golden_tree::noise(32, 200)).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(DirectoryStorage::create(&path).unwrap());
    let options = InitOptions { chunker: CHUNKER, derivation: Derivation::DEFAULT, now: TIME, label: b"golden".to_vec() };
    let repo = Arc::new(Repository::init(storage, &golden::key(), &options).unwrap());
    let source = work.path().join("source");
    golden_tree::make(&source);
    // A file younger than two seconds is read again by the next ingest, whatever its times say.
    std::thread::sleep(std::time::Duration::from_secs(4));
    ingest_golden(&repo, &source);
    golden_tree::change(&source);
    (0..2).for_each(|_| ingest_golden(&repo, &source));
    write_marks(&repo);
    golden::copy_files(&path, &home.join("repository"));
    write_seeds(&repo);
}

fn ingest_golden(repo: &Arc<Repository>, source: &Path) {
    let sources = [Source { path: source.to_owned(), stored: STORED.as_bytes().to_vec() }];
    let options = IngestOptions {
        host: b"golden".to_vec(),
        user: b"somebody".to_vec(),
        tags: vec![b"two".to_vec(), b"one".to_vec()],
        exclude: Exclude { patterns: vec!["*.left-out".into()], ..Exclude::default() },
        group: Some(GroupPart { group: GROUP, member: b"new1".to_vec() }),
        set: Some(SetText { name: b"golden".to_vec(), text: b"paths = [\"/golden\"]\n".to_vec() }),
        still: Some(FreezeHooks { freeze: Arc::new(|| Ok(())), thaw: Arc::new(|| Ok(())) }),
        ..IngestOptions::default()
    };
    let report = ingest(repo, &sources, &options, &Task::default()).unwrap();
    assert!(report.committed && report.is_complete());
}

/// The newest snapshot is forgotten; a session, a fence and a sentence stand beside it.
fn write_marks(repo: &Repository) {
    let put = |kind, name: Name, body: &[u8]| {
        let class = &repo.keys().snapshot;
        let object = seal::seal_object(kind, repo.id(), &golden::id_of(&name), class, body).unwrap();
        repo.storage().create(&name, &[&object]).unwrap();
    };
    let last = snapshots::list(repo).unwrap().last().unwrap().id;
    let fence = SnapshotId([0xfe; 32]);
    put(ObjectType::Forgotten, Name::Forgotten(last), &snapshot::encode_mark(&mark(last)).unwrap());
    put(ObjectType::Fence, Name::Snapshot(fence), &snapshot::encode_mark(&mark(fence)).unwrap());
    put(ObjectType::Condemned, Name::Condemned(SnapshotId([0xc0; 32])), &[[0x11; 32], [0x22; 32]].concat());
    put(ObjectType::Session, Name::Session(SnapshotId([0x5e; 32])), &snapshot::encode_session(&session()).unwrap());
    put(ObjectType::Beat, Name::Beat(SnapshotId([0x5e; 32]), 3), &snapshot::encode_beat(3, TIME));
    put(ObjectType::Removed, Name::Removed(SlotId([0x0d; 16])), &[]);
    put(ObjectType::Run, Name::Run(SnapshotId([0x4a; 32])), &run::encode_run(&a_run()).unwrap());
    for record in golden_groups() {
        put(ObjectType::Group, Name::Group(GROUP, record.slot), &group::encode_group(&record).unwrap());
    }
    let annotation = annotation::encode_annotation(&an_annotation(last)).unwrap();
    put(ObjectType::Annotation, Name::Annotation(SnapshotId([0xa7; 32])), &annotation);
    put(ObjectType::Damaged, Name::Damaged(SnapshotId([0xda; 32])), &damage::encode_damage(&damage()));
    let added = parity::add(&ParityPlace::of(repo), &AddOptions::default(), &Task::default()).unwrap();
    assert!(added.groups > 0 && added.damaged.is_empty());
}

/// The group of the golden repository.
const GROUP: SnapshotId = SnapshotId([0x96; 32]);

/// Its objects: together they have every field.
fn golden_groups() -> Vec<GroupEntry> {
    let said = |slot| GroupEntry { slot, time: TIME, host: b"host".to_vec(), user: b"user".to_vec(), ..GroupEntry::default() };
    let round = GroupRound {
        kind: GroupRound::RESTORE,
        set: b"store".to_vec(),
        members: vec![b"new1".to_vec(), b"new2".to_vec()],
        barrier: true,
        allow_missing: true,
        limit: 3_600_000,
        still_limit: 60_000,
        of: Some(SnapshotId([0x97; 32])),
        parts: vec![b"db1".to_vec(), b"db2".to_vec()],
    };
    let member = |step| GroupSlot::of_member(1, step);
    vec![
        GroupEntry { round: Some(round), ..said(GroupSlot::of_round(GroupStep::Round)) },
        GroupEntry { goes_on: true, members: vec![0, 1], ..said(GroupSlot::of_round(GroupStep::Begin)) },
        GroupEntry { nonce: Some(SnapshotId([0x98; 32])), ..said(member(GroupStep::Joined)) },
        GroupEntry { still: 1234, ..said(member(GroupStep::Thawed)) },
        GroupEntry { snapshot: Some(SnapshotId([0x99; 32])), errors: 3, ..said(member(GroupStep::Done)) },
        GroupEntry { message: b"a reason".to_vec(), ..said(GroupSlot::of_member(0, GroupStep::Failed)) },
    ]
}

/// Of a snapshot that is forgotten: the others are listed with the tags that they were made with.
fn an_annotation(snapshot: SnapshotId) -> Annotation {
    Annotation {
        snapshot,
        time: TIME,
        host: b"host".to_vec(),
        user: b"user".to_vec(),
        clears_tags: true,
        removed: vec![b"old".to_vec()],
        added: vec![b"new".to_vec()],
        note: Some(b"a note".to_vec()),
        pin: Some(Pin::Until(TIME)),
    }
}

fn a_run() -> Run {
    let step = RunStep { name: b"before".to_vec(), started: TIME, finished: TIME, failure: b"exit status 1".to_vec() };
    let rewrite =
        RunRewrite { kind: RunRewrite::TEXT, path: b"/etc/a".to_vec(), was: b"b".to_vec(), is: b"c".to_vec(), count: 2 };
    Run {
        kind: Run::INGEST,
        state: Run::FAILED,
        host: b"golden".to_vec(),
        user: b"somebody".to_vec(),
        set: b"web".to_vec(),
        started: TIME,
        finished: TIME,
        snapshot: Some(SnapshotId([0xfe; 32])),
        bytes: 7,
        errors: 1,
        target: b"/srv".to_vec(),
        message: b"the hook before failed".to_vec(),
        steps: vec![step],
        log: b"hook before: no\n".to_vec(),
        program: b"yester 0.1.0".to_vec(),
        rewrites: vec![rewrite],
        requests: Some(Requests { put: 1, get: 200, head: 3, list: 4, delete: 5, sent: 60_000, received: 7 }),
    }
}

/// Of packs that are not there.
fn damage() -> Damage {
    let frames = DamagedExtent::Frames([0, 3, 300].into());
    let packs = [(PackId([0x11; 32]), DamagedExtent::Whole), (PackId([0x33; 32]), frames)].into();
    Damage { packs, host: b"golden".to_vec(), time: TIME, why: b"a test".to_vec() }
}

fn mark(snapshot: SnapshotId) -> Mark {
    let (host, user, why) = (b"golden".to_vec(), b"root".to_vec(), b"--keep-last 3".to_vec());
    Mark { snapshot, host, user, time: TIME, why, follows: vec![SnapshotId([0xf0; 32])], grace: 604_800 }
}

fn session() -> Session {
    Session {
        host: b"golden".to_vec(),
        boot: b"0f0e0d0c-0b0a-0908-0706-050403020100".to_vec(),
        pid: 4711,
        started: 123_456,
        machine: vec![0x3a; 16],
        namespace: 4_026_531_836,
        time: TIME,
        lists: vec![SnapshotId([0xb0; 32])],
    }
}

fn write_seeds(repo: &Repository) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let _ = std::fs::remove_dir_all(&seeds);
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut seed = |target: &'static str, bytes: &[u8]| {
        let count = counts.entry(target).or_default();
        *count += 1;
        // Eight of a kind say no more than two do; the fuzzer makes its own.
        if *count <= 24 && bytes.len() <= 4096 {
            std::fs::create_dir_all(seeds.join(target)).unwrap();
            std::fs::write(seeds.join(target).join(format!("golden-{count:02}")), bytes).unwrap();
        }
    };
    for (name, object) in golden::objects(repo, Class::Config) {
        if let Name::Config(_, 0) = name {
            seed("config", body(&object));
        }
    }
    let cutter = Some([7; config::SEALED_CUTTER]);
    seed("config", &config::encode_config_unchecked(&config::Config { cutter, ..repo.config().clone() }, &[0; 32]));
    for (name, object) in golden::objects(repo, Class::Groups) {
        seed("run", &golden::plain_body(repo, ObjectType::Group, &name, &object));
    }
    for group in parity::find(&ParityPlace::of(repo)).unwrap().groups {
        seed("run", &format_of_parity::encode_parity(&group.group));
    }
    for (name, object) in golden::objects(repo, Class::Keys) {
        if let Name::Key(_, 0) = name {
            seed("key_slot", body(&object));
        }
    }
    let passphrase = config::KeySlot { derivation: Derivation::DEFAULT, ..key_slot(repo) };
    seed("key_slot", &config::encode_slot_unchecked(&passphrase, &[0; 32]));
    let wrapped = config::WrappedKey::Writer([7; config::WrappedKey::WRITER]);
    seed("key_slot", &config::encode_slot_unchecked(&config::KeySlot { wrapped, ..key_slot(repo) }, &[0; 32]));
    let ring = KeyRing::open(repo.storage().clone(), &golden::key()).unwrap();
    seed("recovery", ring.recovery().lines().unwrap().as_bytes());
    let (id, master) = (repo.id().0, *ring.recovery().master);
    seed("recovery", &[&[1][..], &id, &master, &config::config_fields(repo.config())].concat());
    for (_, object) in golden::objects(repo, Class::Packs) {
        let pack = golden::open_pack(repo, &object);
        for (entry, compressed) in pack.entries.iter().zip(&pack.compressed) {
            let plain = entry.frame.plain.to_le_bytes();
            seed("frame", &[&[entry.frame.codec as u8, plain[0], plain[1], plain[2]], &compressed[..]].concat());
        }
        // The first two frames alone: a directory that a fuzzer can take in at a glance.
        let few = &pack.entries[..pack.entries.len().min(2)];
        let few: Vec<_> = few
            .iter()
            .cloned()
            .map(|mut e| {
                shorten(&mut e);
                e
            })
            .collect();
        let end = few.iter().map(|e| u64::from(e.frame.stored)).sum::<u64>() + pack::PREAMBLE as u64;
        let tail = pack::Tail { directory: end, directory_len: 0, frames: few.len() as u32 };
        seed("pack_directory", &[&tail.encode()[..], &pack::encode_directory_unchecked(&few)].concat());
        seed("pack_directory", &object[..pack::PREAMBLE]);
    }
    for (_, object) in golden::objects(repo, Class::Index) {
        let open = golden::open_segment(repo, &object);
        let len = |bytes: &[u8]| (bytes.len() as u16).to_le_bytes();
        let root = &open.root_bytes;
        for (frames, entries) in open.frame_pages.iter().zip(&open.entry_pages) {
            // A page of entries is cut where an entry ends.
            let mut cursor = yester::format::cursor::Cursor::new(entries, "entries");
            for _ in 0..20 {
                let _ = cursor.take(16).and_then(|_| (0..3).try_for_each(|_| cursor.varint().map(drop)));
            }
            let few = &entries[..entries.len() - cursor.remaining()];
            seed("segment", &[&len(root)[..], root, &len(frames)[..], frames, &[20], few].concat());
        }
    }
    for page in tree_chunks(repo) {
        seed("tree", first_entries(&page));
    }
    for (name, object) in golden::objects(repo, Class::Snapshots) {
        if let Some(plain) = snapshot_body(repo, &name, &object) {
            seed("snapshot", &plain);
        }
    }
    seed("session", &snapshot::encode_session(&session()).unwrap());
    seed("session", &snapshot::encode_mark(&mark(SnapshotId([0xfe; 32]))).unwrap());
    seed("session", &damage::encode_damage(&damage()));
    seed("session", &snapshot::encode_beat(3, TIME));
    seed("run", &run::encode_run(&a_run()).unwrap());
    for sizes in [[8, 10, 12], [12, 14, 16], [14, 16, 18]] {
        seed("cutter", &[&sizes[..], &[9], &golden_tree::noise(4000, 9)].concat());
        seed("cutter", &[&sizes[..], &[9], &[0; 2000]].concat());
    }
}

/// Leaves at most eight chunks in a frame of a directory.
fn shorten(entry: &mut pack::DirectoryEntry) {
    entry.chunks.truncate(8);
    entry.frame.plain = entry.chunks.iter().map(|(_, len)| len).sum();
    if entry.frame.codec == pack::Codec::Raw {
        entry.frame.stored = entry.frame.plain + 16;
    }
}

/// The start of a long page, cut where an entry ends.
fn first_entries(page: &[u8]) -> &[u8] {
    if page.len() <= 4096 || page[1] != 0 {
        return page;
    }
    let mut cursor = yester::format::cursor::Cursor::new(page, "a page");
    cursor.take(2).unwrap();
    while page.len() - cursor.remaining() < 2048 {
        let read = match page[0] {
            1 => node::decode(&mut cursor).map(drop),
            2 => page::item(&mut cursor).map(drop),
            _ => return page,
        };
        read.unwrap();
    }
    &page[..page.len() - cursor.remaining()]
}

fn body(object: &[u8]) -> &[u8] {
    &object[envelope::HEADER..object.len() - envelope::CHECKSUM]
}

fn key_slot(repo: &Repository) -> config::KeySlot {
    config::decode_slot(body(&golden::objects(repo, Class::Keys)[0].1)).unwrap()
}

/// The plain body of a snapshot; `None` for a fence.
fn snapshot_body(repo: &Repository, name: &Name, object: &[u8]) -> Option<Vec<u8>> {
    (object[8] == ObjectType::Snapshot as u8).then(|| golden::plain_body(repo, ObjectType::Snapshot, name, object))
}

/// The plain bytes of every chunk in tree packs.
fn tree_chunks(repo: &Repository) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for (_, object) in golden::objects(repo, Class::Packs) {
        let pack = golden::open_pack(repo, &object);
        if pack.preamble.kind != PackKind::Tree {
            continue;
        }
        for (entry, plain) in pack.entries.iter().zip(&pack.plain) {
            let mut rest = &plain[..];
            for (key, len) in &entry.chunks {
                let (chunk, after) = rest.split_at(*len as usize);
                assert_eq!(repo.keys().chunk_id(PackKind::Tree, chunk).key(), *key);
                out.push(chunk.to_vec());
                rest = after;
            }
        }
    }
    out
}

fn reader(repo: &Arc<Repository>) -> TreeReader {
    let index = Arc::new(Index::load(repo).unwrap());
    TreeReader::new(Arc::new(ChunkReader::new(repo.clone(), index, 16 << 20).unwrap()), 16 << 20).unwrap()
}

/// Every node of a snapshot by its path.
fn walk(tree: &TreeReader, snapshot: &Snapshot) -> BTreeMap<Vec<u8>, Node> {
    fn below(tree: &TreeReader, path: &[u8], node: &Node, out: &mut BTreeMap<Vec<u8>, Node>) {
        if let Some(directory) = node.directory() {
            for entry in tree.entries(directory) {
                let entry = entry.unwrap();
                below(tree, &[path, b"/", &entry.node().name].concat(), entry.node(), out);
            }
        }
        out.insert(path.to_vec(), node.clone());
    }
    let mut out = BTreeMap::new();
    below(tree, b"", &snapshot.root, &mut out);
    out
}

fn content(tree: &TreeReader, node: &Node) -> Vec<u8> {
    let Kind::File(content) = &node.kind else { panic!("{node:?} is no file") };
    let mut out = Vec::new();
    tree.read(content, 0, usize::MAX, &mut out).unwrap();
    assert_eq!(out.len() as u64, content.size());
    out
}

fn check_tree(tree: &TreeReader, snapshot: &Snapshot, state: u8) {
    let mut found = walk(tree, snapshot);
    for lead in [&b""[..], b"/golden"] {
        let node = found.remove(lead).expect("a parent of the given path");
        assert!(!node.given && node.directory().is_some());
    }
    for entry in golden_tree::entries(state) {
        let mut path = [STORED.as_bytes(), b"/", &entry.path].concat();
        if entry.path.is_empty() {
            path.pop();
        }
        let shown = yester::model::escape(&path);
        let node = found.remove(&path).unwrap_or_else(|| panic!("{shown} is missing"));
        assert!(node.given && !node.changed, "{shown}");
        assert_eq!((node.meta.mode, node.meta.mtime), (entry.mode, entry.mtime), "{shown}");
        assert_eq!((node.meta.uid, node.meta.gid, node.meta.flags), (OWNER.0, OWNER.1, 0), "{shown}");
        assert_eq!(tree.xattrs(&node).unwrap(), entry.xattrs, "{shown}");
        match &entry.what {
            What::File(bytes) => assert_eq!(content(tree, &node), *bytes, "{shown}"),
            What::Sparse(bytes, size) => {
                let hole = vec![0; *size as usize - 2 * bytes.len()];
                assert_eq!(content(tree, &node), [&bytes[..], &hole, bytes].concat(), "{shown}");
            }
            What::Link(_) => assert_eq!(content(tree, &node), golden_tree::noise(700, 5), "{shown}"),
            What::Symlink(target) => assert_eq!(node.kind, Kind::Symlink(target.to_vec()), "{shown}"),
            What::Directory => assert!(node.directory().is_some(), "{shown}"),
            What::Fifo => assert_eq!(node.kind, Kind::Fifo, "{shown}"),
        }
    }
    assert_eq!(found.keys().map(|p| yester::model::escape(p)).collect::<Vec<_>>(), Vec::<String>::new(), "nothing else is there");
}

fn golden_snapshots(repo: &Repository) -> Vec<Snapshot> {
    let all = snapshots::list(repo).unwrap();
    assert_eq!(all.len(), 2, "the third is forgotten, and a fence is no snapshot");
    all
}

#[test]
fn the_trees_of_both_snapshots_are_what_they_were_made_of() {
    regenerate();
    let (_place, repo) = golden::open_copy();
    assert_eq!(repo.config().chunker, CHUNKER);
    assert_eq!(repo.config().created, TIME);
    let tree = reader(&repo);
    for (snapshot, state) in golden_snapshots(&repo).iter().zip([1, 2]) {
        assert_eq!(snapshot.host, b"golden");
        assert_eq!(snapshot.user, b"somebody");
        assert_eq!(snapshot.paths, [STORED.as_bytes()]);
        assert_eq!(snapshot.tags, [b"one".to_vec(), b"two".to_vec()]);
        assert_eq!(snapshot.statistics.errors, 0);
        check_tree(&tree, snapshot, state);
    }
}

#[test]
fn every_way_of_keeping_things_is_in_it() {
    regenerate();
    let (_place, repo) = golden::open_copy();
    let tree = reader(&repo);
    let all = golden_snapshots(&repo);
    let second = &all[1];
    assert_eq!(second.parent, Some(all[0].id));
    assert_eq!((second.statistics.files_changed, second.statistics.files_new), (1, 1));
    assert!(second.statistics.files_unchanged as usize > MANY);
    let nodes = walk(&tree, second);
    let at = |path: &str| nodes.get(format!("{STORED}/{path}").as_bytes()).unwrap();
    let kept = |path: &str| if let Kind::File(content) = &at(path).kind { content.clone() } else { panic!("{path}") };
    assert!(matches!(kept("inline"), Content::Inline(_)));
    assert!(matches!(kept("chunk"), Content::Items(items) if items.len() == 1));
    assert!(matches!(kept("long"), Content::Tree { root, .. } if root.height > 0), "a recipe with inner pages");
    assert!(matches!(kept("sparse"), Content::Items(items) if items.iter().any(|i| matches!(i, Item::Hole { .. }))));
    assert!(at("many").directory().unwrap().root.unwrap().height > 0, "a directory with inner pages");
    assert_eq!(at("empty-directory").directory().unwrap().root, None);
    assert!(matches!(at("attributes").meta.xattrs, Xattrs::Inline(_)));
    assert!(matches!(at("attributes-stored").meta.xattrs, Xattrs::Stored(_)));
    let group = at("hard/first").link.unwrap();
    assert_eq!(at("hard/second").link, Some(group));
    assert_eq!(at("third").link, Some(group));
    let entry = tree.link(second.links.as_ref().unwrap(), &group).unwrap().unwrap();
    let path: Vec<&[u8]> = STORED.as_bytes()[1..].split(|b| *b == b'/').chain([&b"hard"[..], b"first"]).collect();
    assert_eq!((entry.count, entry.first), (3, tree.walk_to(&second.root, &path).unwrap().1));
    let last = second.nodes() - 1;
    let (first, records) = tree.scan_page(second.scan.as_ref().unwrap(), last).unwrap();
    assert_eq!(first + records.len() as u64 - 1, last, "one scan record a node");
}

#[test]
fn an_ingest_goes_on_where_the_old_program_stopped() {
    regenerate();
    let (place, repo) = golden::open_copy();
    let source = place.path().join("more");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("chunk"), golden_tree::noise(97, 2)).unwrap();
    std::fs::write(source.join("big"), golden_tree::noise(600_000, 77)).unwrap();
    let sources = [Source { path: source.clone(), stored: b"/more".to_vec() }];
    let options = IngestOptions { parent: Parent::None, compression: Compression::Auto, ..IngestOptions::default() };
    let report = ingest(&repo, &sources, &options, &Task::default()).unwrap();
    assert!(report.committed);
    assert_eq!(report.snapshot.statistics.bytes_new, 600_000, "the small file's chunk was there");
    let all = snapshots::list(&repo).unwrap();
    assert_eq!(all.len(), 3);
    let tree = reader(&repo);
    let (node, _) = tree.walk_to(&report.snapshot.root, &[b"more", b"big"]).unwrap();
    assert_eq!(content(&tree, &node), golden_tree::noise(600_000, 77));
    check_tree(&tree, &all[1], 2);
}

#[test]
fn every_object_decodes_and_encodes_to_the_same_bytes() {
    regenerate();
    let (_place, repo) = golden::open_copy();
    for class in Class::ALL {
        assert!(!golden::objects(&repo, class).is_empty(), "{class:?} has no golden object");
    }
    for (name, object) in golden::objects(&repo, Class::Config) {
        let (decoded, fields, mac) = config::decode_config(body(&object), repo.id()).unwrap();
        let header = envelope::header(ObjectType::Config, repo.id());
        assert_eq!(repo.keys().config_mac(&header, fields), mac);
        let again = envelope::wrap(ObjectType::Config, repo.id(), &config::encode_config_unchecked(&decoded, &mac));
        assert_eq!(again, object, "{name}");
    }
    for (name, object) in golden::objects(&repo, Class::Keys) {
        if let Name::Removed(_) = name {
            assert!(golden::plain_body(&repo, ObjectType::Removed, &name, &object).is_empty());
            continue;
        }
        let (fields, mac) = config::split_slot(body(&object)).unwrap();
        if let Name::Key(slot, _) = name {
            assert_eq!(repo.keys().slot_mac(&object[..envelope::HEADER], slot, fields), *mac, "{name}");
        }
        let again = config::encode_slot_unchecked(&config::decode_slot(body(&object)).unwrap(), mac);
        assert_eq!(envelope::wrap(ObjectType::KeySlot, repo.id(), &again), object, "{name}");
    }
    for (name, object) in golden::objects(&repo, Class::Packs) {
        let pack = golden::open_pack(&repo, &object);
        assert_eq!(Name::Pack(PackId(*blake3::hash(&object[..object.len() - 32]).as_bytes())), name);
        assert_eq!(pack.preamble.encode(), object[..pack::PREAMBLE], "{name}");
        assert_eq!(pack.tail.encode(), object[object.len() - 48..object.len() - 32], "{name}");
        assert_eq!(pack::encode_directory_unchecked(&pack.entries), pack.directory, "{name}");
    }
    for (name, object) in golden::objects(&repo, Class::Index) {
        check_segment(&name, &golden::open_segment(&repo, &object));
    }
    for (name, object) in golden::objects(&repo, Class::Snapshots) {
        let Some(plain) = snapshot_body(&repo, &name, &object) else { continue };
        let id = SnapshotId(golden::id_of(&name));
        assert_eq!(snapshot::encode_snapshot_unchecked(&snapshot::decode_snapshot(&plain, id).unwrap()), plain, "{name}");
    }
    for (name, object) in golden::objects(&repo, Class::Sessions) {
        if matches!(name, Name::Beat(..)) {
            let plain = golden::plain_body(&repo, ObjectType::Beat, &name, &object);
            assert_eq!(snapshot::decode_beat(&plain).unwrap(), (3, TIME));
            assert_eq!(snapshot::encode_beat(3, TIME), plain, "{name}");
            continue;
        }
        let plain = golden::plain_body(&repo, ObjectType::Session, &name, &object);
        assert_eq!(snapshot::decode_session(&plain).unwrap(), session());
        assert_eq!(snapshot::encode_session(&session()).unwrap(), plain, "{name}");
    }
    let fence = Name::Snapshot(SnapshotId([0xfe; 32]));
    let marks = golden::objects(&repo, Class::Forgotten).into_iter().map(|(name, object)| (ObjectType::Forgotten, name, object));
    let fences = golden::objects(&repo, Class::Snapshots).into_iter().filter(|(name, _)| *name == fence);
    for (kind, name, object) in marks.chain(fences.map(|(name, object)| (ObjectType::Fence, name, object))) {
        let plain = golden::plain_body(&repo, kind, &name, &object);
        let found = snapshot::decode_mark(&plain).unwrap();
        assert_eq!(found, mark(SnapshotId(golden::id_of(&name))));
        assert_eq!(snapshot::encode_mark(&found).unwrap(), plain, "{name}");
    }
    for (name, object) in golden::objects(&repo, Class::Damaged) {
        let plain = golden::plain_body(&repo, ObjectType::Damaged, &name, &object);
        assert_eq!(damage::decode_damage(&plain).unwrap(), damage());
        assert_eq!(damage::encode_damage(&damage()), plain, "{name}");
    }
    for (name, object) in golden::objects(&repo, Class::Runs) {
        let plain = golden::plain_body(&repo, ObjectType::Run, &name, &object);
        assert_eq!(run::decode_run(&plain).unwrap(), a_run());
        assert_eq!(run::encode_run(&a_run()).unwrap(), plain, "{name}");
    }
    for (name, object) in golden::objects(&repo, Class::Annotations) {
        let plain = golden::plain_body(&repo, ObjectType::Annotation, &name, &object);
        let found = annotation::decode_annotation(&plain).unwrap();
        assert_eq!(found, an_annotation(found.snapshot));
        assert_eq!(annotation::encode_annotation(&found).unwrap(), plain, "{name}");
    }
    let place = ParityPlace::of(&repo);
    let found = parity::find(&place).unwrap();
    assert!(found.bad.is_empty() && parity::verify(&place, &found, &Task::default()).unwrap().is_empty());
    for (name, object) in golden::objects(&repo, Class::Parity) {
        let group = &found.groups.iter().find(|group| matches!(name, Name::Parity(id, _) if id == group.id)).unwrap().group;
        assert_eq!(object[..envelope::HEADER], envelope::header(ObjectType::Parity, repo.id()));
        assert_eq!(object.len() as u64, group.row_len(), "{name}");
        let head = &object[32..group.start() as usize];
        assert_eq!(format_of_parity::encode_parity(&format_of_parity::decode_parity(head).unwrap()), head, "{name}");
    }
    let mut steps = golden_groups();
    for (name, object) in golden::objects(&repo, Class::Groups) {
        let plain = golden::plain_body(&repo, ObjectType::Group, &name, &object);
        let found = group::decode_group(&plain).unwrap();
        assert_eq!(Name::Group(GROUP, found.slot), name);
        assert_eq!(group::encode_group(&found).unwrap(), plain, "{name}");
        steps.retain(|step| *step != found);
    }
    assert_eq!(steps, []);
    let marked = yester::repo::index::condemned::read_all(&repo).unwrap();
    assert_eq!(marked.packs(), HashSet::from([PackId([0x11; 32]), PackId([0x22; 32])]));
}

fn check_segment(name: &Name, open: &golden::OpenSegment) {
    assert_eq!(segment::encode_root(&open.root).unwrap(), open.root_bytes, "{name}");
    let starts = segment::pack_starts(&open.root.packs);
    let (mut frames, mut left) = (0, open.root.entries as usize);
    for page in &open.frame_pages {
        let decoded = segment::decode_frames(page, frames, &starts).unwrap();
        assert_eq!(segment::encode_frames(&decoded).unwrap(), *page, "{name}");
        frames += decoded.len() as u32;
    }
    assert_eq!(starts.last(), Some(&frames));
    for ((first, _), page) in open.root.entry_pages.iter().zip(&open.entry_pages) {
        let count = left.min(segment::ENTRIES_A_PAGE);
        let entries = segment::decode_entries(page, count, frames).unwrap();
        assert_eq!(entries[0].key, *first, "{name}");
        assert_eq!(segment::encode_entries(&entries, 1 << 20).unwrap(), *page, "{name}");
        let blocks: Vec<&[u8; filter::BLOCK]> = open.filter_pages.iter().flat_map(|page| page.as_chunks().0).collect();
        let held = |key| blocks.is_empty() || filter::may_hold(key, blocks[filter::block_of(key, blocks.len() as u64) as usize]);
        assert!(entries.iter().all(|entry| held(&entry.key)), "{name}");
        left -= count;
    }
    assert_eq!(left, 0, "{name}");
}

#[test]
fn every_page_decodes_and_encodes_to_the_same_bytes() {
    regenerate();
    let (_place, repo) = golden::open_copy();
    let tree = reader(&repo);
    let stored: HashSet<ChunkId> = golden_snapshots(&repo)
        .iter()
        .flat_map(|s| walk(&tree, s).into_values())
        .filter_map(|node| if let Xattrs::Stored(id) = node.meta.xattrs { Some(id) } else { None })
        .collect();
    let mut seen = HashSet::new();
    for chunk in tree_chunks(&repo) {
        let again = if stored.contains(&repo.keys().chunk_id(PackKind::Tree, &chunk)) {
            let mut out = Vec::new();
            node::encode_xattrs_unchecked(&node::decode_xattrs(&chunk).unwrap(), &mut out);
            out
        } else {
            seen.insert((chunk[0], chunk[1] > 0));
            page_again(&chunk)
        };
        assert_eq!(again, chunk);
    }
    let leaves = [1, 2, 3, 4].map(|kind| (kind, false));
    assert!(leaves.iter().all(|leaf| seen.contains(leaf)), "{seen:?}");
    assert!(seen.contains(&(1, true)) && seen.contains(&(2, true)), "{seen:?}");
}

fn page_again(chunk: &[u8]) -> Vec<u8> {
    let kind = [PageKind::Directory, PageKind::Recipe, PageKind::Scan, PageKind::Links][usize::from(chunk[0]) - 1];
    let mut out = Vec::new();
    page::start(kind, chunk[1], &mut out);
    match (kind, chunk[1]) {
        (PageKind::Directory, 0) => page::nodes(chunk).unwrap().iter().for_each(|n| node::encode_unchecked(n, &mut out)),
        (PageKind::Recipe, 0) => page::items(chunk).unwrap().iter().for_each(|i| page::put_item(i, &mut out)),
        (PageKind::Links, 0) => page::links(chunk).unwrap().iter().for_each(|l| page::put_link(l, &mut out)),
        (PageKind::Scan, 0) => {
            let mut last = page::ScanRecord::default();
            for record in page::scan_records(chunk).unwrap() {
                page::put_scan(&record, &last, &mut out);
                last = record;
            }
        }
        (_, level) => page::children(chunk, kind, level).unwrap().iter().for_each(|c| page::put_child(c, &mut out)),
    }
    out
}
