//! Mounting an image of EROFS from a file, through a loop device.
//!
//! Linux 6.12 mounts such a file without the device. But it then fills up with zeros what a read of the file did not
//! give (`erofs_fileio_ki_complete`), and a read of several pages, of which one cannot be read, gives those before it:
//! damage would be read as zeros. A loop device reads the rest again, and says that it cannot be read.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
    fsopen, move_mount,
};

use crate::sys::loop_device;

/// Mounts the image in the file `source` over `target`: read-only, without devices and set-user-id bits, in one step.
/// The minor number of the loop device between them. An error, and nothing mounted, when the kernel cannot do that, or
/// when it would not judge ACLs there.
pub(crate) fn mount(source: &Path, target: &Path, exec: bool) -> io::Result<u32> {
    let (device, path) = loop_device::attach(&File::open(source)?, 4096)?;
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", &path)?;
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_create(&context)?;
    let mut flags = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    if !exec {
        flags |= MountAttrFlags::MOUNT_ATTR_NOEXEC;
    }
    let made = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    let root = rustix::fs::openat(&made, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // Without ACLs the kernel judges by the group bits. These are the ACL's mask, and let in users whom the ACL refuses.
    match rustix::fs::fgetxattr(&root, "system.posix_acl_access", &mut [0_u8; 0]) {
        Ok(_) | Err(Errno::NODATA) => {}
        Err(e) => return Err(e.into()),
    }
    drop(root);
    let number = rustix::fs::fstat(&device)?.st_rdev;
    move_mount(&made, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(rustix::fs::minor(number))
}
