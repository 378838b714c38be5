//! Restore, against trees that are built without an ingest.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/build.rs"]
mod build;
mod fidelity;
mod hostile;
mod merge;
mod support;
