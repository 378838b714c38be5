//! Restore, against trees that are built without an ingest.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/build.rs"]
mod build;
mod fidelity;
mod folding;
mod hostile;
mod in_place;
mod left_out;
mod merge;
mod support;
