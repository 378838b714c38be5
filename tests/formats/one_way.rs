//! The golden repository of a key that only writes: read with the full key, and its objects opened by hand, as
//! docs/format.md says.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use yester::chunk::codec::Compression;
use yester::chunk::keys::Credential;
use yester::format::config::{ChunkerParameters, Derivation, decode_slot};
use yester::format::envelope;
use yester::ingest::{IngestOptions, Source, ingest};
use yester::keys::keyring::KeyRing;
use yester::keys::slots::SlotOptions;
use yester::model::{SlotId, Timestamp};
use yester::observe::Reports;
use yester::repo::index::Index;
use yester::repo::reader::ChunkReader;
use yester::repo::tree::TreeReader;
use yester::repo::{InitOptions, Repository, snapshots};
use yester::storage::directory::DirectoryStorage;
use yester::storage::{Class, Name};
use yester::task::Task;

use crate::common::golden;

/// Both keys are fixed: the repository is to be read by everybody.
const FULL: Credential = Credential::KeyFile([1; 32]);
const WRITER: Credential = Credential::KeyFile([2; 32]);
const CONTENT: &[u8] =
    b"what the golden writer wrote, longer than what stands in a node: 0123456789 0123456789 0123456789 0123456789";

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1-writer")
}

/// Writes it anew when that is asked for, once.
fn regenerate() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os("YESTER_WRITE_GOLDEN").is_some() {
            write_golden();
        }
    });
}

fn write_golden() {
    let (place, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = place.path().join("repository");
    let storage = Arc::new(DirectoryStorage::create(&path).unwrap());
    let (now, chunker) = (Timestamp { secs: 1_700_000_000, nanos: 0 }, ChunkerParameters::DEFAULT);
    let options = InitOptions { chunker, derivation: Derivation::KeyFile, now, label: b"golden".to_vec() };
    Repository::init(storage.clone(), &FULL, &options).unwrap();
    let slot = SlotOptions { derivation: Derivation::KeyFile, now, label: b"writer".to_vec() };
    KeyRing::open(storage.clone(), &FULL).unwrap().add_writer(&WRITER, &slot).unwrap();
    let writer = Arc::new(Repository::open_to_write(storage, &WRITER, &Reports::default()).unwrap());
    std::fs::write(source.path().join("file"), CONTENT).unwrap();
    let sources = [Source { path: source.path().to_owned(), stored: b"/golden".to_vec() }];
    let options = IngestOptions { host: b"host".to_vec(), compression: Compression::Level(3), ..IngestOptions::default() };
    assert!(ingest(&writer, &sources, &options, &Task::default()).unwrap().committed);
    let _ = std::fs::remove_dir_all(home());
    golden::copy_files(&path, &home().join("repository"));
}

fn open() -> (tempfile::TempDir, Arc<DirectoryStorage>) {
    regenerate();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("repository");
    drop(DirectoryStorage::create(&path).unwrap());
    golden::copy_files(&home().join("repository"), &path);
    (place, Arc::new(DirectoryStorage::open(&path).unwrap()))
}

/// The object's key and commitment, made by hand of the master key.
fn by_hand(master: &[u8; 32], writer: &[u8], context: &str, object: &[u8], bound: &[u8]) -> [u8; 48] {
    let all = blake3::derive_key("yester v1 keys that only write", master);
    let secret = *blake3::keyed_hash(&all, writer).as_bytes();
    let class = blake3::derive_key(context, &secret);
    let private = blake3::derive_key("yester v1 private key", master);
    let private = PrivateKey::from_private_key(&X25519, &private).unwrap();
    let public = private.compute_public_key().unwrap();
    let salt = &object[28..60];
    let agreed = agree(&private, UnparsedPublicKey::new(&X25519, salt), (), |shared| Ok(shared.to_vec())).unwrap();
    let mut hasher = blake3::Hasher::new_keyed(&class);
    for part in [salt, &agreed, public.as_ref(), &object[..28], bound] {
        hasher.update(part);
    }
    let mut out = [0; 48];
    hasher.finalize_xof().fill(&mut out);
    out
}

#[test]
fn the_golden_writers_repository_is_as_documented() {
    let (_place, storage) = open();
    let repo = Arc::new(Repository::open(storage.clone(), &FULL).unwrap());
    let master = *KeyRing::open(storage.clone(), &FULL).unwrap().recovery().master;
    let slots: Vec<SlotId> = golden::objects(&repo, Class::Keys)
        .into_iter()
        .filter(|(_, object)| decode_slot(&object[28..object.len() - 32]).unwrap().wrapped.only_writes())
        .filter_map(|(name, _)| if let Name::Key(id, 0) = name { Some(id) } else { None })
        .collect();
    let [slot] = slots.as_slice() else { panic!("one slot only writes: {slots:?}") };
    let writer = &slot.0[..8];
    let mut seen = 0;
    for class in [Class::Packs, Class::Index, Class::Snapshots] {
        for (name, object) in golden::objects(&repo, class) {
            assert_eq!(object[9], envelope::ONE_WAY, "{name}");
            let (context, bound) = match &name {
                Name::Pack(_) => {
                    assert_eq!((object[109], &object[100..108]), (1, writer), "{name}");
                    let context = ["yester v1 packs of data", "yester v1 packs of trees"][usize::from(object[108]) - 1];
                    (context, [&object[108..112], writer].concat())
                }
                Name::Segment(_) => {
                    assert_eq!(&object[76..84], writer, "{name}");
                    ("yester v1 index segments", writer.to_vec())
                }
                Name::Snapshot(id) => {
                    assert_eq!(&id.0[24..], writer, "{name}");
                    ("yester v1 snapshots and sessions", id.0.to_vec())
                }
                other => panic!("{other}"),
            };
            assert_eq!(by_hand(&master, writer, context, &object, &bound)[32..], object[60..76], "{name}: the commitment");
            seen += 1;
        }
    }
    assert!(seen >= 4, "packs of both kinds, a segment and a snapshot: {seen}");
}

#[test]
fn the_golden_writers_snapshot_is_read_with_the_full_key_alone() {
    let (_place, storage) = open();
    let repo = Arc::new(Repository::open(storage.clone(), &FULL).unwrap());
    assert_eq!(Repository::open(storage, &WRITER).unwrap_err().kind(), yester::ErrorKind::Key);
    let [snapshot] = &snapshots::list(&repo).unwrap()[..] else { panic!("one snapshot") };
    let chunks = Arc::new(ChunkReader::new(repo.clone(), Arc::new(Index::load(&repo).unwrap()), 1 << 20).unwrap());
    let trees = TreeReader::new(chunks, 1 << 20).unwrap();
    let (node, _) = trees.walk_to(&snapshot.root, &[b"golden", b"file"]).unwrap();
    let yester::model::Kind::File(content) = &node.kind else { panic!("a file") };
    let mut out = Vec::new();
    trees.read(content, 0, 1000, &mut out).unwrap();
    assert_eq!(out, CONTENT);
    // The id of its chunk says whose it is.
    let yester::model::Content::Items(items) = content else { panic!("a chunk") };
    let [yester::model::Item::Chunk { id, .. }] = items.as_slice() else { panic!("one chunk") };
    assert_eq!(id.0[24..], snapshot.id.0[24..]);
    assert!(repo.keys().is_chunk(yester::format::pack::PackKind::Data, id, CONTENT));
}
