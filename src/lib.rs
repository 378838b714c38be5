//! yester: a FUSE-mounted, versioned backup file system.
//!
//! Rooms, and what each may use (held by `tests/architecture.rs`):
//!
//! | room | what it is | may use |
//! |---|---|---|
//! | `model` | ids, nodes, snapshots: immutable values | `error` |
//! | `format` | bytes ↔ values, pure | `model` |
//! | `chunk` | cut, hash, compress, seal: pure processor work | `format`, `model` |
//! | `storage` | the `Storage` trait; directory, memory, recorder | `model`, `sys` |
//! | `repo` | packs, index, trees, snapshots on a storage; what this machine remembers of it | `storage`, `format`, `chunk`, `model`, `sys` |
//! | `ingest`, `restore`, `mount` | the three verbs | `repo` and what it stands on |
//! | `net` | our server, its client, ssh; the only room with tokio | `storage`, `format`, `model`, `sys` |
//! | `sys` | the operating system; the only `unsafe` | `model` |
//! | `error`, `observe` | leaves | nothing |
//!
//! The command line (`cli`, part of the binary) stands above all of them and is the only room that prints.

// The library never panics on purpose and never prints; tests and the command line may.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr))]

pub mod chunk;
pub mod error;
pub mod format;
pub mod ingest;
pub mod model;
pub mod mount;
pub mod net;
pub mod observe;
pub mod repo;
pub mod restore;
pub mod storage;
pub mod sys;

pub use error::{Error, ErrorKind, Result};
