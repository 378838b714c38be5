//! Staged restores, through the program: exchanged, taken back, discarded, refused; and cut off at every change that they
//! make (needs root and FUSE).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::passthrough::{Abilities, Passthrough};
use crate::common::program::{self, World, shown};

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

/// All that is below a directory: names, and contents of files.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut out = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten() {
            let path = entry.unwrap().path();
            let content = if path.is_file() { fs::read(&path).ok() } else { None };
            if path.is_dir() {
                left.push(path.clone());
            }
            out.insert(path.strip_prefix(dir).unwrap().to_owned(), content);
        }
    }
    out
}

fn beside(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(".yester-")).collect();
    names.sort();
    names
}

fn world() -> (World, Vec<String>) {
    let world = World::new();
    let options = world.repository();
    world.file("src/shop/a", "new a");
    world.file("src/shop/sub/b", vec![7; 300_000]);
    symlink("a", world.at("src/shop/link")).unwrap();
    world.run(&program::with(&options, &["ingest", "src"])).ok();
    world.file("out/shop/a", "old a");
    world.file("out/shop/only-old", "x");
    (world, options.to_vec())
}

#[test]
fn a_directory_is_exchanged_taken_back_and_discarded() {
    let (world, options) = world();
    let (out, shop) = (world.at("out"), world.at("out/shop"));
    let (old, new) = (tree(&shop), tree(&world.at("src/shop")));
    let snapshot = format!("latest:{}", shown(&world.at("src/shop")));
    let run = |args: &[&str]| world.run(&program::with(&options, args));
    let restore = ["restore", &snapshot, "--target", "out/shop", "--staged"];
    let dry = run(&[&restore[..], &["-n"]].concat()).ok();
    assert!(dry.err.contains("would be exchanged"), "{}", dry.err);
    assert_eq!((tree(&shop), beside(&out)), (old.clone(), vec![]));
    run(&restore).ok();
    assert_eq!(tree(&shop), new);
    assert_eq!(tree(&out.join(".yester-old-shop")), old);
    // Nothing of before is lost by a second one.
    run(&restore).fails(1, &["--rollback", "--discard-old"]);
    run(&["restore", "--rollback", "--target", "out/shop"]).ok();
    assert_eq!((tree(&shop), tree(&out.join(".yester-stage-shop"))), (old.clone(), new.clone()));
    assert!(run(&["restore", "--rollback", "--target", "out/shop"]).ok().text().contains("already"));
    let line = run(&["restore", "--discard-old", "--target", "out/shop", "--json"]).ok().json().pop().unwrap();
    assert_eq!((&line["message_type"], &line["action"]), (&"staged".into(), &"discard".into()));
    assert_eq!((tree(&shop), beside(&out)), (old, vec![]));
    run(&["restore", "--rollback", "--target", "out/shop"]).fails(1, &["there is nothing of a staged restore beside"]);
    // Where nothing was, nothing is kept.
    run(&["restore", &snapshot, "--target", "deep/er/shop", "--staged"]).ok();
    assert_eq!(
        (tree(&world.at("deep/er/shop")), beside(&world.at("deep/er"))),
        (new.clone(), vec![".yester-journal-shop".into()])
    );
    run(&["restore", "--rollback", "--target", "deep/er/shop"]).ok();
    assert!(!world.at("deep/er/shop").exists());
    run(&["restore", "--discard-old", "--target", "deep/er/shop"]).ok();
    assert_eq!(beside(&world.at("deep/er")), Vec::<String>::new());
    // A file is exchanged alone.
    let file = format!("{snapshot}/a");
    run(&["restore", &file, "--target", "out/shop", "--staged"]).ok();
    assert_eq!(fs::read(shop.join("a")).unwrap(), b"new a");
    assert_eq!((fs::read(shop.join(".yester-old-a")).unwrap(), shop.join("only-old").exists()), (b"old a".to_vec(), true));
}

#[test]
fn what_cannot_be_exchanged_is_refused() {
    let (world, options) = world();
    let snapshot = format!("latest:{}", shown(&world.at("src/shop")));
    let run = |args: &[&str]| world.run(&program::with(&options, args));
    // The repository would go away with what is there now.
    run(&["restore", &snapshot, "--target", &shown(world.home()), "--staged"]).fails(2, &["would go away", "without --staged"]);
    run(&["restore", &snapshot, "--target", "/proc", "--staged"])
        .fails(1, &["/proc is a file system of its own", "without --staged"]);
    run(&["restore", &snapshot, "--target", "/", "--staged", "--include", "x"]).fails(2, &["--staged"]);
    symlink("shop", world.at("out/link")).unwrap();
    run(&["restore", &snapshot, "--target", "out/link", "--staged"]).fails(2, &["no directory"]);
    // Damage: nothing is exchanged, nothing is left.
    let before = tree(&world.at("out"));
    for pack in tree(&world.at("repo/packs")).keys() {
        let path = world.at("repo/packs").join(pack);
        if path.is_file() {
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    let run = run(&["restore", &snapshot, "--target", "out/shop", "--staged"]);
    assert_eq!(run.code, Some(1), "{}", run.err);
    assert_eq!(tree(&world.at("out")), before);
    // What somebody else may have written is not believed.
    world.file("out/.yester-journal-shop", "{}");
    std::os::unix::fs::chown(world.at("out/.yester-journal-shop"), Some(12345), None).unwrap();
    let run = world.run(&program::with(&options, &["restore", "--rollback", "--target", "out/shop"]));
    run.fails(1, &["somebody else could have written it"]);
}

/// Three directories in two others, as they were and as they are in the snapshot.
struct Three {
    world: World,
    options: Vec<String>,
    behind: PathBuf,
    shown: Passthrough,
    places: [PathBuf; 3],
    new: Vec<BTreeMap<PathBuf, Option<Vec<u8>>>>,
    old: Vec<BTreeMap<PathBuf, Option<Vec<u8>>>>,
}

impl Three {
    fn new(exchange: bool) -> Three {
        let world = World::new();
        let options = world.repository().to_vec();
        let behind = world.at("behind");
        fs::create_dir(&behind).unwrap();
        let shown = Passthrough::of(&behind, Abilities { noreplace: exchange, links: true, modes: true, exchange });
        let places = ["one", "in/two", "in/three"].map(|name| shown.path().join(name));
        let mut three = Three { world, options, behind, shown, places, new: vec![], old: vec![] };
        three.fill("new");
        let paths: Vec<String> = three.places.iter().map(|place| program::shown(place)).collect();
        let ingest: Vec<&str> = ["ingest"].into_iter().chain(paths.iter().map(String::as_str)).collect();
        three.world.run(&program::with(&three.options, &ingest)).ok();
        three.new = three.now();
        three.fill("old");
        three.old = three.now();
        three
    }

    /// Makes everything anew, behind the back of whoever looks.
    fn fill(&self, state: &str) {
        fs::remove_dir_all(&self.behind).unwrap();
        for (name, count) in [("one", 3), ("in/two", 2), ("in/three", 1)] {
            fs::create_dir_all(self.behind.join(name).join("sub")).unwrap();
            (0..count).for_each(|n| fs::write(self.behind.join(name).join(format!("sub/{n}")), format!("{state} {n}")).unwrap());
            fs::write(self.behind.join(name).join(format!("only-{state}")), state.repeat(3000)).unwrap();
        }
    }

    fn now(&self) -> Vec<BTreeMap<PathBuf, Option<Vec<u8>>>> {
        ["one", "in/two", "in/three"].iter().map(|name| tree(&self.behind.join(name))).collect()
    }

    fn restore(&self) -> std::process::Command {
        let mut args = vec!["restore".to_owned()];
        args.extend(self.places.iter().map(|place| format!("latest:{}", shown(place))));
        args.extend(["--target", "/", "--staged"].map(str::to_owned));
        self.world.command(&[&self.options[..], &args[..]].concat())
    }

    fn later(&self, option: &str) -> program::Run {
        self.world.run(&program::with(&self.options, &["restore", option, "--target", &shown(&self.places[2])]))
    }

    /// Cuts a restore off in change number `deadly`, and looks at what the next call makes of it.
    fn cut_off(&self, deadly: u64) {
        self.fill("old");
        self.shown.changes.count(deadly);
        let killed = self.restore().output().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&killed.status), Some(Signal::KILL.as_raw()), "{deadly}");
        self.shown.changes.count(0);
        let (old, new) = (self.old.clone(), self.new.clone());
        for (is, (old, new)) in self.now().iter().zip(old.iter().zip(&new)) {
            assert!(is == old || is == new || is.is_empty(), "{deadly}: each is whole: {is:?}");
        }
        match deadly % 3 {
            0 => {
                // The same once more.
                let run = program::finish(&mut self.restore());
                let kept = run.code == Some(1) && run.err.contains("--discard-old");
                assert!(run.code == Some(0) || kept, "{deadly}: {}", run.err);
                assert_eq!(self.now(), new, "{deadly}");
                self.later("--rollback").ok();
                assert_eq!(self.now(), old, "{deadly}");
            }
            1 => {
                let run = self.later("--rollback");
                assert!(run.code == Some(0) || run.err.contains("there is nothing of"), "{deadly}: {}", run.err);
                assert_eq!(self.now(), old, "{deadly}");
            }
            _ => {
                let run = self.later("--discard-old");
                let now = self.now();
                assert!(now == old || now == new, "{deadly}: {now:?} {}", run.err);
                if run.err.contains("before its commands were done") {
                    assert_eq!(now, new, "{deadly}");
                    program::finish(&mut self.restore()).ok();
                    self.later("--discard-old").ok();
                }
                assert_eq!((beside(&self.behind), beside(&self.behind.join("in"))), (vec![], vec![]), "{deadly}: {}", run.err);
            }
        }
    }
}

fn cut_off_everywhere(exchange: bool, step: usize) {
    let three = Three::new(exchange);
    three.shown.changes.count(0);
    program::finish(&mut three.restore()).ok();
    let all = three.shown.changes.made();
    assert_eq!(three.now(), three.new);
    // Changes around the exchange, and some of those before.
    let last = 50.min(all - 1);
    let moments = (1..all - last).step_by((all as usize / 6).max(1)).chain((all - last..=all).step_by(step));
    moments.for_each(|deadly| three.cut_off(deadly));
}

#[test]
fn a_restore_that_is_killed_leaves_the_old_or_the_new_state() {
    cut_off_everywhere(true, 2);
}

#[test]
fn the_same_where_nothing_can_be_exchanged_in_one_step() {
    cut_off_everywhere(false, 4);
}

#[test]
fn a_set_is_exchanged_with_its_streams_or_not_at_all() {
    let world = World::new();
    world.file("live/one", "1");
    world.file("other/two", "2");
    world.file("db", "dump");
    let text = r#"
[repository]
location = "HOME/main"
key-file = "HOME/main.key"
[sets.a]
paths = ["HOME/live", "HOME/other"]
[[sets.a.streams]]
at = "/dumps/db.sql"
command = ["cat", "HOME/db"]
restore = ["sh", "-c", "cat > HOME/poured; case $(cat HOME/mode) in fail) exit 4;; kill) kill -9 $PPID;; esac; mv HOME/poured HOME/back"]
[[sets.a.restore.steps]]
name = "start"
command = ["sh", "-c", "echo started >> HOME/log"]
"#;
    world.file(".config/yester/config.toml", text.replace("HOME", &shown(world.home())));
    world.run(&["init"]).ok();
    world.run(&["ingest", "--set", "a"]).ok();
    let state = || (tree(&world.at("live")), tree(&world.at("other")));
    let new = state();
    world.file("live/one", "changed");
    world.file("other/three", "3");
    let old = state();
    let restore = ["restore", "--set", "a", "--staged"];
    // One part that fails takes the others back.
    world.file("mode", "fail");
    let run = world.run(&restore);
    assert!(run.code == Some(3) && run.err.contains("what was exchanged was taken back"), "{}", run.err);
    assert_eq!((state(), beside(world.home())), (old.clone(), vec![]));
    // Killed while the stream goes back: the next call finishes, or takes back.
    world.file("mode", "kill");
    assert_eq!(world.run(&restore).code, None);
    assert_eq!(state(), new);
    world.run(&["restore", "--set", "a", "--discard-old"]).fails(1, &["--rollback"]);
    world.run(&["restore", "--set", "a", "--rollback"]).ok();
    assert_eq!(state(), old);
    world.run(&["restore", "--set", "a", "--discard-old"]).ok();
    assert_eq!(world.run(&restore).code, None);
    world.file("mode", "good");
    world.run(&restore).ok();
    assert_eq!((state(), fs::read_to_string(world.at("back")).unwrap()), (new, "dump".to_owned()));
    assert_eq!(fs::read_to_string(world.at("log")).unwrap(), "started\n");
    world.run(&["restore", "--set", "a", "--rollback"]).ok();
    assert_eq!(state(), old);
    world.run(&["restore", "--set", "a", "--discard-old"]).ok();
    assert_eq!(beside(world.home()), Vec::<String>::new());
}
