//! What can be typed: the options of all commands, and the list of commands.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use yester::{Error, Result};

use crate::cli::given::remote::RemoteArgs;
use crate::cli::manual::{completions, man};
use crate::cli::mount::umount;
use crate::cli::say::units;
use crate::cli::sets::overdue;
use crate::cli::{
    agent, annotate, cat, check, config, copy, cost, diff, doctor, du, export, find, forget, group, history, import, ingest,
    init, job, key, ls, mount, mounts, parity, prune, repair, restore, rewrite, runs, serve, sets, snapshots, stats, unlock,
};

/// A backup program: every snapshot can be looked into as a directory.
#[derive(Debug, Parser)]
#[command(name = "yester", version, propagate_version = false, disable_help_subcommand = true, arg_required_else_help = false)]
#[command(after_help = "Exit codes: 0 done, 1 failed or damage found, 2 usage, 3 done but not all of it, 10 no repository, \
                        11 busy, 12 wrong key or none, 13 something alive, 14 repository went back, 130 interrupted.")]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command. The environment is read by hand and not by clap: an option must beat all variables, and
/// no help text may show their values.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Where the repository is [env: YESTER_REPO] [default: the user's own, made by the first ingest]
    #[arg(short, long, value_name = "REPO", global = true)]
    pub repo: Option<OsString>,
    /// The configuration file [env: YESTER_CONFIG] [default: yester/config.toml in ~/.config, else in /etc]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Read the passphrase from this file [env: YESTER_PASSWORD_FILE, or the passphrase itself in YESTER_PASSWORD]
    #[arg(long, value_name = "FILE", global = true, conflicts_with_all = ["password_command", "key_file"])]
    pub password_file: Option<PathBuf>,
    /// Read the passphrase from the output of this shell command [env: YESTER_PASSWORD_COMMAND]
    #[arg(long, value_name = "COMMAND", global = true, conflicts_with = "key_file")]
    pub password_command: Option<OsString>,
    /// Unlock with this key file [env: YESTER_KEY_FILE]
    #[arg(long, value_name = "FILE", global = true)]
    pub key_file: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice: much more
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Print JSON lines, each with a message_type
    #[arg(long, global = true)]
    pub json: bool,
    /// At the end say what was asked of the object store
    #[arg(long, global = true)]
    pub stats: bool,
    /// Where the cache is
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "no_cache")]
    pub cache_dir: Option<PathBuf>,
    /// How much data that was read stays in the cache [default: 1G; 0 of a repository in a directory]
    #[arg(long, value_name = "SIZE", global = true, conflicts_with = "no_cache", value_parser = units::parse_size)]
    pub cache_size: Option<u64>,
    /// Use no cache
    #[arg(long, global = true)]
    pub no_cache: bool,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// The commands. What help says of them stands at their options: a text here would take the place of both its parts, the
/// short and the long.
#[derive(Debug, Subcommand)]
pub enum Command {
    Init(init::InitArgs),
    #[command(visible_aliases = ["backup", "create", "save"])]
    Ingest(Box<ingest::IngestArgs>),
    #[command(visible_aliases = ["list", "list-snapshots"])]
    Snapshots(snapshots::SnapshotsArgs),
    Copy(Box<copy::CopyArgs>),
    Import(Box<import::ImportArgs>),
    Ls(ls::LsArgs),
    #[command(visible_alias = "dump")]
    Cat(cat::CatArgs),
    Find(Box<find::FindArgs>),
    History(history::HistoryArgs),
    #[command(visible_alias = "compare")]
    Diff(diff::DiffArgs),
    Export(export::ExportArgs),
    Mount(mount::MountArgs),
    Mounts(mounts::MountsArgs),
    #[command(visible_alias = "unmount")]
    Umount(umount::UmountArgs),
    #[command(visible_alias = "extract")]
    Restore(Box<restore::RestoreArgs>),
    #[command(visible_alias = "verify")]
    Check(check::CheckArgs),
    Doctor(Box<doctor::DoctorArgs>),
    Parity(parity::ParityArgs),
    Stats(stats::StatsArgs),
    Du(du::DuArgs),
    Cost(cost::CostArgs),
    Tag(annotate::TagArgs),
    Note(annotate::NoteArgs),
    Pin(annotate::PinArgs),
    Rewrite(Box<rewrite::SnapshotRewriteArgs>),
    Sets(sets::SetsArgs),
    Overdue(overdue::OverdueArgs),
    Agent(agent::AgentArgs),
    Job(job::JobArgs),
    Runs(runs::RunsArgs),
    Group(Box<group::GroupArgs>),
    Config(config::ConfigArgs),
    Repair(repair::RepairArgs),
    Forget(Box<forget::ForgetArgs>),
    #[command(visible_aliases = ["gc", "compact"])]
    Prune(prune::PruneArgs),
    Key(key::KeyArgs),
    Serve(Box<serve::ServeArgs>),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
    #[command(hide = true, alias = "break-lock")]
    Unlock(unlock::UnlockArgs),
    /// Print the version
    Version,
}

/// Arguments of a command, from words as they would be typed.
pub fn parsed<T: Args>(command: &'static str, words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<T> {
    let parser = T::augment_args(clap::Command::new(command).no_binary_name(true));
    let matches = parser.try_get_matches_from(words).and_then(|matches| T::from_arg_matches(&matches));
    matches.map_err(|e| {
        let text = e.render().to_string();
        let said: Vec<&str> = text.split("Usage:").next().unwrap_or(&text).split_whitespace().collect();
        let said = said.join(" ");
        Error::invalid(format!("{} (see: yester {command} --help)", said.strip_prefix("error: ").unwrap_or(&said)))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        super::Cli::command().debug_assert();
    }
}
