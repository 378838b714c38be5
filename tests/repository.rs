//! What a repository holds, loses and gets back.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod beside;
mod common;
mod damage;
mod oracle;
mod prune;
mod restore;
mod store;
