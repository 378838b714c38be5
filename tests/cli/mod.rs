//! The command line: what users type, and what they are told.

mod annotate;
mod basics;
mod basket;
mod du;
mod everything;
pub(crate) mod export;
mod gone;
mod ingest;
mod json;
mod key;
mod look;
mod prune;
mod rewrite;
mod rotate;
mod seen;
mod sessions;
mod signs;
mod write_only;
