//! What of the parent is not in the source any more, and what the user does not want: told, entry by entry.

use crate::error::Result;
use crate::ingest::level::WalkLevel;
use crate::ingest::parent::ParentEntry;
use crate::ingest::plan::{Planner, WalkStep};
use crate::ingest::tell::EntryNotice;
use crate::sys::Stat;

impl Planner<'_> {
    /// The parent's entry of this name. What stands before it there was not asked for: it is gone.
    pub(super) fn parent_entry(&mut self, level: &mut WalkLevel<'_>, name: &[u8]) -> Result<Option<ParentEntry>> {
        let (Some(parent), Some(dir)) = (&self.parent, &mut level.parent) else { return Ok(None) };
        let (listing, mut gone) = (self.listing, Vec::new());
        let found = parent.entry(dir, name, &mut |node| {
            if listing {
                gone.push(EntryNotice::gone(node))
            }
        });
        gone.into_iter().try_for_each(|told| self.step(WalkStep::Tell(told)))?;
        Ok(found)
    }

    /// Says what the parent has in a directory that is left, after the last name that was asked for.
    pub(super) fn rest_is_gone(&mut self, level: &mut WalkLevel<'_>) -> Result<()> {
        let (Some(parent), Some(dir)) = (&self.parent, level.parent.as_mut().filter(|_| self.listing && !level.cut)) else {
            return Ok(());
        };
        let mut gone = Vec::new();
        parent.rest(dir, &mut |node| gone.push(EntryNotice::gone(node)));
        gone.into_iter().try_for_each(|told| self.step(WalkStep::Tell(told)))
    }

    /// Says that the user does not want an entry of the directory that began last.
    pub(super) fn left_out(&mut self, name: &[u8], stat: &Stat, reason: &str) -> Result<()> {
        match self.listing {
            true => self.step(WalkStep::Tell(EntryNotice::left_out(name, stat.kind, stat.size, reason.to_owned()))),
            false => Ok(()),
        }
    }
}
