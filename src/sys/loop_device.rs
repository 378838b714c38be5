//! Loop devices: a file as a block device, without copying it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// `LOOP_CTL_GET_FREE` and `LOOP_CONFIGURE` (Linux 5.8) of `linux/loop.h`.
const GET_FREE: libc::Ioctl = 0x4c82;
const CONFIGURE: libc::Ioctl = 0x4c0a;
/// `LO_FLAGS_READ_ONLY` and `LO_FLAGS_AUTOCLEAR`: the device lets go of its file when nobody uses it any more.
const FLAGS: u32 = 1 | 4;
/// The major number of loop devices.
pub(crate) const MAJOR: u32 = 7;
/// Somebody else may take the device that is free; then the next one is tried.
const TRIES: usize = 16;

/// `struct loop_info64`, whose fields before and after the flags stay 0.
#[repr(C)]
struct Info {
    before: [u64; 5],
    numbers: [u32; 3],
    flags: u32,
    names: [u8; 160],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfiguration {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// Makes `file` a read-only block device with blocks of `block` bytes. The device is there as long as what is returned,
/// or a mount of the device, is. Errors: this system has no loop devices, or this process may not use them.
pub(crate) fn attach(file: &File, block: u32) -> io::Result<(File, PathBuf)> {
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    let configuration = LoopConfiguration {
        fd: file.as_raw_fd() as u32,
        block_size: block,
        info: Info { before: [0; 5], numbers: [0; 3], flags: FLAGS, names: [0; 160], init: [0; 2] },
        reserved: [0; 8],
    };
    let mut last = None;
    for _ in 0..TRIES {
        // SAFETY: the request takes no argument, and answers a number or an error.
        #[allow(unsafe_code)]
        let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = File::options().read(true).open(&path)?;
        // SAFETY: the argument is a `struct loop_config` of the layout above, which the kernel only reads.
        #[allow(unsafe_code)]
        let done = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const configuration) };
        if done == 0 {
            return Ok((device, path));
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(error);
        }
        last = Some(error);
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::ResourceBusy.into()))
}

/// The path of the file behind the loop device with this minor number, as the kernel tells it: of a file whose name is
/// gone, with ` (deleted)` at the end.
pub(crate) fn file_behind(minor: u32) -> Option<Vec<u8>> {
    let entry = Path::new("/sys/dev/block").join(format!("{MAJOR}:{minor}/loop/backing_file"));
    std::fs::read(entry).ok().map(|path| path.trim_ascii_end().to_vec())
}

/// Whether a loop device holds a file in the directory `place`.
pub(crate) fn holds(place: &Path) -> bool {
    let Ok(list) = std::fs::read_dir("/sys/block") else { return false };
    let file = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("loop/backing_file")).ok();
    list.flatten().filter_map(file).any(|file| Path::new(std::ffi::OsStr::from_bytes(&file)).starts_with(place))
}

/// Waits until the loop device with this minor number has let go of its file: for a program that looks at new devices
/// (udev) may keep it for a moment. Not longer than `most`.
pub(crate) fn wait_until_free(minor: u32, most: Duration) {
    let end = Instant::now() + most;
    while file_behind(minor).is_some() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_sizes_of_the_kernel() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<LoopConfiguration>(), 304);
    }
}
