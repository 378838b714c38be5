//! What happens to the process that serves: it is killed, stopped, asked to end; and what is left of its mount.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Signal;

use crate::common::mounted::{is_root, shell, signal as send, stop, taken_away, until};
use crate::common::program::{World, copy_program, shown, with};
use crate::common::tiny::noise;
use crate::mount_hostile::served::{Served, runs};

/// A repository with a snapshot of `src`, which holds a big file, and `small`.
fn repository(world: &World) -> [String; 4] {
    let options = world.repository();
    world.file("src/big", noise(1, 3_000_000));
    world.file("src/small", "small");
    world.run(&with(&options, &["ingest", "src"])).ok();
    options
}

/// The numbers of a process's children, those that ended and were not waited for as well.
fn children(of: u32) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().into_string().ok());
    let parent = |pid: &String| {
        let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    all.filter(|name| name.bytes().all(|b| b.is_ascii_digit()) && parent(name) == Some(of)).collect()
}

fn is_mounted(point: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&format!(" {} ", shown(point)))
}

/// What a mount says whose process is gone: ENOTCONN, or ECONNABORTED to whom was waiting.
fn is_no_connection<T>(result: io::Result<T>) -> bool {
    let errors = [Errno::NOTCONN, Errno::CONNABORTED].map(|e| Some(e.raw_os_error()));
    result.is_err_and(|e| errors.contains(&e.raw_os_error()))
}

fn is_lost(point: &Path) -> bool {
    is_no_connection(rustix::fs::statvfs(point).map_err(io::Error::from))
}

/// Takes away what a failed test leaves: the home directory could not be removed.
struct Clears<'a>(&'a World);

impl Drop for Clears<'_> {
    fn drop(&mut self) {
        while self.0.run(&["umount", "point"]).code == Some(0) {}
    }
}

/// Lists a directory, reads what is in it and asks for what is not, until that fails, or for as long as the kernel has
/// all of it when `stop` says so.
fn reader(path: PathBuf, stop: Arc<AtomicBool>) -> JoinHandle<io::Result<()>> {
    std::thread::spawn(move || {
        for round in 0.. {
            for entry in fs::read_dir(&path)? {
                fs::read(entry?.path())?;
            }
            match fs::metadata(path.join(format!("missing {round}"))) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => {
                    other?;
                }
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    })
}

#[test]
fn killed_again_and_again() {
    let world = World::new();
    let options = repository(&world);
    let what = format!("latest:{}", shown(&world.at("src")));
    let point = world.at("point");
    let _clears = Clears(&world);
    // Heavier, by hand: YESTER_TEST_KILLS=500.
    let rounds = std::env::var("YESTER_TEST_KILLS").map_or(24, |number| number.parse().unwrap());
    for round in 0..rounds {
        // The command has returned: the mount answers. Every third time it takes the place of a dead one.
        let served = Served::new(&world, &options, &[&what]);
        assert_eq!(fs::read_to_string(served.path("small")).unwrap(), "small", "round {round}");
        let [guard] = &children(served.pid)[..] else { panic!("one guard, and nothing left behind") };
        assert_eq!(fs::read(format!("/proc/{guard}/cmdline")).unwrap().split(|&b| b == 0).nth(1), Some(&b"--guard"[..]));
        let open = (round % 4 == 1).then(|| File::open(served.path("big")).unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let readers = [(); 2].map(|()| reader(served.path(""), stop.clone()));
        send(served.pid, Signal::KILL);
        until(|| is_lost(&point) && !runs(served.pid));
        until(|| !runs(guard.parse().unwrap()));
        // Nobody waits for what is gone, and nobody is told that it is not there.
        stop.store(true, Ordering::Relaxed);
        for ended in readers.map(|reader| reader.join().unwrap()) {
            assert!(ended.is_ok() || is_no_connection(ended));
        }
        let gone = fs::metadata(point.join("never asked for"));
        let said = format!("round {round}: {gone:?}");
        assert!(is_no_connection(gone), "{said}");
        if let Some(open) = &open {
            assert!(is_no_connection(open.read_at(&mut [0; 10], 1 << 20)));
        }
        served.leave();
        if round % 3 != 0 {
            world.run(&["umount", "point"]).ok();
            assert!(!is_mounted(&point) && fs::read_dir(&point).unwrap().next().is_none());
            world.run(&["umount", "point"]).fails(1, &["nothing is mounted"]);
        }
    }
    // One that died at the place of another that had died.
    for _ in 0..2 {
        let served = Served::new(&world, &options, &[&what]);
        assert_eq!(shell(Path::new("/"), &format!("grep -c ' {} ' /proc/self/mountinfo", shown(&point))).trim(), "1");
        send(served.pid, Signal::KILL);
        until(|| is_lost(&point));
        served.leave();
    }
    world.run(&["umount", "point"]).ok();
    assert!(!is_mounted(&point));
}

/// Ends the connection of a mount from outside, as root can for any.
fn abort(point: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(&format!(" {} ", shown(point)))).unwrap();
    let number = line.split_whitespace().nth(2).unwrap().rsplit(':').next().unwrap();
    let control = tempfile::tempdir().unwrap();
    rustix::mount::mount("none", control.path(), "fusectl", rustix::mount::MountFlags::empty(), None).unwrap();
    fs::write(control.path().join(number).join("abort"), "1").unwrap();
    // A process that another test is starting may have what was written to until it runs a program of its own.
    rustix::mount::unmount(control.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[test]
fn stopped_and_aborted() {
    let world = World::new();
    let options = repository(&world);
    let what = format!("latest:{}", shown(&world.at("src")));
    // A process that answers nothing any more is still taken away.
    let served = Served::new(&world, &options, &[&what]);
    stop(served.pid);
    world.run(&["umount", "point"]).ok();
    assert!(!is_mounted(&served.point));
    send(served.pid, Signal::CONT);
    until(|| !runs(served.pid));
    // Who waits for it goes on when its connection is aborted; what is left is cleared while it is still stopped.
    for over in [false, true] {
        let served = Served::new(&world, &options, &[&what]);
        stop(served.pid);
        let mut reader = Command::new("cat").arg(served.path("big")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until(|| {
            fs::read_to_string(format!("/proc/{}/wchan", reader.id()))
                .is_ok_and(|at| at.contains("fuse") || at.contains("request"))
        });
        world.run(&with(&options, &["mount", "point"])).fails(1, &["already"]);
        abort(&served.point);
        assert!(!reader.wait().unwrap().success());
        assert!(is_lost(&served.point));
        if over {
            let again = Served::new(&world, &options, &[&what]);
            assert!(fs::read(again.path("big")).unwrap() == noise(1, 3_000_000));
        } else {
            world.run(&["umount", "point"]).ok();
        }
        assert!(!is_mounted(&served.point));
        send(served.pid, Signal::CONT);
        until(|| !runs(served.pid));
    }
}

#[test]
fn taken_out_of_the_tree_while_files_are_open() {
    let world = World::new();
    let options = repository(&world);
    let served = Served::new(&world, &options, &[&format!("latest:{}", shown(&world.at("src")))]);
    let open = File::open(served.path("big")).unwrap();
    shell(Path::new("/"), &format!("umount -l {}", shown(&served.point)));
    assert!(!is_mounted(&served.point) && fs::read_dir(&served.point).unwrap().next().is_none());
    let mut bytes = vec![0; 3_000_000];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == noise(1, 3_000_000));
    // The place is free, and the new mount there is not the old one's to take away.
    let again = Served::new(&world, &options, &["latest"]);
    assert!(runs(served.pid));
    drop(open);
    until(|| !runs(served.pid));
    assert!(again.path(&shown(&world.at("src"))[1..]).is_dir() && runs(again.pid));
}

#[test]
fn asked_to_end() {
    let world = World::new();
    let options = repository(&world);
    for signal in [Signal::TERM, Signal::INT] {
        let served = Served::new(&world, &options, &[]);
        assert_eq!(fs::read_dir(served.path("ids")).unwrap().count(), 1);
        send(served.pid, signal);
        until(|| !runs(served.pid));
        assert!(!is_mounted(&served.point));
        // In the foreground the command says how it ended.
        let mut child = world.command(&with(&options, &["mount", "-f", "point"])).stdout(Stdio::null()).spawn().unwrap();
        until(|| is_mounted(&served.point));
        send(child.id(), signal);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(!is_mounted(&served.point));
        // From outside: the process notices.
        let mut child = world.command(&with(&options, &["mount", "-f", "point"])).stdout(Stdio::null()).spawn().unwrap();
        until(|| fs::read_dir(&served.point).unwrap().next().is_some());
        until(|| world.run(&["umount", "point"]).code == Some(0));
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

/// A guard that is told of the end of a process that goes on leaves the mount as it is.
#[test]
fn a_guard_does_not_end_what_lives() {
    let world = World::new();
    let options = repository(&world);
    let served = Served::new(&world, &options, &[&format!("latest:{}", shown(&world.at("src")))]);
    let [guard] = &children(served.pid)[..] else { panic!("one guard") };
    let guard: u32 = guard.parse().unwrap();
    // Not before it listens: the signal would end it then.
    until(|| {
        let status = fs::read_to_string(format!("/proc/{guard}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() >> (Signal::USR1.as_raw() - 1) & 1 == 1
    });
    send(guard, Signal::USR1);
    std::thread::sleep(Duration::from_millis(600));
    assert!(runs(guard), "it ended");
    assert!(is_mounted(&world.at("point")));
    assert_eq!(fs::read_to_string(served.path("small")).unwrap(), "small");
    taken_away(|| world.run(&["umount", "point"]));
    until(|| !runs(guard));
    served.leave();
}

/// A user for whom fusermount3 mounts; in a mount table of their own, where they may open `/dev/fuse`. Root, in the
/// same table, may not look into their mount and takes it away all the same.
#[test]
fn a_user_mounts_by_the_command() {
    if !is_root() {
        return;
    }
    let world = World::new();
    repository(&world);
    copy_program(env!("CARGO_BIN_EXE_yester"), world.at("yester"));
    let script = r#"
set -eu
mount -t tmpfs none "$HOME/dev"; mknod -m 666 "$HOME/dev/fuse" c 10 229; mount --bind "$HOME/dev/fuse" /dev/fuse
yester() { setpriv --reuid=65534 --regid=65534 --clear-groups "$HOME/yester" --repo "$HOME/repo" --key-file "$HOME/key" "$@"; }
nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
dead() { ! nobody ls point >/dev/null 2>&1 && nobody stat -f point 2>&1 | grep -q 'not connected'; }
until_dead() { for n in $(seq 4000); do if dead; then return; fi; sleep 0.05; done; false; }
for round in 1 2 3; do
    pid=$(yester mount --json "latest:$HOME/src" point | sed 's/.*"pid":\([0-9]*\).*/\1/')
    nobody cat point/small
    grep " $HOME/point .* - fuse.yester yester ro,user_id=65534,group_id=65534" /proc/self/mountinfo | grep -q ' ro,nosuid,nodev'
    test "$(ps -o args= --ppid $pid | grep -cv -- --guard)" = 0
    ! cat point/small 2>/dev/null
    nobody kill -9 $pid
    until_dead
    if test $round = 1; then yester umount point; fi
done
yester umount point
! grep " $HOME/point " /proc/self/mountinfo
yester mount point
if yester mount --allow-other other 2>&1; then exit 1; fi
! ls point 2>/dev/null
"$HOME/yester" umount point
! grep " $HOME/point " /proc/self/mountinfo
echo end
"#;
    for name in ["dev", "point", "other"] {
        fs::create_dir(world.at(name)).unwrap();
    }
    shell(world.home(), "chown -R 65534:65534 .");
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-c", script]).current_dir(world.home());
    let output = command.env("HOME", world.home()).env("LC_ALL", "C").output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.ends_with("end\n"), "{said}");
    assert_eq!(said.matches("small").count(), 3, "{said}");
    assert!(said.contains("user_allow_other"), "{said}");
}

/// Numbers, names and attributes are the same whichever process serves.
#[test]
fn another_process_shows_the_same() {
    let world = World::new();
    let options = repository(&world);
    world.run(&with(&options, &["ingest", "src"])).ok();
    let show = || {
        let served = Served::new(&world, &options, &[]);
        let root = fs::metadata(&served.point).unwrap().ino();
        (root, shell(&served.point, "find . -printf '%i %m %n %s %y %p %l\n' | LC_ALL=C sort"))
    };
    let (first, second) = (show(), show());
    assert_eq!(first, second);
    assert_eq!(first.0, 1);
    assert!(first.1.lines().count() > 15, "{}", first.1);
}
