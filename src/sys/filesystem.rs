//! What kind of file system a file is on, and what of its answers can be believed.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{self, Mode, OFlags};

use crate::sys::dir::Dir;

/// The kind of a file system: the magic number of statfs(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileSystem(u32);

/// Files that the kernel makes up when they are read: proc, sysfs, debugfs, tracefs, securityfs, cgroup, cgroup2, configfs,
/// pstore, efivarfs, bpf, selinuxfs, smackfs, fusectl, binfmt_misc, mqueue, nfsd, rpc_pipefs, devpts, dax, resctrl.
const MADE_UP: [u32; 21] = [
    0x0000_9fa0,
    0x6265_6572,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0x0027_e0eb,
    0x6367_7270,
    0x6265_6570,
    0x6165_676c,
    0xde5e_81e4,
    0xcafe_4a11,
    0xf97c_ff8c,
    0x4341_5d53,
    0x6573_5543,
    0x4249_4e4d,
    0x1980_0202,
    0x6e66_7364,
    0x6759_6969,
    0x0000_1cd1,
    0x6461_7821,
    0x0765_5821,
];

/// Inode numbers that a program or a union makes up: FUSE, overlayfs, aufs, unionfs, ecryptfs, 9p, SMB (three kinds),
/// AFS, VirtualBox, VMware, Parallels.
const MADE_UP_INODES: [u32; 13] = [
    0x6573_5546,
    0x794c_7630,
    0x6175_6673,
    0xf15f_083d,
    0x0000_f15f,
    0x0102_1997,
    0x0000_517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x5346_414f,
    0x786f_4256,
    0xbacb_acbc,
    0x7c7c_6673,
];

impl FileSystem {
    /// Of an open file or directory.
    pub(crate) fn of(fd: impl AsFd) -> io::Result<FileSystem> {
        // The type of the field differs between architectures; a magic number has 32 bits.
        Ok(FileSystem(fs::fstatfs(fd)?.f_type as u32))
    }

    /// Of the entry `name` of `dir`, itself and not what it links to. Does not open it for reading.
    pub(crate) fn of_entry(dir: &Dir, name: &[u8]) -> io::Result<FileSystem> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Self::of(fs::openat(dir, name, flags, Mode::empty())?)
    }

    /// Whether the kernel makes its files up when they are read, so that their sizes say little.
    pub(crate) fn makes_up_files(self) -> bool {
        MADE_UP.contains(&self.0)
    }

    /// Whether it is btrfs.
    pub(crate) fn is_btrfs(self) -> bool {
        self.0 == 0x9123_683e
    }

    /// Whether two different files may have the same inode number.
    pub(crate) fn makes_up_inodes(self) -> bool {
        MADE_UP_INODES.contains(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let of = |path: &str| FileSystem::of(Dir::open(std::path::Path::new(path)).unwrap()).unwrap();
        assert!(of("/proc").makes_up_files() && !of("/proc").makes_up_inodes());
        assert!(!of("/dev/shm").makes_up_files() && !of("/dev/shm").makes_up_inodes());
        let proc = Dir::open(std::path::Path::new("/proc")).unwrap();
        assert_eq!(FileSystem::of_entry(&proc, b"version").unwrap(), of("/proc"));
    }
}
