//! Random operations on the mount and on what was ingested give the same.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use yester::format::pack::FrameInfo;
use yester::repo::Repository;
use yester::repo::index::Index;

use crate::common::mounted::{run, shell};
use crate::common::program::{World, shown, with};
use crate::common::tiny::noise;
use crate::mount_hostile::served::{Served, open};

/// Bytes that compress.
fn text(seed: u64, len: usize) -> Vec<u8> {
    noise(seed, len / 8 + 1).iter().flat_map(|b| format!("{:07} ", u32::from(*b) * 7919).into_bytes()).take(len).collect()
}

/// Files of every form of content, with links and names and attributes.
fn make(at: &Path) {
    fs::create_dir(at).unwrap();
    let write = |name: &str, content: Vec<u8>| fs::write(at.join(name), content).unwrap();
    for size in [0, 1, 63, 64, 65, 4095, 4096, 4097, 65_536, 131_071, 131_073, 1 << 20] {
        write(&format!("noise-{size}"), noise(size as u64, size));
        write(&format!("text-{size}"), text(size as u64, size));
    }
    write("big", noise(77, 7_340_033));
    write("log", text(78, 5_000_001));
    for (name, size, islands) in [("sparse", 50 << 20, 40), ("hollow", 3 << 20, 0), ("tail", 5 << 20, 1)] {
        let file = File::create(at.join(name)).unwrap();
        file.set_len(size).unwrap();
        for n in 0..islands {
            let place = noise(n, 8).iter().fold(0, |sum, b| (sum * 256 + u64::from(*b)) % (size - 100_000));
            file.write_all_at(&noise(n, 1 + (n as usize * 977) % 30_000), place).unwrap();
        }
    }
    fs::create_dir(at.join("many")).unwrap();
    (0..300).for_each(|n| fs::write(at.join(format!("many/{n}")), text(n, (n * n % 9000) as usize)).unwrap());
    fs::create_dir_all(at.join("a/b/c/d/e")).unwrap();
    for name in ["a/b/linked", "a/b/c/d/e/linked"] {
        fs::hard_link(at.join("text-65536"), at.join(name)).unwrap();
    }
    for (name, target) in [("to-file", "a/b/linked"), ("to-dir", "a/b"), ("dangling", "nowhere"), ("loop", "loop")] {
        symlink(target, at.join(name)).unwrap();
    }
    fs::write(at.join("odd \u{1b}[31m\nname"), "odd").unwrap();
    fs::set_permissions(at.join("noise-65"), fs::Permissions::from_mode(0o4711)).unwrap();
    shell(at, "mkfifo -m 600 fifo; for n in 1 2 3; do setfattr -n user.x$n -v value$n text-65 many; done");
    // What is written late may move the borders of holes.
    shell(at, "sync -f .");
}

/// Changes that are stored as differences: in the middle, at the front, at the end, in a hole.
fn change(at: &Path) {
    let patch = |name: &str, place: u64, bytes: &[u8]| {
        fs::OpenOptions::new().write(true).open(at.join(name)).unwrap().write_all_at(bytes, place).unwrap();
    };
    (0..20).for_each(|n| patch("big", n * 350_000 + 17, &noise(500 + n, 50)));
    patch("log", 4_999_990, &text(600, 30_000));
    patch("log", 1000, b"changed");
    patch("sparse", 25 << 20, &noise(601, 10_000));
    patch("text-131073", 70_000, b"x");
    let old = fs::read(at.join("text-1048576")).unwrap();
    fs::write(at.join("text-1048576"), [b"put before".as_slice(), &old].concat()).unwrap();
    File::options().write(true).open(at.join("noise-1048576")).unwrap().set_len(700_001).unwrap();
    fs::remove_file(at.join("many/7")).unwrap();
    fs::rename(at.join("many/8"), at.join("a/moved")).unwrap();
    shell(at, "setfattr -n user.x1 -v other text-65; chmod 750 many; sync -f .");
}

fn deltas(repo: &std::sync::Arc<Repository>) -> usize {
    let index = Index::load(repo).unwrap();
    let mut deltas = 0;
    for segment in 0..index.segments().len() {
        let count = &mut |_: &_, _, frame: &FrameInfo| {
            deltas += usize::from(!frame.bases.is_empty());
            Ok(())
        };
        index.scan_frames(segment, count).unwrap();
    }
    deltas
}

#[test]
fn random_reads_are_those_of_the_source() {
    let world = World::new();
    let options = world.repository();
    let source = world.at("src");
    make(&source);
    world.run(&with(&options, &["ingest", "src"])).ok();
    fs::rename(&source, world.at("first")).unwrap();
    shell(world.home(), "cp -a first src");
    change(&source);
    world.run(&with(&options, &["ingest", "src"])).ok();
    assert!(deltas(&open(&world)) > 0, "nothing was stored as a difference");
    // So little memory that frames are decoded again and again.
    let served = Served::new(&world, &options, &["--memory", "8M"]);
    let ids = shell(&served.point, "for time in $(ls snapshots | grep -v latest); do readlink -f snapshots/$time; done");
    let ids: Vec<&str> = ids.lines().collect();
    let program = format!("{}/tests/same_reads.py", env!("CARGO_MANIFEST_DIR"));
    for (seed, (version, id)) in ["first", "src"].into_iter().zip(ids).cycle().take(4).enumerate() {
        let mounted = format!("{id}{}", shown(&source));
        let args = [program.as_str(), &seed.to_string(), "4000", version, &mounted];
        let output = run("python3", &args, world.home());
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{said}");
        for operation in ["read_at", "mapping", "seek_and_read", "splice", "copied", "listed", "xattrs"] {
            assert!(said.contains(operation), "{operation} was not tried: {said}");
        }
    }
}
