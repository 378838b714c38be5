//! A budget of bytes in flight: what keeps memory constant whatever the source.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
struct State {
    used: u64,
    /// The slot that the consumer waits for: it may always take, or nothing would ever move again.
    head: u64,
    closed: bool,
}

/// Counts bytes that readers hold until the assembler has taken them.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    state: Mutex<State>,
    changed: Condvar,
}

impl Budget {
    /// At most `limit` bytes, and one read beyond it for the slot at the head.
    pub fn new(limit: u64) -> Self {
        Budget { limit, state: Mutex::new(State { used: 0, head: 0, closed: false }), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `bytes` may be held for `slot`. False: the operation is over.
    pub fn take(&self, slot: u64, bytes: u64) -> bool {
        let mut state = self.state();
        while !state.closed && state.used + bytes > self.limit && slot > state.head {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.used += bytes;
        !state.closed
    }

    /// Whether taking `bytes` for a slot behind the head would wait.
    pub fn is_short_of(&self, bytes: u64) -> bool {
        self.state().used + bytes > self.limit
    }

    /// Gives `bytes` back.
    pub fn give(&self, bytes: u64) {
        let mut state = self.state();
        state.used = state.used.saturating_sub(bytes);
        self.changed.notify_all();
    }

    /// The consumer now waits for `slot`: whatever is at or before it may be taken.
    pub fn advance(&self, slot: u64) {
        let mut state = self.state();
        if slot > state.head {
            state.head = slot;
            self.changed.notify_all();
        }
    }

    /// Ends all waiting, now and later.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_may_always_take() {
        let budget = Budget::new(10);
        assert!(budget.take(5, 10));
        assert!(budget.take(0, 100));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.take(6, 1));
            budget.advance(6);
            assert!(waiting.join().expect("the thread ends"));
            let waiting = scope.spawn(|| budget.take(7, 1));
            budget.close();
            assert!(!waiting.join().expect("the thread ends"));
        });
    }
}
