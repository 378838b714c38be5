//! `stats`: how much snapshots hold, and how much they take.

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use yester::Result;
use yester::maintain::stats::{ChunkTotals, Objects, Stats, stats};
use yester::task::Task;

use crate::cli::context::Context;
use crate::cli::given::select::{self, Filters};
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::Output;
use crate::cli::say::progress::Display;
use crate::cli::say::units;
use crate::cli::signals;

/// Count what snapshots hold and what they take
///
/// Of all snapshots, those that are named, or those that pass the filters: the bytes to restore, the different chunks, and
/// what these take. And of the whole repository: its objects.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Which snapshots; without one, all
    #[arg(value_name = "SNAP")]
    snapshots: Vec<String>,
    #[command(flatten)]
    filters: Filters,
}

/// Counts.
pub fn run(context: &Context, args: &StatsArgs) -> Result<Outcome> {
    let repo = context.open()?;
    let chosen = select::chosen(context, &repo, &args.snapshots, &args.filters)?;
    let display = Display::new(&context.global);
    let counted = stats(&repo, &chosen, &Task::new(&display).stopped_by(&signals::stop_flag()?));
    display.finish();
    let counted = counted?;
    let mut out = Output::new();
    if context.global.json {
        out.json(&json(&counted))?;
    } else {
        out.line(&table(&counted).trim_fmt())?;
    }
    out.finish()?;
    Ok(Outcome::Done)
}

fn table(counted: &Stats) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let times = |what: &str, ratio: Option<f64>| ratio.map(|ratio| format!("{what} {ratio:.2} to 1"));
    let chunks = |chunks: &ChunkTotals, many| format!("{} {many}", units::count(chunks.count));
    let objects = |objects: &Objects, one, many| units::counted(objects.count, one, many);
    let snapshots = units::counted(counted.snapshots, "snapshot", "snapshots");
    let files = units::counted(counted.files, "file", "files");
    let by_chunks = [Some(chunks(&counted.data, "different chunks")), times("deduplication", counted.deduplication())];
    let by_chunks = by_chunks.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let all = [
        ("to restore", counted.bytes, format!("{files} in {snapshots}")),
        ("different data", counted.data.plain, by_chunks),
        ("stored data", counted.data.stored, times("compression", counted.compression()).unwrap_or_default()),
        ("trees", counted.trees.plain, chunks(&counted.trees, "different pages")),
        ("stored trees", counted.trees.stored, String::new()),
        ("packs of data", counted.data_packs.bytes, objects(&counted.data_packs, "pack", "packs")),
        ("packs of trees", counted.tree_packs.bytes, objects(&counted.tree_packs, "pack", "packs")),
        ("unused packs", counted.unused_packs.bytes, objects(&counted.unused_packs, "pack", "packs")),
        ("index", counted.index.bytes, objects(&counted.index, "segment", "segments")),
        ("other objects", counted.other_objects.bytes, objects(&counted.other_objects, "object", "objects")),
        ("whole repository", counted.repository(), String::new()),
    ];
    for (what, bytes, more) in all {
        table.add_row([what.to_owned(), units::size(bytes), more]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Names are restic's where it has the same thing.
#[derive(Serialize)]
struct JsonStats {
    message_type: &'static str,
    snapshots_count: u64,
    total_size: u64,
    total_file_count: u64,
    total_directories: u64,
    total_others: u64,
    deduplication_ratio: Option<f64>,
    compression_ratio: Option<f64>,
    data: JsonChunks,
    trees: JsonChunks,
    data_packs: JsonObjectTotals,
    tree_packs: JsonObjectTotals,
    unused_packs: JsonObjectTotals,
    index_segments: JsonObjectTotals,
    other_objects: JsonObjectTotals,
    repository_size: u64,
}

#[derive(Serialize)]
struct JsonChunks {
    chunks: u64,
    uncompressed_size: u64,
    stored_size: u64,
}

#[derive(Serialize)]
struct JsonObjectTotals {
    count: u64,
    size: u64,
}

fn json(counted: &Stats) -> JsonStats {
    let chunks = |c: ChunkTotals| JsonChunks { chunks: c.count, uncompressed_size: c.plain, stored_size: c.stored };
    let objects = |o: Objects| JsonObjectTotals { count: o.count, size: o.bytes };
    JsonStats {
        message_type: "stats",
        snapshots_count: counted.snapshots,
        total_size: counted.bytes,
        total_file_count: counted.files,
        total_directories: counted.directories,
        total_others: counted.others,
        deduplication_ratio: counted.deduplication(),
        compression_ratio: counted.compression(),
        data: chunks(counted.data),
        trees: chunks(counted.trees),
        data_packs: objects(counted.data_packs),
        tree_packs: objects(counted.tree_packs),
        unused_packs: objects(counted.unused_packs),
        index_segments: objects(counted.index),
        other_objects: objects(counted.other_objects),
        repository_size: counted.repository(),
    }
}
