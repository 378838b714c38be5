//! The options that name another repository, to take something from, and opening it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::Args;
use yester::jobs::credential::{self, CredentialOptions, CredentialOrigin};
use yester::jobs::{location, open};
use yester::repo::Repository;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::Context;
use crate::cli::given::place::NamedRepository;
use crate::cli::given::{remote, variables};
use crate::cli::say::log;

/// Another repository.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = None::<&str>)]
pub struct FromRepository {
    /// Where the other repository is [env: YESTER_FROM_REPO]
    #[arg(long, value_name = "REPO")]
    from_repo: Option<OsString>,
    #[command(flatten)]
    key: FromKey,
}

/// The key of another repository.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = None::<&str>)]
pub struct FromKey {
    /// The file with the passphrase of the other repository [env: YESTER_FROM_PASSWORD_FILE]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from_password_command", "from_key_file"])]
    from_password_file: Option<PathBuf>,
    /// The shell command that prints it [env: YESTER_FROM_PASSWORD_COMMAND]
    #[arg(long, value_name = "COMMAND", conflicts_with = "from_key_file")]
    from_password_command: Option<OsString>,
    /// The key file of the other repository [env: YESTER_FROM_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    from_key_file: Option<PathBuf>,
}

impl FromKey {
    /// Opens the repository of this name with it.
    pub fn open(&self, context: &Context, name: &OsStr) -> Result<Repository> {
        let place = NamedRepository { location: location::parse(name)?, implied: false };
        let FromKey { from_key_file, from_password_command, from_password_file } = self;
        let options = CredentialOptions {
            key_file: from_key_file.clone(),
            password_command: from_password_command.clone(),
            password_file: from_password_file.clone(),
        };
        let storage = open::storage(&place.location, || {
            let token = credential::token(|name| std::env::var_os(name.replacen("YESTER_", "YESTER_FROM_", 1)))?;
            remote::options(&context.global, token)
        })?;
        let storage = context.opened(storage);
        let credential = match credential::given(&options, "YESTER_FROM_", |name| std::env::var_os(name))? {
            Some(origin) => credential::load(&origin)?,
            None if context.places.is_default(&place) && context.places.key_file().is_some_and(|file| file.exists()) => {
                let file = context.places.key_file().unwrap_or_default();
                credential::load(&CredentialOrigin::KeyFile(file))?
            }
            None if credential::can_ask() => credential::ask(&format!("passphrase of {}: ", place.shown()))?,
            None => {
                let text = "give --from-password-file, --from-password-command or --from-key-file, or set YESTER_FROM_PASSWORD";
                return Err(Error::new(ErrorKind::Key, format!("there is no key for {}: {text}", place.shown())));
            }
        };
        let repo = Repository::open_with(storage, &credential, &log::reports()).map_err(|e| e.context(place.shown()))?;
        Ok(context.with_cache(&place, repo))
    }
}

impl FromRepository {
    /// Opens it; `None` where none is named.
    pub fn open(&self, context: &Context) -> Result<Option<Repository>> {
        let name = self.from_repo.clone().map_or_else(|| variables::own("YESTER_FROM_REPO"), |name| Ok(Some(name)))?;
        name.map(|name| self.key.open(context, &name)).transpose()
    }

    /// What it is called in messages.
    pub fn shown(&self) -> String {
        self.from_repo.as_ref().map_or_else(|| "the other repository".to_owned(), |name| name.to_string_lossy().into_owned())
    }
}
