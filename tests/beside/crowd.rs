//! Eight processes at once: no prune, check or listing takes what another process does for damage.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::beside::support::{End, Faults, Kept, Source, compare};
use crate::common::program::{World, shown, with};

/// Writers, each with a source and a host of its own.
const WRITERS: usize = 2;

#[test]
fn eight_processes_do_not_take_each_other_for_damage() {
    let world = World::new();
    let options = world.repository();
    let (faults, working, kept) = (Faults::default(), AtomicUsize::new(WRITERS), Mutex::new(Vec::<(usize, Kept)>::new()));
    let end = End::after(12);
    let run = |what: &str, args: &[&str], codes: &[i32]| faults.judge(what, &world.run(&with(&options, args)), codes);
    let writer = |number: usize| {
        let name = format!("src{number}");
        let mut source = Source::new(&world, &name);
        for round in 1.. {
            source.change(&world, round);
            let tag = format!("{}{number}", if round % 3 == 0 { "kept" } else { "passing" });
            match source.ingest(&world, &options, &tag) {
                Ok(snapshot) if tag.starts_with("kept") => kept.lock().unwrap().push((number, snapshot)),
                Ok(_) => {}
                Err(run) => faults.judge("ingest", &run, &[0]),
            }
            run("forget", &["forget", "--tag", &format!("passing{number}"), "--keep-last", "1"], &[0]);
            if end.is_reached(round) {
                break;
            }
        }
        working.fetch_sub(1, Ordering::SeqCst);
    };
    let until_the_end = |step: &dyn Fn(usize)| {
        let mut number = 0;
        while working.load(Ordering::SeqCst) > 0 {
            step(number);
            number += 1;
        }
    };
    let restore = |number: usize| {
        let known = kept.lock().unwrap().clone();
        let Some((of, chosen)) = known.get(number % known.len().max(1)) else { return };
        let target = world.at(&format!("restored-{number}"));
        let from = format!("{}:{}", chosen.id, shown(&world.at(&format!("src{of}"))));
        run("restore", &["restore", &from, "--target", &shown(&target)], &[0]);
        compare(&target, chosen).unwrap_or_else(|e| faults.add(format!("restore: {e}")));
        let _ = fs::remove_dir_all(target);
    };
    std::thread::scope(|scope| {
        (0..WRITERS).for_each(|number| drop(scope.spawn(move || writer(number))));
        for _ in 0..2 {
            scope.spawn(|| until_the_end(&|_| run("prune", &["prune", "--max-unused", "0"], &[0, 11])));
        }
        scope.spawn(|| until_the_end(&|_| run("plan", &["prune", "-n"], &[0, 11])));
        scope.spawn(|| until_the_end(&|_| run("snapshots", &["snapshots"], &[0])));
        scope.spawn(|| until_the_end(&|_| run("check", &["check"], &[0])));
        scope.spawn(|| until_the_end(&restore));
    });
    faults.none();
    run("check", &["check", "--read-data"], &[0]);
    faults.none();
}

/// Two prunes of a repository with garbage, begun together: each ends well, or says that the other is at work.
#[test]
fn two_prunes_at_once() {
    let end = End::after(5);
    let world = World::new();
    let options = world.repository();
    let faults = Faults::default();
    let mut source = Source::new(&world, "src");
    for round in 1.. {
        let mut ids = Vec::new();
        for part in 0..3 {
            source.change(&world, round * 10 + part);
            ids.push(source.ingest(&world, &options, "some").map_err(|run| format!("{run:?}")).unwrap());
        }
        world.run(&with(&options, &["forget", "--keep-last", "1"])).ok();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let run = || faults.judge("prune", &world.run(&with(&options, &["prune", "--max-unused", "0"])), &[0, 11]);
                scope.spawn(run);
            }
        });
        faults.judge("prune", &world.run(&with(&options, &["prune", "--max-unused", "0"])), &[0]);
        faults.judge("check", &world.run(&with(&options, &["check", "--read-data"])), &[0]);
        let target = world.at("restored");
        let from = format!("latest:{}", shown(&world.at("src")));
        world.run(&with(&options, &["restore", &from, "--target", &shown(&target), "--delete"])).ok();
        compare(&target, ids.last().unwrap()).unwrap();
        if end.is_reached(round) {
            break;
        }
    }
    faults.none();
}
