//! Mounting and unmounting: by root, by others, over what is there, and after the worst.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use yester::ErrorKind;
use yester::mount::{Shutdown, mount, unmount};
use yester::vfs::MountOptions;

use crate::common;
use common::mounted::{Mounted, compare, is_root, sample, taken_away, until};
use common::program::{World, copy_program, shown, with};
use common::tiny::{About, Tiny, noise};

#[test]
fn mount_points_are_judged() {
    let tiny = Tiny::new();
    tiny.commit(&sample(), About::at(1));
    let place = tempfile::tempdir().unwrap();
    let try_with = |point: &Path, options: MountOptions| {
        mount(&tiny.repo, &options, point, &Shutdown::new(), || panic!("it was mounted")).unwrap_err()
    };
    let plain = |point: &Path| try_with(point, MountOptions::default());
    let missing = plain(&place.path().join("missing"));
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("mkdir"), "{missing}");
    fs::write(place.path().join("file"), "x").unwrap();
    assert!(plain(&place.path().join("file")).to_string().contains("not a directory"));
    assert!(plain(place.path()).to_string().contains("not empty"));
    let inner = place.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let avoid = |dir: &Path| MountOptions { avoid: vec![dir.to_owned()], ..MountOptions::default() };
    assert!(try_with(&inner, avoid(place.path())).to_string().contains("in each other"));
    fs::create_dir(inner.join("repo")).unwrap();
    assert!(try_with(&inner, avoid(&inner)).to_string().contains("not empty"));
    let empty = tempfile::tempdir().unwrap();
    let options = MountOptions { extra: vec!["rw".into()], ..MountOptions::default() };
    assert!(try_with(empty.path(), options).to_string().contains("always ro"));
    let mounted = Mounted::latest(&tiny);
    let twice = plain(mounted.point.path());
    assert_eq!(twice.kind(), ErrorKind::Exists);
    assert!(twice.to_string().contains("yester umount"), "{twice}");
    compare(&mounted.path(""), &sample());
}

#[test]
fn unmounting() {
    let tiny = Tiny::new();
    tiny.commit(&sample(), About::at(1));
    let mut mounted = Mounted::new(&tiny, MountOptions::default());
    let point = mounted.point.path().to_owned();
    let open = fs::File::open(mounted.path("latest/big")).unwrap();
    let busy = unmount(&point).unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Busy);
    assert!(busy.to_string().contains("in use"), "{busy}");
    drop(open);
    // A process that another test is starting has what was open here until it runs a program of its own.
    until(|| unmount(&point).map_err(|e| assert_eq!(e.kind(), ErrorKind::Busy, "{e}")).is_ok());
    // The server has noticed, and has nothing to complain of.
    mounted.server.take().unwrap().join().unwrap().unwrap();
    assert!(fs::read_dir(&point).unwrap().next().is_none());
    assert_eq!(unmount(&point).unwrap_err().kind(), ErrorKind::NotFound);
    let foreign = unmount(Path::new("/proc")).unwrap_err();
    assert!(foreign.to_string().contains("not of yester"), "{foreign}");
    assert!(unmount(&point.join("missing")).is_err());
}

#[test]
fn a_mount_in_use_ends_when_it_is_told_to() {
    let tiny = Tiny::new();
    tiny.commit(&sample(), About::at(1));
    let mut mounted = Mounted::latest(&tiny);
    let mut open = fs::File::open(mounted.path("big")).unwrap();
    mounted.shutdown.trigger();
    until(|| fs::read_dir(mounted.point.path()).unwrap().next().is_none());
    // Out of the tree, but its user reads on.
    let mut first = vec![0; 5000];
    open.read_exact(&mut first).unwrap();
    assert_eq!(first, noise(1, 3_000_001)[..5000]);
    drop(open);
    mounted.end().unwrap();
}

/// A user who has a name everywhere: fusermount3 asks for it.
const NOBODY: u32 = 65_534;

/// Runs one test of this program in another process, under another user if `user` says so.
fn again(test: &str, place: Option<&Path>, user: Option<u32>) -> (tempfile::TempDir, Command) {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // Where the program was built, other users may have no way in.
    let program = home.path().join("tests");
    copy_program(std::env::current_exe().unwrap(), &program);
    let mut command = match user {
        None => Command::new(&program),
        Some(user) => {
            // Where nobody but root may open /dev/fuse, the other user gets one of their own, in a mount table of
            // their own.
            let device = home.path().join("device");
            fs::create_dir(&device).unwrap();
            let line = format!(
                "mount -t tmpfs none {0} && mknod -m 666 {0}/fuse c 10 229 && mount --bind {0}/fuse /dev/fuse \\
                 && exec setpriv --reuid={user} --regid={user} --clear-groups {1} \"$@\"",
                device.display(),
                program.display()
            );
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &line, "sh"]);
            command
        }
    };
    command.args(["--exact", &common::whole_name(module_path!(), test), "--nocapture"]).current_dir("/");
    if let Some(place) = place {
        command.env("YESTER_TEST_PLACE", place);
    }
    (home, command)
}

#[test]
fn a_user_who_is_not_root_can_mount() {
    if is_root() {
        let (_home, mut command) = again("a_user_who_is_not_root_can_mount", None, Some(NOBODY));
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let tiny = Tiny::new();
    let tree = sample();
    tiny.commit(&tree, About::at(1));
    let mut mounted = Mounted::latest(&tiny);
    compare(&mounted.path(""), &tree);
    assert_eq!(unmount_twice(mounted.point.path()), ErrorKind::NotFound);
    mounted.server.take().unwrap().join().unwrap().unwrap();
    let mut mounted = Mounted::new(&tiny, MountOptions::default());
    assert_eq!(fs::metadata(mounted.path("ids")).unwrap().uid(), fs::metadata("/proc/self").unwrap().uid());
    mounted.end().unwrap();
    assert!(fs::read_dir(mounted.point.path()).unwrap().next().is_none());
}

/// Unmounts; the kind of the error that the second time is.
fn unmount_twice(point: &Path) -> ErrorKind {
    unmount(point).unwrap();
    unmount(point).unwrap_err().kind()
}

/// Mounts for the test below, in a process that it can kill.
#[test]
fn serve_until_killed() {
    let Some(place) = std::env::var_os("YESTER_TEST_PLACE") else { return };
    let tiny = Tiny::new();
    tiny.commit(&sample(), About::at(1));
    let ready = || fs::write(Path::new(&place).with_extension("ready"), "").unwrap();
    mount(&tiny.repo, &MountOptions::default(), Path::new(&place), &Shutdown::new(), ready).unwrap();
}

#[test]
fn what_a_killed_mount_leaves_is_cleared() {
    let base = tempfile::tempdir().unwrap();
    let place = base.path().join("place");
    fs::create_dir(&place).unwrap();
    let kill_one = || {
        let ready = place.with_extension("ready");
        let _ = fs::remove_file(&ready);
        let (_home, mut command) = again("serve_until_killed", Some(&place), None);
        let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        until(|| ready.exists());
        assert!(fs::metadata(place.join("latest/big")).is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(rustix::fs::statvfs(&place).err(), Some(Errno::NOTCONN));
    };
    kill_one();
    assert_eq!(unmount_twice(&place), ErrorKind::NotFound);
    assert!(fs::read_dir(&place).unwrap().next().is_none());
    // Mounting over it clears it as well.
    kill_one();
    kill_one();
    assert_eq!(unmount_twice(&place), ErrorKind::NotFound);
}

/// As mount(8) calls it: by the name of the type, with what it passes on.
#[test]
fn a_line_of_fstab() {
    let world = World::new();
    let options = world.repository();
    let file = world.file("src/a", "x");
    world.run(&with(&options, &["ingest", "src"])).ok();
    let (helper, point) = (world.at("mount.yester"), world.at("point"));
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_yester"), &helper).unwrap();
    fs::create_dir(&point).unwrap();
    let key = format!(
        "rw,nofail,x-systemd.automount,key_file={},snapshot=latest:{}",
        shown(&world.at("key")),
        shown(file.parent().unwrap())
    );
    let args = [shown(&world.at("repo")), shown(&point), "-o".into(), key];
    let command = world.command(&args);
    // The program under its other name.
    let mut called = Command::new(&helper);
    called.args(command.get_args()).current_dir(world.home());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            called.env(name, value);
        }
    }
    let out = called.output().unwrap();
    assert!(out.status.success(), "{out:?}");
    assert_eq!(fs::read(point.join("a")).unwrap(), b"x");
    taken_away(|| world.run(&["umount", &shown(&point)]));
}
