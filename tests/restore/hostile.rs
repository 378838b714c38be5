//! Damaged repositories, hostile trees, hostile targets.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use yester::error::ErrorKind;
use yester::model::{Kind, Owners};
use yester::restore::{Overwrite, RestoreOptions, RestoreRequest, restore};
use yester::storage::{Class, Name, Storage};
use yester::task::Task;

use crate::common::build::{self, CHUNK, Spec, noise};
use crate::common::program::copy_program;
use crate::restore::support::{World, is_root, temporaries};

/// The packs of data, by what the index says.
pub fn data_packs(world: &World) -> Vec<Name> {
    let index = world.reader.chunks().index();
    let data = |p: &&yester::format::segment::SegmentPack| p.kind == yester::format::pack::PackKind::Data;
    index.packs().filter(data).map(|p| Name::Pack(p.id)).collect()
}

fn tree() -> Spec {
    // Files that fill frames of their own, so that damage hits some and not others.
    let files = (0..20).map(|n| Spec::file(&format!("f{n:02}"), noise(n, 4 * CHUNK))).collect();
    Spec::dir("", vec![Spec::dir("d", files)])
}

#[test]
fn damage_costs_the_files_it_hits() {
    let world = World::new(&tree());
    // The middle of the only data pack: one or two of its frames.
    for name in data_packs(&world) {
        world.storage.damage(&name, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
    }
    let report = world.restore(&RestoreOptions::default());
    assert_eq!((report.errors, report.files), (1, 19), "{report:?} {:?}", world.warnings.all());
    assert!(!report.is_complete());
    assert_eq!(fs::read_dir(world.path("d")).unwrap().count(), 19);
    for n in 0..20 {
        let path = world.path(&format!("d/f{n:02}"));
        assert!(!path.exists() || fs::read(path).unwrap() == noise(n, 4 * CHUNK));
    }
    assert!(world.warnings.all()[0].contains("/d/f"), "{:?}", world.warnings.all());
}

#[test]
fn damage_leaves_the_file_that_is_there() {
    let world = World::new(&tree());
    world.restore(&RestoreOptions::default());
    for n in 0..20 {
        fs::write(world.path(&format!("d/f{n:02}")), "mine").unwrap();
    }
    for name in data_packs(&world) {
        world.storage.delete(&name).unwrap();
    }
    let report = world.restore(&RestoreOptions::default());
    assert_eq!((report.errors, report.files), (20, 0), "{:?}", world.warnings.all());
    assert_eq!(world.read("d/f07"), b"mine");
    assert!(temporaries(&world.target()).is_empty());
}

#[test]
fn another_copy_of_a_damaged_chunk_is_used() {
    let world = World::new(&tree());
    // The same tree once more: every chunk is in two packs.
    build::snapshot(&world.repo, &tree(), Owners::default());
    let old = data_packs(&world);
    let reader = build::reader(&world.repo);
    for name in old {
        world.storage.damage(&name, |bytes| bytes.iter_mut().skip(200).step_by(50).for_each(|b| *b ^= 1));
    }
    let report = restore(&reader, &world.request(&[""]), &RestoreOptions::default(), &Task::new(&world.warnings)).unwrap();
    assert_eq!((report.errors, report.files), (0, 20), "{:?}", world.warnings.all());
}

#[test]
fn packs_that_moved_are_found_again() {
    let world = World::new(&tree());
    build::snapshot(&world.repo, &tree(), Owners::default());
    // The reader knows only the first copy, which is gone.
    for name in data_packs(&world) {
        world.storage.delete(&name).unwrap();
    }
    let report = world.restore(&RestoreOptions::default());
    assert_eq!((report.errors, report.files), (0, 20), "{:?}", world.warnings.all());
}

#[test]
fn a_damaged_directory_costs_what_is_in_it() {
    let many = |seed: u64| (0..1500).map(|n| Spec::inline(&format!("a file {seed} {n:05}"), "some content")).collect();
    let world = World::new(&Spec::dir("", vec![Spec::dir("a", many(1)), Spec::dir("b", many(2)), Spec::file("z", "z")]));
    // Its first frames hold the pages of `a`.
    let data = data_packs(&world);
    for (name, _) in world.storage.list(Class::Packs).unwrap() {
        if !data.contains(&name) {
            world.storage.damage(&name, |bytes| bytes[300] ^= 1);
        }
    }
    fs::create_dir_all(world.path("a")).unwrap();
    fs::write(world.path("a/mine"), "mine").unwrap();
    let report = world.restore(&RestoreOptions { delete: true, ..RestoreOptions::default() });
    assert!(report.errors >= 1, "{report:?}");
    assert_eq!(world.read("z"), b"z");
    assert_eq!(fs::read_dir(world.path("b")).unwrap().count(), 1500);
    assert_eq!(world.read("a/mine"), b"mine", "nothing is superfluous in a directory that is not known");
}

#[test]
fn links_in_the_way_are_replaced_and_never_followed() {
    let world = World::new(&Spec::dir(
        "",
        vec![
            Spec::dir("dir", vec![Spec::file("f", "new").mode(0o666), Spec::dir("sub", vec![Spec::file("g", "g")])]),
            Spec::file("file", "new"),
            Spec::special("fifo", Kind::Fifo).mode(0o777),
        ],
    ));
    let outside = world.place.path().join("outside");
    fs::create_dir_all(outside.join("sub")).unwrap();
    for name in ["f", "sub/g", "victim"] {
        fs::write(outside.join(name), "precious").unwrap();
    }
    let before = fs::metadata(outside.join("victim")).unwrap();
    fs::create_dir(world.target()).unwrap();
    symlink(&outside, world.path("dir")).unwrap();
    symlink(outside.join("victim"), world.path("file")).unwrap();
    symlink(outside.join("victim"), world.path("fifo")).unwrap();
    let report = world.restore(&RestoreOptions { delete: true, ..RestoreOptions::default() });
    assert_eq!(report.errors, 0, "{:?}", world.warnings.all());
    for name in ["f", "sub/g", "victim"] {
        assert_eq!(fs::read(outside.join(name)).unwrap(), b"precious", "{name}");
    }
    let after = fs::metadata(outside.join("victim")).unwrap();
    assert_eq!((after.mode(), after.ctime_nsec()), (before.mode(), before.ctime_nsec()));
    assert_eq!(world.read("dir/f"), b"new");
    assert!(fs::symlink_metadata(world.path("dir")).unwrap().is_dir());
    // Never leaves them, and goes nowhere.
    let kept = World::new(&Spec::dir("", vec![Spec::dir("dir", vec![Spec::file("f", "new")])]));
    fs::create_dir(kept.target()).unwrap();
    symlink(&outside, kept.path("dir")).unwrap();
    kept.restore(&RestoreOptions { overwrite: Overwrite::Never, ..RestoreOptions::default() });
    assert_eq!(fs::read(outside.join("f")).unwrap(), b"precious");
}

#[test]
fn an_inode_with_names_elsewhere_is_not_changed() {
    // A hostile tree whose file has size and time of something foreign that is linked into the target.
    let world = World::new(&Spec::dir("", vec![Spec::file("f", "12345").mode(0o666).mtime(1_450_000_000, 5)]));
    let victim = world.place.path().join("victim");
    fs::write(&victim, "12345").unwrap();
    let file = fs::File::options().write(true).open(&victim).unwrap();
    yester::sys::dir::set_mtime(&file, yester::model::Timestamp { secs: 1_450_000_000, nanos: 5 }).unwrap();
    yester::sys::dir::set_mode(&file, 0o600).unwrap();
    fs::create_dir(world.target()).unwrap();
    fs::hard_link(&victim, world.path("f")).unwrap();
    world.restore(&RestoreOptions::default());
    assert_eq!(fs::metadata(&victim).unwrap().mode() & 0o7777, 0o600);
    let new = fs::metadata(world.path("f")).unwrap();
    assert_eq!((new.nlink(), new.mode() & 0o7777), (1, 0o666));
}

#[test]
fn forged_names_are_refused() {
    for name in ["..", ".", "a/b", "/etc", "x\0y"] {
        let world = World::new(&Spec::dir("", vec![Spec::dir("d", vec![Spec::file(name, "evil")]), Spec::file("good", "g")]));
        let report = world.restore(&RestoreOptions::default());
        assert_eq!((report.errors, report.files), (1, 1), "{name:?} {:?}", world.warnings.all());
        assert_eq!(world.read("good"), b"g");
        assert_eq!(fs::read_dir(world.path("d")).unwrap().count(), 0);
    }
}

#[test]
fn the_repository_is_never_touched() {
    let world = World::new(&Spec::dir("", vec![Spec::dir("repo", vec![Spec::file("config", "evil")]), Spec::file("f", "f")]));
    fs::create_dir_all(world.path("repo/packs")).unwrap();
    fs::create_dir_all(world.path("above/repo2")).unwrap();
    let forbidden = vec![world.path("repo"), world.path("above/repo2")];
    let options = RestoreOptions { forbidden, delete: true, ..RestoreOptions::default() };
    let report = world.restore(&options);
    assert_eq!((report.errors, report.spared), (1, 1), "{:?}", world.warnings.all());
    assert!(world.path("repo/packs").exists() && !world.path("repo/config").exists());
    assert!(world.path("above/repo2").exists());
    let request = RestoreRequest { target: world.path("repo/packs"), ..world.request(&[""]) };
    let error = restore(&world.reader, &request, &options, &Task::new(&world.warnings)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

/// What only root restores cannot be tested as root: runs the test below in a process of a user who is nobody.
#[test]
fn without_root_what_may_be_is_restored_and_the_rest_is_told() {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(place.path(), Some(65534), Some(65534)).unwrap();
    let program = place.path().join("test");
    copy_program(std::env::current_exe().unwrap(), &program);
    let mut command = std::process::Command::new(program);
    std::os::unix::process::CommandExt::gid(&mut command, 65534);
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    let command = command
        .args(["--exact", &crate::common::whole_name(module_path!(), "as_nobody")])
        .env("TMPDIR", place.path())
        .current_dir("/");
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn as_nobody() {
    let me = yester::sys::process::user();
    if me == 0 {
        return;
    }
    let group = yester::sys::process::group();
    let world = World::new(
        &Spec::dir(
            "",
            vec![
                Spec::file("mine", "m").owner(me, group).mode(0o640),
                Spec::file("roots", "r").owner(0, 0).mode(0o4755),
                Spec::special("null", Kind::CharDevice(1, 3)),
                Spec::dir("closed", vec![Spec::file("x", "x").owner(me, group)]).owner(me, group).mode(0o500),
            ],
        )
        .owner(me, group),
    );
    let report = world.restore(&RestoreOptions::default());
    // The device; and the owner and the suid bit of one file, which is no error.
    assert_eq!((report.errors, report.warnings, report.not_given), (1, 0, 2), "{:?}", world.warnings.all());
    assert!(!report.is_complete());
    let strict = RestoreOptions { require_owners: true, ..RestoreOptions::default() };
    let again = world.restore(&RestoreOptions { exclude: vec!["null".into()], ..RestoreOptions::default() });
    assert!(again.is_complete() && again.metadata == 0, "{again:?}");
    let again = world.restore(&strict);
    assert_eq!((again.warnings, again.not_given), (2, 0), "{:?}", world.warnings.all());
    assert_eq!(world.read("roots"), b"r");
    let roots = fs::metadata(world.path("roots")).unwrap();
    assert_eq!((roots.uid(), roots.mode() & 0o7777), (me, 0o755));
    assert!(!world.path("null").exists());
    // A directory that is closed to its own owner is opened for the run and closed again.
    fs::set_permissions(world.path("closed"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(world.path("closed/x"), "changed").unwrap();
    fs::set_permissions(world.path("closed"), std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
    world.restore(&RestoreOptions::default());
    assert_eq!(world.read("closed/x"), b"x");
    assert_eq!(fs::metadata(world.path("closed")).unwrap().mode() & 0o7777, 0o500);
}

/// A small file system, for as long as this lives.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(path: std::path::PathBuf) -> Option<Small> {
        fs::create_dir(&path).unwrap();
        let mut command = std::process::Command::new("mount");
        let mounted = command.args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&path).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Small(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_target_ends_the_run_with_one_error() {
    let mut world = World::new(&Spec::dir("", (0..60).map(|n| Spec::file(&format!("{n:02}"), noise(n, 4 * CHUNK))).collect()));
    // Only root mounts, and not everywhere.
    let Some(_mounted) = is_root().then(|| Small::mount(world.target())).flatten() else { return };
    let error = world.try_restore(&[""], &RestoreOptions::default()).unwrap_err();
    assert!(error.to_string().contains("not enough room"), "{error}");
    assert_eq!(fs::read_dir(world.target()).unwrap().count(), 0);
    // A snapshot that understates what it holds gets past that.
    let mut snapshot = (*world.snapshot).clone();
    snapshot.statistics.bytes = 0;
    world.snapshot = snapshot.into();
    let error = world.try_restore(&[""], &RestoreOptions::default()).unwrap_err();
    assert!(error.to_string().contains("the target is full"), "{error}");
    assert!(temporaries(&world.target()).is_empty());
    for entry in fs::read_dir(world.target()).unwrap().map(|e| e.unwrap()) {
        let number: u64 = entry.file_name().to_str().unwrap().parse().unwrap();
        assert!(fs::read(entry.path()).unwrap() == noise(number, 4 * CHUNK), "a half-written file");
    }
    // Nothing on another file system is removed with the rest.
    let empty = World::new(&Spec::dir("", vec![]));
    let request = RestoreRequest { target: world.place.path().to_owned(), ..empty.request(&[""]) };
    let options = RestoreOptions { delete: true, ..RestoreOptions::default() };
    let report = restore(&empty.reader, &request, &options, &Task::new(&world.warnings)).unwrap();
    assert_eq!((report.spared, report.deleted), (1, 0), "{:?}", world.warnings.all());
    assert!(fs::read_dir(world.target()).unwrap().count() > 0);
}
