//! `yester parity`: packs that are lost or torn come back byte for byte, out of the rest of their groups.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::build::noise;
use crate::common::program;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::{change, files};
use program::{Run, World, shown, with};
use serde_json::Value;

/// A repository, and snapshots of a directory that has one file more each time.
struct Ward {
    world: World,
    options: [String; 4],
    ids: Vec<String>,
}

impl Ward {
    fn new(snapshots: u64) -> Ward {
        let world = World::new();
        let options = world.repository();
        let mut ward = Ward { world, options, ids: Vec::new() };
        for n in 0..snapshots {
            ward.world.file(&format!("src/{n}"), noise(n, 60_000 + 1000 * n as usize));
            let run = ward.run(&["ingest", "--json", "--as", "/data", "src"]).ok();
            ward.ids.push(run.json().last().unwrap()["snapshot_id"].as_str().unwrap().to_owned());
        }
        ward
    }

    fn run(&self, args: &[&str]) -> Run {
        self.world.run(&with(&self.options, args))
    }

    /// The last object that a command prints.
    #[track_caller]
    fn last(&self, args: &[&str]) -> Value {
        self.run(args).ok().json().pop().unwrap()
    }

    fn packs(&self, trees: bool) -> Vec<PathBuf> {
        let kind = if trees { 2 } else { 1 };
        files(&self.world.at("repo/packs")).into_iter().filter(|path| fs::read(path).unwrap()[108] == kind).collect()
    }

    fn rows(&self) -> Vec<PathBuf> {
        files(&self.world.at("repo/parity"))
    }

    /// The packs of each group, as its rows say.
    fn groups(&self) -> Vec<Vec<PathBuf>> {
        self.named_groups().into_values().collect()
    }

    /// The same with the names of the groups.
    fn named_groups(&self) -> BTreeMap<String, Vec<PathBuf>> {
        let mut groups = BTreeMap::new();
        for row in self.rows() {
            let bytes = fs::read(&row).unwrap();
            let len = u32::from_le_bytes(bytes[28..32].try_into().unwrap()) as usize;
            let group = yester::format::parity::decode_parity(&bytes[32..32 + len]).unwrap();
            let path = |id: &yester::model::PackId| self.world.at(&format!("repo/packs/{}/{id}", &id.to_string()[..2]));
            let members: Vec<PathBuf> = group.packs.iter().map(|(id, _)| path(id)).collect();
            groups.insert(row.file_stem().unwrap().to_str().unwrap().to_owned(), members);
        }
        groups
    }

    /// Every snapshot is what was ingested, but for `lost` files.
    #[track_caller]
    fn restores(&self, lost: &[&str]) {
        for (n, id) in self.ids.iter().enumerate() {
            let target = self.world.at("out");
            let _ = fs::remove_dir_all(&target);
            let run = self.run(&["restore", &format!("{id}:/data"), "--target", &shown(&target)]);
            let hit = (0..=n).any(|file| lost.contains(&&*file.to_string()));
            assert_eq!(run.code, Some(if hit { 3 } else { 0 }), "{id}: {}", run.err);
            for file in (0..=n).map(|file| file.to_string()).filter(|file| !lost.contains(&&**file)) {
                let source = fs::read(self.world.at("src").join(&file)).unwrap();
                assert!(fs::read(target.join(&file)).unwrap() == source, "{file} of {id}");
            }
        }
    }

    #[track_caller]
    fn is_sound(&self) {
        self.run(&["check", "--read-data"]).ok();
        assert!(files(&self.world.at("repo/damaged")).is_empty());
    }
}

#[test]
fn any_two_packs_of_a_group_that_are_deleted_come_back_under_their_names() {
    let ward = Ward::new(18);
    let added = ward.last(&["parity", "add", "--json"]);
    assert_eq!((&added["packs_added"], &added["packs_damaged"]), (&36.into(), &Value::Array(Vec::new())), "{added}");
    let before: Vec<(PathBuf, Vec<u8>)> =
        files(&ward.world.at("repo/packs")).into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect();
    let groups = ward.groups();
    assert!(groups.iter().any(|group| group.len() == 16), "{groups:?}");
    for (first, second) in [(0, 1), (3, 15), (7, 8)] {
        for group in &groups {
            for place in [first, second] {
                // Of a small group, as many as there are.
                group
                    .get(place % group.len())
                    .filter(|path| path.exists())
                    .into_iter()
                    .for_each(|path| fs::remove_file(path).unwrap());
            }
        }
        assert_eq!(ward.run(&["check"]).code, Some(1));
        let dry = ward.run(&["doctor", "-n"]).ok();
        assert!(dry.text().contains("by parity"), "{}", dry.text());
        let run = ward.run(&["doctor", "--yes", "--json"]).ok();
        assert_eq!(run.json().pop().unwrap()["sound"], true, "{}", run.text());
        for (path, bytes) in &before {
            assert!(fs::read(path).unwrap() == *bytes, "{path:?}");
        }
    }
    ward.restores(&[]);
    ward.is_sound();
}

#[test]
fn one_percent_of_all_packs_and_all_parity_is_flipped_and_healed() {
    let ward = Ward::new(16);
    ward.run(&["parity", "add"]).ok();
    let mut flipped = 0;
    // Of each group one run of each pack and each row, at places that differ. Packs of trees are so small here that a run
    // takes all there is of them: there, as many objects as may be lost.
    let rows = ward.rows();
    for (stem, group) in ward.named_groups() {
        let rows: Vec<&PathBuf> = rows.iter().filter(|row| row.file_stem().unwrap().to_str() == Some(&stem)).collect();
        let trees = ward.packs(true).contains(&group[0]);
        let hit: Vec<&PathBuf> = match trees {
            true => vec![&group[0], rows[0], rows[1]],
            false => group.iter().chain(rows).collect(),
        };
        for (n, path) in hit.iter().enumerate() {
            change(path, |bytes| flipped += flip(bytes, n, hit.len()));
        }
    }
    let all: usize = files(&ward.world.at("repo")).iter().map(|path| fs::metadata(path).unwrap().len() as usize).sum();
    assert!(flipped * 100 >= all, "{flipped} of {all}");
    fs::rename(ward.world.at("src"), ward.world.at("kept")).unwrap();
    let run = ward.run(&["doctor", "--read-data", "--yes"]).ok();
    assert!(run.text().contains("by parity"), "{}", run.text());
    fs::rename(ward.world.at("kept"), ward.world.at("src")).unwrap();
    ward.restores(&[]);
    ward.is_sound();
    // What was torn stands in new packs. They get parity as all others do.
    ward.run(&["parity", "add"]).ok();
    assert_eq!(ward.last(&["parity", "status", "--json"])["packs_uncovered"], 0);
}

/// Flips a run of 1.2 % at the n-th of so many places.
fn flip(bytes: &mut [u8], n: usize, places: usize) -> usize {
    let (run, room) = (bytes.len() * 12 / 1000 + 1, bytes.len() * 98 / 100);
    let at = room * n / places;
    bytes[at..at + run].iter_mut().for_each(|byte| *byte ^= 0xa5);
    run
}

#[test]
fn of_three_lost_packs_of_one_group_all_is_named_and_the_rest_restored() {
    let ward = Ward::new(16);
    ward.run(&["parity", "add"]).ok();
    // The packs of the files 2, 5 and 9: they grow with the number.
    let mut data = ward.packs(false);
    data.sort_by_key(|path| fs::metadata(path).unwrap().len());
    for n in [2, 5, 9] {
        fs::remove_file(&data[n]).unwrap();
    }
    let run = ward.run(&["doctor", "--yes"]);
    assert_eq!(run.code, Some(3), "{}{}", run.text(), run.err);
    for n in [2, 5, 9] {
        assert!(run.err.contains(&format!("/data/{n}")), "{}", run.err);
    }
    assert!(!run.err.contains("/data/3:"), "{}", run.err);
    ward.restores(&["2", "5", "9"]);
    // With one of them from elsewhere the two others can be computed.
    fs::create_dir(ward.world.at("one")).unwrap();
    fs::copy(ward.world.at("src/5"), ward.world.at("one/5")).unwrap();
    let run = ward.run(&["doctor", "--yes", "--from-tree", "one"]);
    assert_eq!(run.code, Some(3), "{}{}", run.text(), run.err);
    ward.restores(&["2", "9"]);
}

#[test]
fn prune_dissolves_groups_of_which_little_lives() {
    let ward = Ward::new(16);
    ward.run(&["parity", "add"]).ok();
    let before = ward.rows();
    // What only the newest snapshots need: nothing is freed of what the last one has.
    for n in 0..10 {
        fs::remove_file(ward.world.at(&format!("src/{n}"))).unwrap();
    }
    let id = ward.last(&["ingest", "--json", "--as", "/data", "src"])["snapshot_id"].as_str().unwrap().to_owned();
    let pruned = ward.last(&["prune", "--max-repack-size", "0", "--json"]);
    assert_eq!(pruned["parity_groups_dissolved"], 0, "{pruned}");
    for old in &ward.ids {
        ward.run(&["forget", old]).ok();
    }
    let pruned = ward.last(&["prune", "--max-repack-size", "0", "--json"]);
    assert!(pruned["parity_groups_dissolved"].as_u64().unwrap() >= 1, "{pruned}");
    assert!(pruned["parity_deleted"]["bytes"].as_u64().unwrap() > 0, "{pruned}");
    let left = ward.rows();
    assert!(left.iter().all(|row| before.contains(row)) && left.len() < before.len());
    ward.is_sound();
    let added = ward.last(&["parity", "add", "--json"]);
    assert!(added["packs_added"].as_u64().unwrap() > 0, "{added}");
    let status = ward.last(&["parity", "status", "--json"]);
    assert_eq!((&status["packs_uncovered"], &status["groups_with_packs_gone"]), (&0.into(), &0.into()), "{status}");
    // What lives is healed as before.
    fs::remove_file(&ward.packs(false)[0]).unwrap();
    ward.run(&["doctor", "--yes"]).ok();
    let out = shown(&ward.world.at("out"));
    ward.run(&["restore", &format!("{id}:/data"), "--target", &out]).ok();
    ward.is_sound();
}

/// What is done to the bytes of an object.
type Spoil<'a> = &'a dyn Fn(&mut Vec<u8>);

#[test]
fn damaged_parity_is_found_and_made_anew_and_harms_nobody() {
    let ward = Ward::new(4);
    ward.run(&["parity", "add"]).ok();
    let whole: Vec<(PathBuf, Vec<u8>)> = ward.rows().into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect();
    let spoil: [Spoil<'_>; 4] = [
        &|bytes| {
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
        },
        &|bytes| bytes.truncate(bytes.len() / 2),
        &|bytes| bytes.iter_mut().for_each(|byte| *byte = 7),
        &|bytes| bytes.clear(),
    ];
    for (case, spoil) in spoil.iter().enumerate() {
        change(&whole[0].0, spoil);
        assert_eq!(ward.run(&["check", "--read-data"]).code, Some(1), "{case}");
        let dry = ward.run(&["doctor", "--read-data", "-n"]);
        assert!(dry.text().contains("1 row of parity"), "{case}: {}{}", dry.text(), dry.err);
        ward.run(&["doctor", "--read-data", "--yes"]).ok();
        for (path, bytes) in &whole {
            assert!(fs::read(path).unwrap() == *bytes, "{case}: {path:?}");
        }
        ward.is_sound();
    }
    // A row that is not there is no damage, and is made again.
    fs::remove_file(&whole[1].0).unwrap();
    let run = ward.run(&["check"]).ok();
    assert!(run.text().contains("1 without all rows"), "{}", run.text());
    assert_eq!(ward.last(&["parity", "add", "--json"])["groups_completed"], 1);
    assert!(fs::read(&whole[1].0).unwrap() == whole[1].1);
    // Rubbish, under names that nobody gave.
    for leaf in [format!("{}.0", "ab".repeat(32)), format!("{}.7", whole[0].0.file_stem().unwrap().to_str().unwrap())] {
        ward.world.file(&format!("repo/parity/{leaf}"), "rubbish".repeat(100));
    }
    ward.run(&["ingest", "--as", "/data", "src"]).ok();
    assert_eq!(ward.run(&["parity", "status"]).code, Some(3));
    assert_eq!(ward.run(&["check"]).code, Some(1));
    ward.run(&["prune"]).ok();
    ward.is_sound();
    ward.run(&["parity", "status"]).ok();
    ward.restores(&[]);
}

/// What damaged rows may still heal is kept until somebody has read the packs.
#[test]
fn damaged_rows_stay_while_a_pack_of_theirs_is_damaged() {
    let ward = Ward::new(4);
    ward.run(&["parity", "add"]).ok();
    for row in ward.rows() {
        change(&row, |bytes| bytes.truncate(bytes.len() - 1000));
    }
    change(&ward.packs(false)[0], |bytes| {
        let at = bytes.len() / 3;
        bytes[at..at + 4].iter_mut().for_each(|byte| *byte ^= 0x55);
    });
    let run = ward.run(&["doctor", "--yes"]);
    assert!(run.text().contains("left as") || run.err.contains("left as"), "{}{}", run.text(), run.err);
    ward.run(&["doctor", "--read-data", "--yes"]).ok();
    ward.is_sound();
    ward.restores(&[]);
}

#[test]
fn parity_is_made_and_removed_without_a_key_and_a_small_group_grows() {
    let mut ward = Ward::new(5);
    let place = ["--repo".to_owned(), shown(&ward.world.at("repo"))];
    let added = ward.world.run(&with(&place, &["parity", "add", "--no-key", "--json"])).ok().json().pop().unwrap();
    assert_eq!(added["packs_added"], 10, "{added}");
    let again = ward.world.run(&with(&place, &["parity", "add", "--no-key", "--json"])).ok().json().pop().unwrap();
    assert_eq!((&again["groups_added"], &again["bytes_added"]), (&0.into(), &0.into()), "{again}");
    ward.world.file("src/5", noise(5, 65_000));
    ward.run(&["ingest", "--as", "/data", "src"]).ok();
    let status = ward.world.run(&with(&place, &["parity", "status"])).ok();
    assert!(status.text().contains("2 packs") && status.text().contains("without parity"), "{}", status.text());
    // The group of five data packs becomes one of six.
    let added = ward.world.run(&with(&place, &["parity", "add", "--no-key", "--json"])).ok().json().pop().unwrap();
    assert_eq!(added["packs_added"], 2, "{added}");
    assert!(added["groups_superseded"].as_u64().unwrap() >= 1, "{added}");
    assert!(ward.groups().iter().any(|group| group.len() == 6), "{:?}", ward.groups());
    ward.ids.clear();
    ward.is_sound();
    let removed = ward.world.run(&with(&place, &["parity", "remove", "--json"])).ok().json().pop().unwrap();
    assert!(removed["groups"].as_u64().unwrap() > 2, "{removed}");
    assert!(ward.rows().is_empty());
    ward.is_sound();
}
