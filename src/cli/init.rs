//! `init`: makes a repository; also the default one, for the first ingest.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use yester::jobs::credential::{self, CredentialOrigin, New};
use yester::jobs::foreign;
use yester::repo::Repository;
use yester::storage::directory::DirectoryStorage;
use yester::storage::{Class, Storage};
use yester::{Error, ErrorKind, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::carry::carry;
use crate::cli::given::from_repo::FromKey;
use crate::cli::given::place::NamedRepository;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{JsonPath, Output, lossy, note};
use crate::cli::say::{log, paths};

/// Make a repository
///
/// Makes the repository that --repo names. It is unlocked by a passphrase (asked for twice on a terminal), or by the
/// key file of --key-file, which is made if it does not exist.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Cut files as this repository does, so that what is copied from there and what is ingested here is stored once. It
    /// takes over that repository's cutting secret, and needs its key
    #[arg(long, value_name = "REPO")]
    chunker_from: Option<OsString>,
    #[command(flatten)]
    from: FromKey,
}

/// A repository that was made, and with which key file.
struct CreatedRepository {
    repo: Arc<Repository>,
    key_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Initialized {
    message_type: &'static str,
    id: String,
    #[serde(flatten)]
    path: JsonPath,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<String>,
}

/// Makes a repository.
pub fn run(context: &Context, args: &InitArgs) -> Result<Outcome> {
    let place = context.place()?;
    let other = args.chunker_from.as_ref().map(|name| args.from.open(context, name)).transpose()?;
    let made = make(context, &place, None, other.as_ref())?;
    if context.global.json {
        let mut out = Output::new();
        out.json(&made.json(&place))?;
        out.finish()?;
    } else if !context.global.quiet {
        let mut out = Output::new();
        out.line(&format!("made repository {} at {}", made.repo.id().short(), place.shown()))?;
        if let Some(other) = &other {
            out.line(&format!("it cuts files as repository {} does", other.id().short()))?;
        }
        made.advice().iter().try_for_each(|line| out.line(line))?;
        out.line(&carry("next: yester ingest PATH takes the first snapshot"))?;
        out.finish()?;
    }
    Ok(Outcome::Done)
}

/// Opens the repository, or makes it when it is the default one and is not there yet: with what the user gave, else
/// with a key file. What was made is said on standard error, also with `-q`: nobody must lose a key unknowingly.
pub fn open_or_make(context: &Context) -> Result<Arc<Repository>> {
    let place = context.place()?;
    match context.storage(&place) {
        Ok(storage) => {
            let (repo, _) = context.unlock(&place, |key| Repository::open_to_write(storage.clone(), key, &log::reports()))?;
            // A token that may only add must not change keys: somebody else ends it then.
            if let Err(e) = repo.finish_keys() {
                tracing::debug!("an unfinished addition or removal of a key slot could not be ended: {e}");
            }
            return Ok(Arc::new(context.with_cache(&place, repo)));
        }
        Err(e) if e.kind() == ErrorKind::NoRepository && place.implied => {}
        Err(e) => return Err(e),
    }
    let made = make(context, &place, context.places.key_file(), None)?;
    if context.global.json {
        let mut out = Output::new();
        out.json(&made.json(&place))?;
        out.finish()?;
    } else {
        note(&format!("yester: made the default repository at {}", place.shown()));
        made.advice().iter().for_each(|line| note(&format!("yester: {line}")));
    }
    Ok(made.repo)
}

impl CreatedRepository {
    fn advice(&self) -> Vec<String> {
        let Some(file) = self.key_file.as_deref().map(paths::shown) else {
            return vec![
                "without its passphrase nothing in the repository can ever be read, by anybody: there is no other way in"
                    .to_owned(),
                carry("keep it in a safe place; yester key export prints a recovery text that opens the repository without it")
                    .into_owned(),
            ];
        };
        vec![
            format!("its key is the file {file}: without it nothing in the repository can ever be read"),
            format!("keep a copy of it in a safe place off this machine, as with: cp {file} /media/usb/yester.key"),
        ]
    }

    fn json(&self, place: &NamedRepository) -> Initialized {
        Initialized {
            message_type: "initialized",
            id: self.repo.id().to_string(),
            path: JsonPath::new(&place.bytes()),
            key_file: self.key_file.as_deref().map(|file| lossy(paths::bytes(file))),
        }
    }
}

/// Makes a repository at `place`; `key_file` is what to use when the user gave nothing. It cuts files as `other` does, if
/// there is one.
fn make(
    context: &Context,
    place: &NamedRepository,
    key_file: Option<PathBuf>,
    other: Option<&Repository>,
) -> Result<CreatedRepository> {
    // Before any question is asked and any key made.
    match place.local() {
        Some(path) => check_free(path)?,
        None => check_free_elsewhere(context, place)?,
    }
    let New { credential, key_file, .. } = new_credential(context, place, key_file)?;
    let storage = context.new_storage(place)?;
    let repo = Repository::init_cutting_as(storage, &credential, &context::init_options(), other)?.reporting_to(&log::reports());
    context.remember(&repo);
    Ok(CreatedRepository { repo: Arc::new(repo), key_file })
}

fn check_free(path: &Path) -> Result<()> {
    if let Ok(storage) = DirectoryStorage::open(path)
        && storage.list(Class::Config).is_ok_and(|list| !list.is_empty())
    {
        return Err(Error::new(ErrorKind::Exists, format!("there is a repository at {} already", paths::shown(path))));
    }
    match foreign::tool(path) {
        Some(tool) => Err(Error::new(ErrorKind::Exists, foreign::said(&paths::shown(path), tool))),
        None => DirectoryStorage::check_free(path),
    }
}

/// As [`check_free`], on another machine: what is in the way is a repository with something in it.
fn check_free_elsewhere(context: &Context, place: &NamedRepository) -> Result<()> {
    match context.storage(place) {
        Err(e) if e.kind() == ErrorKind::NoRepository => Ok(()),
        Err(e) => Err(e),
        Ok(storage) => match storage.list(Class::Config)?.is_empty() {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Exists, format!("there is a repository at {} already", place.shown()))),
        },
    }
}

/// The credential of a new repository, and the key file that holds it.
fn new_credential(context: &Context, place: &NamedRepository, default: Option<PathBuf>) -> Result<New> {
    let origin = context.given()?.or(default.map(CredentialOrigin::KeyFile));
    if origin.is_none() && !credential::can_ask() {
        let text = "a new repository needs a key and there is no terminal to ask on: give --key-file (made if it does \
                    not exist), --password-file or --password-command, or set YESTER_PASSWORD";
        return Err(Error::new(ErrorKind::Key, text));
    }
    credential::new(origin, place.local(), "passphrase of the new repository: ")
}
