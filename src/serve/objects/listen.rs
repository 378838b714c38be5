//! Listening: what must be in order before anybody is let in.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::error::{Error, IoContext, Result};
use crate::remote::client::RemoteOptions;
use crate::remote::s3::address::StoreAddress;
use crate::remote::tls::{Fingerprint, TlsIdentity, server_config};
use crate::serve::objects::access::Door;
use crate::serve::objects::backing::StoreRoot;
use crate::serve::objects::certificate::Certificate;
use crate::serve::objects::connections::{self, Listener};
use crate::serve::objects::limits::Limits;
use crate::serve::objects::{NOTES, OWN, Server, ServerStop, runtime, tokens};
use crate::sys::process;

/// How a server runs.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The directory with the repositories, and with what is the server's own.
    pub root: PathBuf,
    /// The object store that has the repositories; then only what is the server's own is in the directory, which is made.
    pub store: Option<(StoreAddress, RemoteOptions)>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Certificates and their key; without, one that the server makes itself.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// No TLS: behind something on this machine that speaks it.
    pub no_tls: bool,
    /// Names that a certificate that is made is for.
    pub names: Vec<String>,
    /// What is given.
    pub limits: Limits,
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Listening {
    runtime: tokio::runtime::Runtime,
    server: Arc<Server>,
    listener: Listener,
    /// Where it listens.
    pub address: SocketAddr,
    /// Of its certificate.
    pub fingerprint: Option<Fingerprint>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener of {:?}", self.socket)
    }
}

/// Begins to listen. Beyond this machine only with TLS and a token.
pub fn listen(options: ServeOptions) -> Result<Listening> {
    let ServeOptions { root, store, listen, certificate, no_tls, names, limits } = options;
    let local = listen.ip().is_loopback();
    let tokens = tokens(&root);
    if !local && no_tls {
        let text = format!("{listen} can be reached from other machines: without TLS only a loopback address may be listened on");
        return Err(Error::invalid(text));
    }
    if !local && tokens.list()?.is_empty() {
        let text = format!(
            "{listen} can be reached from other machines and there is no token yet: make one with yester serve token create"
        );
        return Err(Error::invalid(text));
    }
    if store.is_some() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root);
        made.at(|| format!("cannot make the directory {}", shown(&root)))?;
    }
    if !root.is_dir() {
        let shown = shown(&root);
        return Err(Error::invalid(format!("{shown} is no directory: --root names the one with the repositories")));
    }
    let files = match (no_tls, certificate) {
        (true, _) => None,
        (false, Some(given)) => Some(given),
        (false, None) => Some(TlsIdentity::made(&root.join(OWN), &own_names(names), &[listen.ip(), LOOPBACK])?),
    };
    let certificate = files.map(|(chain, key)| Certificate::read(chain, key)).transpose()?;
    let (certificate, fingerprint) = certificate.unzip();
    let fingerprint = fingerprint.flatten();
    let tls = certificate.map(|shown| server_config(Arc::new(shown)).map(TlsAcceptor::from)).transpose()?;
    let runtime = runtime()?;
    let socket = runtime.block_on(TcpListener::bind(listen)).at(|| format!("cannot listen on {listen}"))?;
    let address = socket.local_addr().at(|| format!("cannot listen on {listen}"))?;
    let below = if store.is_some() { root.join(OWN).join(NOTES) } else { root };
    let open = |(address, options): (StoreAddress, RemoteOptions)| StoreRoot::open(&address, &options, &below);
    let store = store.map(open).transpose()?;
    let server = Server::new(Door::Tokens { root: below, tokens, seen: Mutex::default() }, store, limits, tls.is_some());
    Ok(Listening { runtime, server, listener: Listener { socket, tls }, address, fingerprint })
}

fn shown(path: &Path) -> String {
    crate::model::escape(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
}

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn own_names(given: Vec<String>) -> Vec<String> {
    let host = String::from_utf8(process::host_name()).ok().filter(|name| name.is_ascii() && !name.is_empty());
    let mut names: Vec<String> = given.into_iter().chain(host).chain(["localhost".to_owned()]).collect();
    names.dedup();
    names
}

impl Listening {
    /// Answers until `stop`.
    pub fn run(self, stop: &ServerStop) {
        let Listening { runtime, server, listener, .. } = self;
        runtime.block_on(connections::serve(server, listener, stop.watch()));
        runtime.shutdown_background();
    }
}
