//! The operating system: directory descriptors, attributes, mounts, processes. The only room where `libc` and `unsafe` may
//! be used. Paths are never joined here: everything is relative to an open directory and follows no links.

pub mod clock;
pub mod dir;
pub mod direct;
pub mod filesystem;
pub mod flow;
pub mod image;
pub mod lock;
pub mod loop_device;
pub mod map;
pub mod mount;
pub mod network;
pub mod notify;
pub mod open_file;
pub mod process;
pub mod sequences;
pub mod socket;
pub mod spool;
pub mod table;
pub mod terminal;
pub mod users;
pub mod watch;
pub mod xattr;

pub use dir::{Dir, FileKind, Listing, Stat};

/// The error number of a disk that cannot read what it holds.
pub const EIO: i32 = libc::EIO;
