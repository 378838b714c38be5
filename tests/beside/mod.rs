//! The program beside itself: several processes at work on one repository at the same time.
//!
//! `YESTER_TEST_SECONDS` makes these tests run for so long; without it they are short.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod crowd;
mod readers;
mod support;
