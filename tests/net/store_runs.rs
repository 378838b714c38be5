//! Whole runs of the program on an object store: killed at every request, several at once, with credentials that change.

use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::common::program::{World, shown};
use crate::common::s3::{Fault, S3Server};
use crate::net::program::{Variables, run, variables};
use crate::net::store::store_variables;
use crate::net::support::noise;

fn source(world: &World, seed: u8) {
    for n in 0..20 {
        world.file(&format!("src/{n}"), noise(seed.wrapping_add(n), 20_000 * usize::from(n)));
    }
}

/// An ingest that is killed when its request of each number comes, before or after that is done, leaves nothing that has
/// to be mended.
#[test]
fn ingests_that_are_killed_at_any_request_leave_nothing_to_mend() {
    let (world, server) = (World::new(), S3Server::start());
    let variables = store_variables(&server, &world);
    source(&world, 0);
    run(&world, &variables, &["init"]).ok();
    run(&world, &variables, &["ingest", "-q", "src"]).ok();
    let mut killed = 0;
    for number in 0..24 {
        source(&world, number as u8 + 1);
        server.take();
        let child: Arc<Mutex<Option<Child>>> = Arc::default();
        let victim = child.clone();
        server.script(move |seen| {
            if seen.number != number {
                return None;
            }
            let mut victim = victim.lock();
            let child = victim.as_mut()?;
            child.kill().unwrap();
            child.wait().unwrap();
            Some(if number % 2 == 0 { Fault::Cut } else { Fault::CutAfter })
        });
        {
            // The script waits for this.
            let mut child = child.lock();
            let mut command = world.command(&["ingest", "-q", "src"]);
            *child = Some(command.envs(variables.iter().cloned()).spawn().unwrap());
        }
        let status = loop {
            if let Some(status) = child.lock().as_mut().unwrap().try_wait().unwrap() {
                break status;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        server.fair();
        if status.success() {
            break;
        }
        killed += 1;
        if number % 6 == 5 {
            run(&world, &variables, &["forget", "-q", "--keep-last", "1", "--prune"]).ok();
            run(&world, &variables, &["check", "--read-data"]).ok();
        }
    }
    assert!(killed > 15, "only {killed} ingests were killed");
    run(&world, &variables, &["ingest", "-q", "src"]).ok();
    run(&world, &variables, &["prune", "-q"]).ok();
    run(&world, &variables, &["check", "--read-data"]).ok();
    let src = shown(&world.at("src"));
    run(&world, &variables, &["restore", "-q", &format!("latest:{src}"), "--target", "out"]).ok();
    assert!(std::fs::read(world.at("out/19")).unwrap() == std::fs::read(world.at("src/19")).unwrap());
}

#[test]
fn two_writers_and_a_pruner_at_once() {
    let (world, server) = (World::new(), S3Server::start());
    let variables = store_variables(&server, &world);
    run(&world, &variables, &["init"]).ok();
    for round in 0..3u8 {
        source(&world, round);
        world.file("other/file", noise(100 + round, 300_000));
        let commands: [&[&str]; 3] = [
            &["ingest", "-q", "src"],
            &["ingest", "-q", "other"],
            &["forget", "-q", "--keep-last", "1", "--prune", "--wait", "5m"],
        ];
        std::thread::scope(|scope| {
            for args in commands {
                let (world, variables) = (&world, &variables);
                scope.spawn(move || run(world, variables, args).ok());
            }
        });
        run(&world, &variables, &["check", "--read-data"]).ok();
    }
}

/// Keys in `~/.aws/credentials` that expire in mid-run and are renewed there are read again.
#[test]
fn credentials_that_are_renewed_in_their_file_are_read_again() {
    let (world, server) = (World::new(), S3Server::start());
    let (repo, key) = (server.address("web"), shown(&world.at("key")));
    let variables: Variables =
        variables(&[("YESTER_REPO", &repo), ("YESTER_KEY_FILE", &key), ("AWS_PROFILE", "backup"), ("AWS_REGION", "r")]);
    let refused = run(&world, &variables, &["init"]);
    refused.fails(12, &["profile \"backup\"", "no aws_access_key_id"]);
    let write = |path: &std::path::Path, id: &str| {
        let text =
            format!("[default]\naws_access_key_id = NONE\n[backup]\naws_access_key_id = {id}\naws_secret_access_key = S\n");
        // In one step, as those do it that renew keys while others read them.
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path)).unwrap();
    };
    let path = world.file(".aws/credentials", "");
    write(&path, "OLD");
    source(&world, 1);
    run(&world, &variables, &["init"]).ok();
    assert!(server.take().iter().all(|seen| seen.access == "OLD"));
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    server.script(move |seen| {
        if seen.number < 10 || seen.access != "OLD" {
            return None;
        }
        if count.fetch_add(1, Ordering::SeqCst) == 2 {
            write(&path, "RENEWED");
        }
        Some(Fault::Refused(403, "ExpiredToken"))
    });
    run(&world, &variables, &["ingest", "-q", "src"]).ok();
    assert!(refused.load(Ordering::SeqCst) > 2, "nothing expired");
    assert!(server.take().iter().any(|seen| seen.access == "RENEWED"));
    server.fair();
    run(&world, &variables, &["check", "--read-data"]).ok();
}
