//! The mount under hostile access: whatever programs ask of it, in whatever order and numbers, and whatever happens to
//! its process and to the repository meanwhile. Needs root and `/dev/fuse`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod differential;
mod faults;
mod lists;
mod process;
mod reads;
pub mod served;
mod users;
mod writes;
