//! Servers of all kinds, each in a scratch directory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use yester::format::envelope::{self, CHECKSUM, HEADER, ObjectType};
use yester::model::{PackId, RepositoryId, SegmentId, SlotId, SnapshotId};
use yester::remote::address::Address;
use yester::remote::client::{RemoteOptions, RemoteStorage};
use yester::remote::protocol::{Capability, RepositoryName};
use yester::remote::tls::{Fingerprint, Trust};
use yester::remote::tokens::Grant;
use yester::serve::objects::limits::Limits;
use yester::serve::objects::{ServeOptions, ServerStop, listen, tokens};
use yester::storage::{Created, Name, Storage};
use zeroize::Zeroizing;

/// How long clients wait for an answer where none stays away: the machine may be very busy.
pub const PATIENT: Duration = Duration::from_secs(120);

pub const FULL: [Capability; 4] = [Capability::Put, Capability::Get, Capability::List, Capability::Prune];

/// A server over TLS, in this process.
pub struct Server {
    pub root: PathBuf,
    pub port: u16,
    pub fingerprint: Option<Fingerprint>,
    stop: ServerStop,
    thread: Option<JoinHandle<()>>,
}

pub fn serve_options(root: &Path) -> ServeOptions {
    ServeOptions {
        root: root.to_owned(),
        store: None,
        listen: "127.0.0.1:0".parse().unwrap(),
        certificate: None,
        no_tls: false,
        names: Vec::new(),
        // Tests leave stalled connections behind. Who is slow is cut only where that is what is tested.
        limits: Limits { stopping: Duration::from_secs(1), first_request: PATIENT, idle: PATIENT, ..Limits::default() },
    }
}

impl Server {
    pub fn start(root: &Path) -> Server {
        Server::with(serve_options(root))
    }

    pub fn with(options: ServeOptions) -> Server {
        std::fs::create_dir_all(&options.root).unwrap();
        let root = options.root.clone();
        let listening = listen(options).unwrap();
        let (port, fingerprint) = (listening.address.port(), listening.fingerprint);
        let stop = ServerStop::default();
        let watched = stop.clone();
        let thread = std::thread::spawn(move || listening.run(&watched));
        Server { root, port, fingerprint, stop, thread: Some(thread) }
    }

    pub fn stop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// The directory of `web`, past the server.
    pub fn storage_local(&self) -> yester::storage::directory::DirectoryStorage {
        yester::storage::directory::DirectoryStorage::open(&self.root.join("web")).unwrap()
    }

    pub fn grant(&self, name: &str, capabilities: &[Capability]) -> Grant {
        let repository = Some(RepositoryName::parse(name).unwrap());
        Grant { repository, capabilities: capabilities.to_vec(), now: 1, ..Grant::default() }
    }

    pub fn token(&self, grant: Grant) -> String {
        tokens(&self.root).create(grant).unwrap().1.to_string()
    }

    pub fn options(&self, token: &str) -> RemoteOptions {
        RemoteOptions {
            token: Some(Zeroizing::new(token.to_owned())),
            trust: Trust { fingerprint: self.fingerprint, authorities: None },
            timeout: PATIENT,
            ..RemoteOptions::default()
        }
    }

    pub fn address(&self, name: &str) -> Address {
        at_port(self.port, name)
    }

    /// A repository of this name, made if need be, with all capabilities.
    pub fn storage(&self, name: &str) -> RemoteStorage {
        let token = self.token(self.grant(name, &FULL));
        RemoteStorage::create(&self.address(name), &self.options(&token)).unwrap()
    }

    /// The same through a token with these capabilities only.
    pub fn storage_for(&self, name: &str, capabilities: &[Capability]) -> RemoteStorage {
        let token = self.token(self.grant(name, capabilities));
        RemoteStorage::open(&self.address(name), &self.options(&token)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn at_port(port: u16, name: &str) -> Address {
    Address::https(format!("127.0.0.1:{port}/{name}").as_bytes()).unwrap()
}

/// A program that stands for ssh: it runs here what ssh would run there.
pub fn fake_ssh(directory: &Path) -> Vec<OsString> {
    let script = directory.join("ssh.sh");
    if !script.exists() {
        std::fs::write(&script, "echo Welcome to this machine\nfor last; do :; done\nexec sh -c \"$last\"\n").unwrap();
    }
    vec!["sh".into(), script.into()]
}

/// Options of a client over [`fake_ssh`]; `more` are options of `serve --stdio`.
pub fn stdio_options(directory: &Path, more: &str) -> RemoteOptions {
    let program = env!("CARGO_BIN_EXE_yester");
    // What follows `yester` on the far side is ours to say: the rest of the options comes before it.
    let remote_program =
        if more.is_empty() { program.to_owned() } else { format!("with() {{ {program} \"$@\" {more}; }}; with") };
    RemoteOptions { ssh: fake_ssh(directory), remote_program, timeout: PATIENT, ..RemoteOptions::default() }
}

pub fn ssh_address(path: &Path) -> Address {
    Address::ssh(format!("host{}", path.display()).as_bytes()).unwrap()
}

/// Whose objects these are.
pub const REPOSITORY: RepositoryId = RepositoryId([7; 16]);
/// Bytes of header and checksum, around what an object holds.
pub const AROUND: usize = HEADER + CHECKSUM;

/// The type of an object of this name.
pub fn kind(name: &Name) -> ObjectType {
    match name {
        Name::Config(..) => ObjectType::Config,
        Name::Key(..) => ObjectType::KeySlot,
        Name::Removed(_) => ObjectType::Removed,
        Name::Pack(_) => ObjectType::Pack,
        Name::Segment(_) => ObjectType::Segment,
        Name::Session(_) => ObjectType::Session,
        Name::Beat(..) => ObjectType::Beat,
        Name::Snapshot(_) => ObjectType::Snapshot,
        Name::Forgotten(_) => ObjectType::Forgotten,
        Name::Condemned(_) => ObjectType::Condemned,
        Name::Damaged(_) => ObjectType::Damaged,
        Name::Run(_) => ObjectType::Run,
        Name::Annotation(_) => ObjectType::Annotation,
        Name::Group(..) => ObjectType::Group,
        Name::Parity(..) => ObjectType::Parity,
    }
}

/// An object that may have this name, as far as can be told without the key. Packs and segments: see [`pack`].
pub fn framed(name: &Name, content: &[u8]) -> Vec<u8> {
    envelope::wrap(kind(name), REPOSITORY, content)
}

/// A pack that holds these bytes: its name, and the object, which has 60 bytes more.
pub fn pack(content: &[u8]) -> (Name, Vec<u8>) {
    let object = envelope::wrap(ObjectType::Pack, REPOSITORY, content);
    (Name::Pack(PackId(*object.last_chunk().unwrap())), object)
}

pub fn segment(content: &[u8]) -> (Name, Vec<u8>) {
    let object = envelope::wrap(ObjectType::Segment, REPOSITORY, content);
    (Name::Segment(SegmentId(*object.last_chunk().unwrap())), object)
}

/// Bytes that do not repeat.
pub fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut out);
    out
}

pub fn id(n: u8) -> SnapshotId {
    SnapshotId([n; 32])
}

pub fn slot(n: u8) -> SlotId {
    SlotId([n; 16])
}

pub fn read(storage: &dyn Storage, name: &Name) -> yester::Result<Vec<u8>> {
    let mut out = vec![1, 2, 3];
    storage.read(name, None, &mut out).map(|()| out)
}

#[track_caller]
pub fn must_create(storage: &dyn Storage, name: &Name, content: &[u8]) {
    assert_eq!(storage.create(name, &[content]).unwrap(), Created::New, "{name}");
}

/// Creates an object of this name that holds `content`.
pub fn put(storage: &dyn Storage, name: &Name, content: &[u8]) -> yester::Result<Created> {
    storage.create(name, &[&framed(name, content)])
}

#[track_caller]
pub fn must_put(storage: &dyn Storage, name: &Name, content: &[u8]) {
    must_create(storage, name, &framed(name, content));
}
