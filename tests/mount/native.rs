//! Snapshots that the kernel reads by itself, as images that the mount serves. Needs root, EROFS and loop devices.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use yester::model::SnapshotId;
use yester::vfs::{MountOptions, Native};

use crate::common::mounted::{Mounted, compare, run, shell, taken_away, until};
use crate::common::program::{World, shown, with};
use crate::common::tiny::{About, CHUNK, Piece, Tiny, dir, file, noise, sparse, symlink};
use crate::mount::image::{odd_without_holes, same};
use crate::mount_hostile::served::{Served, runs};

const EROFS: i64 = 0xe0f5_e1e2;
const EIO: Option<i32> = Some(5);

/// Whether the kernel reads what is there from an image.
fn is_native(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == EROFS)
}

fn native() -> MountOptions {
    MountOptions { native: Native::Require, ..MountOptions::default() }
}

fn off() -> MountOptions {
    MountOptions { native: Native::Off, ..MountOptions::default() }
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

fn id(byte: u8) -> SnapshotId {
    SnapshotId([byte; 32])
}

/// The loop devices that hold an image of a mount at `point`.
fn loops(point: &Path) -> usize {
    let listed = fs::read_dir("/sys/block").unwrap().flatten();
    let file = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("loop/backing_file")).ok();
    listed.filter_map(file).filter(|file| file.contains(".yester-image-") && file.starts_with(&shown(point))).count()
}

#[test]
fn the_kernel_shows_what_fuse_shows() {
    let tiny = Tiny::new();
    tiny.commit(&odd_without_holes(), About::at(1));
    let (kernel, fuse) = (Mounted::new(&tiny, native()), Mounted::new(&tiny, off()));
    let (one, two) = (kernel.path("latest/."), fuse.path("latest/."));
    assert!(is_native(&one) && !is_native(&two) && !is_native(&kernel.path("ids")));
    compare(&one, &odd_without_holes());
    same(&two, &one);
    assert_eq!(shell(&one, "find . | wc -l"), shell(&two, "find . | wc -l"));
    // Owners as root's, no attributes: what the options say holds there, too.
    let plain = Mounted::new(&tiny, MountOptions { without_xattrs: true, ..native() });
    let mut room = [0_u8; 65_536];
    for name in ["many-attributes", "acl", "sample/rich"] {
        let listed =
            |mounted: &Mounted, room: &mut [u8]| rustix::fs::llistxattr(mounted.path("latest").join(name), room).unwrap();
        assert!(is_native(&plain.path("latest/.")) && listed(&plain, &mut room) == 0 && listed(&kernel, &mut room) > 0, "{name}");
    }
    let options = MountOptions { owner_root: true, ..native() };
    let (kernel, fuse) =
        (Mounted::new(&tiny, options.clone()), Mounted::new(&tiny, MountOptions { native: Native::Off, ..options }));
    assert!(is_native(&kernel.path("latest/.")));
    same(&fuse.path("latest/."), &kernel.path("latest/."));
}

/// With `--allow-other` also what is mounted alone; else FUSE keeps others out, and must not be covered.
#[test]
fn a_snapshot_alone() {
    let tiny = Tiny::new();
    tiny.commit(&dir([("sub", odd_without_holes())]), About::at(1));
    let scope = Some(("latest".to_owned(), b"sub".to_vec()));
    let alone = MountOptions { scope, native: Native::Auto, ..MountOptions::default() };
    let closed = Mounted::new(&tiny, alone.clone());
    assert!(!is_native(&closed.path("")));
    let mut open = Mounted::new(&tiny, MountOptions { allow_other: true, native: Native::Require, ..alone });
    assert!(is_native(&open.path("")));
    same(&closed.path(""), &open.path(""));
    let point = open.point.path().to_owned();
    open.end().unwrap();
    assert_eq!(fs::read_dir(&point).unwrap().count(), 0);
    // The kernel may let go of the device a moment after nobody has it.
    until(|| loops(&point) == 0);
}

/// A read that begins in what is whole and ends in what is damaged gives what is whole, and then an error: never zeros.
#[test]
fn damage_is_an_error_and_never_zeros() {
    let tiny = Tiny::new();
    // Pieces of one frame each.
    let parts: Vec<Piece> = (0..24).map(|n| Piece::Data(noise(n, 1 << 20))).collect();
    let tree = dir([
        ("a", file(noise(100, 200_000))),
        ("big", sparse(parts)),
        ("small", file(noise(101, 3000))),
        ("z", file(noise(102, 200_000))),
    ]);
    let made = tiny.commit(&tree, About::at(1));
    let chunk = tiny.repo.keys().chunk_id(yester::format::pack::PackKind::Data, &noise(10, 1 << 20)[..CHUNK]);
    tiny.damage(made.data.as_ref().unwrap(), &chunk);
    let mounted = Mounted::new(&tiny, native());
    let at = mounted.path("latest/.");
    assert!(is_native(&at));
    let whole: Vec<u8> = (0..24).flat_map(|n| noise(n, 1 << 20)).collect();
    let big = File::open(at.join("big")).unwrap();
    for size in [4096, 65_536, 1 << 20, 3 << 20] {
        let mut bytes = vec![0xaa; size];
        let mut failed = 0;
        let mut at = 0;
        while at < whole.len() {
            match big.read_at(&mut bytes, at as u64) {
                Ok(n) => {
                    assert!(n > 0 && bytes[..n] == whole[at..at + n], "other bytes at {at} in reads of {size}");
                    at += n;
                }
                Err(e) => {
                    assert_eq!(e.raw_os_error(), EIO);
                    (failed, at) = (failed + 1, (at / 4096 + 1) * 4096);
                }
            }
        }
        // At most what the kernel reads at once, 512 KiB, cannot be read with what is damaged.
        assert!((3..=256).contains(&failed), "{failed} pages are damaged in reads of {size}");
    }
    // Far from the damage nothing fails, nor in other files.
    let mut bytes = vec![0; 1 << 20];
    for n in [0_usize, 8, 13, 23] {
        big.read_exact_at(&mut bytes, (n << 20) as u64).unwrap();
        assert!(bytes == noise(n as u64, 1 << 20), "piece {n}");
    }
    for (name, seed, size) in [("a", 100, 200_000), ("small", 101, 3000), ("z", 102, 200_000)] {
        assert!(fs::read(at.join(name)).unwrap() == noise(seed, size), "{name}");
    }
    // What is mended can be read.
    tiny.damage(made.data.as_ref().unwrap(), &chunk);
    until(|| fs::read(at.join("big")).is_ok_and(|bytes| bytes == whole));
}

/// A repository with two snapshots of `src`: the newer has a file more.
fn two_snapshots(world: &World) -> Vec<String> {
    let options = world.repository();
    world.file("src/sub/a", "x");
    world.run(&with(&options, &["ingest", "src"])).ok();
    world.file("src/sub/b", "y");
    world.run(&with(&options, &["ingest", "src"])).ok();
    options.to_vec()
}

/// The tree of the older snapshot.
fn older(served: &Served<'_>) -> PathBuf {
    let newest = fs::read_link(served.path("latest")).unwrap();
    let mut listed = fs::read_dir(served.path("ids")).unwrap().map(|e| e.unwrap().path());
    listed.find(|path| path.file_name() != newest.file_name()).unwrap()
}

#[test]
fn a_tree_with_somebody_in_it_is_not_covered() {
    let world = World::new();
    let options = two_snapshots(&world);
    let served = Served::new(&world, &options, &[]);
    until(|| is_native(&served.path("latest/")));
    let older = older(&served);
    let mut stands = Command::new("sh");
    stands.args(["-c", "ls -R . && read line; stat -f -c %t . && exec ls -R ."]).current_dir(&older);
    let mut stands = stands.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Twice as long as a tree must be quiet.
    std::thread::sleep(Duration::from_secs(2));
    assert!(!is_native(&older));
    drop(stands.stdin.take());
    let out = String::from_utf8(stands.wait_with_output().unwrap().stdout).unwrap();
    let (before, after) = out.split_once("65735546\n").expect("it stands in FUSE to the end");
    assert_eq!(before, after);
    until(|| is_native(&older));
}

#[test]
fn a_forgotten_snapshot_vanishes_and_open_files_stay() {
    let world = World::new();
    let options = two_snapshots(&world);
    let served = Served::new(&world, &options, &[]);
    until(|| is_native(&served.path("latest/")));
    let newest = fs::canonicalize(served.path("latest")).unwrap();
    let source = newest.join(shown(&world.at("src/sub/b")).trim_start_matches('/'));
    let open = File::open(&source).unwrap();
    let name = newest.file_name().unwrap().to_str().unwrap().to_owned();
    world.run(&with(&options, &["forget", &name])).ok();
    until(|| !newest.exists());
    let mut bytes = [0; 1];
    assert_eq!((open.read_at(&mut bytes, 0).unwrap(), bytes), (1, *b"y"));
    drop(open);
    until(|| loops(&served.point) <= 1);
    // What is the newest now is an image, too.
    until(|| is_native(&served.path("latest/")));
}

#[test]
fn a_killed_process_leaves_errors_and_nothing_mounted() {
    let world = World::new();
    let options = world.repository();
    let bytes = noise(1, 30_000_000);
    world.file("src/big", &bytes);
    world.run(&with(&options, &["ingest", "src"])).ok();
    for round in 0..3 {
        let served = Served::new(&world, &options, &["--native", "require"]);
        let path = served.path("latest").join(shown(&world.at("src/big")).trim_start_matches('/'));
        assert!(is_native(&path));
        let big = File::open(&path).unwrap();
        let mut out = vec![0; 1 << 20];
        big.read_exact_at(&mut out, 0).unwrap();
        let (big, pid) = (&big, served.pid);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                // Until it fails: what was read is right.
                let mut out = vec![0; 300_000];
                for at in (0..).step_by(100_000 + round) {
                    match big.read_at(&mut out, at % 29_000_000) {
                        Ok(n) => assert!(n > 0 && out[..n] == bytes[(at % 29_000_000) as usize..][..n]),
                        Err(e) => return e.raw_os_error(),
                    }
                    // The kernel keeps what it has read: it must ask again.
                    let _ = rustix::fs::fadvise(big, 0, None, rustix::fs::Advice::DontNeed);
                }
                None
            });
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), rustix::process::Signal::KILL)
                .unwrap();
            assert_eq!(reader.join().unwrap(), EIO);
        });
        until(|| !runs(pid));
        // The guard takes the image away.
        until(|| errno(fs::metadata(&path)) == Some(rustix::io::Errno::NOTCONN.raw_os_error()));
        let point = served.point.clone();
        served.leave();
        taken_away(|| world.run(&["umount", &shown(&point)]));
        assert_eq!(fs::read_dir(&point).unwrap().count(), 0);
    }
    until(|| loops(&world.at("point")) == 0);
}

#[test]
fn unmounting_takes_images_along() {
    let world = World::new();
    let options = two_snapshots(&world);
    let served = Served::new(&world, &options, &["--native", "require"]);
    let path = served.path("latest").join(shown(&world.at("src/sub/b")).trim_start_matches('/'));
    let open = File::open(&path).unwrap();
    world.run(&["umount", &shown(&served.point)]).fails(11, &["in use"]);
    assert_eq!(fs::read(&path).unwrap(), b"y");
    drop(open);
    taken_away(|| world.run(&["umount", &shown(&served.point)]));
    until(|| !runs(served.pid));
    assert_eq!(fs::read_dir(&served.point).unwrap().count(), 0);
    until(|| loops(&served.point) == 0);
    served.leave();
    // A signal ends it also under those who read; they have what the kernel has, or an error.
    let served = Served::new(&world, &options, &["--native", "require"]);
    let open = File::open(&path).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(served.pid as i32).unwrap(), rustix::process::Signal::TERM)
        .unwrap();
    until(|| fs::read_dir(&served.point).is_ok_and(|all| all.count() == 0));
    until(|| !runs(served.pid));
    assert!(matches!(open.read_at(&mut [0; 1], 0), Ok(1) | Err(_)));
    drop(open);
    until(|| loops(&served.point) == 0);
    served.leave();
}

#[test]
fn others_get_in_only_where_fuse_lets_them() {
    let world = World::new();
    let options = two_snapshots(&world);
    fs::set_permissions(world.home(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let reads = |path: &Path| {
        let args = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "cat"];
        Command::new("setpriv").args(args).arg(path).output().unwrap().status.success()
    };
    for (args, open) in [(&["--native", "require"][..], false), (&["--native", "require", "--allow-other"], true)] {
        let served = Served::new(&world, &options, args);
        let path = served.path("latest").join(shown(&world.at("src/sub/b")).trim_start_matches('/'));
        assert!(is_native(&path));
        assert_eq!(reads(&path), open, "{args:?}");
        // Nor does anybody find the image.
        let hidden = fs::read_dir(&served.point).unwrap().map(|e| e.unwrap().file_name());
        assert!(hidden.into_iter().all(|name| !name.to_string_lossy().contains("image")));
    }
}

#[test]
fn what_an_image_cannot_show_goes_through_fuse() {
    let hole = sparse(vec![Piece::Hole(1 << 20), Piece::Data(noise(2, 65_536))]);
    let flags = file(*b"f").with(|t| t.flags = 0x40);
    let foreign = file(*b"f").with(|t| t.xattrs = vec![(b"system.nfs4_acl".to_vec(), b"x".to_vec())]);
    for (name, odd, why) in [("hole", hole, "holes"), ("flags", flags, "chattr"), ("foreign", foreign, "extended attributes")] {
        let tiny = Tiny::new();
        let tree = dir([(name, odd), ("plain", file(*b"p"))]);
        tiny.commit_as(id(1), &tree, About::at(1));
        let mounted = Mounted::new(&tiny, MountOptions { native: Native::Auto, ..MountOptions::default() });
        assert!(!is_native(&mounted.path("latest/")));
        compare(&mounted.path("latest/."), &tree);
        let said = required(&tiny, native());
        assert!(said.contains("--native require") && said.contains(why), "{said}");
    }
    let tiny = Tiny::new();
    tiny.commit_as(id(1), &dir([("a", file(*b"a"))]), About::at(1));
    let scope = Some(("latest".to_owned(), Vec::new()));
    assert!(required(&tiny, MountOptions { scope, ..native() }).contains("--allow-other"));
    // Not more memory for all of them than there is for a mount.
    let many = dir((0..60_000).map(|n| (format!("file-with-a-long-name-{n}"), file(*b""))));
    tiny.commit_as(id(2), &many, About::at(2));
    assert!(required(&tiny, MountOptions { memory: 4 << 20, ..native() }).contains("memory"));
}

/// What a mount says that must be native and cannot; it leaves nothing behind.
fn required(tiny: &Tiny, options: MountOptions) -> String {
    let point = tempfile::tempdir().unwrap();
    let e = yester::mount::mount(&tiny.repo, &options, point.path(), &yester::mount::Shutdown::new(), || ()).unwrap_err();
    assert_eq!(fs::read_dir(point.path()).unwrap().count(), 0);
    e.to_string()
}

/// Over an image, and over FUSE.
#[test]
fn a_writable_layer_over_it() {
    [native(), off()].into_iter().for_each(writable_layer_over);
}

fn writable_layer_over(options: MountOptions) {
    let tiny = Tiny::new();
    let tree = dir([("a", file(*b"old")), ("b", symlink("a")), ("sub", dir([("c", file(noise(1, 100_000)))]))]);
    tiny.commit(&tree, About::at(1));
    let is_image = options.native == Native::Require;
    let mounted = Mounted::new(&tiny, options);
    assert_eq!(is_native(&mounted.path("latest/.")), is_image);
    let at = tempfile::tempdir().unwrap();
    shell(at.path(), "mkdir fs && mount -t tmpfs none fs && mkdir fs/upper fs/work fs/merged");
    let lower = fs::canonicalize(mounted.path("latest")).unwrap();
    let options = format!("lowerdir={},upperdir=fs/upper,workdir=fs/work", lower.display());
    let out = run("mount", &["-t", "overlay", "-o", &options, "overlay", "fs/merged"], at.path());
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let merged = at.path().join("fs/merged");
    if out.status.success() {
        fs::write(merged.join("a"), "new").unwrap();
        fs::remove_file(merged.join("sub/c")).unwrap();
        assert_eq!(fs::read(merged.join("b")).unwrap(), b"new");
        // A process that another test is starting may have what was open there until it runs a program of its own.
        until(|| run("umount", &["fs/merged"], at.path()).status.success());
    }
    until(|| run("umount", &["fs"], at.path()).status.success());
    assert!(out.status.success(), "{said}");
    compare(&mounted.path("latest/."), &tree);
}
