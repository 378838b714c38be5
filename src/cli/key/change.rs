//! `key add`, `key remove`, `key passwd`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use yester::chunk::keys::Credential;
use yester::jobs::credential::New;
use yester::keys::keyring;
use yester::keys::slots::Slot;
use yester::{Error, ErrorKind, Result};

use super::{NewKeyArgs, advice, kind, open_to_write, repair_after, say, slot};
use crate::cli::context::Context;
use crate::cli::given::place::NamedRepository;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::lossy;
use crate::cli::say::paths;

/// Add a key slot: another passphrase or key file
///
/// From then on the new passphrase or key file opens the repository as well. Without an option the new passphrase is
/// asked for, twice.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// Add a key that only writes: it takes snapshots, and can read nothing, not even what it has stored
    #[arg(long)]
    write_only: bool,
    #[command(flatten)]
    new: NewKeyArgs,
}

/// Remove a key slot
///
/// All copies of it go. The slot that the given key opens is refused: unlock with another one. A person with a copy of
/// the slot and its key, or with a recovery text, can still open the repository: the master key stays the same.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The first digits of the slot's id, at least 4
    #[arg(value_name = "SLOT")]
    slot: String,
}

/// Change the passphrase or key file that is given
///
/// A slot for the new one is made, read back and opened, and then the old slot is removed. Other slots stay. Without an
/// option the new passphrase is asked for, twice.
#[derive(Debug, Args)]
pub struct PasswdArgs {
    #[command(flatten)]
    new: NewKeyArgs,
}

#[derive(Serialize)]
struct Changed {
    message_type: &'static str,
    id: String,
    short_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<String>,
}

/// Adds a slot.
pub fn add(context: &Context, args: &AddArgs) -> Result<Outcome> {
    let (place, ring, current) = open_to_write(context)?;
    let new = args.new.credential(&place)?;
    if args.write_only && new.credential.is(&current) {
        let text = format!("this {} opens the repository already, and reads it: give another one", kind(&current));
        return Err(Error::invalid(text));
    }
    let options = slot(args.new.label());
    let id = if args.write_only { ring.add_writer(&new.credential, &options)? } else { ring.add(&new.credential, &options)? };
    let only = if args.write_only { " that only writes" } else { "" };
    let mut lines = vec![format!("added key slot {}: a {}{only}", id.short(), kind(&new.credential))];
    match args.write_only {
        true => lines.extend(for_host(&new)),
        false => lines.extend(advice(&new)),
    }
    let key_file = new.key_file.as_deref().map(|file| lossy(paths::bytes(file)));
    let json = Changed { message_type: "key_added", id: id.to_string(), short_id: id.short(), replaced: None, key_file };
    say(context, &lines, &json)?;
    Ok(repair_after(context, &ring))
}

/// Where the key of a new slot that only writes is to go.
fn for_host(new: &New) -> Option<String> {
    let file = paths::shown(new.key_file.as_deref().filter(|_| new.made)?);
    Some(format!("its key is the file {file}: give it to the host that is to take snapshots, and keep the full key elsewhere"))
}

/// Removes a slot.
pub fn remove(context: &Context, args: &RemoveArgs) -> Result<Outcome> {
    let (_, ring, credential) = open_to_write(context)?;
    let id = keyring::find(&ring.slots()?, &args.slot)?;
    ring.remove(id)?;
    if let Some(kept) = ring.keep_one(&credential, &slot(None))? {
        let text =
            format!("somebody else removed the other slots at the same time; key slot {} was made for your key", kept.short());
        return Ok(Outcome::Partial(text));
    }
    let json = Changed { message_type: "key_removed", id: id.to_string(), short_id: id.short(), replaced: None, key_file: None };
    say(context, &[format!("removed key slot {}", id.short())], &json)?;
    Ok(repair_after(context, &ring))
}

/// Replaces the slot that was opened.
pub fn passwd(context: &Context, args: &PasswdArgs) -> Result<Outcome> {
    let (place, mut ring, old) = open_to_write(context)?;
    let new = args.new.credential(&place)?;
    if new.credential.is(&old) {
        return Err(Error::new(ErrorKind::Invalid, format!("the new {} is the old one: nothing was changed", kind(&old))));
    }
    let before = ring.opened();
    let slots = ring.slots()?;
    let label = slots.iter().find(|slot| slot.id == before).and_then(Slot::value).map(|value| value.label.clone());
    let id = ring.replace(&new.credential, &slot(args.new.label().or(label)))?;
    let mut lines = vec![format!("key slot {} (a {}) replaces {}", id.short(), kind(&new.credential), before.short())];
    lines.extend(advice(&new));
    lines.extend(in_the_way(context, &place, &old, new.key_file.as_ref()));
    let key_file = new.key_file.as_deref().map(|file| lossy(paths::bytes(file)));
    let replaced = Some(before.to_string());
    let json = Changed { message_type: "key_changed", id: id.to_string(), short_id: id.short(), replaced, key_file };
    say(context, &lines, &json)?;
    Ok(repair_after(context, &ring))
}

/// What to do with the default repository's key file when it opens nothing any more: it is what is tried first.
fn in_the_way(context: &Context, place: &NamedRepository, old: &Credential, new: Option<&PathBuf>) -> Option<String> {
    let used = context.given().is_ok_and(|given| given.is_none())
        && context.places.is_default(place)
        && matches!(old, Credential::KeyFile(_));
    let file = paths::shown(&context.places.key_file().filter(|_| used)?);
    let next = match new {
        Some(new) => format!("mv {} {file}", paths::shown(new)),
        None => format!("rm {file}"),
    };
    Some(format!("{file} opens nothing any more, and is still what is tried first: {next}"))
}
