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
mod rotate;
mod look;
mod prune;
mod rewrite;
mod seen;
mod sessions;
mod write_only;
