//! Taking a snapshot: reads directories, streams and buckets, and stores in a repository what it does not have yet.
//!
//! Each attempt is a session (`attempt`). What happens in it, on which threads, is in `pipeline`.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ingest::attempt::{Attempt, End};
use crate::ingest::exclude::Rules;
use crate::local::watch::SessionWatch;
use crate::observe::Event;
use crate::repo::{Repository, work};
use crate::sys::process;
use crate::task::Task;

mod assemble;
mod attempt;
pub mod bucket;
mod budget;
pub(crate) mod chunks;
mod claims;
mod count;
mod exclude;
pub(crate) mod follow;
pub(crate) mod grid;
pub(crate) mod groups;
mod handles;
mod holes;
pub(crate) mod input;
mod level;
mod limits;
mod objects;
mod options;
pub(crate) mod others;
pub(crate) mod packing;
mod parent;
mod parts;
mod pipeline;
mod plan;
pub(crate) mod read;
pub(crate) mod recipe;
mod scan;
mod shares;
mod shutdown;
pub(crate) mod sink;
pub mod sources;
mod stand_in;
mod still;
mod stream;
mod tell;

pub(crate) use chunks::OnlyChunks;
pub use input::{Input, Stream};
pub use options::{Exclude, IngestOptions, IngestReport, Parent, Source};
pub use stand_in::{GivenPlace, KEEPER, StandIns, TakeSnapshots, VolumeHook, WantedDirectory};
pub use still::FreezeHooks;

/// How often a writer whose session was fenced begins again.
const FENCED_TRIES: u32 = 5;
/// How often an ingest that met damage begins again: each time without what was found damaged until then.
const DAMAGED_TRIES: u32 = 5;

/// Refuses what [`ingest`] would refuse of what it is given: before a repository is opened, or made.
pub fn check(inputs: &[Arc<dyn Input>], options: &IngestOptions) -> Result<()> {
    sources::places(inputs)?;
    Rules::new(options, &[])?;
    limits::check(inputs, options)
}

/// Stores what is at these paths as a new snapshot: [`ingest_all`] without streams.
pub fn ingest(repo: &Arc<Repository>, sources: &[Source], options: &IngestOptions, task: &Task<'_>) -> Result<IngestReport> {
    let inputs: Vec<Arc<dyn Input>> = sources.iter().map(|source| Arc::new(source.clone()) as Arc<dyn Input>).collect();
    ingest_all(repo, &inputs, options, task)
}

/// Stores `inputs` as a new snapshot. Stopping it ends it cleanly: no snapshot, and what was stored is found by
/// the next ingest. An error of the repository is final; what cannot be read of the source is reported, counted, and
/// left out.
pub fn ingest_all(
    repo: &Arc<Repository>,
    inputs: &[Arc<dyn Input>],
    options: &IngestOptions,
    task: &Task<'_>,
) -> Result<IngestReport> {
    let places = sources::places(inputs)?;
    let mut never = options.never.clone();
    never.extend(std::iter::once(repo.storage().local_path()).flatten());
    let rules = Rules::new(options, &never)?;
    limits::check(inputs, options)?;
    process::raise_file_limit();
    let watch = Arc::new(SessionWatch::new(options.state.as_deref(), repo.id()));
    let (mut fenced, mut damaged) = (0, 0);
    loop {
        let again = fenced + damaged > 0;
        let attempt = Attempt { repo, inputs, places: &places, rules: &rules, options, task, again, watch: &watch };
        match attempt.run()? {
            End::Done(report) => return Ok(*report),
            End::Fenced => {
                fenced += 1;
                let message = "it was ended by a prune, or removed: the ingest begins again, and finds what it has stored as \
                               far as that is still there";
                task.observer.event(&Event::Note { subject: b"session", message });
            }
            End::Damaged => damaged += 1,
        }
        if fenced == FENCED_TRIES {
            return Err(work::fenced_too_often());
        }
        if damaged == DAMAGED_TRIES {
            let text = "no snapshot was taken: each time that the ingest began again it met more damage in the repository \
                        (yester check --read-data finds all of it, then ingest again)";
            return Err(Error::corrupt(text));
        }
    }
}
