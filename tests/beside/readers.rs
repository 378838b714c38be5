//! Rule 10: a mount, a restore, a listing or a check of snapshots that nobody forgets goes on beside an ingest and a
//! prune, however often these change the index.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::beside::support::{End, Faults, Kept, Source, compare};
use crate::common::mounted::taken_away;
use crate::common::program::{World, shown, with};

struct Beside {
    world: World,
    options: [String; 4],
    kept: Mutex<Vec<Kept>>,
    faults: Faults,
    ended: AtomicBool,
}

impl Beside {
    fn run(&self, what: &str, args: &[&str], codes: &[i32]) {
        self.faults.judge(what, &self.world.run(&with(&self.options, args)), codes);
    }

    fn kept(&self) -> Vec<Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes snapshots, of which every second one stays, and forgets others.
    fn write(&self, end: &End) {
        let mut source = Source::new(&self.world, "src");
        for round in 1.. {
            source.change(&self.world, round);
            let tag = if round % 2 == 0 { "kept" } else { "passing" };
            match source.ingest(&self.world, &self.options, tag) {
                Ok(kept) if tag == "kept" => self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(kept),
                Ok(_) => {}
                Err(run) => self.faults.judge("ingest", &run, &[0]),
            }
            self.run("forget", &["forget", "--tag", "passing", "--keep-last", "1"], &[0]);
            if end.is_reached(round) {
                break;
            }
        }
        self.ended.store(true, Ordering::SeqCst);
    }

    fn until_the_end(&self, mut step: impl FnMut(u64)) {
        let mut number = 0;
        while !self.ended.load(Ordering::SeqCst) {
            step(number);
            number += 1;
        }
    }

    /// Reads the newest snapshot as soon as it is there, and one of the others. Each is a path that nobody read before.
    fn look(&self, mounts: &[PathBuf]) {
        let mut read = 0;
        self.until_the_end(|number| {
            let kept = self.kept();
            let new = kept.len() > read;
            let Some(chosen) = (if new { kept.get(read) } else { kept.get(number as usize % kept.len().max(1)) }) else { return };
            read += usize::from(new);
            for mount in mounts {
                // A mount lists the snapshots once a second.
                let tree = mount.join("ids").join(&chosen.id[..8]);
                let mut tries = 0;
                while !tree.exists() && tries < 6000 {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    tries += 1;
                }
                if let Err(e) = compare(&tree.join(shown(&self.world.at("src")).trim_start_matches('/')), chosen) {
                    self.faults.add(format!("mount: {e}"));
                }
            }
        });
    }

    fn restore(&self) {
        self.until_the_end(|number| {
            let kept = self.kept();
            let Some(chosen) = kept.get(number as usize % kept.len().max(1)) else { return };
            let target = self.world.at(&format!("restored-{number}"));
            let from = format!("{}:{}", chosen.id, shown(&self.world.at("src")));
            self.run("restore", &["restore", &from, "--target", &shown(&target)], &[0]);
            if let Err(e) = compare(&target, chosen) {
                self.faults.add(format!("restore: {e}"));
            }
            let _ = fs::remove_dir_all(target);
        });
    }

    fn list(&self) {
        self.until_the_end(|number| {
            let kept = self.kept();
            let Some(chosen) = kept.get(number as usize % kept.len().max(1)) else { return };
            self.run("ls", &["ls", "-R", &chosen.id], &[0]);
            if number % 4 == 0 {
                self.run("check", &["check", "--read-data"], &[0]);
            }
        });
    }
}

#[test]
fn readers_beside_ingest_and_prune_see_no_error() {
    let world = World::new();
    let options = world.repository();
    let beside = Beside { world, options, kept: Mutex::default(), faults: Faults::default(), ended: AtomicBool::new(false) };
    let mounts = ["all", "more"].map(|name| beside.world.at(name));
    for mount in &mounts {
        fs::create_dir(mount).unwrap();
        beside.world.run(&with(&beside.options, &["mount", &shown(mount)])).ok();
    }
    let end = End::after(16);
    std::thread::scope(|scope| {
        scope.spawn(|| beside.write(&end));
        scope.spawn(|| beside.until_the_end(|_| beside.run("prune", &["prune", "--max-unused", "0"], &[0, 11])));
        scope.spawn(|| beside.look(&mounts));
        scope.spawn(|| beside.restore());
        scope.spawn(|| beside.list());
    });
    for mount in &mounts {
        taken_away(|| beside.world.run(&with(&beside.options, &["umount", &shown(mount)])));
    }
    beside.faults.none();
    for kept in beside.kept() {
        let from = format!("{}:{}", kept.id, shown(&beside.world.at("src")));
        let target = beside.world.at(&format!("end-{}", &kept.id[..8]));
        beside.world.run(&with(&beside.options, &["restore", &from, "--target", &shown(&target)])).ok();
        compare(&target, &kept).unwrap();
    }
}
