//! `key rotate`: another master key.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use yester::chunk::keys::Credential;
use yester::format::config::Derivation;
use yester::jobs::credential::{self, CredentialOptions};
use yester::keys::keyring::KeyRing;
use yester::keys::rotation::RotateOptions;
use yester::maintain::prune::PruneOptions;
use yester::maintain::rotate::rotate;
use yester::task::Task;
use yester::{Error, Result};

use super::say;
use crate::cli::context::{self, Context};
use crate::cli::say::exit::Outcome;
use crate::cli::say::log;
use crate::cli::say::progress::Display;
use crate::cli::say::units;
use crate::cli::signals;

/// Change the master key
///
/// From then on everything is sealed with the new one. What is stored stays readable, and stays sealed with the old one until
/// yester prune --rekey has repacked it. Nobody else may be at work meanwhile. Key slots can be made anew only for keys that
/// are given: the one that opens the repository now, and others with --also-…
///
/// Key files and passphrases stay what they are. If somebody else may have yours, run yester key passwd first: with it they
/// would open the new slot, too.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// Another key file that is to open the repository, or to store snapshots in it, as before (may be repeated)
    #[arg(long, value_name = "FILE")]
    also_key_file: Vec<PathBuf>,
    /// The same of the passphrase in this file (may be repeated)
    #[arg(long, value_name = "FILE")]
    also_password_file: Vec<PathBuf>,
    /// Remove the other key slots
    #[arg(long)]
    drop_others: bool,
    /// After this time without a sign of life, a writer on another machine counts as dead
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = units::parse_wait)]
    dead_after: Duration,
}

#[derive(Serialize)]
struct JsonRotated {
    message_type: &'static str,
    slots: Vec<String>,
    removed: Vec<String>,
}

/// Changes it.
pub fn run(context: &Context, args: &RotateArgs) -> Result<Outcome> {
    let place = context.place()?;
    let storage = context.storage(&place)?;
    let (mut ring, current) = context.unlock(&place, |key| KeyRing::open_to_rotate(storage.clone(), key, &log::reports()))?;
    let mut credentials = vec![current];
    let files = args.also_key_file.iter().map(|file| (Some(file), None));
    for (key_file, password_file) in files.chain(args.also_password_file.iter().map(|file| (None, Some(file)))) {
        let more = also(key_file, password_file)?;
        if !credentials.iter().any(|known| known.is(&more)) {
            credentials.push(more);
        }
    }
    let options = RotateOptions {
        credentials: &credentials,
        drop_others: args.drop_others,
        derivation: Derivation::DEFAULT,
        now: context::now(),
    };
    let state = context.places.state().map(std::path::Path::to_owned);
    let sessions = PruneOptions { dead_after: args.dead_after, state, ..PruneOptions::default() };
    let (display, stop) = (Display::new(&context.global), signals::stop_flag()?);
    let rotated = rotate(&mut ring, &options, &sessions, &Task::new(&display).stopped_by(&stop));
    display.finish();
    let rotated = rotated?;
    let slots = units::counted(rotated.slots.len() as u64, "key slot", "key slots");
    let mut lines = vec![format!("the master key was changed: {slots} with the new one")];
    if !rotated.dropped.is_empty() {
        lines.push(units::counted(rotated.dropped.len() as u64, "key slot was removed", "key slots were removed"));
    }
    lines.push("recovery texts of before open nothing new: make one with yester key export, and destroy the others".to_owned());
    lines.push("mounts and other programs that are still open see no new snapshots until they are opened again".to_owned());
    lines.push("what is stored stays sealed with the old key until yester prune --rekey has repacked it".to_owned());
    let names = |ids: &[yester::model::SlotId]| ids.iter().map(ToString::to_string).collect();
    let json = JsonRotated { message_type: "key_rotated", slots: names(&rotated.slots), removed: names(&rotated.dropped) };
    say(context, &lines, &json)?;
    Ok(Outcome::Done)
}

/// Reads another key that is to get the new master key.
fn also(key_file: Option<&PathBuf>, password_file: Option<&PathBuf>) -> Result<Credential> {
    let options =
        CredentialOptions { key_file: key_file.cloned(), password_command: None, password_file: password_file.cloned() };
    let origin = credential::given(&options, "YESTER_", |_| None)?;
    credential::load(&origin.ok_or_else(|| Error::invalid("no key was given"))?)
}
