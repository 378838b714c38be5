//! `restore --plan`: what a restore would read, and what of it has to be thawed first.

use std::collections::{BTreeMap, HashMap};

use std::ffi::OsString;

use serde::Serialize;
use yester::Result;
use yester::jobs::location::Location;
use yester::maintain::reads::{PlannedPack, PlannedReads};
use yester::model::PackId;
use yester::remote::s3::address::StoreAddress;
use yester::storage::Name;

use crate::cli::context::Context;
use crate::cli::restore::RestoreArgs;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, note};
use crate::cli::say::units;
use crate::cli::{cost, gone};

/// Classes that an object has to be fetched from before it can be read.
const COLD: [&str; 3] = ["GLACIER", "DEEP_ARCHIVE", "Archive"];

type Classes = Option<HashMap<PackId, String>>;

#[derive(Serialize)]
struct JsonPlannedReads {
    message_type: &'static str,
    packs: u64,
    requests: u64,
    bytes: u64,
    content_bytes: u64,
    cold_packs: u64,
    cold_bytes: u64,
    classes: Vec<JsonPackClass>,
}

#[derive(Serialize)]
struct JsonPackClass {
    storage_class: String,
    packs: u64,
    size: u64,
}

#[derive(Serialize)]
struct JsonColdPack {
    message_type: &'static str,
    key: String,
    storage_class: String,
    size: u64,
}

/// Says it, and restores nothing.
pub fn run(context: &Context, args: &RestoreArgs) -> Result<Outcome> {
    let repo = context.open()?;
    gone::warn(context, &repo)?;
    let (plan, chosen) = cost::planned(context, &repo, &args.specs, &args.filters)?;
    let classes = repo.storage().pack_classes()?;
    let class = |pack: &PlannedPack| classes.as_ref()?.get(&pack.id).cloned();
    let cold: Vec<(&PlannedPack, String)> = plan
        .packs
        .iter()
        .filter_map(|pack| Some((pack, class(pack)?)))
        .filter(|(_, class)| COLD.contains(&class.as_str()))
        .collect();
    let place = context.place()?;
    let address = match &place.location {
        Location::Store(address) => Some(address.in_account(&context.store_options()?.s3)?),
        _ => None,
    };
    let key = |pack: &PlannedPack| {
        let name = Name::Pack(pack.id);
        address.as_ref().map_or_else(|| name.to_string(), |address| address.object_key(&name))
    };
    let mut out = Output::new();
    if context.global.json {
        for (pack, class) in &cold {
            let (key, storage_class) = (key(pack), class.clone());
            out.json(&JsonColdPack { message_type: "cold_pack", key, storage_class, size: pack.size })?;
        }
        out.json(&summary(&plan, &classes, &cold))?;
    } else if context.global.quiet {
        // For the program that thaws them.
        cold.iter().try_for_each(|(pack, _)| out.line(&key(pack)))?;
    } else {
        text(&mut out, &plan, &classes)?;
    }
    out.finish()?;
    if let (false, Some(address)) = (cold.is_empty() || context.global.json || context.global.quiet, address) {
        thaw(&cold, &address, &chosen);
    }
    Ok(Outcome::Done)
}

/// The packs of each class, and their bytes; none where the store does not tell.
fn by_class(plan: &PlannedReads, classes: &Classes) -> BTreeMap<String, (u64, u64)> {
    let mut out = BTreeMap::new();
    for pack in &plan.packs {
        let Some(class) = classes.as_ref().and_then(|classes| classes.get(&pack.id)) else { continue };
        let (packs, size): &mut (u64, u64) = out.entry(class.clone()).or_default();
        (*packs, *size) = (*packs + 1, *size + pack.size);
    }
    out
}

fn summary(plan: &PlannedReads, classes: &Classes, cold: &[(&PlannedPack, String)]) -> JsonPlannedReads {
    let class = |(storage_class, (packs, size))| JsonPackClass { storage_class, packs, size };
    JsonPlannedReads {
        message_type: "read_plan",
        packs: plan.packs.len() as u64,
        requests: plan.requests(),
        bytes: plan.bytes(),
        content_bytes: plan.content,
        cold_packs: cold.len() as u64,
        cold_bytes: cold.iter().map(|(pack, _)| pack.size).sum(),
        classes: by_class(plan, classes).into_iter().map(class).collect(),
    }
}

fn text(out: &mut Output, plan: &PlannedReads, classes: &Classes) -> Result<()> {
    let packs = units::counted(plan.packs.len() as u64, "pack", "packs");
    let requests = units::counted(plan.requests(), "request", "requests");
    out.line(&format!(
        "would read {} of {packs}, with about {requests}, for {} of different content",
        units::size(plan.bytes()),
        units::size(plan.content)
    ))?;
    for (class, (packs, size)) in by_class(plan, classes) {
        let cold = if COLD.contains(&class.as_str()) { ": to be thawed first" } else { "" };
        out.line(&format!("  {class}: {}, {}{cold}", units::counted(packs, "pack", "packs"), units::size(size)))?;
    }
    Ok(())
}

/// The command that thaws them. `chosen`: the snapshots of this plan by their ids, which mean the same tomorrow.
fn thaw(cold: &[(&PlannedPack, String)], address: &StoreAddress, chosen: &[OsString]) {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let specs: Vec<String> = chosen.iter().map(|spec| quoted(&spec.to_string_lossy())).collect();
    let size = cold.iter().map(|(pack, _)| pack.size).sum();
    let packs = units::counted(cold.len() as u64, "pack", "packs");
    let (days, command) = match address.account() {
        Some(account) => (
            "",
            format!(
                "az storage blob set-tier --account-name {account} --container-name {} --tier Cool --rehydrate-priority \
                 Standard --name KEY",
                address.bucket_name()
            ),
        ),
        None => (
            ", for 7 days",
            format!(
                "aws s3api restore-object --endpoint-url {} --bucket {} --key KEY --restore-request \
                 'Days=7,GlacierJobParameters={{Tier=Standard}}'",
                address.endpoint_url(),
                address.bucket_name()
            ),
        ),
    };
    note(&format!("yester: {packs} of {} can be read only when thawed; this asks for it{days}:", units::size(size)));
    note(&format!("  yester -q -r {address} restore --plan {} | xargs -I KEY {command}", specs.join(" ")));
}
