//! Holds the tables of `docs/format.md` against the code and the golden repository.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::golden;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use yester::format::config;
use yester::format::cursor::Cursor;
use yester::format::envelope::{self, ObjectType};
use yester::format::{group, node, pack, parity, segment, snapshot};
use yester::model::{Content, Kind, LeftOut, LinkGroup, Metadata, Node, Xattrs};
use yester::storage::Class;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document() -> String {
    std::fs::read_to_string(root().join("docs/format.md")).unwrap()
}

/// The rows of every table that follows the comment `marker`, as cells; one table at least.
fn tables(marker: &str) -> Vec<Vec<String>> {
    let text = document();
    let comment = format!("<!-- {marker} -->");
    let mut rows = Vec::new();
    for part in text.split(&comment).skip(1) {
        let lines = part.trim_start().lines().take_while(|line| line.starts_with('|'));
        rows.extend(lines.skip(2).map(|line| line.trim_matches('|').split(" | ").map(|c| c.trim().to_owned()).collect()));
    }
    assert!(!rows.is_empty(), "{marker} has no table");
    rows
}

/// Offset, length and field of a layout; each field begins where the one before it ends.
fn layout(name: &str) -> Vec<(usize, Option<usize>, String)> {
    let rows: Vec<(usize, Option<usize>, String)> = tables(&format!("layout: {name}"))
        .iter()
        .map(|row| (row[0].parse().unwrap(), row[1].parse().ok(), row[2].clone()))
        .collect();
    let mut at = 0;
    for (offset, len, field) in &rows {
        assert_eq!(*offset, at, "{name}: {field}");
        at += len.unwrap_or(0);
    }
    assert!(rows[..rows.len() - 1].iter().all(|row| row.1.is_some()), "{name}: only the last field may be of any length");
    rows
}

/// The bytes of `field` in `object` by the layout.
fn field<'a>(object: &'a [u8], name: &str, field: &str) -> &'a [u8] {
    let rows = layout(name);
    let (offset, len, _) = rows.iter().find(|row| row.2 == field).unwrap_or_else(|| panic!("{name} has no field {field}"));
    &object[*offset..len.map_or(object.len(), |len| offset + len)]
}

fn start_of_last(name: &str) -> usize {
    layout(name).last().unwrap().0
}

fn total(name: &str) -> usize {
    layout(name).iter().map(|row| row.1.unwrap()).sum()
}

#[test]
fn every_golden_object_has_the_envelope() {
    let (_place, repo) = golden::open_copy();
    let types: Vec<Vec<String>> = document()
        .split("| type | object | name |")
        .nth(1)
        .unwrap()
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(|c| c.trim().to_owned()).collect())
        .collect();
    let mut seen = BTreeSet::new();
    assert_eq!(start_of_last("envelope"), envelope::HEADER);
    for class in Class::ALL {
        for (name, object) in golden::objects(&repo, class) {
            assert_eq!(field(&object, "envelope", "magic"), b"yester\x1a\n");
            assert_eq!(field(&object, "envelope", "flags"), [0]);
            assert_eq!(field(&object, "envelope", "version"), [1, 0]);
            assert_eq!(field(&object, "envelope", "repository"), repo.id().0);
            let (before, sum) = object.split_last_chunk::<32>().unwrap();
            assert_eq!(blake3::hash(before).as_bytes(), sum, "{name}");
            let number = field(&object, "envelope", "type")[0];
            let row = types.iter().find(|row| row[0] == number.to_string()).unwrap();
            let prefix = format!("`{}/", class.prefix());
            assert!(row[2].starts_with(&prefix), "{name} is of type {number}, documented as {}", row[2]);
            seen.insert(number);
        }
    }
    let documented: BTreeSet<u8> = types.iter().map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(seen, documented, "a golden object of every type");
    assert_eq!(documented.last(), Some(&(ObjectType::Parity as u8)));
}

#[test]
fn packs_are_laid_out_as_documented() {
    let (_place, repo) = golden::open_copy();
    assert_eq!(start_of_last("pack"), pack::PREAMBLE);
    assert_eq!(total("pack tail"), pack::TAIL);
    for (_, object) in golden::objects(&repo, Class::Packs) {
        let open = golden::open_pack(&repo, &object);
        assert_eq!(field(&object, "pack", "salt"), open.preamble.salt);
        assert_eq!(field(&object, "pack", "commitment"), open.preamble.commitment);
        assert_eq!(field(&object, "pack", "session"), open.preamble.session.0);
        assert_eq!(field(&object, "pack", "content"), [open.preamble.kind as u8]);
        assert_eq!(field(&object, "pack", "key source"), [0]);
        assert_eq!(field(&object, "pack", "reserved"), [0, 0]);
        let tail = &object[object.len() - 32 - pack::TAIL..object.len() - 32];
        assert_eq!(field(tail, "pack tail", "directory"), open.tail.directory.to_le_bytes());
        assert_eq!(field(tail, "pack tail", "length"), open.tail.directory_len.to_le_bytes());
        assert_eq!(field(tail, "pack tail", "frames"), (open.entries.len() as u32).to_le_bytes());
        let end = open.tail.directory as usize + open.tail.directory_len as usize;
        assert_eq!(end, object.len() - 32 - pack::TAIL, "nothing stands between directory and tail");
        assert_eq!(open.entries.first().map(|e| e.frame.offset as usize), Some(start_of_last("pack")));
    }
}

#[test]
fn segments_and_sealed_objects_are_laid_out_as_documented() {
    let (_place, repo) = golden::open_copy();
    assert_eq!(start_of_last("segment"), segment::PREAMBLE);
    assert_eq!(total("segment tail"), segment::TAIL);
    for (_, object) in golden::objects(&repo, Class::Index) {
        let open = golden::open_segment(&repo, &object);
        let key = golden::key_at(&repo.keys().index, &object, 28);
        assert_eq!(field(&object, "segment", "commitment"), key.commitment);
        let tail = &object[object.len() - 32 - segment::TAIL..object.len() - 32];
        let pages = (open.frame_pages.len() + open.entry_pages.len() + open.filter_pages.len()) as u32;
        assert_eq!(field(tail, "segment tail", "pages"), pages.to_le_bytes());
        let (at, len, _) = segment::decode_tail(&object, object.len() as u64).unwrap();
        assert_eq!(field(tail, "segment tail", "root"), at.to_le_bytes());
        assert_eq!(field(tail, "segment tail", "length"), (len as u32).to_le_bytes());
    }
    let others = [Class::Config, Class::Keys, Class::Packs, Class::Index, Class::Parity];
    for class in Class::ALL.into_iter().filter(|class| !others.contains(class)) {
        for (name, object) in golden::objects(&repo, class) {
            let salt = field(&object, "sealed", "salt").try_into().unwrap();
            let aad = [field(&object, "sealed", "header"), &golden::id_of(&name)].concat();
            let key = yester::chunk::seal::SealKey::derive_bound(&repo.keys().snapshot, salt, &aad).unwrap();
            assert_eq!(field(&object, "sealed", "commitment"), key.commitment);
            // The documented associated data and nonce open it.
            let mut body = field(&object[..object.len() - 32], "sealed", "body").to_vec();
            key.open(0, &aad, &mut body).expect("it opens as documented");
        }
    }
}

#[test]
fn pages_are_laid_out_as_documented() {
    let (_place, repo) = golden::open_copy();
    let kinds = &tables("layout: page")[0][3];
    for (number, name) in [(1, "directory"), (2, "recipe"), (3, "scan records"), (4, "hard links")] {
        assert!(kinds.contains(&format!("{number} {name}")));
    }
    let tree = golden::objects(&repo, Class::Packs).into_iter().map(|(_, object)| golden::open_pack(&repo, &object));
    let pages = tree.filter(|pack| pack.preamble.kind == pack::PackKind::Tree).map(|pack| pack.plain[0].clone());
    for first in pages {
        assert!((1..=4).contains(&field(&first, "page", "kind")[0]) && field(&first, "page", "level")[0] <= 12);
    }
}

#[test]
fn the_recovery_text_is_laid_out_as_documented() {
    let (_place, repo) = golden::open_copy();
    let ring = yester::keys::keyring::KeyRing::open(repo.storage().clone(), &golden::key()).unwrap();
    let text = ring.recovery();
    let mut bytes = Vec::new();
    for (number, line) in (1u8..).zip(text.lines().unwrap().lines()) {
        let (content, check) = line.split_once(':').unwrap().1.split_once('-').unwrap();
        let hex = |digits: &str| -> Vec<u8> {
            let digits: String = digits.split_whitespace().collect();
            digits.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
        };
        let content = hex(content);
        assert!(content.len() <= yester::format::recovery::RECOVERY_LINE);
        assert_eq!(hex(check), blake3::hash(&[&[number], &content[..]].concat()).as_bytes()[..2]);
        bytes.extend(content);
    }
    assert_eq!(field(&bytes, "recovery", "version"), [yester::format::recovery::RECOVERY_VERSION]);
    assert_eq!(field(&bytes, "recovery", "length"), [bytes.len() as u8]);
    assert_eq!(field(&bytes, "recovery", "repository"), repo.id().0);
    assert_eq!(field(&bytes, "recovery", "master key"), *text.master);
    let (before, check) = bytes.split_last_chunk::<{ yester::format::recovery::RECOVERY_CHECK }>().unwrap();
    assert_eq!(before[start_of_last("recovery")..], config::config_fields(repo.config()));
    assert_eq!(blake3::hash(before).as_bytes()[..check.len()], *check);
}

/// The tags of a body of fields.
fn tags(cursor: &mut Cursor<'_>) -> BTreeSet<u64> {
    let mut out = BTreeSet::new();
    cursor
        .fields(|tag, _| {
            out.insert(tag);
            Ok(true)
        })
        .unwrap();
    out
}

fn documented_tags(name: &str) -> BTreeSet<u64> {
    tables(&format!("fields: {name}")).iter().map(|row| row[0].parse().unwrap()).collect()
}

#[test]
fn bodies_have_the_documented_fields() {
    let (_place, repo) = golden::open_copy();
    let check = |name: &str, bytes: &[u8]| assert_eq!(tags(&mut Cursor::new(bytes, "a body")), documented_tags(name), "{name}");
    let clear = |class| {
        let object = golden::objects(&repo, class).remove(0).1;
        object[envelope::HEADER..object.len() - envelope::CHECKSUM].to_vec()
    };
    let configuration = clear(Class::Config);
    // The golden repository cuts by its own secret.
    let (golden, _, mac) = config::decode_config(&configuration, repo.id()).unwrap();
    let cutter = Some([1; config::SEALED_CUTTER]);
    let other = config::encode_config(&config::Config { cutter, ..golden }, &mac).unwrap();
    check("config", &other);
    let mut all = tags(&mut Cursor::new(&configuration, "a body"));
    all.insert(5);
    assert_eq!(all, documented_tags("config"));
    let (_, fields, mac) = config::decode_config(&configuration, repo.id()).unwrap();
    assert_eq!(fields.len() + mac.len(), configuration.len());
    let slot = clear(Class::Keys);
    let (fields, mac) = config::split_slot(&slot).unwrap();
    assert_eq!(fields.len() + mac.len(), slot.len());
    // The golden repository's slots hold the master key.
    let mut writer = config::decode_slot(&slot).unwrap();
    writer.wrapped = config::WrappedKey::Writer([1; config::WrappedKey::WRITER]);
    let writer = config::encode_slot(&writer, mac).unwrap();
    let mut all = tags(&mut Cursor::new(fields, "a body"));
    all.extend(tags(&mut Cursor::new(&writer, "a body")));
    // Nor was its master key ever changed.
    let former = config::KeySlot { former: vec![1; 48], ..config::decode_slot(&slot).unwrap() };
    let former = config::encode_slot(&former, mac).unwrap();
    all.extend(tags(&mut Cursor::new(&former, "a body")));
    assert_eq!(all, documented_tags("key_slot"));
    let plain = |class, kind| {
        let (name, object) = golden::objects(&repo, class).into_iter().find(|(_, o)| o[8] == kind as u8).unwrap();
        golden::plain_body(&repo, kind, &name, &object)
    };
    check("session", &plain(Class::Sessions, ObjectType::Session));
    check("sign of life", &plain(Class::Sessions, ObjectType::Beat));
    check("mark", &plain(Class::Snapshots, ObjectType::Fence));
    check("mark", &plain(Class::Forgotten, ObjectType::Forgotten));
    assert_eq!(plain(Class::Condemned, ObjectType::Condemned).len() % 32, 0);
    check("damage", &plain(Class::Damaged, ObjectType::Damaged));
    check("run", &plain(Class::Runs, ObjectType::Run));
    let mut steps = BTreeSet::new();
    for (name, object) in golden::objects(&repo, Class::Groups) {
        steps.extend(tags(&mut Cursor::new(&golden::plain_body(&repo, ObjectType::Group, &name, &object), "a step")));
        if let Some(round) = group::decode_group(&golden::plain_body(&repo, ObjectType::Group, &name, &object)).unwrap().round {
            assert_eq!(tags(&mut Cursor::new(&group::round_bytes(&round), "a round")), documented_tags("round"));
        }
    }
    assert_eq!(steps, documented_tags("step of a group"));
    for (_, object) in golden::objects(&repo, Class::Parity) {
        let len = u32::from_le_bytes(field(&object, "row of parity", "length").try_into().unwrap()) as usize;
        assert_eq!(start_of_last("row of parity"), 32);
        check("row of parity", &object[32..32 + len]);
        let group = parity::decode_parity(&object[32..32 + len]).unwrap();
        assert_eq!(
            (group.start() as usize, group.record() as usize),
            (32 + len, total("record of parity") + group.packs.len() * 16 + group.shard as usize)
        );
        assert_eq!(object[object.len() - 36 - len..object.len() - 32], [&object[32..32 + len], &object[28..32]].concat());
    }
    check("annotation", &plain(Class::Annotations, ObjectType::Annotation));
    let mut all = BTreeSet::new();
    for (name, object) in golden::objects(&repo, Class::Snapshots) {
        if object[8] == ObjectType::Snapshot as u8 {
            let body = golden::plain_body(&repo, ObjectType::Snapshot, &name, &object);
            all.extend(tags(&mut Cursor::new(&body, "a snapshot")));
            let id = yester::model::SnapshotId(golden::id_of(&name));
            let mut copy = snapshot::decode_snapshot(&body, id).unwrap();
            // The golden repository holds no copies of others.
            copy.composition.origin = Some(yester::model::Origin { repository: repo.id(), snapshot: id });
            all.extend(tags(&mut Cursor::new(&snapshot::encode_snapshot(&copy).unwrap(), "a copy")));
        }
    }
    assert_eq!(all, documented_tags("snapshot"));
    let source = std::fs::read_to_string(root().join("src/format/snapshot.rs")).unwrap();
    for row in tables("fields: snapshot") {
        assert!(source.contains(&format!("const {}: u64 = {};", row[1], row[0])), "{row:?}");
    }
}

#[test]
fn parts_have_the_documented_fields() {
    let time = yester::model::Timestamp { secs: 1, nanos: 1 };
    let text = || b"text".to_vec();
    let (path, message, started, finished) = (text(), text(), time, time);
    let part = yester::model::Part { kind: 2, state: 3, path, started, finished, bytes: 1, changed: 1, errors: 1, message };
    let mut bytes = Vec::new();
    yester::format::composition::put_parts(std::slice::from_ref(&part), &mut bytes);
    let mut cursor = Cursor::new(&bytes, "parts");
    assert_eq!(yester::format::composition::parts(&mut Cursor::new(&bytes, "parts")).unwrap(), [part]);
    let body = cursor.bytes(usize::MAX).unwrap();
    assert_eq!(tags(&mut Cursor::new(body, "a part")), documented_tags("part"));
}

#[test]
fn nodes_have_the_documented_fields() {
    let mut seen = BTreeSet::new();
    for xattrs in [Xattrs::Inline(vec![(b"user.a".to_vec(), Vec::new())]), Xattrs::Stored(yester::model::ChunkId([1; 32]))] {
        let meta = Metadata { xattrs, flags: 16, ..Metadata::default() };
        let kind = Kind::File(Content::Inline(Vec::new()));
        let node = Node {
            name: Vec::new(),
            meta,
            kind,
            link: Some(LinkGroup([2; 16])),
            given: true,
            changed: false,
            left_out: LeftOut::EXCLUDED,
        };
        let mut bytes = Vec::new();
        node::encode_unchecked(&node, &mut bytes);
        // An empty name, the head, mode, uid, gid, two of the time, an empty content: nine bytes before the fields.
        let mut cursor = Cursor::new(&bytes, "a node");
        cursor.take(9).unwrap();
        seen.extend(tags(&mut cursor));
        cursor.end().unwrap();
    }
    assert_eq!(seen, documented_tags("node"));
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => out.extend(sources(&path)),
            false => out.push(path),
        }
    }
    out
}

#[test]
fn every_derivation_is_documented() {
    let documented: BTreeSet<String> = tables("contexts").iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    let mut used = BTreeSet::new();
    for path in sources(&root().join("src")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let found = text.split("\"yester v").skip(1).filter_map(|rest| rest.split('"').next());
        // Not the command.
        let found = found.filter(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
        used.extend(found.map(|rest| format!("yester v{rest}")));
    }
    assert_eq!(documented, used);
}

/// The value of a constant by its text in a source: numbers, other constants of the file or of the envelope, `+`, `<<`.
fn evaluate(source: &str, name: &str) -> Option<u64> {
    let envelope = std::fs::read_to_string(root().join("src/format/envelope.rs")).unwrap();
    let text = source.split(&format!("const {name}: ")).nth(1)?;
    let text = text.split_once('=')?.1.split_once(';')?.0.trim();
    let term = |word: &str| {
        let word = word.trim();
        word.replace('_', "").parse().ok().or_else(|| evaluate(source, word)).or_else(|| evaluate(&envelope, word))
    };
    if let Some((left, right)) = text.split_once("<<") {
        return Some(term(left)? << term(right)?);
    }
    text.split('+').map(term).sum()
}

#[test]
fn constants_have_the_documented_values() {
    let rows = tables("constants");
    for row in &rows {
        let (name, file) = (row[0].trim_matches('`'), row[1].trim_matches('`'));
        let source = std::fs::read_to_string(root().join("src").join(file)).unwrap();
        assert_eq!(evaluate(&source, name), row[2].parse().ok(), "{name} of {file}");
    }
    // And every public number of the formats is there.
    for path in sources(&root().join("src/format")) {
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        for rest in std::fs::read_to_string(&path).unwrap().split("\npub const ").skip(1) {
            let (name, rest) = rest.split_once(':').unwrap();
            let number =
                ["usize", "u64", "u32", "u16", "u8"].iter().any(|kind| rest.trim_start().starts_with(&format!("{kind} =")));
            let known = rows.iter().any(|row| row[0] == format!("`{name}`") && row[1] == format!("`format/{file}`"));
            assert!(known || !number, "{name} of format/{file} is not documented");
        }
    }
}
