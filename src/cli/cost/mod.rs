//! `cost`: what the repository costs in an object store: a month, the last runs, a restore.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use yester::maintain::reads::{PlannedReads, plan_reads};
use yester::maintain::stats;
use yester::model::{Requests, Run, Timestamp};
use yester::repo::{Repository, runs};
use yester::task::Task;
use yester::{Error, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::select::{Chooser, Filters, Spec};
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, note};
use crate::cli::say::progress::Display;
use crate::cli::say::{paths, units};
use crate::cli::{gone, signals};

mod prices;

use prices::{PriceTable, StorePrices, StoredBytes};

/// Say what the repository costs in an object store
///
/// Of each store of a table of prices, or of one: a month of keeping what is there, the requests of the last runs, and a
/// restore of SNAP[:PATH]. The prices have a date, which is said. Nothing but trees and the index is read.
#[derive(Debug, Args)]
pub struct CostArgs {
    /// Price a restore of these, to an empty place
    #[arg(value_name = "SNAP[:PATH]")]
    restore: Vec<OsString>,
    /// Only this store of the table, as in aws-standard
    #[arg(long, value_name = "NAME")]
    store: Option<String>,
    /// Prices of your own: a file of the form of docs/object-stores.md
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// Count the runs of so many days
    #[arg(long, value_name = "N", default_value_t = 30)]
    days: u32,
    #[command(flatten)]
    filters: Filters,
}

/// What is priced.
struct CostBasis {
    stored: StoredBytes,
    objects: u64,
    days: u32,
    /// Runs whose requests are known.
    runs: u64,
    asked: Requests,
    plan: Option<PlannedReads>,
}

/// Says it.
pub fn run(context: &Context, args: &CostArgs) -> Result<Outcome> {
    let table = PriceTable::read(args.prices.as_deref().map(paths::absolute).transpose()?.as_deref())?;
    let stores = chosen(&table, args.store.as_deref())?;
    let repo = context.open()?;
    gone::warn(context, &repo)?;
    let basis = basis(context, &repo, args)?;
    let mut out = Output::new();
    match context.global.json {
        true => json(&mut out, &table, &stores, &basis)?,
        false => text(&mut out, &table, &stores, &basis)?,
    }
    out.finish()?;
    if basis.runs == 0 && !context.global.quiet && !context.global.json {
        let days = units::counted(basis.days.into(), "day", "days");
        note(&format!("yester: note: no run of the last {days} says what it asked: runs in an object store do (yester runs)"));
    }
    Ok(Outcome::Done)
}

fn chosen<'a>(table: &'a PriceTable, name: Option<&str>) -> Result<Vec<&'a StorePrices>> {
    let stores: Vec<_> = table.stores.iter().filter(|store| name.is_none_or(|name| store.name == name)).collect();
    match (stores.is_empty(), name) {
        (true, Some(name)) => {
            let names: Vec<&str> = table.stores.iter().map(|store| store.name.as_str()).collect();
            Err(Error::invalid(format!("there is no store {name:?} in the table of prices: it has {}", names.join(", "))))
        }
        _ => Ok(stores),
    }
}

fn basis(context: &Context, repo: &Arc<Repository>, args: &CostArgs) -> Result<CostBasis> {
    let counted = stats::stored_objects(repo)?;
    let data = counted.data_packs.bytes;
    let all = [counted.data_packs, counted.tree_packs, counted.unused_packs, counted.index, counted.other_objects];
    let stored = StoredBytes { data, rest: counted.repository().saturating_sub(data) };
    let (list, _) = runs::list(repo)?;
    let (runs, asked) = asked_since(list.iter().map(|(_, run)| run), context::now(), args.days);
    let plan = match args.restore.is_empty() {
        true => None,
        false => Some(planned(context, repo, &args.restore, &args.filters)?.0),
    };
    Ok(CostBasis { stored, objects: all.iter().map(|objects| objects.count).sum(), days: args.days, runs, asked, plan })
}

/// The runs of so many days that say what they asked, and that in all.
fn asked_since<'a>(runs: impl Iterator<Item = &'a Run>, now: Timestamp, days: u32) -> (u64, Requests) {
    let since = now.secs.saturating_sub(i64::from(days) * 86_400);
    let asked = runs.filter(|run| run.finished.secs >= since).filter_map(|run| run.requests);
    asked.fold((0, Requests::default()), |(count, sum), asked| (count + 1, sum.plus(asked)))
}

/// What a restore of these would read; and what was chosen, as `ID:PATH`.
pub fn planned(
    context: &Context,
    repo: &Arc<Repository>,
    specs: &[OsString],
    filters: &Filters,
) -> Result<(PlannedReads, Vec<OsString>)> {
    let chooser = Chooser::new(context, repo, filters)?;
    let trees = context::trees(repo)?;
    let specs = specs.iter().map(|spec| Spec::parse(spec)).collect::<Result<Vec<_>>>()?;
    let (mut wanted, mut chosen) = (Vec::new(), Vec::new());
    for spec in &specs {
        let names: Vec<Vec<u8>> = spec.names().into_iter().map(<[u8]>::to_vec).collect();
        let snapshot = chooser.with_path(&trees, spec)?;
        let path = if names.is_empty() { Vec::new() } else { [b":/", names.join(&b'/').as_slice()].concat() };
        chosen.push(OsString::from_vec([snapshot.id.to_string().as_bytes(), &path].concat()));
        wanted.push((snapshot, names));
    }
    let display = Display::new(&context.global);
    let plan = plan_reads(repo, &wanted, &Task::new(&display).stopped_by(&signals::stop_flag()?));
    display.finish();
    plan.map(|plan| (plan, chosen))
}

fn money(amount: f64) -> String {
    match amount {
        amount if amount > 0.0 && amount < 0.01 => format!("{amount:.4}"),
        amount => format!("{amount:.2}"),
    }
}

fn text(out: &mut Output, table: &PriceTable, stores: &[&StorePrices], basis: &CostBasis) -> Result<()> {
    let CostBasis { stored, objects, days, runs, asked, plan } = basis;
    let whole = stored.data.saturating_add(stored.rest);
    let objects = units::counted(*objects, "object", "objects");
    out.line(&format!("stored: {} in {objects}, {} of it content of files", units::size(whole), units::size(stored.data)))?;
    if *runs > 0 {
        let runs = units::counted(*runs, "run", "runs");
        let days = units::counted((*days).into(), "day", "days");
        out.line(&format!("{runs} of the last {days}: {}", crate::cli::say::requests::text(asked)))?;
    }
    if let Some(plan) = plan {
        let packs = units::counted(plan.packs.len() as u64, "pack", "packs");
        let requests = units::counted(plan.requests(), "GET", "GET");
        out.line(&format!("the restore: about {requests}, {} of {packs}", units::size(plan.bytes())))?;
    }
    out.line(&format!("prices of {}, in {} (see: yester cost --help)", table.date, table.currency))?;
    let mut rows = Table::new();
    let header = [Some("Store"), Some("A month"), (*runs > 0).then_some("Runs"), plan.as_ref().map(|_| "Restore")];
    rows.load_preset(presets::NOTHING).set_header(header.into_iter().flatten().chain([""]));
    for store in stores {
        let title = match store.least_days {
            0 => store.title.clone(),
            days => format!("{}; at least {days} days of each object", store.title),
        };
        let cells = [
            Some(store.name.clone()),
            Some(money(table.month(store, *stored))),
            (*runs > 0).then(|| money(table.requests(store, asked))),
            plan.as_ref().map(|plan| money(table.restore(store, plan))),
            Some(title),
        ];
        rows.add_row(cells.into_iter().flatten());
    }
    for at in 1..=3 {
        let numbers = 1 + usize::from(*runs > 0) + usize::from(plan.is_some());
        if let Some(column) = rows.column_mut(at).filter(|_| at <= numbers) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    out.line(&rows.trim_fmt())
}

#[derive(Serialize)]
struct JsonCost<'a> {
    message_type: &'static str,
    store: &'a str,
    title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_class: Option<&'a str>,
    prices_date: &'a str,
    currency: &'a str,
    month: f64,
    runs: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    restore: Option<f64>,
}

#[derive(Serialize)]
struct JsonCostBasis {
    message_type: &'static str,
    data_bytes: u64,
    other_bytes: u64,
    objects: u64,
    days: u32,
    runs_counted: u64,
    #[serde(flatten)]
    requests: crate::cli::say::requests::JsonRequests,
    #[serde(skip_serializing_if = "Option::is_none")]
    restore_packs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restore_requests: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restore_bytes: Option<u64>,
}

fn json(out: &mut Output, table: &PriceTable, stores: &[&StorePrices], basis: &CostBasis) -> Result<()> {
    let plan = basis.plan.as_ref();
    out.json(&JsonCostBasis {
        message_type: "cost_basis",
        data_bytes: basis.stored.data,
        other_bytes: basis.stored.rest,
        objects: basis.objects,
        days: basis.days,
        runs_counted: basis.runs,
        requests: crate::cli::say::requests::JsonRequests::new(&basis.asked),
        restore_packs: plan.map(|plan| plan.packs.len() as u64),
        restore_requests: plan.map(PlannedReads::requests),
        restore_bytes: plan.map(PlannedReads::bytes),
    })?;
    for store in stores {
        out.json(&JsonCost {
            message_type: "cost",
            store: &store.name,
            title: &store.title,
            storage_class: store.class.as_deref(),
            prices_date: &table.date,
            currency: &table.currency,
            month: table.month(store, basis.stored),
            runs: table.requests(store, &basis.asked),
            restore: plan.map(|plan| table.restore(store, plan)),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_count_that_are_new_enough_and_say_what_they_asked() {
        let run = |secs, put| Run {
            finished: Timestamp { secs, nanos: 0 },
            requests: (put > 0).then(|| Requests { put, get: 1, ..Requests::default() }),
            ..Run::default()
        };
        let all = [run(0, 1), run(100 * 86_400, 2), run(101 * 86_400, 4), run(101 * 86_400, 0)];
        let (count, asked) = asked_since(all.iter(), Timestamp { secs: 102 * 86_400, nanos: 0 }, 2);
        assert_eq!((count, asked.put, asked.get), (2, 6, 2));
    }
}
