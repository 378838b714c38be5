//! The command line: what users type and see. The only room that prints, and the only one that knows clap.
//!
//! One file a command, or a folder: its options, its few lines of logic on top of a library function, its text and its
//! JSON. What they share: `args` (options of all commands) and `context` (opening the repository); `given` (what users
//! give: places, names of snapshots, patterns, the configuration); `say` (what is printed: output, units, progress, exit
//! codes); `manual` (help).

use std::ffi::OsString;

use clap::error::ErrorKind as ClapKind;
use yester::Result;

mod agent;
mod annotate;
mod args;
mod background;
mod basket;
mod cat;
mod check;
mod config;
mod context;
mod copy;
mod cost;
mod diff;
mod doctor;
mod du;
mod export;
mod find;
mod forget;
mod given;
mod gone;
mod group;
mod history;
mod import;
mod ingest;
mod init;
mod job;
mod key;
mod ls;
mod manual;
mod mount;
mod mounts;
mod parity;
mod prune;
mod repair;
mod restore;
mod rewrite;
mod runs;
mod say;
mod serve;
mod sets;
mod signals;
mod snapshots;
mod stats;
mod unlock;
mod verified;
mod version;

use args::{Cli, Command};
use context::Context;
use given::{carry, configured};
use manual::{completions, help, man};
use mount::{guard, helper, umount};
use say::exit::{self, Outcome};
use say::{log, requests};
use sets::{overdue, thaw_guard};

/// Runs the program with these arguments (the program's name first) and returns its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    yester::sys::process::share_heaps();
    let mut arguments = helper::translate(arguments.into_iter().collect());
    if let Some(parent) = guard::of(&arguments) {
        guard::run(parent);
        return exit::DONE;
    }
    if thaw_guard::is_meant(&arguments) {
        thaw_guard::run();
        return exit::DONE;
    }
    let in_background = background::take_mark(&mut arguments);
    let cli = match help::parse(&arguments) {
        Ok(cli) => cli,
        Err(e) => return usage(&e, &arguments),
    };
    let json = cli.global.json;
    carry::given(cli.global.repo.as_ref());
    // A server's log is what it is watched by.
    let serves = match &cli.command {
        Command::Serve(args) => args.listens(),
        Command::Agent(args) => args.stays(),
        _ => false,
    };
    exit::IN_BACKGROUND.store(in_background, std::sync::atomic::Ordering::Relaxed);
    log::start(cli.global.verbose + u8::from(serves || in_background), in_background || serves);
    signals::asked();
    yester::sys::process::raise_file_limit();
    match dispatch(cli, in_background) {
        Ok(Outcome::Done) => exit::DONE,
        Ok(Outcome::Partial(message)) => exit::report(exit::PARTIAL, &message, json),
        Err(e) => exit::report(exit::code(e.kind()), &e.to_string(), json),
    }
}

fn dispatch(cli: Cli, in_background: bool) -> Result<Outcome> {
    let (global, configured) = configured::apply(&cli)?;
    let context = Context::new(global, configured);
    // What it prints is a file's content.
    let cat = matches!(cli.command, Command::Cat(_));
    let outcome = run_command(&context, cli.command, in_background);
    verified::remember_stored(&context);
    if context.global.stats {
        requests::say(&context, cat)?;
    }
    gone::outcome(&context, outcome?)
}

fn run_command(context: &Context, command: Command, in_background: bool) -> Result<Outcome> {
    match command {
        Command::Init(args) => init::run(context, &args),
        Command::Ingest(args) => ingest::run(context, &args),
        Command::Snapshots(args) => snapshots::run(context, &args),
        Command::Ls(args) => ls::run(context, &args),
        Command::Cat(args) => cat::run(context, &args),
        Command::Find(args) => find::run(context, &args),
        Command::History(args) => history::run(context, &args),
        Command::Diff(args) => diff::run(context, &args),
        Command::Export(args) => export::run(context, &args),
        Command::Mount(args) => mount::run(context, &args, in_background),
        Command::Mounts(args) => mounts::run(context, &args),
        Command::Umount(args) => umount::run(context, &args),
        Command::Repair(args) => repair::run(context, &args),
        Command::Restore(args) => restore::run(context, &args),
        Command::Forget(args) => forget::run(context, &args),
        Command::Prune(args) => prune::run(context, &args),
        Command::Tag(args) => annotate::tag(context, &args),
        Command::Note(args) => annotate::note(context, &args),
        Command::Pin(args) => annotate::pin(context, &args),
        Command::Rewrite(args) => rewrite::run(context, &args),
        Command::Sets(args) => sets::run(context, &args),
        Command::Overdue(args) => overdue::run(context, &args),
        Command::Agent(args) => agent::run(context, &args),
        Command::Job(args) => job::run(context, &args),
        Command::Runs(args) => runs::run(context, &args),
        Command::Group(args) => group::run(context, &args),
        Command::Config(args) => config::run(context, &args),
        Command::Key(args) => key::run(context, &args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(context, &args),
        Command::Copy(args) => copy::run(context, &args),
        Command::Import(args) => import::run(context, &args),
        Command::Doctor(args) => doctor::run(context, &args),
        Command::Check(args) => check::run(context, &args),
        Command::Parity(args) => parity::run(context, &args),
        Command::Stats(args) => stats::run(context, &args),
        Command::Du(args) => du::run(context, &args),
        Command::Cost(args) => cost::run(context, &args),
        Command::Serve(args) => serve::run(context, &args),
        Command::Unlock(args) => unlock::run(context, &args),
        Command::Version => version::run(context),
    }
}

/// Help and version go to standard output; a usage error becomes one line like every other error.
fn usage(error: &clap::Error, arguments: &[OsString]) -> u8 {
    let json = arguments.iter().any(|argument| argument == "--json");
    if matches!(error.kind(), ClapKind::DisplayHelp | ClapKind::DisplayVersion) {
        return match error.print() {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => exit::broken_pipe(),
            Err(e) => exit::report(exit::FAILED, &format!("cannot write to standard output: {e}"), json),
            Ok(()) => exit::DONE,
        };
    }
    if let Some(said) = help::unknown(error) {
        return exit::report(exit::USAGE, &said, json);
    }
    let text = error.render().to_string();
    let said = text.split("Usage:").next().unwrap_or(&text);
    let said = said.split("For more information").next().unwrap_or(said);
    let words: Vec<&str> = said.split_whitespace().collect();
    let message = words.join(" ").replace(" tip: ", "; ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let command = [help::command_of(arguments), "--help".to_owned()].join(" ");
    exit::report(exit::USAGE, &format!("{message} (see: yester {})", command.trim_start()), json)
}
