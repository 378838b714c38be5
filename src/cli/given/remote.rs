//! How to talk to other machines: the options of `https://` and `ssh://`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use yester::jobs::credential::ServerToken;
use yester::remote::client::RemoteOptions;
use yester::remote::rate::Limit;
use yester::remote::s3::credentials::S3Options;
use yester::remote::tls::{Fingerprint, Trust};
use yester::{Error, Result};

use crate::cli::args::Global;
use crate::cli::given::variables;
use crate::cli::say::{log, units};

/// Where the name of a bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BucketIn {
    /// `https://ENDPOINT/BUCKET/…`
    Path,
    /// `https://BUCKET.ENDPOINT/…`
    Host,
}

/// Options for repositories on other machines.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Repositories on other machines")]
pub struct RemoteArgs {
    /// Trust the server whose certificate has this SHA-256 fingerprint, and no other [env: YESTER_TLS_FINGERPRINT]
    #[arg(long, value_name = "HEX", global = true, conflicts_with = "cacert")]
    pub tls_fingerprint: Option<String>,
    /// Trust what the authorities in this PEM file have signed, and nothing else [env: YESTER_CACERT]
    #[arg(long, value_name = "FILE", global = true)]
    pub cacert: Option<PathBuf>,
    /// Region of the object store [env: AWS_REGION] [default: the endpoint's, the profile's, or us-east-1]
    #[arg(long, value_name = "REGION", global = true)]
    pub region: Option<String>,
    /// Where the object store expects the bucket's name: in the path, or in the host's name [default: path]
    #[arg(long, value_name = "WHERE", global = true)]
    pub bucket_in: Option<BucketIn>,
    /// Storage class of new packs that hold content of files; trees and the index keep the bucket's own
    #[arg(long, value_name = "CLASS", global = true)]
    pub data_class: Option<String>,
    /// Connections at once [default: 2 to a server, 8 to an object store]
    #[arg(long, value_name = "N", global = true, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub connections: Option<u16>,
    /// Send at most so many bytes a second, as in 2M
    #[arg(long, value_name = "SIZE", global = true, value_parser = limit)]
    pub limit_upload: Option<Limit>,
    /// Receive at most so many bytes a second
    #[arg(long, value_name = "SIZE", global = true, value_parser = limit)]
    pub limit_download: Option<Limit>,
    /// Give up when nothing has moved for so many seconds [default: 60]
    #[arg(long, value_name = "SECONDS", global = true, value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// The ssh program with its own options [env: YESTER_SSH_COMMAND] [default: ssh]
    #[arg(long, value_name = "COMMAND", global = true)]
    pub ssh_command: Option<String>,
    /// What yester is called on the far side of ssh [env: YESTER_REMOTE_PROGRAM] [default: yester]
    #[arg(long, value_name = "PROGRAM", global = true)]
    pub remote_program: Option<String>,
}

fn limit(text: &str) -> Result<Limit, String> {
    units::parse_rate(text).map(Limit::of)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let digits = text.strip_suffix('s').unwrap_or(text);
    match digits.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("it must be a number of seconds from 0.1 to 86400".to_owned()),
    }
}

fn variable(name: &str) -> Result<Option<String>> {
    variables::own(name)?.map(|v| v.into_string().map_err(|_| Error::invalid(format!("{name} is not text")))).transpose()
}

/// What only object stores need.
fn store_options(args: &RemoteArgs) -> S3Options {
    let variables = std::env::vars_os().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
    S3Options {
        variables: variables.filter(|(name, _)| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|of| name.starts_with(of))).collect(),
        home: std::env::var_os("HOME").map(PathBuf::from),
        region: args.region.clone(),
        virtual_hosts: args.bucket_in == Some(BucketIn::Host),
        data_class: args.data_class.clone(),
        connections: args.connections.map(usize::from),
    }
}

/// What the options and the environment say; an option beats every variable.
pub fn options(global: &Global, token: Option<ServerToken>) -> Result<RemoteOptions> {
    let args = &global.remote;
    let default = RemoteOptions::default();
    let mut trust = Trust { fingerprint: None, authorities: args.cacert.clone() };
    let given = args.tls_fingerprint.is_some() || args.cacert.is_some();
    let pinned = if given { args.tls_fingerprint.clone() } else { variable("YESTER_TLS_FINGERPRINT")? };
    trust.fingerprint = pinned.as_deref().map(Fingerprint::parse).transpose()?;
    if !given && trust.fingerprint.is_none() {
        trust.authorities = variables::own("YESTER_CACERT")?.map(PathBuf::from);
    }
    let ssh = args.ssh_command.clone().map_or_else(|| variable("YESTER_SSH_COMMAND"), |c| Ok(Some(c)))?;
    let ssh: Vec<OsString> = ssh.unwrap_or_default().split_whitespace().map(OsString::from).collect();
    let remote = args.remote_program.clone().map_or_else(|| variable("YESTER_REMOTE_PROGRAM"), |p| Ok(Some(p)))?;
    Ok(RemoteOptions {
        token,
        trust,
        connections: args.connections.map_or(default.connections, usize::from),
        timeout: args.timeout.unwrap_or(default.timeout),
        limit_upload: args.limit_upload.clone(),
        limit_download: args.limit_download.clone(),
        ssh: if ssh.is_empty() { default.ssh } else { ssh },
        remote_program: remote.unwrap_or(default.remote_program),
        s3: store_options(args),
        reports: log::reports(),
    })
}
