//! What requests to a storage cost, for code that plans them.

/// What requests to a storage cost. A storage that forwards to another one forwards these as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Costs {
    /// How many requests are worth having under way at once. At least 1.
    pub concurrency: usize,
    /// How many reads of small objects are worth having under way at once. At least 1. It is more than `concurrency` where
    /// each waits for the way there and back, and not for bytes.
    pub small_at_once: usize,
    /// How many packs are worth creating at once. At least 1. It is 1 where the storage's bandwidth
    /// is used up by one at a time.
    pub creates_at_once: usize,
    /// Bytes that are worth one read. Where each request costs a round trip, neighbouring ranges of
    /// an object are read together up to this length. Zero: each range is read by itself.
    pub worth_one_read: u64,
}

impl Costs {
    /// A storage on this machine: requests are cheap, and `concurrency` of them are worth having
    /// under way at once.
    pub(crate) fn local(concurrency: usize) -> Self {
        Costs { concurrency, small_at_once: concurrency, creates_at_once: 1, worth_one_read: 0 }
    }

    /// Whether each request costs a round trip, so that few large ones are better than many small ones.
    pub(crate) fn high_latency(&self) -> bool {
        self.worth_one_read > 0
    }
}
