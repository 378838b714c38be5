//! Parity: what there is of it, and whether its rows are as they were written.

use crate::error::Result;
use crate::parity::{self, ParityPlace};
use crate::repo::Repository;
use crate::storage::Name;

use super::objects::bare;
use super::{CheckOptions, CheckReport, Findings, Subset};

const NEXT: &str = "what it was made for can be healed by less than before";

/// Looks at what is in `parity/`. Rows are read whole when all packs are.
pub(super) fn check(
    repo: &Repository,
    options: &CheckOptions,
    findings: &mut Findings<'_>,
    report: &mut CheckReport,
) -> Result<()> {
    let place = ParityPlace::of(repo);
    let found = parity::find(&place)?;
    for (name, _, e) in &found.bad {
        findings.damage(name, format!("{}; it counts for nothing, and yester prune removes it", bare(name, e)));
    }
    for (name, _, e) in &found.unreadable {
        findings.damage(
            name,
            format!("{}; {NEXT}: yester parity remove, and add, make it anew on a disk that is sound", bare(name, e)),
        );
    }
    if found.groups.is_empty() {
        return Ok(());
    }
    let (covered, packs) = (found.covered(), place.packs()?);
    report.parity_groups = found.groups.len() as u64;
    report.parity_incomplete = found.groups.iter().filter(|group| !group.missing_rows().is_empty()).count() as u64;
    report.parity_uncovered = packs.keys().filter(|id| !covered.contains(*id)).count() as u64;
    if !matches!(options.read, Some(Subset::All)) {
        for group in &found.groups {
            for (row, size) in group.rows.iter().filter(|(_, size)| **size != group.group.row_len()) {
                let text = format!("it has {size} bytes and should have {}; {NEXT}", group.group.row_len());
                findings.damage(Name::Parity(group.id, *row), text);
            }
        }
        return Ok(());
    }
    report.parity_rows_read = found.groups.iter().map(|group| group.rows.len() as u64).sum();
    for (name, e) in parity::verify(&place, &found, findings.task())? {
        findings.damage(name, format!("{}; {NEXT}: yester doctor --read-data makes it anew", bare(&name, &e)));
    }
    Ok(())
}
