//! What a snapshot says of its parts.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::snapshot::MAX_TEXT;
use crate::ingest::assemble::objects::ReadObjects;
use crate::ingest::assemble::streams::EndedStream;
use crate::ingest::bucket::WalkedBucket;
use crate::ingest::input::Input;
use crate::ingest::options::IngestOptions;
use crate::model::{Composition, Part, Statistics, Timestamp, escape};
use crate::sys::network;

/// So many addresses of the host are kept.
const ADDRESSES: usize = 16;

/// Why an input that the walk did not come to is not there.
const NO_PLACE: &[u8] = b"there is no place for it";

/// What came of inputs that are no paths.
pub(crate) struct PartsFound<'a> {
    /// Streams.
    pub(crate) ended: &'a [EndedStream],
    /// Buckets, as the walk came to them.
    pub(crate) buckets: &'a [WalkedBucket],
    /// What was read of them.
    pub(crate) objects: &'a HashMap<usize, ReadObjects>,
    /// Files that changed while they were read.
    pub(crate) changed: u64,
}

/// The parts of what was ingested from `started` to `finished`, for a set or where there are streams or buckets.
pub(crate) fn composition(
    inputs: &[Arc<dyn Input>],
    options: &IngestOptions,
    found: &PartsFound<'_>,
    statistics: &Statistics,
    (started, finished): (Timestamp, Timestamp),
) -> Composition {
    let paths = inputs.iter().filter(|input| input.path().is_some()).count();
    if options.set.is_none() && paths == inputs.len() || options.dry_run {
        return Composition::default();
    }
    let others: Vec<Part> = inputs
        .iter()
        .enumerate()
        .filter_map(|(number, input)| match input.bucket() {
            Some(_) => Some(bucket(number, &**input, found)),
            None => stream(number, &**input, found.ended),
        })
        .collect();
    let mut parts = Vec::new();
    if paths > 0 {
        let errors = statistics.errors.saturating_sub(others.iter().map(|part| part.errors).sum());
        let stored: u64 = others.iter().filter(|part| part.state != Part::FAILED).map(|part| part.bytes).sum();
        let changed = found.changed;
        let state = match (errors > changed, changed) {
            (true, _) => Part::INCOMPLETE,
            (false, 1..) => Part::CHANGED,
            _ => Part::COMPLETE,
        };
        let bytes = statistics.bytes.saturating_sub(stored);
        parts.push(Part { kind: Part::PATHS, state, started, finished, bytes, changed, errors, ..Part::default() });
    }
    parts.extend(others);
    let addresses = options.set.iter().flat_map(|_| network::addresses()).map(|address| address.to_string().into_bytes());
    Composition {
        set: options.set.clone(),
        parts,
        frozen: 0,
        origin: None,
        addresses: addresses.take(ADDRESSES).collect(),
        group: options.group.clone(),
    }
}

fn bucket(number: usize, input: &dyn Input, found: &PartsFound<'_>) -> Part {
    let part = Part { kind: Part::BUCKET, state: Part::FAILED, path: input.stored().to_vec(), errors: 1, ..Part::default() };
    let Some(walked) = found.buckets.iter().find(|walked| walked.number == number) else {
        return Part { message: NO_PLACE.to_vec(), ..part };
    };
    let read = found.objects.get(&number).copied().unwrap_or_default();
    let part =
        Part { started: walked.started, finished: read.finished.max(walked.started), bytes: walked.bytes + read.bytes, ..part };
    match &walked.failure {
        Some(failure) => Part { message: failure.bytes().take(MAX_TEXT).collect(), ..part },
        None if read.errors > 0 => Part { state: Part::INCOMPLETE, errors: read.errors, ..part },
        None => Part { state: Part::COMPLETE, errors: 0, ..part },
    }
}

fn stream(number: usize, input: &dyn Input, ended: &[EndedStream]) -> Option<Part> {
    if input.path().is_some() {
        return None;
    }
    let part = Part { kind: Part::STREAM, state: Part::FAILED, path: input.stored().to_vec(), errors: 1, ..Part::default() };
    let Some(ended) = ended.iter().find(|ended| ended.number == number) else {
        return Some(Part { message: NO_PLACE.to_vec(), ..part });
    };
    let part = Part { started: ended.started, finished: ended.finished, bytes: ended.bytes, ..part };
    Some(match &ended.failure {
        Some(failure) => Part { message: failure.bytes().take(MAX_TEXT).collect(), ..part },
        None => Part { state: Part::COMPLETE, errors: 0, ..part },
    })
}

/// Refuses a snapshot without a part that it must not be without.
pub(super) fn require(inputs: &[Arc<dyn Input>], parts: &[Part]) -> Result<()> {
    let required = |part: &&Part| inputs.iter().any(|input| input.is_required() && input.stored() == part.path);
    match parts.iter().filter(|part| part.state == Part::FAILED).find(required) {
        Some(part) => {
            let (path, why) = (escape(&part.path), String::from_utf8_lossy(&part.message));
            Err(Error::new(ErrorKind::Io, format!("no snapshot was taken, since {path} is required, and failed: {why}")))
        }
        None => Ok(()),
    }
}
