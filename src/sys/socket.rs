//! What sockets can do that the standard library does not ask for.

use std::os::fd::{AsFd, AsRawFd};

/// Bytes that wait in the kernel to be sent, beyond which a writer waits: what was written is then soon on its way, so that
/// who watches a slow line sees it move. What is on the line is not counted, so a long and fast one stays full.
const UNSENT: libc::c_int = 128 << 10;

/// Keeps little in the kernel that was not sent yet. What is no TCP socket stays as it is.
pub(crate) fn keep_little_unsent(socket: &impl AsFd) {
    let value = UNSENT;
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the option's value is an int that lives that long.
    unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        );
    }
}
