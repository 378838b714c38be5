//! `repair keys`.

use serde::Serialize;

use yester::Result;
use yester::keys::copies::{Copies, Repaired};
use yester::keys::keyring::KeyRing;
use yester::storage::Name;

use super::{list, open, open_to_write, say, state};
use crate::cli::context::Context;
use crate::cli::say::exit::Outcome;

#[derive(Serialize)]
struct Done {
    message_type: &'static str,
    dry_run: bool,
    copies: Vec<JsonRepairedCopy>,
    removed: Vec<String>,
}

#[derive(Serialize)]
struct JsonRepairedCopy {
    name: String,
    was: &'static str,
}

/// What was done, or would be.
pub struct MendedKeys {
    ring: KeyRing,
    /// Copies that were written again.
    pub copies: Vec<Repaired>,
    /// What was removed, since it is not authentic.
    pub removed: Vec<(Name, String)>,
    /// Whether all copies could be written.
    pub result: Result<()>,
}

/// Writes bad copies again and removes what is not authentic.
pub fn mend(context: &Context, dry_run: bool) -> Result<MendedKeys> {
    let (_, ring, _) = if dry_run { open(context)? } else { open_to_write(context)? };
    let (copies, result) = match dry_run {
        false => ring.repair(),
        true => {
            let mut copies = bad(&ring.configuration()?);
            copies.extend(ring.slots()?.iter().flat_map(|slot| bad(&slot.copies)));
            (copies, Ok(()))
        }
    };
    let removed = if dry_run { ring.useless()? } else { ring.remove_useless()? };
    Ok(MendedKeys { ring, copies, removed, result })
}

/// Writes bad copies again and removes what is not authentic, or says what would be done; what cannot be helped is said as `key list` says it.
pub fn repair(context: &Context, dry_run: bool) -> Result<Outcome> {
    let MendedKeys { ring, copies, removed, result } = mend(context, dry_run)?;
    let done = if dry_run { "would be written again: it is" } else { "was written again: it was" };
    let mut lines: Vec<String> = copies.iter().map(|copy| format!("{} {done} {}", copy.name, state(&copy.was))).collect();
    let gone = if dry_run { "would be removed" } else { "was removed" };
    lines.extend(removed.iter().map(|(name, why)| format!("{name} {gone}: {why}")));
    if lines.is_empty() {
        lines.push("there is no copy to write again".to_owned());
    }
    let copies = copies.iter().map(|copy| JsonRepairedCopy { name: copy.name.to_string(), was: state(&copy.was) }).collect();
    let removed = removed.iter().map(|(name, _)| name.to_string()).collect();
    say(context, &lines, &Done { message_type: "repair_keys", dry_run, copies, removed })?;
    result?;
    if dry_run { Ok(Outcome::Done) } else { list::report(context, &ring, &ring.configuration()?, &ring.slots()?) }
}

/// The copies that a repair would write again.
fn bad<T>(copies: &Copies<T>) -> Vec<Repaired> {
    if copies.whole() == 0 || copies.differ() {
        return Vec::new();
    }
    let bad = copies.states().filter(|(_, found)| found.may_be_replaced());
    bad.map(|(name, found)| Repaired { name, was: found.clone() }).collect()
}
