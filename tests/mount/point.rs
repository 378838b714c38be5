//! Mounting and unmounting: by root, by others, over what is there, and after the worst.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::Signal;
use yester::ErrorKind;
use yester::mount::{Shutdown, mount, unmount};
use yester::vfs::MountOptions;

use crate::common;
use crate::mount_hostile::served::{Served, runs};
use common::mounted::{Mounted, compare, is_root, sample, signal, stop, taken_away, until};
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

#[test]
fn a_signal_has_the_snapshots_listed_again() {
    let world = World::new();
    let options = world.repository();
    world.file("src/a", "x");
    world.run(&with(&options, &["ingest", "src"])).ok();
    let served = Served::new(&world, &options, &["--path-template", "by-tag/%t/%T", "--time-template", "%Y"]);
    // The kernel knows that there is none. Nothing tells the mount of a tag.
    assert!(fs::metadata(served.path("tags/good")).is_err());
    world.run(&with(&options, &["tag", "latest", "--add", "good"])).ok();
    signal(served.pid, Signal::HUP);
    until(|| fs::metadata(served.path("tags/good/latest/.")).is_ok());
    let year = fs::read_dir(served.path("snapshots")).unwrap().map(|e| e.unwrap().file_name()).min().unwrap();
    let by_tag = served.path("by-tag/good").join(&year);
    assert!(year.len() == 4 && fs::read_link(by_tag).unwrap().starts_with("../../ids"), "{year:?}");
    signal(served.pid, Signal::TERM);
    until(|| !runs(served.pid));
    world
        .run(&with(&options, &["mount", "latest", "point", "--time-template", "%Y"]))
        .fails(2, &["--time-template", "without SNAP"]);
    world.run(&with(&options, &["mount", "point", "--path-template", "ids/%h"])).fails(2, &["ids", "there already"]);
}

/// mount(8) itself, with lines of a file like `/etc/fstab` and by the type alone. In a mount table of its own, in which the
/// helpers are where a package puts them.
#[test]
fn mount_finds_the_helper_of_the_type() {
    let world = World::new();
    let options = world.repository();
    let file = world.file("src/a", "x");
    world.run(&with(&options, &["ingest", "src"])).ok();
    for name in ["helpers", "all", "part", "later", "typed"] {
        fs::create_dir(world.at(name)).unwrap();
    }
    let (repo, key, source) = (shown(&world.at("repo")), shown(&world.at("key")), shown(file.parent().unwrap()));
    let lines = [
        format!("{repo} {} yester key-file={key},nofail,x-systemd.automount,time-template=%Y 0 0", shown(&world.at("all"))),
        format!("{repo} {} fuse.yester ro,_netdev,key-file={key},snapshot=latest:{source} 0 0", shown(&world.at("part"))),
        format!("{repo} {} yester key-file={key},noauto 0 0", shown(&world.at("later"))),
    ];
    let table = world.file("fstab", lines.join("\n") + "\n");
    let script = r#"
        set -eu
        mount -t tmpfs none helpers
        mkdir helpers/upper helpers/work
        mount -t overlay -o lowerdir=/sbin,upperdir=helpers/upper,workdir=helpers/work none /sbin
        printf '#!/bin/sh\nexec %s --mount-helper "$@"\n' "$PROGRAM" > /sbin/mount.yester
        chmod 755 /sbin/mount.yester
        ln -s mount.yester /sbin/mount.fuse.yester
        trap 'for point in all part typed; do umount -R -l $point 2>/dev/null || :; done' EXIT
        mount -T "$TABLE" -a
        ls -d all/snapshots/2* part/a
        ls -A later
        mount -t fuse.yester "$REPO" typed -o "key-file=$KEY,snapshot=latest"
        ls -d "typed$SOURCE/a"
        findmnt -n -o FSTYPE,OPTIONS part
        umount typed
        umount part
        umount -R all
        ls -A all part typed
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).current_dir(world.home());
    for (name, value) in world.command(&[] as &[&str]).get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("PATH", std::env::var("PATH").unwrap()).env("PROGRAM", env!("CARGO_BIN_EXE_yester")).env("TABLE", table);
    let out = command.env("REPO", &repo).env("KEY", &key).env("SOURCE", &source).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    let shown: Vec<&str> = said.lines().filter(|line| !line.starts_with("mounted at ")).collect();
    let [year, part, typed, of, rest @ ..] = shown.as_slice() else { panic!("{said}") };
    assert!(year.len() == "all/snapshots/2026".len() && *part == "part/a" && typed.ends_with("src/a"), "{said}");
    assert!(of.starts_with("fuse.yester") && of.contains("ro,nosuid,nodev"), "{of}");
    assert_eq!(rest.iter().filter(|line| !line.is_empty() && !line.ends_with(':')).count(), 0, "{said}");
}

/// What systemd itself makes of a line, where it is installed: it need not run for that.
#[test]
fn systemd_makes_units_of_a_line() {
    let generator = Path::new("/usr/lib/systemd/system-generators/systemd-fstab-generator");
    if !generator.exists() {
        return;
    }
    let world = World::new();
    let line = "/srv/repo /mnt/past yester key-file=/root/repo.key,nofail,x-systemd.automount 0 0\n";
    let (table, out) = (world.file("fstab", line), world.at("units"));
    fs::create_dir(&out).unwrap();
    let made = Command::new(generator).args([&out; 3]).env("SYSTEMD_FSTAB", &table).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let mount = fs::read_to_string(out.join("mnt-past.mount")).unwrap();
    for said in ["What=/srv/repo", "Where=/mnt/past", "Type=yester", "Options=key-file=/root/repo.key"] {
        assert!(mount.contains(said), "{mount}");
    }
    assert!(fs::read_to_string(out.join("mnt-past.automount")).unwrap().contains("Where=/mnt/past"));
}

#[test]
fn mounts_are_listed_with_how_they_are_read() {
    let world = World::new();
    let options = world.repository();
    world.file("src/a", "x");
    world.run(&with(&options, &["ingest", "src"])).ok();
    let point = shown(&world.at("point"));
    // Other tests have mounts, too.
    let found = || world.run(&["mounts", "--json"]).ok().json().into_iter().find(|mount| mount["path"] == point.as_str());
    assert!(found().is_none());
    let served = Served::new(&world, &options, &["--native", "require"]);
    let mount = found().unwrap();
    assert_eq!((&mount["message_type"], &mount["state"]), (&"mount".into(), &"works".into()));
    assert_eq!((mount["pid"].as_u64(), mount["images"].as_u64()), (Some(served.pid.into()), Some(1)), "{mount}");
    assert_eq!(mount["repository"], shown(&world.at("repo")).as_str());
    let said = world.run(&["mounts"]).ok().text();
    assert!(said.lines().any(|line| line.starts_with(&point) && line.contains("1 tree is read as an image")), "{said}");
    // No list has the link by which it was asked.
    assert_eq!(fs::read_dir(&served.point).unwrap().filter(|e| e.as_ref().unwrap().file_name().len() > 20).count(), 0);
    drop(served);
    assert!(found().is_none());
    // Holes are what an image does not show; the newest snapshot is tried without anybody asking.
    fs::File::create(world.at("src/holes")).unwrap().set_len(1 << 20).unwrap();
    world.run(&with(&options, &["ingest", "src"])).ok();
    let served = Served::new(&world, &options, &[]);
    until(|| found().unwrap()["through_fuse"].as_array().unwrap().len() == 1);
    let mount = found().unwrap();
    assert!(mount["through_fuse"][0]["tree"].as_str().unwrap().starts_with("ids/"), "{mount}");
    assert!(mount["through_fuse"][0]["why"].as_str().unwrap().contains("holes") && mount["images"] == 0, "{mount}");
    drop(served);
    // Also where no extended attribute can be asked for, and with one snapshot at the root.
    let served = Served::new(&world, &options, &["--no-xattrs", "--native", "off", "latest"]);
    let mount = found().unwrap();
    assert_eq!((mount["pid"].as_u64(), &mount["why_no_images"]), (Some(served.pid.into()), &"--native off".into()), "{mount}");
    stop(served.pid);
    assert_eq!(found().unwrap()["state"], "silent");
    signal(served.pid, Signal::KILL);
    until(|| !runs(served.pid));
    assert_eq!(found().unwrap()["state"], "dead");
    assert!(world.run(&["mounts"]).ok().text().contains(&format!("{point}  its process is gone")));
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
