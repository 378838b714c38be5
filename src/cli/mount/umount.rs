//! `umount`: takes a mount away.

use std::path::PathBuf;

use clap::Args;
use yester::Result;

use crate::cli::context::Context;
use crate::cli::say::exit::Outcome;
use crate::cli::say::paths;

/// Take a mount away, also a stale one
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Where it is mounted
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
}

/// Unmounts.
pub fn run(_: &Context, args: &UmountArgs) -> Result<Outcome> {
    yester::mount::unmount(&paths::absolute(&args.mountpoint)?)?;
    Ok(Outcome::Done)
}
