//! Restoring into what is there already.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use yester::error::ErrorKind;
use yester::model::Kind;
use yester::observe::{Event, Observer};
use yester::restore::{Overwrite, RestoreOptions, RestoreReport, restore};
use yester::task::Task;

use crate::common::build::{CHUNK, Part, Spec, noise};
use crate::restore::support::{World, assert_tree, temporaries};

fn me(spec: Spec) -> Spec {
    let mut spec = spec.owner(yester::sys::process::user(), yester::sys::process::group());
    spec.children = spec.children.into_iter().map(me).collect();
    spec
}

fn with(overwrite: Overwrite) -> RestoreOptions {
    RestoreOptions { overwrite, ..RestoreOptions::default() }
}

#[test]
fn overwrite_does_what_it_says() {
    let tree = me(Spec::dir("", vec![Spec::file("same", "12345"), Spec::file("old", "12345"), Spec::file("young", "12345")]));
    let prepare = || {
        let world = World::new(&tree);
        fs::create_dir(world.target()).unwrap();
        for name in ["same", "old", "young"] {
            fs::write(world.path(name), "xxxxx").unwrap();
        }
        let set = |name, secs, nanos| {
            let file = fs::File::options().write(true).open(world.path(name)).unwrap();
            yester::sys::dir::set_mtime(&file, yester::model::Timestamp { secs, nanos }).unwrap();
        };
        set("same", 1_500_000_000, 123_456_789);
        set("old", 1_400_000_000, 0);
        set("young", 1_600_000_000, 0);
        world
    };
    let outcome = |overwrite| {
        let world = prepare();
        let report = world.restore_all(&with(overwrite));
        let read = |name| world.read(name) == b"12345";
        (read("same"), read("old"), read("young"), report.files, report.kept)
    };
    assert_eq!(outcome(Overwrite::IfChanged), (false, true, true, 2, 0));
    assert_eq!(outcome(Overwrite::Always), (true, true, true, 3, 0));
    assert_eq!(outcome(Overwrite::IfNewer), (false, true, false, 1, 1));
    assert_eq!(outcome(Overwrite::Never), (false, false, false, 0, 2));
}

#[test]
fn only_what_differs_is_fetched() {
    let data = noise(5, 400 * CHUNK);
    let tree = me(Spec::dir("", vec![Spec::file("database", &data), Spec::file("touched", noise(6, 20 * CHUNK))]));
    let world = World::new(&tree);
    world.restore_all(&RestoreOptions::default());
    let mut changed = data.clone();
    changed[250 * CHUNK + 5] ^= 1;
    fs::write(world.path("database"), &changed).unwrap();
    let inode = fs::metadata(world.path("touched")).unwrap().ino();
    fs::File::options().write(true).open(world.path("touched")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    let report = world.restore_all(&RestoreOptions::default());
    assert_eq!((report.frames, report.files, report.metadata), (1, 1, 1), "{report:?}");
    assert_eq!((report.bytes, report.bytes_local), (400 * CHUNK as u64, 399 * CHUNK as u64));
    assert_eq!(fs::metadata(world.path("touched")).unwrap().ino(), inode, "it was written again");
    assert_tree(&world.target(), &tree);
}

#[test]
fn shorter_and_longer_files_give_what_they_have() {
    let data = noise(5, 40 * CHUNK);
    let tree = me(Spec::dir("", vec![Spec::file("short", &data), Spec::file("long", &data)]));
    for memory in [0, 64 << 20] {
        let world = World::new(&tree);
        fs::create_dir(world.target()).unwrap();
        fs::write(world.path("short"), &data[..30 * CHUNK]).unwrap();
        fs::write(world.path("long"), [&data[..], b"more"].concat()).unwrap();
        let report = world.restore_all(&RestoreOptions { memory, verify: true, ..RestoreOptions::default() });
        assert_eq!(report.bytes_local, 70 * CHUNK as u64);
        assert_tree(&world.target(), &tree);
    }
}

#[test]
fn holes_in_what_is_there_are_compared_too() {
    let tree = me(Spec::dir(
        "",
        vec![Spec::parts("f", vec![Part::Data(noise(1, CHUNK)), Part::Hole(1 << 20), Part::Data(noise(2, CHUNK))])],
    ));
    let world = World::new(&tree);
    fs::create_dir(world.target()).unwrap();
    let mut full = crate::restore::support::bytes_of(&tree.children[0]);
    full[CHUNK + 100] = 1;
    fs::write(world.path("f"), &full).unwrap();
    world.restore_all(&RestoreOptions::default());
    assert_tree(&world.target(), &tree);
    assert!(fs::metadata(world.path("f")).unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn delete_removes_what_the_snapshot_does_not_have() {
    let tree = me(Spec::parent("", vec![Spec::dir("given", vec![Spec::file("keep", "k"), Spec::dir("sub", vec![])])]));
    let world = World::new(&tree);
    fs::create_dir_all(world.path("given/extra/deep")).unwrap();
    fs::create_dir_all(world.path("given/sub")).unwrap();
    fs::create_dir_all(world.path("other")).unwrap();
    for name in ["given/extra/deep/f", "given/a", "given/z", "given/sub/x", "given/spared.log", "other/f"] {
        fs::write(world.path(name), "x").unwrap();
    }
    fs::create_dir_all(world.path("given/holds/spared")).unwrap();
    fs::create_dir_all(world.path("given/holds/not")).unwrap();
    fs::write(world.path("given/holds/spared/x.log"), "x").unwrap();
    std::os::unix::fs::symlink("/etc", world.path("given/link")).unwrap();
    let report = world.restore_all(&RestoreOptions::default());
    assert_eq!(report.deleted, 0);
    assert!(world.path("given/z").exists());
    let mut options = RestoreOptions { delete: true, exclude: vec!["*.log".into()], ..RestoreOptions::default() };
    let refused = world.try_restore(&[""], &options).unwrap_err();
    assert!(refused.to_string().contains("give --unsafe-delete 8"), "{refused}");
    options.unsafe_delete = Some(8);
    let report = world.restore_all(&options);
    assert_eq!(report.deleted, 8, "{report:?}");
    assert!(world.path("other/f").exists(), "it is in a directory that was not given");
    assert!(world.path("given/spared.log").exists(), "it is excluded");
    assert!(std::path::Path::new("/etc/passwd").exists());
    assert!(world.path("given/holds/spared/x.log").exists(), "an excluded file in a superfluous directory");
    assert!(!world.path("given/holds/not").exists());
    fs::remove_file(world.path("given/spared.log")).unwrap();
    fs::remove_dir_all(world.path("given/holds")).unwrap();
    fs::remove_dir_all(world.path("other")).unwrap();
    world.restore_all(&RestoreOptions::default());
    assert_tree(&world.target(), &tree);
}

#[test]
fn patterns_choose() {
    let tree = me(Spec::dir(
        "",
        vec![
            Spec::dir(
                "etc",
                vec![Spec::file("a.conf", "1"), Spec::file("b.txt", "2"), Spec::dir("d", vec![Spec::file("c.conf", "3")])],
            ),
            Spec::dir("var", vec![Spec::dir("none", vec![Spec::file("x", "x")])]),
            Spec::dir("whole", vec![Spec::file("x", "x"), Spec::file("y.bak", "y")]),
        ],
    ));
    let world = World::new(&tree);
    let options = RestoreOptions {
        include: vec!["*.conf".into(), "/whole".into()],
        exclude: vec!["*.bak".into()],
        ..RestoreOptions::default()
    };
    let report = world.restore_all(&options);
    assert_eq!((report.files, report.directories), (3, 3), "{report:?}");
    for (name, there) in [
        ("etc/a.conf", true),
        ("etc/d/c.conf", true),
        ("etc/b.txt", false),
        ("var", false),
        ("whole/x", true),
        ("whole/y.bak", false),
    ] {
        assert_eq!(world.path(name).exists(), there, "{name}");
    }
    let time = fs::metadata(world.path("etc/d")).unwrap().mtime();
    assert_eq!(time, 1_500_000_000, "a directory on the way has its metadata when this run made it");
}

#[test]
fn what_is_in_the_way_is_replaced() {
    let tree = me(Spec::dir(
        "",
        vec![
            Spec::file("file", "f"),
            Spec::dir("dir", vec![Spec::file("x", "x")]),
            Spec::symlink("link", "to"),
            Spec::file("full", "f"),
        ],
    ));
    let world = World::new(&tree);
    fs::create_dir_all(world.path("file")).unwrap();
    fs::create_dir_all(world.path("full/of")).unwrap();
    fs::write(world.path("dir"), "in the way").unwrap();
    fs::write(world.path("link"), "in the way").unwrap();
    let report = world.restore(&RestoreOptions::default());
    assert_eq!(report.errors, 1, "{:?}", world.warnings.all());
    assert!(world.warnings.all()[0].contains("full"), "{:?}", world.warnings.all());
    assert!(world.path("full/of").exists());
    assert!(temporaries(&world.target()).is_empty());
    world.restore_all(&RestoreOptions { delete: true, ..RestoreOptions::default() });
    assert_tree(&world.target(), &tree);
}

#[test]
fn links_are_made_again_where_they_were_lost() {
    let data = noise(1, 3 * CHUNK);
    let tree =
        me(Spec::dir("", vec![Spec::file("a", &data).link(1), Spec::file("b", &data).link(1), Spec::file("c", &data).link(1)]));
    let world = World::new(&tree);
    world.restore_all(&RestoreOptions::default());
    fs::remove_file(world.path("a")).unwrap();
    fs::write(world.path("a"), "another").unwrap();
    fs::remove_file(world.path("c")).unwrap();
    let report = world.restore_all(&RestoreOptions::default());
    assert_eq!((report.files, report.links), (1, 2), "{report:?}");
    assert_tree(&world.target(), &tree);
    assert!(temporaries(&world.target()).is_empty());
    // Of a part, the first link that is restored is the file.
    let part = World::new(&tree);
    part.restore_all(&RestoreOptions { exclude: vec!["a".into()], ..RestoreOptions::default() });
    let inode = |name| fs::metadata(part.path(name)).unwrap().ino();
    assert_eq!(inode("b"), inode("c"));
}

/// What is no link any more becomes an entry of its own, and a name outside stays a name of the same inode.
#[test]
fn one_inode_is_one_entry() {
    let data = noise(1, 3 * CHUNK);
    let file = |name| Spec::file(name, &data);
    let pipe = |name| Spec::special(name, Kind::Fifo);
    let linked =
        me(Spec::dir("", vec![file("a").link(1), file("b").link(1), file("c").link(1), pipe("p").link(2), pipe("q").link(2)]));
    let apart = me(Spec::dir("", vec![file("a"), file("b").link(1), file("c").link(1), pipe("p"), pipe("q")]));
    let crossed = me(Spec::dir("", vec![file("a").link(1), file("b").link(2), file("c").link(1), pipe("p"), pipe("q")]));
    let world = World::new(&linked);
    world.restore_all(&RestoreOptions::default());
    fs::hard_link(world.path("a"), world.place.path().join("outside")).unwrap();
    let inode = |name: &str| fs::symlink_metadata(world.path(name)).unwrap().ino();
    let shown = |name: &[u8]| yester::model::escape(name);
    let first = inode("a");
    for tree in [&apart, &crossed, &linked] {
        let next = World::new(tree);
        let request = yester::restore::RestoreRequest { target: world.target(), ..next.request(&[""]) };
        let report = restore(&next.reader, &request, &RestoreOptions::default(), &Task::new(&next.warnings)).unwrap();
        assert!(report.is_complete(), "{:?}", next.warnings.all());
        assert_tree(&world.target(), tree);
        let groups: Vec<_> = tree.children.iter().map(|child| (child.node.link, &child.node.name)).collect();
        for (one, other) in groups.iter().flat_map(|one| groups.iter().map(move |other| (one, other))) {
            let linked = one.0.is_some() && one.0 == other.0 || one.1 == other.1;
            assert_eq!(inode(&shown(one.1)) == inode(&shown(other.1)), linked, "{one:?} {other:?}");
        }
        assert_eq!(inode("a"), first, "what was right was made anew");
        let again = restore(&next.reader, &request, &RestoreOptions::default(), &Task::new(&next.warnings)).unwrap();
        assert_eq!((again.files, again.links, again.others, again.unchanged), (0, 0, 0, 5));
    }
    assert_eq!(fs::metadata(world.place.path().join("outside")).unwrap().ino(), first);
}

/// More groups of hard links than are kept in memory.
#[test]
fn many_groups_of_links_are_remembered() {
    let named = |letter: char| {
        let name = |number: u8| {
            if number % 7 == 3 {
                Spec::file(&format!("{letter}{number}"), noise(number.into(), 200))
            } else {
                Spec::symlink(&format!("{letter}{number}"), "x")
            }
        };
        Spec::dir(&letter.to_string(), (0..=255).map(|number| name(number).link(number)).collect())
    };
    let tree = me(Spec::dir("", vec![Spec::dir("d", vec![named('a'), named('b'), named('c')])]));
    let little = RestoreOptions { memory: 1, ..RestoreOptions::default() };
    let world = World::new(&tree);
    assert_eq!(world.restore_all(&little).links, 512);
    assert_tree(&world.target(), &tree);
    assert_eq!(world.restore_all(&little).unchanged, 768);
    // A part, under its path and beside another; and without the names that come first in the snapshot.
    for exclude in [vec![], vec!["a*".to_owned()]] {
        let part = World::new(&tree);
        let options = RestoreOptions { exclude: exclude.clone(), ..little.clone() };
        let report = part.try_restore(&["d", "d/a/a0"], &options).unwrap();
        assert!(report.is_complete(), "{:?}", part.warnings.all());
        let inode = |name: String| fs::symlink_metadata(part.path(&format!("d/{name}"))).unwrap().ino();
        for number in 0..=255 {
            assert_eq!(inode(format!("b/b{number}")), inode(format!("c/c{number}")));
        }
    }
}

/// Root restores over what is immutable or append-only, and leaves nothing unlocked that was not restored.
#[test]
fn what_is_locked_is_no_obstacle_for_root() {
    let (immutable, append) = (0x10, 0x20);
    let old = me(Spec::dir(
        "",
        vec![
            Spec::dir("d", vec![Spec::file("changed", "1").flags(immutable), Spec::file("gone", "1").flags(append)])
                .flags(immutable),
            Spec::dir("gone", vec![Spec::file("in", "1").flags(immutable)]).flags(append),
            Spec::file("was", "1").flags(immutable).link(1),
            Spec::file("was too", "1").link(1).flags(immutable),
            Spec::file("younger", "1").flags(immutable),
        ],
    ));
    let new = me(Spec::dir(
        "",
        vec![
            Spec::dir("d", vec![Spec::file("changed", "22"), Spec::file("more", "2")]),
            Spec::file("was", "2"),
            Spec::file("younger", "1").mtime(5, 0).flags(append),
        ],
    ));
    let world = World::new(&old);
    let flags =
        |path: &std::path::Path| fs::File::open(path).and_then(yester::sys::dir::flags).unwrap_or(0) & (immutable | append);
    let first = world.restore(&RestoreOptions::default());
    if !first.is_complete() {
        // Not every file system has flags, and only root sets these.
        return assert_eq!(first.errors, 0);
    }
    assert_eq!(fs::metadata(world.path("was")).unwrap().nlink(), 2);
    let outside = world.place.path().join("outside");
    unlock(&world.path("was"));
    fs::hard_link(world.path("was"), &outside).unwrap();
    lock(&outside, immutable);
    let next = World::new(&new);
    let request = yester::restore::RestoreRequest { target: world.target(), ..next.request(&[""]) };
    let options = RestoreOptions { delete: true, ..RestoreOptions::default() };
    let report = restore(&next.reader, &request, &options, &Task::new(&next.warnings)).unwrap();
    assert!(report.is_complete(), "{:?}", next.warnings.all());
    let all = ["d", "d/changed", "d/more", "was", "younger"].map(|name| flags(&world.path(name)));
    assert_eq!((all, flags(&outside)), ([0, 0, 0, 0, append], immutable));
    assert_tree(&world.target(), &new);
    // What only leads to what is restored is as it was.
    lock(&world.path("d"), immutable);
    fs::write(world.path("was"), "3").unwrap();
    let one = yester::restore::RestoreRequest { target: world.target(), ..next.request(&["d/more", "was"]) };
    unlock(&world.path("d"));
    fs::remove_file(world.path("d/more")).unwrap();
    lock(&world.path("d"), immutable);
    assert!(
        restore(&next.reader, &one, &options, &Task::new(&next.warnings)).unwrap().is_complete(),
        "{:?}",
        next.warnings.all()
    );
    assert_eq!((world.read("d/more"), flags(&world.path("d"))), (b"2".to_vec(), immutable));
    [outside, world.path("d"), world.path("younger")].iter().for_each(|path| unlock(path));
}

fn lock(path: &std::path::Path, flags: u32) {
    let file = fs::File::open(path).unwrap();
    yester::sys::dir::set_flags(&file, yester::sys::dir::flags(&file).unwrap() & !0x30 | flags).unwrap();
}

fn unlock(path: &std::path::Path) {
    lock(path, 0);
}

/// Stops a run after so many events.
struct StopAfter<'s> {
    left: AtomicU64,
    stop: &'s std::sync::atomic::AtomicBool,
}

impl Observer for StopAfter<'_> {
    fn event(&self, event: &Event<'_>) {
        if matches!(event, Event::Progress { .. }) && self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn an_interrupted_run_leaves_no_traces_and_the_next_goes_on() {
    let files = |d: u64| (0..20).map(|n| Spec::file(&format!("f{n}"), noise(d * 100 + n, 3 * CHUNK))).collect();
    let dirs = (0..20).map(|d| Spec::dir(&format!("d{d}"), files(d))).collect();
    let tree = me(Spec::dir("", vec![Spec::parent("p", dirs)]));
    for events in [1, 3, 9, 30] {
        let world = World::new(&tree);
        let stop = Arc::default();
        let options = RestoreOptions { memory: 0, ..RestoreOptions::default() };
        let observer = StopAfter { left: AtomicU64::new(events), stop: &stop };
        let task = Task::new(&observer).stopped_by(&stop);
        let error = restore(&world.reader, &world.request(&[""]), &options, &task).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        assert!(temporaries(&world.target()).is_empty(), "after {events} events");
        let before = world.frames();
        let report: RestoreReport = world.restore_all(&RestoreOptions::default());
        assert!(events < 9 || report.unchanged > 0, "after {events} events: {report:?}");
        assert!(world.frames() - before <= 10 + report.frames);
        assert_tree(&world.target(), &tree);
    }
}

#[test]
fn too_little_room_is_said_before_anything_is_written() {
    let tree = me(Spec::dir("", vec![Spec::parts("f", vec![Part::Data(noise(1, CHUNK)), Part::Hole(1 << 50)])]));
    let world = World::new(&tree);
    // A hole needs no room, whatever the size.
    fs::create_dir(world.target()).unwrap();
    let planned = world.restore(&RestoreOptions { dry_run: true, ..RestoreOptions::default() });
    assert_eq!(planned.errors, 0);
    let mut snapshot = (*world.snapshot).clone();
    if let yester::model::Kind::Directory(directory) = &snapshot.root.kind {
        let entry = world.reader.lookup(directory, b"f").unwrap().unwrap();
        let mut file = entry.node().clone();
        // The same file, without saying that it has holes.
        let yester::model::Kind::File(yester::model::Content::Items(items)) = &file.kind else { panic!() };
        let id = items.iter().find_map(|i| if let yester::model::Item::Chunk { id, .. } = i { Some(*id) } else { None });
        let root = yester::model::Root { page: id.unwrap(), height: 0 };
        file.kind = yester::model::Kind::File(yester::model::Content::Tree { root, size: 1 << 50, data: 1 << 50 });
        snapshot.root = file;
    }
    let request = yester::restore::RestoreRequest { sources: vec![(snapshot.into(), Vec::new())], target: world.target() };
    let error = restore(&world.reader, &request, &RestoreOptions::default(), &Task::new(&world.warnings)).unwrap_err();
    assert!(error.to_string().contains("not enough room"), "{error}");
    assert_eq!(fs::read_dir(world.target()).unwrap().count(), 0);
}

#[test]
fn what_a_killed_run_left_goes_and_nothing_else() {
    use yester::sys::process::ProcessIdentity;
    let tag = |text: &[u8]| yester::model::id::to_hex(&blake3::hash(text).as_bytes()[..6]);
    let ProcessIdentity { host, machine, boot, namespace, pid, started, .. } = ProcessIdentity::this();
    let (host, boot) = (tag(&[&host[..], b"\0", &machine].concat()), tag(&boot));
    let name = |host: &str, started: u64, number: u64| format!(".yester-{host}-{boot}-{namespace}-{pid}-{started}-{number}");
    let (dead, alive) = (name(&host, started + 1, 7), name(&host, started, u64::MAX));
    // Another boot of another machine: whatever runs there cannot be asked for.
    let elsewhere = name("0123456789ab", started + 1, 7).replace(&boot, "0123456789cd");
    let wanted = name(&host, started + 1, 8);
    let tree = me(Spec::dir("", vec![Spec::file(&wanted, "wanted"), Spec::parent("p", vec![Spec::file("f", "f")])]));
    let world = World::new(&tree);
    fs::create_dir_all(world.path("p")).unwrap();
    let directory = name(&host, started + 1, 9);
    fs::create_dir(world.path(&directory)).unwrap();
    fs::create_dir(world.path("other")).unwrap();
    for name in [&dead, &alive, &elsewhere, &wanted, ".yester-notes", ".yester-1-2-3-4-5-6"] {
        for place in ["", "p", "other"] {
            fs::write(world.path(place).join(name), "xxxxxx").unwrap();
        }
    }
    let planned = world.restore(&RestoreOptions { dry_run: true, ..with(Overwrite::Never) });
    assert_eq!((planned.kept, world.path(&dead).exists()), (1, true));
    world.restore_all(&with(Overwrite::Never));
    assert!(!world.path(&dead).exists() && !world.path("p").join(&dead).exists());
    for name in [&alive, &elsewhere, &wanted, &directory, ".yester-notes", ".yester-1-2-3-4-5-6"] {
        assert!(world.path(name).exists(), "{name}");
    }
    assert_eq!(world.read(&wanted), b"xxxxxx", "it is in the snapshot, and what is there stays");
    // Not where nothing is restored to.
    assert!(world.path("other").join(&dead).exists());
    let report = world.restore_all(&RestoreOptions { delete: true, unsafe_delete: Some(12), ..RestoreOptions::default() });
    // `other` with its six, five beside it; nothing in `p`, which was not given.
    assert_eq!((report.deleted, world.path("p").join(&alive).exists()), (12, true), "{report:?}");
    assert_eq!(world.read(&wanted), b"wanted");
}

/// Hard links below a link that leads to what was given, when there are more groups than memory keeps.
#[test]
fn links_are_found_again_behind_a_link_on_the_way() {
    let named = |letter: char| {
        Spec::dir(&letter.to_string(), (0..=255).map(|n| Spec::symlink(&format!("{letter}{n}"), "x").link(n)).collect())
    };
    let mut tree = Spec::parent("lib", vec![Spec::dir("d", vec![named('a'), named('b')])]);
    let place = World::new(&Spec::dir("", vec![]));
    fs::create_dir_all(place.path("usr/lib")).unwrap();
    std::os::unix::fs::symlink("usr/lib", place.path("lib")).unwrap();
    let target = place.target();
    for name in target.iter().skip(1).collect::<Vec<_>>().iter().rev() {
        tree = Spec::parent(name.to_str().unwrap(), vec![tree]);
    }
    let world = World::new(&me(Spec::parent("", vec![tree])));
    let request = yester::restore::RestoreRequest { target: "/".into(), ..world.request(&[""]) };
    let little = RestoreOptions { memory: 1, ..RestoreOptions::default() };
    let report = restore(&world.reader, &request, &little, &Task::new(&world.warnings)).unwrap();
    assert!(report.is_complete() && report.links == 256, "{report:?} {:?}", world.warnings.all());
    assert!(fs::symlink_metadata(place.path("lib")).unwrap().is_symlink());
    let inode = |name: String| fs::symlink_metadata(place.path(&format!("usr/lib/d/{name}"))).unwrap().ino();
    for n in 0..=255 {
        assert_eq!(inode(format!("a/a{n}")), inode(format!("b/b{n}")));
    }
    let again = restore(&world.reader, &request, &little, &Task::new(&world.warnings)).unwrap();
    assert_eq!((again.unchanged, again.links, again.others), (512, 0, 0), "{again:?}");
}
