//! `restore --staged`, `--rollback` and `--discard-old`: beside what is there, exchanged, and back.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use yester::jobs::config::keys::Set;
use yester::jobs::guards::{self, ServiceGuard};
use yester::observe::Observer;
use yester::repo::tree::TreeReader;
use yester::restore::staged::{Staged, StagedPhase, all};
use yester::restore::{RestoreOptions, RestoreReport, RestoreRequest};
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::Context;
use crate::cli::restore::RestoreArgs;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::Output;
use crate::cli::say::paths;
use crate::cli::say::progress::Display;

/// How a staged restore is asked for.
#[derive(Debug, Args)]
pub struct StagedArgs {
    /// Restore beside what is there, and exchange the two at once
    ///
    /// All of it is read back before. What was there is kept.
    #[arg(long, conflicts_with_all = ["include", "exclude", "delete", "overwrite", "in_place"])]
    pub staged: bool,
    /// Take a staged restore of the target (or the set) back
    #[arg(long, conflicts_with_all = ["staged", "specs"])]
    rollback: bool,
    /// Remove what a staged restore of the target (or the set) keeps
    #[arg(long, conflicts_with_all = ["staged", "specs", "rollback"])]
    discard_old: bool,
}

impl StagedArgs {
    /// Whether something is done to a staged restore of before.
    pub fn is_later(&self) -> bool {
        self.rollback || self.discard_old
    }
}

/// A staged restore without commands.
pub fn at_once(
    reader: &Arc<TreeReader>,
    request: &RestoreRequest,
    options: &RestoreOptions,
    task: &Task<'_>,
) -> Result<RestoreReport> {
    let (report, staged) = all::restore(reader, request, options, b"", task)?;
    if let Some(mut staged) = staged {
        staged.keep()?;
    }
    Ok(report)
}

/// Before any other restore: finishes what a staged one has begun at its places.
pub fn settle(request: &RestoreRequest, options: &RestoreOptions, observer: &dyn Observer) -> Result<()> {
    let root = request.target == std::path::Path::new("/");
    let below = |names: &Vec<Vec<u8>>| {
        let names = names.iter().flat_map(|name| [b"/", name.as_slice()].concat()).collect();
        paths::from_bytes(names)
    };
    let places: Vec<PathBuf> = match root {
        true => request.sources.iter().map(|(_, names)| below(names)).filter(|path| path.parent().is_some()).collect(),
        false => vec![request.target.clone()],
    };
    if options.dry_run {
        return Ok(());
    }
    for mut staged in Staged::find(&places)? {
        staged.settle(observer)?;
    }
    Ok(())
}

/// The places of a set.
fn places_of(set: &Set) -> Vec<PathBuf> {
    set.paths.iter().cloned().chain(set.streams.iter().map(|stream| PathBuf::from(&stream.at))).collect()
}

#[derive(Serialize)]
struct Later {
    message_type: &'static str,
    action: &'static str,
    dry_run: bool,
    places: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kept: Vec<String>,
}

/// `--rollback` and `--discard-old`. They need no repository.
pub fn later(context: &Context, args: &RestoreArgs) -> Result<Outcome> {
    let set = match args.set() {
        Some(name) => context.set_to_restore(name)?.cloned(),
        None => None,
    };
    let places = match (&args.target, &set) {
        (Some(target), _) => vec![paths::absolute(target)?],
        (None, Some(set)) => places_of(set),
        (None, None) => {
            return Err(Error::invalid("the set is not in the configuration here: name one of its directories with --target"));
        }
    };
    let of_set = set.iter().flat_map(|set| &set.restore.refuse_while);
    let refuse = of_set.map(|guard| guard.parse::<ServiceGuard>().map_err(Error::invalid));
    let refuse = refuse.chain(args.refuse_while.iter().cloned().map(Ok)).collect::<Result<Vec<_>>>()?;
    guards::ask(&refuse, &args.even_while_alive)?;
    let display = Display::new(&context.global);
    let mut found = Staged::find(&places)?;
    if !args.dry_run {
        let mut left = Vec::new();
        for mut staged in found {
            if staged.settle(&display)? {
                left.push(staged);
            }
        }
        found = left;
    }
    display.finish();
    if found.is_empty() {
        let shown: Vec<String> = places.iter().map(|place| paths::shown(place)).collect();
        return Err(Error::new(ErrorKind::NotFound, format!("there is nothing of a staged restore beside {}", shown.join(", "))));
    }
    found.into_iter().try_for_each(|staged| act(context, args, staged))?;
    Ok(Outcome::Done)
}

fn act(context: &Context, args: &RestoreArgs, mut staged: Staged) -> Result<()> {
    let places: Vec<String> = staged.paths().iter().map(|place| paths::shown(place)).collect();
    let action = match args.staged.rollback {
        true if staged.phase() == StagedPhase::TakenBack => "none",
        true => "rollback",
        false if staged.phase() == StagedPhase::Exchanged && staged.has_commands() => {
            let text = "the restore was cut off before its commands were done: restore once more to finish it, or --rollback";
            return Err(Error::new(ErrorKind::Exists, text));
        }
        false => "discard",
    };
    let mut kept: Vec<String> = staged.kept().iter().map(|path| paths::shown(path)).collect();
    match action {
        _ if args.dry_run => {}
        "rollback" => {
            staged.roll_back()?;
            kept = staged.kept().iter().map(|path| paths::shown(path)).collect();
        }
        "discard" => staged.discard()?,
        _ => {}
    }
    let mut out = Output::new();
    let would = if args.dry_run { "would be " } else { "" };
    let line = match action {
        "none" => format!("it was taken back already: {}", places.join(", ")),
        "rollback" => format!("{would}taken back: {}; what was restored is kept in {}", places.join(", "), kept.join(", ")),
        _ => format!("{would}removed: {}", if kept.is_empty() { "nothing but the journal".to_owned() } else { kept.join(", ") }),
    };
    match context.global.json {
        true => out.json(&Later { message_type: "staged", action, dry_run: args.dry_run, places, kept })?,
        false if context.global.quiet => {}
        false => out.line(&line)?,
    }
    out.finish()
}
