//! A budget of what is in flight, in bytes or steps. It bounds the memory of an ingest, whatever the source.

use std::collections::HashMap;

use parking_lot::{Condvar, Mutex, MutexGuard};

#[derive(Debug)]
struct BudgetState {
    used: u64,
    /// What each slot holds.
    held: HashMap<u64, u64>,
    /// The slot that the consumer waits for.
    head: u64,
    closed: bool,
}

impl BudgetState {
    /// The head, for which the consumer waits, is exempt from the limit while it holds less than [`HEAD`]. This prevents
    /// deadlock.
    fn may_take(&self, slot: u64, bytes: u64, limit: u64) -> bool {
        let holds = self.held.get(&slot).copied().unwrap_or(0);
        self.closed || self.used + bytes <= limit || slot <= self.head && holds < HEAD
    }
}

/// What the head may hold beyond the limit.
const HEAD: u64 = 4 << 20;

/// Counts bytes that readers hold until the assembler has taken them.
#[derive(Debug)]
pub(crate) struct ReadBudget {
    limit: u64,
    state: Mutex<BudgetState>,
    changed: Condvar,
}

impl ReadBudget {
    /// At most `limit` bytes, and a little beyond it for the slot at the head.
    pub(crate) fn new(limit: u64) -> Self {
        let state = BudgetState { used: 0, held: HashMap::new(), head: 0, closed: false };
        ReadBudget { limit, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, BudgetState> {
        self.state.lock()
    }

    /// Waits until `bytes` may be held for `slot`. False: the operation is over.
    pub(crate) fn take(&self, slot: u64, bytes: u64) -> bool {
        let mut state = self.state();
        while !state.may_take(slot, bytes, self.limit) {
            self.changed.wait(&mut state);
        }
        state.used += bytes;
        *state.held.entry(slot).or_default() += bytes;
        !state.closed
    }

    /// Takes `bytes` for `slot` if that needs no waiting. False: it was not taken.
    pub(crate) fn try_take(&self, slot: u64, bytes: u64) -> bool {
        let mut state = self.state();
        if state.closed || !state.may_take(slot, bytes, self.limit) {
            return false;
        }
        state.used += bytes;
        *state.held.entry(slot).or_default() += bytes;
        true
    }

    /// Whether taking `bytes` for a slot behind the head would wait.
    pub(crate) fn is_short_of(&self, bytes: u64) -> bool {
        self.state().used + bytes > self.limit
    }

    /// Gives `bytes` of `slot` back.
    pub(crate) fn give(&self, slot: u64, bytes: u64) {
        let mut state = self.state();
        state.used = state.used.saturating_sub(bytes);
        if let Some(held) = state.held.get_mut(&slot) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                state.held.remove(&slot);
            }
        }
        self.changed.notify_all();
    }

    /// The consumer now waits for `slot`: whatever is at or before it is at the head.
    pub(crate) fn advance(&self, slot: u64) {
        let mut state = self.state();
        if slot > state.head {
            state.head = slot;
            self.changed.notify_all();
        }
    }

    /// Ends all waiting, now and later.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_may_take_but_not_without_end() {
        let budget = ReadBudget::new(10);
        assert!(budget.take(5, 10));
        assert!(budget.take(0, HEAD));
        assert!(!budget.try_take(0, 1) && !budget.try_take(6, 1));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.take(6, 1));
            budget.advance(6);
            assert!(waiting.join().expect("the thread ends"));
            let waiting = scope.spawn(|| budget.take(0, 1));
            budget.give(0, HEAD);
            assert!(waiting.join().expect("the thread ends"));
            let waiting = scope.spawn(|| budget.take(7, 1));
            budget.close();
            assert!(!waiting.join().expect("the thread ends"));
        });
    }
}
