//! Makes trees of everything that a Linux file system holds and edits them, from a seed: the same seed, the same tree.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use yester::sys::{Dir, dir};

use super::attributes::{self, unlock};

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

    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
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

    /// Bytes without NUL and without `not`.
    fn bytes(&mut self, len: usize, not: u8) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).map(|b| if b == 0 || b == not { b'_' } else { b }).collect()
    }
}

/// A tree that can be edited.
pub struct Live {
    pub root: PathBuf,
    random: Random,
    /// What is no directory.
    entries: Vec<PathBuf>,
    /// The root first.
    directories: Vec<PathBuf>,
    /// Directories whose path is longer than any system call takes: they are reached through their descriptors.
    deep: Vec<Dir>,
    names: u64,
}

impl Live {
    /// An empty tree at `root`, which is made.
    pub fn new(root: &Path, seed: u64) -> Self {
        fs::create_dir(root).expect("the root is made");
        let (entries, directories) = (Vec::new(), vec![root.to_owned()]);
        Live { root: root.to_owned(), random: Random(seed), entries, directories, deep: Vec::new(), names: 0 }
    }

    fn name(&mut self) -> OsString {
        self.names += 1;
        let n = self.names;
        match self.random.below(14) {
            0 => OsString::from_vec(format!("\u{1b}]0;bad\n{n}").into_bytes()),
            1 => OsString::from_vec([b"\xff\xfe ".as_slice(), n.to_string().as_bytes()].concat()),
            2 => OsString::from_vec(format!("{n}{}", "x".repeat(255 - n.to_string().len())).into_bytes()),
            3 => format!("größe {n}").into(),
            4 => format!(".{n}").into(),
            5..=6 => {
                let len = self.random.one(&[1, 3, 40, 200]);
                OsString::from_vec([n.to_string().into_bytes(), self.random.bytes(len, b'/')].concat())
            }
            _ => format!("{}{n}", self.random.one(&["a", "file", "Z", "node-"])).into(),
        }
    }

    /// A path for something new, in a directory that is made changeable.
    fn place(&mut self) -> PathBuf {
        // The path of a directory that is reached through others must leave room for one more name.
        let short = |path: &PathBuf| path.as_os_str().len() < 3500;
        let at = self.random.below(self.directories.len() as u64) as usize;
        let directory = Some(&self.directories[at]).filter(|path| short(path)).unwrap_or(&self.root).clone();
        unlock(&directory);
        directory.join(self.name())
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
            match self.random.below(50) {
                0..=9 => {
                    let path = self.place();
                    self.create(&path);
                }
                10..=13 => {
                    let path = self.place();
                    self.make_directory(&path);
                }
                14..=15 => {
                    let path = self.place();
                    self.make_symlink(&path);
                }
                16..=18 => self.make_link(),
                19..=20 => {
                    let path = self.place();
                    self.make_sparse(&path);
                }
                21..=23 => self.change(),
                24 => self.truncate(),
                25..=26 => self.rename(),
                27 => self.rename_directory(),
                28..=29 => self.remove(),
                30..=31 => self.set_mode(),
                32..=33 => self.set_owner(),
                34..=36 => self.set_xattr(),
                37 => self.set_acl(),
                38..=39 => self.set_time(),
                40..=41 => self.set_flags(),
                42..=43 => self.replace(),
                44 => self.break_link(),
                45 => self.punch(),
                46 => self.append(),
                _ => {
                    let path = self.place();
                    self.make_special(&path);
                }
            }
        }
    }

    /// Makes a chain of directories that is longer than `PATH_MAX`, in which edits take place from now on.
    pub fn deepen(&mut self) {
        let mut at = Dir::open(&self.root).expect("the root opens");
        for number in 0..25 {
            let name = format!("{number:03}{}", "p".repeat(197)).into_bytes();
            at.make_dir(&name, 0o755).expect("a directory is made");
            at = at.open_dir(&name).expect("it opens");
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsFd::as_fd(&at).as_raw_fd()));
        self.deep.push(at);
        self.directories.extend([path.clone(), path.clone(), path]);
    }

    fn create(&mut self, path: &Path) {
        let size = self.size();
        let content = self.random.content(size);
        fs::write(path, content).expect("a file is written");
        self.stamp(path);
        self.entries.push(path.to_owned());
    }

    fn make_directory(&mut self, path: &Path) {
        fs::create_dir(path).expect("a directory is made");
        self.directories.push(path.to_owned());
    }

    fn make_symlink(&mut self, path: &Path) {
        let target = match self.random.below(6) {
            0 => OsString::from("../nowhere"),
            1 => "/etc/passwd".into(),
            2 => ".".into(),
            3 => OsString::from_vec(self.random.bytes(4095, b'\n')),
            4 => OsString::from_vec(self.random.bytes(20, b'x')),
            _ => "a b\nc".into(),
        };
        symlink(target, path).expect("a link is made");
        self.entries.push(path.to_owned());
    }

    fn make_link(&mut self) {
        let Some(old) = self.some_entry() else { return };
        let path = self.place();
        unlock(&old);
        fs::hard_link(old, &path).expect("a hard link is made");
        self.entries.push(path);
    }

    fn make_sparse(&mut self, path: &Path) {
        let file = File::create(path).expect("a file is made");
        let blocks = self.random.one(&[8, 60, 700, 400_000_000]);
        for _ in 0..1 + self.random.below(5) {
            let (at, len) = (self.random.below(blocks) * 4096, self.random.below(40_000) as usize);
            // Zeros that are written are no hole.
            let data = if self.random.below(4) == 0 { vec![0; len] } else { self.random.content(len) };
            file.write_all_at(&data, at).expect("its data is written");
        }
        let end = file.metadata().expect("metadata").len() + self.random.one(&[0, 1, 5000, 4096 * blocks]);
        file.set_len(end).expect("its end is set");
        if self.random.below(2) == 0 {
            // Beyond the end. Within the file, Linux calls such blocks a hole until somebody reads them.
            let _ = attributes::allocate(&file, end.next_multiple_of(4096), 100_000, false);
        }
        self.entries.push(path.to_owned());
    }

    fn make_special(&mut self, path: &Path) {
        let kind = self.random.one(&[libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR, libc::S_IFBLK]);
        let device = self.random.one(&[(1, 7), (0, 0), (511, 1_048_575), (7, 250)]);
        attributes::make_node(path, kind, if kind == libc::S_IFCHR || kind == libc::S_IFBLK { device } else { (0, 0) });
        self.entries.push(path.to_owned());
    }

    /// Anything at `path`, which is free.
    fn make_any(&mut self, path: &Path) {
        match self.random.below(6) {
            0 => self.make_directory(path),
            1 => self.make_symlink(path),
            2 => self.make_sparse(path),
            3 => self.create(path),
            _ => self.make_special(path),
        }
    }

    fn some_entry(&mut self) -> Option<PathBuf> {
        let len = self.entries.len() as u64;
        (len > 0).then(|| self.entries[self.random.below(len) as usize].clone())
    }

    /// A regular file that is opened for writing.
    fn some_file(&mut self) -> Option<File> {
        let path = (0..20).find_map(|_| self.some_entry().filter(|p| p.symlink_metadata().is_ok_and(|m| m.is_file())))?;
        unlock(&path);
        Some(File::options().write(true).open(path).expect("a file is opened"))
    }

    /// An entry of any kind, made changeable.
    fn any(&mut self) -> Option<PathBuf> {
        let path = match self.random.below(3) {
            0 => self.random.below(self.directories.len() as u64) as usize,
            _ => return self.some_entry().inspect(|path| unlock(path)),
        };
        let path = self.directories[path].clone();
        unlock(&path);
        Some(attributes::itself(&path))
    }

    /// Makes an entry's directory changeable.
    fn unlock_above(&self, path: &Path) {
        if let Some(above) = path.parent() {
            unlock(above);
        }
    }

    fn change(&mut self) {
        let Some(file) = self.some_file() else { return };
        let len = file.metadata().expect("a file has metadata").len();
        let piece = self.random.content(300);
        file.write_all_at(&piece, self.random.below(len + 100)).expect("a file is changed");
    }

    fn append(&mut self) {
        let Some(file) = self.some_file() else { return };
        let len = file.metadata().expect("a file has metadata").len();
        let size = self.size();
        file.write_all_at(&self.random.content(size), len).expect("a file grows");
    }

    fn truncate(&mut self) {
        let Some(file) = self.some_file() else { return };
        let len = file.metadata().expect("a file has metadata").len();
        file.set_len(self.random.below(len + 1000)).expect("a file is truncated");
    }

    fn punch(&mut self) {
        let Some(file) = self.some_file() else { return };
        let len = file.metadata().expect("a file has metadata").len();
        attributes::allocate(&file, self.random.below(len + 1), 1 + self.random.below(50_000), true).expect("a hole is made");
    }

    fn rename(&mut self) {
        let Some(old) = self.some_entry() else { return };
        let new = self.place();
        unlock(&old);
        self.unlock_above(&old);
        fs::rename(&old, &new).expect("an entry is renamed");
        self.entries.retain(|p| *p != old);
        self.entries.push(new);
    }

    /// A directory that may be moved or removed.
    fn some_directory(&mut self) -> Option<PathBuf> {
        let at = self.random.below(self.directories.len() as u64) as usize;
        let movable =
            |path: &&PathBuf| at > 0 && path.file_name().is_some_and(|name| name != ".") && path.starts_with(&self.root);
        self.directories.get(at).filter(movable).cloned()
    }

    fn rename_directory(&mut self) {
        let (Some(old), new) = (self.some_directory(), self.place()) else { return };
        let too_long = |path: &PathBuf| path.starts_with(&old) && path.as_os_str().len() + new.as_os_str().len() > 3800;
        if new.starts_with(&old) || self.entries.iter().chain(&self.directories).any(too_long) {
            return;
        }
        unlock(&old);
        self.unlock_above(&old);
        fs::rename(&old, &new).expect("a directory is renamed");
        for path in self.entries.iter_mut().chain(&mut self.directories) {
            if let Ok(below) = path.strip_prefix(&old) {
                *path = if below.as_os_str().is_empty() { new.clone() } else { new.join(below) };
            }
        }
    }

    /// Removes an entry with everything below it.
    fn clear(&mut self, path: &Path) {
        self.unlock_above(path);
        match path.symlink_metadata().expect("it is there").is_dir() {
            true => {
                attributes::unlock_all(path);
                fs::remove_dir_all(path).expect("a directory is removed")
            }
            false => {
                unlock(path);
                fs::remove_file(path).expect("an entry is removed")
            }
        }
        self.entries.retain(|p| !p.starts_with(path));
        self.directories.retain(|p| !p.starts_with(path));
    }

    fn remove(&mut self) {
        let Some(old) = self.some_entry() else { return };
        self.clear(&old);
    }

    /// Puts something else under a name that is taken.
    fn replace(&mut self) {
        let old = match self.random.below(4) {
            0 => self.some_directory(),
            _ => self.some_entry(),
        };
        let Some(old) = old else { return };
        self.clear(&old);
        self.make_any(&old);
    }

    /// Makes one of several names of a file a file of its own, with the same content and time.
    fn break_link(&mut self) {
        // One without holes: a file of the same size and time is trusted to be the same.
        let full = |path: &PathBuf, len| File::open(path).and_then(|f| dir::next_hole(&f, 0)).is_ok_and(|hole| hole >= len);
        let linked = |path: &PathBuf| {
            path.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.nlink() > 1 && full(path, meta.len()))
        };
        let Some(path) = (0..60).find_map(|_| self.some_entry().filter(linked)) else { return };
        let (meta, content) = (path.metadata().expect("metadata"), fs::read(&path).expect("content"));
        unlock(&path);
        self.unlock_above(&path);
        fs::remove_file(&path).expect("a name is removed");
        fs::write(&path, content).expect("a file is written");
        std::os::unix::fs::chown(&path, Some(meta.uid()), Some(meta.gid())).expect("an owner is set");
        fs::set_permissions(&path, meta.permissions()).expect("a mode is set");
        attributes::set_time(&path, meta.mtime(), meta.mtime_nsec());
    }

    fn set_mode(&mut self) {
        let Some(path) = self.any().filter(|path| !path.is_symlink()) else { return };
        let mode = self.random.one(&[0o644, 0o755, 0o400, 0o4755, 0o2711, 0o1666, 0o7777, 0, 0o6111, 0o3770]);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode is set");
    }

    fn set_owner(&mut self) {
        let Some(path) = self.any() else { return };
        let (user, group) = (self.random.below(70_000) as u32, self.random.one(&[0, 33, 54321, u32::MAX - 1, 1 << 31]));
        std::os::unix::fs::lchown(path, Some(user), Some(group)).expect("an owner is set");
    }

    fn set_xattr(&mut self) {
        let Some(path) = self.any() else { return };
        let meta = path.symlink_metadata().expect("it is there");
        let number = self.random.below(3);
        let name = match self.random.below(8) {
            0 => [b"user.\xff\x01 \n".as_slice(), &self.random.bytes(20, b'\0')].concat(),
            1 => format!("user.{}", "n".repeat(250)).into_bytes(),
            2 => format!("trusted.test{number}").into_bytes(),
            3 => format!("security.test{number}").into_bytes(),
            4 if meta.is_file() => {
                let capability = [0, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                return attributes::set_xattr(&path, b"security.capability", &capability).expect("a capability is set");
            }
            _ => format!("user.test{number}").into_bytes(),
        };
        // Linux has the attributes of users on files and directories only.
        let name = if name.starts_with(b"user.") && !meta.is_file() && !meta.is_dir() { b"trusted.user".to_vec() } else { name };
        if self.random.below(5) == 0 {
            // It may have none of this name.
            let _ = attributes::remove_xattr(&path, &name);
            return;
        }
        // The longest that the file system takes beside what is there.
        let longest = self.random.one(&[0, 10, 900, 65_536]);
        let mut len = longest;
        loop {
            let value = self.random.content(len);
            match attributes::set_xattr(&path, &name, &value) {
                Ok(()) => return,
                Err(_) if len > 0 => len = len * 7 / 8,
                Err(_) => return,
            }
        }
    }

    fn set_acl(&mut self) {
        let Some(path) = self.any().filter(|path| !path.is_symlink()) else { return };
        let permissions = [(); 6].map(|()| self.random.below(8) as u16);
        let acl = attributes::acl(self.random.below(70_000) as u32, self.random.below(70_000) as u32, permissions);
        let default = path.is_dir() && self.random.below(2) == 0;
        let name: &[u8] = if default { b"system.posix_acl_default" } else { b"system.posix_acl_access" };
        match self.random.below(4) {
            0 => attributes::remove_xattr(&path, name).unwrap_or_default(),
            // There may be no room for it.
            _ => attributes::set_xattr(&path, name, &acl).unwrap_or_default(),
        }
    }

    fn stamp(&mut self, path: &Path) {
        let secs = match self.random.below(6) {
            // From 1901 to 2446: what ext4 has.
            0 => self.random.below(2_147_483_648) as i64 - 2_147_483_648,
            1 => 4_294_967_296 + self.random.below(10_000_000_000) as i64,
            2 => self.random.one(&[-1, 0, 1, -2_147_483_648, 4_294_967_295, 15_032_385_535]),
            _ => self.random.below(2_000_000_000) as i64,
        };
        let nanos = match self.random.below(3) {
            0 => self.random.one(&[0, 1, 999_999_999]),
            _ => self.random.below(1_000_000_000) as i64,
        };
        attributes::set_time(path, secs, nanos);
    }

    fn set_time(&mut self) {
        let Some(path) = self.any() else { return };
        self.stamp(&path);
    }

    fn set_flags(&mut self) {
        let Some(path) = self.any() else { return };
        let (flags, locks) = (self.random.next() as u32 & self.random.next() as u32, self.random.below(3) == 0);
        let flags = if locks { flags } else { flags & !attributes::LOCKS };
        attributes::set_flags(&path, flags, yester::sys::dir::USER_FLAGS & !attributes::LOCKS);
        attributes::set_flags(&path, flags, attributes::LOCKS);
    }
}
