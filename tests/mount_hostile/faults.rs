//! What the storage does to readers: it stalls, it fails, objects vanish, are damaged, and come back.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use crate::common::record::{Fault, RecordingStorage};
use rustix::fs::{AtFlags, Mode, OFlags};
use yester::chunk::keys::Credential;
use yester::model::SnapshotId;
use yester::repo::Repository;
use yester::storage::memory::MemoryStorage;
use yester::storage::{Class, Name, Storage};
use yester::vfs::MountOptions;

use crate::common::mounted::{Mounted, PATIENCE, until};
use crate::common::tiny::{About, Tiny, dir, file, noise};

/// The same repository, read through a storage that can be told to stall and to fail.
fn with_faults(tiny: Tiny) -> (Tiny, Arc<RecordingStorage>) {
    let storage = Arc::new(RecordingStorage::new(tiny.storage.clone()));
    let repo = Repository::open(storage.clone(), &Credential::KeyFile([7; 32])).unwrap();
    (Tiny { repo: Arc::new(repo), storage: tiny.storage }, storage)
}

/// A snapshot `1…` of 200 files, and `2…` of a big file and a few small ones.
fn two_snapshots() -> (Tiny, Name) {
    let tiny = Tiny::new();
    let many = (0..200).map(|n| (format!("f{n:03}"), file(noise(n, 40_000))));
    let one = tiny.commit_as(SnapshotId([0x11; 32]), &dir(many), About::at(1));
    let two = dir([("big", file(noise(1000, 900_000))), ("small", file(noise(1001, 5000)))]);
    tiny.commit_as(SnapshotId([0x22; 32]), &two, About::at(2));
    (tiny, Name::Pack(one.data.unwrap().id))
}

/// Lets go of who still waits when a test fails, or hangs: a process that waits for a mount of its own cannot be killed.
struct Clears {
    storage: Arc<RecordingStorage>,
    done: Option<mpsc::Sender<()>>,
    watchdog: Option<JoinHandle<()>>,
}

impl Clears {
    fn new(storage: &Arc<RecordingStorage>) -> Clears {
        let (done, wait) = mpsc::channel::<()>();
        let watched = storage.clone();
        let watchdog = std::thread::spawn(move || {
            if wait.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                watched.set_faults(|_, _| Fault::Fail);
            }
        });
        Clears { storage: storage.clone(), done: Some(done), watchdog: Some(watchdog) }
    }
}

impl Drop for Clears {
    fn drop(&mut self) {
        self.done = None;
        let _ = self.watchdog.take().map(JoinHandle::join);
        self.storage.set_faults(|_, _| Fault::None);
    }
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

const EIO: Option<i32> = Some(5);

#[test]
fn a_storage_that_stalls_keeps_nobody_else_waiting() {
    let (tiny, stuck) = two_snapshots();
    let (tiny, storage) = with_faults(tiny);
    let mounted = Mounted::new(&tiny, MountOptions::default());
    let done = AtomicUsize::new(0);
    storage.set_faults(move |_, name| if name == Some(&stuck) { Fault::Stall } else { Fault::None });
    std::thread::scope(|scope| {
        let _clears = Clears::new(&storage);
        for n in 0..200 {
            let (path, done) = (mounted.path(&format!("ids/11111111/f{n:03}")), &done);
            scope.spawn(move || {
                let right = fs::read(path).is_ok_and(|bytes| bytes == noise(n, 40_000));
                done.fetch_add(usize::from(right), Ordering::SeqCst);
            });
        }
        until(|| storage.stalled() > 0);
        // Everything else is served: the root, names and attributes of the stuck snapshot, all of the other.
        let two = mounted.path("ids/22222222");
        assert!(fs::read(two.join("big")).unwrap() == noise(1000, 900_000));
        assert!(fs::read(two.join("small")).unwrap() == noise(1001, 5000));
        assert_eq!(fs::read_dir(mounted.path("ids/11111111")).unwrap().count(), 200);
        assert_eq!(fs::metadata(mounted.path("ids/11111111/f199")).unwrap().len(), 40_000);
        assert_eq!(fs::read_dir(mounted.path("ids")).unwrap().count(), 2);
        assert_eq!(done.load(Ordering::SeqCst), 0, "somebody was given data that the storage did not give");
        storage.set_faults(|_, _| Fault::None);
    });
    assert_eq!(done.load(Ordering::SeqCst), 200);
}

#[test]
fn packs_that_stall_keep_nobody_from_other_packs() {
    let tiny = Tiny::new();
    let content = |n: u8| noise(n.into(), 40_000);
    let made: Vec<_> =
        (1..=100).map(|n| tiny.commit_as(SnapshotId([n; 32]), &dir([("f", file(content(n)))]), About::at(n.into()))).collect();
    let stuck: HashSet<Name> = made[1..].iter().map(|made| Name::Pack(made.data.as_ref().unwrap().id)).collect();
    let (tiny, storage) = with_faults(tiny);
    let mounted = Mounted::new(&tiny, MountOptions::default());
    storage.set_faults(move |_, name| if name.is_some_and(|n| stuck.contains(n)) { Fault::Stall } else { Fault::None });
    let read = &|n: u8| fs::read(mounted.path(&format!("ids/{}/f", format!("{n:02x}").repeat(4))));
    std::thread::scope(|scope| {
        let _clears = Clears::new(&storage);
        let reader = |n: u8| scope.spawn(move || read(n).is_ok_and(|found| found == content(n)));
        let readers: Vec<_> = (2..=100).map(reader).collect();
        // Each of them waits for its own pack, and for nobody who waits for another.
        until(|| storage.stalled() == 99);
        assert!(read(1).unwrap() == content(1));
        storage.set_faults(|_, _| Fault::None);
        assert!(readers.into_iter().all(|reader| reader.join().unwrap()));
    });
}

#[test]
fn a_list_that_stalls_is_not_waited_for() {
    let (tiny, _) = two_snapshots();
    let (tiny, storage) = with_faults(tiny);
    let mounted = Mounted::new(&tiny, MountOptions::default());
    let _clears = Clears::new(&storage);
    storage.set_faults(|class, name| if class == Class::Snapshots && name.is_none() { Fault::Stall } else { Fault::None });
    // Whoever looks has the list read again, once it is a second old.
    let ids = || fs::read_dir(mounted.path("ids")).unwrap().count();
    until(|| ids() == 2 && storage.stalled() == 1);
    tiny.commit_as(SnapshotId([0x33; 32]), &dir([("f", file(*b"3"))]), About::at(3));
    assert!(fs::read(mounted.path("latest/big")).unwrap() == noise(1000, 900_000));
    assert_eq!(fs::read_dir(mounted.path("")).unwrap().count(), 6);
    assert_eq!((ids(), storage.stalled()), (2, 1), "what is known is shown, and one list is enough");
    storage.set_faults(|_, _| Fault::None);
    until(|| ids() == 3 && fs::read(mounted.path("latest/f")).is_ok_and(|f| f == b"3"));
}

#[test]
fn a_storage_that_fails_is_eio_and_recovers() {
    let (tiny, _) = two_snapshots();
    let (tiny, storage) = with_faults(tiny);
    let mounted = Mounted::new(&tiny, MountOptions::default());
    let two = mounted.path("ids/22222222");
    assert!(fs::read(two.join("small")).unwrap() == noise(1001, 5000));
    storage.set_faults(|_, _| Fault::Fail);
    let one = mounted.path("ids/11111111");
    for _ in 0..2 {
        // Nothing of this tree was ever read: neither what is there nor what is not is known.
        assert_eq!(errno(fs::read(one.join("f000"))), EIO);
        assert_eq!(errno(fs::metadata(one.join("no such file"))), EIO);
        assert_eq!(errno(fs::read_dir(&one).unwrap().collect::<io::Result<Vec<_>>>()), EIO);
        assert_eq!(errno(fs::read(two.join("big"))), EIO);
    }
    // What the kernel and the mount have is given out; the list of snapshots is what it was.
    assert!(fs::read(two.join("small")).unwrap() == noise(1001, 5000));
    assert_eq!(fs::metadata(two.join("big")).unwrap().len(), 900_000);
    assert_eq!(fs::read_dir(mounted.path("ids")).unwrap().count(), 2);
    storage.set_faults(|_, _| Fault::None);
    assert!(fs::read(one.join("f000")).unwrap() == noise(0, 40_000));
    assert_eq!(errno(fs::metadata(one.join("no such file"))), Some(2));
    assert_eq!(fs::read_dir(&one).unwrap().filter(|e| e.is_ok()).count(), 200);
    assert!(fs::read(two.join("big")).unwrap() == noise(1000, 900_000));
}

/// Does `act` to an object, and undoes it later.
fn with_object(storage: &MemoryStorage, name: &Name, act: impl FnOnce(&mut Vec<u8>), meanwhile: impl FnOnce()) {
    let mut whole = Vec::new();
    storage.read(name, None, &mut whole).unwrap();
    let mut other = whole.clone();
    act(&mut other);
    storage.damage(name, |bytes| *bytes = other);
    meanwhile();
    storage.damage(name, |bytes| *bytes = whole);
}

type Damage<'a> = dyn Fn(&mut Vec<u8>) + 'a;

/// Every kind of damage of an object: each is EIO while it lasts and nothing afterwards, and touches nothing else.
fn damage_every_way(tiny: &Tiny, object: &Name, foreign: &Name, touched: impl Fn(&Path) -> Option<i32>) {
    let mut other = Vec::new();
    tiny.storage.read(foreign, None, &mut other).unwrap();
    let ways: [&Damage<'_>; 5] = [
        &|bytes| bytes.clear(),
        &|bytes| bytes.truncate(bytes.len() / 10),
        &|bytes| bytes.fill(0),
        &|bytes| bytes.iter_mut().for_each(|b| *b ^= 0x10),
        // Another object of the repository, genuine and sealed with its key.
        &|bytes| *bytes = other.clone(),
    ];
    for (number, way) in ways.into_iter().enumerate() {
        let mounted = Mounted::new(tiny, MountOptions::default());
        let two = mounted.path("ids/22222222");
        with_object(&tiny.storage, object, way, || {
            for _ in 0..2 {
                assert_eq!(touched(&mounted.path("ids/11111111")), EIO, "damage number {number}");
            }
            assert!(fs::read(two.join("big")).unwrap() == noise(1000, 900_000), "damage number {number} reached the other");
        });
        assert_eq!(touched(&mounted.path("ids/11111111")), None, "damage number {number} was kept");
    }
    // And it is gone altogether.
    let mounted = Mounted::new(tiny, MountOptions::default());
    let mut whole = Vec::new();
    tiny.storage.read(object, None, &mut whole).unwrap();
    tiny.storage.delete(object).unwrap();
    assert_eq!(touched(&mounted.path("ids/11111111")), EIO);
    assert!(fs::read(mounted.path("ids/22222222/big")).unwrap() == noise(1000, 900_000));
    tiny.storage.create(object, &[&whole]).unwrap();
    assert_eq!(touched(&mounted.path("ids/11111111")), None, "an object that came back is not read");
}

#[test]
fn damaged_data_is_eio_until_it_is_mended() {
    let (tiny, data) = two_snapshots();
    let foreign = other_pack(&tiny, &data);
    damage_every_way(&tiny, &data, &foreign, |one| {
        // Names and attributes are in the tree. Where the first file is, another pack may have a frame of the same size.
        let read = ["f100", "f001"].map(|name| {
            assert_eq!(fs::metadata(one.join(name)).unwrap().len(), 40_000);
            fs::read(one.join(name))
        });
        for (bytes, n) in read.iter().zip([100, 1]) {
            assert!(bytes.as_ref().map_or(true, |bytes| *bytes == noise(n, 40_000)), "wrong bytes were given out");
        }
        let [one, two] = read.map(errno);
        one.or(two)
    });
}

/// A pack that is not `pack`.
fn other_pack(tiny: &Tiny, pack: &Name) -> Name {
    let mut names = tiny.storage.list(Class::Packs).unwrap().into_iter().map(|(name, _)| name);
    names.find(|name| name != pack).unwrap()
}

#[test]
fn a_damaged_tree_is_eio_until_it_is_mended() {
    let tiny = Tiny::new();
    let one = dir((0..200).map(|n| (format!("f{n:03}"), file(*b"inline"))));
    let one = tiny.commit_as(SnapshotId([0x11; 32]), &one, About::at(1));
    tiny.commit_as(SnapshotId([0x22; 32]), &dir([("big", file(noise(1000, 900_000)))]), About::at(2));
    let tree = Name::Pack(one.tree.unwrap().id);
    damage_every_way(&tiny, &tree, &other_pack(&tiny, &tree), |one| {
        let listed = fs::read_dir(one).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let (found, missing) = (fs::read(one.join("f100")), fs::metadata(one.join("missing")));
        match &listed {
            Ok(names) => assert_eq!((names.len(), found.unwrap(), errno(missing)), (200, b"inline".to_vec(), Some(2))),
            Err(_) => assert_eq!((errno(found), errno(missing)), (EIO, EIO), "what cannot be read was said not to be there"),
        }
        errno(listed)
    });
}

#[test]
fn what_is_open_of_a_forgotten_snapshot_is_never_other_data() {
    let tiny = Tiny::new();
    let old =
        |n| dir([("a", file(noise(n, 100_000))), ("b", file(noise(n + 1, 100_000))), ("sub", dir([("in", file(*b"old"))]))]);
    let made = tiny.commit_as(SnapshotId([0x11; 32]), &old(1), About::at(1));
    let mounted = Mounted::new(&tiny, MountOptions::default());
    let root = mounted.path("ids/11111111");
    let (a, b) = (File::open(root.join("a")).unwrap(), File::open(root.join("b")).unwrap());
    let held = rustix::fs::open(&root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut bytes = vec![0; 100_000];
    a.read_exact_at(&mut bytes, 0).unwrap();
    let numbers = [a.metadata().unwrap().ino(), b.metadata().unwrap().ino()];

    tiny.forget(made.id);
    tiny.commit_as(SnapshotId([0x33; 32]), &old(11), About::at(3));
    until(|| errno(fs::metadata(&root)) == Some(2));
    // What a prune does.
    tiny.lose(made.data.as_ref().unwrap());
    let new = mounted.path("latest");
    until(|| fs::read(new.join("a")).is_ok_and(|a| a == noise(11, 100_000)));
    assert!(fs::metadata(new.join("b")).unwrap().ino() != numbers[1]);
    for _ in 0..2 {
        // What the kernel has is given out, until it has forgotten, which it does when memory is short, too; then there is
        // nothing else.
        bytes.fill(0);
        match a.read_exact_at(&mut bytes, 0) {
            Ok(()) => assert!(bytes == noise(1, 100_000)),
            read => assert_eq!(errno(read), EIO),
        }
        assert_eq!(errno(b.read_at(&mut [0; 100], 50_000)), EIO);
        assert_eq!([a.metadata().unwrap().ino(), b.metadata().unwrap().ino()], numbers);
        // The tree is still there; its names are its own, below a directory that somebody holds.
        let inner = rustix::fs::statat(&held, "sub/in", AtFlags::empty()).unwrap();
        assert_eq!(inner.st_size, 3);
        assert_eq!(errno(rustix::fs::statat(&held, "c", AtFlags::empty()).map_err(io::Error::from)), Some(2));
        assert_eq!(errno(fs::metadata(&root)), Some(2));
        mounted.shrink();
    }
}
