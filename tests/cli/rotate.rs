//! `key rotate`: what the old key opens afterwards, who gets the new one, who is at work meanwhile, and where it may be stopped.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use yester::ErrorKind;
use yester::chunk::keys::{Credential, Keys, MasterKey};
use yester::chunk::seal::SealKey;
use yester::format::config::Derivation;
use yester::format::envelope::HEADER;
use yester::format::pack::{PREAMBLE, Preamble};
use yester::keys::keyring::KeyRing;
use yester::keys::rotation::RotateOptions;
use yester::maintain::prune::{Prune, PruneOptions};
use yester::maintain::rotate::rotate;
use yester::model::Timestamp;
use yester::observe::{Reports, Silent};
use yester::repo::{Repository, session};
use yester::storage::directory::DirectoryStorage;
use yester::storage::{Class, Name, Storage};
use yester::task::Task;

use crate::common::program::{Run, World, shown};
use crate::common::record::RecordingStorage;

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
    let options = RotateOptions {
        credentials: &credentials,
        drop_others: false,
        derivation: Derivation::KeyFile,
        now: Timestamp::default(),
    };
    let mut stopped = [0; 3];
    for changes in 0.. {
        let fixture = Fixture { world: World::new() };
        copy(&whole.world.at("repo"), &fixture.world.at("repo"));
        let storage = Arc::new(RecordingStorage::new(fixture.storage()));
        let mut ring = KeyRing::open_to_rotate(storage.clone(), &credential, &Reports::default()).unwrap();
        storage.fail_after(changes);
        let done = rotate(&mut ring, &options, &PruneOptions::default(), &Task::new(&Silent));
        storage.fail_after(u64::MAX);
        if done.is_ok() {
            break;
        }
        let opened = Repository::open(storage.clone(), &credential);
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
        let found = yester::repo::snapshots::find_all(&repo).unwrap().snapshots;
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
    for _ in 0..4 {
        fixture.run(&["key", "rotate"]).ok();
    }
    let before = fixture.names();
    fixture.run(&["key", "rotate"]).fails(1, &["4 times", "yester copy"]);
    // It was closed and opened again for it.
    assert!(before.is_subset(&fixture.names()));
    fixture.run(&["key", "export"]).ok();
    fixture.is(&first, "src");
    fixture.world.file("src/more", "more");
    fixture.ingest("key");
    assert!(!shown(&fixture.world.at("repo")).is_empty());
}
