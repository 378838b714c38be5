//! Nothing can be changed: not by any system call, not anywhere in the mount, not by root.

use std::path::Path;

use rustix::mount::MountFlags;
use yester::vfs::MountOptions;

use crate::common::mounted::{Mounted, run, sample, shell};
use crate::common::tiny::{About, Tiny};

/// Entries of every kind, below a snapshot and made up.
const PLACES: [&str; 14] = [
    "ids/S/big",
    "ids/S/empty",
    "ids/S/rich",
    "ids/S/hollow",
    "ids/S/sub/two",
    "ids/S/sub",
    "ids/S/many",
    "ids/S/link",
    "ids/S/pipe",
    "ids/S",
    "ids",
    "snapshots",
    "hosts/web1",
    "latest",
];

/// What was not refused with EROFS, and how much was.
fn try_all(mounted: &Mounted, id: &str) -> (Vec<String>, usize) {
    let program = format!("{}/tests/every_write.py", env!("CARGO_MANIFEST_DIR"));
    let paths: Vec<String> = PLACES.iter().map(|place| place.replace('S', id)).collect();
    let args: Vec<&str> = [program.as_str()].into_iter().chain(paths.iter().map(String::as_str)).collect();
    let output = run("python3", &args, mounted.point.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    let refused = lines.pop().unwrap().parse().unwrap();
    (lines, refused)
}

/// Names, attributes and content.
fn state(mounted: &Mounted) -> String {
    let line = r"find . -printf '%i %m %u %s %T@ %n %p\n' | LC_ALL=C sort | sha256sum; cat latest/big latest/rich | sha256sum";
    shell(mounted.point.path(), line)
}

#[test]
fn every_call_that_changes_something_is_refused() {
    let tiny = Tiny::new();
    let id = tiny.commit(&sample(), About::at(1)).id.short();
    let mounted = Mounted::new(&tiny, MountOptions::default());
    let before = state(&mounted);
    let (others, refused) = try_all(&mounted, &id);
    assert_eq!(others, Vec::<String>::new());
    assert!(refused > 250, "{refused}");
    assert_eq!(state(&mounted), before);
}

/// Root can take the flag away; then the kernel asks the mount, and is refused.
#[test]
fn a_mount_that_root_made_writable_cannot_be_written() {
    let tiny = Tiny::new();
    let id = tiny.commit(&sample(), About::at(1)).id.short();
    let mounted = Mounted::new(&tiny, MountOptions::default());
    let before = state(&mounted);
    rustix::mount::mount_remount(mounted.point.path(), MountFlags::NOSUID | MountFlags::NODEV, c"").unwrap();
    assert!(shell(Path::new("/"), "grep ' fuse.yester yester ' /proc/self/mountinfo").contains(" rw,"));
    let (others, refused) = try_all(&mounted, &id);
    // What Linux refuses for another reason, before it asks: a directory is not unlinked, nothing is renamed to nothing.
    let known = |line: &str| {
        let call = line.split(" '").next().unwrap();
        ["unlink", "rmdir", "rename over", "exchange", "link", "O_TMPFILE"].contains(&call) || call.starts_with("ioctl")
    };
    let odd: Vec<&String> = others.iter().filter(|line| line.ends_with("done") || !known(line)).collect();
    assert_eq!(odd, Vec::<&String>::new());
    assert!(refused > 200, "{refused} of {}", refused + others.len());
    assert_eq!(state(&mounted), before);
    mounted.shrink();
    assert_eq!(state(&mounted), before);
}
