//! The real mount: the kernel's view of what `tests/mount/view.rs` asks without it. Needs root and `/dev/fuse`, or
//! fusermount3.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use yester::chunk::keys::Credential;
use yester::format::config::Derivation;
use yester::keys::keyring::KeyRing;
use yester::keys::slots::SlotOptions;
use yester::model::{SnapshotId, Timestamp};
use yester::observe::Reports;
use yester::repo::Repository;
use yester::vfs::{MountOptions, Native};

use crate::common;
use common::mounted::{Mounted, compare, is_root, run, sample, shell, until};
use common::tiny::{About, CHUNK, Tiny, dir, file, noise};

#[test]
fn programs_see_the_tree() {
    let tiny = Tiny::new();
    let tree = sample();
    tiny.commit(&tree, About::at(1));
    let mounted = Mounted::latest(&tiny);
    compare(&mounted.path(""), &tree);
    let out = tempfile::tempdir().unwrap();
    let copy = out.path().join("copy");
    shell(out.path(), &format!("cp -a {}/. copy", mounted.path("").display()));
    compare(&copy, &tree);
    assert_eq!(fs::metadata(copy.join("one")).unwrap().ino(), fs::metadata(copy.join("sub/two")).unwrap().ino());
    let sums = |at: &Path| {
        shell(at, "tar --sort=name --xattrs --pax-option=exthdr.name=x,delete=atime,delete=ctime -cf - . | sha256sum")
    };
    assert_eq!(sums(&copy), sums(&mounted.path("")));
    let line = format!("rsync -aHXn --checksum --delete -i {}/ {}/", mounted.path("").display(), copy.display());
    assert_eq!(shell(out.path(), &line), "");
    assert_eq!(shell(&mounted.path(""), "find . -printf x | wc -c").trim(), "3015");
    assert_eq!(shell(&mounted.path(""), "find many -type f -printf '%s\\n' | wc -l").trim(), "3000");
    assert_eq!(shell(&mounted.path(""), "grep -rlZ 'as odd as' . | tr -dc '\\0' | wc -c").trim(), "1");
}

/// What a key that only writes has stored looks no different to who has the full key.
#[test]
fn what_a_key_that_only_writes_stored_is_seen_as_well() {
    let tiny = Tiny::new();
    let ring = KeyRing::open(tiny.storage.clone(), &Credential::KeyFile([7; 32])).unwrap();
    let (derivation, now, label) = (Derivation::KeyFile, Timestamp::default(), Vec::new());
    let key = Credential::KeyFile([8; 32]);
    let slot = ring.add_writer(&key, &SlotOptions { derivation, now, label }).unwrap();
    let repo = Repository::open_to_write(tiny.storage.clone(), &key, &Reports::default()).unwrap();
    let writer = Tiny { repo: Arc::new(repo), storage: tiny.storage.clone() };
    let mut id = SnapshotId([7; 32]);
    id.0[24..].copy_from_slice(&slot.writer().0);
    let tree = sample();
    writer.commit_as(id, &tree, About::at(1));
    let mounted = Mounted::latest(&tiny);
    compare(&mounted.path(""), &tree);
}

#[test]
fn attributes_reach_programs() {
    let tiny = Tiny::new();
    let id = tiny.commit(&sample(), About::at(1)).id;
    let mounted = Mounted::latest(&tiny);
    let at = mounted.path("");
    let get = |path: &str, name: &str| {
        let mut value = Vec::with_capacity(1000);
        rustix::fs::getxattr(at.join(path), name, spare_capacity(&mut value)).map(|_| value)
    };
    let mut names = Vec::with_capacity(1000);
    rustix::fs::listxattr(at.join("rich"), spare_capacity(&mut names)).unwrap();
    assert_eq!(names, b"user.colour\0user.empty\0");
    assert_eq!(get("rich", "user.colour").unwrap(), b"green");
    assert_eq!(get("rich", "user.empty").unwrap(), b"");
    assert_eq!(get("rich", "user.yester.snapshot").unwrap(), id.to_string().into_bytes());
    assert_eq!(get("rich", "user.yester.btime").unwrap(), b"5.000000006");
    assert_eq!(get("rich", "user.none"), Err(Errno::NODATA));
    assert_eq!(get("empty", "system.posix_acl_access"), Err(Errno::NODATA));
    assert_eq!(rustix::fs::getxattr(at.join("rich"), "user.colour", &mut [0u8; 2]), Err(Errno::RANGE));
    let (one, two) = (fs::metadata(at.join("one")).unwrap(), fs::metadata(at.join("sub/two")).unwrap());
    assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    assert_eq!(fs::metadata(&at).unwrap().nlink(), 4);
    let hollow = fs::metadata(at.join("hollow")).unwrap();
    assert_eq!((hollow.len(), hollow.blocks()), ((2 << 20) + 65_536, 128));
    let df = shell(&at, "stat -f -c '%s %b %f %c %d %l' .");
    assert_eq!(df.trim(), "4096 4 0 3015 0 255");
}

#[test]
fn holes_and_offsets() {
    let tiny = Tiny::new();
    let tree = sample();
    tiny.commit(&tree, About::at(1));
    let mounted = Mounted::latest(&tiny);
    let out = tempfile::tempdir().unwrap();
    shell(out.path(), &format!("cp --sparse=auto {} hollow", mounted.path("hollow").display()));
    let copied = fs::metadata(out.path().join("hollow")).unwrap();
    assert!(copied.blocks() <= 136, "{} blocks: the holes were filled", copied.blocks());
    let mut file = fs::File::open(mounted.path("big")).unwrap();
    let whole = tree.entries()[&b"big"[..]].bytes();
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), whole.len() as u64);
    let mut buffer = [0; 100];
    for (at, want) in [(2_999_901, 100), (2_999_990, 11), (3_000_000, 1), (3_000_001, 0), (1 << 40, 0)] {
        assert_eq!(file.read_at(&mut buffer, at).unwrap(), want, "at {at}");
        let from = whole.len().min(at as usize);
        assert_eq!(buffer[..want], whole[from..from + want]);
    }
    file.seek(SeekFrom::Start(1_234_567)).unwrap();
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).unwrap();
    assert!(rest == whole[1_234_567..]);
}

#[test]
fn nothing_can_be_written() {
    let tiny = Tiny::new();
    tiny.commit(&sample(), About::at(1));
    let mounted = Mounted::new(&tiny, MountOptions::default());
    let at = fs::canonicalize(mounted.path("latest")).unwrap();
    let lines = [
        "echo x > new",
        "echo x >> empty",
        ": > big",
        "mkdir d",
        "rmdir sub",
        "rm -f empty",
        "ln -s x y",
        "ln empty z",
        "mv empty e",
        "chmod 600 empty",
        "chown 1:1 empty",
        "touch empty",
        "mkfifo p2",
        "truncate -s 5 big",
    ];
    for line in lines {
        let output = Command::new("sh").args(["-c", line]).env("LC_ALL", "C").current_dir(&at).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("Read-only file system"), "{line}: {text}");
    }
    let rich = at.join("rich");
    assert_eq!(rustix::fs::setxattr(&rich, "user.x", b"1", XattrFlags::empty()), Err(Errno::ROFS));
    assert_eq!(rustix::fs::removexattr(&rich, "user.colour"), Err(Errno::ROFS));
    for line in ["mkdir x", "ln -s a ids/b", "rm latest"] {
        assert!(!run("sh", &["-c", line], &mounted.path("")).status.success(), "{line}");
    }
}

#[test]
fn the_root_and_its_links() {
    let tiny = Tiny::new();
    tiny.commit(&dir([("f", file(*b"1"))]), About::at(1_763_633_051));
    let about = About { tags: vec!["nightly"], ..About::at(1_763_633_052) };
    tiny.commit(&dir([("f", file(*b"2"))]), about);
    let mounted = Mounted::new(&tiny, MountOptions::default());
    for (path, content) in [
        ("latest/f", "2"),
        ("snapshots/2025-11-20T10-04-11Z/f", "1"),
        ("hosts/web1/latest/f", "2"),
        ("tags/nightly/2025-11-20T10-04-12Z/f", "2"),
        ("series/web1-etc/2025-11-20T10-04-11Z/f", "1"),
    ] {
        assert_eq!(fs::read_to_string(mounted.path(path)).unwrap(), content, "{path}");
    }
    assert_eq!(shell(&mounted.path(""), "ls -d */ | tr -d '\\n'"), "hosts/ids/latest/series/snapshots/tags/");
    assert_eq!(fs::metadata(mounted.path("")).unwrap().mode() & 0o7777, 0o555);
    assert!(fs::metadata(mounted.path("snapshots/none")).is_err());
}

#[test]
fn snapshots_come_and_go_while_it_is_mounted() {
    let tiny = Tiny::new();
    let one = tiny.commit_as(SnapshotId([0x11; 32]), &dir([("f", file(noise(1, 200_000)))]), About::at(1));
    let mounted = Mounted::new(&tiny, MountOptions::default());
    let ids = || {
        let mut names: Vec<_> = fs::read_dir(mounted.path("ids")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    // The kernel has seen and kept all of it.
    assert_eq!((ids().len(), ids().len()), (1, 1));
    assert_eq!(fs::read(mounted.path("latest/f")).unwrap(), noise(1, 200_000));
    assert!(fs::metadata(mounted.path("ids/22222222")).is_err());
    let open = fs::File::open(mounted.path("ids/11111111/f")).unwrap();
    let time = fs::metadata(mounted.path("ids")).unwrap().modified().unwrap();

    tiny.commit_as(SnapshotId([0x22; 32]), &dir([("f", file(*b"2"))]), About::at(2));
    until(|| ids().len() == 2);
    until(|| fs::read(mounted.path("latest/f")).unwrap() == b"2");
    assert_eq!(fs::read(mounted.path("ids/22222222/f")).unwrap(), b"2");
    assert_ne!(fs::metadata(mounted.path("ids")).unwrap().modified().unwrap(), time);

    tiny.forget(one.id);
    until(|| ids() == ["22222222"]);
    until(|| fs::metadata(mounted.path("ids/11111111/f")).is_err());
    let mut buffer = vec![0; 100];
    open.read_exact_at(&mut buffer, 150_000).unwrap();
    assert_eq!(buffer, noise(1, 200_000)[150_000..150_100]);
}

#[test]
fn inode_numbers_survive_a_remount() {
    let tiny = Tiny::new();
    tiny.commit(&sample(), About::at(1));
    let numbers = || {
        let mounted = Mounted::new(&tiny, MountOptions::default());
        shell(&mounted.path(""), "find . -printf '%i %p\\n' | LC_ALL=C sort")
    };
    assert_eq!(numbers(), numbers());
}

#[test]
fn damage_is_eio_and_is_not_kept() {
    let tiny = Tiny::new();
    let bad = noise(5, 50_000);
    let made = tiny.commit(&dir([("bad", file(bad.clone())), ("good", file(noise(6, 300_000)))]), About::at(1));
    let lost = tiny.commit(&dir([("x", file(noise(7, 100)))]), About::at(2));
    let key = tiny.repo.keys().chunk_id(yester::format::pack::PackKind::Data, &bad[..CHUNK]);
    let mounted = Mounted::new(&tiny, MountOptions::default());
    let bad_path = mounted.path(&format!("ids/{}/bad", made.id.short()));
    tiny.damage(made.data.as_ref().unwrap(), &key);
    let eio = |result: std::io::Result<Vec<u8>>| assert_eq!(result.unwrap_err().raw_os_error(), Some(5));
    eio(fs::read(&bad_path));
    eio(fs::read(&bad_path));
    assert_eq!(
        fs::read(mounted.path(&format!("ids/{}/good", made.id.short()))).unwrap()[100_000..],
        noise(6, 300_000)[100_000..]
    );
    // The same bit again: the storage has recovered, and so has the file.
    tiny.damage(made.data.as_ref().unwrap(), &key);
    assert_eq!(fs::read(&bad_path).unwrap(), bad);

    tiny.lose(lost.tree.as_ref().unwrap());
    let lost = mounted.path(&format!("ids/{}", lost.id.short()));
    eio(fs::read(lost.join("x")));
    eio(fs::read(lost.join("not there either")));
    assert_eq!(fs::read_dir(&lost).unwrap().filter_map(|e| e.err()).next().and_then(|e| e.raw_os_error()), Some(5));
}

#[test]
fn a_snapshot_is_read_through_every_system_call() {
    let tiny = Tiny::new();
    let tree = sample();
    tiny.commit(&tree, About::at(1));
    let mounted = Mounted::latest(&tiny);
    let out = tempfile::tempdir().unwrap();
    // Linux copies within the kernel only between file systems of one type; all others are told EXDEV by it.
    let script = r"
import errno, hashlib, mmap, os, sys
src, dst = sys.argv[1:]
fd = os.open(src, os.O_RDONLY)
size = os.fstat(fd).st_size
show = lambda b: print(hashlib.sha256(b).hexdigest())
show(mmap.mmap(fd, 0, prot=mmap.PROT_READ)[:])
out = os.open(dst, os.O_RDWR | os.O_CREAT)
at = 0
while at < size:
    at += os.sendfile(out, fd, at, size - at)
show(open(dst, 'rb').read())
os.ftruncate(out, 0)
try:
    while os.copy_file_range(fd, out, 1 << 20, os.lseek(out, 0, os.SEEK_END)):
        pass
except OSError as e:
    assert e.errno == errno.EXDEV
    os.write(out, os.pread(fd, size, 0))
show(open(dst, 'rb').read())
direct = os.open(src, os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 1 << 22)
show(buffer[:os.readv(direct, [buffer])])
";
    let big = mounted.path("big");
    let output = run("python3", &["-c", script, big.to_str().unwrap(), "copied"], out.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let wanted = shell(out.path(), &format!("sha256sum < {} | cut -d' ' -f1", big.display()));
    let text = String::from_utf8(output.stdout).unwrap();
    let sums: Vec<&str> = text.lines().collect();
    assert_eq!(sums, [wanted.trim(); 4]);
    assert!(fs::read(&big).unwrap() == tree.entries()[&b"big"[..]].bytes());
}

#[test]
fn long_names_and_deep_paths() {
    let tiny = Tiny::new();
    let name = "n".repeat(255);
    let deep = (0..300).fold(dir([("end", file(*b"end"))]), |inner, _| dir([("d", inner)]));
    tiny.commit(&dir([(name.as_str(), file(*b"long")), ("deep", deep)]), About::at(1));
    let mounted = Mounted::latest(&tiny);
    assert_eq!(fs::read(mounted.path(&name)).unwrap(), b"long");
    assert_eq!(fs::read(mounted.path(&format!("deep/{}end", "d/".repeat(300)))).unwrap(), b"end");
    let too_long = fs::metadata(mounted.path(&"n".repeat(256))).unwrap_err();
    assert_eq!(too_long.raw_os_error(), Some(36));
}

#[test]
fn several_readers_at_once() {
    let tiny = Tiny::new();
    let tree = sample();
    tiny.commit(&tree, About::at(1));
    let options = MountOptions { memory: 8 << 20, scope: Some(("latest".into(), Vec::new())), ..MountOptions::default() };
    let mounted = Mounted::new(&tiny, options);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| compare(&mounted.path(""), &tree));
        }
    });
}

/// As `lsattr -p` and `xfs_io` ask.
#[test]
fn extended_flags_are_answered() {
    let tiny = Tiny::new();
    tiny.commit(&dir([("f", file(*b"f").with(|t| t.flags = 0x40 | 0x10)), ("g", file(*b"g"))]), About::at(1));
    let mounted = Mounted::latest(&tiny);
    let script = "import fcntl,os,struct\nfor n in ('f','g','.'): print(*struct.unpack('7I', \
                  fcntl.ioctl(os.open(n, os.O_RDONLY), 0x801c581f, bytes(28))))";
    let output = run("python3", &["-c", script], &mounted.path(""));
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "136 0 0 0 0 0 0\n0 0 0 0 0 0 0\n0 0 0 0 0 0 0\n", "{}", String::from_utf8_lossy(&output.stderr));
}

/// What the kernel's NFS server does: it gives out handles, and opens them when nothing is known of the inode any more.
#[test]
fn handles_stay_good_when_inodes_are_forgotten() {
    let tiny = Tiny::new();
    tiny.commit(&dir([("d", dir([("e", dir([("f", file(noise(1, 50_000)))]))]))]), About::at(1));
    let out = tempfile::tempdir().unwrap();
    for (native, root) in [(Native::Off, ""), (Native::Require, "latest/.")] {
        let mounted = Mounted::new(&tiny, MountOptions { native, ..MountOptions::default() });
        let root = mounted.path(if root.is_empty() { "" } else { root });
        let latest = fs::canonicalize(mounted.path("latest")).unwrap();
        let names = ["d/e/f", "d/e", "d"].map(|name| latest.join(name).to_str().unwrap().to_owned());
        let call = |what: &str, mark: &Path| {
            let script = r"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
what, mark, root, *names = sys.argv[1:]
for n, name in enumerate(names):
    handle = ctypes.create_string_buffer(136)
    if what == 'give':
        ctypes.c_uint.from_buffer(handle).value = 128
        mount = ctypes.c_int()
        assert libc.name_to_handle_at(-100, name.encode(), handle, ctypes.byref(mount), 0) == 0, ctypes.get_errno()
        open(mark + str(n), 'wb').write(handle.raw)
    else:
        handle.raw = open(mark + str(n), 'rb').read()
        top = os.open(root, os.O_RDONLY)
        fd = libc.open_by_handle_at(top, handle, os.O_RDONLY)
        assert fd >= 0, (name, os.strerror(ctypes.get_errno()))
        print(len(os.read(fd, 100000)) if n == 0 else os.listdir(fd)[0])
        # The way up, as the server looks whether something is below what it gives out.
        if n > 0: print(os.path.basename(os.readlink('/proc/self/fd/%d' % fd)))
";
            let args = [
                &["-c", script, what, mark.to_str().unwrap(), root.to_str().unwrap()][..],
                &names.each_ref().map(String::as_str),
            ]
            .concat();
            let output = run("python3", &args, Path::new("/"));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let mark = out.path().join("handle");
        call("give", &mark);
        if native == Native::Off {
            mounted.shrink();
        }
        assert_eq!(call("open", &mark), "50000\nf\ne\ne\nd\n", "{native:?}");
    }
}

/// What another user may read is what modes and ACLs say, and nothing at all unless they are let in.
#[test]
fn other_users() {
    if !is_root() {
        return;
    }
    let tiny = Tiny::new();
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\x39\x30\0\0\x04\0\0\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    let judged = file(*b"acl").with(|t| {
        t.mode = 0o640;
        t.owner = (0, 54_321);
        t.xattrs = vec![(b"system.posix_acl_access".to_vec(), acl.to_vec())];
    });
    let tree = dir([("open", file(*b"open")), ("closed", file(*b"closed").with(|t| t.mode = 0o600)), ("acl", judged)]);
    tiny.commit(&tree, About::at(1));
    let read = |mounted: &Mounted, uid: u32, gid: u32, name: &str| {
        let (uid, gid) = (format!("--reuid={uid}"), format!("--regid={gid}"));
        let path = mounted.path(name);
        fs::set_permissions(mounted.point.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).ok();
        run("setpriv", &[&uid, &gid, "--clear-groups", "cat", path.to_str().unwrap()], Path::new("/")).status.success()
    };
    let scope = Some(("latest".into(), Vec::new()));
    let shared = Mounted::new(&tiny, MountOptions { scope: scope.clone(), allow_other: true, ..MountOptions::default() });
    assert!(read(&shared, 12_346, 12_346, "open"));
    assert!(!read(&shared, 12_346, 12_346, "closed"));
    assert!(read(&shared, 12_345, 12_345, "acl"), "the ACL's user is refused");
    assert!(!read(&shared, 12_346, 54_321, "acl"), "the owning group is let in, against the ACL");
    drop(shared);
    // Without attributes nobody gets more than an ACL that is not shown gave them.
    let without_xattrs = true;
    let bare =
        Mounted::new(&tiny, MountOptions { scope: scope.clone(), allow_other: true, without_xattrs, ..MountOptions::default() });
    assert!(read(&bare, 12_346, 12_346, "open"));
    assert!(!read(&bare, 12_346, 54_321, "acl"), "the owning group is let in, against the ACL");
    for _ in 0..2 {
        let mut buffer = [0u8; 100];
        assert_eq!(rustix::fs::listxattr(bare.path("acl"), &mut buffer), Err(Errno::NOTSUP));
        assert_eq!(rustix::fs::getxattr(bare.path("acl"), "user.yester.snapshot", &mut buffer), Err(Errno::NOTSUP));
    }
    drop(bare);
    let own = Mounted::new(&tiny, MountOptions { scope, ..MountOptions::default() });
    assert!(!read(&own, 12_346, 12_346, "open"));
}
