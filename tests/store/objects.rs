//! Small objects that are damaged, missing or made up: what every command does then, and that what it says to do helps.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::mounted::taken_away;
use crate::common::program;

use std::fs;
use std::path::PathBuf;

use program::{Run, World, with};
use yester::chunk::keys::Credential;
use yester::format::envelope::{self, CHECKSUM, ObjectType};
use yester::repo::Repository;
use yester::repo::marks::{self, mark};
use yester::storage::Class;
use yester::storage::directory::DirectoryStorage;

/// A repository with two snapshots of `src`.
struct Fixture {
    world: World,
    options: [String; 4],
    ids: Vec<String>,
}

const ID: &str = "abababababababababababababababababababababababababababababababab";
/// What can be put into a directory without the key.
const MADE_UP: [&str; 4] = ["garbage", "empty", "newer", "copy"];

impl Fixture {
    fn new() -> Fixture {
        let world = World::new();
        let options = world.repository();
        let mut ids = Vec::new();
        for text in ["one", "two"] {
            world.file("src/file", text.repeat(1000));
            let run = world.run(&with(&options, &["ingest", "--json", "src"])).ok();
            ids.push(run.json().pop().unwrap()["snapshot_id"].as_str().unwrap().to_owned());
        }
        Fixture { world, options, ids }
    }

    /// Commands in messages carry the repository that was given: here they are compared without it.
    fn run(&self, args: &[&str]) -> Run {
        let run = self.world.run(&with(&self.options, args));
        let given = format!(" --repo {}", program::shown(&self.world.at("repo")));
        Run { err: run.err.replace(&given, ""), ..run }
    }

    fn path(&self, class: &str, leaf: &str) -> PathBuf {
        self.world.at("repo").join(class).join(leaf)
    }

    fn repo(&self) -> Repository {
        let storage = DirectoryStorage::open(&self.world.at("repo")).unwrap();
        let key = fs::read_to_string(self.world.at("key")).unwrap();
        let key = yester::model::id::from_hex::<32>(key.trim()).unwrap();
        Repository::open(std::sync::Arc::new(storage), &Credential::KeyFile(key)).unwrap()
    }

    /// Puts something that nobody with the key made.
    fn make_up(&self, how: &str, class: &str, leaf: &str, kind: ObjectType) {
        let bytes = match how {
            "garbage" => b"garbage garbage garbage garbage garbage garbage garbage garbage!".to_vec(),
            "empty" => Vec::new(),
            "newer" => {
                let mut object = envelope::wrap(kind, self.repo().id(), &[9; 200]);
                object.truncate(object.len() - CHECKSUM);
                object[10] = 2;
                let sum = *blake3::hash(&object).as_bytes();
                [&object[..], &sum].concat()
            }
            // An authentic object, under another name.
            _ => fs::read(self.path("snapshots", &self.ids[0])).unwrap(),
        };
        fs::write(self.path(class, leaf), bytes).unwrap();
    }

    /// Flips bits behind the commitment: it shows still who made the object.
    fn rot(&self, class: &str, leaf: &str) {
        let path = self.path(class, leaf);
        let mut bytes = fs::read(&path).unwrap();
        bytes[80] ^= 0x11;
        fs::write(path, bytes).unwrap();
    }

    /// Every command that reads or adds does what it did before.
    #[track_caller]
    fn everything_works(&self, what: &str) {
        let listed = self.run(&["snapshots", "--json"]);
        assert_eq!((listed.code, listed.json().len()), (Some(0), self.ids.len()), "{what}: {}", listed.err);
        for args in [
            &["ls", "latest"][..],
            &["stats"],
            &["forget", "-n", "--keep-last", "1"],
            &["restore", "latest:/", "--target", "out"],
            &["ingest", "-n", "src"],
            &["ingest", "--force", "--tag", "more", "src"],
            &["key", "list"],
        ] {
            let run = self.run(args);
            assert_eq!(run.code, Some(0), "{what}: {args:?}: {}\n{}", run.text(), run.err);
        }
        fs::remove_dir_all(self.world.at("out")).unwrap();
        // The snapshot that was added goes again.
        self.run(&["forget", "latest"]).ok();
    }

    /// `check` names it and ends with 1; it says what to do, that helps, and then there is no damage.
    #[track_caller]
    fn check_names_and(&self, object: &str, words: &[&str], remedy: &[&str], code: i32) {
        let check = self.run(&["check"]);
        // Damage, or a repository that went back.
        assert!(matches!(check.code, Some(1 | 14)), "{}\n{}", check.text(), check.err);
        let remedy_text = format!("yester {}", remedy.join(" "));
        for word in words.iter().copied().chain([object, &remedy_text]) {
            assert!(check.err.contains(word), "{word:?} is not in {}", check.err);
        }
        let run = self.run(remedy);
        assert_eq!(run.code, Some(code), "{remedy:?}: {}\n{}", run.text(), run.err);
        self.run(&["check", "--read-data"]).ok();
    }
}

const CLASSES: [(&str, ObjectType); 5] = [
    ("sessions", ObjectType::Session),
    ("snapshots", ObjectType::Snapshot),
    ("forgotten", ObjectType::Forgotten),
    ("condemned", ObjectType::Condemned),
    ("damaged", ObjectType::Damaged),
];

#[test]
fn what_is_made_up_stops_nobody_and_prune_removes_it() {
    let fixture = Fixture::new();
    for (class, kind) in CLASSES {
        for how in MADE_UP {
            // A mark of a snapshot that is there: it is not forgotten by it.
            let leaf = if class == "forgotten" { fixture.ids[0].as_str() } else { ID };
            fixture.make_up(how, class, leaf, kind);
            let what = format!("{how} in {class}/");
            fixture.everything_works(&what);
            let told = fixture.run(&["snapshots"]);
            if ["snapshots", "forgotten"].contains(&class) {
                assert!(told.err.lines().count() == 1 && told.err.contains("ignored") && told.err.contains(leaf), "{}", told.err);
            }
            fixture.check_names_and(&format!("{class}/{leaf}"), &[], &["prune"], 0);
            assert!(!fixture.path(class, leaf).exists(), "{what} was not removed");
        }
    }
    let listed = fixture.run(&["snapshots", "--json"]).ok().json();
    assert_eq!(listed.len(), 2);
}

/// All of them at once, many of each: nothing has to be fenced or forgotten by hand.
#[test]
fn rubbish_goes_together_and_leaves_no_fences() {
    let fixture = Fixture::new();
    for n in 0..60 {
        for (class, kind) in CLASSES {
            let n = if class == "forgotten" { n + 1000 } else { n };
            fixture.make_up(MADE_UP[n % 4], class, &format!("{n:064x}"), kind);
        }
    }
    fixture.everything_works("rubbish");
    fixture.run(&["prune"]).ok();
    let count = |class: &str| fs::read_dir(fixture.world.at("repo").join(class)).unwrap().count();
    assert_eq!((count("sessions"), count("snapshots"), count("condemned")), (0, 2, 0));
    // Marks of snapshots that are not there are not read by prune.
    let check = fixture.run(&["check"]);
    assert!(check.code == Some(1) && check.err.contains("yester repair objects"), "{}", check.err);
    fixture.run(&["repair", "objects", "-n"]).ok();
    let text = fixture.run(&["repair", "objects"]).ok().text();
    assert_eq!(text.lines().filter(|line| line.starts_with("removed forgotten/")).count(), 60, "{text}");
    fixture.run(&["check"]).ok();
}

/// A mark that is damaged does not count any more: the snapshot is there again, and can be forgotten again.
#[test]
fn only_an_authentic_mark_forgets() {
    let fixture = Fixture::new();
    let first = fixture.ids[0].as_str();
    fixture.run(&["forget", first]).ok();
    assert_eq!(fixture.run(&["snapshots", "--json"]).ok().json().len(), 1);
    fixture.rot("forgotten", first);
    assert_eq!(fixture.run(&["snapshots", "--json"]).ok().json().len(), 2);
    // Said by name.
    let told = fixture.run(&["snapshots"]).err;
    assert!(told.contains(first) && told.contains("not forgotten"), "{told}");
    fixture.run(&["forget", first]).ok();
    assert_eq!(fixture.run(&["snapshots", "--json"]).ok().json().len(), 1);
    fixture.run(&["check"]).ok();
    fixture.run(&["prune"]).ok();
    assert!(!fixture.path("snapshots", first).exists());
    // It is not there any more, and its mark is all that says that it was not lost.
    fixture.rot("forgotten", first);
    fixture.check_names_and(&format!("forgotten/{first}"), &[], &["repair", "objects"], 0);
    fixture.run(&["prune"]).ok();
}

/// What a mark says, for people.
#[test]
fn a_mark_says_by_whom_and_why() {
    let fixture = Fixture::new();
    fixture.run(&["forget", "--keep-last", "1"]).ok();
    let repo = fixture.repo();
    let id = yester::model::SnapshotId::parse(&fixture.ids[0]).unwrap();
    let found = marks::read(&repo, id).unwrap().result(&yester::storage::Name::Forgotten(id)).unwrap();
    let now = yester::sys::clock::now();
    assert_eq!((found.snapshot, found.host.clone(), found.user.clone()), {
        let mine = mark(id, now, b"");
        (id, mine.host, mine.user)
    });
    assert_eq!(found.why, b"policy: --keep-last 1");
    assert!(found.time.secs <= now.secs && found.time.secs > now.secs - 3600);
}

/// Who can write to the store and has no key makes up a mark, and prune runs: nothing is lost.
#[test]
fn prune_does_not_trust_a_mark_that_is_made_up() {
    let fixture = Fixture::new();
    for id in &fixture.ids {
        for how in MADE_UP {
            fixture.make_up(how, "forgotten", id, ObjectType::Forgotten);
            fixture.run(&["prune"]).ok();
            assert!(!fixture.path("forgotten", id).exists());
        }
    }
    fixture.run(&["check", "--read-data"]).ok();
    assert_eq!(fixture.run(&["snapshots", "--json"]).ok().json().len(), 2);
    // A snapshot that is lost is not forgotten by it either.
    fs::remove_file(fixture.path("snapshots", &fixture.ids[0])).unwrap();
    fixture.make_up("garbage", "forgotten", &fixture.ids[0], ObjectType::Forgotten);
    assert_eq!(fixture.run(&["snapshots"]).code, Some(14));
    assert_eq!(fixture.run(&["prune"]).code, Some(14));
    fixture.run(&["forget", &fixture.ids[0]]).ok();
    fixture.run(&["prune"]).ok();
}

/// A snapshot that is damaged is not given up by anything but its name.
#[test]
fn a_damaged_snapshot_stops_prune_until_it_is_given_up() {
    let fixture = Fixture::new();
    let first = fixture.ids[0].as_str();
    fixture.rot("snapshots", first);
    let listed = fixture.run(&["snapshots", "--json"]);
    assert!(listed.code == Some(1) && listed.err.contains(first), "{}", listed.err);
    fixture.run(&["restore", &fixture.ids[1], "--target", "out"]).ok();
    fixture.run(&["ingest", "src"]).ok();
    let prune = fixture.run(&["prune"]);
    assert!(prune.code == Some(1) && prune.err.contains(&format!("yester forget {first}")), "{}", prune.err);
    fixture.check_names_and(&format!("snapshots/{first}"), &[], &["forget", first], 0);
    fixture.run(&["prune"]).ok();
}

/// A list of packs that is damaged is void: nobody stops because of it, and the packs are marked anew.
#[test]
fn a_damaged_list_of_packs_is_void() {
    let fixture = Fixture::new();
    let repo = fixture.repo();
    // All packs, as if nothing were needed; the prune that wrote it was killed.
    let packs: Vec<[u8; 32]> = repo
        .storage()
        .list(yester::storage::Class::Packs)
        .unwrap()
        .into_iter()
        .map(|(name, _)| if let yester::storage::Name::Pack(id) = name { id.0 } else { panic!() })
        .collect();
    let id = yester::model::SnapshotId::parse(ID).unwrap();
    let class = &repo.keys().snapshot;
    let seal = yester::chunk::seal::seal_object;
    let object = seal(ObjectType::Condemned, repo.id(), &id.0, class, &packs.concat()).unwrap();
    fs::write(fixture.path("condemned", ID), object).unwrap();
    fixture.rot("condemned", ID);
    fixture.everything_works("a damaged list");
    fixture.check_names_and(&format!("condemned/{ID}"), &[], &["prune"], 0);
    assert_eq!(fixture.run(&["snapshots", "--json"]).ok().json().len(), 2);
}

/// A snapshot that was deleted from the middle: `check` sees it as `prune` does, on a machine that never saw it as well.
#[test]
fn check_sees_a_snapshot_that_was_deleted_from_the_middle() {
    let fixture = Fixture::new();
    let first = fixture.ids[0].as_str();
    fs::remove_file(fixture.path("snapshots", first)).unwrap();
    fs::remove_dir_all(fixture.world.at(".local")).unwrap_or_default();
    let check = fixture.run(&["check"]);
    assert!(check.code == Some(14) && check.err.contains(&format!("yester forget {first}")), "{}", check.err);
    fixture.check_names_and(&format!("snapshots/{first}"), &["was not forgotten"], &["forget", first], 0);
    fixture.run(&["prune"]).ok();
}

/// A session that is damaged cannot be told to be dead; it is ended by its name.
#[test]
fn a_damaged_session_is_ended_by_its_name() {
    let fixture = Fixture::new();
    let id = yester::repo::session::begin(&fixture.repo(), yester::sys::clock::now()).unwrap();
    fixture.rot("sessions", &id.to_string());
    fixture.everything_works("a damaged session");
    let prune = fixture.run(&["prune"]);
    assert!(prune.code == Some(11) && prune.err.contains(&format!("--fence {}", id.short())), "{}", prune.err);
    fixture.check_names_and(&format!("sessions/{id}"), &[], &["prune", "--fence", &id.short()], 0);
    // The fence stays, and is a finding when it is damaged.
    fixture.rot("snapshots", &id.to_string());
    assert_eq!(fixture.run(&["snapshots", "--json"]).ok().json().len(), 2);
    fixture.check_names_and(&format!("snapshots/{id}"), &["fence"], &["repair", "objects"], 0);
    assert!(fixture.path("snapshots", &id.to_string()).exists());
}

/// A file that claims to be long is not read, whatever directory it lies in.
#[test]
fn a_long_sparse_file_is_not_read() {
    let fixture = Fixture::new();
    for (class, _) in CLASSES {
        let leaf = if class == "forgotten" { fixture.ids[0].as_str() } else { ID };
        fs::File::create(fixture.path(class, leaf)).unwrap().set_len(4 << 30).unwrap();
    }
    let mut command = fixture.world.command(&with(&fixture.options, &["snapshots", "--json"]));
    // No more address space than this: reading one of them would take all of it.
    let limited = |command: &mut std::process::Command| {
        let line: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|arg| format!("'{}'", arg.to_str().unwrap()))
            .collect();
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("ulimit -v 3000000; exec {}", line.join(" "))]).current_dir(fixture.world.home()).env_clear();
        shell.env("HOME", fixture.world.home()).env("PATH", std::env::var_os("PATH").unwrap());
        program::finish(&mut shell)
    };
    assert_eq!(limited(&mut command).ok().json().len(), 2);
    for args in [&["check"][..], &["ingest", "src"], &["prune"]] {
        let run = limited(&mut fixture.world.command(&with(&fixture.options, args)));
        assert_eq!(run.code, Some(if args[0] == "check" { 1 } else { 0 }), "{args:?}: {}", run.err);
    }
    fixture.run(&["check"]).ok();
}

/// Repositories that are older than a class of objects do not have its directory.
#[test]
fn an_optional_class_may_be_missing() {
    let optional: Vec<Class> = Class::ALL.into_iter().filter(|class| class.is_optional()).collect();
    assert!(!optional.is_empty());
    let fixture = Fixture::new();
    let directory = |class: &Class| fixture.world.at("repo").join(class.prefix());
    let remove = |class: &Class| {
        if directory(class).exists() {
            fs::remove_dir_all(directory(class)).unwrap();
        }
    };
    for class in &optional {
        // Each by itself, and all of them after the last.
        let missing = [std::slice::from_ref(class), &optional[..]];
        for missing in missing.into_iter().take(if Some(class) == optional.last() { 2 } else { 1 }) {
            missing.iter().for_each(remove);
            fixture.everything_works(class.prefix());
            for args in [
                &["check"][..],
                &["check", "--read-data"],
                &["cat", "latest:src/file"],
                &["snapshots"],
                &["forget", "-n", "--keep-last", "1", "--prune"],
                &["prune", "-n"],
                &["prune"],
                &["repair", "index"],
                &["repair", "keys"],
                &["unlock"],
            ] {
                let run = fixture.run(args);
                assert_eq!(run.code, Some(0), "{class:?}: {args:?}: {}\n{}", run.text(), run.err);
            }
            let point = fixture.world.at("point");
            fs::create_dir_all(&point).unwrap();
            fixture.run(&["mount", &program::shown(&point)]).ok();
            assert!(fs::read_dir(&point).unwrap().count() > 0);
            taken_away(|| fixture.run(&["umount", &program::shown(&point)]));
        }
    }
}
