//! A snapshot, or a directory of one, as an image of the EROFS file system of Linux.
//!
//! | file | what it is |
//! |---|---|
//! | `build` | from a tree to the metadata of an image: three passes |
//! | `tree` | what the builder asks of a tree, and snapshots as such |
//! | `bytes` | superblock and inodes as they lie on a disk |
//! | `attributes`, `directory`, `holes` | extended attributes, directory blocks, maps of files with holes |
//! | `area` | where metadata is kept: in memory, or in a file without a name |
//! | `made` | an image that is made: its bytes, and which file lies at an address |
//! | `reader` | the bytes of an image, its data from the files that lie there |
//! | `export` | writing an image with its data |
//!
//! ```text
//! block 0      the superblock, at byte 1024
//! block 1 …    inodes, in preorder, each with its attributes and, where it fits, its target, list or map of holes
//!      …       blocks of directories
//!      …       data: each file at a block of its own, in preorder
//! ```
//!
//! The metadata are bytes; the data are addresses only, until somebody reads them. The layout is in `docs/mount.md`.

pub(crate) mod area;
mod attributes;
pub(crate) mod build;
mod bytes;
mod directory;
pub mod export;
mod holes;
pub(crate) mod made;
mod reader;
pub(crate) mod tree;

pub use build::{Losses, build};
pub use export::{ExportOptions, Exported, export};
pub(crate) use reader::Reader;

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 4096;
