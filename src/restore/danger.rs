//! Before anything is deleted: how much would go, and whether that is what the user wants.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::model::escape;
use crate::observe::Silent;
use crate::repo::tree::TreeReader;
use crate::restore::filter::PathFilter;
use crate::restore::run::RestoreRun;
use crate::restore::target::RestoreTarget;
use crate::restore::{RestoreOptions, RestoreSource, shown, walk};
use crate::task::Task;

/// Paths that are named when much would be deleted.
pub(crate) const NAMED: usize = 5;

/// What a restore would delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// Entries that would go.
    pub(crate) entries: u64,
    /// Entries that the restore is of, whether they are there already or not.
    pub(crate) restored: u64,
    /// The first of those that would go.
    pub(crate) first: Vec<Vec<u8>>,
}

impl Deletion {
    /// Whether more would go than come.
    pub(crate) fn is_dangerous(&self) -> bool {
        self.entries > self.restored
    }
}

impl fmt::Display for Deletion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = if self.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", self.entries) };
        write!(f, "{entries} would be deleted and only {} restored: ", self.restored)?;
        for (at, path) in self.first.iter().enumerate() {
            write!(f, "{}{}", if at > 0 { ", " } else { "" }, escape(path))?;
        }
        if self.first.len() as u64 == self.entries { Ok(()) } else { write!(f, " and others") }
    }
}

/// Asks a person about a deletion; true when it may go on.
#[derive(Clone)]
pub struct Confirm(Arc<dyn Fn(&Deletion) -> bool + Send + Sync>);

impl Confirm {
    /// A question.
    pub fn new(ask: impl Fn(&Deletion) -> bool + Send + Sync + 'static) -> Self {
        Confirm(Arc::new(ask))
    }
}

impl fmt::Debug for Confirm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Confirm")
    }
}

/// Finds out what would be deleted, without reading or changing any content, and whether it may be. The answer is the
/// most that the restore may delete.
pub(crate) fn limit(
    tree: &Arc<TreeReader>,
    options: &RestoreOptions,
    target: &Path,
    sources: &[RestoreSource<'_>],
    filter: &PathFilter,
    task: &Task<'_>,
) -> Result<u64> {
    let silent = Task { observer: &Silent, ..task.clone() };
    let survey = RestoreOptions { dry_run: true, ..options.clone() };
    let place = RestoreTarget::prepare(target, &options.forbidden, true)?;
    let mut run = RestoreRun::new(tree, &survey, &silent, place, sources)?;
    run.only_deletions = true;
    for source in sources {
        walk::restore_source(&run, source, filter);
    }
    if run.stopped() {
        return Err(Error::new(ErrorKind::Interrupted, "interrupted: nothing was changed"));
    }
    let deletion = run.deletion();
    if !deletion.is_dangerous() {
        return Ok(deletion.restored);
    }
    let (entries, place) = (deletion.entries, shown(target));
    match (options.unsafe_delete, &options.confirm) {
        (Some(n), _) if n == entries => Ok(entries),
        (Some(n), _) => {
            let text = format!("{place}: {deletion}; --unsafe-delete says {n}: look again, and give --unsafe-delete {entries}");
            Err(Error::invalid(text))
        }
        (None, Some(Confirm(ask))) if ask(&deletion) => Ok(entries),
        (None, Some(_)) => Err(Error::new(ErrorKind::Interrupted, "nothing was changed")),
        (None, None) => {
            Err(Error::invalid(format!("{place}: {deletion}; if that is what you want, give --unsafe-delete {entries}")))
        }
    }
}
