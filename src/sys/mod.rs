//! The operating system: directory descriptors, attributes, mounts, processes. The only room where `libc` and `unsafe` may
//! be used. Paths are never joined here: everything is relative to an open directory and follows no links.

pub mod clock;
pub mod dir;
pub(crate) mod direct;
pub(crate) mod filesystem;
pub(crate) mod flow;
pub(crate) mod image;
pub mod lock;
pub(crate) mod loop_device;
pub(crate) mod map;
pub mod mount;
pub mod network;
pub mod notify;
pub(crate) mod open_file;
pub mod process;
pub(crate) mod sequences;
pub(crate) mod socket;
pub(crate) mod spool;
pub(crate) mod table;
pub mod terminal;
pub mod users;
pub(crate) mod watch;
pub(crate) mod whole;
pub mod xattr;

pub use dir::{Dir, FileKind, Listing, Stat};

/// The error number of a disk that cannot read what it holds.
pub(crate) const EIO: i32 = libc::EIO;
