//! `.versions`: the versions of a name, found by name and in no list.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use yester::vfs::{MountOptions, Native, View};

use crate::common::mounted::{Mounted, is_root, run, shell, until};
use crate::common::tiny::{About, Tiny, Tree, dir, file, noise};

const TIMES: [&str; 3] = ["2025-11-20T10-04-11Z", "2025-11-20T10-04-12Z", "2025-11-20T10-04-13Z"];
const FIRST: i64 = 1_763_633_051;

fn about(number: i64) -> About {
    About::at(FIRST + number)
}

/// Three snapshots: a file changes twice, one never, one goes after the first; so does a directory.
fn three(tiny: &Tiny) {
    let common = |conf: &str| vec![("conf", file(conf)), ("same", file(*b"same")), ("sub", dir([("x", file(conf))]))];
    let first = dir(common("1").into_iter().chain([("gone", file(*b"g"))]));
    tiny.commit(&dir([("etc", first), ("old", dir([("f", file(*b"old"))]))]), about(0));
    tiny.commit(&dir([("etc", dir(common("2")))]), About { host: "other", ..about(-1) });
    tiny.commit(&dir([("etc", dir(common("22")))]), about(1));
    tiny.commit(&dir([("etc", dir(common("333")))]), about(2));
}

fn conf(number: usize) -> String {
    format!("conf@{}", TIMES[number])
}

#[test]
fn a_name_has_its_versions_beside_it_and_no_walk_enters_them() {
    let tiny = Tiny::new();
    three(&tiny);
    let mounted = Mounted::new(&tiny, MountOptions::default());
    let top = mounted.path("");
    let listed = [conf(0), conf(1), conf(2), format!("gone@{}", TIMES[0]), format!("same@{}", TIMES[0])].join("\n");
    let beside = shell(&top, "ls latest/etc/.versions");
    assert_eq!(beside, format!("{listed}\nsub@{}\n", TIMES[2]));
    for (at, content) in ["1", "22", "333"].iter().enumerate() {
        for place in ["latest/etc/.versions", ".versions/etc", "hosts/web1/.versions/etc"] {
            assert_eq!(shell(&top, &format!("cat {place}/{}", conf(at))), *content, "{place}");
        }
    }
    // The time of any snapshot will do, also where nothing changed; a directory's versions are its trees.
    assert_eq!(shell(&top, &format!("cat latest/etc/.versions/same@{}", TIMES[2])), "same");
    assert_eq!(shell(&top, &format!("cat latest/etc/.versions/sub@{}/x", TIMES[0])), "1");
    assert!(!top.join(format!("latest/etc/.versions/gone@{}", TIMES[1])).exists());
    // What the newest snapshot has no more is found from the top.
    assert_eq!(shell(&top, "ls .versions .versions/etc"), format!(".versions:\netc\nold\n\n.versions/etc:\n{listed}\nsub\n"));
    assert_eq!(shell(&top, &format!("cat .versions/old/f@{} .versions/etc/sub/x@{}", TIMES[0], TIMES[1])), "old22");
    let other = "2025-11-20T10-04-10Z";
    assert_eq!(shell(&top, "ls hosts/other/.versions/etc"), format!("conf@{other}\nsame@{other}\nsub\n"));
}

#[test]
fn no_walk_and_no_copy_enters_the_versions() {
    let tiny = Tiny::new();
    three(&tiny);
    let mounted = Mounted::new(&tiny, MountOptions::default());
    let top = mounted.path("");
    assert!(top.join("latest/etc/.versions").is_dir() && top.join(".versions/etc").is_dir());
    assert_eq!(shell(&top, "find . -name '*versions*' -o -name '*@*'"), "");
    assert_eq!(shell(&top, "find -L latest hosts -name '*versions*' -o -name '*@*'"), "");
    assert_eq!(shell(&top, "ls -AR . | grep -c versions || true").trim(), "0");
    let out = tempfile::tempdir().unwrap();
    shell(out.path(), &format!("cp -a {0}/. copied && rsync -a {0}/ synced && tar -C {0} -cf all.tar .", top.display()));
    assert_eq!(shell(out.path(), "find . -name '*versions*' -o -name '*@*'; tar -tf all.tar | grep versions || true"), "");
    assert_eq!(shell(out.path(), "diff -r copied synced && find copied -name conf | wc -l").trim(), "4");
    // A directory of the source with this name is what it is.
    tiny.commit(&dir([("etc", dir([(".versions", dir([("mine", file(*b"m"))])), ("conf", file(*b"333"))]))]), about(3));
    until(|| top.join("latest/etc/.versions/mine").exists());
    assert_eq!(shell(&top, "ls latest/etc/.versions && ls .versions/etc | grep -c @").trim(), "mine\n5");
    for line in ["touch .versions/x", "rm latest/etc/.versions/mine", "mkdir latest/.versions/y"] {
        assert!(!run("sh", &["-c", line], &top).status.success(), "{line}");
    }
}

#[test]
fn attributes_tell_snapshot_content_and_versions() {
    let tiny = Tiny::new();
    three(&tiny);
    let mounted = Mounted::new(&tiny, MountOptions::default());
    let top = mounted.path("");
    let get =
        |name: &str, path: &str| shell(&top, &format!("getfattr --absolute-names --only-values -n user.yester.{name} {path}"));
    assert_eq!(get("versions", "latest/etc/conf"), TIMES.join("\n"));
    assert_eq!(get("versions", "latest/etc/same"), TIMES[0]);
    assert_eq!(get("versions", "latest/etc"), TIMES.join("\n"));
    let same = get("content", "latest/etc/same");
    assert!(same.len() == 64 && same == get("content", &format!(".versions/etc/same@{}", TIMES[1])));
    assert_ne!(same, get("content", "latest/etc/conf"));
    assert!(shell(&top, "readlink latest").ends_with(&format!("{}\n", &get("snapshot", "latest/etc/conf")[..8])));
    assert_eq!(shell(&top, "getfattr -d -m - latest/etc/conf latest/etc"), "");
    assert!(!run("getfattr", &["-n", "user.yester.content", "latest/etc"], &top).status.success());
    // Nothing else is known where one snapshot is mounted alone.
    let alone = Mounted::latest(&tiny);
    assert!(!alone.path("etc/.versions").exists() && !alone.path(".versions").exists());
    assert!(!run("getfattr", &["-n", "user.yester.versions", "etc/conf"], &alone.path("")).status.success());
    assert_eq!(shell(&alone.path(""), "getfattr --only-values -n user.yester.content etc/same"), same);
}

/// The kernel has no way from an image to what is beside it: there the top of the mount has it.
#[test]
fn below_an_image_the_versions_are_found_from_the_top() {
    if !is_root() {
        return;
    }
    let tiny = Tiny::new();
    three(&tiny);
    let mounted = Mounted::new(&tiny, MountOptions { native: Native::Require, ..MountOptions::default() });
    let top = mounted.path("");
    assert!(!top.join("latest/etc/.versions").exists());
    assert_eq!(shell(&top, "ls .versions/etc | wc -l").trim(), "6");
    assert_eq!(shell(&top, &format!("cat .versions/etc/{} .versions/etc/{}", conf(0), conf(2))), "1333");
}

fn open(tiny: &Tiny, options: MountOptions) -> View {
    View::open(&tiny.repo, &options).unwrap()
}

fn find(view: &View, path: &str) -> u64 {
    let step = |at: u64, name: &str| view.lookup(at, name.as_bytes()).unwrap().unwrap_or_else(|| panic!("{name} of {path}")).ino;
    path.split('/').fold(1, |at, name| if name == "latest" { latest(view) } else { step(at, name) })
}

fn latest(view: &View) -> u64 {
    let link = view.lookup(1, b"latest").unwrap().unwrap();
    find(view, &String::from_utf8(view.readlink(link.ino).unwrap()).unwrap())
}

fn list(view: &View, ino: u64, step: usize) -> Vec<(String, u64)> {
    let (mut out, mut offset) = (Vec::new(), 0);
    loop {
        let mut taken = 0;
        view.readdir(ino, offset, &mut |entry| {
            if taken == step {
                return true;
            }
            taken += 1;
            offset = entry.next;
            out.push((String::from_utf8(entry.name.to_vec()).unwrap(), entry.attr.ino));
            false
        })
        .unwrap();
        if taken == 0 {
            return out.split_off(2);
        }
    }
}

#[test]
fn a_long_list_is_the_same_however_it_is_read() {
    let tiny = Tiny::new();
    let many = |odd: u64| -> Tree {
        dir((0..1500u64).map(|n| (format!("file-{n:05}"), file(noise(if n % 7 == odd { n + 9000 } else { n }, 20)))))
    };
    (0..5).for_each(|number| drop(tiny.commit(&dir([("many", many(number))]), about(number as i64))));
    let view = open(&tiny, MountOptions::default());
    let ino = find(&view, "latest/many/.versions");
    let all = list(&view, ino, usize::MAX);
    // Each fifth of sevenths has a version of its own, and before and after it the common one.
    assert_eq!(all.len(), 1500 + (0..1500).filter(|n| n % 7 < 5).count());
    for step in [1, 7, 500] {
        assert!(list(&view, ino, step) == all, "{step} at a time");
    }
    for (name, number) in all.iter().step_by(97) {
        assert_eq!(view.lookup(ino, name.as_bytes()).unwrap().unwrap().ino, *number);
    }
    let fresh = open(&tiny, MountOptions::default());
    assert!(list(&fresh, ino, 400) == all, "another mount has other numbers");
    // From a place that nobody remembers.
    let mut names = Vec::new();
    let mut take = |name: &[u8]| {
        names.push(name.to_vec());
        names.len() == 3
    };
    fresh.readdir(ino, 1000, &mut |entry| take(entry.name)).unwrap();
    assert_eq!(names[0], all[998].0.as_bytes());
}

#[test]
fn what_was_closed_to_others_does_not_come_out_of_what_is_open() {
    let tiny = Tiny::new();
    let state = |mode: u16, name: &str| {
        let private = dir([(name, file(*b"x"))]).with(|tree| tree.mode = mode);
        dir([("home", dir([("private", private)]))])
    };
    [(0o700, "secret"), (0o755, "open"), (0o755, "newest")].iter().enumerate().for_each(|(number, (mode, name))| {
        tiny.commit(&state(*mode, name), about(number as i64));
    });
    let names = |options: MountOptions| {
        let view = open(&tiny, options);
        let ino = find(&view, "latest/home/private/.versions");
        let closed = view.lookup(ino, format!("secret@{}", TIMES[0]).as_bytes()).unwrap();
        let names: Vec<String> = list(&view, ino, 10).into_iter().map(|(name, _)| name).collect();
        (names.join(" ").replace(TIMES[0], "").replace(TIMES[1], "").replace(TIMES[2], ""), closed.is_some())
    };
    assert_eq!(names(MountOptions::default()), ("newest@ open@ secret@".to_owned(), true));
    assert_eq!(names(MountOptions { allow_other: true, ..MountOptions::default() }), ("newest@ open@".to_owned(), false));
}

#[test]
fn a_damaged_tree_is_an_error_and_other_versions_are_there() {
    let tiny = Tiny::new();
    let first = tiny.commit(&dir([("etc", dir([("conf", file(*b"1"))]))]), about(0));
    tiny.commit(&dir([("etc", dir([("conf", file(*b"22"))]))]), about(1));
    tiny.lose(&first.tree.unwrap());
    let mounted = Mounted::new(&tiny, MountOptions::default());
    let versions = mounted.path("latest/etc/.versions");
    assert_eq!(fs::read_dir(&versions).and_then(|mut all| all.next().unwrap()).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(fs::read(versions.join(conf(0))).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(fs::read(versions.join(conf(1))).unwrap(), b"22");
}
