//! Rows 1 to 18: configuration and keys.

use std::fs;

use yester::chunk::seal;
use yester::format::config::{self, ChunkerParameters, Config, Derivation, KeySlot, WrappedKey};
use yester::format::cursor::Put;
use yester::format::envelope::{self, ObjectType};
use yester::model::{RepositoryId, SnapshotId, Timestamp};
use yester::storage::{Class, Name};

use crate::bad_input::{Place, checksum, spoil};
use crate::common::program::{World, finish, shown, with};

/// Writes all copies of the configuration as the repository's key would confirm it.
fn reconfigure(place: &Place, config: &Config) {
    let header = envelope::header(ObjectType::Config, config.repository);
    let mac = place.repo.keys().config_mac(&header, &config::config_fields(config));
    let object = envelope::wrap(ObjectType::Config, config.repository, &config::encode_config_unchecked(config, &mac));
    place.spoil(Class::Config, |bytes| bytes.clone_from(&object));
}

/// Writes all copies of the key slot.
fn reslot(place: &Place, body: &[u8]) {
    let object = envelope::wrap(ObjectType::KeySlot, place.repo.id(), body);
    place.spoil(Class::Keys, |bytes| bytes.clone_from(&object));
}

fn slot(derivation: Derivation) -> KeySlot {
    let (salt, commitment, wrapped) = ([1; 32], [2; 16], [3; 48]);
    KeySlot {
        derivation,
        salt,
        commitment,
        wrapped: WrappedKey::Master(wrapped),
        created: Timestamp::default(),
        label: Vec::new(),
        former: Vec::new(),
    }
}

#[test]
fn row_01_empty_repository() {
    let world = World::new();
    fs::create_dir(world.at("empty")).unwrap();
    world.file("key", "00".repeat(32));
    for command in ["snapshots", "check", "stats"] {
        let run = world.run(&["-r", "empty", "--key-file", "key", command]);
        run.fails(10, &["there is no repository at", &shown(&world.at("empty")), "yester init"]);
    }
    assert_eq!(fs::read_dir(world.at("empty")).unwrap().count(), 0);
}

#[test]
fn row_02_init_in_a_directory_with_files() {
    let world = World::new();
    world.file("full/file", "mine");
    world.run(&["-r", "full", "--key-file", "key", "init"]).fails(1, &[&shown(&world.at("full")), "not empty"]);
    assert_eq!(crate::bad_input::names(&world.at("full")), ["file"]);
    assert!(!world.at("key").exists());
}

#[test]
fn row_03_init_over_a_repository() {
    let place = Place::with_files();
    place.run(&["init"]).fails(1, &[&shown(&place.world.at("repo")), "already"]);
    place.run(&["check", "--read-data"]).ok();
}

#[test]
fn row_04_configuration_without_magic() {
    let place = Place::with_files();
    place.spoil(Class::Config, |bytes| bytes[..8].copy_from_slice(b"PK\x03\x04zip!"));
    place.run(&["snapshots"]).fails(1, &["config/00000001", "not those of a yester object", "yester key recover"]);
}

#[test]
fn row_05_configuration_of_a_newer_version() {
    let place = Place::with_files();
    let claim = |bytes: &mut Vec<u8>| {
        bytes[10] = 2;
        checksum(bytes);
    };
    // Whoever has the key may say so; nobody else.
    place.spoil(Class::Config, claim);
    place.run(&["snapshots"]).fails(1, &["no copy of it is authentic", "yester key recover"]);
    place.spoil(Class::Config, |bytes| {
        let mac = bytes.len() - 64;
        let made = place.repo.keys().config_mac(&bytes[..28], &bytes[28..mac]);
        bytes[mac..mac + 32].copy_from_slice(&made);
        checksum(bytes);
    });
    place.run(&["snapshots"]).fails(1, &["format version 2", "newer yester"]);
}

#[test]
fn row_06_unknown_mandatory_feature() {
    let place = Place::with_files();
    reconfigure(&place, &Config { mandatory: 4, ..place.repo.config().clone() });
    place.run(&["snapshots"]).fails(1, &["features (0x4)", "newer yester"]);
    place.run(&["ingest", "src"]).fails(1, &["newer yester"]);
}

#[test]
fn row_07_configuration_cut() {
    let place = Place::with_files();
    let whole = fs::read(&place.files(Class::Config)[0]).unwrap();
    for len in [0, 7, 27, 28, 59, 60, whole.len() - 1] {
        place.spoil(Class::Config, |bytes| bytes.clone_from(&whole[..len].to_vec()));
        place.run(&["snapshots"]).fails(1, &["config/00000001", "yester key recover"]);
    }
}

#[test]
fn row_08_configuration_flipped() {
    let place = Place::with_files();
    let copies = place.files(Class::Config);
    for copy in &copies {
        spoil(copy, |bytes| bytes[40] ^= 1);
        // The other copies serve; who checks is told, and how to heal it.
        place.run(&["snapshots"]).ok();
        let run = place.run(&["check"]);
        let name = format!("damage: config/{}", copy.file_name().unwrap().to_str().unwrap());
        assert!(run.code == Some(1) && run.err.contains(&name) && run.err.contains("yester repair keys"), "{}", run.err);
        place.run(&["repair", "keys"]).ok();
        place.run(&["check"]).ok();
    }
    place.spoil(Class::Config, |bytes| bytes[40] ^= 1);
    place.run(&["snapshots"]).fails(1, &["config/00000001", "checksum"]);
}

#[test]
fn row_09_wrong_passphrase() {
    let world = World::new();
    world.file("right", "right");
    world.file("wrong", "wrong");
    world.run(&["-r", "repo", "--password-file", "right", "init"]).ok();
    world
        .run(&["-r", "repo", "--password-file", "wrong", "snapshots"])
        .fails(12, &["wrong passphrase", &shown(&world.at("repo")), "damaged"]);
    world.run(&["-r", "repo", "--password-file", "wrong", "ingest", "right"]).fails(12, &["wrong passphrase"]);
}

#[test]
fn row_10_empty_passphrase() {
    let world = World::new();
    world.file("empty", "\n");
    world.run(&["-r", "repo", "--password-file", "empty", "init"]).fails(12, &["passphrase is empty"]);
    world.run_with(&[("YESTER_PASSWORD", "")], &["-r", "repo", "init"]).fails(12, &["passphrase is empty"]);
    assert!(!world.at("repo").exists());
}

#[test]
fn row_11_odd_passphrases() {
    let world = World::new();
    // Bytes are bytes.
    for (number, passphrase) in [&b"with\0nul"[..], b"\xff\xfe invalid", "\u{202e}right to left".as_bytes()].iter().enumerate() {
        world.file("odd", passphrase);
        let repo = format!("repo{number}");
        world.run(&["-r", &repo, "--password-file", "odd", "init"]).ok();
        world.run(&["-r", &repo, "--password-file", "odd", "snapshots"]).ok();
        world.file("odd", &passphrase[..passphrase.len() - 1]);
        world.run(&["-r", &repo, "--password-file", "odd", "snapshots"]).fails(12, &["wrong passphrase"]);
    }
    world.file("long", vec![b'x'; 4 << 20]);
    world.run(&["-r", "new", "--password-file", "long", "init"]).fails(12, &["long", "64 KiB"]);
    assert!(!world.at("new").exists());
}

#[test]
fn row_12_key_derivation_beyond_limits() {
    let place = Place::with_files();
    place.world.file("pass", "word");
    for (memory, passes, lanes) in [(1 << 31, 3, 4), (64 << 10, 1_000_000_000, 4), (64 << 10, 3, 255), (0, 3, 4), (64, 0, 1)] {
        let slot = slot(Derivation::Passphrase { memory, passes, lanes });
        reslot(&place, &config::encode_slot_unchecked(&slot, &[0; 32]));
        // With an eighth of what the first one asks for.
        let limited = "ulimit -v 268435456; exec \"$0\" \"$@\"";
        let mut command = place.world.command(&["-r", "repo", "--password-file", "pass", "snapshots"]);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", limited]).arg(command.get_program()).args(command.get_args()).current_dir(place.world.home());
        for (name, value) in command.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        drop(std::mem::replace(&mut command, shell));
        finish(&mut command).fails(12, &["keys/", &format!("m={memory} KiB, t={passes}, p={lanes}"), "limit"]);
    }
}

#[test]
fn row_13_short_salt() {
    let place = Place::with_files();
    let mut body = Vec::new();
    body.field(1, |v| v.push(2));
    body.field(3, |v| v.extend_from_slice(&[1; 31]));
    body.field(5, |v| v.extend_from_slice(&[2; 16]));
    body.field(7, |v| v.extend_from_slice(&[3; 48]));
    body.push(0);
    reslot(&place, &body);
    place.run(&["snapshots"]).fails(12, &["keys/", "ends too early"]);
}

#[test]
fn row_14_no_key_slots() {
    let place = Place::with_files();
    place.files(Class::Keys).iter().for_each(|path| fs::remove_file(path).unwrap());
    place.run(&["snapshots"]).fails(12, &[&shown(&place.world.at("repo")), "no key slots", "yester key recover"]);
}

#[test]
fn row_15_key_of_another_repository() {
    let place = Place::with_files();
    place.world.run(&["-r", "other", "--key-file", "other-key", "init"]).ok();
    place
        .world
        .run(&["-r", "repo", "--key-file", "other-key", "snapshots"])
        .fails(12, &["does not open", &shown(&place.world.at("repo"))]);
    // Its slots in the place of ours: they say whose they are.
    place.files(Class::Keys).iter().for_each(|path| fs::remove_file(path).unwrap());
    for entry in fs::read_dir(place.world.at("other/keys")).unwrap().map(|e| e.unwrap()) {
        fs::copy(entry.path(), place.world.at("repo/keys").join(entry.file_name())).unwrap();
    }
    for key in ["other-key", "key"] {
        place.world.run(&["-r", "repo", "--key-file", key, "snapshots"]).fails(12, &["keys/", "belongs to repository"]);
    }
}

#[test]
fn row_16_impossible_chunk_sizes() {
    let place = Place::with_files();
    let kib = |min: u32, avg: u32, max: u32| ChunkerParameters { min: min << 10, avg: avg << 10, max: max << 10 };
    for chunker in [kib(64, 16, 256), kib(16, 256, 64), kib(0, 0, 0), kib(16, 16, 16), kib(15, 60, 240)] {
        reconfigure(&place, &Config { chunker, ..place.repo.config().clone() });
        let sizes = format!("{} / {} / {}", chunker.min, chunker.avg, chunker.max);
        place.run(&["ingest", "src"]).fails(1, &["config/00000001", &sizes, "powers of two"]);
    }
    let odd = ChunkerParameters { min: 16_385, avg: 65_537, max: 262_145 };
    reconfigure(&place, &Config { chunker: odd, ..place.repo.config().clone() });
    place.run(&["snapshots"]).fails(1, &["16385 / 65537 / 262145"]);
}

#[test]
fn row_17_chunks_of_a_byte_or_of_gigabytes() {
    let place = Place::with_files();
    for (min, avg, max) in [(1, 1, 1), (1, 2, 4), (1 << 30, 1 << 31, u32::MAX), (1 << 20, 1 << 23, 1 << 24)] {
        reconfigure(&place, &Config { chunker: ChunkerParameters { min, avg, max }, ..place.repo.config().clone() });
        place.run(&["ingest", "src"]).fails(1, &["config/00000001", &format!("{min} / {avg} / {max}")]);
    }
}

#[test]
fn row_18_objects_of_another_repository() {
    let place = Place::with_files();
    // A snapshot that the key seals for another repository counts for nothing, and is told.
    let (other, id) = (RepositoryId([9; 16]), SnapshotId([0xab; 32]));
    let object = seal::seal_object(ObjectType::Snapshot, other, &id.0, &place.repo.keys().snapshot, b"body").unwrap();
    place.repo.storage().create(&Name::Snapshot(id), &[&object]).unwrap();
    let run = place.run(&["snapshots"]).ok();
    assert!(run.err.contains("snapshots/abab") && run.err.contains("belongs to repository 09090909"), "{}", run.err);
    assert!(!run.text().contains("abab"), "{}", run.text());
    let run = place.run(&["ls", "abab"]);
    assert!(run.code == Some(1) && run.err.contains("belongs to repository 09090909"), "{:?} {}", run.code, run.err);
    fs::remove_file(place.path(&Name::Snapshot(id))).unwrap();
    // A configuration of another repository, which the keys do not belong to.
    reconfigure(&place, &Config { repository: other, ..place.repo.config().clone() });
    place.run(&["snapshots"]).fails(12, &["keys/", "belongs to repository"]);
    assert!(place.world.run(&with(&place.options, &["ingest", "src"])).code == Some(12));
}
