//! Mounting snapshots: answers the kernel's requests (FUSE) and manages mount points. What is shown is [`crate::vfs`].
//!
//! | file | what it is |
//! |---|---|
//! | `fuse` | the thin adapter between the kernel and the view |
//! | `native` | the image of a snapshot that the kernel reads itself, mounted over the mount |
//! | `workers` | threads for requests that wait for the storage |
//! | `kernel` | the system call that mounts |
//! | `session` | mounting, serving, unmounting; with `fuse` and `kernel` the only files that know `fuser` |
//! | `status` | which mounts there are, and what each says of itself |
//! | `point` | mount points: what is mounted where, what may be mounted on, what is dead and must go |
//!
//! The semantics are in `docs/mount.md`.

mod fuse;
mod kernel;
mod native;
pub mod point;
pub(crate) mod session;
pub mod status;
mod workers;

pub use point::unmount;
pub use session::{Shutdown, mount};
