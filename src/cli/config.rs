//! `config`: what the configuration file says, and whether it can be carried out.

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use serde::Serialize;
use yester::jobs::config::check::{self, Programs};
use yester::jobs::config::keys::Set;
use yester::jobs::config::{Configuration, Named};
use yester::jobs::schedule::Schedule;
use yester::model::Timestamp;
use yester::{Error, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::configured;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, note};
use crate::cli::say::paths;
use crate::cli::say::units;

/// Check and show the configuration file
#[derive(Debug, Args)]
#[command(arg_required_else_help = false)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say what is wrong with it, and which programs are missing
    Check,
    /// Print the repositories and sets, with all that holds for them
    Show,
}

/// Runs a command.
pub fn run(context: &Context, args: &ConfigArgs) -> Result<Outcome> {
    let configuration = configured::load(&context.global)?;
    match args.command {
        ConfigCommand::Check => checked(context, &configuration),
        ConfigCommand::Show => show(context, &configuration),
    }
}

#[derive(Serialize)]
struct Checked {
    message_type: &'static str,
    files: Vec<String>,
    repositories: usize,
    sets: usize,
}

fn checked(context: &Context, configuration: &Configuration) -> Result<Outcome> {
    let mut problems = check::all(configuration, Programs(&configured::directories()));
    if let Some(last) = problems.pop() {
        problems.iter().for_each(|problem| note(&format!("yester: {problem}")));
        return Err(Error::invalid(last.to_string()));
    }
    let schedules: Vec<_> = configuration.sets.iter().filter_map(|(name, set)| Some((name, next(&set.value)?))).collect();
    let files: Vec<String> = configuration.files().map(paths::shown).collect();
    let (repositories, sets) = (configuration.repositories.len(), configuration.sets.len());
    let mut out = Output::new();
    if context.global.json {
        for (name, slots) in schedules {
            let next_times = slots.into_iter().map(units::utc_time).collect();
            out.json(&JsonSchedule { message_type: "schedule", name, next_times })?;
        }
        out.json(&Checked { message_type: "configuration", files, repositories, sets })?;
    } else if !context.global.quiet {
        let counted =
            [units::counted(repositories as u64, "repository", "repositories"), units::counted(sets as u64, "set", "sets")];
        for (name, slots) in schedules {
            let times: Vec<String> = slots.into_iter().map(units::local_time).collect();
            out.line(&format!("set {name}: {}, …", times.join(", ")))?;
        }
        out.line(&format!("{}: {}: nothing is wrong", files.join(", "), counted.join(", ")))?;
    }
    out.finish()?;
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct JsonSchedule<'a> {
    message_type: &'static str,
    name: &'a str,
    next_times: Vec<String>,
}

/// The next three slots of a set.
fn next(set: &Set) -> Option<Vec<Timestamp>> {
    let (schedule, zone) = (Schedule::parse(set.schedule.as_deref()?).ok()?, TimeZone::system());
    let first = schedule.next(context::now().secs, &zone);
    let slots = std::iter::successors(first, |slot| schedule.next(*slot, &zone)).take(3);
    Some(slots.map(|secs| Timestamp { secs, nanos: 0 }).collect())
}

#[derive(Serialize)]
struct JsonConfig {
    message_type: &'static str,
    name: String,
    file: String,
    line: usize,
    text: String,
}

fn show(context: &Context, configuration: &Configuration) -> Result<Outcome> {
    let mut out = Output::new();
    for (name, named) in &configuration.repositories {
        let shown = shown(configuration, "repository", name, named)?;
        print(context, &mut out, "repositories", &shown)?;
    }
    for (name, named) in &configuration.sets {
        let shown = shown(configuration, "set", name, named)?;
        print(context, &mut out, "sets", &shown)?;
    }
    out.finish()?;
    Ok(Outcome::Done)
}

fn shown<T: Serialize>(all: &Configuration, message_type: &'static str, name: &str, named: &Named<T>) -> Result<JsonConfig> {
    let place = all.problem(named, &[], "");
    let text = toml::to_string_pretty(&named.value).map_err(|e| Error::invalid(e.to_string()))?;
    Ok(JsonConfig { message_type, name: name.to_owned(), file: paths::shown(&place.file), line: place.line, text })
}

fn print(context: &Context, out: &mut Output, section: &str, shown: &JsonConfig) -> Result<()> {
    if context.global.json {
        return out.json(shown);
    }
    let JsonConfig { name, file, line, text, .. } = shown;
    // Tables of the text belong below the name.
    let text: Vec<String> = text
        .lines()
        .map(|line| match (line.strip_prefix("[["), line.strip_prefix('[')) {
            (Some(rest), _) if line.ends_with("]]") => format!("[[{section}.{name}.{rest}"),
            (None, Some(rest)) if line.ends_with(']') => format!("[{section}.{name}.{rest}"),
            _ => line.to_owned(),
        })
        .collect();
    out.line(&format!("# {file}:{line}\n[{section}.{name}]\n{}\n", text.join("\n")))
}
