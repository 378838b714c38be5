//! Restore, against trees that are built without an ingest.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fidelity;
mod folding;
mod guards;
mod hostile;
mod in_place;
mod left_out;
mod merge;
mod options;
mod support;
