//! Reading many packs with as many requests under way as the storage likes.

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::bounded;

use crate::error::Result;
use crate::model::PackId;
use crate::repo::Repository;

/// Reads packs with as many requests under way as the storage likes; `take` gets them in any order.
pub fn each<T: Send>(
    repo: &Repository,
    packs: &[(PackId, u64)],
    read: &(dyn Fn(PackId, u64) -> T + Sync),
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let readers = repo.storage().concurrency().clamp(1, 64).min(packs.len());
    let (found_in, found) = bounded(readers);
    std::thread::scope(|scope| {
        for _ in 0..readers {
            let (next, found_in) = (&next, found_in.clone());
            scope.spawn(move || {
                while let Some((id, size)) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if found_in.send(read(*id, *size)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(found_in);
        let result = found.iter().try_for_each(&mut take);
        // Readers that still send see that nobody listens.
        drop(found);
        result
    })
}
