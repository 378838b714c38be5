//! Real mounts for tests, and the tree that is in them.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::mount::MountFlags;
use rustix::process::{Pid, Signal, kill_process};
use yester::Result;
use yester::model::Timestamp;
use yester::mount::{Shutdown, mount, unmount};
use yester::vfs::MountOptions;

use super::tiny::{Piece, Tiny, Tree, What, dir, file, noise, sparse, symlink};

/// A mount that a thread of this process serves; gone when this is dropped, whatever happened.
pub struct Mounted {
    pub point: tempfile::TempDir,
    pub shutdown: Shutdown,
    pub server: Option<JoinHandle<Result<()>>>,
}

impl Mounted {
    pub fn new(tiny: &Tiny, options: MountOptions) -> Mounted {
        let point = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let (ready, is_ready) = mpsc::channel();
        let server = {
            let (repo, place, shutdown) = (tiny.repo.clone(), point.path().to_owned(), shutdown.clone());
            std::thread::spawn(move || mount(&repo, &options, &place, &shutdown, move || ready.send(()).unwrap()))
        };
        if is_ready.recv_timeout(PATIENCE).is_err() {
            panic!("the mount did not come up: {:?}", server.join());
        }
        Mounted { point, shutdown, server: Some(server) }
    }

    /// The newest snapshot at the root.
    pub fn latest(tiny: &Tiny) -> Mounted {
        Self::new(tiny, MountOptions { scope: Some(("latest".into(), Vec::new())), ..MountOptions::default() })
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.point.path().join(below)
    }

    /// Makes the kernel forget every name and inode of the mount that nobody uses.
    pub fn shrink(&self) {
        shrink(self.point.path());
    }

    pub fn end(&mut self) -> Result<()> {
        self.shutdown.trigger();
        self.server.take().map_or(Ok(()), |server| server.join().unwrap())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.end();
        // If the server gave up, something may still be mounted.
        let _ = unmount(self.point.path());
    }
}

/// Makes the kernel forget every name and inode of a mount that nobody uses: it does before it mounts anew.
pub fn shrink(point: &Path) {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    rustix::mount::mount_remount(point, flags, c"").unwrap();
}

pub fn run(program: &str, args: &[&str], at: &Path) -> Output {
    Command::new(program).args(args).current_dir(at).output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// The standard output of a command that must succeed.
pub fn shell(at: &Path, line: &str) -> String {
    let output = run("sh", &["-c", line], at);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

pub fn sample() -> Tree {
    let many = (0..3000).map(|n| (format!("file-{n:05}"), file(noise(n, (n * 7 % 9000) as usize))));
    let linked = || file(noise(77, 30_000)).with(|t| t.link = Some("pair"));
    let rich = file(b"r".repeat(100)).with(|t| {
        t.mode = 0o4755;
        t.xattrs = vec![(b"user.colour".to_vec(), b"green".to_vec()), (b"user.empty".to_vec(), Vec::new())];
        t.birth = Some(Timestamp { secs: 5, nanos: 6 });
    });
    dir([
        (&b"big"[..], file(noise(1, 3_000_001))),
        (b"empty", file(*b"")),
        (b"hollow", sparse(vec![Piece::Hole(1 << 20), Piece::Data(noise(2, 65_536)), Piece::Hole(1 << 20)])),
        (b"link", symlink("sub/deeper/deepest")),
        (b"many", dir(many)),
        (b"old", file(*b"old").with(|t| t.mtime = Timestamp { secs: -100, nanos: 250_000_000 })),
        (b"one", linked()),
        (b"\xff\n\x1b odd", file(*b"nothing is as odd as this")),
        (b"pipe", Tree::new(What::Fifo)),
        (b"rich", rich),
        (b"sub", dir([("deeper", dir([("deepest", file(noise(3, 100)))])), ("two", linked())])),
    ])
}

/// Compares what is below `path` with a tree, by everything that `lstat` and reading tell.
pub fn compare(path: &Path, tree: &Tree) {
    let meta = fs::symlink_metadata(path).unwrap();
    assert_eq!(meta.mode() & 0o7777, u32::from(tree.mode), "{path:?}");
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (tree.mtime.secs, i64::from(tree.mtime.nanos)), "{path:?}");
    match &tree.what {
        What::Dir(entries) => {
            let listed: BTreeMap<Vec<u8>, PathBuf> = fs::read_dir(path)
                .unwrap()
                .map(|e| e.unwrap())
                .map(|e| (std::os::unix::ffi::OsStringExt::into_vec(e.file_name()), e.path()))
                .collect();
            assert_eq!(listed.keys().collect::<Vec<_>>(), entries.keys().collect::<Vec<_>>());
            entries.iter().for_each(|(name, tree)| compare(&listed[name], tree));
        }
        What::File(_) => assert!(fs::read(path).unwrap() == tree.bytes(), "{path:?} has other content"),
        What::Symlink(target) => {
            let found = fs::read_link(path).unwrap();
            assert_eq!(std::os::unix::ffi::OsStrExt::as_bytes(found.as_os_str()), target);
        }
        What::Fifo => assert!(meta.file_type().is_fifo()),
        _ => {}
    }
}

/// How long a test waits for what must happen, before it says that it does not. Long: the machine may be very busy, and
/// only a test that fails waits so long.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until `holds`.
#[track_caller]
pub fn until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "it did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal to a process, by no other process: on a busy machine one would take a while to begin.
pub fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// Stops a process and waits until all its threads stand still. The signal is taken by one of them, which tells the
/// others: until it has run, they go on, and may answer what the test then does.
#[track_caller]
pub fn stop(pid: u32) {
    signal(pid, Signal::STOP);
    let stands = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat"))?;
        Ok::<_, std::io::Error>(stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')))
    };
    until(|| {
        let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        tasks.all(|task| task.and_then(stands).unwrap_or(false))
    });
}

/// Takes a mount away by `umount`, which says with 11 that it is in use. What this process had open there a moment ago may
/// still be so in a process that another test is starting, until that runs a program of its own.
#[track_caller]
pub fn taken_away(umount: impl Fn() -> super::program::Run) {
    until(|| {
        let run = umount();
        run.code != Some(11) && run.ok().code == Some(0)
    });
}
