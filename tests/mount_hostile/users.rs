//! Other users: who gets in, what they may read there, and that nothing there gives them rights.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use crate::common::mounted::{is_root, run, shell};
use crate::common::program::{World, shown, with};
use crate::mount_hostile::served::Served;

/// User, group, and further groups.
type User = (u32, u32, &'static str);

/// Nobody in particular; the owner of some files; whom ACLs name; members of groups, first and further.
const USERS: [User; 7] = [
    (65_534, 65_534, ""),
    (20_001, 65_534, ""),
    (20_002, 65_534, ""),
    (20_003, 30_001, ""),
    (20_003, 65_534, "30001"),
    (20_003, 65_534, "30002,30003"),
    (20_002, 30_001, "30002"),
];

/// A directory that other users can look into, with a repository in it that they cannot.
fn world() -> World {
    let world = World::new();
    fs::set_permissions(world.home(), fs::Permissions::from_mode(0o755)).unwrap();
    world
}

fn as_user((uid, gid, groups): User, program: &str, args: &[&str]) -> Output {
    let groups = if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={groups}") };
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), groups, program.to_owned()]);
    command.args(args).current_dir("/").env("LC_ALL", "C").output().unwrap()
}

/// What a user is told of every entry: what it is, whether it can be read or entered, and what is in it.
fn seen(user: User, at: &Path) -> String {
    let script = r#"
import errno, os, sys
os.chdir(sys.argv[1])
def told(act, *args):
    try:
        return act(*args)
    except OSError as e:
        return errno.errorcode[e.errno]
def attributes(path):
    s = os.stat(path)
    return oct(s.st_mode), s.st_uid, s.st_gid
def entries(path):
    return sorted(os.listdir(path))
def content(path):
    with open(path, "rb") as file:
        return file.read()
for top in sorted(os.listdir(".")):
    for path in [top, top + "/in", top + "/missing"]:
        tests = [os.access(path, test) for test in (os.F_OK, os.R_OK, os.X_OK)]
        print(path, told(attributes, path), tests, told(entries, path), told(content, path), told(os.listxattr, path))
"#;
    let output = as_user(user, "/usr/bin/env", &["python3", "-c", script, at.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Files and directories of all sorts of modes, owners and ACLs.
fn make(at: &Path) {
    fs::create_dir(at).unwrap();
    let script = r#"
set -e
for mode in 000 004 040 400 440 444 600 640 644 711 755 4755; do
    for owner in 0:0 20001:30001; do
        printf $mode >file-$mode-$owner; chown $owner file-$mode-$owner; chmod $mode file-$mode-$owner
        mkdir dir-$mode-$owner; printf in >dir-$mode-$owner/in; chown $owner dir-$mode-$owner; chmod $mode dir-$mode-$owner
    done
done
acl() { printf "$1" >"acl-$1"; chown 20001:30001 "acl-$1"; chmod 640 "acl-$1"; setfacl -m "$2" "acl-$1"; }
acl user u:20002:r
acl group g:30002:r
acl denied u:20002:-,g:30001:r,o::r
acl masked u:20002:rw,g:30002:rw,m::-
acl owning g::-,u:20002:r
acl both g:30001:-,g:30002:r,g::r
setfattr -n trusted.secret -v 1 file-444-0:0; setfattr -n user.open -v 1 file-644-0:0
mkdir acl-dir; printf in >acl-dir/in; chown 20001:30001 acl-dir; chmod 750 acl-dir
setfacl -m u:20002:rx,g:30002:x,d:u:20002:r acl-dir
"#;
    let made = run("bash", &["-c", script], at);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[test]
fn everybody_may_read_what_they_may_at_the_source() {
    if !is_root() {
        return;
    }
    let world = world();
    let options = world.repository();
    let source = world.at("src");
    make(&source);
    world.run(&with(&options, &["ingest", "src"])).ok();
    let what = format!("latest:{}", shown(&source));
    let shared = Served::new(&world, &options, &["--allow-other", &what]);
    let mut all = Vec::new();
    for user in USERS {
        let at_source = seen(user, &source);
        assert_eq!(seen(user, &shared.point), at_source, "{user:?}");
        assert!(at_source.contains("EACCES") && at_source.contains("b'444'"), "{at_source}");
        all.push(at_source);
    }
    all.sort();
    all.dedup();
    assert!(all.len() >= 5, "the users hardly differ: the test shows nothing");
    drop(shared);
    // Nobody else gets in, whatever the kernel has kept of it.
    let own = Served::new(&world, &options, &[&what]);
    assert_eq!(fs::read(own.path("file-444-0:0")).unwrap(), b"444");
    for user in USERS {
        for line in ["ls .", "cat ./file-444-0:0", "stat .", "ls ./dir-755-0:0", "readlink ./x"] {
            let line = line.replace('.', own.point.to_str().unwrap());
            let output = as_user(user, "sh", &["-c", &line]);
            assert!(!output.status.success(), "{line} as {user:?}: {}", String::from_utf8_lossy(&output.stdout));
        }
    }
}

/// A program and a device from a snapshot do as much as copies of them that a user made.
#[test]
fn programs_and_devices_have_no_power() {
    if !is_root() {
        return;
    }
    let world = world();
    let options = world.repository();
    fs::create_dir(world.at("src")).unwrap();
    let script = r#"
        cp "$(command -v id)" id; chmod 6755 id
        mknod -m 666 null c 1 3; mknod -m 666 loop b 7 0
        cp "$(command -v cat)" cat; setfattr -n security.capability -v 0sAQAAAgIAAAAAAAAAAAAAAAAAAAA= cat"#;
    shell(&world.at("src"), script);
    world.run(&with(&options, &["ingest", "src"])).ok();
    let shared = Served::new(&world, &options, &["--allow-other", &format!("latest:{}", shown(&world.at("src")))]);
    let flags = shell(Path::new("/"), &format!("grep ' {} ' /proc/self/mountinfo", shown(&shared.point)));
    assert!(flags.contains(" ro,nosuid,nodev,"), "{flags}");
    let meta = fs::metadata(shared.path("id")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o6755, 0), "what it was is shown");
    let nobody = USERS[0];
    let id = |at: &Path| {
        String::from_utf8(as_user(nobody, "sh", &["-c", &format!("{} -u; {} -g", shown(at), shown(at))]).stdout).unwrap()
    };
    assert_eq!(id(&world.at("src/id")), "0\n0\n", "the test shows nothing: the source has no power either");
    assert_eq!(id(&shared.path("id")), "65534\n65534\n");
    let capable = |at: &Path| {
        let said = as_user(nobody, at.to_str().unwrap(), &["/proc/self/status"]);
        String::from_utf8(said.stdout).unwrap().lines().find(|line| line.starts_with("CapEff")).unwrap().to_owned()
    };
    assert_eq!(capable(&world.at("src/cat")), "CapEff:\t0000000000000002", "the test shows nothing");
    assert_eq!(capable(&shared.path("cat")), "CapEff:\t0000000000000000");
    for name in ["null", "loop"] {
        // Not for root either.
        let error = fs::File::open(shared.path(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::ACCESS.raw_os_error()), "{name}");
    }
    assert_eq!(fs::read(world.at("src/null")).unwrap(), b"");
}

#[test]
fn owners_can_be_hidden() {
    if !is_root() {
        return;
    }
    let world = world();
    let options = world.repository();
    world.file("src/file", "x");
    shell(world.home(), "chown -R 20001:30001 src");
    world.run(&with(&options, &["ingest", "src"])).ok();
    let shared = Served::new(&world, &options, &["--owner-root", &format!("latest:{}", shown(&world.at("src")))]);
    assert_eq!(shell(&shared.point, "find . -printf '%U %G\n' | sort -u"), "0 0\n");
}
