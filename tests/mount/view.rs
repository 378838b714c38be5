//! The file system without a kernel: what `docs/mount.md` promises, asked of the view.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use yester::model::{Content, GroupPart, Item, Kind, SnapshotId, Timestamp};
use yester::repo::snapshots::SnapshotFilter;
use yester::vfs::MountOptions;
use yester::vfs::View;
use yester::vfs::attr::{Attr, Type, ViewFault};
use yester::vfs::templates::{LinkTemplates, PathTemplate, TimeTemplate};

use crate::common;
use common::mounted::PATIENCE;
use common::program::{World, with};
use common::tiny::{About, CHUNK, Piece, Tiny, Tree, What, dir, file, noise, sparse, symlink};

const ROOT: u64 = 1;

fn open(tiny: &Tiny) -> View {
    View::open(&tiny.repo, &MountOptions::default()).unwrap()
}

/// A mount of the newest snapshot alone.
fn open_latest(tiny: &Tiny) -> View {
    let options = MountOptions { scope: Some(("latest".into(), Vec::new())), ..MountOptions::default() };
    View::open(&tiny.repo, &options).unwrap()
}

/// The attributes of what a path leads to.
fn find(view: &View, path: &str) -> Attr {
    path.split('/').filter(|name| !name.is_empty()).fold(view.getattr(ROOT).unwrap(), |attr, name| {
        view.lookup(attr.ino, name.as_bytes()).unwrap().unwrap_or_else(|| panic!("{name} of {path} is not there"))
    })
}

/// Every entry of a directory but the dots, asked for `step` at a time.
fn list(view: &View, ino: u64, step: usize) -> Vec<(Vec<u8>, Attr, u64)> {
    let (mut out, mut offset) = (Vec::new(), 0);
    loop {
        let mut taken = 0;
        view.readdir(ino, offset, &mut |e| {
            if taken == step {
                return true;
            }
            taken += 1;
            offset = e.next;
            out.push((e.name.to_vec(), e.attr, e.next));
            false
        })
        .unwrap();
        if taken == 0 {
            break;
        }
    }
    assert_eq!((out[0].0.as_slice(), out[1].0.as_slice()), (&b"."[..], &b".."[..]));
    out.split_off(2)
}

fn content(view: &View, ino: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let size = view.getattr(ino).unwrap().size as usize;
    view.read(ino, 0, size + 1, &mut out).unwrap();
    out
}

/// A tree with something of everything; the directory `many` spans several pages.
fn sample() -> Tree {
    let many = (0..5000).map(|n| (format!("file-{n:05}-{}", "x".repeat(20)), file(noise(n, (n % 40) as usize))));
    dir([
        ("big", file(noise(1, 700_001))),
        ("empty", file(*b"")),
        ("hollow", sparse(vec![Piece::Hole(70_000), Piece::Data(noise(2, 25_000)), Piece::Hole(5_000)])),
        ("link", symlink("sub/deeper")),
        ("many", dir(many)),
        ("pipe", Tree::new(What::Fifo)),
        ("sub", dir([("deeper", dir([("deepest", file(noise(3, 100)))])), ("zero", Tree::new(What::Char(1, 5)))])),
    ])
}

/// Compares everything below an inode with the tree it was made of, and gathers inode numbers.
fn compare(view: &View, ino: u64, parent: u64, tree: &Tree, seen: &mut HashMap<u64, Vec<u8>>, path: &[u8]) {
    assert_eq!(seen.insert(ino, path.to_vec()), None, "an inode number is used twice");
    let attr = view.getattr(ino).unwrap();
    assert_eq!((attr.ino, attr.mode, attr.uid, attr.mtime), (ino, tree.mode, tree.owner.0, tree.mtime));
    match &tree.what {
        What::Dir(entries) => {
            let mut dots = Vec::new();
            view.readdir(ino, 0, &mut |e| {
                dots.push((e.name.to_vec(), e.attr.ino));
                dots.len() == 2
            })
            .unwrap();
            assert_eq!(dots, [(b".".to_vec(), ino), (b"..".to_vec(), parent)]);
            let listed = list(view, ino, 1000);
            assert_eq!(listed.iter().map(|e| &e.0).collect::<Vec<_>>(), entries.keys().collect::<Vec<_>>());
            let subdirs = entries.values().filter(|t| matches!(t.what, What::Dir(_))).count();
            assert_eq!(attr.nlink as usize, subdirs + 2);
            for (name, shown, _) in listed {
                let looked_up = view.lookup(ino, &name).unwrap().unwrap();
                assert_eq!(looked_up, shown);
                compare(view, looked_up.ino, ino, &entries[&name], seen, &[path, b"/", &name].concat());
            }
            assert!(view.lookup(ino, b"no such name").unwrap().is_none());
        }
        What::File(_) => assert_eq!(content(view, ino), tree.bytes()),
        What::Symlink(target) => assert_eq!(view.readlink(ino).unwrap(), *target),
        What::Char(major, minor) => assert_eq!((attr.kind, attr.rdev), (Type::CharDevice, (*major, *minor))),
        _ => {}
    }
}

#[test]
fn every_inode_is_one_path_and_stays_so() {
    let tiny = Tiny::new();
    let tree = sample();
    tiny.commit(&tree, About::at(1_000_000_000));
    let (view, again) = (open(&tiny), open(&tiny));
    let ids = find(&view, "ids").ino;
    let root = list(&view, ids, 10)[0].1.ino;
    assert!((1 << 32..1 << 62).contains(&root));
    let mut seen = HashMap::new();
    compare(&view, root, ids, &tree, &mut seen, b"");
    // The numbers are the same in a second mount, also for one that never saw the way to them.
    for (ino, path) in &seen {
        assert_eq!(again.getattr(*ino).unwrap(), view.getattr(*ino).unwrap(), "{}", String::from_utf8_lossy(path));
    }
    // One past the last node is nothing.
    let last = seen.keys().max().unwrap();
    assert!(matches!(view.getattr(last + 1), Err(ViewFault::Stale)));
    assert_eq!(seen.len() as u64, last - root + 1);
}

#[test]
fn a_snapshot_or_a_directory_of_one_at_the_root() {
    let tiny = Tiny::new();
    let tree = sample();
    let id = tiny.commit(&tree, About::at(1)).id.to_string();
    compare(&open_latest(&tiny), ROOT, ROOT, &tree, &mut HashMap::new(), b"");
    let scoped = |path: &str| {
        let options = MountOptions { scope: Some((id[..8].to_owned(), path.into())), ..MountOptions::default() };
        View::open(&tiny.repo, &options)
    };
    compare(&scoped("/sub/").unwrap(), ROOT, ROOT, &tree.entries()[&b"sub"[..]], &mut HashMap::new(), b"");
    for (path, why) in [("/nowhere", "not in the snapshot"), ("/big", "not a directory"), ("/big/x", "no directory")] {
        let error = scoped(path).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn listings_go_on_from_every_offset() {
    let tiny = Tiny::new();
    tiny.commit(&sample(), About::at(1));
    let view = open_latest(&tiny);
    let many = find(&view, "many").ino;
    let whole = list(&view, many, usize::MAX);
    assert_eq!(whole.len(), 5000);
    assert_eq!(list(&view, many, 7), whole);
    for at in [0, 1, 777, 4998, 4999] {
        let mut rest = Vec::new();
        view.readdir(many, whole[at].2, &mut |e| {
            rest.push(e.name.to_vec());
            false
        })
        .unwrap();
        let wanted: Vec<Vec<u8>> = whole[at + 1..].iter().map(|e| e.0.clone()).collect();
        assert_eq!(rest, wanted, "after entry {at}");
    }
    let mut past = 0;
    view.readdir(many, u64::MAX >> 1, &mut |_| {
        past += 1;
        false
    })
    .unwrap();
    assert_eq!(past, 0);
}

#[test]
fn links_share_an_inode() {
    let tiny = Tiny::new();
    let linked = |size| file(noise(9, size)).with(|t| t.link = Some("one"));
    let tree = dir([
        ("a", dir([("x", linked(20_000))])),
        ("b", linked(20_000)),
        ("c", file(noise(9, 20_000))),
        ("d", dir([("y", linked(20_000))])),
    ]);
    tiny.commit(&tree, About::at(1));
    let view = open_latest(&tiny);
    let (x, b, c, y) = (find(&view, "a/x"), find(&view, "b"), find(&view, "c"), find(&view, "d/y"));
    assert_eq!((x, x), (b, y));
    assert_eq!((x.nlink, c.nlink), (3, 1));
    assert_ne!(x.ino, c.ino);
    assert_eq!(view.getattr(y.ino).unwrap(), y);
    assert_eq!(content(&view, y.ino), noise(9, 20_000));
    assert!(list(&view, ROOT, 100).iter().any(|(name, attr, _)| name == b"b" && *attr == b));
}

#[test]
fn attributes_of_other_kinds() {
    let tiny = Tiny::new();
    tiny.commit(&sample(), About::at(1));
    let view = open_latest(&tiny);
    assert_eq!(find(&view, "link").size, 10);
    assert_eq!(find(&view, "hollow").blocks, 25_000u64.div_ceil(512));
    assert_eq!(find(&view, "hollow").size, 100_000);
    assert_eq!(find(&view, "big").blocks, 700_001u64.div_ceil(512));
    assert_eq!(find(&view, "empty").blocks, 0);
    assert_eq!(find(&view, "pipe").kind, Type::Fifo);
    let big = find(&view, "big").ino;
    assert!(matches!(view.readlink(big), Err(ViewFault::Invalid)));
    assert!(matches!(view.lookup(big, b"x"), Err(ViewFault::NotDirectory)));
    assert!(matches!(view.read(ROOT, 0, 1, &mut Vec::new()), Err(ViewFault::IsDirectory)));
    let pipe = find(&view, "pipe").ino;
    assert!(matches!(view.read(pipe, 0, 1, &mut Vec::new()), Err(ViewFault::Invalid)));
}

#[test]
fn holes_are_found() {
    let tiny = Tiny::new();
    tiny.commit(&sample(), About::at(1));
    let view = open_latest(&tiny);
    let hollow = find(&view, "hollow").ino;
    for (from, data, hole) in [(0, 70_000, 0), (69_999, 70_000, 69_999), (70_000, 70_000, 95_000), (94_999, 94_999, 95_000)] {
        assert_eq!(view.seek_data(hollow, from).unwrap(), data, "data from {from}");
        assert_eq!(view.seek_hole(hollow, from).unwrap(), hole, "a hole from {from}");
    }
    assert!(matches!(view.seek_data(hollow, 95_000), Err(ViewFault::PastEnd)));
    assert_eq!(view.seek_hole(hollow, 99_999).unwrap(), 99_999);
    assert!(matches!(view.seek_hole(hollow, 100_000), Err(ViewFault::PastEnd)));
    let big = find(&view, "big").ino;
    assert_eq!((view.seek_data(big, 5).unwrap(), view.seek_hole(big, 5).unwrap()), (5, 700_001));
    let small = find(&view, "sub/deeper/deepest").ino;
    assert_eq!((view.seek_data(small, 5).unwrap(), view.seek_hole(small, 5).unwrap()), (5, 100));
    assert!(matches!(view.seek_hole(find(&view, "empty").ino, 0), Err(ViewFault::PastEnd)));
}

#[test]
fn attributes_of_the_mount_are_readable_but_not_listed() {
    let tiny = Tiny::new();
    let birth = Some(Timestamp { secs: -5, nanos: 7 });
    let tree = dir([
        ("plain", file(*b"p").with(|t| t.birth = birth)),
        ("rich", file(*b"r").with(|t| t.xattrs = vec![(b"user.b".to_vec(), b"2".to_vec()), (b"user.a".to_vec(), Vec::new())])),
    ]);
    let id = tiny.commit(&tree, About::at(1)).id;
    let view = open_latest(&tiny);
    let (plain, rich) = (find(&view, "plain").ino, find(&view, "rich").ino);
    assert_eq!(view.listxattr(rich).unwrap(), [b"user.a".to_vec(), b"user.b".to_vec()]);
    assert_eq!(view.getxattr(rich, b"user.b").unwrap(), b"2");
    assert_eq!(view.getxattr(rich, b"user.a").unwrap(), b"");
    assert!(view.listxattr(plain).unwrap().is_empty());
    assert!(matches!(view.getxattr(plain, b"user.b"), Err(ViewFault::NoAttribute)));
    assert_eq!(view.getxattr(rich, b"user.yester.snapshot").unwrap(), id.to_string().into_bytes());
    assert_eq!(view.getxattr(plain, b"user.yester.btime").unwrap(), b"-5.000000007");
    assert!(matches!(view.getxattr(rich, b"user.yester.btime"), Err(ViewFault::NoAttribute)));
}

#[test]
fn acls_do_not_let_in_the_group_when_the_kernel_does_not_judge_them() {
    let tiny = Tiny::new();
    // user:1000:rw-, group::---, mask::rw-: the mode's group bits are the mask.
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x06\0\xe8\x03\0\0\x04\0\0\0\xff\xff\xff\xff\x10\0\x06\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    let secret = file(*b"s").with(|t| {
        t.mode = 0o660;
        t.xattrs = vec![(b"system.posix_acl_access".to_vec(), acl.to_vec())];
    });
    tiny.commit(&dir([("secret", secret)]), About::at(1));
    let view = open_latest(&tiny);
    assert_eq!(find(&view, "secret").mode, 0o600);
    view.kernel_judges_acls(true);
    assert_eq!(find(&view, "secret").mode, 0o660);
}

#[test]
fn owner_root_hides_owners() {
    let tiny = Tiny::new();
    tiny.commit(&dir([("f", file(*b"f").with(|t| t.owner = (1000, 1001)))]), About::at(1));
    assert_eq!((find(&open_latest(&tiny), "f").uid, find(&open_latest(&tiny), "f").gid), (1000, 1001));
    let options = MountOptions { owner_root: true, ..MountOptions::default() };
    let view = View::open(&tiny.repo, &options).unwrap();
    let f = find(&view, "ids");
    let f = view.lookup(list(&view, f.ino, 9)[0].1.ino, b"f").unwrap().unwrap();
    assert_eq!((f.uid, f.gid), (0, 0));
}

#[test]
fn the_root_leads_to_every_snapshot() {
    let tiny = Tiny::new();
    let names = |view: &View, path: &str| -> Vec<String> {
        let mut out: Vec<String> =
            list(view, find(view, path).ino, 3).into_iter().map(|(n, ..)| String::from_utf8(n).unwrap()).collect();
        out.sort();
        out
    };
    let target = |view: &View, path: &str| String::from_utf8(view.readlink(find(view, path).ino).unwrap()).unwrap();
    let empty = open(&tiny);
    assert_eq!(names(&empty, ""), ["hosts", "ids", "series", "snapshots", "tags"]);
    let one = tiny.commit_as(SnapshotId([0x11; 32]), &dir([("f", file(*b"1"))]), About::at(1_763_633_051));
    let about = About { host: "a/b", tags: vec!["daily", "."], paths: vec!["/etc", "/srv/x"], time: 1_763_633_051 };
    let two = tiny.commit_as(SnapshotId([0x22; 32]), &dir([("f", file(*b"2"))]), about);
    let view = open(&tiny);
    assert_eq!(names(&view, ""), ["hosts", "ids", "latest", "series", "snapshots", "tags"]);
    assert_eq!(names(&view, "ids"), [one.id.short(), two.id.short()]);
    assert_eq!(names(&view, "snapshots"), ["2025-11-20T10-04-11Z", "2025-11-20T10-04-11Z-2222", "latest"]);
    assert_eq!(names(&view, "hosts"), ["a%2Fb", "web1"]);
    assert_eq!(names(&view, "tags"), ["%2E", "daily"]);
    assert_eq!(names(&view, "series"), ["a%2Fb-etc+srv-x", "web1-etc"]);
    assert_eq!(target(&view, "latest"), "ids/22222222");
    assert_eq!(target(&view, "snapshots/latest"), "../ids/22222222");
    assert_eq!(target(&view, "hosts/web1/latest"), "../../ids/11111111");
    assert_eq!(target(&view, "tags/daily/2025-11-20T10-04-11Z-2222"), "../../ids/22222222");
    assert_eq!(content(&view, find(&view, "ids/11111111/f").ino), b"1");
    assert_eq!(find(&view, "").nlink, 2 + 5);
    assert_eq!(find(&view, "hosts").nlink, 2 + 2);
    let totals = view.totals();
    assert_eq!((totals.bytes, totals.entries), (2 * 12_345, 4));

    let only = |filter| View::open(&tiny.repo, &MountOptions { filter, ..MountOptions::default() }).unwrap();
    let web = only(SnapshotFilter { hosts: vec![b"web1".to_vec()], ..SnapshotFilter::default() });
    assert_eq!((names(&web, "ids"), target(&web, "latest")), (vec![one.id.short()], "ids/11111111".to_owned()));
}

/// What is asked for is read again: other tags, and what the filter says of them. Whoever is in a snapshot stays there.
#[test]
fn a_list_anew_shows_other_tags() {
    let tiny = Tiny::new();
    let made = tiny.commit_as(SnapshotId([0x11; 32]), &dir([("f", file(*b"1"))]), About { tags: vec!["a"], ..About::at(1) });
    let filter = SnapshotFilter { tags: vec![vec![b"a".to_vec()]], ..SnapshotFilter::default() };
    let (all, only) = (open(&tiny), View::open(&tiny.repo, &MountOptions { filter, ..MountOptions::default() }).unwrap());
    let f = find(&all, "ids/11111111/f").ino;
    let tags = |view: &View| list(view, find(view, "tags").ino, 9).into_iter().map(|e| e.0).collect::<Vec<_>>();
    let said = yester::repo::annotations::read_all(&tiny.repo).unwrap();
    let annotation = yester::model::Annotation {
        snapshot: made.id,
        time: Timestamp { secs: 2, nanos: 0 },
        host: Vec::new(),
        user: Vec::new(),
        clears_tags: true,
        removed: Vec::new(),
        added: vec![b"b".to_vec()],
        note: None,
        pin: None,
    };
    yester::repo::annotations::write(&tiny.repo, &said, &annotation).unwrap();
    all.refresh();
    assert_eq!(tags(&all), [b"a"]);
    all.refresh_anew();
    only.refresh_anew();
    assert_eq!(tags(&all), [b"b"]);
    assert!(tags(&only).is_empty() && list(&only, find(&only, "ids").ino, 9).is_empty());
    assert_eq!((find(&all, "ids/11111111/f").ino, content(&all, f), content(&only, f)), (f, b"1".to_vec(), b"1".to_vec()));
}

/// Names by templates; in the root nothing is hidden by them, and nothing in a directory is twice.
#[test]
fn templates_make_directories_of_links() {
    let tiny = Tiny::new();
    let about = |host, tags, secs| About { host, tags, paths: vec!["/etc"], time: 1_763_633_051_i64 + secs };
    let tree = |n: u8| dir([("f", file(vec![n]))]);
    tiny.commit_as(SnapshotId([0x11; 32]), &tree(b'1'), about("web1", vec!["daily", "."], 0));
    tiny.commit_as(SnapshotId([0x22; 32]), &tree(b'2'), about("web1", vec![], 1));
    tiny.commit_as(SnapshotId([0x33; 32]), &tree(b'3'), about("hosts", vec!["daily"], 60));
    let paths = ["by/%h/%u-%T", "by/%h", "%h/%T/%i", "tagged/%t/%I", "minutes/%T"].map(|t| PathTemplate::parse(t).unwrap());
    let time = Some(TimeTemplate::parse("2006-01-02 15:04").unwrap());
    let templates = LinkTemplates { paths: paths.to_vec(), time };
    let view = View::open(&tiny.repo, &MountOptions { templates, ..MountOptions::default() }).unwrap();
    let names = |path: &str| -> Vec<String> {
        let mut names: Vec<String> =
            list(&view, find(&view, path).ino, 100).into_iter().map(|e| String::from_utf8(e.0).unwrap()).collect();
        names.sort();
        names
    };
    let target = |path: &str| String::from_utf8(view.readlink(find(&view, path).ino).unwrap()).unwrap();
    // A host is called as a directory that is there.
    let root = ["by", "hosts", "hosts~1", "ids", "latest", "minutes", "series", "snapshots", "tagged", "tags", "web1"];
    assert_eq!(names(""), root);
    assert_eq!(names("by/web1"), ["latest", "root-2025-11-20 10:04", "root-2025-11-20 10:04-2222"]);
    assert_eq!(target("by/web1/latest"), "../../ids/22222222");
    // The second template's links have names that the first one's directories leave.
    assert_eq!(names("by"), ["hosts", "hosts-3333", "web1", "web1-1111", "web1-2222"]);
    assert_eq!(target("by/hosts-3333"), "../ids/33333333");
    assert_eq!(names("web1"), ["2025-11-20 10:04"]);
    assert_eq!(names("web1/2025-11-20 10:04"), ["11111111", "22222222"]);
    assert_eq!(names("tagged"), ["%2E", "daily"]);
    assert_eq!(names("tagged/daily"), [SnapshotId([0x11; 32]).to_string(), SnapshotId([0x33; 32]).to_string()]);
    assert_eq!(names("minutes"), ["2025-11-20 10:04", "2025-11-20 10:04-2222", "2025-11-20 10:05", "latest"]);
    assert_eq!(target("minutes/latest"), "../ids/33333333");
    // Where times were before; versions are named as ever.
    assert_eq!(names("snapshots"), names("minutes"));
    let versions = names("hosts/web1/.versions");
    assert_eq!(versions, ["f@2025-11-20T10-04-11Z", "f@2025-11-20T10-04-12Z"]);
    assert_eq!(find(&view, "").nlink, 2 + 10);
    let f = ["by/web1/latest", "minutes/latest"].map(|path| target(path).replace("../", ""));
    assert_eq!(f.map(|path| content(&view, find(&view, &format!("{path}/f")).ino)), [b"2", b"3"]);
    // All are the same inodes in the next mount, and the next list.
    let numbers = || names("by/web1").iter().map(|name| find(&view, &format!("by/web1/{name}")).ino).collect::<Vec<_>>();
    let before = numbers();
    view.refresh();
    assert_eq!(numbers(), before);
}

#[test]
fn groups_lead_to_the_parts_of_their_members() {
    let tiny = Tiny::new();
    let part = |group: u8, member: &str| Some(GroupPart { group: SnapshotId([group; 32]), member: member.into() });
    for (n, of) in [(1, part(0xaa, "db1")), (2, part(0xaa, "db/2")), (3, part(0xbb, "db1")), (4, None)] {
        tiny.commit_part(SnapshotId([n; 32]), &dir([("f", file(vec![b'0' + n]))]), About::at(i64::from(n)), of);
    }
    // Another one whose id begins in the same way.
    let mut same = [0xaa; 32];
    same[31] = 0;
    let of = Some(GroupPart { group: SnapshotId(same), member: b"db1".to_vec() });
    tiny.commit_part(SnapshotId([5; 32]), &dir([("f", file(*b"5"))]), About::at(5), of);
    let view = open(&tiny);
    let names = |path: &str| -> Vec<String> {
        let listed = list(&view, find(&view, path).ino, 9);
        let mut out: Vec<String> = listed.into_iter().map(|(n, ..)| String::from_utf8(n).unwrap()).collect();
        out.sort();
        out
    };
    assert!(names("").contains(&"groups".to_owned()));
    assert_eq!(names("groups"), ["aaaaaaaa".to_owned(), SnapshotId(same).to_string(), "bbbbbbbb".to_owned()]);
    assert_eq!(names("groups/aaaaaaaa"), ["db%2F2", "db1"]);
    let target = |path: &str| String::from_utf8(view.readlink(find(&view, path).ino).unwrap()).unwrap();
    assert_eq!(target("groups/aaaaaaaa/db1"), "../../ids/01010101");
    assert_eq!(target("groups/aaaaaaaa/db%2F2"), "../../ids/02020202");
    assert_eq!(target("groups/bbbbbbbb/db1"), "../../ids/03030303");
    assert_eq!(find(&view, "groups").nlink, 2 + 3);
}

#[test]
fn snapshots_come_and_go_in_a_running_mount() {
    let tiny = Tiny::new();
    let one = tiny.commit_as(SnapshotId([0x11; 32]), &dir([("f", file(noise(1, 30_000)))]), About::at(100));
    let view = open(&tiny);
    let changes = view.changes();
    let (old_latest, old_time) = (find(&view, "latest").ino, find(&view, "snapshots").mtime);
    let f = find(&view, "ids/11111111/f").ino;
    view.refresh();
    assert!(changes.try_recv().is_err(), "nothing changed");
    assert_eq!(find(&view, "snapshots").mtime, old_time);

    tiny.commit_as(SnapshotId([0x22; 32]), &dir([("f", file(noise(2, 30_000)))]), About::at(200));
    view.refresh();
    // A link with another target has another number: the kernel keeps targets.
    assert_ne!(find(&view, "latest").ino, old_latest);
    assert!(matches!(view.readlink(old_latest), Err(ViewFault::Stale)));
    assert_ne!(find(&view, "snapshots").mtime, old_time);
    assert_eq!(content(&view, find(&view, "ids/22222222/f").ino), noise(2, 30_000));
    let told: Vec<_> = changes.try_iter().collect();
    let latest = yester::vfs::root::Invalidation::Entry { parent: ROOT, name: b"latest".to_vec() };
    assert!(told.contains(&latest), "{told:?}");

    tiny.forget(one.id);
    view.refresh();
    assert!(view.lookup(find(&view, "ids").ino, b"11111111").unwrap().is_none());
    let gone = yester::vfs::root::Invalidation::Entry { parent: find(&view, "ids").ino, name: b"11111111".to_vec() };
    assert!(changes.try_iter().any(|c| c == gone));
    // Who has a file of it open reads on while the data is there.
    assert_eq!(content(&view, f), noise(1, 30_000));
}

#[test]
fn damage_is_an_error_of_its_own_and_the_rest_works() {
    let tiny = Tiny::new();
    let (bad, good) = (noise(1, 50_000), noise(2, 200_000));
    let tree = dir([("bad", file(bad.clone())), ("good", file(good.clone()))]);
    let made = tiny.commit(&tree, About::at(1));
    let key = tiny.repo.keys().chunk_id(yester::format::pack::PackKind::Data, &bad[..CHUNK]);
    tiny.damage(made.data.as_ref().unwrap(), &key);
    let view = open_latest(&tiny);
    let mut out = Vec::new();
    for _ in 0..2 {
        let answer = view.read(find(&view, "bad").ino, 0, 1000, &mut out);
        assert!(matches!(answer, Err(ViewFault::Unreadable(_))), "{answer:?}");
    }
    assert_eq!(content(&view, find(&view, "good").ino)[100_000..], good[100_000..]);
    // The damaged frame holds what is at the beginning; what is behind it can be read.
    view.read(find(&view, "bad").ino, 45_000, 9_000, &mut out).unwrap();
    assert_eq!(out, &bad[45_000..]);
}

#[test]
fn a_lost_tree_is_unreadable_and_not_empty() {
    let tiny = Tiny::new();
    let made = tiny.commit(&dir([("f", file(noise(1, 100)))]), About::at(1));
    tiny.commit(&dir([("g", file(*b"g"))]), About::at(2));
    tiny.lose(made.tree.as_ref().unwrap());
    let view = open(&tiny);
    let lost = find(&view, &format!("ids/{}", made.id.short())).ino;
    assert!(matches!(view.lookup(lost, b"f"), Err(ViewFault::Unreadable(_))));
    assert!(matches!(view.lookup(lost, b"other"), Err(ViewFault::Unreadable(_))));
    assert!(matches!(view.readdir(lost, 2, &mut |_| false), Err(ViewFault::Unreadable(_))));
    let latest = String::from_utf8(view.readlink(find(&view, "latest").ino).unwrap()).unwrap();
    assert_eq!(content(&view, find(&view, &format!("{latest}/g")).ino), b"g");
}

#[test]
fn a_damaged_snapshot_does_not_hide_the_others() {
    let tiny = Tiny::new();
    let bad = tiny.commit(&dir([("f", file(*b"1"))]), About::at(1)).id;
    let good = tiny.commit(&dir([("f", file(*b"2"))]), About::at(2)).id;
    tiny.storage.damage(&yester::storage::Name::Snapshot(bad), |bytes| bytes[60] ^= 1);
    let view = open(&tiny);
    let ids: Vec<Vec<u8>> = list(&view, find(&view, "ids").ino, 9).into_iter().map(|e| e.0).collect();
    assert_eq!(ids, [good.short().into_bytes()]);
}

#[test]
fn who_reads_file_after_file_finds_frames_decoded_once() {
    let tiny = Tiny::new();
    let files = (0..400).map(|n| (format!("f{n:03}"), file(noise(n, 9_000))));
    let made = tiny.commit(&dir(files), About::at(1));
    let frames = made.data.as_ref().unwrap().entries.len() as u64 + made.tree.as_ref().unwrap().entries.len() as u64;
    let view = open_latest(&tiny);
    for n in 0..400 {
        assert_eq!(content(&view, find(&view, &format!("f{n:03}")).ino), noise(n, 9_000));
    }
    assert!(view.counts().frames.get() <= frames, "{} decodes of {frames} frames", view.counts().frames.get());
}

#[test]
fn a_reader_in_order_is_run_ahead_of() {
    let tiny = Tiny::new();
    let files = (0..400).map(|n| (format!("f{n:03}"), file(noise(n, 9_000))));
    tiny.commit(&dir(files), About::at(1));
    let view = open_latest(&tiny);
    for n in 0..4 {
        content(&view, find(&view, &format!("f{n:03}")).ino);
    }
    // Four files are two frames; what is decoded beyond them was decoded ahead.
    let ahead = || view.counts().decoded.get();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(300);
    while ahead() < 512 << 10 && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(ahead() >= 512 << 10, "only {} bytes were decoded", ahead());
}

/// What a view gave to a kernel that is not there: by inode, offset, bytes.
type GivenBytes = Arc<Mutex<Vec<(u64, u64, Vec<u8>)>>>;

/// Waits until everything of `ino` in the range was given, and is what it must be.
fn is_given(given: &GivenBytes, ino: u64, range: std::ops::Range<u64>, content: &[u8]) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(300);
    let mut at = range.start;
    while at < range.end {
        let given =
            given.lock().unwrap().iter().find(|(i, from, b)| *i == ino && (*from..from + b.len() as u64).contains(&at)).cloned();
        match given {
            Some((_, from, bytes)) => {
                assert_eq!(bytes, content[from as usize..from as usize + bytes.len()]);
                at = from + bytes.len() as u64;
            }
            None => {
                assert!(std::time::Instant::now() < deadline, "what is at {at} was not given");
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
    }
}

#[test]
fn a_long_file_is_given_before_it_is_asked_for() {
    let tiny = Tiny::new();
    let bytes = noise(1, 12 << 20);
    tiny.commit(&dir([("db", file(bytes.clone()))]), About::at(1));
    let view = open_latest(&tiny);
    let given = GivenBytes::default();
    let kernel = given.clone();
    view.connect(Box::new(move |ino, offset, bytes| {
        kernel.lock().unwrap().push((ino, offset, bytes.to_vec()));
        Ok(())
    }));
    let db = find(&view, "db").ino;
    let (mut out, mut at) = (Vec::new(), 0);
    let ask = 128 << 10;
    let mut read = |at: u64, size: u64| {
        view.read(db, at, size as usize, &mut out).unwrap();
        assert_eq!(out, bytes[at as usize..(at + size) as usize]);
    };
    while at < 4 * ask {
        read(at, ask);
        at += ask;
    }
    // Nothing is given where the kernel reads ahead on its own; then a window, and one page that tells how far the
    // reader is.
    let begin = at + (256 << 10);
    let page = begin + (1 << 20);
    is_given(&given, db, begin..page, &bytes);
    read(at, ask);
    is_given(&given, db, page + 4096..page + (2 << 20), &bytes);
    let was_given = |at: u64| given.lock().unwrap().iter().any(|(_, from, b)| (*from..from + b.len() as u64).contains(&at));
    assert!(!was_given(begin - 1) && !was_given(page));
    // The reader is there: what comes after the next window follows.
    let next = page + 4096 + (2 << 20);
    assert!(!was_given(next + 4096));
    read(page, 4096);
    let last = next + 4096 + (4 << 20);
    is_given(&given, db, next + 4096..last, &bytes);
    read(next, 4096);
    is_given(&given, db, last + 4096..12 << 20, &bytes);
    assert!(!was_given(last));
}

#[test]
fn random_readers_are_not_run_ahead_of() {
    let tiny = Tiny::new();
    let size = 4_000_000;
    tiny.commit(&dir([("db", file(noise(1, size)))]), About::at(1));
    let view = open_latest(&tiny);
    let db = find(&view, "db").ino;
    let mut out = Vec::new();
    for n in [3_900_000, 100_000, 2_600_000, 1_300_000] {
        view.read(db, n, 4096, &mut out).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    // A read needs at most two frames of 40 KiB; the recipe and the directory are one of the tree.
    assert!(view.counts().decoded.get() < 500_000, "{} bytes were decoded", view.counts().decoded.get());
}

#[test]
fn too_little_memory_is_refused() {
    let tiny = Tiny::new();
    let options = MountOptions { memory: 1000, ..MountOptions::default() };
    assert!(View::open(&tiny.repo, &options).is_err());
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = prop_oneof![
        (any::<u64>(), 1..30_000usize).prop_map(|(seed, len)| Piece::Data(noise(seed, len))),
        (1..50_000u64).prop_map(Piece::Hole),
    ];
    prop::collection::vec(piece, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_read_is_a_slice(pieces in pieces(), ranges in prop::collection::vec((0..300_000u64, 0..70_000usize), 1..12)) {
        let tiny = Tiny::new();
        let tree = dir([("f", sparse(pieces))]);
        tiny.commit(&tree, About::at(1));
        let view = open_latest(&tiny);
        let (ino, whole) = (find(&view, "f").ino, tree.entries()[&b"f"[..]].bytes());
        let mut out = Vec::new();
        for (offset, size) in ranges.into_iter().chain([(whole.len() as u64, 1), (u64::MAX - 1, 9)]) {
            view.read(ino, offset, size, &mut out).unwrap();
            let start = whole.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
            let end = whole.len().min(start.saturating_add(size));
            prop_assert_eq!(&out[..], &whole[start..end]);
        }
    }
}

#[test]
fn many_threads_ask_at_once() {
    let tiny = Tiny::new();
    let tree = Arc::new(sample());
    tiny.commit(&tree, About::at(1));
    let view = Arc::new(open_latest(&tiny));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (view, tree) = (view.clone(), tree.clone());
            std::thread::spawn(move || compare(&view, ROOT, ROOT, &tree, &mut HashMap::new(), b""))
        })
        .collect();
    workers.into_iter().for_each(|w| w.join().unwrap());
}

// The sample's largest file has a recipe of its own tree, its small ones are in their nodes: all three forms are read.
#[test]
fn the_sample_has_every_form_of_content() {
    let tiny = Tiny::new();
    let made = tiny.commit(&sample(), About::at(1));
    let index = Arc::new(yester::repo::index::Index::load(&tiny.repo).unwrap());
    let chunks = Arc::new(yester::repo::reader::ChunkReader::new(tiny.repo.clone(), index, 1 << 24).unwrap());
    let trees = yester::repo::tree::TreeReader::new(chunks, 1 << 24).unwrap();
    let content = |path: &[&[u8]]| match trees.walk_to(&made.root, path).unwrap().0.kind {
        Kind::File(content) => content,
        other => panic!("{other:?}"),
    };
    assert!(matches!(content(&[b"big"]), Content::Tree { .. }));
    assert!(matches!(&content(&[b"hollow"]), Content::Items(items) if matches!(items[0], Item::Hole { .. })));
    assert!(matches!(content(&[b"many", format!("file-00001-{}", "x".repeat(20)).as_bytes()]), Content::Inline(_)));
    assert!(made.root.directory().unwrap().root.unwrap().height == 0);
    let many = trees.walk_to(&made.root, &[b"many"]).unwrap().0;
    assert!(many.directory().unwrap().root.unwrap().height > 0, "the long directory is one page only");
}

/// Nobody looks at the root: the mount is told by the system, so that `ingest && cp m/latest/…` copies the new one.
#[test]
fn a_new_snapshot_in_a_local_repository_is_told_at_once() {
    let world = World::new();
    let options = world.repository();
    world.file("src/a", "x");
    world.run(&with(&options, &["ingest", "src"])).ok();
    let view = View::open(&Arc::new(world.open_repository()), &MountOptions::default()).unwrap();
    let changes = view.changes();
    world.file("src/b", "y");
    world.run(&with(&options, &["ingest", "src"])).ok();
    let latest = yester::vfs::root::Invalidation::Entry { parent: ROOT, name: b"latest".to_vec() };
    while changes.recv_timeout(PATIENCE).expect("the mount is told") != latest {}
}

/// What the kernel asks for when it knows no more than a number, as an NFS server does.
#[test]
fn an_inode_is_found_by_itself_and_its_directory() {
    let tiny = Tiny::new();
    tiny.commit_as(SnapshotId([0x11; 32]), &dir([("d", dir([("e", dir([("f", file(*b"x"))]))]))]), About::at(100));
    let view = open(&tiny);
    let (d, e, f) = (find(&view, "ids/11111111/d"), find(&view, "ids/11111111/d/e"), find(&view, "ids/11111111/d/e/f"));
    for attr in [&d, &e, &f, &find(&view, "latest"), &find(&view, "ids/11111111")] {
        assert_eq!(view.lookup(attr.ino, b".").unwrap().unwrap().ino, attr.ino);
    }
    let up = |ino: u64| view.lookup(ino, b"..").unwrap().unwrap().ino;
    assert_eq!((up(e.ino), up(d.ino)), (d.ino, find(&view, "ids/11111111").ino));
    assert_eq!((up(find(&view, "ids/11111111").ino), up(find(&view, "snapshots").ino)), (find(&view, "ids").ino, ROOT));
    assert!(matches!(view.lookup(f.ino, b".."), Err(ViewFault::NotDirectory)));
}
