//! Everything of a tree comes back as it was.

use std::fs;
use std::os::unix::fs::MetadataExt;

use yester::error::ErrorKind;
use yester::model::Kind;
use yester::restore::RestoreOptions;
use yester::task::Task;

use crate::common::build::{CHUNK, Part, Spec, noise};
use crate::restore::support::{World, assert_tree, is_root, some_owner, temporaries};

/// The ACL `u::rw-,u:77:r--,g::r--,m::r--,o::---`.
const ACL: &[u8] = &[
    2, 0, 0, 0, //
    1, 0, 6, 0, 255, 255, 255, 255, //
    2, 0, 4, 0, 77, 0, 0, 0, //
    4, 0, 4, 0, 255, 255, 255, 255, //
    16, 0, 4, 0, 255, 255, 255, 255, //
    32, 0, 0, 0, 255, 255, 255, 255,
];

fn owned(spec: Spec) -> Spec {
    let (uid, gid) = some_owner();
    spec.owner(uid, gid)
}

/// One of everything.
fn everything() -> Spec {
    let (uid, gid) = (yester::sys::process::user(), yester::sys::process::group());
    let mut children = vec![
        Spec::file("small", "a few bytes"),
        Spec::file("empty", "").mtime(-5, 1),
        Spec::inline("inline", "in the tree"),
        Spec::file("big", noise(1, 100 * CHUNK + 17)).mode(0o4711),
        Spec::parts("sparse", vec![Part::Hole(1 << 20), Part::Data(noise(2, CHUNK)), Part::Hole(3 << 20)]),
        Spec::parts("zeros", vec![Part::Data(vec![0; 1 << 20])]),
        Spec::file("with attributes", "x").xattrs(&[("user.one", b"1"), ("user.two", b"")]),
        Spec::file("with acl", "x").mode(0o640).xattrs(&[("system.posix_acl_access", ACL)]),
        Spec::file("a", noise(3, CHUNK + 1)).link(1),
        Spec::symlink("link", "no/where").link(2),
        Spec::special("fifo", Kind::Fifo).mode(0o622).link(3),
        Spec::special("socket", Kind::Socket),
        Spec::file("read only", "x").mode(0o000),
        Spec::dir(
            "sub",
            vec![
                Spec::file("b", noise(3, CHUNK + 1)).link(1),
                Spec::symlink("link", "no/where").link(2),
                Spec::special("fifo", Kind::Fifo).mode(0o622).link(3),
                Spec::dir("empty", vec![]).mode(0o1777),
                Spec::dir("closed", vec![Spec::file("x", "y")]).mode(0o500),
                Spec::file("new\nline \u{1b}", "z"),
            ],
        )
        .mode(0o2755)
        .xattrs(&[("user.dir", b"d")]),
    ];
    if is_root() {
        children.push(Spec::special("null", Kind::CharDevice(1, 3)).mode(0o666));
        children.push(Spec::special("loop", Kind::BlockDevice(7, 0)));
        let capability: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        children.push(Spec::file("capable", "x").mode(0o755).xattrs(&[("security.capability", capability)]));
    }
    if !is_root() {
        children.retain(|c| c.node.meta.mode & 0o6000 == 0);
    }
    fn set(spec: Spec, uid: u32, gid: u32) -> Spec {
        let mut spec = spec.owner(uid, gid);
        spec.children = spec.children.into_iter().map(|c| set(c, uid, gid)).collect();
        spec
    }
    let mut root = set(Spec::dir("", children).mode(0o750).mtime(1_400_000_000, 7), uid, gid);
    let other = std::mem::replace(&mut root.children[0], Spec::file("", ""));
    root.children[0] = owned(other);
    root
}

#[test]
fn one_of_everything_comes_back() {
    let tree = everything();
    let world = World::new(&tree);
    let report = world.restore_all(&RestoreOptions { verify: true, sync: true, ..RestoreOptions::default() });
    assert_tree(&world.target(), &tree);
    let files = if is_root() { 13 } else { 11 };
    assert_eq!((report.directories, report.links, report.files), (3, 3, files), "{report:?}");
    let blocks = |name| fs::metadata(world.path(name)).unwrap().blocks() * 512;
    assert!(blocks("sparse") <= 64 << 10, "holes were filled");
    assert!(blocks("zeros") >= 1 << 20, "zeros became a hole");
}

#[test]
fn a_second_run_finds_nothing_to_do() {
    let tree = everything();
    let world = World::new(&tree);
    world.restore_all(&RestoreOptions::default());
    let changes = |path: &std::path::Path| {
        let mut out = Vec::new();
        let mut stack = vec![path.to_owned()];
        while let Some(path) = stack.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            out.push((path.clone(), meta.ino(), meta.ctime(), meta.ctime_nsec()));
            if meta.is_dir() {
                stack.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            }
        }
        out.sort();
        out
    };
    let (before, frames) = (changes(&world.target()), world.frames());
    let report = world.restore_all(&RestoreOptions { delete: true, ..RestoreOptions::default() });
    assert_eq!((report.files, report.others, report.links, report.metadata, report.bytes), (0, 0, 0, 0, 0), "{report:?}");
    assert_eq!(world.frames(), frames, "something was fetched");
    assert_eq!(changes(&world.target()), before, "something was touched");
}

#[test]
fn a_big_tree_goes_through_small_windows() {
    let files = (0..40).map(|n| Spec::file(&format!("f{n:02}"), noise(n, 5 * CHUNK + n as usize))).collect();
    let tree = Spec::dir("", vec![Spec::dir("d", files), Spec::file("huge", noise(99, 1500 * CHUNK))]);
    let world = World::new(&tree);
    world.restore_all(&RestoreOptions { memory: 0, verify: true, ..RestoreOptions::default() });
    let (uid, gid) = (tree.node.meta.uid, tree.node.meta.gid);
    if (uid, gid) == (yester::sys::process::user(), yester::sys::process::group()) {
        assert_tree(&world.target(), &tree);
    }
    assert!(world.read("huge") == noise(99, 1500 * CHUNK));
}

#[test]
fn each_frame_is_decoded_once() {
    let files = (0..200).map(|n| Spec::file(&format!("{n:03}"), noise(n / 2, 3000))).collect();
    let world = World::new(&Spec::dir("", vec![Spec::dir("d", files)]));
    let trees = {
        let before = world.frames();
        world.restore(&RestoreOptions { dry_run: true, ..RestoreOptions::default() });
        world.frames() - before
    };
    assert!(trees > 0);
    let before = world.frames();
    let report = world.restore(&RestoreOptions::default());
    // 100 different files of 3,000 bytes are 300,000 bytes: ten frames of 32 KiB; the tree is in memory already.
    assert_eq!((report.frames, world.frames() - before), (10, 10));
}

#[test]
fn a_very_deep_tree_comes_back() {
    let mut tree = Spec::file("bottom", "x");
    for _ in 0..600 {
        tree = Spec::dir("a directory with a name of some length", vec![tree]);
    }
    let (uid, gid) = (yester::sys::process::user(), yester::sys::process::group());
    let world = World::new(&Spec::dir("", vec![tree]).owner(uid, gid));
    let report = world.restore(&RestoreOptions::default());
    assert_eq!((report.directories, report.files, report.errors), (600, 1, 0), "{:?}", world.warnings.all());
    let again = world.restore(&RestoreOptions::default());
    assert_eq!((again.directories, again.files, again.errors), (0, 0, 0));
    // All of it goes, too.
    let empty = World::new(&Spec::dir("", vec![]).owner(uid, gid));
    let request = yester::restore::RestoreRequest { target: world.target(), ..empty.request(&[""]) };
    let options = RestoreOptions { delete: true, unsafe_delete: Some(601), ..RestoreOptions::default() };
    let report = yester::restore::restore(&empty.reader, &request, &options, &Task::new(&world.warnings)).unwrap();
    assert_eq!((report.deleted, report.errors), (601, 0), "{:?}", world.warnings.all());
}

#[test]
fn flags_are_set_last() {
    let immutable = 0x10;
    let (uid, gid) = (yester::sys::process::user(), yester::sys::process::group());
    let file = Spec::file("locked", "x").flags(immutable).owner(uid, gid);
    let tree = Spec::dir("", vec![Spec::dir("d", vec![file]).flags(immutable).owner(uid, gid)]).owner(uid, gid);
    let world = World::new(&tree);
    let report = world.restore(&RestoreOptions::default());
    let flags = |path: &str| yester::sys::dir::flags(fs::File::open(world.path(path)).unwrap());
    // Not every file system has flags, and only root sets this one.
    if is_root() && flags("d").is_ok() {
        assert!(report.is_complete(), "{:?}", world.warnings.all());
        assert_eq!(flags("d/locked").unwrap() & immutable, immutable);
        assert_eq!(flags("d").unwrap() & immutable, immutable);
        let again = world.restore_all(&RestoreOptions::default());
        assert_eq!((again.unchanged, again.metadata), (1, 0));
        for path in ["d", "d/locked"] {
            let file = fs::File::open(world.path(path)).unwrap();
            let have = yester::sys::dir::flags(&file).unwrap();
            yester::sys::dir::set_flags(&file, have & !immutable).unwrap();
        }
        assert_tree(&world.target(), &tree);
    } else {
        assert_eq!(report.errors, 0);
    }
}

#[test]
fn owners_go_by_name() {
    if !is_root() {
        return;
    }
    let tree = Spec::dir("", vec![Spec::file("f", "x").owner(54321, 54322)]);
    let mut world = World::new(&tree);
    let mut snapshot = (*world.snapshot).clone();
    snapshot.owners.users = vec![(54321, b"daemon".to_vec())];
    snapshot.owners.groups = vec![(54322, b"no-such-group-here".to_vec())];
    world.snapshot = snapshot.into();
    let daemon = yester::sys::users::user_id(b"daemon").unwrap();
    world.restore_all(&RestoreOptions::default());
    let owner = || fs::metadata(world.path("f")).map(|m| (m.uid(), m.gid())).unwrap();
    assert_eq!(owner(), (daemon, 54322));
    world.restore_all(&RestoreOptions { numeric_ids: true, ..RestoreOptions::default() });
    assert_eq!(owner(), (54321, 54322));
}

#[test]
fn a_dry_run_counts_and_writes_nothing() {
    let tree = everything();
    let world = World::new(&tree);
    let planned = world.restore(&RestoreOptions { dry_run: true, ..RestoreOptions::default() });
    assert!(!world.target().exists());
    let done = world.restore_all(&RestoreOptions::default());
    assert_eq!(planned, done);
    fs::write(world.path("small"), "a few BYTES").unwrap();
    fs::write(world.path("superfluous"), "x").unwrap();
    fs::create_dir_all(world.path("extra/sub")).unwrap();
    let options = RestoreOptions { dry_run: true, delete: true, ..RestoreOptions::default() };
    let planned = world.restore(&options);
    assert!(world.path("superfluous").exists() && world.path("extra/sub").exists());
    assert_eq!((planned.files, planned.deleted), (1, 3), "{planned:?}");
    assert_eq!(world.read("small"), b"a few BYTES");
    let done = world.restore_all(&RestoreOptions { dry_run: false, ..options });
    assert_eq!(planned, done);
    assert_tree(&world.target(), &tree);
}

#[test]
fn where_things_go() {
    let tree = Spec::parent("", vec![Spec::parent("a", vec![Spec::dir("b", vec![Spec::file("f", "f")]), Spec::file("c", "c")])]);
    let one = World::new(&tree);
    one.try_restore(&["a/b"], &RestoreOptions::default()).unwrap();
    assert_eq!(one.read("f"), b"f");
    let file = World::new(&tree);
    file.try_restore(&["a/b/f"], &RestoreOptions::default()).unwrap();
    assert_eq!(file.read("f"), b"f");
    let several = World::new(&tree);
    several.try_restore(&["a/b", "a/c"], &RestoreOptions::default()).unwrap();
    assert_eq!((several.read("a/b/f"), several.read("a/c")), (b"f".to_vec(), b"c".to_vec()));
    assert_tree(&several.target(), &tree);
    // Parents that this run made have their metadata, though several sources went through them.
    let parent = fs::metadata(several.path("a")).unwrap();
    assert_eq!((parent.mtime(), parent.mtime_nsec(), parent.mode() & 0o7777), (1_500_000_000, 123_456_789, 0o755));
    let error = several.try_restore(&["a/none"], &RestoreOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(temporaries(&several.target()).is_empty());
}

#[test]
fn parents_that_are_there_keep_their_metadata() {
    let tree = Spec::parent("", vec![Spec::parent("a", vec![Spec::file("f", "f")]).mode(0o711)]);
    let world = World::new(&tree);
    fs::create_dir_all(world.path("a")).unwrap();
    let mode = |path: &str| fs::metadata(world.path(path)).unwrap().mode() & 0o7777;
    let before = (mode(""), mode("a"));
    world.restore(&RestoreOptions { delete: true, ..RestoreOptions::default() });
    assert_eq!((mode(""), mode("a")), before);
}

#[test]
fn nothing_is_inherited_from_the_target() {
    let (uid, gid) = (yester::sys::process::user(), yester::sys::process::group());
    let tree = Spec::dir(
        "",
        vec![
            Spec::file("f", "f").owner(uid, gid),
            Spec::special("p", Kind::Fifo).owner(uid, gid),
            Spec::dir("d", vec![Spec::file("g", "g").owner(uid, gid)]).owner(uid, gid),
        ],
    )
    .owner(uid, gid);
    let world = World::new(&tree);
    fs::create_dir_all(world.target()).unwrap();
    let dir = yester::sys::Dir::open(&world.target()).unwrap();
    yester::sys::xattr::set(&dir, b"system.posix_acl_default", ACL).unwrap();
    dir.set_mode_self(0o2755).unwrap();
    if is_root() {
        dir.set_owner_self(0, 4321).unwrap();
    }
    world.restore_all(&RestoreOptions::default());
    assert_tree(&world.target(), &tree);
}
