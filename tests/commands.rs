//! The program as users run it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod cli;
mod common;
mod import;
mod ingest;
mod sets;
