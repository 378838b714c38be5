//! `key rotate`: what the old key opens afterwards, who gets the new one, who is at work meanwhile, and where it may be stopped.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use yester::ErrorKind;
use yester::chunk::keys::{Credential, Keys, MasterKey};
use yester::chunk::seal::SealKey;
use yester::format::config::Derivation;
use yester::format::damage::DamagedExtent;
use yester::format::envelope::HEADER;
use yester::format::pack::{PREAMBLE, PackKind, Preamble};
use yester::keys::keyring::KeyRing;
use yester::keys::rotation::RotateOptions;
use yester::keys::slots::SlotOptions;
use yester::maintain::check::{CheckOptions, check};
use yester::maintain::prune::{Prune, PruneOptions};
use yester::maintain::repair::{self, RepairOptions};
use yester::maintain::rotate::rotate;
use yester::model::{Kind, Timestamp};
use yester::observe::{Event, Observer, Reports, Silent};
use yester::repo::index::Index;
use yester::repo::reader::ChunkReader;
use yester::repo::{Repository, damaged, session, snapshots};
use yester::storage::directory::DirectoryStorage;
use yester::storage::{Class, Name, Storage};
use yester::task::Task;

use crate::common::program::{Run, World, shown};
use crate::common::record::{Fault, RecordingStorage};

/// A repository that the key file `key` opens, and `src` with a long and a short file.
struct Fixture {
    world: World,
}

impl Fixture {
    fn new() -> Fixture {
        let world = World::new();
        world.repository();
        world.file("src/long", noise(1, 700_000));
        world.file("src/short", "a few words");
        Fixture { world }
    }

    fn run(&self, args: &[&str]) -> Run {
        self.world.run(&[&["--repo", "repo", "--key-file", "key"], args].concat())
    }

    fn by(&self, key: [&str; 2], args: &[&str]) -> Run {
        self.world.run(&[&["--repo", "repo"], &key[..], args].concat())
    }

    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(DirectoryStorage::open(&self.world.at("repo")).unwrap())
    }

    fn credential(&self) -> Credential {
        let text = fs::read_to_string(self.world.at("key")).unwrap();
        Credential::KeyFile(yester::model::id::from_hex::<32>(text.trim()).unwrap())
    }

    /// The keys of the newest master key alone, as whoever stole it has them.
    fn stolen(&self) -> Keys {
        let ring = KeyRing::open(self.storage(), &self.credential()).unwrap();
        MasterKey::from_bytes(*ring.recovery().master).keys()
    }

    fn names(&self) -> BTreeSet<Name> {
        Class::ALL.into_iter().flat_map(|class| self.storage().list(class).unwrap()).map(|(name, _)| name).collect()
    }

    /// Of these objects those that a thief opens.
    fn opened(&self, keys: &Keys, names: &BTreeSet<Name>) -> BTreeSet<Name> {
        let storage = self.storage();
        let mut object = Vec::new();
        let mut opens = |name: &Name| {
            storage.read(name, None, &mut object).unwrap();
            let salt: &[u8; 32] = object[HEADER..HEADER + 32].try_into().unwrap();
            let (class, bound) = match name {
                Name::Config(..) | Name::Key(..) | Name::Removed(_) => return false,
                Name::Pack(_) => {
                    let preamble = Preamble::decode(&object[..PREAMBLE]).unwrap();
                    (keys.pack(preamble.kind), preamble.bound().to_vec())
                }
                Name::Segment(_) => (&keys.index, object[..HEADER].to_vec()),
                Name::Snapshot(id) | Name::Run(id) | Name::Forgotten(id) | Name::Condemned(id) => {
                    (&keys.snapshot, [&object[..HEADER], &id.0].concat())
                }
                other => panic!("{other}"),
            };
            let key = SealKey::derive_bound(class, salt, &bound).unwrap();
            key.commitment[..] == object[HEADER + 32..HEADER + 48]
        };
        names.iter().filter(|name| opens(name)).copied().collect()
    }

    /// That this snapshot is what `src` was, as the copy in `copy` has it.
    fn is(&self, snapshot: &str, copy: &str) {
        let target = self.world.at("restored");
        let _ = fs::remove_dir_all(&target);
        self.run(&["restore", snapshot, "--target", "restored"]).ok();
        let restored = target.join(self.world.at("src").strip_prefix("/").unwrap());
        let same = Command::new("diff").arg("-r").args([&self.world.at(copy), &restored]).output().unwrap();
        assert!(same.status.success(), "{same:?}");
    }

    fn ingest(&self, key: &str) -> String {
        let said = self.by(["--key-file", key], &["ingest", "--json", "src"]).ok().json().pop().unwrap();
        said["snapshot_id"].as_str().unwrap().to_owned()
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new_keyed(&[7; 32]).update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

fn packs_and_segments(names: &BTreeSet<Name>) -> BTreeSet<Name> {
    names.iter().filter(|name| matches!(name, Name::Pack(_) | Name::Segment(_))).copied().collect()
}

#[test]
fn the_old_key_opens_nothing_new_and_after_rekey_no_pack() {
    let fixture = Fixture::new();
    let first = fixture.ingest("key");
    copy(&fixture.world.at("src"), &fixture.world.at("then"));
    fixture.world.file("text", &fixture.run(&["key", "export"]).ok().out);
    let (old, before) = (fixture.stolen(), fixture.names());
    let its = fixture.opened(&old, &before);
    assert!(packs_and_segments(&its) == packs_and_segments(&before) && !its.is_empty());

    let said = fixture.run(&["key", "rotate"]).ok().text();
    assert!(said.contains("the master key was changed: 1 key slot"), "{said}");
    fixture.world.file("src/new", "what nobody may learn");
    let second = fixture.ingest("key");
    // What was stored before is not stored again: chunks are named as they were.
    let stored = |names: &BTreeSet<Name>| {
        let size = |name: &Name| fs::metadata(fixture.world.at("repo").join(name.to_string())).unwrap().len();
        names.iter().filter(|name| matches!(name, Name::Pack(_))).map(size).sum::<u64>()
    };
    let new: BTreeSet<Name> = fixture.names().difference(&before).copied().collect();
    assert!(stored(&new) > 0 && stored(&new) < 200_000, "{}", stored(&new));
    // Of all that is new, the fence of the change itself was sealed before it at most.
    let fences = fixture.opened(&old, &new);
    assert!(fences.iter().all(|name| matches!(name, Name::Snapshot(_))) && fences.len() <= 1, "{fences:?}");
    assert!(!fences.iter().any(|name| name.to_string().contains(&second)));
    fixture.is(&first, "then");
    fixture.is(&second, "src");
    let recover = ["--repo", "repo", "key", "recover", "--new-key-file", "thief", "text"];
    fixture.world.run(&recover).fails(12, &["former"]);

    // Prune alone leaves what is sealed with the old key; --rekey does not.
    fixture.run(&["prune"]).ok();
    assert!(!packs_and_segments(&fixture.opened(&old, &fixture.names())).is_empty());
    let said = fixture.run(&["prune", "--rekey", "--json"]).ok().json();
    let plan = said.iter().find(|line| line["message_type"] == "plan").unwrap();
    assert!(plan["packs_former"]["count"].as_u64().unwrap() > 0, "{plan}");
    assert_eq!(said.last().unwrap()["packs_former"]["count"], 0);
    assert_eq!(packs_and_segments(&fixture.opened(&old, &fixture.names())), BTreeSet::new());
    fixture.run(&["check", "--read-data"]).ok();
    fixture.is(&first, "then");
    fixture.is(&second, "src");
    let again = fixture.run(&["prune", "--rekey", "--json"]).ok().json();
    assert_eq!(again.last().unwrap()["packs_deleted"]["count"], 0);
    // The new recovery text opens what both keys have sealed, where nothing else is left.
    fixture.world.file("text", &fixture.run(&["key", "export"]).ok().out);
    for class in ["config", "keys"] {
        fs::remove_dir_all(fixture.world.at("repo").join(class)).unwrap();
        fs::create_dir(fixture.world.at("repo").join(class)).unwrap();
    }
    fs::remove_file(fixture.world.at("key")).unwrap();
    fixture.world.run(&["--repo", "repo", "key", "recover", "--new-key-file", "key", "text"]).ok();
    fixture.is(&first, "then");
    fixture.run(&["check", "--read-data"]).ok();
}

#[test]
fn whoever_is_given_gets_the_new_key_and_nobody_else() {
    let fixture = Fixture::new();
    fixture.world.file("words", "horse staple\n");
    fixture.run(&["key", "add", "--new-password-file", "words", "--label", "paper"]).ok();
    fixture.run(&["key", "add", "--write-only", "--new-key-file", "host", "--label", "shop"]).ok();
    let before = fixture.ingest("host");
    let slots = fixture.names();
    fixture.run(&["key", "rotate"]).fails(2, &["(paper)", "(shop)", "--also-key-file", "--drop-others"]);
    fixture.world.file("other", "00".repeat(32));
    fixture.run(&["key", "rotate", "--also-key-file", "other"]).fails(12, &["opens no key slot"]);
    assert_eq!(fixture.names(), slots);

    fixture.run(&["key", "rotate", "--also-password-file", "words", "--also-key-file", "host"]).ok();
    let after = fixture.ingest("host");
    let words = ["--password-file", "words"];
    assert!(fixture.by(words, &["snapshots"]).ok().text().contains(&after[..8]));
    for _ in 0..2 {
        fixture.is(&before, "src");
        fixture.is(&after, "src");
        fixture.run(&["check", "--read-data"]).ok();
        fixture.run(&["prune", "--rekey"]).ok();
    }
    let list = fixture.run(&["key", "list"]).ok().text();
    assert!(list.contains("paper") && list.contains("shop"), "{list}");

    fixture.run(&["key", "rotate", "--drop-others"]).ok();
    fixture.by(words, &["snapshots"]).fails(12, &["passphrase"]);
    fixture.by(["--key-file", "host"], &["ingest", "src"]).fails(12, &[]);
    fixture.is(&after, "src");
}

#[test]
fn nobody_works_with_the_old_key_beside_or_after_a_change() {
    let fixture = Fixture::new();
    let first = fixture.ingest("key");
    let old = Arc::new(Repository::open(fixture.storage(), &fixture.credential()).unwrap());
    let ring = KeyRing::open(fixture.storage(), &fixture.credential()).unwrap();
    let id = session::begin(&old, Timestamp::default()).unwrap();
    let before = fixture.names();
    fixture.run(&["key", "rotate"]).fails(11, &["not changed", &id.short()]);
    assert_eq!(fixture.names(), before);
    session::abandon(&old, id, Timestamp::default()).unwrap();

    fixture.run(&["key", "rotate"]).ok();
    fixture.world.file("src/new", noise(2, 300_000));
    let second = fixture.ingest("key");
    fixture.run(&["forget", &first]).ok();
    let before = fixture.names();
    let e = session::begin(&old, Timestamp::default()).unwrap_err();
    assert!(e.kind() == ErrorKind::Key && e.to_string().contains("was changed"), "{e}");
    assert_eq!(fixture.storage().list(Class::Sessions).unwrap(), []);
    // To it all that is new looks as if nobody with the key had made it.
    let options = PruneOptions::default();
    let task = Task::new(&Silent);
    let pruned = Prune::prepare(&old, &options, &task).and_then(Prune::carry_out);
    assert_eq!(pruned.unwrap_err().kind(), ErrorKind::Key);
    assert_eq!(ring.remove_useless().unwrap_err().kind(), ErrorKind::Key);
    // Or as if it were damaged.
    let quiet = fixture.names();
    assert_eq!(repair::index(&old, &RepairOptions::default(), &task).unwrap_err().kind(), ErrorKind::Key);
    let checked = check(&old, &CheckOptions::default(), &task, &mut |_, _| {});
    assert_eq!(checked.unwrap_err().kind(), ErrorKind::Key);
    let wrong = [(yester::model::PackId([3; 32]), DamagedExtent::Whole)].into();
    assert_eq!(damaged::record(&old, &wrong, "a test", Timestamp::default()).unwrap_err().kind(), ErrorKind::Key);
    let slot = SlotOptions { derivation: Derivation::KeyFile, now: Timestamp::default(), label: Vec::new() };
    assert_eq!(ring.add(&Credential::KeyFile([2; 32]), &slot).unwrap_err().kind(), ErrorKind::Key);
    assert_eq!(ring.add_writer(&Credential::KeyFile([2; 32]), &slot).unwrap_err().kind(), ErrorKind::Key);
    assert_eq!(fixture.names(), quiet);
    assert!(before.is_subset(&fixture.names()), "something is gone");
    fixture.is(&second, "src");
    fixture.run(&["check", "--read-data"]).ok();
}

#[test]
fn wherever_a_change_is_stopped_it_can_be_ended() {
    let whole = Fixture::new();
    let snapshot = whole.ingest("key");
    let credential = whole.credential();
    let credentials = [credential.clone()];
    let options = options(&credentials, false);
    let mut stopped = [0; 3];
    for changes in 0.. {
        let fixture = Fixture { world: World::new() };
        copy(&whole.world.at("repo"), &fixture.world.at("repo"));
        let storage = Arc::new(RecordingStorage::new(fixture.storage()));
        let mut ring = KeyRing::open_to_rotate(storage.clone(), &credential, &Reports::default()).unwrap();
        storage.fail_after(changes);
        let done = rotate(&mut ring, &options, &PruneOptions::default(), &Task::new(&Silent));
        storage.fail_after(u64::MAX);
        let Err(e) = done else { break };
        let opened = Repository::open(storage.clone(), &credential);
        assert!(opened.is_err() || !e.to_string().contains("nobody can work"), "after {changes}: {e}");
        match &opened {
            Ok(repo) => stopped[usize::from(repo.config().created != ring.config().created)] += 1,
            Err(e) if e.kind() == ErrorKind::Key && e.to_string().contains("key rotate") => stopped[2] += 1,
            Err(e) => panic!("after {changes}: {e}"),
        }
        // The process that had begun it is this one, and lives.
        let fence = storage.list_names(Class::Sessions).into_iter();
        let fence = fence.filter_map(|name| if let Name::Session(id) = name { Some(id) } else { None }).collect();
        let sessions = PruneOptions { fence, ..PruneOptions::default() };
        let mut ring = KeyRing::open_to_rotate(storage.clone(), &credential, &Reports::default()).unwrap();
        rotate(&mut ring, &options, &sessions, &Task::new(&Silent)).unwrap_or_else(|e| panic!("after {changes}: {e}"));
        let ring = KeyRing::open(storage.clone(), &credential).unwrap();
        assert_eq!(ring.slots().unwrap().len(), 1, "after {changes}");
        let repo = Repository::open(storage.clone(), &credential).unwrap();
        let found = snapshots::find_all(&repo).unwrap().snapshots;
        assert_eq!(
            found.iter().map(|s| s.id.to_string()).collect::<Vec<_>>(),
            std::slice::from_ref(&snapshot),
            "after {changes}"
        );
        fs::copy(whole.world.at("key"), fixture.world.at("key")).unwrap();
        fixture.run(&["check", "--read-data"]).ok();
    }
    assert!(stopped[0] > 5 && stopped[2] > 5, "{stopped:?}");
}

#[test]
fn a_key_is_changed_only_so_often() {
    let fixture = Fixture::new();
    let first = fixture.ingest("key");
    for _ in 0..3 {
        fixture.run(&["key", "rotate"]).ok();
    }
    let before = fixture.names();
    fixture.run(&["key", "rotate"]).fails(1, &["3 times", "yester copy"]);
    // It was closed and opened again for it.
    assert!(before.is_subset(&fixture.names()));
    fixture.run(&["key", "export"]).ok();
    fixture.is(&first, "src");
    fixture.world.file("src/more", "more");
    fixture.ingest("key");
    assert!(!shown(&fixture.world.at("repo")).is_empty());
}

/// The cutter of another repository is in the configuration, and outlives the key under which that was sealed.
#[test]
fn files_are_cut_as_in_the_other_repository_after_each_change() {
    let fixture = Fixture::new();
    fixture.world.file("src/large", noise(2, 9_000_000));
    fixture.ingest("key");
    let other = |args: &[&str]| fixture.world.run(&[&["--repo", "other", "--key-file", "key2"], args].concat());
    let from = [("YESTER_FROM_KEY_FILE", "key")];
    fixture.world.run_with(&from, &["--repo", "other", "--key-file", "key2", "init", "--chunker-from", "repo"]).ok();
    let src = shown(&fixture.world.at("src"));
    other(&["ingest", &src]).ok();
    for _ in 0..3 {
        other(&["key", "rotate"]).ok();
        other(&["key", "export"]).ok();
        let summary = other(&["ingest", "--json", "--force", &src]).ok().json().pop().unwrap();
        assert_eq!(summary["data_added"], 0, "{summary}");
        other(&["check", "--read-data"]).ok();
    }
}

fn options<'a>(credentials: &'a [Credential], drop_others: bool) -> RotateOptions<'a> {
    RotateOptions { credentials, drop_others, derivation: Derivation::KeyFile, now: Timestamp::default() }
}

fn sessions(storage: &dyn Storage) -> Vec<yester::model::SnapshotId> {
    let id = |(name, _)| if let Name::Session(id) = name { Some(id) } else { None };
    storage.list(Class::Sessions).unwrap().into_iter().filter_map(id).collect()
}

#[test]
fn who_opened_the_repository_before_a_change_cannot_change_the_key_again() {
    let fixture = Fixture::new();
    fixture.ingest("key");
    let credentials = [fixture.credential()];
    let mut ring = KeyRing::open_to_rotate(fixture.storage(), &credentials[0], &Reports::default()).unwrap();
    fixture.run(&["key", "rotate"]).ok();
    fixture.world.file("src/new", noise(2, 300_000));
    let second = fixture.ingest("key");
    let before = fixture.names();
    let done = rotate(&mut ring, &options(&credentials, false), &PruneOptions::default(), &Task::new(&Silent));
    let e = done.unwrap_err();
    assert!(e.kind() == ErrorKind::Key && e.to_string().contains("not changed"), "{e}");
    assert!(before.is_subset(&fixture.names()), "something is gone");
    assert_eq!(sessions(&*fixture.storage()), []);
    fixture.is(&second, "src");
    fixture.run(&["check", "--read-data"]).ok();
}

#[test]
fn a_change_that_counts_as_dead_and_goes_on_takes_nothing_from_the_one_that_took_its_place() {
    let fixture = Fixture::new();
    let first = fixture.ingest("key");
    let credentials = [fixture.credential()];
    let before = Repository::open(fixture.storage(), &fixture.credential()).unwrap();
    let slow = Arc::new(RecordingStorage::new(fixture.storage()));
    let mut ring = KeyRing::open_to_rotate(slow.clone(), &credentials[0], &Reports::default()).unwrap();
    // It stands still when it looks at its new slots: the old key is closed by then.
    let inner = fixture.storage();
    slow.set_faults(move |class, _| match class == Class::Keys && inner.list(Class::Config).unwrap().len() > 3 {
        true => Fault::Stall,
        false => Fault::None,
    });
    std::thread::scope(|scope| {
        let credentials = &credentials;
        let first = scope.spawn(move || {
            rotate(&mut ring, &options(credentials, false), &PruneOptions::default(), &Task::new(&Silent)).unwrap_err()
        });
        while slow.stalled() == 0 {
            std::thread::yield_now();
        }
        let open = || KeyRing::open_to_rotate(fixture.storage(), &credentials[0], &Reports::default()).unwrap();
        let dead = PruneOptions { fence: sessions(&*fixture.storage()), ..PruneOptions::default() };
        let done = rotate(&mut open(), &options(credentials, false), &dead, &Task::new(&Silent));
        slow.set_faults(|_, _| Fault::None);
        done.unwrap();
        first.join().unwrap();
    });
    let old = Repository::open(fixture.storage(), &fixture.credential()).unwrap();
    assert_eq!(KeyRing::open(fixture.storage(), &fixture.credential()).unwrap().slots().unwrap().len(), 1);
    drop(session::begin(&old, Timestamp::default()).map(|id| session::abandon(&old, id, Timestamp::default())).unwrap());
    fixture.run(&["check", "--read-data"]).ok();
    fixture.is(&first, "src");
    // The slow one has not made the old key good again.
    assert_eq!(session::begin(&before, Timestamp::default()).unwrap_err().kind(), ErrorKind::Key);
    assert_eq!(KeyRing::open(slow, &fixture.credential()).unwrap().recovery().former.len(), 1);
}

#[test]
fn a_change_that_one_key_has_ended_no_other_key_begins_again() {
    let whole = Fixture::new();
    whole.run(&["key", "add", "--new-key-file", "other"]).ok();
    let snapshot = whole.ingest("key");
    let credentials = [whole.credential()];
    let mut met = 0;
    for changes in 0.. {
        let fixture = Fixture { world: World::new() };
        copy(&whole.world.at("repo"), &fixture.world.at("repo"));
        for key in ["key", "other"] {
            fs::copy(whole.world.at(key), fixture.world.at(key)).unwrap();
        }
        let storage = Arc::new(RecordingStorage::new(fixture.storage()));
        let mut ring = KeyRing::open_to_rotate(storage.clone(), &credentials[0], &Reports::default()).unwrap();
        storage.fail_after(changes);
        let done = rotate(&mut ring, &options(&credentials, true), &PruneOptions::default(), &Task::new(&Silent));
        if done.is_ok() {
            break;
        }
        // The other key has a slot, and the repository is already opened by the new key.
        let opens = KeyRing::open(fixture.storage(), &credentials[0]).is_ok_and(|ring| ring.recovery().former.len() == 1);
        let other = ["--key-file", "other"];
        if !opens || !fixture.by(other, &["snapshots"]).err.contains("was changed") {
            continue;
        }
        met += 1;
        let repo = Repository::open(fixture.storage(), &credentials[0]).unwrap();
        sessions(&*fixture.storage()).into_iter().for_each(|id| session::abandon(&repo, id, Timestamp::default()).unwrap());
        let before = fixture.names();
        fixture.by(other, &["key", "rotate", "--drop-others"]).fails(12, &["not changed", "config/00000003"]);
        assert!(before.is_subset(&fixture.names()), "after {changes}");
        fixture.run(&["repair", "keys"]).ok();
        fixture.run(&["check", "--read-data"]).ok();
        assert!(fixture.run(&["snapshots"]).ok().text().contains(&snapshot[..8]));
    }
    assert!(met > 3, "{met}");
}

/// What was warned of.
struct Noted(Arc<Mutex<Vec<String>>>);

impl Observer for Noted {
    fn event(&self, event: &Event<'_>) {
        if let Event::Warning { message, .. } = event {
            self.0.lock().unwrap().push((*message).to_owned());
        }
    }
}

#[test]
fn whoever_reads_with_the_old_key_is_told_that_it_was_changed_and_not_of_damage() {
    let fixture = Fixture::new();
    fixture.ingest("key");
    let said = Arc::new(Mutex::new(Vec::new()));
    let reports = Reports::to(Arc::new(Noted(said.clone())));
    let old = Arc::new(Repository::open_to_write(fixture.storage(), &fixture.credential(), &reports).unwrap());
    let index = Arc::new(Index::load(&old).unwrap());
    let reader = ChunkReader::new(old.clone(), index, 1 << 20).unwrap();
    let root = match &snapshots::find_all(&old).unwrap().snapshots[0].root.kind {
        Kind::Directory(directory) => directory.root.as_ref().unwrap().page,
        other => panic!("{other:?}"),
    };
    fixture.run(&["key", "rotate"]).ok();
    reader.chunk(PackKind::Tree, &root).unwrap();
    let reader = ChunkReader::new(old.clone(), Arc::new(Index::load(&old).unwrap()), 1 << 20).unwrap();
    fixture.world.file("src/new", noise(2, 300_000));
    fixture.ingest("key");
    assert_eq!(snapshots::find_all(&old).unwrap().snapshots.len(), 1);
    let warned = std::mem::take(&mut *said.lock().unwrap());
    assert!(warned.iter().any(|text| text.contains("the key of this repository was changed")), "{warned:?}");
    assert!(!warned.iter().any(|text| text.contains("removes it")), "{warned:?}");
    fixture.run(&["prune", "--rekey"]).ok();
    let e = reader.chunk(PackKind::Tree, &root).unwrap_err();
    assert!(e.kind() == ErrorKind::Key && e.to_string().contains("was changed"), "{e}");
}

fn remove_class(world: &World, class: &str) {
    fs::remove_dir_all(world.at("repo").join(class)).unwrap();
    fs::create_dir(world.at("repo").join(class)).unwrap();
}

#[test]
fn a_lost_configuration_is_not_made_of_a_former_key() {
    let fixture = Fixture::new();
    fixture.world.file("text", &fixture.run(&["key", "export"]).ok().out);
    let first = fixture.ingest("key");
    copy(&fixture.world.at("repo/keys"), &fixture.world.at("keys"));
    fixture.run(&["key", "rotate"]).ok();
    fixture.world.file("newer", &fixture.run(&["key", "export"]).ok().out);
    fixture.world.file("src/new", noise(2, 300_000));
    let second = fixture.ingest("key");
    remove_class(&fixture.world, "config");
    let names = fixture.names();
    let recover = |text: &str, key: &str| fixture.world.run(&["--repo", "repo", "key", "recover", "--new-key-file", key, text]);
    recover("text", "back").fails(12, &["is of another key than this recovery text", "newer text"]);
    assert_eq!(fixture.names(), names);
    // A slot of the former key that was shown again, or was left, leads to the newest all the same.
    for slot in fs::read_dir(fixture.world.at("keys")).unwrap() {
        let slot = slot.unwrap();
        fs::copy(slot.path(), fixture.world.at("repo/keys").join(slot.file_name())).unwrap();
    }
    fixture.run(&["key", "recover"]).ok();
    fixture.is(&second, "src");
    assert!(fixture.run(&["snapshots"]).ok().text().contains(&first[..8]));

    // Where the slots are lost as well, nothing tells for sure which key it is: it is said.
    ["config", "keys"].iter().for_each(|class| remove_class(&fixture.world, class));
    let said = recover("text", "back").ok();
    assert!(said.err.contains("of another key than this text") && said.err.contains("do not prune"), "{}", said.err);
    let said = recover("newer", "new").ok();
    assert!(!said.err.contains("another key"), "{}", said.err);
    let target = fixture.world.at("restored");
    let _ = fs::remove_dir_all(&target);
    fixture.by(["--key-file", "new"], &["restore", &second, "--target", "restored"]).ok();
    fixture.by(["--key-file", "new"], &["check", "--read-data"]).ok();
}

/// Lets the time of a prune go by when it has copied from the first pack.
struct Slow(Duration);

impl Observer for Slow {
    fn event(&self, event: &Event<'_>) {
        if let Event::Progress { entries: 1, unit: "packs", .. } = event {
            std::thread::sleep(self.0);
        }
    }
}

#[test]
fn prunes_that_have_no_time_for_all_get_everything_under_the_new_key_in_the_end() {
    let fixture = Fixture::new();
    let ids: Vec<String> = (2..6)
        .map(|seed| {
            fixture.world.file("src/long", noise(seed, 700_000));
            fixture.ingest("key")
        })
        .collect();
    let old = fixture.stolen();
    fixture.run(&["key", "rotate"]).ok();
    let repo = Arc::new(Repository::open(fixture.storage(), &fixture.credential()).unwrap());
    let (mut time, mut former, mut halves) = (Duration::from_millis(300), u64::MAX, 0);
    loop {
        let options = PruneOptions { rekey: true, max_duration: Some(time), ..PruneOptions::default() };
        let slow = Slow(time);
        let report = Prune::prepare(&repo, &options, &Task::new(&slow)).and_then(Prune::carry_out).unwrap();
        assert!(report.former.count <= former, "{report:?}");
        former = report.former.count;
        let opened = fixture.opened(&old, &fixture.names());
        assert_eq!(opened.iter().filter(|name| matches!(name, Name::Pack(_))).count() as u64, former, "{report:?}");
        fixture.run(&["check", "--read-data"]).ok();
        if report.left.count == 0 {
            break;
        }
        match report.written.count + report.packs.count {
            // The machine is slow: looking alone took all the time.
            0 => time *= 2,
            _ => halves += 1,
        }
    }
    assert!(former == 0 && halves > 2, "{former} {halves}");
    assert_eq!(packs_and_segments(&fixture.opened(&old, &fixture.names())), BTreeSet::new());
    ids.iter().for_each(|id| drop(fixture.run(&["ls", id]).ok()));
    fixture.is(&ids[3], "src");
}
