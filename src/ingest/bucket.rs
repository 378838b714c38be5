//! Buckets as inputs: what an ingest needs of an object store.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::ingest::input::{Input, Opened};
use crate::model::bucket::{BucketEntry, ObjectFacts, PlacedObject, place};
use crate::model::{Node, Timestamp};

/// Objects under keys.
pub trait Bucket: fmt::Debug + Send + Sync {
    /// All of them; where versions are wanted, all versions and delete markers, the newest of a key first.
    fn list(&self) -> Result<Vec<BucketEntry>>;

    /// Begins to read one, or the version of this id; `None` when it is not there any more.
    fn open(&self, key: &[u8], version: Option<&[u8]>) -> Result<Option<Box<dyn OpenObject>>>;

    /// How many may be read at once.
    fn connections(&self) -> usize;

    /// How long it was waited for its limits; empty when it was not.
    fn waited(&self) -> String {
        String::new()
    }
}

/// An object that is being read.
pub trait OpenObject: fmt::Debug {
    /// What is known of it before its end.
    fn facts(&self) -> &ObjectFacts;

    /// Appends the next bytes; `None` when another object has its key by now, 0 at the end.
    fn next(&mut self, out: &mut Vec<u8>) -> Result<Option<usize>>;

    /// What is known of it at its end.
    fn finish(self: Box<Self>) -> Result<ObjectFacts>;
}

/// A bucket whose objects become files below a path of the snapshot.
#[derive(Debug)]
pub struct BucketInput {
    stored: Vec<u8>,
    bucket: Arc<dyn Bucket>,
    required: bool,
}

impl BucketInput {
    /// The objects of `bucket`, below `stored`. When it is required and cannot be listed, there is no snapshot.
    pub fn new(stored: Vec<u8>, bucket: Arc<dyn Bucket>, required: bool) -> Self {
        BucketInput { stored, bucket, required }
    }
}

impl Input for BucketInput {
    fn stored(&self) -> &[u8] {
        &self.stored
    }

    fn shown(&self) -> &[u8] {
        &self.stored
    }

    fn open(&self) -> Result<Opened> {
        let placed: Vec<PlacedObject> = place(self.bucket.list()?);
        Ok(Opened::Bucket(self.bucket.clone(), placed))
    }

    fn bucket(&self) -> Option<&Arc<dyn Bucket>> {
        Some(&self.bucket)
    }

    fn is_required(&self) -> bool {
        self.required
    }
}

/// What the walk says of a bucket.
#[derive(Debug, Clone, Default)]
pub(crate) struct WalkedBucket {
    /// The number of its input.
    pub(crate) number: usize,
    /// The directory that it was in the parent.
    pub(crate) parent: Option<Node>,
    /// When it was listed.
    pub(crate) started: Timestamp,
    /// Objects.
    pub(crate) objects: u64,
    /// Those of them that the parent has.
    pub(crate) unchanged: u64,
    /// Bytes of these.
    pub(crate) bytes: u64,
    /// Why nothing of it is there.
    pub(crate) failure: Option<String>,
}
