//! What is found damaged is remembered in the repository: the next ingest stores it again, prune removes it, and the
//! repository is whole. Every step is one that a message of the program names.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::build::noise;
use crate::common::program;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use super::{change, files};
use program::{Run, World, shown, with};

fn flip_in_the_middle(bytes: &mut [u8]) {
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
}

struct Home {
    world: World,
    options: [String; 4],
}

impl Home {
    /// A repository, and two files that count as unchanged from the second ingest on.
    fn new() -> Home {
        let world = World::new();
        let options = world.repository();
        let home = Home { world, options };
        home.write("big", &noise(1, 300_000));
        home.write("dir/small", &noise(2, 5_000));
        home
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.world.file(&format!("src/{name}"), content);
        let file = fs::File::options().write(true).open(path).unwrap();
        static WRITES: AtomicU64 = AtomicU64::new(1_000_000_000);
        file.set_modified(UNIX_EPOCH + Duration::from_secs(WRITES.fetch_add(1, Ordering::Relaxed))).unwrap();
    }

    fn run(&self, args: &[&str]) -> Run {
        self.world.run(&with(&self.options, args))
    }

    /// Takes a snapshot; answers its id.
    #[track_caller]
    fn ingest(&self) -> String {
        let run = self.run(&["ingest", "--ignore-ctime", "--json", "src"]).ok();
        run.json().last().unwrap()["snapshot_id"].as_str().unwrap().to_owned()
    }

    /// A snapshot can be restored, and holds what the source holds.
    #[track_caller]
    fn restores(&self, id: &str) {
        let target = self.world.at("out");
        let _ = fs::remove_dir_all(&target);
        self.run(&["restore", &format!("{id}:{}", shown(&self.world.at("src"))), "--target", &shown(&target)]).ok();
        for path in files(&self.world.at("src")) {
            let name = path.strip_prefix(self.world.at("src")).unwrap();
            assert!(fs::read(target.join(name)).unwrap() == fs::read(&path).unwrap(), "{name:?} of {id}");
        }
    }

    /// The packs, the one of data first.
    fn packs(&self) -> Vec<PathBuf> {
        let mut packs = files(&self.world.at("repo/packs"));
        packs.sort_by_key(|path| fs::read(path).unwrap()[108]);
        packs
    }

    fn records(&self) -> usize {
        files(&self.world.at("repo/damaged")).len()
    }
}

/// Its name, and where it is in a pack of a length.
type Place = (&'static str, fn(usize) -> usize);

/// Where a pack is damaged.
const PLACES: [Place; 6] = [
    ("its salt", |_| 30),
    ("its session", |_| 80),
    ("a frame", |len| len / 2),
    ("its directory", |len| len - 70),
    ("its tail", |len| len - 40),
    ("its checksum", |len| len - 1),
];

#[test]
fn a_flipped_byte_is_found_healed_and_removed() {
    for which in 0..2 {
        for (place, at) in PLACES {
            let home = Home::new();
            let first = home.ingest();
            home.run(&["check", "--read-data"]).ok();
            change(&home.packs()[which], |bytes| {
                let at = at(bytes.len());
                bytes[at] ^= 1;
            });
            let case = format!("{place} of pack {which}");
            // It is found, and what the message says comes true.
            let run = home.run(&["check", "--read-data"]);
            assert_eq!(run.code, Some(1), "{case}: {}", run.err);
            let lost = run.err.contains("an ingest of the same files stores them again");
            assert!(lost || run.err.contains("nothing of any snapshot is lost"), "{case}: {}", run.err);
            assert_eq!(home.records(), 1, "{case}");
            // Everybody knows from now on, without reading all data.
            let run = home.run(&["check"]);
            assert_eq!(run.code, Some(1), "{case}: {}", run.err);
            assert!(run.err.contains("yester prune"), "{case}: {}", run.err);
            assert_eq!(home.records(), 1, "{case}: it is written down once");
            let second = home.ingest();
            let run = home.run(&["check"]);
            assert_eq!(run.code, Some(1), "{case}: {}", run.err);
            home.restores(&second);
            assert!(!run.err.contains(&format!("hit: {}", &second[..8])), "{case}: {}", run.err);
            // Above what was given are directories that have changed since: their old pages cannot be made again.
            let gone = run.err.contains(&format!("hit: {}", &first[..8]));
            assert!(which == 1 || !gone, "{case}: {}", run.err);
            if gone {
                let run = home.run(&["prune"]);
                assert_eq!(run.code, Some(1), "{case}: {}", run.err);
                assert!(run.err.contains("nothing was deleted") && run.err.contains(&first[..8]), "{case}: {}", run.err);
                home.run(&["forget", &first]).ok();
            } else {
                // What both have in common is whole in both.
                home.restores(&first);
            }
            home.run(&["prune"]).ok();
            assert_eq!(home.records(), 0, "{case}");
            home.run(&["check", "--read-data"]).ok();
            home.restores(&second);
            if !gone {
                home.restores(&first);
            }
            let run = home.run(&["prune", "--json"]).ok();
            assert_eq!(run.json().last().unwrap()["bytes_freed"], 0, "{case}");
        }
    }
}

#[test]
fn what_cannot_be_stored_again_stays_and_is_said_each_time_without_work() {
    let home = Home::new();
    let first = home.ingest();
    change(&home.packs()[0], |bytes| flip_in_the_middle(bytes));
    assert_eq!(home.run(&["check", "--read-data"]).code, Some(1));
    // The file that is damaged is gone, another is there, and a snapshot can be freed.
    fs::remove_file(home.world.at("src/big")).unwrap();
    home.write("other", &noise(3, 400_000));
    let second = home.ingest();
    home.restores(&second);
    fs::remove_file(home.world.at("src/other")).unwrap();
    let third = home.ingest();
    home.run(&["forget", &second]).ok();
    let before = files(&home.world.at("repo/packs"));
    let run = home.run(&["prune", "--json", "--max-unused", "0"]);
    assert_eq!(run.code, Some(3), "{}", run.err);
    assert!(run.err.contains("packs/") && run.err.contains("cannot be freed") && run.err.contains("yester check"), "{}", run.err);
    let summary = run.json().pop().unwrap();
    assert_eq!(summary["packs_stuck"]["count"], 1, "{summary}");
    // Everything else was freed.
    assert!(summary["packs_deleted"]["bytes"].as_u64().unwrap() > 400_000, "{summary}");
    let after = files(&home.world.at("repo/packs"));
    assert!(after.len() < before.len());
    home.restores(&third);
    // Again: the same is said, and nothing is written or deleted.
    let run = home.run(&["prune", "--json", "--max-unused", "0"]);
    assert_eq!(run.code, Some(3), "{}", run.err);
    let summary = run.json().pop().unwrap();
    assert_eq!((&summary["bytes_freed"], &summary["written"]["bytes"]), (&0.into(), &0.into()), "{summary}");
    assert_eq!(files(&home.world.at("repo/packs")), after);
    let run = home.run(&["check"]);
    assert!(run.err.contains(&format!("hit: {}", &first[..8])) && run.err.contains("/src/big"), "{}", run.err);
    assert!(!run.err.contains(&format!("hit: {}", &third[..8])), "{}", run.err);
    // The way out that is named.
    home.run(&["forget", &first]).ok();
    home.run(&["prune", "--max-unused", "0"]).ok();
    home.run(&["check", "--read-data"]).ok();
    assert_eq!(home.records(), 0);
}

/// Nobody has checked: the prune that wants to repack meets the damage itself.
#[test]
fn a_prune_that_meets_damage_says_so_and_does_not_work_in_vain() {
    let home = Home::new();
    home.write("goes", &noise(4, 300_000));
    let first = home.ingest();
    fs::remove_file(home.world.at("src/goes")).unwrap();
    let second = home.ingest();
    home.run(&["forget", &first]).ok();
    // At the beginning of the pack there is what stays.
    change(&home.packs()[0], |bytes| bytes[200] ^= 1);
    let size = |home: &Home| files(&home.world.at("repo/packs")).iter().map(|p| fs::metadata(p).unwrap().len()).sum::<u64>();
    let before = size(&home);
    let run = home.run(&["prune", "--max-unused", "0"]);
    assert_eq!(run.code, Some(3), "{}{}", run.text(), run.err);
    assert!(run.err.contains("cannot be freed"), "{}", run.err);
    assert!(size(&home) <= before, "{before} bytes of packs became {}", size(&home));
    assert_eq!(home.records(), 1);
    let (before, packs) = (size(&home), files(&home.world.at("repo/packs")));
    let run = home.run(&["prune", "--max-unused", "0"]);
    assert_eq!(run.code, Some(3), "{}", run.err);
    assert_eq!((size(&home), files(&home.world.at("repo/packs"))), (before, packs));
    assert!(run.text().contains("will free 0 B"), "{}", run.text());
    // An ingest stores it again, and then it can go.
    let third = home.ingest();
    home.restores(&third);
    home.restores(&second);
    home.run(&["prune", "--max-unused", "0"]).ok();
    home.run(&["check", "--read-data"]).ok();
    home.restores(&second);
}

/// A base of a difference, or a page of the parent's tree, that is damaged: an ingest meets it while it reads.
#[test]
fn an_ingest_that_meets_damage_says_so_and_commits_what_is_whole() {
    for which in 0..2 {
        let home = Home::new();
        let first = home.ingest();
        change(&home.packs()[which], |bytes| flip_in_the_middle(bytes));
        // A part of the file is new: its frame would be a difference from the damaged one.
        let mut content = noise(1, 300_000);
        content[100_000] ^= 1;
        home.write("big", &content);
        let run = home.run(&["ingest", "--ignore-ctime", "--json", "src"]).ok();
        assert!(run.err.contains("packs/") && run.err.contains("damaged"), "{which}: {}", run.err);
        assert_eq!(home.records(), 1, "{which}");
        let second = run.json().last().unwrap()["snapshot_id"].as_str().unwrap().to_owned();
        home.restores(&second);
        let run = home.run(&["check"]);
        assert!(!run.err.contains(&format!("hit: {}", &second[..8])), "{which}: {}", run.err);
        home.run(&["forget", &first]).ok();
        home.run(&["prune"]).ok();
        home.run(&["check", "--read-data"]).ok();
        assert_eq!(home.records(), 0);
        home.restores(&second);
    }
}

/// Who reads does not have to write, and who may write helps the next ingest.
#[test]
fn a_restore_that_meets_damage_writes_it_down() {
    let home = Home::new();
    let first = home.ingest();
    change(&home.packs()[0], |bytes| flip_in_the_middle(bytes));
    let run = home.run(&["restore", &first, "--target", &shown(&home.world.at("out"))]);
    assert_eq!(run.code, Some(3), "{}", run.err);
    assert_eq!(home.records(), 1);
    let second = home.ingest();
    home.restores(&second);
    home.restores(&first);
}

/// Counts are of all that there is, whatever a policy looked at.
#[test]
fn what_stays_is_counted_in_all_the_repository() {
    let home = Home::new();
    home.ingest();
    home.run(&["ingest", "--host", "other", "src"]).ok();
    let run = home.run(&["forget", "--host", "other", "--keep-last", "1"]).ok();
    assert!(run.text().contains("forgot 0 snapshots; 2 stay"), "{}", run.text());
}

/// What was damaged and was put back is damaged no more.
#[test]
fn a_pack_that_was_mended_is_taken_off_the_list() {
    let home = Home::new();
    let first = home.ingest();
    let pack = &home.packs()[0];
    let whole = fs::read(pack).unwrap();
    change(pack, |bytes| bytes[200] ^= 1);
    assert_eq!(home.run(&["check", "--read-data"]).code, Some(1));
    change(pack, |bytes| *bytes = whole);
    assert_eq!(home.run(&["check"]).code, Some(1), "that it was mended is not known yet");
    home.run(&["check", "--read-data"]).ok();
    assert_eq!(home.records(), 0);
    home.run(&["check"]).ok();
    home.restores(&first);
}

/// Somebody who may not write can check all the same.
#[test]
fn a_record_that_cannot_be_opened_says_nothing_and_goes_with_a_prune() {
    let home = Home::new();
    home.ingest();
    let record = home.world.file(&format!("repo/damaged/{}", "ab".repeat(32)), "garbage");
    let run = home.run(&["check"]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.err.contains("damaged/abab") && run.err.contains("yester prune") && run.err.contains("removes it"),
        "{}",
        run.err
    );
    let second = home.ingest();
    home.restores(&second);
    home.run(&["prune"]).ok();
    assert!(!record.exists());
    home.run(&["check"]).ok();
}

impl Home {
    /// Runs a command that must end.
    #[track_caller]
    fn ends(&self, args: &[&str]) -> Run {
        let mut command = self.world.command(&with(&self.options, args));
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        let id = child.id();
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(child.wait_with_output()));
        let output = wait.recv_timeout(Duration::from_secs(900)).unwrap_or_else(|_| {
            let _ = std::process::Command::new("kill").args(["-9", &id.to_string()]).status();
            panic!("{args:?} waits for ever");
        });
        let output = output.unwrap();
        Run { code: output.status.code(), out: output.stdout, err: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    fn segments(&self) -> Vec<PathBuf> {
        files(&self.world.at("repo/index"))
    }
}

/// Another pack's bytes in a pack's file: both are named, and every command ends.
#[test]
fn a_pack_that_holds_another_ones_bytes_is_named_and_nothing_hangs() {
    for both in [false, true] {
        let home = Home::new();
        home.ingest();
        let mut content = noise(1, 300_000);
        content[100_000] ^= 1;
        home.write("big", &content);
        let second = home.ingest();
        let data: Vec<PathBuf> = home.packs().into_iter().filter(|path| fs::read(path).unwrap()[108] == 1).collect();
        assert_eq!(data.len(), 2);
        let (one, two) = (fs::read(&data[0]).unwrap(), fs::read(&data[1]).unwrap());
        change(&data[0], |bytes| *bytes = two);
        if both {
            change(&data[1], |bytes| *bytes = one);
        }
        let run = home.ends(&["check", "--read-data"]);
        assert_eq!(run.code, Some(1), "{}", run.err);
        let name = |at: usize| data[at].file_name().unwrap().to_str().unwrap().to_owned();
        assert!(
            run.err.contains(&name(0))
                && run.err.contains(&format!("holds the bytes of another pack: packs/{}/{}", &name(1)[..2], name(1))),
            "{}",
            run.err
        );
        let target = shown(&home.world.at("out"));
        home.ends(&["restore", &second, "--target", &target]);
        home.ends(&["repair", "index"]);
        home.ends(&["prune"]);
        home.ends(&["check"]);
        let run = home.ends(&["ingest", "--ignore-ctime", "--json", "src"]).ok();
        let third = run.json().last().unwrap()["snapshot_id"].as_str().unwrap().to_owned();
        home.restores(&third);
        // The first version of the file is in no source any more.
        home.ends(&["prune"]);
        home.ends(&["check", "--read-data"]);
        home.restores(&third);
    }
}

/// Reading never needs a repair: whatever of the index is damaged, packs say themselves what they hold.
#[test]
fn a_damaged_segment_stops_nobody() {
    let places: [fn(usize) -> usize; 8] =
        [|_| 10, |_| 40, |_| 70, |_| 90, |len| len / 3, |len| len / 2, |len| len - 100, |len| len - 40];
    for (case, place) in places.iter().enumerate() {
        let home = Home::new();
        let first = home.ingest();
        let segment = &home.segments()[0];
        change(segment, |bytes| {
            let at = place(bytes.len());
            bytes[at] ^= 2;
        });
        let segments = home.segments();
        let packs = files(&home.world.at("repo/packs"));
        home.restores(&first);
        home.run(&["ls", &first]).ok();
        home.run(&["cat", &format!("{first}:{}", shown(&home.world.at("src/big")))]).ok();
        assert_eq!(home.segments(), segments, "{case}: nothing was written");
        let run = home.run(&["check"]);
        assert_eq!(run.code, Some(1), "{case}: {}", run.err);
        assert!(run.err.contains("yester repair index") && !run.err.contains("hit:"), "{case}: {}", run.err);
        let second = home.ingest();
        home.restores(&second);
        home.restores(&first);
        home.run(&["repair", "index"]).ok();
        home.run(&["check", "--read-data"]).ok();
        home.restores(&first);
        home.run(&["prune"]).ok();
        home.run(&["check", "--read-data"]).ok();
        home.restores(&first);
        home.restores(&second);
        assert!(!packs.is_empty() && !segment.exists(), "{case}: prune removes what was replaced");
    }
}

/// What nobody with the key has made, and names itself a segment: it counts for nothing and goes with a prune.
#[test]
fn a_made_up_segment_counts_for_nothing() {
    let header = |home: &Home, version: u8| {
        let mut bytes = fs::read(&home.segments()[0]).unwrap();
        bytes.truncate(28);
        bytes[10] = version;
        bytes
    };
    for case in 0..3 {
        let home = Home::new();
        let first = home.ingest();
        let mut body = match case {
            0 => b"rubbish".to_vec(),
            1 => header(&home, 1),
            _ => header(&home, 2),
        };
        body.extend_from_slice(&noise(9, 300));
        let id = *blake3::hash(&body).as_bytes();
        body.extend_from_slice(&id);
        let hex: String = id.iter().map(|b| format!("{b:02x}")).collect();
        let made_up = home.world.file(&format!("repo/index/{hex}"), &body);
        home.restores(&first);
        let run = home.run(&["ls", &first]).ok();
        assert!(run.err.contains("ignored") && run.err.contains("yester prune removes it"), "{case}: {}", run.err);
        assert_eq!(home.run(&["check"]).code, Some(1));
        let second = home.ingest();
        home.restores(&second);
        home.run(&["prune"]).ok();
        assert!(!made_up.exists());
        home.run(&["check", "--read-data"]).ok();
        home.restores(&first);
        // A repair gets rid of it as well.
        home.world.file(&format!("repo/index/{hex}"), &body);
        home.run(&["repair", "index"]).ok();
        home.run(&["check"]).ok();
        home.restores(&second);
    }
}

/// The index is made anew from packs only after these were read.
#[test]
fn a_repair_of_the_index_believes_no_pack_that_it_did_not_read() {
    let home = Home::new();
    let first = home.ingest();
    for segment in home.segments() {
        fs::remove_file(segment).unwrap();
    }
    change(&home.packs()[0], |bytes| flip_in_the_middle(bytes));
    let run = home.run(&["repair", "index"]);
    assert_eq!(run.code, Some(3), "{}", run.err);
    assert!(run.err.contains("packs/") && run.err.contains("yester check"), "{}", run.err);
    assert_eq!(home.records(), 1);
    let run = home.run(&["check"]);
    assert_eq!(run.code, Some(1), "{}", run.err);
    assert!(run.err.contains(&format!("hit: {}", &first[..8])) && run.err.contains("/src/big"), "{}", run.err);
    let second = home.ingest();
    home.restores(&second);
    home.restores(&first);
    home.run(&["prune"]).ok();
    home.run(&["check", "--read-data"]).ok();
}
