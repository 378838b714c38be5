//! `version`.

use serde::Serialize;
use yester::Result;

use crate::cli::context::Context;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::Output;

#[derive(Serialize)]
struct JsonProgramVersion {
    message_type: &'static str,
    program: &'static str,
    version: &'static str,
    os: &'static str,
    arch: &'static str,
}

/// Prints the version.
pub fn run(context: &Context) -> Result<Outcome> {
    let (program, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let mut out = Output::new();
    if context.global.json {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        out.json(&JsonProgramVersion { message_type: "version", program, version, os, arch })?;
    } else {
        out.line(&format!("{program} {version}"))?;
    }
    out.finish()?;
    Ok(Outcome::Done)
}
