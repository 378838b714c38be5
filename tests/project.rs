//! The project itself: its sources, its pages, and its format.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
mod formats;
mod rules;
