//! `serve`: repositories for other machines, and the tokens that let them in.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use yester::error::IoContext;
use yester::jobs::location::{self, Location};
use yester::model::Timestamp;
use yester::remote::protocol::{Capability, RepositoryName};
use yester::remote::s3::address::StoreAddress;
use yester::remote::tls::Fingerprint;
use yester::remote::tokens::{Grant, Token};
use yester::serve::objects::limits::Limits;
use yester::serve::objects::{ServeOptions, ServerStop, StdioOptions, listen, own_certificate, serve_stdio, tokens};
use yester::sys::process;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::{self, Context};
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, note};
use crate::cli::say::{paths, units};

/// Serve repositories to other machines
///
/// Serves the repositories in one directory, or in one object store, over HTTPS to clients with a token (see: yester serve
/// token create). With --stdio it serves one client on its standard input and output: this is what ssh:// starts.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(subcommand)]
    command: Option<ServeCommand>,
    /// The directory with the repositories, or the place in an object store: s3:https://ENDPOINT/BUCKET/PREFIX,
    /// gs:BUCKET/PREFIX, azure:CONTAINER/PREFIX
    #[arg(long, value_name = "PLACE", global = true)]
    root: Option<OsString>,
    /// With an object store: the directory of tokens, certificate and the server's notes [default: one of this user's]
    #[arg(long, value_name = "DIR", global = true)]
    state: Option<PathBuf>,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    /// The server's certificates, PEM [default: one that it makes and signs itself]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Their private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Another name of this machine, for the certificate that is made
    #[arg(long, value_name = "NAME")]
    tls_name: Vec<String>,
    /// Speak plain HTTP, to something on this machine that speaks TLS to the others
    #[arg(long, conflicts_with = "tls_cert")]
    no_tls: bool,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_connections: u32,
    /// Cut clients that have not moved for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    idle_timeout: u32,
    /// Take an agent for lost, and its job for failed, after so many seconds without a word
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    lost_after: u32,
    /// Serve standard input and output
    #[arg(long, conflicts_with_all = ["listen", "tls_cert", "no_tls", "root", "state"])]
    stdio: bool,
    /// With --stdio: only repositories in this directory
    #[arg(long, value_name = "PATH", requires = "stdio")]
    restrict_to: Vec<PathBuf>,
    /// With --stdio: let nothing be forgotten or deleted
    #[arg(long, requires = "stdio")]
    append_only: bool,
    /// With --stdio: whose sessions these are, for a forced command of one client
    #[arg(long, value_name = "NAME", requires = "stdio")]
    client: Option<String>,
}

#[derive(Debug, Subcommand)]
enum ServeCommand {
    /// Make, list and revoke tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print the fingerprint of the server's certificate, for --tls-fingerprint of its clients
    Fingerprint {
        /// The server's certificates, PEM [default: the one that it made itself, below --root]
        #[arg(long, value_name = "FILE")]
        tls_cert: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it, this once
    Create(CreateArgs),
    /// List the tokens
    List,
    /// Take a token back
    Revoke {
        /// The first digits of its id
        id: String,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The repository that it is for; without one it can only be for metrics
    #[arg(required_unless_present = "can")]
    name: Option<String>,
    /// What it may do, of put, get, list, prune, metrics, jobs, agent [default: put,get,list, which is append-only]
    #[arg(long, value_name = "CAPABILITY,…", value_delimiter = ',')]
    can: Vec<String>,
    /// Shorter for --can put,get,list,prune
    #[arg(long, conflicts_with_all = ["can", "read_only"])]
    full: bool,
    /// Shorter for --can get,list
    #[arg(long, conflicts_with = "can")]
    read_only: bool,
    /// What it is without any of these options: it may add, and take nothing away
    #[arg(long, conflicts_with_all = ["can", "read_only", "full"])]
    append_only: bool,
    /// The most that the repository may hold, as in 500G
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    quota: Option<u64>,
    /// Bytes a second, as in 10M
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    rate: Option<u64>,
    /// How long it is good, as in 90d
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    expires: Option<Duration>,
    /// Whose it is
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
}

#[derive(Serialize)]
struct JsonToken<'a> {
    message_type: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<&'a str>,
    capabilities: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    created: String,
    note: &'a str,
}

#[derive(Serialize)]
struct JsonListening {
    message_type: &'static str,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_fingerprint: Option<String>,
}

/// Serves, or manages tokens.
pub fn run(context: &Context, args: &ServeArgs) -> Result<Outcome> {
    match &args.command {
        Some(ServeCommand::Token(command)) => token(context, args, command)?,
        Some(ServeCommand::Fingerprint { tls_cert }) => fingerprint(context, args, tls_cert.as_deref())?,
        None if args.stdio => {
            let (restrict_to, append_only) = (args.restrict_to.clone(), args.append_only);
            let client = args.client.as_deref().map(RepositoryName::parse).transpose()?;
            serve_stdio(StdioOptions { restrict_to, append_only, client }, Limits::default())?;
        }
        None => serve(context, args)?,
    }
    Ok(Outcome::Done)
}

impl ServeArgs {
    /// Whether it is a server that runs by itself.
    pub fn listens(&self) -> bool {
        self.command.is_none() && !self.stdio
    }

    /// The object store with the repositories, if they are in one.
    fn store(&self, context: &Context) -> Result<Option<StoreAddress>> {
        let Some(root) = &self.root else { return Ok(None) };
        match location::parse(root)? {
            Location::Local(_) => Ok(None),
            Location::Store(address) => Ok(Some(address.in_account(&context.store_options()?.s3)?)),
            Location::Remote(address) => {
                let text = "a server serves a directory of its machine, or an object store (s3:https://ENDPOINT/BUCKET/PREFIX, \
                            gs:BUCKET/PREFIX, azure:CONTAINER/PREFIX)";
                Err(Error::invalid(format!("--root {address} is on another server: {text}")))
            }
        }
    }

    /// The directory that has what is the server's own: the root itself, or with an object store the one of --state.
    fn own(&self, context: &Context) -> Result<PathBuf> {
        let store = self.store(context)?;
        if let Some(state) = &self.state {
            if self.root.is_some() && store.is_none() {
                let text = "--state is for repositories in an object store: with a directory, all of it is in the directory";
                return Err(Error::invalid(text));
            }
            return paths::absolute(state);
        }
        if let Some(address) = store {
            let missing = "neither HOME nor XDG_STATE_HOME is set: name a directory for the server's tokens with --state DIR";
            let base = context.places.state().ok_or_else(|| Error::invalid(missing))?;
            // A token is good for one store only.
            let name = blake3::hash(address.to_string().as_bytes()).to_hex();
            return Ok(base.join("serve").join(&name.as_str()[..16]));
        }
        let root = self.root.as_deref().map(Path::new);
        let missing = "--root is needed: the directory with the repositories, or s3:https://ENDPOINT/BUCKET/PREFIX";
        paths::absolute(root.ok_or_else(|| Error::invalid(missing))?)
    }
}

fn serve(context: &Context, args: &ServeArgs) -> Result<()> {
    let idle = Duration::from_secs(u64::from(args.idle_timeout.max(1)));
    let silence = Duration::from_secs(u64::from(args.lost_after.max(1)));
    let limits = Limits { connections: args.max_connections.max(1) as usize, idle, silence, ..Limits::default() };
    if args.root.is_none() {
        return Err(Error::invalid(
            "--root is needed: the directory with the repositories, or s3:https://ENDPOINT/BUCKET/PREFIX",
        ));
    }
    let options = ServeOptions {
        root: args.own(context)?,
        store: args.store(context)?.map(|address| Ok::<_, Error>((address, context.store_options()?))).transpose()?,
        listen: args.listen,
        certificate: args.tls_cert.clone().zip(args.tls_key.clone()),
        no_tls: args.no_tls,
        names: args.tls_name.clone(),
        limits,
    };
    let server = listen(options)?;
    let stop = ServerStop::default();
    let mut signals = Signals::new([SIGINT, SIGTERM]).at(|| "cannot handle signals".to_owned())?;
    let (handle, trigger) = (signals.handle(), stop.clone());
    let waiter = std::thread::spawn(move || signals.forever().for_each(|_| trigger.stop()));
    let fingerprint = server.fingerprint.map(|f| f.to_string());
    let mut out = Output::new();
    if context.global.json {
        let address = server.address.to_string();
        out.json(&JsonListening { message_type: "listening", address, tls_fingerprint: fingerprint })?;
    } else if !context.global.quiet {
        out.line(&format!("listening on {}", server.address))?;
        if args.store(context)?.is_some() {
            out.line(&format!("tokens, certificate and notes are in {}", paths::shown(&args.own(context)?)))?;
        }
        if let Some(fingerprint) = fingerprint {
            out.line(&format!("clients trust this server by: --tls-fingerprint {fingerprint}"))?;
        }
    }
    out.finish()?;
    server.run(&stop);
    handle.close();
    let _ = waiter.join();
    Ok(())
}

#[derive(Serialize)]
struct JsonFingerprint {
    message_type: &'static str,
    tls_fingerprint: String,
}

fn fingerprint(context: &Context, args: &ServeArgs, given: Option<&Path>) -> Result<()> {
    let path = match given {
        Some(path) => paths::absolute(path)?,
        None => own_certificate(&args.own(context)?),
    };
    let found = Fingerprint::read(&path).map_err(|e| match (e.kind(), given) {
        (ErrorKind::NotFound, None) => {
            Error::new(ErrorKind::NotFound, format!("{e}: the server makes it when it first starts (yester serve --root DIR)"))
        }
        _ => e,
    })?;
    let tls_fingerprint = found.to_string();
    let mut out = Output::new();
    match context.global.json {
        true => out.json(&JsonFingerprint { message_type: "fingerprint", tls_fingerprint })?,
        false => out.line(&tls_fingerprint)?,
    }
    out.finish()
}

/// What a client needs, as lines of a shell. The token itself is on standard output, and nowhere else.
fn client_lines(root: &Path, token: &Token) -> Vec<String> {
    let Some(repository) = &token.repository else { return Vec::new() };
    let host = String::from_utf8(process::host_name()).ok().filter(|name| !name.is_empty() && name.is_ascii());
    let host = host.unwrap_or_else(|| "HOST".to_owned());
    let pin = match Fingerprint::read(&own_certificate(root)) {
        Ok(pin) => pin.to_string(),
        Err(_) => "…   # yester serve fingerprint prints it once the server has started".to_owned(),
    };
    vec![
        "on the client, with the name and port by which it reaches this server:".to_owned(),
        format!("  export YESTER_REPO=https://{host}:7070/{repository}"),
        "  export YESTER_TOKEN_FILE=/etc/yester/token   # a file with the token, mode 0600".to_owned(),
        format!("  export YESTER_TLS_FINGERPRINT={pin}"),
    ]
}

fn token(context: &Context, args: &ServeArgs, command: &TokenCommand) -> Result<()> {
    let root = args.own(context)?;
    let tokens = tokens(&root);
    match command {
        TokenCommand::Create(args) => {
            let (token, text) = tokens.create(grant(args)?)?;
            let mut out = Output::new();
            if context.global.json {
                out.json(&json("token_created", &token, Some(&text)))?;
            } else {
                out.line(&text)?;
            }
            out.finish()?;
            if !context.global.quiet && !context.global.json {
                note(&format!("yester: made token {}: this is the only time that it is shown", token.id));
                client_lines(&root, &token).iter().for_each(|line| note(line));
            }
        }
        TokenCommand::List => {
            let mut out = Output::new();
            for token in tokens.list()? {
                match context.global.json {
                    true => out.json(&json("token", &token, None))?,
                    false => out.line(&line(&token))?,
                }
            }
            out.finish()?;
        }
        TokenCommand::Revoke { id } => {
            let token = tokens.revoke(id)?;
            let mut out = Output::new();
            match context.global.json {
                true => out.json(&json("token_revoked", &token, None))?,
                false => out.line(&format!("revoked token {}", token.id))?,
            }
            out.finish()?;
        }
    }
    Ok(())
}

fn grant(args: &CreateArgs) -> Result<Grant> {
    let mut capabilities = args.can.iter().map(|text| Capability::parse(text)).collect::<Result<Vec<_>>>()?;
    if capabilities.is_empty() {
        capabilities = match args.read_only {
            true => vec![Capability::Get, Capability::List],
            false => Capability::APPEND_ONLY.to_vec(),
        };
    }
    if args.full {
        capabilities.push(Capability::Prune);
    }
    let repository = args.name.as_deref().map(RepositoryName::parse).transpose()?;
    if repository.is_none() && capabilities.iter().any(|c| *c != Capability::Metrics) {
        return Err(Error::invalid("a token is for one repository: give its name (only metrics needs none)"));
    }
    let now = context::now().secs;
    let lasts = args.expires.map(|time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    let expires = lasts.map(|lasts| now.saturating_add(lasts));
    let note = args.note.clone();
    Ok(Grant { repository, capabilities, quota: args.quota, rate: args.rate, expires, note, now })
}

fn time(secs: i64) -> Timestamp {
    Timestamp { secs, nanos: 0 }
}

fn json<'a>(message_type: &'static str, token: &'a Token, text: Option<&'a str>) -> JsonToken<'a> {
    JsonToken {
        message_type,
        id: &token.id,
        token: text,
        repository: token.repository.as_ref().map(RepositoryName::as_str),
        capabilities: token.capabilities.iter().map(|c| c.name()).collect(),
        quota: token.quota,
        rate: token.rate,
        expires: token.expires.map(|end| units::utc_time(time(end))),
        created: units::utc_time(time(token.created)),
        note: &token.note,
    }
}

fn line(token: &Token) -> String {
    let capabilities: Vec<&str> = token.capabilities.iter().map(|c| c.name()).collect();
    let repository = token.repository.as_ref().map_or("-", RepositoryName::as_str);
    let mut line =
        format!("{}  {repository}  {}  made {}", token.id, capabilities.join(","), units::local_time(time(token.created)));
    if let Some(quota) = token.quota {
        line += &format!("  at most {}", units::size(quota));
    }
    if let Some(rate) = token.rate {
        line += &format!("  {} a second", units::size(rate));
    }
    if let Some(end) = token.expires {
        let word = if end <= context::now().secs { "expired" } else { "until" };
        line += &format!("  {word} {}", units::local_time(time(end)));
    }
    if !token.note.is_empty() {
        line += &format!("  {}", yester::model::escape(token.note.as_bytes()));
    }
    line
}
