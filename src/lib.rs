//! yester: a FUSE-mounted, versioned backup file system.
//!
//! A repository on a [`storage::Storage`] holds snapshots. [`ingest`] takes one of directories, [`mount`] shows them,
//! [`restore`] copies them back:
//!
//! ```
//! use std::sync::Arc;
//! use yester::chunk::keys::Credential;
//! use yester::format::config::{ChunkerParameters, Derivation};
//! use yester::ingest::{IngestOptions, Source, ingest};
//! use yester::model::Kind;
//! use yester::repo::index::Index;
//! use yester::repo::reader::ChunkReader;
//! use yester::repo::tree::TreeReader;
//! use yester::repo::{InitOptions, Repository, snapshots};
//! use yester::storage::directory::DirectoryStorage;
//! use yester::task::Task;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let place = tempfile::tempdir()?;
//! let home = place.path().join("home");
//! std::fs::create_dir(&home)?;
//! std::fs::write(home.join("letter.txt"), "Dear reader")?;
//! let task = Task::default();
//!
//! // A new repository in a directory; the 32 bytes of a key file unlock it.
//! let storage = Arc::new(DirectoryStorage::create(&place.path().join("repository"))?);
//! let (chunker, derivation) = (ChunkerParameters::DEFAULT, Derivation::DEFAULT);
//! let options = InitOptions { chunker, derivation, now: task.now(), label: b"me".to_vec() };
//! let repo = Arc::new(Repository::init(storage, &Credential::KeyFile([7; 32]), &options)?);
//!
//! // A snapshot of a directory, which is /home in it.
//! let source = Source { path: home, stored: b"/home".to_vec() };
//! let report = ingest(&repo, &[source], &IngestOptions::default(), &task)?;
//!
//! // The list of snapshots, and a file of the only one.
//! let snapshots = snapshots::list(&repo)?;
//! assert_eq!(snapshots.iter().map(|snapshot| snapshot.id).collect::<Vec<_>>(), [report.snapshot.id]);
//! let chunks = ChunkReader::new(repo.clone(), Arc::new(Index::load(&repo)?), 8 << 20)?;
//! let trees = TreeReader::new(Arc::new(chunks), 1 << 20)?;
//! let (node, _) = trees.walk_to(&snapshots[0].root, &[b"home", b"letter.txt"])?;
//! let Kind::File(content) = &node.kind else { panic!("it is a file") };
//! let mut bytes = Vec::new();
//! trees.read(content, 0, content.size() as usize, &mut bytes)?;
//! assert_eq!(bytes, b"Dear reader");
//! # Ok(())
//! # }
//! ```
//!
//! Rooms, and what each may use (held by `tests/rules/architecture.rs`):
//!
//! | room | what it is | may use |
//! |---|---|---|
//! | `serve` | the server, which gives other machines access to repositories | `remote` and what that stands on |
//! | `jobs` | opening a repository by its location, credentials, the configuration file | `ingest`, `restore`, `maintain`, `remote` and what they stand on |
//! | `archive` | a tree of a snapshot as tar or zip | `vfs` and what it stands on |
//! | `mount` | the kernel's side of a mount: `fuser`, mount points | `vfs`, `repo`, `model`, `sys` |
//! | `vfs` | snapshots as a file system without a kernel, read-ahead | `query`, `repo` and what they stand on |
//! | `ingest` | directories and streams in, a snapshot out | `local`, `repo` and what they stand on |
//! | `restore` | a snapshot in, directories out | `repo` and what it stands on |
//! | `doctor` | what is lost, and where it is to be had again | `copy`, `maintain` and what they stand on |
//! | `import` | histories of other tools in, snapshots out | `copy` and what it stands on |
//! | `copy` | snapshots from one repository to another | `ingest` and what it stands on |
//! | `query` | differences between snapshots, finding entries, histories of paths | `repo` and what it stands on |
//! | `maintain` | check, forget, prune, repair, counting | `parity`, `local` and what they stand on |
//! | `parity` | what is lost of packs, computed from the rest of their group | `repo` and what it stands on |
//! | `local` | what this machine remembers of a repository | `repo`, `storage`, `model`, `sys` |
//! | `repo` | an open repository: packs, index, trees, snapshots | `keys`, `storage`, `format`, `chunk`, `model`, `sys` |
//! | `keys` | configuration, key slots, recovery text | `storage`, `format`, `chunk`, `model` |
//! | `remote` | repositories on other machines: protocol, client, ssh, TLS, object stores | `storage`, `format`, `model`, `sys` |
//! | `task` | what every long operation of the rooms above `repo` is given: how it is stopped, where it reports, its clock | `sys`, `model` |
//! | `storage` | the `Storage` trait; a directory, memory | `model`, `sys` |
//! | `chunk` | cut, hash, compress, seal: only computing | `format`, `model`, `sys` |
//! | `format` | the format on disk: bytes from values and back, only computing | `model` |
//! | `model` | ids, nodes, snapshots: immutable values | `error` |
//! | `sys` | the operating system; the only `unsafe` | `model` |
//! | `error`, `observe` | the error type; what is reported, and to whom | nothing |
//!
//! The command line (`cli`, part of the binary) stands above all of them and is the only room that prints.

// The library never panics on purpose and never prints; tests and the command line may.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr))]
// `pub` is what the program and the tests use; everything else is `pub(crate)`.
#![warn(unreachable_pub)]

pub mod archive;
pub mod chunk;
pub mod copy;
pub mod doctor;
pub mod error;
pub mod format;
pub mod import;
pub mod ingest;
pub mod jobs;
pub mod keys;
pub mod local;
pub mod maintain;
pub mod model;
pub mod mount;
pub mod observe;
pub mod parity;
pub mod query;
pub mod remote;
pub mod repo;
pub mod restore;
pub mod serve;
pub mod storage;
pub mod sys;
pub mod task;
pub mod vfs;

pub use error::{Error, ErrorKind, Result};
