//! The mount under hostile access: whatever programs ask of it, in whatever order and numbers, and whatever happens to
//! its process and to the repository meanwhile. Needs root and `/dev/fuse`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/build.rs"]
#[allow(dead_code)]
mod build;
#[path = "../common/mounted.rs"]
mod mounted;
#[path = "../program/mod.rs"]
mod program;
#[path = "../common/tiny.rs"]
mod tiny;

mod differential;
mod faults;
mod lists;
mod process;
mod reads;
mod served;
mod users;
mod writes;
