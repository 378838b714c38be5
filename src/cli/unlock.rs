//! `unlock`: for those who look for it. Nothing is ever locked.

use std::ffi::OsString;

use clap::Args;
use serde::Serialize;
use yester::Result;

use crate::cli::context::Context;
use crate::cli::manual::words::UNLOCK;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::Output;

/// Say that nothing is ever locked
#[derive(Debug, Args)]
pub struct UnlockArgs {
    /// What other tools take; ignored
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _ignored: Vec<OsString>,
}

#[derive(Serialize)]
struct JsonUnlocked {
    message_type: &'static str,
    message: &'static str,
}

/// Says so.
pub fn run(context: &Context, _: &UnlockArgs) -> Result<Outcome> {
    let mut out = Output::new();
    if context.global.json {
        out.json(&JsonUnlocked { message_type: "unlocked", message: UNLOCK })?;
    } else if !context.global.quiet {
        out.line(UNLOCK)?;
    }
    out.finish()?;
    Ok(Outcome::Done)
}
