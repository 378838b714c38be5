//! Every decoder with any bytes: it must not panic, and what it takes must survive encoding and decoding again.
//!
//! One function a fuzz target (`fuzz/fuzz_targets`); `tests/formats/properties.rs` calls the same ones.

use std::cell::RefCell;

use yester::chunk::codec::{Compression, Decoder, Encoder};
use yester::chunk::cutter::Cutter;
use yester::chunk::keys::ClassKey;
use yester::chunk::seal::SealKey;
use yester::format::config::{self, ChunkerParameters};
use yester::format::cursor::Cursor;
use yester::format::pack::{self, Codec, Preamble, Tail};
use yester::format::page::{self, PageKind, ScanRecord};
use yester::format::recovery::Recovery;
use yester::format::segment;
use yester::format::{damage, node, parity, snapshot};
use yester::model::{ParityId, RepositoryId, SnapshotId};

/// A target's name and function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 12] = [
    ("config", config),
    ("key_slot", key_slot),
    ("recovery", recovery),
    ("pack_directory", pack_directory),
    ("frame", frame),
    ("segment", segment),
    ("tree", tree),
    ("snapshot", snapshot),
    ("session", session),
    ("run", run),
    ("cutter", cutter),
    ("import", import),
];

/// What other tools wrote: an archive, and what restic has when it is decrypted.
pub fn import(bytes: &[u8]) {
    if let Ok((_, content)) = yester::import::tar::survey(bytes) {
        assert!(content <= bytes.len() as u64 || bytes.starts_with(&[0x1f, 0x8b]) || bytes.starts_with(&[0x28, 0xb5]));
    }
    assert!(yester::import::restic::survey(bytes) <= 5);
}

/// The body of a configuration.
pub fn config(bytes: &[u8]) {
    let id = RepositoryId([7; 16]);
    let Ok((config, _, mac)) = config::decode_config(bytes, id) else { return };
    let again = config::encode_config_unchecked(&config, &mac);
    let (back, fields, back_mac) = config::decode_config(&again, id).expect("what was encoded decodes");
    assert_eq!((&back, back_mac), (&config, mac));
    assert_eq!(fields, config::config_fields(&config));
}

/// The body of a key slot.
pub fn key_slot(bytes: &[u8]) {
    let Ok(slot) = config::decode_slot(bytes) else { return };
    assert_eq!(config::decode_slot(&config::encode_slot_unchecked(&slot, &[0; 32])).ok(), Some(slot));
}

/// A recovery text; and the bytes of one, with every check made to fit.
pub fn recovery(bytes: &[u8]) {
    recovery_text(bytes);
    let Some((version, rest)) = bytes.split_first() else { return };
    let mut all = [&[*version, (rest.len() + 10) as u8], rest].concat();
    all.extend_from_slice(&blake3::hash(&all).as_bytes()[..8]);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let line = |(number, line): (u8, &[u8])| {
        let check = blake3::hash(&[&[number], line].concat());
        format!("{number}: {} - {}\n", hex(line), hex(&check.as_bytes()[..2]))
    };
    recovery_text((1..=20).zip(all.chunks(20)).map(line).collect::<String>().as_bytes());
}

fn recovery_text(bytes: &[u8]) {
    let Ok(found) = Recovery::read(bytes) else { return };
    let again = Recovery::read(found.lines().expect("lines").as_bytes()).expect("what was written reads");
    assert_eq!((&again.config, &*again.master), (&found.config, &*found.master));
}

/// A tail (16 bytes) and the directory it announces; also a whole pack from its outside.
pub fn pack_directory(bytes: &[u8]) {
    if let Ok(preamble) = Preamble::decode(bytes) {
        assert_eq!(Preamble::decode(&preamble.encode()).ok(), Some(preamble));
    }
    if let Ok(tail) = Tail::decode(bytes, bytes.len() as u64) {
        assert_eq!(&bytes[bytes.len() - pack::TAIL - 32..][..pack::TAIL], tail.encode());
    }
    let Some((tail, directory)) = bytes.split_first_chunk::<16>() else { return };
    let mut cursor = Cursor::new(tail, "a tail");
    let (Ok(at), Ok(len), Ok(frames)) = (cursor.u64(), cursor.u32(), cursor.u32()) else { return };
    let tail = Tail { directory: at, directory_len: len, frames };
    // A directory is canonical: there is nothing in it to skip.
    if let Ok(entries) = pack::decode_directory(directory, &tail) {
        assert_eq!(pack::encode_directory_unchecked(&entries), directory);
    }
}

thread_local! {
    static CODECS: RefCell<(Encoder, Decoder)> = RefCell::new((
        Encoder::new(Compression::Auto).expect("an encoder"),
        Decoder::new().expect("a decoder"),
    ));
}

/// Codec, announced length (3 bytes), compressed bytes; and the whole way of the same bytes through compressor and seal.
pub fn frame(bytes: &[u8]) {
    let _ = pack::decode_frame(&mut Cursor::new(bytes, "a frame"), 0);
    let Some(([kind, a, b, c], rest)) = bytes.split_first_chunk::<4>() else { return };
    let plain = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
    CODECS.with_borrow_mut(|(encoder, decoder)| {
        let mut out = Vec::new();
        if let Ok(codec) = Codec::parse(kind & 3)
            && decoder.decode(codec, rest, plain, &mut out).is_ok()
        {
            assert_eq!(out.len(), plain);
        }
        assert!(out.capacity() <= plain.max(rest.len()) + 64, "{} bytes for {plain}", out.capacity());
        let key = SealKey::derive(&ClassKey::from_bytes([1; 32]), &[2; 32]).expect("a key");
        let number = u64::from(*a);
        let mut stored = Vec::new();
        let codec = encoder.encode(rest, &mut stored).expect("encoding");
        key.seal(number, bytes.get(..8).unwrap_or_default(), &mut stored).expect("sealing");
        let mut opened = Vec::new();
        assert!(key.open_to(number, b"other", &stored, &mut opened).is_err());
        assert!(key.open_to(number, &[], rest, &mut opened).is_err());
        key.open_to(number, bytes.get(..8).unwrap_or_default(), &stored, &mut opened).expect("opening");
        decoder.decode(codec, &opened, rest.len(), &mut out).expect("decoding");
        assert_eq!(out, rest);
    });
}

fn part<'a>(cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let len = cursor.u16().ok()?;
    cursor.take(usize::from(len)).ok()
}

/// A root (length in 2 bytes before it), a page of frames (likewise), a page of entries (one byte: how many); also the
/// tail of the whole.
pub fn segment(bytes: &[u8]) {
    if let Ok((root, len, pages)) = segment::decode_tail(bytes, bytes.len() as u64) {
        let tail = &bytes[(root + len) as usize..][..segment::TAIL];
        assert_eq!(tail, segment::encode_tail(root, len as u32, pages));
    }
    let mut cursor = Cursor::new(bytes, "an input");
    let Some(root) = part(&mut cursor) else { return };
    let starts = match segment::decode_root(root) {
        Ok(decoded) => {
            let again = segment::encode_root(&decoded).unwrap();
            assert_eq!(again, root);
            segment::pack_starts(&decoded.packs)
        }
        Err(_) => vec![0, 4, 9],
    };
    let Some(page) = part(&mut cursor) else { return };
    for first in [0, 4, 5] {
        if let Ok(frames) = segment::decode_frames(page, first, &starts) {
            assert!(frames.is_empty() || segment::encode_frames(&frames).unwrap() == page);
        }
    }
    let Ok(count) = cursor.u8() else { return };
    let Ok(page) = cursor.take(cursor.remaining()) else { return };
    if let Ok(entries) = segment::decode_entries(page, usize::from(count), 1 << 20) {
        assert_eq!(segment::encode_entries(&entries, 1 << 20).unwrap(), page);
    }
}

/// A page of any of the four trees, chosen by its own first bytes; also extended attributes.
pub fn tree(bytes: &[u8]) {
    if let Ok(list) = node::decode_xattrs(bytes) {
        let mut again = Vec::new();
        node::encode_xattrs_unchecked(&list, &mut again);
        assert_eq!(again, bytes);
    }
    let (Some(&kind), Some(&level)) = (bytes.first(), bytes.get(1)) else { return };
    let kind = match kind {
        1 => PageKind::Directory,
        2 => PageKind::Recipe,
        3 => PageKind::Scan,
        4 => PageKind::Links,
        _ => return,
    };
    if level > 0 {
        if let Ok(children) = page::children(bytes, kind, level) {
            assert_eq!(inner_page(kind, level, &children), bytes);
        }
        return;
    }
    match kind {
        PageKind::Directory => {
            let Ok(nodes) = page::nodes(bytes) else { return };
            let again = leaf(kind, |out| nodes.iter().for_each(|n| node::encode_unchecked(n, out)));
            assert_eq!(page::nodes(&again).ok(), Some(nodes));
        }
        PageKind::Recipe => {
            let Ok(items) = page::items(bytes) else { return };
            assert_eq!(leaf(kind, |out| items.iter().for_each(|i| page::put_item(i, out))), bytes);
        }
        PageKind::Scan => {
            let Ok(records) = page::scan_records(bytes) else { return };
            assert_eq!(scan_page(&records), bytes);
        }
        PageKind::Links => {
            let Ok(links) = page::links(bytes) else { return };
            assert_eq!(leaf(kind, |out| links.iter().for_each(|l| page::put_link(l, out))), bytes);
        }
    }
}

/// A leaf of `kind` with the entries that `fill` writes.
pub fn leaf(kind: PageKind, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    page::start(kind, 0, &mut out);
    fill(&mut out);
    out
}

/// An inner page.
pub fn inner_page(kind: PageKind, level: u8, children: &[page::Child]) -> Vec<u8> {
    let mut out = Vec::new();
    page::start(kind, level, &mut out);
    children.iter().for_each(|child| page::put_child(child, &mut out));
    out
}

/// A leaf of scan records.
pub fn scan_page(records: &[ScanRecord]) -> Vec<u8> {
    leaf(PageKind::Scan, |out| {
        records.iter().fold(ScanRecord::default(), |last, record| {
            page::put_scan(record, &last, out);
            *record
        });
    })
}

/// The body of a snapshot.
pub fn snapshot(bytes: &[u8]) {
    let id = SnapshotId([5; 32]);
    let Ok(found) = snapshot::decode_snapshot(bytes, id) else { return };
    let again = snapshot::encode_snapshot_unchecked(&found);
    assert_eq!(snapshot::decode_snapshot(&again, id).ok(), Some(found));
}

/// The bodies of a session, of a mark, and of a record of damage.
pub fn session(bytes: &[u8]) {
    if let Ok((number, time)) = snapshot::decode_beat(bytes) {
        assert_eq!(snapshot::decode_beat(&snapshot::encode_beat(number, time)).ok(), Some((number, time)));
    }
    if let Ok(session) = snapshot::decode_session(bytes) {
        assert_eq!(snapshot::decode_session(&snapshot::encode_session(&session).unwrap()).ok(), Some(session));
    }
    if let Ok(mark) = snapshot::decode_mark(bytes) {
        assert_eq!(snapshot::decode_mark(&snapshot::encode_mark(&mark).unwrap()).ok(), Some(mark));
    }
    if let Ok(found) = damage::decode_damage(bytes) {
        assert_eq!(damage::decode_damage(&damage::encode_damage(&found)).ok(), Some(found));
    }
}

/// Three bytes of sizes, one of the secret, the rest is cut.
pub fn cutter(bytes: &[u8]) {
    let Some(([min, avg, max, secret], data)) = bytes.split_first_chunk::<4>() else { return };
    let power = |n: u8| 1u32.checked_shl(u32::from(n % 32)).unwrap_or(0);
    let parameters = ChunkerParameters { min: power(*min), avg: power(*avg), max: power(*max) };
    let Ok(cutter) = Cutter::new(parameters, &[*secret; 32]) else { return };
    check_cuts(&cutter, parameters, data);
    // Short inputs seldom reach the average: the same bytes again and again do.
    if !data.is_empty() {
        let long: Vec<u8> = data.iter().copied().cycle().take(16 << 10).collect();
        check_cuts(&cutter, parameters, &long);
    }
}

/// Cuts all of `data` and checks the lengths; returns them.
pub fn check_cuts(cutter: &Cutter, parameters: ChunkerParameters, data: &[u8]) -> Vec<usize> {
    let (mut out, mut rest) = (Vec::new(), data);
    while !rest.is_empty() {
        let len = cutter.cut(rest);
        assert!(len > 0 && len <= rest.len() && len <= parameters.max as usize);
        assert!(len == rest.len() || len >= parameters.min as usize, "a chunk of {len} bytes inside a file");
        // What is cut must not depend on how much beyond the longest chunk is at hand.
        assert_eq!(cutter.cut(&rest[..rest.len().min(parameters.max as usize)]), len);
        out.push(len);
        rest = &rest[len..];
    }
    out
}

/// The body of a run, of an annotation, or of a step of a group; the head of a row of parity, and one of its records.
pub fn run(bytes: &[u8]) {
    if let Ok(found) = parity::decode_parity(bytes) {
        let again = parity::encode_parity(&found);
        assert_eq!(parity::decode_parity(&again).expect("what was encoded decodes"), found);
        assert!(found.row_len() > found.stripes() * found.record());
    }
    if let Some((packs, record)) = bytes.split_first()
        && let Some(found) = parity::decode_record(ParityId([3; 32]), 1, 2, usize::from(*packs), record)
    {
        assert_eq!(found.digests.len(), usize::from(*packs));
    }
    if let Ok(step) = yester::format::group::decode_group(bytes) {
        let again = yester::format::group::encode_group(&step).expect("what was read can be stored");
        assert_eq!(yester::format::group::decode_group(&again).expect("what was encoded decodes"), step);
    }
    if let Ok(annotation) = yester::format::annotation::decode_annotation(bytes) {
        let again = yester::format::annotation::encode_annotation(&annotation).expect("what was read can be stored");
        assert_eq!(yester::format::annotation::decode_annotation(&again).expect("what was encoded decodes"), annotation);
    }
    let Ok(run) = yester::format::run::decode_run(bytes) else { return };
    let again = yester::format::run::encode_run(&run).expect("what was read can be stored");
    assert_eq!(yester::format::run::decode_run(&again).expect("what was encoded decodes"), run);
}
