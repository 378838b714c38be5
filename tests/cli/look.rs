//! Looking through snapshots: what differs, and how little is read for it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::program;

use crate::common::build;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use build::Spec;
use program::{Run, World, shown, with};
use yester::model::Owners;
use yester::model::patterns::Patterns;
use yester::query::diff::{self, DiffAction, DiffOptions, Other};
use yester::query::{EntryVersion, SnapshotSet, find};
use yester::storage::memory::MemoryStorage;
use yester::task::Task;

fn run(world: &World, options: &[String], args: &[&str]) -> Run {
    world.run(&with(options, args))
}

/// Two snapshots of src.
fn two() -> (World, [String; 4]) {
    let world = World::new();
    let options = world.repository();
    world.file("src/a", "one\ntwo\nthree\n");
    world.file("src/gone", "gone");
    world.file("src/mode", "mode");
    world.file("src/moved", "the same content in both");
    world.file("src/dir/x", "x");
    world.file("src/dir/y", "y");
    world.file("src/same/z", "z");
    run(&world, &options, &["ingest", "src"]).ok();
    world.file("src/a", "one\n2\nthree\n");
    world.file("src/new/file", "new file");
    fs::remove_file(world.at("src/gone")).unwrap();
    fs::set_permissions(world.at("src/mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(world.at("src/moved"), world.at("src/same/moved")).unwrap();
    fs::rename(world.at("src/dir"), world.at("src/other")).unwrap();
    run(&world, &options, &["ingest", "src"]).ok();
    (world, options)
}

/// The lines without what leads to src.
fn lines(world: &World, run: Run) -> Vec<String> {
    let src = shown(&world.at("src"));
    run.ok().text().lines().map(|line| line.replace(&src, "")).collect()
}

const DIFFERENCES: [&str; 8] = [
    "M /a (content, time, 14 B -> 12 B)",
    "- /gone (4 B)",
    "m /mode (mode)",
    "+ /new/",
    "+ /new/file (8 B)",
    "R /dir/ -> /other/ (with 2 entries below it)",
    "R /moved -> /same/moved",
    "2 added, 1 removed, 1 changed, 1 with other metadata, 2 renamed; +20 B, -18 B",
];

#[test]
fn differences_between_snapshots_are_listed() {
    let (world, options) = two();
    let src = shown(&world.at("src"));
    assert_eq!(lines(&world, run(&world, &options, &["diff", "latest~1", "latest"])), DIFFERENCES);
    // A path on one side holds for both, and paths are whole.
    let below = lines(&world, run(&world, &options, &["diff", &format!("latest~1:{src}"), "latest"]));
    assert_eq!(below, DIFFERENCES);
    let json = run(&world, &options, &["diff", "--json", "latest~1", "latest"]).ok().json();
    let actions: Vec<&str> = json.iter().filter_map(|line| line["action"].as_str()).collect();
    assert_eq!(actions, ["changed", "removed", "metadata", "added", "added", "renamed", "renamed"]);
    assert_eq!(json[6]["from"].as_str().unwrap(), format!("{src}/moved"));
    assert_eq!(lines(&world, run(&world, &options, &["diff", "latest", "latest"])), ["nothing differs"]);
    let patch = run(&world, &options, &["diff", "--patch", "latest~1", "latest"]).ok().text();
    assert!(patch.contains("\n-two\n+2\n three\n"), "{patch}");
    assert!(patch.contains("--- /dev/null") && patch.contains("+new file"), "{patch}");
    run(&world, &options, &["diff", "latest~1", "abcd"]).fails(1, &["there is no snapshot abcd"]);
}

#[test]
fn a_snapshot_is_compared_with_this_machine() {
    let (world, options) = two();
    let src = shown(&world.at("src"));
    assert_eq!(lines(&world, run(&world, &options, &["diff", "latest", &src])), ["nothing differs"]);
    let old = lines(&world, run(&world, &options, &["diff", "latest~1", &src]));
    for line in ["M /a (content, time, 14 B -> 12 B)", "- /gone (4 B)", "m /mode (mode)", "+ /new/file (8 B)", "- /dir/x (1 B)"] {
        assert!(old.contains(&line.to_owned()), "{line}: {old:?}");
    }
    // The same size and time: only reading tells.
    let time = fs::metadata(world.at("src/a")).unwrap().modified().unwrap();
    let file = world.file("src/a", "ONE\n2\nthree\n");
    fs::File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
    assert_eq!(lines(&world, run(&world, &options, &["diff", "latest", "./src"]))[0], "nothing differs");
    let read = run(&world, &options, &["diff", "--read-data", "--patch", "latest:src", "./src"]).ok().text();
    assert!(read.contains("M ") && read.contains("\n-one\n+ONE\n"), "{read}");
    run(&world, &options, &["diff", "latest:src/a", "./src"]).fails(2, &["only a directory"]);
    run(&world, &options, &["diff", "latest", "src"]).fails(2, &["the directory of this machine is ./src"]);
}

/// Five snapshots of src: `f` comes with the second, changes twice, and is gone in the last.
fn five() -> (World, [String; 4], Vec<String>) {
    let world = World::new();
    let options = world.repository();
    world.file("src/always", "the same");
    let ids = (0..5).map(|n| {
        match n {
            1..=3 => drop(world.file("src/f", format!("{}total {n}\n", if n < 3 { "head\n" } else { "" }))),
            4 => fs::remove_file(world.at("src/f")).unwrap(),
            _ => {}
        }
        let said = run(&world, &options, &["ingest", "--json", "src"]).ok().json().pop().unwrap();
        said["snapshot_id"].as_str().unwrap()[..8].to_owned()
    });
    let ids = ids.collect();
    (world, options, ids)
}

#[test]
fn a_file_is_found_in_all_snapshots_that_have_it() {
    let (world, options, ids) = five();
    let find = |args: &[&str]| lines(&world, run(&world, &options, &[&["find"], args].concat()));
    let always = find(&["always"]);
    assert_eq!(always.len(), 1, "{always:?}");
    assert!(always[0].starts_with(&format!("{}..{} ", ids[0], ids[4])) && always[0].ends_with(" /always"), "{always:?}");
    // One line a state; the last one alone; those that the newest has not.
    let states = find(&["f"]);
    assert_eq!(states.iter().map(|line| &line[..8]).collect::<Vec<_>>(), ids[1..4]);
    let last = find(&["--last", "--deleted", "*"]);
    assert_eq!(last.len(), 1, "{last:?}");
    assert!(last[0].starts_with(&ids[3]) && last[0].ends_with(" /f"), "{last:?}");
    let json = run(&world, &options, &["find", "--json", "--regex", "/F$", "-i"]).ok().json();
    assert_eq!(json.iter().filter(|line| line["message_type"] == "hit").count(), 3);
    let content = json[0]["content"].as_str().unwrap();
    assert_eq!(find(&["--content", &content[..12]]).len(), 1);
    assert_eq!(find(&["--type", "f", "--larger", "1", "--smaller", "10", "f"]).len(), 1);
    assert_eq!(find(&["nowhere"]), [""; 0]);
    let nothing = run(&world, &options, &["find", "nowhere"]).ok();
    assert!(nothing.err.contains("nothing like that is in 5 snapshots"), "{}", nothing.err);
    run(&world, &options, &["find", "--regex", "("]).fails(2, &["the expression"]);
}

#[test]
fn a_path_has_a_history_whose_versions_have_numbers() {
    let (world, options, ids) = five();
    let history = |args: &[&str]| lines(&world, run(&world, &options, &[&["history"], args].concat()));
    let versions = history(&["src/f"]);
    let begins: Vec<&str> = versions.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(begins, ["v1", "v2", "v3", "-"], "{versions:?}");
    assert!(versions[0].contains(&ids[1]) && versions[0].ends_with("came"), "{versions:?}");
    assert!(versions[1].ends_with("changed (content, time)") && versions[3].ends_with("gone"), "{versions:?}");
    let cat = |name: &str| run(&world, &options, &["cat", &format!("{name}:src/f")]);
    assert_eq!(cat("v2").ok().text(), "head\ntotal 2\n");
    cat("v4").fails(1, &["v4", "3 versions"]);
    run(&world, &options, &["restore", "v1:src/f", "--target", "back"]).ok();
    assert_eq!(fs::read_to_string(world.at("back/f")).unwrap(), "head\ntotal 1\n");
    let below = history(&["-R", "src"]);
    assert!(below.contains(&"/f".to_owned()) && !below.contains(&"/always".to_owned()), "{below:?}");
    // Since when the first line is missing.
    let found = history(&["--bisect", "grep -q head \"$1\"", "src/f"]);
    assert!(found.len() == 1 && found[0].starts_with("v3 ") && found[0].contains(&ids[3]), "{found:?}");
    run(&world, &options, &["history", "src/nowhere"]).fails(1, &["is in none of 5 snapshots"]);
}

#[test]
fn a_history_follows_what_was_renamed() {
    let world = World::new();
    let options = world.repository();
    let ingest = || drop(run(&world, &options, &["ingest", "src"]).ok());
    world.file("src/dir/first", "one");
    world.file("src/last", "something else");
    ingest();
    world.file("src/dir/first", "one and two");
    fs::remove_file(world.at("src/last")).unwrap();
    ingest();
    fs::rename(world.at("src/dir/first"), world.at("src/dir/second")).unwrap();
    ingest();
    fs::rename(world.at("src/dir"), world.at("src/new")).unwrap();
    ingest();
    fs::rename(world.at("src/new/second"), world.at("src/last")).unwrap();
    ingest();
    world.file("src/last", "three");
    ingest();
    let follow = lines(&world, run(&world, &options, &["history", "--follow", "src/last"]));
    let shape = |line: &String| match line.split_once("  ") {
        Some((first, rest)) => format!("{} {}", first.trim_end(), rest.rsplit_once(" B ").map_or("", |(_, end)| end)),
        None => line.clone(),
    };
    let found: Vec<String> = follow.iter().map(shape).collect();
    let want = [
        "/dir/first",
        "v1 came",
        "v2 changed (content, time)",
        "/dir/second",
        "v1 renamed from /dir/first",
        "/new/second",
        "v1 renamed from /dir/second",
        "/last",
        "v2 renamed from /new/second",
        "v3 changed (content, time)",
    ];
    assert_eq!(found, want, "{follow:?}");
    assert_eq!(run(&world, &options, &["cat", "v2:src/last"]).ok().text(), "one and two");
    assert_eq!(run(&world, &options, &["cat", "v1:src/dir/first"]).ok().text(), "one");
    let json = run(&world, &options, &["history", "--follow", "--json", "src/last"]).ok().json();
    assert!(json.len() == 6 && json[2]["action"] == "renamed", "{json:?}");
    assert!(json[2]["from"].as_str().unwrap().ends_with("/src/dir/first") && json[0].get("from").is_none());
    // What never was elsewhere is as without it.
    let plain = |args: &[&str]| lines(&world, run(&world, &options, args));
    assert_eq!(plain(&["history", "--follow", "src/dir/first"]), plain(&["history", "src/dir/first"]));
}

/// A tree of many directories, with `edit` in some of their files.
fn tree(edit: &str) -> Spec {
    let file = |dir: usize, at: usize| {
        let text = if dir.is_multiple_of(10) && at == 3 { edit } else { "text" };
        Spec::inline(&format!("file{at:03}"), text)
    };
    let dirs = (0..100).map(|dir| Spec::dir(&format!("dir{dir:03}"), (0..100).map(|at| file(dir, at)).collect()));
    Spec::dir("", vec![Spec::dir("top", dirs.collect())])
}

/// Counts what is told.
#[derive(Default)]
struct Count(usize);

impl find::FindReceiver for Count {
    fn hit(&mut self, _: &[u8], versions: Vec<EntryVersion>, _: &SnapshotSet) -> yester::Result<()> {
        self.0 += versions.len();
        Ok(())
    }

    fn failed(&mut self, error: yester::Error) {
        panic!("{error}");
    }
}

#[test]
fn pages_that_snapshots_share_are_gone_through_once() {
    let repo = build::repository(Arc::new(MemoryStorage::default()));
    let edits = ["before", "after"];
    let snapshots: Vec<_> = (0..40).map(|n| build::snapshot(&repo, &tree(edits[n / 39]), Owners::default())).collect();
    let asked = |count: usize| {
        let (trees, mut told) = (build::reader(&repo), Count::default());
        let query = find::Query { patterns: Patterns::new([("file003", false)]).unwrap(), ..Default::default() };
        find::find(&trees, &snapshots[..count], &query, &Task::default(), &mut told).unwrap();
        (told.0, trees.chunks().counts.asked.get())
    };
    let (one, all) = (asked(1), asked(40));
    assert_eq!((one.0, all.0), (100, 110));
    assert_eq!(asked(39), one);
    assert!(all.1 <= one.1 + 60, "{} pages for one snapshot, {} for all", one.1, all.1);
}

#[test]
fn ten_changes_cost_few_pages() {
    let repo = build::repository(Arc::new(MemoryStorage::default()));
    let (one, two) = ("before", "after");
    let before = build::snapshot(&repo, &tree(one), Owners::default());
    let after = build::snapshot(&repo, &tree(two), Owners::default());
    let trees = build::reader(&repo);
    let mut changes = Vec::new();
    let other = Other::Tree(&after.root);
    let whole = diff::diff(&trees, &before.root, other, &DiffOptions::default(), &Task::default(), &mut |change| {
        changes.push((change.action, change.path.clone()));
        Ok(())
    });
    assert!(whole.unwrap());
    assert_eq!(changes.len(), 10, "{changes:?}");
    assert_eq!(changes[1], (DiffAction::Changed, b"/top/dir010/file003".to_vec()));
    let asked = trees.chunks().counts.asked.get();
    assert!(asked <= 60, "{asked} pages were read");
}
