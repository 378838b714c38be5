//! Snapshots as directory trees. Needs root and `/dev/fuse`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
mod mount;
mod mount_hostile;
