//! `repair`: what can be made anew from what is there.

use clap::{Args, Subcommand};
use serde::Serialize;
use yester::maintain::repair::{self, RepairOptions};
use yester::storage::Name;
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::Context;
use crate::cli::say::exit::{self, Outcome};
use crate::cli::say::output::Output;
use crate::cli::say::progress::Display;
use crate::cli::say::units;

/// Make anew what can be made from the rest of the repository
///
/// Nothing is deleted but what is damaged and written again.
#[derive(Debug, Args)]
pub struct RepairArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make the index anew from the packs: those that no sound part of it names
    Index {
        /// Only say what would be done
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
    /// Remove small objects that are not authentic, and write damaged marks and fences anew
    Objects {
        /// Only say what would be done
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
    /// Write copies of the configuration and of key slots again that are damaged or missing, and remove those that are
    /// not authentic
    Keys {
        /// Only say what would be done
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
}

#[derive(Serialize)]
struct JsonIndex {
    message_type: &'static str,
    dry_run: bool,
    damaged_segments: Vec<String>,
    packs_indexed: u64,
    chunks_indexed: u64,
    packs_lost: Vec<String>,
    packs_damaged: Vec<String>,
    segments_written: u64,
}

/// Repairs.
pub fn run(context: &Context, args: &RepairArgs) -> Result<Outcome> {
    match args.what {
        What::Index { dry_run } => index(context, dry_run),
        What::Objects { dry_run } => objects(context, dry_run),
        What::Keys { dry_run } => crate::cli::key::repair(context, dry_run),
    }
}

/// How it ended, when packs are indexed that are damaged in part.
fn hurt(done: &repair::IndexRepair) -> Outcome {
    let Some((first, frames)) = done.hurt.first() else { return Outcome::Done };
    let packs = units::counted(done.hurt.len() as u64, "pack that was indexed is", "packs that were indexed are");
    let frames = match frames {
        0 => "only around its frames".to_owned(),
        n => units::counted(*n, "frame", "frames"),
    };
    Outcome::Partial(format!(
        "{packs} damaged, the first is {} ({frames}): yester check says which files that hits, an ingest of them stores \
         them again",
        Name::Pack(*first)
    ))
}

fn index(context: &Context, dry_run: bool) -> Result<Outcome> {
    let repo = context.open_for(!dry_run)?;
    let progress = Display::new(&context.global);
    let done = repair::index(&repo, &RepairOptions { dry_run }, &Task::new(&progress));
    progress.finish();
    let done = done?;
    let mut out = Output::new();
    if context.global.json {
        out.json(&JsonIndex {
            message_type: "repair_index",
            dry_run,
            damaged_segments: done.damaged.iter().map(|(id, _)| id.to_string()).collect(),
            packs_indexed: done.packs,
            chunks_indexed: done.chunks,
            packs_lost: done.lost.iter().map(|(id, _)| id.to_string()).collect(),
            packs_damaged: done.hurt.iter().map(|(id, _)| id.to_string()).collect(),
            segments_written: if dry_run { 0 } else { done.segments },
        })?;
    } else if !context.global.quiet {
        for (_, e) in &done.damaged {
            out.line(&format!("damaged: {e}"))?;
        }
        let would = if dry_run { "would be " } else { "" };
        let packs = units::counted(done.packs, "pack", "packs");
        let chunks = units::counted(done.chunks, "chunk", "chunks");
        out.line(&match (done.packs, done.damaged.len()) {
            (0, 0) => "the index names every pack already".to_owned(),
            (_, 0) => format!("{packs} with {chunks} {would}indexed"),
            (_, n) => {
                let segments = units::counted(n as u64, "damaged segment", "damaged segments");
                format!("{packs} with {chunks} {would}indexed, {segments} {would}replaced")
            }
        })?;
    }
    out.finish()?;
    let Some((first, rest)) = done.lost.split_first() else { return Ok(hurt(&done)) };
    for (_, e) in rest {
        exit::report(exit::FAILED, &e.to_string(), context.global.json);
    }
    Err(Error::new(ErrorKind::Corrupt, format!("{} (yester check says which files that hits)", first.1)))
}

#[derive(Serialize)]
struct JsonRemovedObjects {
    message_type: &'static str,
    dry_run: bool,
    removed: Vec<String>,
    renewed: Vec<String>,
    left: Vec<String>,
}

fn objects(context: &Context, dry_run: bool) -> Result<Outcome> {
    let repo = context.open_for(!dry_run)?;
    let done = repair::objects(&repo, &RepairOptions { dry_run }, &Task::default())?;
    let mut out = Output::new();
    let names = |list: &[(Name, Error)]| list.iter().map(|(name, _)| name.to_string()).collect();
    if context.global.json {
        let (removed, renewed, left) = (names(&done.removed), names(&done.renewed), names(&done.left));
        out.json(&JsonRemovedObjects { message_type: "repair_objects", dry_run, removed, renewed, left })?;
    } else if !context.global.quiet {
        let (removed, renewed) = if dry_run { ("would remove", "would write anew") } else { ("removed", "wrote anew") };
        for (what, list) in [(removed, &done.removed), (renewed, &done.renewed)] {
            list.iter().try_for_each(|(name, e)| out.line(&format!("{what} {name}: {e}")))?;
        }
        if done.removed.is_empty() && done.renewed.is_empty() {
            out.line("every small object is authentic, or cannot be mended")?;
        }
    }
    out.finish()?;
    let Some((first, rest)) = done.left.split_first() else { return Ok(Outcome::Done) };
    for (name, e) in rest {
        exit::report(exit::FAILED, &format!("{name}: {e}"), context.global.json);
    }
    Err(Error::corrupt(format!("{} stays: {}", first.0, first.1)))
}
