//! `overdue`: for monitoring. It asks the repositories and no scheduler, so it tells also of one that died.

use clap::Args;
use yester::model::escape;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::Context;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, note};
use crate::cli::say::units;
use crate::cli::sets::{self, SetStanding};

/// Say which sets have no good snapshot that is new enough: exit code 1 if there is one
///
/// A set says how old its last good snapshot may be (overdue-after); else it is overdue when two slots of its schedule have
/// come since. Snapshots are looked for in the repository, so it also finds sets
/// whose agent does not run.
#[derive(Debug, Args)]
pub struct OverdueArgs {
    /// Only of these
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Also the sets of all other hosts, as their newest snapshots have them
    #[arg(long)]
    all: bool,
}

/// Runs the command.
pub fn run(context: &Context, args: &OverdueArgs) -> Result<Outcome> {
    let (sets, mut wrong) = sets::all(context, &args.names, args.all)?;
    let expected = |set: &&SetStanding| set.set.schedule.is_some() || set.set.overdue_after.is_some();
    let expected: Vec<&SetStanding> = sets.iter().filter(expected).collect();
    if expected.is_empty() && wrong.is_empty() {
        return Err(Error::invalid("no set has a schedule, or says overdue-after: nothing can be overdue"));
    }
    let overdue: Vec<&&SetStanding> = expected.iter().filter(|set| set.overdue.is_some()).collect();
    let mut out = Output::new();
    for set in &overdue {
        match context.global.json {
            true => out.json(&sets::json("overdue", set))?,
            false => out.line(&line(set))?,
        }
    }
    if overdue.is_empty() && wrong.is_empty() && !context.global.json && !context.global.quiet {
        out.line(&format!("nothing is overdue of {}", units::counted(expected.len() as u64, "set", "sets")))?;
    }
    out.finish()?;
    if overdue.is_empty() {
        let first = if wrong.is_empty() { None } else { Some(wrong.remove(0)) };
        wrong.iter().for_each(|e| note(&format!("yester: {e}")));
        return first.map_or(Ok(Outcome::Done), Err);
    }
    wrong.iter().for_each(|e| note(&format!("yester: {e}")));
    let names: Vec<String> = overdue.iter().map(|set| set.name.clone()).collect();
    let text = units::counted(overdue.len() as u64, "set is overdue", "sets are overdue");
    Err(Error::new(ErrorKind::NotFound, format!("{text}: {}", names.join(", "))))
}

fn line(set: &SetStanding) -> String {
    let good = set.standing.as_ref().and_then(|standing| standing.good);
    let good = good.map_or_else(|| "it never was good".to_owned(), |time| format!("last good {}", units::local_time(time)));
    let why = match &set.standing {
        Some(standing) if !matches!(standing.state, "" | "complete") => {
            format!("; the last run was {}: {}", standing.state, escape(&standing.message))
        }
        _ => String::new(),
    };
    format!("{} of {} is overdue: {good}{why}", set.name, escape(&set.host))
}
