//! Repositories on other machines.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
mod net;
