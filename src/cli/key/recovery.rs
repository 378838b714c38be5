//! `key export` and `key recover`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use yester::chunk::keys::Credential;
use yester::error::IoContext;
use yester::format::config::ChunkerParameters;
use yester::format::recovery::Recovery;
use yester::jobs::credential::{self, Secret};
use yester::keys::keyring::KeyRing;
use yester::keys::recovery;
use yester::model::escape;
use yester::sys::process;
use yester::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use super::{NewKeyArgs, advice, kind, open, repair_after, say, slot};
use crate::cli::context::{self, Context};
use crate::cli::given::place::NamedRepository;
use crate::cli::say::exit::{self, Outcome};
use crate::cli::say::output::note;
use crate::cli::say::{log, paths, units};

/// Print the recovery text, to be kept on paper
///
/// It holds the master key, and what must be known beside it. With it, and nothing else, everything in the repository
/// can be read, by anybody: print it, and keep the paper where only you can get at it. It stays good when key slots come
/// and go.
#[derive(Debug, Args)]
pub struct RecoveryExportArgs {}

/// Get back in with the recovery text
///
/// Adds a key slot, and writes the configuration anew if it is lost or damaged. Neither a key nor a configuration has to
/// be left in the repository. Without FILE, only a lost configuration is written anew, by a key slot that is left.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// The recovery text: its numbered lines are enough; - is standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    new: NewKeyArgs,
}

#[derive(Serialize)]
struct RecoveryText<'a> {
    message_type: &'static str,
    repository: String,
    text: &'a str,
}

#[derive(Serialize)]
struct Recovered {
    message_type: &'static str,
    repository: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration: Option<String>,
}

/// Prints the text.
pub fn export(context: &Context, _: &RecoveryExportArgs) -> Result<Outcome> {
    let (place, ring, _) = open(context)?;
    let text = page(&place, &ring.recovery())?;
    if !context.global.json {
        return print(text.as_bytes());
    }
    let json = RecoveryText { message_type: "recovery_text", repository: ring.config().repository.to_string(), text: &text };
    // Long enough to hold it all: growing would leave a copy behind.
    let mut line = Zeroizing::new(Vec::with_capacity(2 * text.len() + 1024));
    serde_json::to_writer(&mut *line, &json).map_err(|e| Error::io("cannot write JSON", e.into()))?;
    line.push(b'\n');
    print(&line)
}

/// Writes to standard output past its buffer, which would keep a copy.
fn print(text: &[u8]) -> Result<Outcome> {
    let failed = || "cannot write to standard output".to_owned();
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned().at(failed)?);
    match out.write_all(text) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => exit::broken_pipe(),
        Err(e) => Err(Error::io(failed(), e)),
        Ok(()) => Ok(Outcome::Done),
    }
}

fn page(place: &NamedRepository, recovery: &Recovery) -> Result<Zeroizing<String>> {
    let lines = recovery.lines()?;
    let config = &recovery.config;
    let before = format!(
        "YESTER RECOVERY TEXT\n\n\
         Everybody who has this text can read everything in the repository. You need it\n\
         when every passphrase and key file is lost, or the directories config and keys\n\
         of the repository. Keep it on paper, where only you can get at it.\n\n\
         repository  {}\n\
         made        {}\n\
         place       {} on {}\n\
         printed     {}\n\n",
        config.repository,
        units::utc_time(config.created),
        place.shown(),
        escape(&process::host_name()),
        units::utc_time(context::now()),
    );
    let after = "\nTo use it, type or scan the numbered lines into a file. Spaces and capitals do\n\
                 not matter; the four digits behind the dash check their line. Then\n\n\
                 \x20   yester --repo PLACE key recover FILE\n\n\
                 asks for a new passphrase, and the repository opens with it again. How the lines\n\
                 are made of the key is in docs/format.md of yester's sources.\n";
    let mut text = Zeroizing::new(String::with_capacity(before.len() + lines.len() + after.len()));
    [&before, lines.as_str(), after].iter().for_each(|part| text.push_str(part));
    Ok(text)
}

/// Gets back in.
pub fn recover(context: &Context, args: &RecoverArgs) -> Result<Outcome> {
    process::protect_memory();
    let place = context.place()?;
    match &args.file {
        Some(file) => with_text(context, &place, file, &args.new),
        None => without_text(context, &place, &args.new),
    }
}

fn with_text(context: &Context, place: &NamedRepository, file: &Path, new: &NewKeyArgs) -> Result<Outcome> {
    if context.credential_options().any() {
        let text = "the recovery text needs no key to open the repository: what is to open it from now on is given by \
                    --new-key-file, --new-password-file or --new-password-command";
        return Err(Error::invalid(text));
    }
    let text = Recovery::read(&read(file)?)?;
    let storage = context.storage_to_mend(place)?;
    recovery::check(&*storage, &text)?;
    let new_key = new.credential(place)?;
    let number = recovery::restore_configuration(&*storage, &text)?;
    let id = recovery::add_slot(&*storage, &text, &new_key.credential, &slot(new.label()))?;
    let mut lines = vec![format!("added key slot {} to {}: a {}", id.short(), place.shown(), kind(&new_key.credential))];
    if let (foreign @ 1.., all) = recovery::foreign(&*storage, &text)? {
        let next = "if the key was changed after the text was made, use a newer one, and do not prune before";
        note(&format!("yester: of {all} objects that were looked at, {foreign} are of another key than this text: {next}"));
    }
    lines.extend(advice(&new_key));
    lines.extend(written(number));
    say(context, &lines, &json(&text, Some(id.to_string()), number))?;
    Ok(repair_after(context, &KeyRing::open_with(storage, &new_key.credential, &log::reports())?))
}

fn without_text(context: &Context, place: &NamedRepository, new: &NewKeyArgs) -> Result<Outcome> {
    if new.options().any() || new.label.is_some() {
        return Err(Error::invalid(
            "without FILE nothing but a lost configuration is written: a new key is added by yester key add",
        ));
    }
    let storage = context.storage_to_mend(place)?;
    let (chunker, now) = (ChunkerParameters::DEFAULT, context::now());
    let open = |key: &Credential| recovery::without_text(&*storage, key, chunker, now, &log::reports());
    let (text, credential) = context.unlock(place, open)?;
    let number = recovery::restore_configuration(&*storage, &text)?;
    let lines = written(number).unwrap_or_else(|| "the configuration is good: nothing was written".to_owned());
    say(context, &[lines], &json(&text, None, number))?;
    Ok(repair_after(context, &KeyRing::open_with(storage, &credential, &log::reports())?))
}

fn written(number: Option<u32>) -> Option<String> {
    number.map(|number| format!("wrote the configuration anew, as config/{number:08x}"))
}

fn json(text: &Recovery, id: Option<String>, number: Option<u32>) -> Recovered {
    let repository = text.config.repository.to_string();
    Recovered {
        message_type: "key_recovered",
        repository,
        id,
        configuration: number.map(|number| format!("config/{number:08x}")),
    }
}

fn read(file: &Path) -> Result<Secret> {
    let failed = || format!("cannot read the recovery text {}", paths::shown(file));
    let opened = match file.as_os_str() == "-" {
        true => io::stdin().as_fd().try_clone_to_owned().map(File::from),
        false => File::open(file),
    };
    let key = |e: Error| e.with_kind(ErrorKind::Key);
    credential::read_limited(opened.at(failed).map_err(key)?).at(failed).map_err(key)
}
