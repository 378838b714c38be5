//! `key list`.

use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;
use yester::format::config::{Derivation, KeySlot};
use yester::keys::copies::{Copies, CopyState};
use yester::keys::keyring::KeyRing;
use yester::keys::slots::Slot;
use yester::model::{SlotId, escape};
use yester::{Error, ErrorKind, Result};

use super::{open, state};
use crate::cli::context::Context;
use crate::cli::say::exit::{self, Outcome};
use crate::cli::say::output::{Output, exact, lossy};
use crate::cli::say::units;

/// List the key slots and how their copies are
///
/// The slot that the given key opens is marked with a star. Every slot, and the configuration, is stored three times, and
/// any one copy is enough. Exit code 1 says that copies are damaged or missing.
#[derive(Debug, Args)]
pub struct ListArgs {}

#[derive(Serialize)]
struct JsonSlot {
    message_type: &'static str,
    id: String,
    short_id: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    write_only: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    former: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label_b64: Option<String>,
    current: bool,
    good_copies: usize,
    copies: Vec<JsonListedCopy>,
}

#[derive(Serialize)]
struct JsonConfiguration {
    message_type: &'static str,
    good_copies: usize,
    copies: Vec<JsonListedCopy>,
}

#[derive(Serialize)]
struct JsonListedCopy {
    name: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// Lists the slots.
pub fn run(context: &Context, _: &ListArgs) -> Result<Outcome> {
    let (_, ring, _) = open(context)?;
    let (configuration, slots) = (ring.configuration()?, ring.slots()?);
    let mut out = Output::new();
    if context.global.json {
        slots.iter().try_for_each(|slot| out.json(&json(slot, ring.opened())))?;
        let (good_copies, copies) = (configuration.whole(), json_copies(&configuration));
        out.json(&JsonConfiguration { message_type: "configuration", good_copies, copies })?;
    } else {
        out.line(&table(&slots, &ring).trim_fmt())?;
    }
    out.finish()?;
    report(context, &ring, &configuration, &slots)
}

/// Says what is wrong with copies; damage is an error.
pub fn report<T>(context: &Context, ring: &KeyRing, configuration: &Copies<T>, slots: &[Slot]) -> Result<Outcome> {
    let mut wrong = troubles(configuration, "the configuration", "yester key recover writes it anew");
    let ignored = ring.ignored()?.into_iter();
    wrong.extend(ignored.map(|(name, why)| format!("{name} counts for nothing: {why} (yester repair keys removes it)")));
    for slot in slots {
        let id = slot.id.short();
        let lost = match slot.made_up {
            true => "yester repair keys removes it".to_owned(),
            false => format!("yester key remove {id} removes it"),
        };
        wrong.extend(troubles(&slot.copies, &format!("key slot {id}"), &lost));
    }
    let Some((first, rest)) = wrong.split_first() else { return Ok(Outcome::Done) };
    for text in rest {
        exit::report(exit::FAILED, text, context.global.json);
    }
    Err(Error::new(ErrorKind::Corrupt, first))
}

fn table(slots: &[Slot], ring: &KeyRing) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["", "ID", "Kind", "Created", "Copies", "Label"]);
    for slot in slots {
        let value = slot.value();
        table.add_row([
            if slot.id == ring.opened() { "*" } else { "" }.to_owned(),
            slot.id.short(),
            [
                kind(value),
                if only_writes(value) { ", only writes" } else { "" },
                if slot.former { ", of a former key" } else { "" },
            ]
            .concat(),
            value.map(|value| units::local_time(value.created)).unwrap_or_default(),
            format!("{} of 3 good", slot.copies.whole()),
            value.map(|value| escape(&value.label)).unwrap_or_default(),
        ]);
    }
    table
}

fn kind(slot: Option<&KeySlot>) -> &'static str {
    match slot.map(|slot| slot.derivation) {
        Some(Derivation::Passphrase { .. }) => "passphrase",
        Some(Derivation::KeyFile) => "key file",
        None => "unreadable",
    }
}

fn only_writes(slot: Option<&KeySlot>) -> bool {
    slot.is_some_and(|slot| slot.wrapped.only_writes())
}

fn json(slot: &Slot, opened: SlotId) -> JsonSlot {
    let value = slot.value();
    JsonSlot {
        message_type: "key_slot",
        id: slot.id.to_string(),
        short_id: slot.id.short(),
        kind: kind(value),
        write_only: only_writes(value),
        former: slot.former,
        created: value.map(|value| units::utc_time(value.created)),
        label: value.map(|value| lossy(&value.label)),
        label_b64: value.and_then(|value| exact(&value.label)),
        current: slot.id == opened,
        good_copies: slot.copies.whole(),
        copies: json_copies(&slot.copies),
    }
}

fn json_copies<T>(copies: &Copies<T>) -> Vec<JsonListedCopy> {
    let one = |(name, found): (yester::storage::Name, &CopyState)| {
        let message = match found {
            CopyState::Damaged(why) | CopyState::MadeUp(why) | CopyState::Unknown(why) => Some(why.clone()),
            CopyState::Whole | CopyState::Missing => None,
        };
        JsonListedCopy { name: name.to_string(), state: state(found), message }
    };
    copies.states().map(one).collect()
}

/// What is wrong with the copies of `what`, each as a sentence with the next step; `lost` is that when none is good.
fn troubles<T>(copies: &Copies<T>, what: &str, lost: &str) -> Vec<String> {
    let next = match (copies.whole(), copies.differ()) {
        (0, _) => format!("no copy of it is good: {lost}"),
        (_, true) => "the good copies differ".to_owned(),
        _ => "yester repair keys writes it again".to_owned(),
    };
    let mut out: Vec<String> = copies
        .states()
        .filter_map(|(name, found)| match found {
            CopyState::Whole => None,
            // One that was never made, where none is good.
            CopyState::Missing if copies.whole() == 0 => None,
            CopyState::Missing => Some(format!("{name} is missing ({next})")),
            CopyState::Damaged(why) | CopyState::MadeUp(why) => Some(format!("{name} is damaged: {why} ({next})")),
            CopyState::Unknown(why) if copies.whole() == 0 => Some(format!("{name}: {why} (it is left alone; {lost})")),
            CopyState::Unknown(why) => Some(format!("{name}: {why} (it is left alone)")),
        })
        .collect();
    if copies.differ() {
        let text = "differ, and each is whole by itself: somebody put one there. If you do not know it";
        out.push(format!("the copies of {what} {text}: {lost}, and yester key add makes another"));
    }
    out
}
