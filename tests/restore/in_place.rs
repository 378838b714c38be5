//! Restoring into files that are there.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use yester::restore::{Overwrite, RestoreOptions};
use yester::storage::Storage;

use crate::common::build::{CHUNK, Part, Spec, noise};
use crate::common::program::copy_program;
use crate::restore::support::{World, assert_tree, bytes_of, is_root, temporaries};

fn me(spec: Spec) -> Spec {
    let mut spec = spec.owner(yester::sys::process::user(), yester::sys::process::group());
    spec.children = spec.children.into_iter().map(me).collect();
    spec
}

fn options() -> RestoreOptions {
    RestoreOptions { in_place: true, verify: true, ..RestoreOptions::default() }
}

fn tree() -> Spec {
    me(Spec::dir(
        "",
        vec![
            Spec::file("image", noise(1, 100 * CHUNK)).mode(0o600),
            Spec::file("linked", noise(2, 10 * CHUNK)),
            Spec::file("longer", noise(3, 10 * CHUNK)),
            Spec::file("shorter", noise(4, 10 * CHUNK)),
            Spec::parts("sparse", vec![Part::Data(noise(5, CHUNK)), Part::Hole(1 << 20), Part::Data(noise(6, CHUNK))]),
            Spec::file("touched", noise(7, 10 * CHUNK)),
        ],
    ))
}

/// A target in which each of these is different in its way.
fn prepared(world: &World) {
    world.restore_all(&RestoreOptions::default());
    let write = |name: &str, at: u64, bytes: &[u8]| {
        fs::File::options().write(true).open(world.path(name)).unwrap().write_all_at(bytes, at).unwrap();
    };
    write("image", 50 * CHUNK as u64, b"four");
    write("linked", 0, b"four");
    fs::hard_link(world.path("linked"), world.place.path().join("outside")).unwrap();
    write("longer", 10 * CHUNK as u64, b"more");
    fs::File::options().write(true).open(world.path("shorter")).unwrap().set_len(3).unwrap();
    write("sparse", CHUNK as u64 + 5000, &noise(8, 100_000));
    let file = fs::File::options().write(true).open(world.path("touched")).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
}

#[test]
fn only_what_differs_is_written() {
    let tree = tree();
    let world = World::new(&tree);
    prepared(&world);
    let inode = |name: &str| fs::metadata(world.path(name)).unwrap().ino();
    let names = ["image", "linked", "longer", "shorter", "sparse", "touched"];
    let before = names.map(inode);
    let planned = world.restore(&RestoreOptions { dry_run: true, ..options() });
    let done = world.restore_all(&options());
    assert_eq!(planned, done);
    // A chunk of the image, all of what has another name, a whole short file; of the sparse one no data at all.
    assert_eq!((done.bytes, done.bytes_local), ((1 + 10 + 10) * CHUNK as u64, 9 * CHUNK as u64), "{done:?}");
    assert_eq!((done.files, done.metadata), (5, 1));
    assert_tree(&world.target(), &tree);
    let after = names.map(inode);
    assert!(after[1] != before[1] && [0, 2, 3, 4, 5].iter().all(|n| after[*n] == before[*n]), "{before:?} {after:?}");
    assert!(fs::read(world.place.path().join("outside")).unwrap() != bytes_of(&tree.children[1]), "it lies outside");
    assert!(fs::metadata(world.path("sparse")).unwrap().blocks() * 512 < 100_000, "the hole is filled");
    assert!(temporaries(&world.target()).is_empty());
    assert_eq!(world.restore_all(&options()).unchanged, 6);
}

#[test]
fn a_dry_run_counts_as_the_run_does() {
    let world = World::new(&tree());
    for overwrite in [Overwrite::IfChanged, Overwrite::Always] {
        for in_place in [false, true] {
            let _ = fs::remove_dir_all(world.target());
            let _ = fs::remove_file(world.place.path().join("outside"));
            prepared(&world);
            let options = RestoreOptions { in_place, overwrite, ..RestoreOptions::default() };
            let planned = world.restore(&RestoreOptions { dry_run: true, ..options.clone() });
            assert_eq!(planned, world.restore_all(&options), "{overwrite:?} {in_place}");
        }
    }
}

/// What is being written must not be shown to those who may read the old file and not the new one.
#[test]
fn a_file_is_closed_before_it_gets_what_others_must_not_read() {
    let world = World::new(&tree());
    prepared(&world);
    let path = world.path("image");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    for name in crate::restore::hostile::data_packs(&world) {
        world.storage.delete(&name).unwrap();
    }
    let report = world.restore(&options());
    // The chunk that differs cannot be had: the file is what it was, and told to be in between.
    assert!(report.errors > 0, "{report:?}");
    let told = world.warnings.all();
    assert!(told.iter().any(|line| line.contains("image: it is partly old and partly new now")), "{told:?}");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_program_that_runs_is_replaced() {
    if !is_root() {
        return;
    }
    let sleep = fs::read("/bin/sleep").unwrap();
    let tree = me(Spec::dir("", vec![Spec::file("sleep", &sleep).mode(0o755)]));
    let world = World::new(&tree);
    fs::create_dir(world.target()).unwrap();
    let other = world.place.path().join("other");
    fs::write(&other, [&sleep[..], b"x"].concat()).unwrap();
    fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    copy_program(&other, world.path("sleep"));
    let mut child = std::process::Command::new(world.path("sleep")).arg("1000").spawn().unwrap();
    let done = world.restore_all(&options());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(done.files, 1);
    assert_tree(&world.target(), &tree);
}
