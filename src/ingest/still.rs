//! Freezing a source while it is read, and thawing it.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::error::Result;

/// The calls that freeze a source and thaw it.
#[derive(Clone)]
pub struct FreezeHooks {
    /// Called before anything is read; when it fails, nothing is.
    pub freeze: Arc<dyn Fn() -> Result<()> + Send + Sync>,
    /// Called when everything was read, or will not be; also when `freeze` failed. An error says that what was read is not
    /// to be kept.
    pub thaw: Arc<dyn Fn() -> Result<()> + Send + Sync>,
}

impl fmt::Debug for FreezeHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Still")
    }
}

/// A frozen source. It is thawed when this is dropped, at the latest.
#[derive(Debug)]
pub(crate) struct Frozen<'a> {
    still: Option<&'a FreezeHooks>,
    since: Instant,
}

impl<'a> Frozen<'a> {
    /// Freezes it.
    pub(super) fn begin(still: Option<&'a FreezeHooks>) -> Result<Self> {
        let frozen = Frozen { still, since: Instant::now() };
        still.map_or(Ok(()), |still| (still.freeze)())?;
        Ok(frozen)
    }

    /// Thaws it. Returns for how many milliseconds it was frozen: at least one; 0 if nothing was.
    pub(super) fn thaw(&mut self) -> Result<u64> {
        match self.still.take() {
            Some(still) => {
                (still.thaw)()?;
                Ok(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1))
            }
            None => Ok(0),
        }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // Whoever drops it has failed already.
        let _ = self.thaw();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn what_was_frozen_is_thawed_once() {
        for fails in [false, true] {
            let thawed = Arc::new(AtomicUsize::new(0));
            let count = thawed.clone();
            let freeze = move || if fails { Err(crate::Error::invalid("no")) } else { Ok(()) };
            let still = FreezeHooks {
                freeze: Arc::new(freeze),
                thaw: Arc::new(move || {
                    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                    Ok(())
                }),
            };
            let frozen = Frozen::begin(Some(&still));
            assert_eq!(frozen.is_err(), fails);
            if let Ok(mut frozen) = frozen {
                assert!(frozen.thaw().unwrap() >= 1 && frozen.thaw().unwrap() == 0);
            }
            assert_eq!(thawed.load(Ordering::Relaxed), 1);
        }
        assert_eq!(Frozen::begin(None).expect("nothing fails").thaw().unwrap(), 0);
    }
}
