//! Ingest: directories in, a snapshot out.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::error::{Error, ErrorKind, Result};
use crate::observe::Observer;
use crate::repo::Repository;

pub mod options;

pub use options::{Exclude, IngestOptions, IngestReport, Parent, Source};

/// Takes a snapshot of `sources`.
pub fn ingest(
    _repo: &Arc<Repository>,
    _sources: &[Source],
    _options: &IngestOptions,
    _stop: &Arc<AtomicBool>,
    _observer: &dyn Observer,
) -> Result<IngestReport> {
    Err(Error::new(ErrorKind::Unsupported, "this build cannot ingest"))
}
