//! A store that is far away: how many times a command waits for it, what a disk of this machine saves, and that a mount
//! stays usable.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use yester::format::pack::PREAMBLE;
use yester::jobs::credential::{self, CredentialOrigin};
use yester::model::SnapshotId;
use yester::remote::s3::S3Storage;
use yester::repo::{Repository, snapshots};

use crate::common::mounted::{taken_away, until};
use crate::common::program::{World, shown};
use crate::common::s3::{Kind, S3Server, Seen};
use crate::net::link::Link;
use crate::net::program::{Variables, run, variables};
use crate::net::proxy::Proxy;
use crate::net::store::{address, options, store_variables};
use crate::net::support::{FULL, Server, noise};

/// Commits more snapshots, like the one that is there.
fn more_snapshots(world: &World, server: &S3Server, count: usize) {
    let storage = Arc::new(S3Storage::open(&address(&server.address("web")), &options()).unwrap());
    let key = credential::load(&CredentialOrigin::KeyFile(world.at("key"))).unwrap();
    let repo = Repository::open(storage, &key).unwrap();
    let first = snapshots::list(&repo).unwrap().remove(0);
    for _ in 0..count {
        let mut next = first.clone();
        next.id = SnapshotId::random().unwrap();
        next.time.secs += 1;
        assert!(snapshots::commit(&repo, &next).unwrap());
    }
}

/// A repository with one snapshot of files, small ones and long ones, and its source.
fn filled(world: &World, variables: &Variables) -> PathBuf {
    for n in 0..60u8 {
        world.file(&format!("src/{}/{n}", n % 5), noise(n, 20_000));
    }
    for n in 0..3u8 {
        world.file(&format!("src/long{n}"), noise(200 + n, 6 << 20));
    }
    let source = world.at("src");
    run(world, variables, &["init"]).ok();
    run(world, variables, &["ingest", "-q", "--no-cache", &shown(&source)]).ok();
    source
}

/// Mounts, does something in `latest`, and unmounts.
fn mounted(world: &World, variables: &Variables, more: &[&str], work: impl FnOnce(&Path)) {
    let past = world.at("past");
    let _ = fs::create_dir(&past);
    run(world, variables, &[&["mount", &shown(&past)], more].concat()).ok();
    work(&past.join("latest"));
    taken_away(|| run(world, variables, &["umount", &shown(&past)]));
}

/// Copies a tree with `cp -a` and compares it with what it must be.
fn copied(world: &World, from: &Path, source: &Path) {
    let to = world.at("copy");
    let _ = fs::remove_dir_all(&to);
    let copy = Command::new("cp").arg("-a").args([from, &to]).output().unwrap();
    assert!(copy.status.success(), "{}", String::from_utf8_lossy(&copy.stderr));
    same(&to, source);
}

#[track_caller]
fn same(a: &Path, b: &Path) {
    let output = Command::new("diff").args(["-r", "--no-dereference"]).args([a, b]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn inside(latest: &Path, source: &Path) -> PathBuf {
    latest.join(source.strip_prefix("/").unwrap())
}

fn packs(seen: &[Seen]) -> usize {
    seen.iter().filter(|seen| seen.kind == Kind::Get && seen.key.contains("/packs/")).count()
}

/// The directory of the cache of the only repository.
fn cache(world: &World) -> PathBuf {
    fs::read_dir(world.at(".cache/yester")).unwrap().next().unwrap().unwrap().path()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).map(|entries| entries.map(|entry| entry.unwrap().path()).collect());
    let mut files: Vec<PathBuf> = entries.unwrap_or_default();
    files.sort();
    files
}

#[test]
fn a_mount_waits_as_often_whatever_the_number_of_snapshots() {
    let (world, server) = (World::new(), S3Server::start());
    let variables = store_variables(&server, &world);
    world.file("src/a", noise(1, 100_000));
    run(&world, &variables, &["init"]).ok();
    run(&world, &variables, &["ingest", "-q", "--no-cache", &shown(&world.at("src"))]).ok();
    // So that requests that could go together do.
    let proxy = Proxy::over(server.port, Link::new(Duration::from_millis(20), 1_000_000_000));
    let over = server.address("web").replace(&server.port.to_string(), &proxy.port.to_string());
    let far: Variables = variables
        .iter()
        .map(|(name, value)| (name.clone(), if name == "YESTER_REPO" { over.clone() } else { value.clone() }))
        .collect();
    let mut before = 1;
    let mut asked = Vec::new();
    for count in [10, 500] {
        more_snapshots(&world, &server, count - before);
        before = count;
        let _ = fs::remove_dir_all(world.at(".cache"));
        for warm in [false, true] {
            let _ = (server.take(), proxy.most_waiting());
            mounted(&world, &far, &[], |latest| assert_eq!(fs::read_dir(latest).unwrap().count(), 1));
            let (seen, waiting) = (server.take(), proxy.most_waiting());
            let is_snapshot = |seen: &&Seen| seen.kind == Kind::Get && seen.key.contains("/snapshots/");
            let (snapshots, others): (Vec<&Seen>, Vec<&Seen>) = seen.iter().partition(is_snapshot);
            assert_eq!(snapshots.len(), if warm { 0 } else { count }, "each is read once, and none that is on the disk");
            assert!(warm || count == 10 || waiting >= 8, "{count} snapshots: {waiting} requests at once");
            asked.push((warm, others.len()));
        }
    }
    println!("requests but for snapshots: {asked:?}");
    assert_eq!(asked[0], asked[2], "of a cold cache");
    assert_eq!(asked[1], asked[3], "of a warm cache");
    assert!(asked[0].1 <= 20 && asked[1].1 <= 14, "{asked:?}");
}

#[test]
fn what_was_read_once_is_read_without_the_store() {
    let (world, server) = (World::new(), S3Server::start());
    let variables = store_variables(&server, &world);
    let source = filled(&world, &variables);
    server.take();
    for first in [true, false] {
        mounted(&world, &variables, &[], |latest| copied(&world, &inside(latest, &source), &source));
        let read = packs(&server.take());
        assert_eq!(read > 0, first, "{read} requests for data");
    }
    // Every command that reads.
    let (back, what) = (shown(&world.at("back")), format!("latest:{}", source.display()));
    run(&world, &variables, &["restore", "-q", &what, "--target", &back]).ok();
    same(Path::new(&back), &source);
    assert!(run(&world, &variables, &["cat", &format!("{what}/long1")]).ok().out == noise(201, 6 << 20));
    assert_eq!(packs(&server.take()), 0);
    // Only who it is of reads it, and it is what the store has, byte for byte.
    let data = cache(&world).join("data");
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o7777, 0o700);
    let objects = server.save();
    for file in files(&data) {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        let (bytes, name) = (fs::read(&file).unwrap(), file.file_name().unwrap().to_str().unwrap().to_owned());
        let pack = &objects.iter().find(|(key, _)| key.ends_with(&name)).unwrap().1.bytes;
        assert!(bytes.iter().zip(pack.iter()).all(|(kept, stored)| *kept == 0 || kept == stored), "not what the store has");
    }
    // And no other command believes it of the store.
    run(&world, &variables, &["check", "-q", "--read-data"]).ok();
    assert!(packs(&server.take()) > 0, "a check must read what the store has");
    run(&world, &variables, &["restore", "-q", "--cache-size", "0", &what, "--target", &shown(&world.at("back2"))]).ok();
    assert!(packs(&server.take()) > 0 && files(&data).is_empty());
}

#[test]
fn a_cache_may_hold_anything() {
    let (world, server) = (World::new(), S3Server::start());
    let variables = store_variables(&server, &world);
    let source = filled(&world, &variables);
    // A second pack, and shorter.
    world.file("src/later", noise(99, 600_000));
    run(&world, &variables, &["ingest", "-q", &shown(&source)]).ok();
    let what = format!("latest:{}", source.display());
    let restored = || {
        let back = world.at("back");
        let _ = fs::remove_dir_all(&back);
        run(&world, &variables, &["restore", "-q", &what, "--target", &shown(&back)]).ok();
        same(&back, &source);
    };
    restored();
    let zeros = |bytes: &mut [u8]| bytes.fill(0);
    // A frame of which a part was written; bits; another length; another pack.
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>));
    let changes: [Change; 5] = [
        ("torn", &|bytes| bytes.chunks_mut(50_000).for_each(|part| part.get_mut(30_000..).into_iter().for_each(zeros))),
        ("flipped", &|bytes| bytes.iter_mut().step_by(40_000).for_each(|byte| *byte ^= 1)),
        ("short", &|bytes| bytes.truncate(bytes.len() / 3)),
        ("empty", &|bytes| bytes.clear()),
        ("noise", &|bytes| *bytes = noise(9, bytes.len())),
    ];
    for class in ["data", "snapshots"] {
        for (name, change) in &changes {
            let copies = files(&cache(&world).join(class));
            assert!(!copies.is_empty(), "nothing of {class} was kept");
            for file in copies {
                let mut bytes = fs::read(&file).unwrap();
                change(&mut bytes);
                fs::write(&file, bytes).unwrap();
            }
            println!("{class} {name}");
            restored();
        }
    }
    // And a pack has another's frames.
    let copies = files(&cache(&world).join("data"));
    let bytes: Vec<Vec<u8>> = copies.iter().map(|file| fs::read(file).unwrap()).collect();
    for (file, bytes) in copies.iter().zip(bytes.iter().cycle().skip(1)) {
        fs::write(file, bytes).unwrap();
    }
    restored();
    // Or only another's key, and its own frames, or none.
    for own in [true, false] {
        let copies = files(&cache(&world).join("data"));
        assert!(copies.len() > 1, "one pack has no other");
        let bytes: Vec<Vec<u8>> = copies.iter().map(|file| fs::read(file).unwrap()).collect();
        for ((file, own_bytes), other) in copies.iter().zip(&bytes).zip(bytes.iter().cycle().skip(1)) {
            let rest = if own { &own_bytes[PREAMBLE..] } else { &[] };
            fs::write(file, [&other[..PREAMBLE], rest].concat()).unwrap();
        }
        restored();
    }
}

#[test]
fn a_cache_survives_kills_and_is_shared() {
    let (world, server) = (World::new(), S3Server::start());
    let variables = store_variables(&server, &world);
    let source = filled(&world, &variables);
    let what = format!("latest:{}", source.display());
    for n in 0..6 {
        let back = shown(&world.at(&format!("killed{n}")));
        let mut command = world.command(&["restore", "-q", &what, "--target", &back]);
        let mut child = command.envs(variables.iter().cloned()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Not before something was kept, and then at once: in the midst of it, as far as chance has it.
        let kept = || fs::read_dir(world.at(".cache/yester")).is_ok_and(|mut all| all.next().is_some());
        until(|| kept() || child.try_wait().unwrap().is_some());
        std::thread::sleep(Duration::from_millis(n * 15));
        let _ = (child.kill(), child.wait());
    }
    // Several processes at once, with a cap that makes them remove what others use.
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (world, variables, what, source) = (&world, &variables, &what, &source);
            scope.spawn(move || {
                let back = world.at(&format!("shared{n}"));
                let size = ["8M", "1G"][n % 2];
                run(world, variables, &["restore", "-q", "--cache-size", size, what, "--target", &shown(&back)]).ok();
                same(&back, source);
            });
        }
    });
    mounted(&world, &variables, &[], |latest| copied(&world, &inside(latest, &source), &source));
}

#[test]
fn what_prune_deletes_leaves_the_cache() {
    let (world, server) = (World::new(), S3Server::start());
    let variables = store_variables(&server, &world);
    let source = filled(&world, &variables);
    let cat = |n: u8| run(&world, &variables, &["cat", &format!("latest:{}/long{n}", source.display())]).ok();
    (0..3).for_each(|n| drop(cat(n)));
    let names = || -> BTreeSet<String> {
        files(&cache(&world).join("data")).iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert!(!names().is_empty());
    (0..3u8).for_each(|n| fs::remove_file(source.join(format!("long{n}"))).unwrap());
    world.file("src/new", noise(7, 3 << 20));
    run(&world, &variables, &["ingest", "-q", &shown(&source)]).ok();
    run(&world, &variables, &["forget", "-q", "--keep-last", "1"]).ok();
    // By another machine, which has another cache; then this one looks.
    let there = shown(&world.at("elsewhere"));
    run(&world, &variables, &["prune", "-q", "--max-unused", "0", "--cache-dir", &there]).ok();
    run(&world, &variables, &["cat", &format!("latest:{}/new", source.display())]).ok();
    let keys = server.keys();
    let left = names();
    assert!(!left.is_empty() && left.iter().all(|name| keys.iter().any(|key| key.ends_with(name))), "{left:?}");
}

#[test]
fn a_repository_in_a_directory_keeps_data_only_when_asked_to() {
    let world = World::new();
    let (repo, key) = (shown(&world.at("repo")), shown(&world.at("key")));
    let variables = variables(&[("YESTER_REPO", &repo), ("YESTER_KEY_FILE", &key)]);
    let source = filled(&world, &variables);
    let what = format!("latest:{}/long0", source.display());
    run(&world, &variables, &["cat", &what]).ok();
    assert!(!world.at(".cache/yester").exists());
    run(&world, &variables, &["cat", "--cache-size", "100M", &what]).ok();
    let kept: u64 = files(&cache(&world).join("data")).iter().map(|file| fs::metadata(file).unwrap().blocks() * 512).sum();
    assert!(kept > 6 << 20, "{kept}");
    // A command that was not told keeps what is there.
    run(&world, &variables, &["ls", "latest"]).ok();
    assert!(!files(&cache(&world).join("data")).is_empty());
    run(&world, &variables, &["ls", "--cache-size", "0", "latest"]).ok();
    assert!(files(&cache(&world).join("data")).is_empty());
    // Whatever is read, the cap holds.
    for n in 0..3 {
        run(&world, &variables, &["cat", "--cache-size", "4M", &format!("latest:{}/long{n}", source.display())]).ok();
        let kept: u64 = files(&cache(&world).join("data")).iter().map(|file| fs::metadata(file).unwrap().blocks() * 512).sum();
        assert!(kept <= 4 << 20, "{kept}");
    }
}

/// Requests of who reads a long file, or copies a tree, over a line: several at once, and few.
#[test]
fn readers_over_a_line_keep_several_requests_under_way() {
    let (world, server) = (World::new(), S3Server::start());
    let near = store_variables(&server, &world);
    let source = filled(&world, &near);
    world.file("src/longest", noise(250, 40 << 20));
    run(&world, &near, &["ingest", "-q", "--no-cache", &shown(&source)]).ok();
    let proxy = Proxy::over(server.port, Link::new(Duration::from_millis(20), 400_000_000));
    let over = server.address("web").replace(&server.port.to_string(), &proxy.port.to_string());
    let far: Variables = near
        .iter()
        .map(|(name, value)| (name.clone(), if name == "YESTER_REPO" { over.clone() } else { value.clone() }))
        .collect();
    let options = ["--native", "off", "--cache-size", "0"];
    mounted(&world, &far, &options, |latest| {
        let latest = inside(latest, &source);
        assert_eq!(fs::read_dir(&latest).unwrap().count(), 9);
        let _ = (server.take(), proxy.most_waiting());
        let mut read = Vec::new();
        fs::File::open(latest.join("longest")).unwrap().read_to_end(&mut read).unwrap();
        assert!(read == noise(250, 40 << 20));
        let (asked, waiting) = (packs(&server.take()), proxy.most_waiting());
        println!("a long file: {asked} requests, {waiting} at once");
        assert!(waiting >= 4, "{waiting} requests at once");
        assert!(asked <= 60, "{asked} requests for 40 MiB");
    });
    mounted(&world, &far, &options, |latest| {
        let latest = inside(latest, &source);
        fs::read_dir(&latest).unwrap().count();
        let _ = (server.take(), proxy.most_waiting());
        copied(&world, &latest, &source);
        let (asked, waiting) = (packs(&server.take()), proxy.most_waiting());
        println!("a tree: {asked} requests, {waiting} at once");
        assert!(waiting >= 4, "{waiting} requests at once");
        assert!(asked <= 130, "{asked} requests for 59 MiB");
    });
}

/// Reads while nothing answers: an error, and the bytes when it answers again.
fn dies_and_returns(world: &World, proxy: &Proxy, variables: &Variables, source: &Path) {
    let options = ["--timeout", "8", "--no-cache", "--native", "off"];
    mounted(world, variables, &options, |latest| {
        let latest = inside(latest, source);
        assert_eq!(fs::read_dir(&latest).unwrap().count(), 8);
        let mut some = [0; 4096];
        fs::File::open(latest.join("long0")).unwrap().read_exact_at(&mut some, 0).unwrap();
        assert!(some == noise(200, 4096)[..]);
        proxy.die(true);
        let late = |n: u8| fs::File::open(latest.join(format!("long{n}"))).and_then(|f| f.read_exact_at(&mut [0; 4096], 5 << 20));
        for n in [1, 2, 1] {
            let began = std::time::Instant::now();
            assert_eq!(late(n).unwrap_err().raw_os_error(), Some(5), "an error, and not something else");
            println!("an error after {:?}", began.elapsed());
        }
        // What is known is still shown.
        assert_eq!(fs::metadata(latest.join("long1")).unwrap().len(), 6 << 20);
        proxy.die(false);
        println!("it returns");
        until(|| late(1).is_ok() && late(2).is_ok());
        for n in 0..3u8 {
            assert!(fs::read(latest.join(format!("long{n}"))).unwrap() == noise(200 + n, 6 << 20));
        }
    });
}

#[test]
fn a_dead_object_store_is_an_error_until_it_returns() {
    let (world, server) = (World::new(), S3Server::start());
    let near = store_variables(&server, &world);
    let source = filled(&world, &near);
    let proxy = Proxy::to(server.port);
    let over = server.address("web").replace(&server.port.to_string(), &proxy.port.to_string());
    let far: Variables = near
        .iter()
        .map(|(name, value)| (name.clone(), if name == "YESTER_REPO" { over.clone() } else { value.clone() }))
        .collect();
    dies_and_returns(&world, &proxy, &far, &source);
}

#[test]
fn a_dead_server_is_an_error_until_it_returns() {
    let world = World::new();
    let server = Server::start(&world.at("root"));
    let proxy = Proxy::to(server.port);
    let token = server.token(server.grant("web", &FULL));
    let (repo, key) = (format!("https://127.0.0.1:{}/web", proxy.port), shown(&world.at("key")));
    let pin = server.fingerprint.unwrap().to_string();
    let variables = variables(&[
        ("YESTER_REPO", &repo),
        ("YESTER_KEY_FILE", &key),
        ("YESTER_TOKEN", &token),
        ("YESTER_TLS_FINGERPRINT", &pin),
    ]);
    let source = filled(&world, &variables);
    dies_and_returns(&world, &proxy, &variables, &source);
}
