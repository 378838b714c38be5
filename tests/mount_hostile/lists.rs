//! Listing: long directories, from any place, by many at once; and the paths and names that lists lead to.

use std::collections::BTreeSet;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, SeekFrom, openat, seek, statat};
use rustix::io::Errno;
use yester::model::SnapshotId;
use yester::vfs::MountOptions;

use crate::common::build::long_directory;
use crate::common::mounted::{Mounted, sample, shell, shrink, until};
use crate::common::program::{World, shown, with};
use crate::common::tiny::{About, Tiny, dir, file, noise};
use crate::mount_hostile::served::{Served, open};

/// An entry: name, inode number, and where to go on after it.
type Listed = (Vec<u8>, u64, u64);

fn directory(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

/// One call of `getdents` with a buffer of so many bytes; empty at the end.
fn some_entries(fd: impl AsFd, bytes: usize) -> Result<Vec<Listed>, Errno> {
    let mut buffer = vec![MaybeUninit::uninit(); bytes];
    let mut list = RawDir::new(fd, &mut buffer);
    let mut out = Vec::new();
    while let Some(entry) = list.next() {
        let entry = entry?;
        out.push((entry.file_name().to_bytes().to_vec(), entry.ino(), entry.next_entry_cookie()));
        if list.is_buffer_empty() {
            break;
        }
    }
    Ok(out)
}

/// What is listed from where the descriptor stands.
fn rest(fd: impl AsFd, bytes: usize) -> Vec<Listed> {
    let mut out = Vec::new();
    loop {
        let some = some_entries(&fd, bytes).unwrap();
        if some.is_empty() {
            return out;
        }
        out.extend(some);
    }
}

fn names(list: &[Listed]) -> Vec<&[u8]> {
    list.iter().map(|(name, ..)| name.as_slice()).collect()
}

fn long_name(n: u64) -> String {
    format!("entry-{n:07}")
}

/// The kernel takes the inode of each entry along: a table of them, or a list in memory, would take more than the
/// process may have.
#[test]
fn a_million_entries_are_listed_in_order_and_in_little_memory() {
    const MANY: u64 = 1_000_000;
    let world = World::new();
    let options = world.repository();
    long_directory(&open(&world), (0..MANY).map(long_name));
    let served = Served::new(&world, &options, &["latest"]);
    let fd = directory(&served.point);
    let whole = rest(&fd, 1 << 20);
    assert_eq!(whole.len() as u64, MANY + 2);
    for (n, (name, ino, _)) in whole[2..].iter().enumerate() {
        assert!(*name == long_name(n as u64).into_bytes(), "entry {n} is {}", String::from_utf8_lossy(name));
        assert_eq!(*ino, whole[2].1 + n as u64);
    }
    // From the middle on, in any order.
    for n in [999_999, 3, 500_000, 123_456, 1, 777_777] {
        seek(&fd, SeekFrom::Start(whole[n].2)).unwrap();
        let next = some_entries(&fd, 400).unwrap();
        assert_eq!(next[0].0, whole[n + 1].0);
        assert_eq!(statat(&fd, next[0].0.as_slice(), AtFlags::empty()).unwrap().st_ino, next[0].1);
    }
    drop((fd, whole));
    let peak = served.memory("VmHWM");
    assert!(peak < 150 << 10, "{peak} KiB");
    // So does what forgets all of them at once.
    shrink(&served.point);
    assert_eq!(fs::read(served.path("entry-0500000")).unwrap(), b"entry-0500000");
    assert!(served.memory("VmHWM") < 150 << 10);
}

#[test]
fn a_list_goes_on_from_wherever_it_was_left() {
    let tiny = Tiny::new();
    // The longest name needs 280 bytes of buffer.
    let name = |n: u64| format!("{n:04}-{}", "x".repeat((n * 37 % 250) as usize));
    tiny.commit(&dir((0..2500).map(|n| (name(n), file(*b"")))), About::at(1));
    let mounted = Mounted::latest(&tiny);
    let fd = directory(mounted.point.path());
    // Twice: the second time the kernel may list from its own memory.
    for _ in 0..2 {
        seek(&fd, SeekFrom::Start(0)).unwrap();
        let whole = rest(&fd, 1 << 16);
        assert_eq!(names(&whole)[2..], (0..2500).map(|n| name(n).into_bytes()).collect::<Vec<_>>());
        assert_eq!(some_entries(&fd, 1 << 16).unwrap(), [], "there is something after the end");
        for (n, (_, _, at)) in whole.iter().enumerate().step_by(61).chain([(2501, whole.last().unwrap())]).rev() {
            seek(&fd, SeekFrom::Start(*at)).unwrap();
            assert_eq!(seek(&fd, SeekFrom::Current(0)).unwrap(), *at);
            assert_eq!(rest(&fd, 300), whole[n + 1..], "after entry {n}");
        }
        // Two who list at once, in small steps, do not disturb each other.
        let other = directory(mounted.point.path());
        seek(&fd, SeekFrom::Start(0)).unwrap();
        let (mut one, mut two) = (Vec::new(), Vec::new());
        while one.len() < whole.len() {
            one.extend(some_entries(&fd, 300).unwrap());
            two.extend(some_entries(&other, 2000).unwrap());
        }
        assert!(one == whole && two == whole);
        seek(&fd, SeekFrom::Start(0)).unwrap();
        assert_eq!(some_entries(&fd, 16), Err(Errno::INVAL), "a buffer without room for one entry");
        assert_eq!(rest(&fd, 1 << 16), whole, "rewound");
    }
    seek(&fd, SeekFrom::Start(i64::MAX as u64)).unwrap();
    assert_eq!(rest(&fd, 1 << 16), []);
    assert_eq!(seek(&fd, SeekFrom::Current(-1)).map(|_| ()), Ok(()));
    assert_eq!(seek(&fd, SeekFrom::Start(u64::MAX)), Err(Errno::INVAL));
}

/// Whoever is in the middle of a made-up directory when snapshots come and go sees all others, each once.
#[test]
fn a_list_that_changes_shows_the_rest_once() {
    let tiny = Tiny::new();
    let commit = |n: u8| tiny.commit_as(SnapshotId([n; 32]), &dir([("f", file(*b"f"))]), About::at(i64::from(n)));
    (0..100).for_each(|n| drop(commit(n)));
    let mounted = Mounted::new(&tiny, MountOptions::default());
    let short = |n: u8| format!("{n:02x}").repeat(4).into_bytes();
    for round in 0..5u8 {
        let fd = directory(&mounted.path("ids"));
        let mut seen = Vec::new();
        while seen.len() < 40 {
            seen.extend(some_entries(&fd, 100).unwrap());
        }
        commit(200 + round);
        (round * 10..round * 10 + 10).for_each(|n| tiny.forget(SnapshotId([n; 32])));
        until(|| {
            fs::metadata(mounted.path("latest")).unwrap().mtime() >= 0 && {
                let now: Vec<_> = fs::read_dir(mounted.path("ids")).unwrap().map(|e| e.unwrap().file_name().into_vec()).collect();
                now.contains(&short(200 + round)) && !now.contains(&short(round * 10))
            }
        });
        loop {
            match some_entries(&fd, 100).unwrap() {
                some if some.is_empty() => break,
                some => seen.extend(some),
            }
        }
        let seen = names(&seen);
        let unique: BTreeSet<_> = seen.iter().collect();
        assert_eq!(unique.len(), seen.len(), "something was listed twice");
        for n in (round * 10 + 10..100).chain(200..200 + round) {
            assert!(unique.contains(&short(n).as_slice()), "snapshot {n} was left out in round {round}");
        }
    }
}

#[test]
fn many_walk_at_once() {
    let tiny = Tiny::new();
    tiny.commit(&sample(), About::at(1));
    let mounted = Mounted::new(&tiny, MountOptions { memory: 8 << 20, ..MountOptions::default() });
    let find = || {
        let mut command = Command::new("find");
        command.args(["-L", "latest", "-xdev", "-printf", "%i %s %m %n %T@ %P\\n"]).current_dir(mounted.point.path());
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..64).map(|_| find()).collect();
    let said: BTreeSet<Vec<u8>> = children.into_iter().map(|child| child.wait_with_output().unwrap().stdout).collect();
    assert_eq!(said.len(), 1, "they did not all see the same");
    let alone = find().wait_with_output().unwrap().stdout;
    assert_eq!(alone.iter().filter(|b| **b == b'\n').count(), 3016);
    assert!(said.contains(&alone));
}

#[test]
fn names_are_any_bytes() {
    let tiny = Tiny::new();
    let mut all: Vec<Vec<u8>> = (1..=255).filter(|b| ![b'/', b'.'].contains(b)).map(|b| vec![b]).collect();
    for odd in [&b"new\nline"[..], b"\x1b]0;title\x07", b"\xff\xfe", b"...", b"..x", b"-rf", b"%s%n", b"\xe2\x80\xae"] {
        all.push(odd.to_vec());
    }
    // As long as names can be, of each kind of byte.
    all.extend([b'n', b'\n', 0x1b, 0xff].map(|b| vec![b; 255]));
    all.sort();
    tiny.commit(&dir(all.iter().map(|name| (name, file(name.clone())))), About::at(1));
    let mounted = Mounted::latest(&tiny);
    let fd = directory(mounted.point.path());
    let listed = rest(&fd, 4096);
    assert!(names(&listed)[2..] == all, "{:?}", names(&listed));
    for (name, ino, _) in &listed[2..] {
        assert_eq!(statat(&fd, name.as_slice(), AtFlags::empty()).unwrap().st_ino, *ino);
        assert_eq!(fs::read(mounted.point.path().join(std::ffi::OsStr::from_bytes(name))).unwrap(), *name);
    }
    for (name, why) in [(vec![b'x'; 256], Errno::NAMETOOLONG), (vec![0xff; 254], Errno::NOENT)] {
        assert_eq!(statat(&fd, name.as_slice(), AtFlags::empty()).err(), Some(why));
    }
}

const DEEP: usize = 4096;

/// Goes down from `top` by the name `d`; makes the way if `make`.
fn descend(top: &Path, make: bool) -> OwnedFd {
    (0..DEEP).fold(directory(top), |fd, _| {
        if make {
            rustix::fs::mkdirat(&fd, "d", Mode::from_raw_mode(0o755)).unwrap();
        }
        openat(&fd, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    })
}

/// A path of 8 KiB: no program can name it, but all of it is there.
#[test]
fn four_thousand_directories_deep() {
    let world = World::new();
    let options = world.repository();
    let source = world.at("src");
    fs::create_dir(&source).unwrap();
    let bottom = descend(&source, true);
    let end = openat(&bottom, "end", OFlags::WRONLY | OFlags::CREATE, Mode::from_raw_mode(0o600)).unwrap();
    rustix::io::write(&end, b"the end").unwrap();
    drop((bottom, end));
    world.run(&with(&options, &["ingest", "src"])).ok();
    let served = Served::new(&world, &options, &[&format!("latest:{}", shown(&source))]);
    let bottom = descend(&served.point, false);
    let read = |fd: &OwnedFd| {
        let end = openat(fd, "end", OFlags::RDONLY, Mode::empty()).unwrap();
        let mut bytes = [0; 20];
        let read = rustix::io::read(end, &mut bytes).unwrap();
        bytes[..read].to_vec()
    };
    assert_eq!(read(&bottom), b"the end");
    let deepest = rustix::fs::fstat(&bottom).unwrap().st_ino;
    let top = (0..DEEP)
        .fold(bottom.try_clone().unwrap(), |fd, _| openat(&fd, "..", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap());
    assert_eq!(rustix::fs::fstat(&top).unwrap().st_ino, fs::metadata(&served.point).unwrap().ino());
    // The number leads there also when nothing of the way is known any more.
    shrink(&served.point);
    assert_eq!((rustix::fs::fstat(&bottom).unwrap().st_ino, read(&bottom)), (deepest, b"the end".to_vec()));
    drop((bottom, top));
    assert_eq!(shell(&served.point, "find . | wc -l").trim(), (DEEP + 2).to_string());
    let program = format!("{}/tests/same_tree.py", env!("CARGO_MANIFEST_DIR"));
    shell(world.home(), &format!("python3 {program} src point"));
    drop(served);
    shell(world.home(), "rm -r src");
}

/// As many as the link count of most file systems cannot hold.
#[test]
fn sixty_five_thousand_links_of_one_file() {
    const LINKS: u64 = 65_535;
    let tiny = Tiny::new();
    let content = noise(1, 200_000);
    // The content is stored with each link; it is one chunk list.
    let linked = || file(b"linked".to_vec()).with(|t| t.link = Some("all"));
    let links = dir((0..LINKS).map(|n| (long_name(n), linked())));
    tiny.commit(&dir([("links", links), ("other", file(content))]), About::at(1));
    let mounted = Mounted::latest(&tiny);
    let fd = directory(&mounted.path("links"));
    let listed = rest(&fd, 1 << 16);
    assert_eq!(listed.len() as u64, LINKS + 2);
    let numbers: BTreeSet<u64> = listed[2..].iter().map(|(_, ino, _)| *ino).collect();
    assert_eq!(numbers.len(), 1, "links have several inode numbers");
    let open = fs::File::open(mounted.path("links").join(long_name(40_000))).unwrap();
    for round in 0..2 {
        for n in [0, 1, 32_768, 65_534] {
            let path = mounted.path("links").join(long_name(n));
            let meta = fs::metadata(&path).unwrap();
            assert_eq!((meta.nlink(), Some(&meta.ino())), (LINKS, numbers.first()), "link {n}, round {round}");
            assert_eq!(fs::read(&path).unwrap(), b"linked");
        }
        assert_eq!(open.metadata().unwrap().nlink(), LINKS);
        mounted.shrink();
    }
    let same = shell(mounted.point.path(), "find . -samefile links/entry-0000007 -printf x | wc -c");
    assert_eq!(same.trim(), LINKS.to_string());
}
