//! `export` as tar and zip: what other programs make of the archive.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FileType, Mode, XattrFlags};

use crate::common::program::{World, shown, with};

const MAP: &str = "posix ACLs: user 1000 may read";

/// A command of the system that must succeed; what it prints.
fn run(at: &Path, line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).current_dir(at).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn same(a: &Path, b: &Path) {
    let script = format!("{}/tests/same_tree.py", env!("CARGO_MANIFEST_DIR"));
    run(Path::new("/"), &format!("python3 {script} {} {}", shown(a), shown(b)));
}

/// One of everything that a tar can hold, and a socket where it is wished for.
pub(crate) fn everything(world: &World) {
    let src = world.at("src");
    world.file("src/plain", "some text");
    world.file("src/empty", "");
    world.file("src/large", vec![7; 3_000_000]);
    let long = "n".repeat(150);
    world.file(&format!("src/{long}/{long}/deep"), "below long names");
    fs::hard_link(world.at("src/plain"), world.at("src/zz-again")).unwrap();
    symlink("t".repeat(200), world.at("src/link")).unwrap();
    let raw = std::ffi::OsStr::from_bytes(b"raw-\xff\xfe");
    fs::write(src.join(raw), "not UTF-8").unwrap();
    let file = fs::File::create(world.at("src/sparse")).unwrap();
    file.set_len(9 << 20).unwrap();
    file.write_all_at(b"in the middle", 4 << 20).unwrap();
    let holes = fs::File::create(world.at("src/only-a-hole")).unwrap();
    holes.set_len(1 << 20).unwrap();
    rustix::fs::setxattr(world.at("src/plain"), "user.a=b%c", b"\0value\n", XattrFlags::empty()).unwrap();
    let acl = |entries: &[(u16, u16, u32)]| {
        let mut out = 2u32.to_le_bytes().to_vec();
        for (tag, may, who) in entries {
            out.extend([&tag.to_le_bytes()[..], &may.to_le_bytes(), &who.to_le_bytes()].concat());
        }
        out
    };
    let none = u32::MAX;
    let value = acl(&[(1, 6, none), (2, 4, 1000), (4, 4, none), (16, 4, none), (32, 0, none)]);
    rustix::fs::setxattr(world.at("src/large"), "system.posix_acl_access", &value, XattrFlags::empty()).expect(MAP);
    let make = |name: &str, kind, device| {
        rustix::fs::mknodat(rustix::fs::CWD, src.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    make("pipe", FileType::Fifo, 0);
    make("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make("disk", FileType::BlockDevice, rustix::fs::makedev(7, 200));
    fs::set_permissions(world.at("src/empty"), std::os::unix::fs::PermissionsExt::from_mode(0o4711)).unwrap();
    std::os::unix::fs::lchown(world.at("src/link"), Some(3_000_000_000), Some(12)).unwrap();
    std::os::unix::fs::chown(world.at("src/large"), Some(2_500_000_000), Some(2_600_000_000)).unwrap();
    run(&src, "touch -h -d @-1.5 link; touch -d @1234567890.123456789 plain; touch -d @100000000000 empty");
}

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

#[test]
fn gnu_tar_unpacks_all_that_a_tree_holds() {
    let world = World::new();
    let options = world.repository();
    everything(&world);
    world.run(&with(&options, &["ingest", "src"])).ok();
    let path = format!("latest:{}", shown(&world.at("src")));
    let export = |args: &[&str]| world.run(&with(&options, &[&["export"], args, &[&path]].concat()));
    let said = export(&["-o", "out.tar"]).ok().text();
    let digest = run(world.home(), "sha256sum < out.tar | cut -d' ' -f1");
    assert!(said.contains("wrote ") && said.contains(digest.trim()), "{said}");
    assert_eq!(fs::metadata(world.at("out.tar")).unwrap().mode() & 0o777, 0o600, "others must not read a backup");
    let stored = fs::metadata(world.at("out.tar")).unwrap().len();
    assert!(stored < 4 << 20, "holes are stored: {stored} bytes");
    // What is fed through a pipe is the same, and so is what was compressed.
    export(&["-o", "out.tar.zst"]).ok();
    let piped = export(&["--filename", "-", "--json"]).ok();
    let summary: serde_json::Value = serde_json::from_str(piped.err.trim()).unwrap();
    assert_eq!((summary["path"].as_str(), summary["sha256"].as_str()), (Some("-"), Some(digest.trim())));
    run(world.home(), "zstd -qdc out.tar.zst | cmp - out.tar");
    run(
        world.home(),
        "mkdir gnu && tar --warning=no-timestamp --xattrs --xattrs-include='*' --acls --same-owner --numeric-owner -xpf out.tar -C gnu 2> gnu.err; cat gnu.err >&2; test ! -s gnu.err",
    );
    same(&world.at("src"), &world.at("gnu"));
    assert!(fs::metadata(world.at("gnu/sparse")).unwrap().blocks() < 1000, "holes were filled");
}

#[test]
fn what_an_archive_has_no_place_for_is_told() {
    let world = World::new();
    let options = world.repository();
    world.file("src/a", "x");
    world.file("src/sub/b", "y".repeat(100_000));
    fs::hard_link(world.at("src/a"), world.at("src/c")).unwrap();
    symlink("a", world.at("src/link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(world.at("src/socket")).unwrap();
    world.run(&with(&options, &["ingest", "src"])).ok();
    let path = format!("latest:{}", shown(&world.at("src")));
    let export = |args: &[&str]| world.run(&with(&options, &[&["export"], args, &[&path]].concat()));
    export(&["-o", "out.tar"]).fails(3, &["the archive lacks 1 entry that has no place in it"]);
    assert_eq!(run(world.home(), "tar -tf out.tar"), "./\na\nc\nlink\nsub/\nsub/b\n");
    export(&["-o", "out.zip"]).fails(3, &["1 entry that has no place", "1 hard link"]);
    run(
        world.home(),
        "python3 -c 'import zipfile; z = zipfile.ZipFile(\"out.zip\"); assert z.testzip() is None; print(z.namelist()); \
         assert z.namelist() == [\"a\", \"c\", \"link\", \"sub/\", \"sub/b\"]; assert z.read(\"c\") == b\"x\"; \
         assert z.read(\"sub/b\") == b\"y\" * 100000; assert z.read(\"link\") == b\"a\"'",
    );
    let counted = export(&["-o", "counted.zip", "--json"]).json().pop().unwrap();
    assert_eq!((&counted["archive_entries"], &counted["content_bytes"]), (&5.into(), &100_002.into()));
    // What is there is left alone; a name that says nothing is a tar.
    export(&["-o", "out.tar"]).fails(1, &["is there already"]);
    export(&["-o", "-", "--format", "erofs"]).fails(2, &["not written from front to back"]);
    let named = export(&["--json"]);
    assert_eq!(named.code, Some(3));
    let summary = named.json().pop().unwrap();
    let name = summary["path"].as_str().unwrap();
    assert!(name.ends_with("Z.tar") && Path::new(name).exists(), "{name}");
    assert_eq!((&summary["entries_left_out"], &summary["archive_entries"]), (&1.into(), &6.into()));
}

#[test]
fn nothing_is_left_of_an_archive_that_cannot_be_whole() {
    let world = World::new();
    let options = world.repository();
    world.file("src/a", (0..400_000u32).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes()).collect::<Vec<u8>>());
    world.run(&with(&options, &["ingest", "src"])).ok();
    let packs = run(world.home(), "find repo/packs -type f -size +100k");
    let pack = world.at(packs.trim());
    let mut bytes = fs::read(&pack).unwrap();
    let half = bytes.len() / 2;
    bytes[half] ^= 1;
    fs::set_permissions(&pack, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&pack, bytes).unwrap();
    let before = run(world.home(), "ls -A");
    world.run(&with(&options, &["export", "-o", "out.tar", "latest"])).fails(1, &["src/a"]);
    assert_eq!(run(world.home(), "ls -A"), before);
}
