//! `umount`: takes a mount away.

use std::path::PathBuf;

use clap::Args;
use yester::Result;

use super::context::Context;
use super::exit::Outcome;
use super::paths;

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
