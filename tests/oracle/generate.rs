//! Makes trees and edits them, from a seed: the same seed, the same tree.

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// SplitMix64 (Steele, Lea and Flood 2014): small, and good enough to vary trees.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Bytes of which some repeat, so that there is something to compress and something to find again.
    pub fn content(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            let run = (16 + self.below(4000) as usize).min(len - out.len());
            match self.below(3) {
                0 if out.len() > 100 => {
                    let from = self.below(out.len() as u64 - 50) as usize;
                    let piece = out[from..(from + run).min(out.len())].to_vec();
                    out.extend(piece);
                }
                1 => out.extend(std::iter::repeat_n(b"the quick brown fox "[self.below(20) as usize], run)),
                _ => (0..run).for_each(|_| out.push(self.next() as u8)),
            }
        }
        out.truncate(len);
        out
    }
}

/// A tree that can be edited.
pub struct Live {
    pub root: PathBuf,
    random: Random,
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    names: u64,
}

impl Live {
    /// An empty tree at `root`, which is made.
    pub fn new(root: &Path, seed: u64) -> Self {
        fs::create_dir(root).expect("the root is made");
        Live { root: root.to_owned(), random: Random(seed), files: Vec::new(), directories: vec![root.to_owned()], names: 0 }
    }

    fn name(&mut self) -> OsString {
        self.names += 1;
        let n = self.names;
        match self.random.below(12) {
            0 => OsString::from_vec(format!("\u{1b}]0;bad\n{n}").into_bytes()),
            1 => OsString::from_vec([b"\xff\xfe ".as_slice(), n.to_string().as_bytes()].concat()),
            2 => OsString::from_vec(format!("{n}{}", "x".repeat(255 - n.to_string().len())).into_bytes()),
            3 => format!("größe {n}").into(),
            4 => format!(".{n}").into(),
            _ => format!("{}{n}", ["a", "file", "Z", "node-"][self.random.below(4) as usize]).into(),
        }
    }

    fn place(&mut self) -> PathBuf {
        let at = self.random.below(self.directories.len() as u64) as usize;
        let name = self.name();
        self.directories[at].join(name)
    }

    fn size(&mut self) -> usize {
        match self.random.below(20) {
            0 => 0,
            1..=4 => self.random.below(97) as usize,
            5..=15 => self.random.below(30_000) as usize,
            16..=18 => self.random.below(400_000) as usize,
            _ => 600_000 + self.random.below(2_000_000) as usize,
        }
    }

    /// Does `count` random edits.
    pub fn edit(&mut self, count: usize) {
        for _ in 0..count {
            match self.random.below(20) {
                0..=5 => self.create(),
                6..=7 => self.make_directory(),
                8 => self.make_symlink(),
                9 => self.make_link(),
                10 => self.make_sparse(),
                11..=12 => self.change(),
                13 => self.truncate(),
                14 => self.rename(),
                15 => self.remove(),
                16 => self.set_mode(),
                17 => self.set_owner(),
                18 => self.set_xattr(),
                _ => self.make_special(),
            }
        }
    }

    fn create(&mut self) {
        let path = self.place();
        let size = self.size();
        let content = self.random.content(size);
        fs::write(&path, content).expect("a file is written");
        let time = Duration::new(self.random.below(4_000_000_000), self.random.below(1_000_000_000) as u32);
        File::open(&path).and_then(|f| f.set_modified(UNIX_EPOCH + time)).expect("its time is set");
        self.files.push(path);
    }

    fn make_directory(&mut self) {
        let path = self.place();
        fs::create_dir(&path).expect("a directory is made");
        self.directories.push(path);
    }

    fn make_symlink(&mut self) {
        let path = self.place();
        let target = ["../nowhere", "/etc/passwd", ".", "a b\nc"][self.random.below(4) as usize];
        symlink(target, path).expect("a link is made");
    }

    fn make_link(&mut self) {
        let Some(old) = self.some_file() else { return };
        let path = self.place();
        fs::hard_link(old, &path).expect("a hard link is made");
        self.files.push(path);
    }

    fn make_sparse(&mut self) {
        let path = self.place();
        let file = File::create(&path).expect("a file is made");
        let at = self.random.below(3_000_000);
        let content = self.random.content(5000);
        file.write_all_at(&content, at).expect("its data is written");
        let end = at + 5000 + self.random.below(100_000);
        file.set_len(end).expect("its end is set");
        self.files.push(path);
    }

    fn some_file(&mut self) -> Option<PathBuf> {
        let len = self.files.len() as u64;
        (len > 0).then(|| self.files[self.random.below(len) as usize].clone())
    }

    fn change(&mut self) {
        let Some(path) = self.some_file() else { return };
        let file = File::options().write(true).open(path).expect("a file is opened");
        let len = file.metadata().expect("a file has metadata").len();
        let piece = self.random.content(300);
        file.write_all_at(&piece, self.random.below(len + 100)).expect("a file is changed");
    }

    fn truncate(&mut self) {
        let Some(path) = self.some_file() else { return };
        let file = File::options().write(true).open(path).expect("a file is opened");
        let len = file.metadata().expect("a file has metadata").len();
        file.set_len(self.random.below(len + 1000)).expect("a file is truncated");
    }

    fn rename(&mut self) {
        let Some(old) = self.some_file() else { return };
        let new = self.place();
        fs::rename(&old, &new).expect("a file is renamed");
        self.files.retain(|p| *p != old);
        self.files.push(new);
    }

    fn remove(&mut self) {
        let Some(old) = self.some_file() else { return };
        fs::remove_file(&old).expect("a file is removed");
        self.files.retain(|p| *p != old);
    }

    fn set_mode(&mut self) {
        let Some(path) = self.some_file() else { return };
        let mode = [0o644, 0o755, 0o400, 0o4755, 0o2711, 0o1666][self.random.below(6) as usize];
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode is set");
    }

    fn set_owner(&mut self) {
        let Some(path) = self.some_file() else { return };
        std::os::unix::fs::chown(path, Some(self.random.below(70_000) as u32), Some(33)).expect("an owner is set");
    }

    fn set_xattr(&mut self) {
        let Some(path) = self.some_file() else { return };
        let len = [10, 900][self.random.below(2) as usize];
        let value = self.random.content(len);
        set_xattr(&path, &format!("user.test{}", self.random.below(3)), &value);
    }

    fn make_special(&mut self) {
        let path = self.place();
        let kind = [libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR, libc::S_IFBLK][self.random.below(4) as usize];
        let device = if kind == libc::S_IFCHR || kind == libc::S_IFBLK { libc::makedev(1, 7) } else { 0 };
        let name = CString::new(path.as_os_str().as_bytes()).expect("a path has no NUL");
        // SAFETY: the name is a C string that lives during the call.
        #[allow(unsafe_code)]
        let made = unsafe { libc::mknod(name.as_ptr(), kind | 0o640, device) };
        assert_eq!(made, 0, "a special file is made");
    }
}

/// Sets an attribute; the file system of the test's directory must have them.
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path has no NUL");
    let name = CString::new(name).expect("a name has no NUL");
    // SAFETY: both strings and the value live during the call, and the length is the value's.
    #[allow(unsafe_code)]
    let set = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    assert_eq!(set, 0, "an attribute is set");
}
