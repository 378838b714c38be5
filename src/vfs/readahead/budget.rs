//! How many decoded bytes may lie ahead of all readers: a share of the frame cache.

/// The window of a reader who was just noticed, in bytes. It doubles with every further read in order.
const FIRST_WINDOW: u64 = 512 << 10;
/// Doublings of the window at most.
const DOUBLINGS: u32 = 10;

/// The bytes that may be decoded ahead, for all readers together.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadAheadBudget {
    bytes: u64,
}

impl ReadAheadBudget {
    /// A quarter of a frame cache of `frames` bytes: the rest is for what readers are at, and for what they read again.
    pub(super) fn new(frames: u64) -> Self {
        ReadAheadBudget { bytes: frames / 4 }
    }

    /// The window of one of `readers` after `hits` reads in order, in bytes. Nobody has less than the first window.
    pub(super) fn window(&self, hits: u32, readers: u64) -> u64 {
        let share = self.bytes / readers.max(1);
        (FIRST_WINDOW << hits.min(DOUBLINGS)).min(share.max(FIRST_WINDOW))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_double_up_to_a_share_of_a_quarter_of_the_cache() {
        let budget = ReadAheadBudget::new(48 << 20);
        let windows: Vec<u64> = (0..6).map(|hits| budget.window(hits, 1) >> 10).collect();
        assert_eq!(windows, [512, 1024, 2048, 4096, 8192, 12 << 10]);
        assert_eq!(budget.window(u32::MAX, 3), 4 << 20, "three readers share it");
        assert_eq!(budget.window(9, 1000), FIRST_WINDOW, "nobody has less");
        assert_eq!(budget.window(9, 0), 12 << 20);
    }
}
