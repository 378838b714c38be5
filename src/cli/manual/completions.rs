//! `completions`: what a shell needs to complete the command line.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use yester::Result;

use crate::cli::args::Cli;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::Output;

/// Print completions for a shell
///
/// For bash: yester completions bash > ~/.local/share/bash-completion/completions/yester
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints the completions.
pub fn run(args: &CompletionsArgs) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "yester", &mut script);
    let mut out = Output::new();
    out.bytes(&script)?;
    out.finish()?;
    Ok(Outcome::Done)
}
