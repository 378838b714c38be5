//! Snapshots as images of EROFS: what is made is what `fsck.erofs` accepts, what the kernel mounts, and the same tree as
//! the mount shows. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use yester::model::Timestamp;
use yester::repo::index::Index;
use yester::repo::reader::ChunkReader;
use yester::repo::snapshots;
use yester::repo::tree::TreeReader;
use yester::task::Task;
use yester::vfs::image::{self, ExportOptions, Exported, Losses};

use crate::common::program;

use crate::common;
use common::mounted::{Mounted, compare, run, sample, shell};
use common::tiny::{About, Piece, Tiny, Tree, What, dir, file, noise, sparse, symlink};

fn trees(tiny: &Tiny) -> Arc<TreeReader> {
    let index = Arc::new(Index::load(&tiny.repo).unwrap());
    let chunks = Arc::new(ChunkReader::new(tiny.repo.clone(), index, 8 << 20).unwrap().with_unnamed_packs());
    Arc::new(TreeReader::new(chunks, 8 << 20).unwrap())
}

/// Writes the image of the newest snapshot's `path`.
fn export(tiny: &Tiny, path: &str, to: &Path) -> yester::Result<Exported> {
    let snapshot = snapshots::find_all(&tiny.repo).unwrap().snapshots.pop().unwrap();
    let trees = trees(tiny);
    let names: Vec<&[u8]> = path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes).collect();
    let (_, position) = trees.walk_to(&snapshot.root, &names)?;
    let out = File::create(to).unwrap();
    let options = ExportOptions { spool: to.parent().unwrap().to_owned(), memory: 8 << 20 };
    image::export(&trees, snapshot, position, &options, &Task::default(), &out)
}

/// An image in the kernel's hands.
struct Kernel(tempfile::TempDir);

impl Kernel {
    fn mount(image: &Path) -> Kernel {
        let point = tempfile::tempdir().unwrap();
        let options = "ro,nosuid,nodev,loop";
        let out = run(
            "mount",
            &["-t", "erofs", "-o", options, &image.display().to_string(), &point.path().display().to_string()],
            image.parent().unwrap(),
        );
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Kernel(point)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[track_caller]
fn fsck(image: &Path) {
    let out = run("fsck.erofs", &["--extract", &image.display().to_string()], image.parent().unwrap());
    let text = [out.stdout, out.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(out.status.success(), "{text}");
}

/// Without reading all data: what has gigabytes of holes.
#[track_caller]
fn fsck_quickly(image: &Path) {
    let out = run("fsck.erofs", &[&image.display().to_string()], image.parent().unwrap());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Everything that `tests/same_tree.py` knows, of two trees.
#[track_caller]
pub fn same(a: &Path, b: &Path) {
    let script = format!("{}/tests/same_tree.py", env!("CARGO_MANIFEST_DIR"));
    let out = run("python3", &[&script, &a.display().to_string(), &b.display().to_string()], Path::new("/"));
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

/// `sample`, and what is odd to an image.
fn odd() -> Tree {
    let acl = |id: u32| {
        let entry = |tag: u16, perm: u16, id: u32| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat();
        let entries =
            [entry(1, 7, u32::MAX), entry(2, 5, id), entry(4, 4, u32::MAX), entry(16, 5, u32::MAX), entry(32, 0, u32::MAX)];
        [&2u32.to_le_bytes()[..], &entries.concat()].concat()
    };
    let with = |tree: Tree, list: &[(&str, Vec<u8>)]| {
        tree.with(|t| t.xattrs = list.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.clone())).collect())
    };
    let long = (0..3).map(|n| (format!("user.long-{n}"), noise(n, 5_000 + n as usize))).collect::<Vec<_>>();
    let long: Vec<(&str, Vec<u8>)> = long.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let plain = (0..300).map(|n| (format!("{n:03}{}", "n".repeat(n % 250)), file(noise(n as u64, n))));
    let deep = (0..300).fold(dir([("end", file(*b"end"))]), |tree, n| dir([(format!("{n}"), tree)]));
    let shared = || file(noise(5, 5000)).with(|t| t.link = Some("second"));
    dir([
        ("!before-the-dots", dir([("!", file(*b"1")), (".a", file(*b"2")), ("..b", file(*b"3")), ("a", file(*b"4"))])),
        ("acl", with(file(*b"acl"), &[("system.posix_acl_access", acl(1000))]).with(|t| t.mode = 0o750)),
        (
            "acl-dir",
            with(dir([("x", file(*b"x"))]), &[("system.posix_acl_access", acl(7)), ("system.posix_acl_default", acl(9))])
                .with(|t| t.mode = 0o750),
        ),
        ("block", Tree::new(What::Block(259, 70_000))),
        ("char", Tree::new(What::Char(1, 3))),
        ("deep", deep),
        ("empty-dir", dir::<&str>([])),
        ("long-link", with(symlink(&"t".repeat(4095)), &[])),
        ("long-link-xattr", with(symlink(&"u".repeat(4000)), &[("trusted.x", noise(3, 300))])),
        ("many-attributes", with(file(*b"m"), &long)),
        ("names", dir(plain)),
        ("owner", file(*b"o").with(|t| t.owner = (u32::MAX - 1, 70_000))),
        ("past", file(*b"p").with(|t| t.mtime = Timestamp { secs: -5_000_000_000, nanos: 999_999_999 })),
        ("sample", sample()),
        (
            "security",
            with(
                file(*b"s"),
                &[("security.capability", [&[0, 0, 0, 2, 0, 4][..], &[0; 14]].concat()), ("trusted.overlay.x", b"y".to_vec())],
            ),
        ),
        ("second", dir([("one", shared()), ("two", shared())])),
        ("second-too", shared()),
        ("socket", Tree::new(What::Socket)),
        ("sticky", dir([("a", file(*b"a"))]).with(|t| t.mode = 0o1777)),
    ])
}

/// The same without what EROFS does not show as it is.
pub fn odd_without_holes() -> Tree {
    let mut tree = odd();
    let What::Dir(entries) = &mut tree.what else { unreachable!() };
    let What::Dir(sample) = &mut entries.get_mut(&b"sample"[..]).unwrap().what else { unreachable!() };
    sample.remove(&b"hollow"[..]).unwrap();
    tree
}

#[test]
fn the_kernel_shows_what_the_mount_shows() {
    let (tiny, at) = (Tiny::new(), tempfile::tempdir().unwrap());
    tiny.commit(&odd(), About::at(1));
    let image = at.path().join("image");
    let exported = export(&tiny, "", &image).unwrap();
    assert_eq!(exported.losses, Losses { sparse: 1, ..Losses::default() });
    assert_eq!(fs::metadata(&image).unwrap().len(), exported.bytes);
    fsck(&image);
    let kernel = Kernel::mount(&image);
    compare(&kernel.path(""), &odd());
    let fuse = Mounted::latest(&tiny);
    same(&fuse.path(""), &kernel.path(""));
    // Names are found one by one, not only listed.
    for name in ["!before-the-dots/.a", "!before-the-dots/..b", "names/299nnn", "sample/many/file-02999"] {
        assert_eq!(kernel.path(name).exists(), !name.ends_with("nnn"), "{name}");
    }
    let found = shell(&kernel.path(""), "find . | wc -l");
    assert_eq!(found, shell(&fuse.path(""), "find . | wc -l"));
}

#[test]
fn a_directory_alone_and_its_links() {
    let (tiny, at) = (Tiny::new(), tempfile::tempdir().unwrap());
    tiny.commit(&odd(), About::at(1));
    let image = at.path().join("image");
    // Both links, and the one that is first elsewhere.
    for path in ["second", "sample", "deep/299", "empty-dir"] {
        export(&tiny, path, &image).unwrap();
        fsck(&image);
        let kernel = Kernel::mount(&image);
        let scope = Some(("latest".to_owned(), path.as_bytes().to_vec()));
        let fuse = Mounted::new(&tiny, yester::vfs::MountOptions { scope, ..Default::default() });
        same(&fuse.path(""), &kernel.path(""));
    }
}

#[test]
fn an_image_is_the_same_for_ever() {
    let tiny = Tiny::new();
    let tree = dir([
        ("file", file(*b"content").with(|t| t.xattrs = vec![(b"user.a".to_vec(), b"b".to_vec())])),
        ("link", symlink("file")),
        ("sub", dir([("one", file(*b"1").with(|t| t.link = Some("l"))), ("two", file(*b"1").with(|t| t.link = Some("l")))])),
    ]);
    tiny.commit_as(yester::model::SnapshotId([9; 32]), &tree, About::at(1_700_000_000));
    let at = tempfile::tempdir().unwrap();
    let image = at.path().join("image");
    export(&tiny, "", &image).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/image.erofs");
    if std::env::var_os("YESTER_WRITE_GOLDEN").is_some() {
        fs::copy(&image, &golden).unwrap();
    }
    assert!(fs::read(&image).unwrap() == fs::read(&golden).unwrap(), "the image of a small tree has other bytes");
}

#[test]
fn what_an_image_lacks_is_counted() {
    let (tiny, at) = (Tiny::new(), tempfile::tempdir().unwrap());
    let foreign =
        |t: &mut Tree| t.xattrs = vec![(b"system.nfs4_acl".to_vec(), b"x".to_vec()), (b"user.a".to_vec(), b"b".to_vec())];
    let crooked = sparse(vec![Piece::Hole(5000), Piece::Data(noise(1, 3)), Piece::Hole(20_000)]);
    let far = sparse(vec![Piece::Hole(3 << 30), Piece::Data(noise(1, 65_536)), Piece::Hole(5 << 30)]);
    let tree = dir([
        ("crooked", crooked),
        ("far", far),
        ("flags", file(*b"f").with(|t| t.flags = 0x40)),
        ("foreign", file(*b"f").with(foreign)),
    ]);
    tiny.commit(&tree, About::at(1));
    let image = at.path().join("image");
    let exported = export(&tiny, "", &image).unwrap();
    assert_eq!(exported.losses, Losses { sparse: 2, zeros: 1, flags: 1, attributes: 1 });
    fsck_quickly(&image);
    let kernel = Kernel::mount(&image);
    let fuse = Mounted::latest(&tiny);
    for name in ["crooked", "flags", "foreign"] {
        assert!(fs::read(kernel.path(name)).unwrap() == fs::read(fuse.path(name)).unwrap());
    }
    let (file, len) = (File::open(kernel.path("far")).unwrap(), (8 << 30) + 65_536);
    assert_eq!(file.metadata().unwrap().len(), len);
    let seek = |from| rustix::fs::seek(&file, from).unwrap();
    assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), 3 << 30);
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(3 << 30)), (3_u64 << 30) + (64 << 10));
    let mut bytes = vec![0; 65_536];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 3 << 30).unwrap();
    assert!(bytes == noise(1, 65_536));
}

#[test]
fn a_damaged_tree_is_not_exported() {
    let (tiny, at) = (Tiny::new(), tempfile::tempdir().unwrap());
    let committed = tiny.commit(&dir([("a", file(noise(1, 50_000)))]), About::at(1));
    tiny.lose(committed.data.as_ref().unwrap());
    let e = export(&tiny, "", &at.path().join("image")).unwrap_err();
    assert!(e.to_string().contains("entry 1"), "{e}");
    tiny.lose(committed.tree.as_ref().unwrap());
    export(&tiny, "", &at.path().join("image")).unwrap_err();
}

#[test]
fn the_command_writes_an_image() {
    let world = program::World::new();
    let options = world.repository();
    world.file("src/a", "x");
    world.file("src/sub/b", "y");
    world.run(&program::with(&options, &["ingest", "src"])).ok();
    let path = format!("latest:{}", program::shown(&world.at("src")));
    let image = program::shown(&world.at("image"));
    let said = world.run(&program::with(&options, &["export", "--erofs", &image, &path])).ok().text();
    assert!(said.contains("wrote "), "{said}");
    fsck(Path::new(&image));
    let kernel = Kernel::mount(Path::new(&image));
    same(&world.at("src"), &kernel.path(""));
    world.run(&program::with(&options, &["export", "--erofs", &image, &path])).fails(1, &["is there already"]);
    let file = format!("{path}/a");
    world.run(&program::with(&options, &["export", "--erofs", "other", &file])).fails(2, &["not a directory"]);
    assert!(!world.at("other").exists());
    let json = world.run(&program::with(&options, &["export", "--json", "--erofs", "other", &path])).ok().text();
    assert!(json.contains("\"image_files\":2"), "{json}");
}
