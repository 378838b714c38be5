//! `yester doctor`: real damage, healed from a tree, from another repository, or written out of the snapshots.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::build::noise;
use crate::common::program;

use std::fs;
use std::path::{Path, PathBuf};

use super::{change, files};
use program::{Run, World, shown, with};

/// Changes a file that nobody may write.
fn flip(path: &Path, at: impl FnOnce(usize) -> usize) {
    change(path, |bytes| {
        let at = at(bytes.len());
        bytes[at] ^= 1;
    });
}

/// A repository with a snapshot of `src`.
struct Ward {
    world: World,
    options: [String; 4],
}

impl Ward {
    fn new() -> Ward {
        let world = World::new();
        let options = world.repository();
        let ward = Ward { world, options };
        ward.fill();
        ward
    }

    /// Files of all kinds of content: long, short, with a recipe of its own, and a directory of many.
    fn fill(&self) {
        self.world.file("src/big", noise(1, 900_000));
        self.world.file("src/dir/small", noise(2, 5_000));
        self.world.file("src/dir/other", noise(3, 70_000));
        self.world.file("src/long", noise(4, 3_000_000));
        for n in 0..40 {
            self.world.file(&format!("src/many/{n}"), noise(100 + n, 2_000));
        }
    }

    fn run(&self, args: &[&str]) -> Run {
        self.world.run(&with(&self.options, args))
    }

    #[track_caller]
    fn ingest(&self) -> String {
        let run = self.run(&["ingest", "--json", "--as", "/data", "src"]).ok();
        run.json().last().unwrap()["snapshot_id"].as_str().unwrap().to_owned()
    }

    /// The packs of data, or of trees.
    fn packs(&self, trees: bool) -> Vec<PathBuf> {
        let kind = if trees { 2 } else { 1 };
        files(&self.world.at("repo/packs")).into_iter().filter(|path| fs::read(path).unwrap()[108] == kind).collect()
    }

    /// What is in a snapshot below `src` is what is in `src`, but for `lost`, which are not there.
    #[track_caller]
    fn restores(&self, id: &str, source: &Path, lost: &[&str]) {
        let target = self.world.at("out");
        let _ = fs::remove_dir_all(&target);
        self.run(&["restore", &format!("{id}:/data"), "--target", &shown(&target)]).ok();
        for path in files(source) {
            let name = path.strip_prefix(source).unwrap();
            match lost.contains(&name.to_str().unwrap()) {
                true => assert!(!target.join(name).exists(), "{name:?} is there"),
                false => assert!(fs::read(target.join(name)).unwrap() == fs::read(&path).unwrap(), "{name:?} of {id}"),
            }
        }
    }

    /// Nothing is wrong any more, and prune has nothing to say.
    #[track_caller]
    fn is_sound(&self) {
        self.run(&["check", "--read-data"]).ok();
        self.run(&["prune"]).ok();
        assert!(files(&self.world.at("repo/damaged")).is_empty());
    }
}

#[test]
fn nothing_is_wrong_and_nothing_is_done() {
    let ward = Ward::new();
    ward.ingest();
    let before = files(&ward.world.at("repo"));
    let run = ward.run(&["doctor", "--read-data"]).ok();
    assert!(run.text().contains("no damage"), "{}", run.text());
    let after: Vec<PathBuf> = files(&ward.world.at("repo")).into_iter().filter(|path| !shown(path).contains("/runs/")).collect();
    assert_eq!(before, after);
}

#[test]
fn a_lost_pack_of_data_is_healed_byte_for_byte_from_the_tree() {
    let ward = Ward::new();
    let id = ward.ingest();
    for pack in ward.packs(false) {
        fs::remove_file(pack).unwrap();
    }
    // Somewhere else, and one under another name.
    fs::rename(ward.world.at("src"), ward.world.at("moved")).unwrap();
    fs::rename(ward.world.at("moved/big"), ward.world.at("moved/renamed")).unwrap();
    // Without a source everything is named, and nothing is changed.
    let run = ward.run(&["doctor", "-n"]);
    assert_eq!(run.code, Some(3), "{}{}", run.text(), run.err);
    assert!(run.err.contains("/data/big") && run.err.contains("/data/dir/small"), "{}", run.err);
    assert!(run.text().contains("cannot be healed"), "{}", run.text());
    // Without a terminal nobody can be asked.
    let run = ward.run(&["doctor", "--from-tree", "moved"]);
    assert_eq!(run.code, Some(1), "{}{}", run.text(), run.err);
    assert!(run.text().contains("can be healed") && run.err.contains("--yes"), "{}{}", run.text(), run.err);
    assert!(ward.packs(false).is_empty());
    let run = ward.run(&["doctor", "--from-tree", "moved", "--yes"]).ok();
    assert!(run.text().contains("from the files below"), "{}", run.text());
    fs::rename(ward.world.at("moved/renamed"), ward.world.at("moved/big")).unwrap();
    ward.restores(&id, &ward.world.at("moved"), &[]);
    ward.is_sound();
}

#[test]
fn flipped_bytes_are_healed_from_the_tree_and_what_is_damaged_is_deleted() {
    let ward = Ward::new();
    let id = ward.ingest();
    let pack = ward.packs(false).remove(0);
    flip(&pack, |len| len / 3);
    let run = ward.run(&["doctor", "--read-data", "--from-tree", "src", "--yes", "--json"]).ok();
    let summary = run.json().pop().unwrap();
    assert_eq!((&summary["sound"], &summary["pruned"], &summary["chunks_lost"]), (&true.into(), &true.into(), &0.into()));
    assert!(!pack.exists());
    ward.restores(&id, &ward.world.at("src"), &[]);
    ward.is_sound();
}

#[test]
fn pages_of_directories_are_healed_from_the_tree() {
    let ward = Ward::new();
    let first = ward.ingest();
    let before = ward.packs(true);
    ward.world.file("src/new", "x");
    let second = ward.ingest();
    for pack in &before {
        fs::remove_file(pack).unwrap();
    }
    assert_eq!(ward.run(&["ls", &second]).code, Some(1));
    let run = ward.run(&["doctor", "--from-tree", "src", "--yes"]);
    assert!(run.text().contains("directories"), "{}{}", run.text(), run.err);
    ward.restores(&second, &ward.world.at("src"), &[]);
    // The directory as it was without the new file is nowhere: what nobody has is dropped.
    assert_eq!(run.code, Some(3), "{}{}", run.text(), run.err);
    let run = ward.run(&["doctor", "--drop-lost", "--yes"]).ok();
    assert!(run.text().contains("nothing of it is left"), "{}", run.text());
    let listed = ward.run(&["snapshots", "--json"]).ok().json();
    assert!(!listed.iter().any(|line| line["id"] == *first) && listed.iter().any(|line| line["id"] == *second), "{listed:?}");
    ward.restores(&second, &ward.world.at("src"), &[]);
    ward.is_sound();
}

#[test]
fn everything_is_healed_from_another_repository() {
    let ward = Ward::new();
    let id = ward.ingest();
    let other = ["--repo".to_owned(), shown(&ward.world.at("other")), "--key-file".to_owned(), shown(&ward.world.at("key2"))];
    ward.world.run(&with(&other, &["init"])).ok();
    let from =
        ["--from-repo", &shown(&ward.world.at("repo")), "--from-key-file", &shown(&ward.world.at("key"))].map(str::to_owned);
    let copy: Vec<&str> = ["copy"].into_iter().chain(from.iter().map(String::as_str)).collect();
    ward.world.run(&with(&other, &copy)).ok();
    fs::rename(ward.world.at("src"), ward.world.at("kept")).unwrap();
    for pack in files(&ward.world.at("repo/packs")) {
        fs::remove_file(pack).unwrap();
    }
    let (repo, key) = (shown(&ward.world.at("other")), shown(&ward.world.at("key2")));
    let run = ward.run(&["doctor", "--from-repo", &repo, "--from-key-file", &key, "--yes"]).ok();
    assert!(run.text().contains("from the repository"), "{}", run.text());
    ward.restores(&id, &ward.world.at("kept"), &[]);
    ward.is_sound();
    ward.run(&["doctor", "--from-repo", &shown(&ward.world.at("repo")), "--from-key-file", &shown(&ward.world.at("key"))])
        .fails(2, &["same repository"]);
}

#[test]
fn what_nobody_has_is_named_and_dropped_and_prune_works_again() {
    let ward = Ward::new();
    fs::hard_link(ward.world.at("src/dir/small"), ward.world.at("src/many/link")).unwrap();
    let first = ward.ingest();
    let before = ward.packs(false);
    ward.world.file("src/new", noise(9, 50_000));
    let second = ward.ingest();
    ward.run(&["pin", &first]).ok();
    ward.run(&["tag", &first, "--add", "release"]).ok();
    for pack in &before {
        fs::remove_file(pack).unwrap();
    }
    let kept = ward.world.at("kept");
    fs::rename(ward.world.at("src"), &kept).unwrap();
    fs::remove_file(kept.join("long")).unwrap();
    fs::remove_file(kept.join("dir/other")).unwrap();
    assert_eq!(ward.run(&["prune"]).code, Some(1));
    // What the tree has is healed; the rest stays, and is named.
    let run = ward.run(&["doctor", "--from-tree", "kept", "--yes"]);
    assert_eq!(run.code, Some(3), "{}{}", run.text(), run.err);
    for lost in ["/data/long", "/data/dir/other"] {
        assert!(run.err.contains(lost), "{lost}: {}", run.err);
    }
    let run = ward.run(&["restore", &second, "--target", &shown(&ward.world.at("part"))]);
    assert_eq!(run.code, Some(3), "{}", run.err);
    assert!(run.err.contains("long") && run.err.contains("other") && !run.err.contains("many"), "{}", run.err);
    // It is only said what would be dropped.
    let run = ward.run(&["doctor", "--drop-lost", "-n"]);
    assert!(run.text().contains("would write") && run.text().contains("without 2 entries"), "{}{}", run.text(), run.err);
    assert!(ward.run(&["snapshots", "--json"]).ok().text().contains(&first));
    let run = ward.run(&["doctor", "--drop-lost", "--yes", "--json"]).ok();
    let lines = run.json();
    let rewritten: Vec<&serde_json::Value> = lines.iter().filter(|line| line["message_type"] == "rewritten").collect();
    assert_eq!(rewritten.len(), 2, "{}", run.text());
    assert!(rewritten.iter().all(|line| line["entries_lost"] == 2), "{}", run.text());
    let old: Vec<&str> = rewritten.iter().map(|line| line["snapshot"].as_str().unwrap()).collect();
    assert_eq!(old, [&first, &second]);
    for line in &rewritten {
        let id = line["snapshot_id"].as_str().unwrap();
        let source = ward.world.at("kept");
        if id == rewritten[1]["snapshot_id"] {
            ward.restores(id, &source, &[]);
        } else {
            ward.restores(id, &source, &["new"]);
        }
        let links = fs::metadata(ward.world.at("out/many/link")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&links), 2);
    }
    let listed = ward.run(&["snapshots", "--json"]).ok();
    let listed: Vec<serde_json::Value> = listed.json().into_iter().filter(|line| line["message_type"] == "snapshot").collect();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|line| line["summary"]["errors"] == 2), "{listed:?}");
    assert!(listed[0]["tags"].as_array().unwrap().contains(&"release".into()), "{listed:?}");
    assert_eq!((&listed[0]["pinned"], &listed[1]["pinned"]), (&true.into(), &serde_json::Value::Null), "{listed:?}");
    ward.is_sound();
}

/// Another repository with keys of its own, into which the same files were ingested: it is no copy.
#[test]
fn files_are_healed_from_a_repository_that_is_no_copy() {
    let ward = Ward::new();
    let id = ward.ingest();
    let other = ["--repo".to_owned(), shown(&ward.world.at("other")), "--key-file".to_owned(), shown(&ward.world.at("key2"))];
    ward.world.run(&with(&other, &["init"])).ok();
    ward.world.run(&with(&other, &["ingest", "--as", "/data", "src"])).ok();
    fs::rename(ward.world.at("src"), ward.world.at("kept")).unwrap();
    for pack in ward.packs(false) {
        fs::remove_file(pack).unwrap();
    }
    let (repo, key) = (shown(&ward.world.at("other")), shown(&ward.world.at("key2")));
    let dry = ward.run(&["doctor", "-n", "--from-repo", &repo, "--from-key-file", &key, "--json"]).ok().json();
    let heal = dry.iter().find(|line| line["message_type"] == "heal" && line["source"] == "repository").unwrap();
    assert!(heal["data_chunks"].as_u64().unwrap() > 3 && heal["dry_run"] == true, "{heal}");
    assert!(ward.packs(false).is_empty());
    ward.run(&["doctor", "--from-repo", &repo, "--from-key-file", &key, "--yes"]).ok();
    ward.restores(&id, &ward.world.at("kept"), &[]);
    ward.is_sound();
}

/// Copies of keys, a segment of the index, a mark and rubbish: all that the repository itself can mend.
#[test]
fn what_the_repository_can_mend_itself_is_mended_at_once() {
    let ward = Ward::new();
    let gone = ward.ingest();
    ward.world.file("src/new", noise(9, 50_000));
    let id = ward.ingest();
    ward.run(&["forget", &gone]).ok();
    flip(&files(&ward.world.at("repo/keys"))[0], |len| len / 2);
    flip(&files(&ward.world.at("repo/config"))[0], |len| len / 2);
    flip(&files(&ward.world.at("repo/index"))[0], |len| len / 2);
    flip(&files(&ward.world.at("repo/forgotten"))[0], |len| len / 2);
    ward.world.file(&format!("repo/sessions/{}", "ab".repeat(32)), "rubbish");
    assert_eq!(ward.run(&["check"]).code, Some(1));
    let run = ward.run(&["doctor", "-n"]).ok();
    for said in ["repair keys", "repair objects", "repair index"] {
        assert!(run.text().contains(said), "{said}: {}", run.text());
    }
    assert_eq!(ward.run(&["check"]).code, Some(1));
    ward.run(&["doctor", "--yes"]).ok();
    ward.restores(&id, &ward.world.at("src"), &[]);
    ward.is_sound();
}

/// What this machine has read of trees before heals them.
#[test]
fn trees_are_healed_from_the_cache() {
    let ward = Ward::new();
    let id = ward.ingest();
    let cache = shown(&ward.world.at("cache"));
    ward.run(&["--cache-dir", &cache, "ls", "-R", &id]).ok();
    for pack in ward.packs(true) {
        fs::remove_file(pack).unwrap();
    }
    assert_eq!(ward.run(&["ls", "-R", &id]).code, Some(1));
    let run = ward.run(&["--cache-dir", &cache, "doctor", "--yes"]);
    assert!(run.text().contains("cache"), "{}{}", run.text(), run.err);
    // Whatever else was in the same frame is there, too.
    ward.run(&["ls", "-R", &id]).ok();
    ward.restores(&id, &ward.world.at("src"), &[]);
}

/// Bytes in a pack of trees, at every place of it: with a copy of the repository all of it is healed.
#[test]
fn flipped_bytes_in_a_pack_of_trees_are_healed() {
    let places: [fn(usize) -> usize; 4] = [|_| 30, |len| len / 2, |len| len - 70, |len| len - 1];
    for (case, place) in places.into_iter().enumerate() {
        let ward = Ward::new();
        let id = ward.ingest();
        flip(&ward.packs(true)[0], place);
        let run = ward.run(&["doctor", "--read-data", "--from-tree", "src", "--yes"]);
        assert_eq!(run.code, Some(0), "{case}: {}{}", run.text(), run.err);
        ward.restores(&id, &ward.world.at("src"), &[]);
        ward.is_sound();
    }
}

/// The object of a snapshot is damaged: nothing heals it, and it is given up only when that is said.
#[test]
fn a_snapshot_that_cannot_be_read_is_given_up_when_that_is_said() {
    let ward = Ward::new();
    let first = ward.ingest();
    let second = ward.ingest();
    flip(&ward.world.at(&format!("repo/snapshots/{first}")), |len| len / 2);
    let run = ward.run(&["doctor", "--yes"]);
    assert_eq!(run.code, Some(3), "{}{}", run.text(), run.err);
    assert!(run.err.contains(&first), "{}", run.err);
    ward.run(&["doctor", "--drop-lost", "--yes"]).ok();
    ward.restores(&second, &ward.world.at("src"), &[]);
    ward.is_sound();
}
