//! `key`: the slots of the repository's key, and the recovery text.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use yester::chunk::keys::Credential;
use yester::format::config::Derivation;
use yester::jobs::credential::{self, CredentialOptions, New};
use yester::keys::copies::{CopyState, Repaired};
use yester::keys::keyring::KeyRing;
use yester::keys::slots::SlotOptions;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::place::NamedRepository;
use crate::cli::say::exit::Outcome;
use crate::cli::say::log;
use crate::cli::say::output::{Output, note};
use crate::cli::say::paths;

mod change;
mod list;
mod recovery;
mod repair;
mod rotate;

pub use repair::{mend, repair};

/// Manage the keys of the repository
///
/// Its one master key is kept in slots, each of which a passphrase or a key file opens, and each of which is stored three
/// times.
#[derive(Debug, Args)]
#[command(arg_required_else_help = false)]
pub struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    List(list::ListArgs),
    Add(change::AddArgs),
    Remove(change::RemoveArgs),
    Passwd(change::PasswdArgs),
    Rotate(rotate::RotateArgs),
    Export(recovery::RecoveryExportArgs),
    Recover(recovery::RecoverArgs),
}

/// The credential of a new slot.
#[derive(Debug, Args)]
#[command(next_help_heading = "The new key")]
struct NewKeyArgs {
    /// A key file; made if it does not exist [env: YESTER_NEW_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
    /// Read the new passphrase from this file [env: YESTER_NEW_PASSWORD_FILE, or the passphrase itself in YESTER_NEW_PASSWORD]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["new_password_command", "new_key_file"])]
    new_password_file: Option<PathBuf>,
    /// Read the new passphrase from the output of this shell command [env: YESTER_NEW_PASSWORD_COMMAND]
    #[arg(long, value_name = "COMMAND", conflicts_with = "new_key_file")]
    new_password_command: Option<OsString>,
    /// What the list shows the slot as [default: user@host]
    #[arg(long, value_name = "TEXT")]
    label: Option<OsString>,
}

/// Runs a command.
pub fn run(context: &Context, args: &KeyArgs) -> Result<Outcome> {
    match &args.command {
        KeyCommand::List(args) => list::run(context, args),
        KeyCommand::Add(args) => change::add(context, args),
        KeyCommand::Remove(args) => change::remove(context, args),
        KeyCommand::Passwd(args) => change::passwd(context, args),
        KeyCommand::Rotate(args) => rotate::run(context, args),
        KeyCommand::Export(args) => recovery::export(context, args),
        KeyCommand::Recover(args) => recovery::recover(context, args),
    }
}

impl NewKeyArgs {
    fn options(&self) -> CredentialOptions {
        CredentialOptions {
            key_file: self.new_key_file.clone(),
            password_command: self.new_password_command.clone(),
            password_file: self.new_password_file.clone(),
        }
    }

    /// Reads the new credential, or makes it, or asks for it.
    fn credential(&self, place: &NamedRepository) -> Result<New> {
        let origin = credential::given(&self.options(), "YESTER_NEW_", |name| std::env::var_os(name))?;
        if origin.is_none() && !credential::can_ask() {
            let text = "there is no terminal to ask for the new passphrase on: give --new-key-file (made if it does not exist), \
                        --new-password-file or --new-password-command, or set YESTER_NEW_PASSWORD";
            return Err(Error::new(ErrorKind::Key, text));
        }
        credential::new(origin, place.local(), "new passphrase: ")
    }

    fn label(&self) -> Option<Vec<u8>> {
        self.label.as_ref().map(|label| label.as_bytes().to_vec())
    }
}

/// The rest of a new slot.
fn slot(label: Option<Vec<u8>>) -> SlotOptions {
    let label = label.unwrap_or_else(context::label);
    SlotOptions { derivation: Derivation::DEFAULT, now: context::now(), label }
}

/// Unlocks the repository.
fn open(context: &Context) -> Result<(NamedRepository, KeyRing, Credential)> {
    let place = context.place()?;
    let storage = context.storage(&place)?;
    let (ring, credential) = context.unlock(&place, |key| KeyRing::open_with(storage.clone(), key, &log::reports()))?;
    Ok((place, ring, credential))
}

/// The same for a command that changes keys: what was stopped half way is ended first.
fn open_to_write(context: &Context) -> Result<(NamedRepository, KeyRing, Credential)> {
    let opened = open(context)?;
    context::finish_keys(opened.1.finish());
    Ok(opened)
}

/// What a command says when it is done: lines of text, or one of JSON.
fn say(context: &Context, lines: &[String], json: &impl Serialize) -> Result<()> {
    let mut out = Output::new();
    if context.global.json {
        out.json(json)?;
    } else if !context.global.quiet {
        lines.iter().try_for_each(|line| out.line(line))?;
    }
    out.finish()
}

/// Where the key of a new slot is, if somebody must take care of it.
fn advice(new: &New) -> Option<String> {
    let file = paths::shown(new.key_file.as_deref().filter(|_| new.made)?);
    Some(format!("its key is the file {file}: keep a copy of it in a safe place off this machine"))
}

/// Writes bad copies again after a command has done what it was asked for. A failure does not undo that.
fn repair_after(context: &Context, ring: &KeyRing) -> Outcome {
    let (repaired, result) = ring.repair();
    repaired.iter().for_each(|copy| note_repaired(context, copy));
    match result {
        Ok(()) => Outcome::Done,
        Err(e) => Outcome::Partial(format!("done, but a damaged copy could not be written again: {e}")),
    }
}

fn note_repaired(context: &Context, copy: &Repaired) {
    if !context.global.quiet {
        note(&format!("yester: wrote {} again: it was {}", copy.name, state(&copy.was)));
    }
}

/// A copy's state in a word.
fn state(state: &CopyState) -> &'static str {
    match state {
        CopyState::Whole => "good",
        CopyState::Missing => "missing",
        CopyState::Damaged(_) | CopyState::MadeUp(_) => "damaged",
        CopyState::Unknown(_) => "unknown",
    }
}

/// What a credential is called.
fn kind(credential: &Credential) -> &'static str {
    match credential {
        Credential::Passphrase(_) => "passphrase",
        Credential::KeyFile(_) => "key file",
    }
}
