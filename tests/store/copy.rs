//! Copies of snapshots between repositories with different keys: the same content, once, also into an object store.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::program;
use crate::common::s3 as s3_server;

use std::os::unix::fs::symlink;

use program::{Run, World, shown};
use s3_server::S3Server;

const S3: [(&str, &str); 3] = [("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "SK"), ("AWS_REGION", "default")];

/// Two repositories, `a` with snapshots, and the program.
struct Pair {
    world: World,
    a: String,
    b: String,
}

impl Pair {
    fn new(world: World, b: &str) -> Pair {
        let pair = Pair { a: shown(&world.at("a")), b: b.to_owned(), world };
        pair.at("a", &["init"]).ok();
        pair.at("b", &["init"]).ok();
        pair
    }

    /// Runs a command on `a` or `b`.
    fn at(&self, which: &str, args: &[&str]) -> Run {
        let repo = if which == "a" { &self.a } else { &self.b };
        let key = format!("{which}.key");
        self.world.run_with(&S3, &[&["--repo", repo, "--key-file", &key], args].concat())
    }

    /// Copies from `from` to the other one.
    fn copy(&self, from: &str, args: &[&str]) -> Run {
        let (repo, to) = if from == "a" { (&self.a, "b") } else { (&self.b, "a") };
        let key = format!("{from}.key");
        self.at(to, &[&["--json", "copy", "--from-repo", repo, "--from-key-file", &key], args].concat())
    }

    /// Everything that a snapshot shows of its entries.
    fn listed(&self, which: &str, snapshot: &str) -> String {
        self.at(which, &["ls", "-l", "-R", snapshot]).ok().text()
    }

    fn ids(&self, which: &str) -> Vec<String> {
        let lines = self.at(which, &["--json", "snapshots"]).ok().json();
        lines.iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect()
    }
}

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut out);
    out
}

fn source(world: &World) {
    for n in 0..300 {
        world.file(&format!("src/{}/{n}", n % 7), format!("file {n} ").repeat(n * 10));
    }
    world.file("src/big", noise(1, 5 << 20));
    world.file("src/long", noise(2, 4 << 20).repeat(2));
    symlink("big", world.at("src/link")).unwrap();
    std::fs::hard_link(world.at("src/big"), world.at("src/0/other name")).unwrap();
    let big = vec![7; 3000];
    rustix::fs::setxattr(world.at("src/1"), "user.long", &big, rustix::fs::XattrFlags::empty()).unwrap();
}

fn packs(world: &World, of: &str) -> Vec<std::path::PathBuf> {
    let shards = std::fs::read_dir(world.at(of).join("packs")).unwrap().map(|shard| shard.unwrap().path());
    shards.flat_map(|shard| std::fs::read_dir(shard).unwrap().map(|pack| pack.unwrap().path())).collect()
}

fn counts(run: &Run) -> (u64, u64, u64) {
    let summary = run.json().pop().unwrap();
    let of = |name: &str| summary[name].as_u64().unwrap();
    (of("snapshots_copied"), of("snapshots_skipped"), of("data_added"))
}

fn there_and_back(pair: &Pair) {
    source(&pair.world);
    pair.at("a", &["-q", "ingest", "--tag", "x", "src"]).ok();
    pair.world.file("src/big", noise(3, 5 << 20));
    pair.world.file("src/new", "new");
    pair.at("a", &["-q", "ingest", "src"]).ok();
    assert_eq!(counts(&pair.copy("a", &["--dry-run"]).ok()), (2, 0, 0));
    assert!(pair.ids("b").is_empty());
    // By a filter first; the rest later needs only what is new.
    let (copied, skipped, first) = counts(&pair.copy("a", &["--tag", "x"]).ok());
    assert!((copied, skipped) == (1, 0) && first > 9 << 20, "{first}");
    let (copied, skipped, second) = counts(&pair.copy("a", &[]).ok());
    assert!((copied, skipped) == (1, 1) && (5 << 20..6 << 20).contains(&second), "{second}");
    assert_eq!(counts(&pair.copy("a", &[]).ok()), (0, 2, 0));
    // What came from here is not copied back.
    assert_eq!(counts(&pair.copy("b", &[]).ok()), (0, 2, 0));
    for snapshot in ["latest", "latest~1"] {
        assert_eq!(pair.listed("a", snapshot), pair.listed("b", snapshot), "{snapshot}");
    }
    pair.at("b", &["check", "--read-data"]).ok();
    let src = shown(&pair.world.at("src"));
    pair.at("b", &["-q", "restore", &format!("latest:{src}"), "--target", "out"]).ok();
    let mut diff = std::process::Command::new("diff");
    let same = diff.args(["-r", "--no-dereference", "src", "out"]).current_dir(pair.world.home()).output().unwrap();
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    // A copy is a parent like any other: its scan records tell what did not change.
    let run = pair.at("b", &["--json", "ingest", "src"]).ok();
    let summary = run.json().pop().unwrap();
    // A file that was written in the same tick of the clock as the ingest began is read again: two may be such.
    assert!(summary["files_new"] == 0 && summary["files_changed"].as_u64() <= Some(2), "{summary}");
}

#[test]
fn copies_between_directories() {
    let world = World::new();
    let b = shown(&world.at("b"));
    there_and_back(&Pair::new(world, &b));
}

#[test]
fn copies_into_an_object_store_and_back() {
    let server = S3Server::start();
    there_and_back(&Pair::new(World::new(), &server.address("web")));
}

#[test]
fn a_copy_that_cannot_be_read_is_left_out_and_others_are_not() {
    let world = World::new();
    let b = shown(&world.at("b"));
    let pair = Pair::new(world, &b);
    pair.world.file("one/file", noise(1, 300_000));
    pair.at("a", &["-q", "ingest", "one"]).ok();
    let first = packs(&pair.world, "a");
    pair.world.file("two/file", noise(2, 300_000));
    pair.at("a", &["-q", "ingest", "two"]).ok();
    let data = first.iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(data).unwrap();
    bytes[1000..2000].fill(0);
    std::fs::write(data, bytes).unwrap();
    let run = pair.copy("a", &[]);
    assert!(run.code == Some(3) && run.err.contains("was not copied"), "{}", run.err);
    assert_eq!(pair.ids("b").len(), 1);
    pair.at("b", &["check", "--read-data"]).ok();
}

#[test]
fn what_is_missing_is_said() {
    let world = World::new();
    let b = shown(&world.at("b"));
    let pair = Pair::new(world, &b);
    pair.at("b", &["copy"]).fails(2, &["--from-repo"]);
    pair.at("b", &["copy", "--from-repo", &pair.a]).fails(12, &["--from-key-file"]);
    pair.at("b", &["copy", "--from-repo", &pair.b, "--from-key-file", "b.key"]).fails(2, &["the same repository"]);
    pair.at("b", &["copy", "--from-repo", "nowhere", "--from-key-file", "a.key"]).fails(10, &["nowhere"]);
    pair.at("b", &["copy", "--from-repo", &pair.a, "--from-key-file", "b.key"]).fails(12, &[&pair.a]);
}

/// What an ingest that reads everything adds: plain bytes of content, and what all that is new takes.
fn natively(pair: &Pair, which: &str) -> (u64, u64) {
    let run = pair.at(which, &["--json", "ingest", "--force", "src"]).ok();
    let summary = run.json().pop().unwrap();
    let of = |name: &str| summary[name].as_u64().unwrap();
    (of("data_added"), of("data_added_packed"))
}

/// That it added nothing but the directories above the source, whose times change with the repositories beside it.
fn nothing((content, packed): (u64, u64)) {
    assert!(content == 0 && packed < 4096, "{content} {packed}");
}

/// Files that are cut by their content, and not at a grid as images are; their last snapshot in `a`.
fn cut_source(pair: &Pair) {
    source(&pair.world);
    pair.world.file("src/odd", noise(4, (5 << 20) + 777));
    pair.world.file("src/odder", noise(5, (4 << 20) + 333));
    pair.at("a", &["init"]).ok();
    // Until no file is so young that the scan records say so: two snapshots of one tree have then the same pages.
    while natively(pair, "a").1 > 4096 {}
}

#[test]
fn copies_share_all_with_what_a_repository_of_the_same_cutter_ingests() {
    let world = World::new();
    let (a, b) = (shown(&world.at("a")), shown(&world.at("b")));
    let pair = Pair { world, a, b };
    cut_source(&pair);
    let made = pair.at("b", &["init", "--chunker-from", &pair.a, "--from-key-file", "a.key"]).ok();
    assert!(made.text().contains("cuts files as repository"), "{}", made.text());
    pair.copy("a", &["latest"]).ok();
    nothing(natively(&pair, "b"));
    // The recovery text has it, too. And who has it from there cuts as the first one.
    let text = pair.at("b", &["key", "export"]).ok().text();
    pair.world.file("paper", text);
    std::fs::remove_dir_all(pair.world.at("b/config")).unwrap();
    pair.world.run(&["--repo", "b", "key", "recover", "paper", "--new-key-file", "new.key"]).ok();
    nothing(natively(&pair, "b"));
    std::fs::rename(pair.world.at("b"), pair.world.at("first")).unwrap();
    std::fs::rename(pair.world.at("b.key"), pair.world.at("first.key")).unwrap();
    pair.at("b", &["init", "--chunker-from", "first", "--from-key-file", "first.key"]).ok();
    pair.copy("a", &["latest"]).ok();
    nothing(natively(&pair, "b"));
}

#[test]
fn copies_share_little_with_what_a_repository_of_its_own_cutter_ingests() {
    let world = World::new();
    let b = shown(&world.at("b"));
    let pair = Pair { a: shown(&world.at("a")), b, world };
    cut_source(&pair);
    pair.at("b", &["init"]).ok();
    pair.copy("a", &["latest"]).ok();
    let (added, packed) = natively(&pair, "b");
    assert!(added > 8 << 20 && packed > 8 << 20, "{added} {packed}");
    // Whose key does not open it gives no cutter.
    let args = ["--repo", "c", "--key-file", "c.key", "init", "--chunker-from", &pair.a, "--from-key-file", "b.key"];
    pair.world.run(&args).fails(12, &["key"]);
    assert!(!pair.world.at("c").exists() && !pair.world.at("c.key").exists());
}
