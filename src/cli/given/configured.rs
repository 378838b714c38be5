//! What the configuration file says, in the place of options that were not given: an option beats the environment, which
//! beats the file.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use yester::ingest::bucket::BucketInput;
use yester::ingest::{IngestOptions, Input, Stream, sources};
use yester::jobs::buckets::ConfiguredBucket;
use yester::jobs::config::check::{self, Programs};
use yester::jobs::config::keys::{BucketKeys, RepositoryKeys, Set};
use yester::jobs::config::{self, Configuration};
use yester::jobs::{credential, units};
use yester::model::SetText;
use yester::{Error, ErrorKind, Result};

use crate::cli::args::{Cli, Command, Global};
use crate::cli::context::Context;
use crate::cli::given::variables;
use crate::cli::ingest::IngestArgs;

/// The configuration, as far as there is one.
#[derive(Debug, Default)]
pub struct Configured {
    configuration: Option<Configuration>,
    token_file: Option<PathBuf>,
    grace: Option<String>,
}

impl Configured {
    /// The set of this name, which can be carried out here.
    pub fn set(&self, name: &str) -> Result<&Set> {
        let Some(configuration) = &self.configuration else { return Err(none()) };
        let named = configuration.set(name)?;
        match check::set(configuration, named, Programs(&directories())).into_iter().next() {
            Some(problem) => Err(config::as_error(problem)),
            None => Ok(&named.value),
        }
    }

    /// The set of this name, if there is one that can be restored here.
    pub fn set_to_restore(&self, name: &str) -> Result<Option<&Set>> {
        let Some(configuration) = &self.configuration else { return Ok(None) };
        let Some(named) = configuration.sets.get(name) else { return Ok(None) };
        match check::back(configuration, named, Programs(&directories())).into_iter().next() {
            Some(problem) => Err(config::as_error(problem)),
            None => Ok(Some(&named.value)),
        }
    }

    /// For how long prune leaves what is forgotten of the repository that is meant.
    pub fn grace(&self) -> Option<&str> {
        self.grace.as_deref()
    }

    /// A variable that has to do with the token: the environment's, else what the file says.
    pub fn token_variable(&self, name: &str) -> Option<OsString> {
        let set =
            ["YESTER_TOKEN", "YESTER_TOKEN_FILE", "YESTER_TOKEN_COMMAND"].iter().any(|name| std::env::var_os(name).is_some());
        match &self.token_file {
            Some(file) if !set && name == "YESTER_TOKEN_FILE" => Some(file.clone().into()),
            _ => std::env::var_os(name),
        }
    }
}

/// The directories where programs are.
pub fn directories() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// The configuration file: the one that was named, else the first of the usual ones that is there.
pub fn file(global: &Global) -> Result<Option<PathBuf>> {
    let named = global
        .config
        .clone()
        .map_or_else(|| variables::own("YESTER_CONFIG").map(|file| file.map(PathBuf::from)), |file| Ok(Some(file)));
    Ok(named?.or_else(|| config::places(|name| std::env::var_os(name)).into_iter().find(|file| file.exists())))
}

fn none() -> Error {
    let places: Vec<String> =
        config::places(|name| std::env::var_os(name)).iter().map(|file| crate::cli::say::paths::shown(file)).collect();
    Error::new(
        ErrorKind::NotFound,
        format!("there is no configuration file: write {}, or name one with --config", places.join(" or ")),
    )
}

/// The configuration, for those who need it.
pub fn load(global: &Global) -> Result<Configuration> {
    Configuration::load(&file(global)?.ok_or_else(none)?)
}

/// The options of every command, with those that the file has for the repository that is meant.
pub fn apply(cli: &Cli) -> Result<(Global, Configured)> {
    let global = cli.global.clone();
    let needs_none = matches!(
        cli.command,
        Command::Version
            | Command::Completions(_)
            | Command::Man(_)
            | Command::Umount(_)
            | Command::Serve(_)
            | Command::Unlock(_)
            | Command::Config(_)
            | Command::Sets(_)
            | Command::Overdue(_)
            | Command::Agent(_)
    );
    let Some(file) = (if needs_none { None } else { file(&global)? }) else { return Ok((global, Configured::default())) };
    let configuration = Configuration::load(&file)?;
    let given = global.repo.clone().map_or_else(|| variables::own("YESTER_REPO"), |name| Ok(Some(name)))?;
    let name = match (&given, &cli.command) {
        (Some(given), _) => given.to_str().map(str::to_owned),
        (None, command) => {
            let known = |name: &&str| {
                !matches!(command, Command::Restore(_) | Command::Group(_)) || configuration.sets.contains_key(*name)
            };
            let set = set_of(command).filter(known).map(|name| configuration.set(name)).transpose()?;
            set.and_then(|set| set.value.repository.clone()).or_else(|| Some(config::DEFAULT.to_owned()))
        }
    };
    filled(global, configuration, name.as_deref())
}

/// The name of the repository of a set: `--repo` and YESTER_REPO beat what the set says.
pub fn repository_of(global: &Global, set: &Set) -> Result<Option<String>> {
    let given = global.repo.clone().map_or_else(|| variables::own("YESTER_REPO"), |name| Ok(Some(name)))?;
    Ok(match given {
        Some(given) => given.to_str().map(str::to_owned),
        None => set.repository.clone().or_else(|| Some(config::DEFAULT.to_owned())),
    })
}

/// The options for the repository of a set, and the configuration.
pub fn of_set(global: &Global, configuration: &Configuration, set: &Set) -> Result<(Global, Configured)> {
    let name = repository_of(global, set)?;
    filled(global.clone(), configuration.clone(), name.as_deref())
}

/// Takes over what the configuration says of the repository of this name.
fn filled(mut global: Global, configuration: Configuration, name: Option<&str>) -> Result<(Global, Configured)> {
    let (mut token_file, mut grace) = (None, None);
    if let Some(named) = name.and_then(|name| configuration.repository(name)) {
        if let Some(problem) = check::repository(&configuration, named).into_iter().next() {
            return Err(config::as_error(problem));
        }
        token_file.clone_from(&named.value.token_file);
        grace.clone_from(&named.value.grace);
        fill(&mut global, &named.value)?;
    }
    Ok((global, Configured { configuration: Some(configuration), token_file, grace }))
}

/// The set that a command names.
fn set_of(command: &Command) -> Option<&str> {
    match command {
        Command::Ingest(args) => args.set(),
        Command::Forget(args) => args.set(),
        Command::Restore(args) => args.set(),
        Command::Group(args) => args.set(),
        _ => None,
    }
}

/// Takes over what neither options nor the environment say.
fn fill(global: &mut Global, it: &RepositoryKeys) -> Result<()> {
    let unset = |name: &str| std::env::var_os(name).is_none();
    global.repo = it.location.clone().map(OsString::from);
    let options = credential::CredentialOptions {
        key_file: global.key_file.clone(),
        password_command: global.password_command.clone(),
        password_file: global.password_file.clone(),
    };
    if credential::given(&options, "YESTER_", |name| std::env::var_os(name))?.is_none() {
        global.key_file.clone_from(&it.key_file);
        global.password_file.clone_from(&it.password_file);
        global.password_command = it.password_command.clone().map(OsString::from);
    }
    global.cache_dir = global.cache_dir.take().or_else(|| it.cache_dir.clone()).filter(|_| !global.no_cache);
    if let (None, Some(size)) = (global.cache_size, &it.cache_size) {
        let parsed = units::parse_size(size);
        let parsed = parsed.map_err(|e| Error::invalid(format!("the key cache-size of the configuration file: {e}")))?;
        global.cache_size = Some(parsed);
    }
    let remote = &mut global.remote;
    let trusts = remote.tls_fingerprint.is_some() || remote.cacert.is_some();
    if !trusts && unset("YESTER_TLS_FINGERPRINT") && unset("YESTER_CACERT") {
        remote.tls_fingerprint.clone_from(&it.tls_fingerprint);
        remote.cacert.clone_from(&it.cacert);
    }
    remote.connections = remote.connections.or(it.connections);
    remote.limit_upload =
        remote.limit_upload.take().map_or_else(|| units::limit(it.limit_upload.as_ref()), |limit| Ok(Some(limit)))?;
    remote.limit_download =
        remote.limit_download.take().map_or_else(|| units::limit(it.limit_download.as_ref()), |limit| Ok(Some(limit)))?;
    if unset("YESTER_SSH_COMMAND") {
        remote.ssh_command = remote.ssh_command.take().or_else(|| it.ssh_command.clone());
    }
    if unset("YESTER_REMOTE_PROGRAM") {
        remote.remote_program = remote.remote_program.take().or_else(|| it.remote_program.clone());
    }
    Ok(())
}

/// What a set ingests; its commands get these variables.
pub fn inputs(set: &Set, variables: &[(OsString, OsString)]) -> Vec<Arc<dyn Input>> {
    let paths = set.paths.iter().map(|path| Arc::new(sources::source(std::path::Path::new("/"), path)) as Arc<dyn Input>);
    let streams = set.streams.iter().map(|stream| {
        let input = Stream::of_command(stream.at.clone().into_bytes(), check::words(&stream.command), variables.to_vec());
        // Whether it is one was looked at when the file was read.
        let limit = stream.timeout.as_deref().and_then(|limit| units::parse_wait(limit).ok());
        Arc::new(input.allow_empty(stream.allow_empty).required(stream.required).within(limit)) as Arc<dyn Input>
    });
    paths.chain(streams).collect()
}

/// Buckets as inputs. Setting `stop` ends all waiting for them.
pub fn buckets(keys: &[BucketKeys], context: &Context, stop: &Arc<AtomicBool>) -> Result<Vec<Arc<dyn Input>>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let input = |bucket: Arc<ConfiguredBucket>| {
        let (at, required) = (bucket.keys().at.clone().into_bytes(), bucket.keys().required);
        Arc::new(BucketInput::new(at, bucket, required)) as Arc<dyn Input>
    };
    Ok(ConfiguredBucket::all(keys, &context.bucket_options()?, stop).into_iter().map(input).collect())
}

/// Adds what a set says to what was typed, which counts last.
pub fn options(name: &str, set: &Set, options: &mut IngestOptions, args: &IngestArgs) -> Result<()> {
    let text = toml::to_string_pretty(set).map_err(|e| Error::invalid(e.to_string()))?;
    options.set = Some(SetText { name: name.as_bytes().to_vec(), text: text.into_bytes() });
    let (host, compression) = args.gives();
    if let Some(name) = set.host.as_ref().filter(|_| !host) {
        options.host = name.clone().into_bytes();
    }
    if let Some(how) = set.compression.as_deref().filter(|_| !compression) {
        options.compression = units::parse_compression(how).map_err(Error::invalid)?;
    }
    options.tags.extend(set.tags.iter().map(|tag| tag.clone().into_bytes()));
    options.skip_if_unchanged |= set.skip_if_unchanged.unwrap_or(false);
    let before = |of_set: &[String], typed: &mut Vec<String>| drop(typed.splice(0..0, of_set.iter().cloned()));
    before(&set.changed_is_ok, &mut options.changed_is_ok);
    let exclude = &mut options.exclude;
    before(&set.exclude, &mut exclude.patterns);
    before(&set.iexclude, &mut exclude.patterns_ignore_case);
    before(&set.exclude_if_present, &mut exclude.if_present);
    before(&set.exclude_xattr, &mut exclude.xattrs);
    exclude.caches |= set.exclude_caches.unwrap_or(false);
    exclude.one_file_system |= set.one_file_system.unwrap_or(false);
    if let Some(size) = set.exclude_larger_than.as_deref().filter(|_| exclude.larger_than.is_none()) {
        exclude.larger_than = Some(units::parse_size(size).map_err(Error::invalid)?);
    }
    Ok(())
}
