//! What a repository holds, and what is on its way into it: exact whatever requests come at once. Of an object store it may
//! say too much.

use std::time::{Duration, Instant};

use crate::remote::protocol::{Code, Refusal};

/// How long a count of the repository is believed when it says that a quota is used up.
const COUNT_AGAIN: Duration = Duration::from_secs(10);
/// Bytes of a quota for each object that there may be, as file systems plan for them, and objects that there may always be.
const BYTES_AN_OBJECT: u64 = 16 << 10;
const OBJECTS_AT_LEAST: u64 = 10_000;

/// So many objects, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// How many.
    pub(crate) objects: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

impl Usage {
    /// One object of so many bytes.
    pub(crate) fn one(bytes: u64) -> Self {
        Usage { objects: 1, bytes }
    }

    fn plus(self, other: Usage) -> Self {
        let (objects, bytes) = (self.objects.saturating_add(other.objects), self.bytes.saturating_add(other.bytes));
        Usage { objects, bytes }
    }

    fn minus(self, other: Usage) -> Self {
        let (objects, bytes) = (self.objects.saturating_sub(other.objects), self.bytes.saturating_sub(other.bytes));
        Usage { objects, bytes }
    }
}

/// The most objects in a repository with a quota.
pub(crate) fn most_objects(quota: u64) -> u64 {
    OBJECTS_AT_LEAST + quota / BYTES_AN_OBJECT
}

fn is_full(used: Usage, bytes: u64, quota: u64) -> bool {
    let after = used.plus(Usage::one(bytes));
    after.bytes > quota || after.objects > most_objects(quota)
}

/// The account of a repository. Every change of the repository updates it under the same lock.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// What is there, when it was counted; `None` while nobody needs to know.
    held: Option<(Usage, Instant)>,
    /// What is being uploaded.
    coming: Usage,
    /// All that came since this was begun.
    came: Usage,
}

impl Account {
    /// What is there and on its way. `count` looks.
    pub(super) fn used<E>(&mut self, count: impl FnOnce() -> Result<Usage, E>) -> Result<Usage, E> {
        let held = match self.held {
            Some((held, _)) => held,
            None => {
                let held = count()?;
                self.held = Some((held, Instant::now()));
                held
            }
        };
        Ok(held.plus(self.coming))
    }

    /// Notes an object that is about to come, if `quota` has room for it; `quota` of `None` has. Taken back by
    /// [`Account::settle`].
    pub(crate) fn reserve(
        &mut self,
        bytes: u64,
        quota: Option<u64>,
        count: impl Fn() -> Result<Usage, Refusal>,
    ) -> Result<(), Refusal> {
        let wanted = Usage::one(bytes);
        if let Some(quota) = quota {
            let is_full = |used| is_full(used, bytes, quota);
            let mut used = self.used(&count)?;
            // Others may have deleted, past this server.
            if is_full(used) && self.held.is_some_and(|(_, at)| at.elapsed() > COUNT_AGAIN) {
                self.held = None;
                used = self.used(&count)?;
            }
            if is_full(used) {
                let Usage { objects, bytes: held } = used;
                let text = match held.saturating_add(bytes) > quota {
                    true => format!("the quota is used up: {held} of {quota} bytes are used, and {bytes} more are needed"),
                    false => {
                        let most = most_objects(quota);
                        format!("the quota is used up: there are {objects} objects, and {most} is the most for {quota} bytes")
                    }
                };
                return Err(Refusal::new(Code::Quota, text));
            }
        }
        self.coming = self.coming.plus(wanted);
        Ok(())
    }

    /// What was reserved has come, or will not.
    pub(crate) fn settle(&mut self, bytes: u64, came: bool) {
        self.coming = self.coming.minus(Usage::one(bytes));
        if !came {
            return;
        }
        self.came = self.came.plus(Usage::one(bytes));
        if let Some((held, _)) = &mut self.held {
            *held = held.plus(Usage::one(bytes));
        }
    }

    /// Whether what is there has to be counted before one can say whether `quota` has room for so many bytes more; without
    /// them, what is used.
    pub(crate) fn must_count(&self, wanted: Option<(u64, u64)>) -> bool {
        match (&self.held, wanted) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((held, at)), Some((bytes, quota))) => {
                at.elapsed() > COUNT_AGAIN && is_full(held.plus(self.coming), bytes, quota)
            }
        }
    }

    /// Begins to count, without the lock: to be given to [`Account::counted`].
    pub(crate) fn begin_count(&self) -> Usage {
        self.came
    }

    /// What a count found. What came meanwhile is added, also where the count has seen it, and what went meanwhile is not
    /// taken off: too much may be counted, never too little.
    pub(crate) fn counted(&mut self, found: Usage, begun: Usage) {
        self.held = Some((found.plus(self.came.minus(begun)), Instant::now()));
    }

    /// An object of so many bytes is gone.
    pub(crate) fn gone(&mut self, bytes: u64) {
        if let Some((held, _)) = &mut self.held {
            *held = held.minus(Usage::one(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_while_one_counts_is_never_too_little() {
        let mut account = Account::default();
        assert!(account.must_count(None) && account.must_count(Some((1, 1000))));
        let begun = account.begin_count();
        account.coming = Usage::one(10).plus(Usage::one(20));
        account.settle(10, true);
        account.settle(20, false);
        account.gone(500);
        account.counted(Usage { objects: 7, bytes: 600 }, begun);
        let used = account.used(|| Err::<Usage, ()>(())).unwrap();
        assert_eq!(used, Usage { objects: 8, bytes: 610 });
        account.gone(500);
        assert_eq!(account.used(|| Err::<Usage, ()>(())).unwrap(), Usage { objects: 7, bytes: 110 });
        // It was counted a moment ago.
        assert!(!account.must_count(None) && !account.must_count(Some((1000, 1000))));
    }
}
