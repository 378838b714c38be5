//! Rows 39 to 53: snapshots and trees that no writer of ours makes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use yester::chunk::seal;
use yester::format::cursor::Put;
use yester::format::envelope::ObjectType;
use yester::format::pack::{Codec, PackKind};
use yester::format::page::{self, LinkEntry, PageKind};
use yester::format::{node as format, snapshot};
use yester::model::{Content, Directory, Item, Kind, LinkGroup, Node, Root, SnapshotId, Timestamp, Xattrs};
use yester::repo::index::segment::Segment;
use yester::storage::{Class, Name};

use crate::bad_input::{Nobody, Place, Small, is_root};
use crate::common::forge::{self, Forge, RawPack, inline, node};

/// A repository whose only snapshot has the root that `make` makes.
fn forged(make: impl FnOnce(&mut Forge<'_>) -> Node) -> Place {
    let place = Place::new();
    let mut forge = Forge::new(&place.repo);
    let root = make(&mut forge);
    forge.commit(root, |_| {});
    place
}

/// A root with a directory `d` whose only leaf has these bytes, and a file `whole`.
fn with_leaf(bytes: Vec<u8>, entries: u64) -> impl FnOnce(&mut Forge<'_>) -> Node {
    move |forge| {
        let root = Some(Root { page: forge.page(&bytes), height: 0 });
        let directory = Directory { root, entries, descendants: entries, subdirs: 0 };
        forge.dir("", &[node("d", Kind::Directory(directory)), inline("whole", "whole")])
    }
}

/// The bytes of a leaf with these nodes.
fn leaf(nodes: &[Node]) -> Vec<u8> {
    let mut bytes = Vec::new();
    page::start(PageKind::Directory, 0, &mut bytes);
    nodes.iter().for_each(|node| format::encode_unchecked(node, &mut bytes));
    bytes
}

/// Who lists, checks or restores is told `words`; a restore takes the rest and nothing of `d`.
#[track_caller]
fn refused(place: &Place, words: &[&str]) {
    place.run(&["ls", "latest:/d"]).fails(1, words);
    let run = place.run(&["check"]);
    assert_eq!(run.code, Some(1), "{}\n{}", run.text(), run.err);
    words.iter().for_each(|word| assert!(run.err.contains(word), "{word:?} is not in {}", run.err));
    assert!(run.err.contains(":/d: a part of the directory is lost"), "{}", run.err);
    place.restores(3, words, &["whole"]);
    assert!(!place.world.at("evil").exists());
}

#[test]
fn row_39_snapshots_of_impossible_times() {
    let place = Place::with_files();
    // The year 2500, the year -1, and times that no calendar has.
    for secs in [16_725_225_600, -62_198_755_200, i64::MAX, i64::MIN] {
        let mut forge = Forge::new(&place.repo);
        let root = forge.dir("", &[inline("f", "f")]);
        let time = Timestamp { secs, nanos: 999_999_999 };
        let (snapshot, _) = forge.commit(root, |s| (s.time, s.finished, s.scan_start) = (time, time, time));
        let id = &snapshot.id.to_string()[..8];
        place.run(&["cat", &format!("{id}:/f")]).ok();
        assert!(place.run(&["snapshots"]).ok().text().contains(id));
        assert_eq!(place.run(&["snapshots", "--json"]).ok().json().iter().filter(|s| s["short_id"] == id).count(), 1);
    }
    place.run(&["check"]).ok();
    place.run(&["stats"]).ok();
    place.run(&["ingest", "src"]).ok();
    place.run(&["restore", "latest", "--target", "out"]).ok();
}

#[test]
fn row_40_root_that_is_no_directory() {
    for root in [inline("", "a file"), node("", Kind::Symlink(b"/etc".to_vec())), inline("named", "x")] {
        let place = Place::new();
        let id = SnapshotId([0xab; 32]);
        let mut forge = Forge::new(&place.repo);
        let good = forge.dir("", &[]);
        let (mut snapshot, _) = forge.commit(good, |_| {});
        (snapshot.root, snapshot.id) = (root, id);
        let plain = snapshot::encode_snapshot_unchecked(&snapshot);
        let object =
            seal::seal_object(ObjectType::Snapshot, place.repo.id(), &id.0, &place.repo.keys().snapshot, &plain).unwrap();
        place.repo.storage().create(&Name::Snapshot(id), &[&object]).unwrap();
        for args in [&["snapshots"][..], &["ls", "abab"], &["restore", "abab", "--target", "out"], &["stats"]] {
            place.run(args).fails(1, &["snapshots/abab", "root is not a directory"]);
        }
        assert!(!place.world.at("out").exists());
        let run = place.run(&["check"]);
        assert!(run.code == Some(1) && run.err.contains("damage: snapshots/abab"), "{}", run.err);
    }
}

#[test]
fn row_41_impossible_names() {
    for name in [&b""[..], b".", b"..", b"a/b", b"/etc/passwd", b"x\0y", b"../../evil"] {
        refused(&forged(with_leaf(leaf(&[inline(name, "evil")]), 1)), &["tree page", "name"]);
    }
    let mut long = Vec::new();
    page::start(PageKind::Directory, 0, &mut long);
    long.bytes(&[b'n'; 256]);
    long.extend_from_slice(&[0; 40]);
    refused(&forged(with_leaf(long, 1)), &["tree page", "256 is above the limit of 255"]);
}

#[test]
fn row_42_names_out_of_order() {
    for names in [["b", "a"], ["a", "a"]] {
        refused(
            &forged(with_leaf(leaf(&names.map(|name| inline(name, name))), 2)),
            &["tree page", "out of order, or one stands twice"],
        );
    }
}

#[test]
fn row_43_size_that_is_not_that_of_the_chunks() {
    // In the node: each chunk has the length that the index says.
    let place = forged(|forge| {
        let id = forge.data(b"seven..");
        forge.dir("", &[forge::file("f", id, 6), inline("whole", "whole")])
    });
    place.run(&["cat", "latest:/f"]).fails(1, &["/f", "another length"]);
    place.restores(3, &["/f"], &["whole"]);
    // In pages: the file's size is the sum of its items.
    let place = forged(|forge| {
        let id = forge.data(b"seven..");
        let root = Root { page: forge.items(&[Item::Chunk { id, len: 7 }]), height: 0 };
        let file = node("f", Kind::File(Content::Tree { root, size: 8, data: 7 }));
        forge.dir("", &[file, inline("whole", "whole")])
    });
    place.run(&["cat", "latest:/f"]).fails(1, &["/f", "another length"]);
    place.restores(3, &["/f"], &["whole"]);
    let run = place.run(&["check"]);
    assert!(run.code == Some(1) && run.err.contains(":/f: "), "{}", run.err);
}

/// Directories that lead down to one file, `depth` of them.
fn deep(depth: usize) -> Place {
    forged(|forge| {
        let mut below = forge.directory(&[inline("f", "at the bottom")]);
        for _ in 1..depth {
            below = forge.directory(&[node("d", Kind::Directory(below))]);
        }
        node("", Kind::Directory(below))
    })
}

#[test]
fn row_44_directories_100_000_deep() {
    let place = deep(100_000);
    place.run(&["check"]).ok();
    place.run(&["stats"]).ok();
    assert_eq!(place.run(&["ls", "latest"]).ok().text(), "d\n");
    // As deep as a path can be named, and deeper than any stack of calls.
    let place = deep(5_000);
    assert_eq!(place.run(&["ls", "-R", "latest"]).ok().text().lines().count(), 5_000);
    assert_eq!(place.run(&["cat", &format!("latest:{}/f", "/d".repeat(4_999))]).ok().out, b"at the bottom");
    let run = place.run(&["restore", "latest", "--target", "out"]).ok();
    assert!(run.text().contains("1 file, 4,999 directories"), "{}", run.text());
    place.run(&["ingest", "out"]).ok();
    assert!(std::process::Command::new("rm").arg("-rf").arg(place.world.at("out")).status().unwrap().success());
}

/// Every directory holds the same one twice: 2⁴⁰ files, 41 pages.
#[test]
fn row_45_directories_that_hold_each_other_many_times() {
    let place = forged(|forge| {
        let mut below = forge.directory(&[inline("f", "f")]);
        for _ in 0..40 {
            below = forge.directory(&[node("a", Kind::Directory(below)), node("b", Kind::Directory(below))]);
        }
        node("", Kind::Directory(below))
    });
    place.run(&["check"]).ok();
    place.run(&["stats"]).ok();
    let bottom = format!("latest:{}/f", "/a/b".repeat(20));
    assert_eq!(place.run(&["cat", &bottom]).ok().out, b"f");
    // A restore sees before it begins that they do not fit, where the file system says how many do.
    if !is_root() {
        return;
    }
    let Some(small) = Small::mount(&place.world.at("small"), "size=8m,nr_inodes=2000") else { return };
    let free = "takes 19";
    place.run(&["restore", "latest", "--target", "small/out"]).fails(1, &["not enough room", "small/out", free, "entries"]);
    assert_eq!(crate::bad_input::names(&small.0), Vec::<String>::new());
}

#[test]
fn row_46_page_that_contains_itself() {
    // The name of a page is the hash of what is in it, so only the index can lead back: to a page under a false name.
    let place = Place::new();
    let mut forge = Forge::new(&place.repo);
    let end = forge.page(&leaf(&[inline("f", "f")]));
    let below = |page| Directory { root: Some(Root { page, height: 0 }), entries: 1, descendants: 1, subdirs: 0 };
    let around = Directory { descendants: 2, subdirs: 1, ..below(end) };
    let bytes = leaf(&[node("again", Kind::Directory(around))]);
    forge.commit(node("", Kind::Directory(Directory { descendants: 2, subdirs: 1, ..below(end) })), |_| {});
    place.files(Class::Index).iter().chain(&place.files(Class::Packs)).for_each(|path| fs::remove_file(path).unwrap());
    let raw = RawPack::new(&place.repo, PackKind::Tree, &[(Codec::Raw, bytes.len() as u32, &bytes)]);
    let pack = raw.store(&place.repo, &[&[(end.key(), bytes.len() as u32)]], |_| {});
    Segment::of_packs(&[pack]).store(&place.repo, Vec::new()).unwrap();
    for args in [&["ls", "-R", "latest"][..], &["stats"]] {
        place.run(args).fails(1, &["chunk", "other content than its name says"]);
    }
    place.restores(3, &["other content than its name says"], &[]);
    assert_eq!(place.run(&["check", "--read-data"]).code, Some(1));
}

#[test]
fn row_47_hard_links_to_what_is_none() {
    let group = LinkGroup([5; 16]);
    let linked = move |node: Node| Node { link: Some(group), ..node };
    // A directory that claims to be a link is refused where it is read.
    let directory = linked(node("e", Kind::Directory(Directory::default())));
    refused(&forged(with_leaf(leaf(&[directory]), 1)), &["tree page", "a directory claims to be a hard link"]);
    // Links of one group that are not the same: each is what it says, or is not made.
    let place = forged(|forge| {
        let nodes = [
            linked(inline("a", "content of a")),
            linked(inline("b", "content of b")),
            linked(node("c", Kind::Symlink(b"/etc/passwd".to_vec()))),
            linked(inline("d", "content of a")),
        ];
        forge.dir("", &nodes)
    });
    let run = place.restores(3, &["/b: it is no link of the file", "/c: it is no link of the file", "yester check"], &["a", "d"]);
    assert_eq!(run.err.lines().count(), 3, "{}", run.err);
    let inode = |name: &str| fs::metadata(place.world.at("out").join(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("d"));
    assert_eq!(fs::read(place.world.at("out/d")).unwrap(), b"content of a");
    let run = place.run(&["check"]);
    assert!(run.code == Some(1) && run.err.contains("hard links"), "{}", run.err);
    // A group that is in no table, and a table that leads outside of the tree.
    for first in [None, Some(0), Some(1 << 40)] {
        let place = Place::new();
        let mut forge = Forge::new(&place.repo);
        let root = forge.dir("", &[linked(inline("a", "a")), linked(inline("b", "a"))]);
        let table = first.map(|first| {
            let mut bytes = Vec::new();
            page::start(PageKind::Links, 0, &mut bytes);
            page::put_link(&LinkEntry { group, first, count: u32::MAX }, &mut bytes);
            Root { page: forge.page(&bytes), height: 0 }
        });
        forge.commit(root, |snapshot| snapshot.links = table);
        place.restores(0, &[], &["a", "b"]);
        let run = place.run(&["check"]);
        assert!(run.code == Some(1) && run.err.contains("hard links"), "{first:?}: {}", run.err);
    }
}

#[test]
fn row_48_times_and_owners_at_their_ends() {
    let place = forged(|forge| {
        let mut old = inline("old", "old");
        old.meta.mtime = Timestamp { secs: -1_000_000_000, nanos: 999_999_999 };
        let mut nobody = inline("nobody", "nobody's");
        (nobody.meta.uid, nobody.meta.gid) = (u32::MAX, u32::MAX);
        forge.dir("", &[nobody, old])
    });
    // The highest number is no owner: it means "leave it" to the system.
    let words: &[&str] =
        if is_root() { &["/nobody: cannot set its owner", "4294967295"] } else { &["/nobody: cannot set its owner"] };
    place.restores(3, words, &["nobody", "old"]);
    let old = fs::metadata(place.world.at("out/old")).unwrap();
    assert_eq!((old.mtime(), old.mtime_nsec()), (-1_000_000_000, 999_999_999));
    assert_ne!(fs::metadata(place.world.at("out/nobody")).unwrap().uid(), u32::MAX);
    assert!(place.run(&["ls", "-l", "latest"]).ok().text().contains("4294967295"));
    // A second has 10⁹ nanoseconds.
    let mut bad = Vec::new();
    page::start(PageKind::Directory, 0, &mut bad);
    bad.bytes(b"f");
    bad.push(1);
    [0o644u64, 0, 0].iter().for_each(|n| bad.varint(*n));
    bad.signed(0);
    bad.varint(1_000_000_000);
    refused(&forged(with_leaf(bad, 1)), &["tree page", "1000000000 is above the limit of 999999999"]);
}

#[test]
fn row_49_mode_with_bits_of_a_type() {
    for mode in [0o10_000u64, 0o100_644, 0o40_755, u64::from(u32::MAX)] {
        let mut bad = Vec::new();
        page::start(PageKind::Directory, 0, &mut bad);
        bad.bytes(b"f");
        bad.push(1);
        [mode, 0, 0].iter().for_each(|n| bad.varint(*n));
        bad.extend_from_slice(&[0; 10]);
        refused(&forged(with_leaf(bad, 1)), &["tree page", &format!("{mode} is above the limit of 4095")]);
    }
    // And of kinds that there are not.
    for head in [0u8, 0x21, 0x80] {
        let mut bad = Vec::new();
        page::start(PageKind::Directory, 0, &mut bad);
        bad.bytes(b"f");
        bad.push(head);
        bad.extend_from_slice(&[0; 10]);
        refused(&forged(with_leaf(bad, 1)), &["tree page", "a node"]);
    }
}

#[test]
fn row_50_devices_for_those_who_are_not_root() {
    if !is_root() {
        return;
    }
    let place = forged(|forge| {
        let kinds =
            [("block", Kind::BlockDevice(8, 0)), ("char", Kind::CharDevice(1, 3)), ("pipe", Kind::Fifo), ("sock", Kind::Socket)];
        let nodes = kinds.map(|(name, kind)| node(name, kind));
        let mut suid = inline("suid", "x");
        suid.meta.mode = 0o4755;
        forge.dir("", &[&nodes[..], &[suid]].concat())
    });
    let run = Nobody::new(&place).run(&place, &["restore", "latest", "--target", "out"]);
    assert_eq!(run.code, Some(3), "{}", run.err);
    for words in
        ["/block: ", "/char: ", "cannot set its owner (nor of 3 other entries)", "/suid: cannot set its suid bits", "only root"]
    {
        assert!(run.err.contains(words), "{words:?} is not in {}", run.err);
    }
    let mut found = crate::bad_input::names(&place.world.at("nobody/out"));
    found.sort();
    assert_eq!(found, ["pipe", "sock", "suid"]);
    assert!(fs::symlink_metadata(place.world.at("nobody/out/pipe")).unwrap().file_type().is_fifo());
    assert_eq!(fs::metadata(place.world.at("nobody/out/suid")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn row_51_attributes_beyond_what_a_file_system_takes() {
    let attributes = |list: Vec<(Vec<u8>, Vec<u8>)>| {
        move |forge: &mut Forge<'_>| {
            let mut bytes = Vec::new();
            format::encode_xattrs_unchecked(&list, &mut bytes);
            let mut file = inline("f", "x");
            file.meta.xattrs = Xattrs::Stored(forge.page(&bytes));
            forge.dir("", &[file, inline("whole", "whole")])
        }
    };
    // More than 64 KiB, and more than 16,384 of them, are refused when they are read: the file is not made.
    let long = vec![(b"user.long".to_vec(), vec![b'x'; 65_537])];
    let place = forged(attributes(long));
    place.restores(3, &["/f", "65537 is above the limit"], &["whole"]);
    let run = place.run(&["check"]);
    assert!(run.code == Some(1) && run.err.contains(":/f: its extended attributes are lost"), "{}", run.err);
    let many = |count: u32| (0..count).map(|n| (format!("user.{n:05}").into_bytes(), b"v".to_vec())).collect::<Vec<_>>();
    let place = forged(attributes(many(16_385)));
    place.restores(3, &["/f", "too many"], &["whole"]);
    // 10,000 are read; what the file system does not take is told in one line.
    let place = forged(attributes(many(10_000)));
    let run = place.restores(3, &["/f: cannot set its attribute user.", "other properties"], &["f", "whole"]);
    assert!(run.err.lines().count() < 30, "{}", run.err);
    // What only root may set: by others it is told, and the file is there.
    if !is_root() {
        return;
    }
    let capability = vec![1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let list = vec![(b"security.capability".to_vec(), capability), (b"trusted.secret".to_vec(), b"x".to_vec())];
    let place = forged(attributes(list));
    let nobody = Nobody::new(&place);
    let run = nobody.run(&place, &["restore", "latest", "--target", "out"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    for name in ["security.capability", "trusted.secret"] {
        assert!(run.err.contains(&format!("/out/f: cannot set its attribute {name}")), "{}", run.err);
    }
    assert!(run.err.contains("note: ") && !run.err.contains("warning"), "{}", run.err);
    let run = nobody.run(&place, &["restore", "--require-owners", "latest", "--target", "out"]);
    assert_eq!(run.code, Some(3), "{}", run.err);
    assert_eq!(fs::read(place.world.at("nobody/out/f")).unwrap(), b"x");
}

#[test]
fn row_52_impossible_link_targets() {
    let with_target = |target: &[u8]| leaf(&[node("l", Kind::Symlink(target.to_vec()))]);
    for target in [&b""[..], b"a\0b"] {
        refused(&forged(with_leaf(with_target(target), 1)), &["tree page", "impossible target"]);
    }
    refused(&forged(with_leaf(with_target(&[b'x'; 4096]), 1)), &["tree page", "4096 is above the limit of 4095"]);
    // The longest that is possible, and odd ones, are links like others.
    let place = forged(|forge| {
        let targets = [("long", &[b'x'; 4095][..]), ("odd", b"../../\xff\n\x1b[2J"), ("up", b"../../../../etc/passwd")];
        forge.dir("", &targets.map(|(name, target)| node(name, Kind::Symlink(target.to_vec()))))
    });
    place.restores(0, &[], &["long", "odd", "up"]);
}

#[test]
fn row_53_sparse_file_of_8_eib() {
    let huge = |len: u64| {
        forged(move |forge| {
            let file = node("f", Kind::File(Content::Items(vec![Item::Hole { len }])));
            forge.dir("", &[file, inline("whole", "whole")])
        })
    };
    let place = huge(i64::MAX as u64);
    place.restores(3, &["/f: cannot set its size", "too large"], &["whole"]);
    place.run(&["check"]).ok();
    place.run(&["stats"]).ok();
    assert!(place.run(&["ls", "-l", "latest"]).ok().text().contains(&i64::MAX.to_string()));
    // One byte more is a size that no file can have.
    let holes = vec![Item::Hole { len: i64::MAX as u64 }, Item::Hole { len: 1 }];
    refused(
        &forged(with_leaf(leaf(&[node("f", Kind::File(Content::Items(holes)))]), 1)),
        &["tree page", "longer than 2⁶³ bytes"],
    );
}
