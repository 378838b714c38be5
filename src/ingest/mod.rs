//! Ingest: directories in, a snapshot out.

pub mod options;

pub use options::{Exclude, IngestOptions, IngestReport, Parent, Source};
