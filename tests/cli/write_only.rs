//! Keys that only write: what is stored with one, a full key reads, and somebody who has everything of the host does not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use yester::chunk::keys::{ClassKey, Credential, MasterKey};
use yester::chunk::seal::{self, SealKey};
use yester::format::config::{WrappedKey, decode_slot};
use yester::format::envelope::{self, CHECKSUM, HEADER};
use yester::format::pack::{PREAMBLE, Preamble};
use yester::model::{SnapshotId, WriterId};
use yester::observe::Reports;
use yester::repo::Repository;
use yester::repo::pack::PackKey;
use yester::storage::directory::DirectoryStorage;
use yester::storage::{Class, Name, Storage};

use crate::common::program::{Run, World, finish, shown, with};

/// Text that no stored byte may show.
const SECRET: &str = "the quick brown secret jumps over the lazy host";
const NAME: &str = "name-that-nobody-may-learn";

/// A repository with its full key in one home directory, and a host with a key that only writes in another.
struct Fixture {
    admin: World,
    host: World,
}

impl Fixture {
    fn new() -> Fixture {
        let (admin, host) = (World::new(), World::new());
        admin.repository();
        let fixture = Fixture { admin, host };
        let key = shown(&fixture.host.at("key"));
        let said = fixture.full(&["key", "add", "--write-only", "--new-key-file", &key, "--label", "host"]).ok().text();
        assert!(said.contains("only writes") && said.contains(&key), "{said}");
        fixture.host.file(&format!("src/{NAME}"), SECRET);
        fixture.host.file("src/long", noise(1, 700_000));
        fixture.host.file("src/deep/er/repeated", SECRET.repeat(5000));
        fixture
    }

    fn full(&self, args: &[&str]) -> Run {
        self.admin.run(&[&["--repo", "repo", "--key-file", "key"], args].concat())
    }

    fn command(&self, args: &[&str]) -> Command {
        let repo = shown(&self.admin.at("repo"));
        self.host.command(&[&["--repo", &repo, "--key-file", "key"], args].concat())
    }

    /// On the host.
    fn write(&self, args: &[&str]) -> Run {
        finish(&mut self.command(args))
    }

    /// A configuration file in this home directory, with the repository and a set `shop` of `paths` whose one step makes the
    /// file `ran` there.
    fn configure(&self, of: &World, paths: &Path) {
        let [repo, key, ran] = [&self.admin.at("repo"), &of.at("key"), &of.at("ran")].map(|path| shown(path));
        let text = format!(
            "[repository]\nlocation = \"{repo}\"\nkey-file = \"{key}\"\n[sets.shop]\npaths = [\"{}\"]\n\
             [[sets.shop.restore.steps]]\nname = \"mark\"\ncommand = [\"touch\", \"{ran}\"]\n",
            shown(paths)
        );
        of.file(".config/yester/config.toml", text);
    }

    fn ingest(&self) -> Value {
        let run = self.write(&["ingest", "--json", "src"]).ok();
        assert_eq!(run.err, "");
        run.json().pop().unwrap()
    }

    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(DirectoryStorage::open(&self.admin.at("repo")).unwrap())
    }

    /// The restored files of a snapshot, compared with the host's.
    fn restored_as(&self, snapshot: &str, source: &Path) {
        let target = self.admin.at("restored");
        let _ = fs::remove_dir_all(&target);
        self.full(&["restore", snapshot, "--target", "restored"]).ok();
        let restored = target.join(self.host.at("src").strip_prefix("/").unwrap());
        let same = Command::new("diff").arg("-r").arg(source).arg(restored).output().unwrap();
        assert!(same.status.success(), "{same:?}");
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new_keyed(&[7; 32]).update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Every file below a directory.
fn files(below: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(below).into_iter().flatten().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => out.extend(files(&entry.path())),
            false => out.push(entry.path()),
        }
    }
    out
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|found| found == text.as_bytes())
}

#[test]
fn what_is_written_only_a_full_key_reads() {
    let fixture = Fixture::new();
    let first = fixture.ingest();
    fixture.host.file("src/new", "a new file");
    let second = fixture.ingest();
    // Nothing that is there is known to it, its own included.
    assert_eq!((first["files_new"].clone(), second["files_new"].clone()), (3.into(), 4.into()));
    assert_eq!(second["files_unmodified"], 0);
    fixture.restored_as("latest", &fixture.host.at("src"));
    let id = first["snapshot_id"].as_str().unwrap();
    fs::remove_file(fixture.host.at("src/new")).unwrap();
    fixture.restored_as(id, &fixture.host.at("src"));
    let src = shown(&fixture.host.at("src"));
    let listed = fixture.full(&["ls", &format!("{id}:{src}")]).ok().text();
    assert!(listed.contains(NAME), "{listed}");
    assert!(fixture.full(&["find", NAME]).ok().text().contains(NAME));
    assert_eq!(fixture.full(&["cat", &format!("{id}:{src}/{NAME}")]).ok().text(), SECRET);
    assert!(fixture.full(&["diff", id, "latest"]).ok().text().contains("new"));
    fixture.full(&["check", "--read-data"]).ok();
    fixture.full(&["stats"]).ok();
    assert_eq!(fixture.full(&["snapshots", "--json"]).ok().json().len(), 2);
    // On the host nothing is left but its key and its files.
    let left: Vec<PathBuf> =
        files(fixture.host.home()).into_iter().filter(|file| !file.starts_with(fixture.host.at("src"))).collect();
    assert_eq!(left, [fixture.host.at("key")]);
}

#[test]
fn prune_takes_out_what_is_there_twice_and_both_kinds_of_snapshots_stay_whole() {
    let fixture = Fixture::new();
    fixture.ingest();
    fixture.ingest();
    // The same content, stored with a full key: neither counts on the other.
    let source = shown(&fixture.host.at("src"));
    let full = fixture.full(&["ingest", "--json", &source]).ok().json().pop().unwrap();
    assert_eq!((&full["files_new"], &full["parent"]), (&Value::from(3), &Value::Null));
    let packs = || files(&fixture.admin.at("repo/packs")).len();
    let before = packs();
    fixture.full(&["prune", "--max-unused", "0"]).ok();
    // One copy of the host's, and that of the full key.
    assert!(packs() < before, "{before} packs before, {} after", packs());
    fixture.full(&["check", "--read-data"]).ok();
    for snapshot in ["latest", "latest~1", "latest~2"] {
        fixture.restored_as(snapshot, Path::new(&source));
    }
    // What is repacked stays readable and checked, again and again; and the writer goes on.
    fs::remove_file(fixture.host.at("src/long")).unwrap();
    fixture.host.file("src/other", noise(2, 300_000));
    let third = fixture.ingest();
    fixture.full(&["forget", "latest~1", "latest~2", "latest~3", "--grace", "0"]).ok();
    for _ in 0..2 {
        fixture.full(&["prune", "--max-unused", "0"]).ok();
        fixture.full(&["check", "--read-data"]).ok();
        fixture.restored_as(third["snapshot_id"].as_str().unwrap(), Path::new(&source));
    }
    // To another repository, which is not told whose it was.
    let to = World::new();
    let options = to.repository();
    let from = [shown(&fixture.admin.at("repo")), shown(&fixture.admin.at("key"))];
    to.run(&with(&options, &["copy", "--from-repo", &from[0], "--from-key-file", &from[1]])).ok();
    to.run(&with(&options, &["check", "--read-data"])).ok();
    assert_eq!(to.run(&with(&options, &["snapshots", "--json"])).ok().json().len(), 1);
    // The recovery text reads it all without any slot, also after the slot is gone.
    let slots = fixture.full(&["key", "list", "--json"]).ok().json();
    let slot = slots.iter().find(|slot| slot["write_only"] == true).unwrap()["id"].as_str().unwrap().to_owned();
    fixture.full(&["key", "remove", &slot]).ok();
    fixture.write(&["ingest", "src"]).fails(12, &["does not open"]);
    let text = fixture.full(&["key", "export"]).ok().text();
    fixture.admin.file("paper", text);
    fs::remove_dir_all(fixture.admin.at("repo/keys")).unwrap();
    fixture.admin.run(&["--repo", "repo", "key", "recover", "paper", "--new-key-file", "new"]).ok();
    fs::rename(fixture.admin.at("new"), fixture.admin.at("key")).unwrap();
    fixture.restored_as("latest", Path::new(&source));
    fixture.full(&["check", "--read-data"]).ok();
}

#[test]
fn what_it_cannot_do_is_refused_plainly() {
    let fixture = Fixture::new();
    let id = fixture.ingest()["snapshot_id"].as_str().unwrap().to_owned();
    let before: Vec<PathBuf> = files(&fixture.admin.at("repo"));
    let target = shown(&fixture.host.at("target"));
    fs::create_dir(&target).unwrap();
    let commands: &[&[&str]] = &[
        &["snapshots"],
        &["ls", "latest"],
        &["ls", &id],
        &["restore", "latest", "--target", &target],
        &["restore", &id, "--target", &target],
        &["cat", "latest:/src"],
        &["find", NAME],
        &["diff", &id, "latest"],
        &["history", "/src"],
        &["mount", "latest", &target],
        &["check"],
        &["check", "--read-data"],
        &["stats"],
        &["du"],
        &["export", &id],
        &["forget", &id],
        &["forget", "--keep-last", "1"],
        &["prune"],
        &["prune", "--dry-run"],
        &["repair", "index"],
        &["repair", "keys"],
        &["repair", "objects"],
        &["doctor"],
        &["rewrite", &id, "--exclude", "x"],
        &["runs"],
        &["tag", &id, "--add", "x"],
        &["key", "list"],
        &["key", "add", "--new-key-file", "more"],
        &["key", "add", "--write-only", "--new-key-file", "more"],
        &["key", "passwd", "--new-key-file", "more"],
        &["key", "remove", "0123"],
        &["key", "export"],
        &["ingest", "--parent", "latest", "src"],
    ];
    for args in commands {
        let run = fixture.write(args);
        // A usage error would be no answer of the key's.
        assert_eq!(run.code, Some(12), "{args:?}: {} {}", run.text(), run.err);
        assert!(run.err.contains("this key only writes") && run.err.contains("use a full key"), "{args:?}: {}", run.err);
        assert!(!holds(&run.out, NAME) && !holds(run.err.as_bytes(), NAME), "{args:?}");
    }
    assert_eq!(files(&fixture.admin.at("repo")), before, "nothing may come of it");
    assert!(files(Path::new(&target)).is_empty() && !fixture.host.at("more").exists());
    // The full key's file is not taken for one that only writes; and the last full key stays.
    fixture.full(&["key", "add", "--write-only", "--new-key-file", "key"]).fails(2, &["opens the repository already"]);
    let slots = fixture.full(&["key", "list", "--json"]).ok().json();
    let full = slots.iter().find(|slot| slot["current"] == true).unwrap()["id"].as_str().unwrap().to_owned();
    fixture.full(&["key", "remove", &full]).fails(2, &[]);
    let text = fixture.full(&["key", "list"]).ok().text();
    assert!(text.contains("key file, only writes"), "{text}");
}

/// What the slot of the host's key file holds, by hand: public key and secret of the writer, repository, chunk sizes.
fn slot_content(storage: &dyn Storage, key_file: &[u8; 32]) -> Vec<u8> {
    for (name, _) in storage.list(Class::Keys).unwrap() {
        let Name::Key(id, 0) = name else { continue };
        let mut object = Vec::new();
        storage.read(&name, None, &mut object).unwrap();
        let slot = decode_slot(&object[HEADER..object.len() - CHECKSUM]).unwrap();
        let class = ClassKey::from_bytes(blake3::derive_key("yester v1 key slot", key_file));
        let key = SealKey::derive(&class, &slot.salt).unwrap();
        if key.commitment == slot.commitment {
            let mut body = slot.wrapped.bytes().to_vec();
            assert_eq!(body.len(), WrappedKey::WRITER);
            key.open(0, &[&id.0[..], &[1]].concat(), &mut body).unwrap();
            return body;
        }
    }
    panic!("the key file opens no slot");
}

/// Somebody stole the host: its home directory, its key, and all of the repository.
#[test]
fn who_has_everything_of_the_host_reads_nothing() {
    let fixture = Fixture::new();
    fixture.ingest();
    // What was on the host, and is not any more: the thief has the host as it is now.
    let stolen = [NAME, SECRET, "er/repeated", "long"];
    fs::remove_dir_all(fixture.host.at("src")).unwrap();
    fixture.host.file("src/today", "nothing of before");
    fixture.ingest();
    let here = files(fixture.host.home());
    assert!(here.len() == 2, "{here:?}");
    let storage = fixture.storage();
    let mut objects: Vec<(Name, Vec<u8>)> = Vec::new();
    for class in Class::ALL {
        for (name, _) in storage.list(class).unwrap() {
            let mut object = Vec::new();
            storage.read(&name, None, &mut object).unwrap();
            objects.push((name, object));
        }
    }
    for bytes in here.iter().map(|file| fs::read(file).unwrap()).chain(objects.iter().map(|(_, object)| object.clone())) {
        stolen.iter().for_each(|text| assert!(!holds(&bytes, text), "{text}"));
    }
    let text = fs::read_to_string(fixture.host.at("key")).unwrap();
    let file: [u8; 32] = yester::model::id::from_hex(text.trim()).unwrap();
    // Through the library.
    let credential = Credential::KeyFile(file);
    assert_eq!(Repository::open(storage.clone(), &credential).unwrap_err().kind(), yester::ErrorKind::Key);
    let repo = Repository::open_to_write(storage.clone(), &credential, &Reports::default()).unwrap();
    let ids = |name: &Name| match name {
        Name::Snapshot(id) | Name::Session(id) | Name::Run(id) => Some(*id),
        _ => None,
    };
    for (name, object) in &objects {
        if let Some(id) = ids(name) {
            seal::open_object(name.kinds()[0], repo.id(), &id.0, &repo.keys().snapshot, object, "t").unwrap_err();
        }
        if let Name::Pack(_) = name {
            PackKey::open(&repo, object).unwrap_err();
        }
    }
    assert!(yester::repo::snapshots::list_with_damage(&repo).map_or_else(|_| true, |(found, _)| found.is_empty()));
    // By hand: every 32 bytes of what the slot holds, as the master key, as a class key, and as what one is derived from.
    let content = slot_content(&*storage, &file);
    let contexts = [
        "yester v1 packs of data",
        "yester v1 packs of trees",
        "yester v1 index segments",
        "yester v1 snapshots and sessions",
        "yester v1 private key",
        "yester v1 keys that only write",
    ];
    let mut tried = 0;
    for window in content.windows(32).chain([&file[..]]) {
        let secret: [u8; 32] = window.try_into().unwrap();
        let master = MasterKey::from_bytes(secret).keys();
        let classes: Vec<ClassKey> =
            contexts.iter().map(|context| ClassKey::from_bytes(blake3::derive_key(context, &secret))).collect();
        for (name, object) in objects.iter().filter(|(name, _)| !matches!(name, Name::Config(..) | Name::Key(..))) {
            let salt: &[u8; 32] = object[HEADER..HEADER + 32].try_into().unwrap();
            let commitment = &object[HEADER + 32..HEADER + 48];
            // With and without what would be agreed on, which only the private halves tell.
            let header = &object[..HEADER];
            let mut plain_header = header.to_vec();
            plain_header[9] = 0;
            let id = ids(name).map_or_else(Vec::new, |id| id.0.to_vec());
            let pack = if matches!(name, Name::Pack(_)) { object[108..PREAMBLE].to_vec() } else { Vec::new() };
            for class in &classes {
                let bound = [&plain_header[..], &id, &pack].concat();
                assert_ne!(SealKey::derive_bound(class, salt, &bound).unwrap().commitment[..], *commitment, "{name}");
                tried += 1;
            }
            if let Some(id) = ids(name) {
                assert!(seal::open_object(name.kinds()[0], repo.id(), &id.0, &master.snapshot, object, "t").is_err(), "{name}");
            }
            if let Ok(preamble) = Preamble::decode(object) {
                let key = SealKey::derive_bound(master.pack(preamble.kind), salt, &preamble.bound()).unwrap();
                assert_ne!(key.commitment, preamble.commitment, "{name}");
            }
        }
    }
    assert!(tried > 1000, "{tried}");
    // It was the full key's to read all the time.
    assert!(fixture.full(&["find", NAME]).ok().text().contains(NAME));
}

/// What the thief makes with the key takes nothing away: no mark, no deletion list, no fence of others.
#[test]
fn what_a_thief_makes_takes_nothing_away() {
    let fixture = Fixture::new();
    let kept = fixture.ingest()["snapshot_id"].as_str().unwrap().to_owned();
    let full = fixture.full(&["ingest", "--json", &shown(&fixture.host.at("src"))]).ok().json().pop().unwrap();
    let source = fixture.admin.at("as-it-was");
    Command::new("cp").arg("-r").arg(fixture.host.at("src")).arg(&source).status().unwrap();
    // Snapshots in the name of everybody, of nothing, and more of them than any policy keeps.
    fixture.host.file("src/long", "emptied");
    for n in 0..5 {
        let host = full["hostname"].as_str().unwrap();
        fixture.write(&["ingest", "--host", host, "--tag", &format!("t{n}"), "src"]).ok();
    }
    // Objects of other types, sealed as it seals: the flag of one that only writes does not make them authentic.
    let storage = fixture.storage();
    let snapshot = SnapshotId::parse(&kept).unwrap();
    let mut object = Vec::new();
    storage.read(&Name::Snapshot(snapshot), None, &mut object).unwrap();
    for name in [Name::Forgotten(snapshot), Name::Condemned(snapshot), Name::Damaged(snapshot), Name::Annotation(snapshot)] {
        let mut forged = object[..object.len() - CHECKSUM].to_vec();
        forged[8] = name.kinds()[0] as u8;
        let sum = *blake3::hash(&forged).as_bytes();
        storage.create(&name, &[&forged, &sum]).unwrap();
        assert!(envelope::is_intact(&[&forged[..], &sum].concat()));
    }
    // A policy counts them as a series of their own.
    fixture.full(&["forget", "--keep-last", "2", "--grace", "0"]).ok();
    let left: Vec<String> = fixture.full(&["snapshots", "--json"]).ok().json().iter().map(|s| s["id"].to_string()).collect();
    assert!(left.iter().any(|id| id.contains(full["snapshot_id"].as_str().unwrap())), "{left:?}");
    // Nor does a host with a full key take their word for what has not changed.
    let next = fixture.full(&["ingest", "--json", &shown(&fixture.host.at("src"))]).ok().json().pop().unwrap();
    assert_eq!(next["parent"], full["snapshot_id"]);
    fixture.full(&["prune", "--max-unused", "0"]).ok();
    fixture.full(&["check", "--read-data"]).ok();
    fixture.restored_as(full["snapshot_id"].as_str().unwrap(), &source);
}

/// Whoever stole the key writes into a snapshot what it likes, also the commands of a set: none of them is run.
#[test]
fn no_command_of_a_set_comes_from_its_snapshots() {
    let fixture = Fixture::new();
    fixture.configure(&fixture.host, &fixture.host.at("src"));
    let set = |of: &World| of.run(&["ingest", "--json", "--set", "shop"]).ok().json().pop().unwrap();
    let stored = set(&fixture.host)["snapshot_id"].as_str().unwrap().to_owned();
    let ran = |of: &World| of.at("ran").exists();
    // Whoever has lost the configuration is told where the set is to be written.
    for args in [&["restore", "--set", "shop"][..], &["restore", "--set", "shop", "-n"], &["restore", "--set", "shop", &stored]] {
        fixture.full(args).fails(12, &["a key that only writes", "configuration file", "set_text", &stored[..8]]);
    }
    assert!(!ran(&fixture.host));
    let listed = fixture.full(&["snapshots", "--json"]).ok().json().pop().unwrap();
    assert!(listed["set_text"].as_str().unwrap().contains("touch"), "{listed}");
    // Another host's snapshot of a set of this name stays what is restored, though the thief's is newer.
    fixture.admin.file("live/file", "of a full key");
    fixture.configure(&fixture.admin, &fixture.admin.at("live"));
    set(&fixture.admin);
    let newer = set(&fixture.host)["snapshot_id"].as_str().unwrap().to_owned();
    fs::remove_file(fixture.admin.at(".config/yester/config.toml")).unwrap();
    fs::remove_dir_all(fixture.admin.at("live")).unwrap();
    let run = fixture.full(&["restore", "--set", "shop"]).ok();
    assert!(run.err.contains(&newer[..8]) && run.err.contains("only writes"), "{}", run.err);
    assert!(ran(&fixture.admin) && !ran(&fixture.host));
    assert_eq!(fs::read_to_string(fixture.admin.at("live/file")).unwrap(), "of a full key");
    // With a set in the configuration its commands are run, and no others.
    fs::remove_file(fixture.admin.at("ran")).unwrap();
    fixture.configure(&fixture.admin, &fixture.host.at("src"));
    fixture.full(&["restore", "--set", "shop", &newer]).ok();
    assert!(ran(&fixture.admin) && !ran(&fixture.host));
}

/// The snapshots of such a key say so, to people and programs.
#[test]
fn whose_key_it_is_is_shown() {
    let fixture = Fixture::new();
    fixture.ingest();
    fixture.full(&["ingest", &shown(&fixture.host.at("src"))]).ok();
    let slots = fixture.full(&["key", "list", "--json"]).ok().json();
    let slot = slots.iter().find(|slot| slot["write_only"] == true).unwrap()["id"].as_str().unwrap().to_owned();
    let listed = fixture.full(&["snapshots", "--json"]).ok().json();
    assert!(slot.starts_with(listed[0]["writer"].as_str().unwrap()), "{slot}: {listed:?}");
    assert_eq!(listed[1].get("writer"), None);
    let table = fixture.full(&["snapshots"]).ok().text();
    assert_eq!(table.matches(&format!("(key {}, which only writes)", &slot[..8])).count(), 1, "{table}");
}

/// An object of a later version, by hand: the header says so, and the commitment is right. `bound`: what key and
/// commitment are of behind the header.
fn of_later_version(mut object: Vec<u8>, class: &ClassKey, bound: &[u8]) -> Vec<u8> {
    object[10] = 2;
    let bound = [&object[..HEADER], bound].concat();
    let key = SealKey::derive_bound(class, object[HEADER..HEADER + 32].try_into().unwrap(), &bound).unwrap();
    object[HEADER + 32..HEADER + 48].copy_from_slice(&key.commitment);
    let end = object.len() - CHECKSUM;
    let sum = *blake3::hash(&object[..end]).as_bytes();
    object[end..].copy_from_slice(&sum);
    object
}

/// What such a key claims to have made with a newer program stops no reader; prune goes on when it is given up.
#[test]
fn a_thief_of_the_future_stops_no_reader() {
    let fixture = Fixture::new();
    fixture.ingest();
    let source = shown(&fixture.host.at("src"));
    fixture.full(&["ingest", &source]).ok();
    let storage = fixture.storage();
    let text = fs::read_to_string(fixture.admin.at("key")).unwrap();
    let full = Credential::KeyFile(yester::model::id::from_hex(text.trim()).unwrap());
    let repo = Repository::open(storage.clone(), &full).unwrap();
    let all = yester::repo::snapshots::list(&repo).unwrap();
    let own = all.iter().find(|snapshot| snapshot.writer.is_some()).unwrap();
    let writer: WriterId = own.writer.unwrap();
    let read = |name: &Name| {
        let mut object = Vec::new();
        storage.read(name, None, &mut object).unwrap();
        object
    };
    // A snapshot, the segments and the packs of the writer, as of version 2.
    let id = SnapshotId::random_of(Some(writer)).unwrap();
    let object = of_later_version(read(&Name::Snapshot(own.id)), &repo.keys().snapshot, &id.0);
    storage.create(&Name::Snapshot(id), &[&object]).unwrap();
    let mut made = Vec::new();
    for (name, _) in [Class::Index, Class::Packs].into_iter().flat_map(|class| storage.list(class).unwrap()) {
        let object = read(&name);
        if object[9] == 0 {
            continue;
        }
        let object = match name {
            Name::Pack(_) => {
                let kind = Preamble::decode(&object).unwrap().kind;
                let bound = [&object[108..PREAMBLE], &writer.0].concat();
                of_later_version(object, repo.keys().pack(kind), &bound)
            }
            _ => of_later_version(object, &repo.keys().index, &writer.0),
        };
        let sum: [u8; CHECKSUM] = object[object.len() - CHECKSUM..].try_into().unwrap();
        let later = match name {
            Name::Pack(_) => Name::Pack(yester::model::PackId(sum)),
            _ => Name::Segment(yester::model::SegmentId(sum)),
        };
        storage.create(&later, &[&object]).unwrap();
        made.push(later);
    }
    assert!(made.iter().any(|name| matches!(name, Name::Pack(_))) && made.iter().any(|name| matches!(name, Name::Segment(_))));
    let point = shown(&fixture.admin.at("copied"));
    for args in [
        &["snapshots"][..],
        &["ls", "latest"],
        &["cat", &format!("latest:{source}/{NAME}")],
        &["find", NAME],
        &["restore", "latest", "--target", &point],
        &["stats"],
        &["du", "--unique", "latest"],
        &["ingest", &source],
        &["forget", "--keep-last", "9"],
    ] {
        let run = fixture.full(args).ok();
        assert!(run.err.contains("format version 2"), "{args:?}: {}", run.err);
    }
    fixture.restored_as("latest", Path::new(&source));
    // Whether it needs anything nobody can tell.
    let id = id.to_string();
    let run = fixture.full(&["prune"]);
    assert!(run.code == Some(1) && run.err.contains(&format!("{id} gives it up")), "{:?} {}", run.code, run.err);
    fixture.full(&["forget", &id, "--grace", "0"]).ok();
    fixture.full(&["prune"]).ok();
    let left = made.iter().filter(|name| storage.read(name, Some(0..1), &mut Vec::new()).is_ok());
    assert_eq!(left.count(), 0, "they are of no use");
    let run = fixture.full(&["check", "--read-data"]).ok();
    assert_eq!(run.err, "");
    fixture.restored_as("latest", Path::new(&source));
}
