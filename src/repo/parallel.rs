//! Doing one thing many times at once: on as many threads as there are processors for work that computes, with as many
//! requests under way as the storage likes for work that waits for it.

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use crate::error::Result;
use crate::model::PackId;
use crate::repo::Repository;

/// Does pieces 0 to `count` on up to `workers` threads, this one among them; each thread has a state of its own. Nothing
/// more is begun once `stopped` says so.
pub(crate) fn claim<S>(
    workers: usize,
    count: usize,
    stopped: impl Fn() -> bool + Sync,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) + Sync,
) {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut state = state();
        while !stopped() {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                break;
            }
            work(&mut state, at);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..workers.min(count) {
            scope.spawn(worker);
        }
        worker();
    });
}

/// Does something for each item, with as many requests under way as the storage likes. The answers are in the order of
/// the items.
pub(crate) fn many<I: Sync, T: Send>(repo: &Repository, items: &[I], work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let workers = repo.storage().costs().small_at_once.clamp(1, 64);
    // A few are read sooner than threads are started, where a read is no request.
    let few = if repo.storage().costs().high_latency() { 2 } else { 8 };
    if items.len() < few || workers == 1 {
        return items.iter().map(work).collect();
    }
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let one = |(): &mut (), at: usize| {
        let answer = work(&items[at]);
        done.lock().push((at, answer));
    };
    claim(workers, items.len(), || false, || (), one);
    let mut done = done.into_inner();
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, answer)| answer).collect()
}

/// Reads packs with as many requests under way as the storage likes; `take` gets them in any order.
pub(crate) fn each_pack<T: Send>(
    repo: &Repository,
    packs: &[(PackId, u64)],
    read: &(dyn Fn(PackId, u64) -> T + Sync),
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let readers = repo.storage().costs().concurrency.clamp(1, 64).min(packs.len());
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
