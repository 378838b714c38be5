//! yester: a FUSE-mounted, versioned backup file system.

pub mod chunk;
pub mod error;
pub mod format;
pub mod model;
pub mod observe;
pub mod storage;
pub mod sys;

pub use error::{Error, ErrorKind, Result};
