//! Rows 19 to 33: packs, frames, index segments. Each is met by who reads the file in it, by `check`, or by
//! `repair index`.

use std::fs;
use std::path::PathBuf;

use yester::chunk::seal::SealKey;
use yester::format::cursor::Put;
use yester::format::pack::{Codec, DirectoryEntry, FrameInfo, PackKind};
use yester::format::segment::IndexEntry;
use yester::model::{ChunkId, ChunkKey, Item};
use yester::repo::index::segment::{Segment, SegmentWriter};
use yester::repo::pack::StoredPack;
use yester::storage::{Class, Name};

use crate::bad_input::{Place, spoil};
use crate::common::forge::{self, Forge, RawPack};

const PLAIN: &[u8] = b"the plain bytes of the only chunk of the only file";

/// A repository with a snapshot of one file `/f`, whose only chunk is in the pack that `make` stores.
struct Forged {
    place: Place,
    pack: StoredPack,
    chunk: ChunkId,
}

impl Forged {
    fn new(make: impl FnOnce(&Place, ChunkKey) -> StoredPack) -> Forged {
        Self::with(PLAIN, make)
    }

    fn with(plain: &[u8], make: impl FnOnce(&Place, ChunkKey) -> StoredPack) -> Forged {
        let place = Place::new();
        let chunk = place.repo.keys().chunk_id(PackKind::Data, plain);
        let pack = make(&place, chunk.key());
        let mut forge = Forge::new(&place.repo);
        let root = forge.dir("", &[forge::file("f", chunk, plain.len() as u32), forge::inline("whole", "whole")]);
        forge.commit(root, |_| {});
        Segment::of_packs(std::slice::from_ref(&pack)).store(&place.repo, Vec::new()).unwrap();
        Forged { place, pack, chunk }
    }

    fn name(&self) -> String {
        Name::Pack(self.pack.id).to_string()
    }

    fn path(&self) -> PathBuf {
        self.place.path(&Name::Pack(self.pack.id))
    }

    /// Who reads the file is told `words`; a restore takes the rest, and leaves nothing of the file.
    #[track_caller]
    fn cannot_be_read(&self, words: &[&str]) {
        self.place.run(&["cat", "latest:/f"]).fails(1, words);
        self.place.restores(3, &["/f"], &["whole"]);
    }

    /// `check` names the pack with `words`, and the file.
    #[track_caller]
    fn check_names(&self, words: &[&str]) {
        let run = self.place.run(&["check", "--read-data"]);
        assert_eq!(run.code, Some(1), "{}\n{}", run.text(), run.err);
        let line = run.err.lines().find(|line| line.starts_with(&format!("yester: damage: {}", self.name())));
        let line = line.unwrap_or_else(|| panic!("{} is not named in {}", self.name(), run.err));
        words.iter().for_each(|word| assert!(line.contains(word), "{word:?} is not in {line:?}"));
    }

    /// `check` says that the file loses something.
    #[track_caller]
    fn check_names_the_file(&self) {
        let run = self.place.run(&["check", "--read-data"]);
        assert!(run.err.contains(":/f: some of its content is lost"), "{}", run.err);
    }

    /// Without an index the pack's own directory is read, and `repair index` says what is wrong with it.
    #[track_caller]
    fn repair_refuses(&self, words: &[&str]) {
        self.place.files(Class::Index).iter().for_each(|path| fs::remove_file(path).unwrap());
        let run = self.place.run(&["repair", "index"]);
        assert_eq!(run.code, Some(1), "{}\n{}", run.text(), run.err);
        let name = self.name();
        let line = run.err.lines().find(|line| line.contains(&name)).unwrap_or_else(|| panic!("{name} is not in {}", run.err));
        words.iter().for_each(|word| assert!(line.contains(word), "{word:?} is not in {line:?}"));
    }
}

/// The pack as it should be.
fn honest(place: &Place, key: ChunkKey) -> StoredPack {
    let raw = RawPack::new(&place.repo, PackKind::Data, &[(Codec::Raw, PLAIN.len() as u32, PLAIN)]);
    raw.store(&place.repo, &[&[(key, PLAIN.len() as u32)]], |_| {})
}

/// The pack with a directory of these bytes, which states `frames` frames.
fn directory(bytes: Vec<u8>, frames: u32) -> impl FnOnce(&Place, ChunkKey) -> StoredPack {
    move |place, key| {
        let mut raw = RawPack::new(&place.repo, PackKind::Data, &[(Codec::Raw, PLAIN.len() as u32, PLAIN)]);
        (raw.directory, raw.stated) = (bytes, frames);
        raw.store(&place.repo, &[&[(key, PLAIN.len() as u32)]], |_| {})
    }
}

/// The directory of one frame with chunks of these lengths.
fn entry(stored: u64, plain: u64, codec: u8, lengths: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    out.varint(stored);
    out.varint(plain);
    out.push(codec);
    out.varint(0);
    out.varint(lengths.len() as u64);
    for len in lengths {
        out.extend_from_slice(&[7; 16]);
        out.varint(*len);
    }
    out
}

#[test]
fn row_19_pack_of_0_bytes() {
    let forged = Forged::new(honest);
    forged.place.run(&["check", "--read-data"]).ok();
    spoil(&forged.path(), Vec::clear);
    forged.cannot_be_read(&[&forged.name(), "/f", "shorter"]);
    forged.check_names(&["0 bytes"]);
    forged.check_names_the_file();
    forged.repair_refuses(&["0 bytes are too few"]);
}

#[test]
fn row_20_pack_shorter_than_its_header() {
    for len in [1, 27, 28, 111, 112, 177] {
        let forged = Forged::new(honest);
        spoil(&forged.path(), |bytes| bytes.truncate(len));
        forged.cannot_be_read(&[&forged.name(), "/f"]);
        forged.check_names(&[&format!("it has {len} bytes")]);
        forged.check_names_the_file();
        forged.repair_refuses(&[]);
    }
}

#[test]
fn row_21_impossible_lengths() {
    let (plain, stored) = (PLAIN.len() as u64, PLAIN.len() as u64 + 16);
    let bad: [(Vec<u8>, &str); 8] = [
        (entry(stored, plain, 0, &[0]), "a chunk has no length"),
        (entry(stored, 0, 0, &[plain]), "impossible length"),
        (entry(0, plain, 0, &[plain]), "impossible length"),
        (entry(stored, (16 << 20) + 1, 1, &[plain]), "above the limit"),
        (entry(1 << 63, plain, 1, &[plain]), "above the limit"),
        (entry(stored, plain, 0, &[1 << 63]), "above the limit"),
        (entry(stored, plain, 0, &[plain, plain]), "do not fill it"),
        (entry(stored, 16 << 20, 1, &[16 << 20, 16 << 20, 16 << 20]), "do not fill it"),
    ];
    for (bytes, words) in bad {
        let forged = Forged::new(directory(bytes, 1));
        // Readers have the index, which is right.
        assert_eq!(forged.place.run(&["cat", "latest:/f"]).ok().out, PLAIN);
        forged.check_names(&[words]);
        forged.repair_refuses(&["directory", words]);
    }
}

#[test]
fn row_22_frames_and_chunks_past_the_end() {
    let plain = PLAIN.len() as u64;
    // The directory: a frame that reaches beyond it.
    let forged = Forged::new(directory(entry(plain + 1000, plain, 1, &[plain]), 1));
    forged.check_names(&["do not fill the pack"]);
    forged.repair_refuses(&["do not fill the pack"]);
    // The index: a frame past the end of the pack, a chunk past the end of its frame, an offset beyond every frame.
    // What cannot be a segment at all is made anew in memory from the packs.
    let cases: [(u64, u32, bool, &[&str]); 3] = [
        (1 << 20, 0, true, &["index/", "first frame", "yester repair index"]),
        (0, 8, false, &["/f", "lies outside its frame"]),
        (0, 16 << 20, true, &["index/", "outside every frame", "yester repair index"]),
    ];
    for (beyond, offset, anew, words) in cases {
        let forged = Forged::new(honest);
        let mut info = forged.pack.entries[0].frame.clone();
        info.offset += beyond;
        reindex(&forged, &[info], &[(forged.chunk.key(), 0, offset, PLAIN.len() as u32)]);
        let run = forged.place.run(&["cat", "latest:/f"]);
        assert!(words.iter().all(|word| run.err.contains(word)), "{}", run.err);
        match anew {
            true => assert_eq!(run.ok().out, PLAIN),
            false => assert_eq!(run.code, Some(1)),
        }
        let run = forged.place.run(&["check", "--read-data"]);
        assert!(run.code == Some(1) && run.err.contains("yester repair index"), "{}", run.err);
    }
}

/// Puts a segment in the place of all others that says this of the forged pack (and the truth of the other one).
fn reindex(forged: &Forged, frames: &[FrameInfo], entries: &[(ChunkKey, u32, u32, u32)]) {
    let place = &forged.place;
    let index = yester::repo::index::Index::load(&place.repo).unwrap();
    let mut all: Vec<IndexEntry> = Vec::new();
    let mut infos: Vec<FrameInfo> = frames.to_vec();
    let mut packs = vec![];
    for pack in index.packs() {
        if pack.id == forged.pack.id {
            packs.insert(0, yester::format::segment::SegmentPack { frames: frames.len() as u32, ..*pack });
        } else {
            packs.push(*pack);
            let (_, directory) = yester::repo::pack::read_directory(&place.repo, pack.id, pack.size).unwrap();
            for entry in directory {
                let (frame, mut offset) = (infos.len() as u32, 0);
                for (key, len) in &entry.chunks {
                    all.push(IndexEntry { key: *key, frame, offset, len: *len });
                    offset += len;
                }
                infos.push(entry.frame);
            }
        }
    }
    all.extend(entries.iter().map(|(key, frame, offset, len)| IndexEntry {
        key: *key,
        frame: *frame,
        offset: *offset,
        len: *len,
    }));
    all.sort_by_key(|entry| entry.key);
    place.files(Class::Index).iter().for_each(|path| fs::remove_file(path).unwrap());
    let mut writer = SegmentWriter::new(&place.repo, all.len() as u64).unwrap().unchecked();
    infos.into_iter().for_each(|info| writer.frame(info).unwrap());
    all.into_iter().for_each(|entry| writer.entry(entry).unwrap());
    writer.finish(packs, Vec::new()).unwrap();
}

#[test]
fn row_23_overlapping_chunks() {
    let forged = Forged::new(honest);
    let frame = forged.pack.entries[0].frame.clone();
    // Two chunks where there is one, the second of them from its middle.
    let len = PLAIN.len() as u32;
    reindex(&forged, &[frame], &[(forged.chunk.key(), 0, 10, len - 10), (ChunkKey([9; 16]), 0, 0, len)]);
    forged.place.run(&["cat", "latest:/f"]).fails(1, &["/f", "content"]);
    forged.check_names(&["its directory and the index differ", "yester repair index"]);
    forged.check_names_the_file();
}

#[test]
fn row_24_directory_of_4_billion_frames() {
    let forged = Forged::new(directory(entry(66, 50, 0, &[50]), u32::MAX));
    assert_eq!(forged.place.run(&["cat", "latest:/f"]).ok().out, PLAIN);
    forged.check_names(&["fewer frames than the tail says"]);
    forged.repair_refuses(&["fewer frames than the tail says"]);
    // And of chunks that are not there.
    let mut bytes = entry(66, 50, 0, &[50]);
    bytes.truncate(bytes.len() - 18);
    bytes.varint(u64::from(u32::MAX));
    bytes.extend_from_slice(&[0; 40]);
    let forged = Forged::new(directory(bytes, 1));
    forged.check_names(&["above the limit"]);
    forged.repair_refuses(&["above the limit"]);
}

#[test]
fn row_25_one_id_with_two_contents() {
    // A pack that holds something else under the chunk's name, beside the one that is right.
    let forged = Forged::new(|place, key| {
        let other = vec![b'x'; PLAIN.len()];
        let raw = RawPack::new(&place.repo, PackKind::Data, &[(Codec::Raw, PLAIN.len() as u32, &other)]);
        raw.store(&place.repo, &[&[(key, PLAIN.len() as u32)]], |_| {})
    });
    forged.cannot_be_read(&["/f", "has other content than its name says"]);
    forged.check_names(&["has other content than its name says"]);
    forged.check_names_the_file();
    // With a right copy of it, nothing is lost, and the false one is still named.
    let mut right = Forge::new(&forged.place.repo);
    right.data(PLAIN);
    right.store();
    assert_eq!(forged.place.run(&["cat", "latest:/f"]).ok().out, PLAIN);
    forged.place.restores(0, &[], &["f", "whole"]);
    forged.check_names(&["has other content than its name says"]);
    let run = forged.place.run(&["check", "--read-data"]);
    assert!(!run.err.contains("hit:"), "{}", run.err);
}

/// A frame without magic, as this program writes it, but with these parameters.
fn compress(plain: &[u8], parameters: &[zstd::zstd_safe::CParameter]) -> Vec<u8> {
    use zstd::zstd_safe::{CCtx, CParameter, FrameFormat};
    let mut context = CCtx::create();
    context.set_parameter(CParameter::Format(FrameFormat::Magicless)).unwrap();
    context.set_parameter(CParameter::ContentSizeFlag(false)).unwrap();
    parameters.iter().for_each(|parameter| assert!(context.set_parameter(*parameter).is_ok()));
    let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(plain.len()));
    context.compress2(&mut out, plain).unwrap();
    out
}

#[test]
fn row_26_zstd_frames() {
    use zstd::zstd_safe::CParameter;
    let plain = PLAIN.repeat(100);
    let good = compress(&plain, &[]);
    let mut checksummed = compress(&plain, &[CParameter::ChecksumFlag(true)]);
    let last = checksummed.len() - 1;
    checksummed[last] ^= 1;
    let bomb = compress(&vec![0; 200 << 20], &[]);
    assert!(bomb.len() < 100_000);
    let with_magic = zstd::bulk::compress(&plain, 3).unwrap();
    let skippable = [&0x184D_2A50u32.to_le_bytes()[..], &8u32.to_le_bytes(), b"skipped.", &with_magic].concat();
    let dictionary = [&[0x03, good[1]][..], &77u32.to_le_bytes(), &good[2..]].concat();
    let bad: [(&str, Vec<u8>, u32); 7] = [
        ("a bomb", bomb, plain.len() as u32),
        ("a wrong checksum", checksummed, plain.len() as u32),
        ("bytes behind it", [&good[..], b"and more"].concat(), plain.len() as u32),
        ("a skippable frame", skippable, plain.len() as u32),
        ("a dictionary", dictionary, plain.len() as u32),
        ("fewer bytes than said", good.clone(), plain.len() as u32 + 1),
        ("more bytes than said", good.clone(), plain.len() as u32 - 1),
    ];
    for (what, frame, len) in bad {
        // The chunk's name is that of the right bytes; what a frame of another length holds is another chunk.
        let bytes = [&plain[..], b"."].concat();
        let forged = Forged::with(&bytes[..len as usize], |place, key| {
            let mut sealed = RawPack::new(&place.repo, PackKind::Data, &[(Codec::Zstd, len, &frame)]);
            sealed.described = vec![(Codec::Zstd, len)];
            sealed.store(&place.repo, &[&[(key, len)]], |_| {})
        });
        let name = forged.name();
        let run = forged.place.run(&["cat", "latest:/f"]);
        assert!(run.code == Some(1) && run.err.contains(&name) && run.err.contains("/f"), "{what}: {:?}", run.err);
        forged.cannot_be_read(&["/f", "frame 0"]);
        forged.check_names(&["frame 0"]);
        forged.check_names_the_file();
    }
}

/// A window is memory that only a stream needs: the output has the size that is announced, whatever the frame says.
#[test]
fn row_26_zstd_window_of_2_gib() {
    let plain = PLAIN.repeat(100);
    let good = compress(&plain, &[]);
    let wide = [&[0x00, (31 - 10) << 3][..], &good[2..]].concat();
    let forged = Forged::with(&plain, |place, key| {
        let sealed = RawPack::new(&place.repo, PackKind::Data, &[(Codec::Zstd, plain.len() as u32, &wide)]);
        sealed.store(&place.repo, &[&[(key, plain.len() as u32)]], |_| {})
    });
    let options = forged.place.options.join(" ");
    let limited = format!("ulimit -v 1000000; exec {} {options} cat latest:/f", env!("CARGO_BIN_EXE_yester"));
    let mut shell = std::process::Command::new("sh");
    let run = crate::common::program::finish(shell.args(["-c", &limited]).current_dir(forged.place.world.home()));
    assert_eq!(run.ok().out, plain);
}

#[test]
fn row_27_unknown_codec() {
    let plain = PLAIN.len() as u64;
    let forged = Forged::new(directory(entry(plain + 16, plain, 9, &[plain]), 1));
    forged.check_names(&["codec 9", "newer yester"]);
    forged.repair_refuses(&["codec 9", "newer yester"]);
}

#[test]
fn row_28_unknown_cipher() {
    let forged = Forged::new(|place, key| {
        let raw = RawPack::new(&place.repo, PackKind::Data, &[(Codec::Raw, PLAIN.len() as u32, PLAIN)]);
        raw.store(&place.repo, &[&[(key, PLAIN.len() as u32)]], |bytes| bytes[109] = 2)
    });
    forged.cannot_be_read(&[&forged.name(), "/f", "not made with the repository's key"]);
    // Made by somebody with the key.
    let forged = Forged::new(|place, key| {
        let raw = RawPack::new(&place.repo, PackKind::Data, &[(Codec::Raw, PLAIN.len() as u32, PLAIN)]);
        raw.store(&place.repo, &[&[(key, PLAIN.len() as u32)]], |bytes| {
            bytes[109] = 2;
            let (salt, bound) = (bytes[28..60].try_into().unwrap(), [&bytes[..28], &bytes[108..112]].concat());
            let key = SealKey::derive_bound(place.repo.keys().pack(PackKind::Data), &salt, &bound).unwrap();
            bytes[60..76].copy_from_slice(&key.commitment);
        })
    });
    forged.cannot_be_read(&[&forged.name(), "/f", "keys of another source", "newer yester"]);
    forged.check_names(&["newer yester"]);
    forged.repair_refuses(&["newer yester"]);
}

#[test]
fn row_29_one_kind_in_the_place_of_another() {
    // A file's chunk where a tree page must be: it is not even found among the pages.
    let place = Place::new();
    let mut forge = Forge::new(&place.repo);
    let mut page = Vec::new();
    yester::format::page::start(yester::format::page::PageKind::Directory, 0, &mut page);
    yester::format::node::encode_unchecked(&forge::inline("f", "f"), &mut page);
    let data = forge.data(&page);
    let directory = yester::model::Directory {
        root: Some(yester::model::Root { page: data, height: 0 }),
        entries: 1,
        descendants: 1,
        subdirs: 0,
    };
    forge.commit(forge::node("", yester::model::Kind::Directory(directory)), |_| {});
    place.run(&["ls", "latest"]).fails(1, &["chunk", "in no pack", "yester check"]);
    place.restores(3, &["in no pack"], &[]);
    // A pack of data that calls itself one of trees.
    let forged = Forged::new(honest);
    spoil(&forged.path(), |bytes| {
        bytes[108] = PackKind::Tree as u8;
        crate::bad_input::checksum(bytes);
    });
    forged.cannot_be_read(&[&forged.name(), "/f"]);
    forged.check_names(&[]);
    forged.check_names_the_file();
    // A recipe's page where a directory's must be.
    let place = Place::new();
    let mut forge = Forge::new(&place.repo);
    let id = forge.data(b"x");
    let page = forge.items(&[Item::Chunk { id, len: 1 }]);
    let directory = yester::model::Directory { root: Some(yester::model::Root { page, height: 0 }), ..directory };
    forge.commit(forge::node("", yester::model::Kind::Directory(directory)), |_| {});
    place.run(&["ls", "latest"]).fails(1, &[&format!("tree page {}", page.short()), "another kind"]);
}

#[test]
fn row_30_index_that_names_a_missing_pack() {
    let forged = Forged::new(honest);
    fs::remove_file(forged.path()).unwrap();
    forged.cannot_be_read(&[&forged.name(), "/f"]);
    let run = forged.place.run(&["check"]);
    assert!(run.code == Some(1) && run.err.contains(&format!("damage: {}: it is missing", forged.name())), "{}", run.err);
    forged.check_names_the_file();
    // What the message says helps: the same content, ingested again.
    forged.place.world.file("again", PLAIN.repeat(3));
    forged.place.run(&["ingest", "again"]).ok();
}

#[test]
fn row_31_index_segment_of_another_repository() {
    let place = Place::with_files();
    place.world.run(&["-r", "other", "--key-file", "key", "init"]).ok();
    place.world.run(&["-r", "other", "--key-file", "key", "ingest", "src"]).ok();
    let foreign = fs::read_dir(place.world.at("other/index")).unwrap().next().unwrap().unwrap();
    fs::copy(foreign.path(), place.world.at("repo/index").join(foreign.file_name())).unwrap();
    let name = format!("index/{}", foreign.file_name().to_str().unwrap());
    let run = place.run(&["cat", &place.stored("src/a")]).ok();
    for word in [&name[..], "another repository", "ignored", "yester repair index"] {
        assert!(run.err.contains(word), "{word}: {}", run.err);
    }
    let run = place.run(&["check"]);
    assert!(run.code == Some(1) && run.err.contains(&format!("damage: {name}")) && !run.err.contains("hit:"), "{}", run.err);
    place.run(&["repair", "index"]).ok();
    place.run(&["cat", &place.stored("src/a")]).ok();
}

#[test]
fn row_32_index_with_another_size_than_the_pack() {
    let mut forged = Forged::new(honest);
    forged.place.files(Class::Index).iter().for_each(|path| fs::remove_file(path).unwrap());
    forged.place.run(&["repair", "index"]).ok();
    forged.place.run(&["check", "--read-data"]).ok();
    let index = forged.place.files(Class::Index);
    forged.pack.size += 5;
    Segment::of_packs(std::slice::from_ref(&forged.pack)).store(&forged.place.repo, Vec::new()).unwrap();
    let size = forged.pack.size;
    let run = forged.place.run(&["check"]);
    // Both segments name the pack, with two sizes; what can be read is read.
    assert_eq!(run.code, Some(1), "{}", run.err);
    assert!(run.err.contains(&forged.name()) && run.err.contains(&format!("the index says {size}")), "{}", run.err);
    assert_eq!(forged.place.run(&["cat", "latest:/f"]).ok().out, PLAIN);
    assert!(index.iter().all(|path| path.exists()));
}

#[test]
fn row_33_segments_that_contradict_each_other() {
    let forged = Forged::new(honest);
    // A second segment that puts the same chunk elsewhere in the same pack.
    let info = FrameInfo { stored: 40, plain: 24, ..forged.pack.entries[0].frame.clone() };
    let entries = vec![DirectoryEntry { frame: info, chunks: vec![(forged.chunk.key(), 24)] }];
    let (id, kind, size) = (forged.pack.id, PackKind::Data, forged.pack.size);
    Segment::of_packs(&[StoredPack { id, kind, size, one_way: false, entries }]).store(&forged.place.repo, Vec::new()).unwrap();
    assert_eq!(forged.place.run(&["cat", "latest:/f"]).ok().out, PLAIN, "the segment that is right serves");
    forged.check_names(&["its directory and the index differ", "yester repair index"]);
    let run = forged.place.run(&["check", "--read-data"]);
    assert!(!run.err.contains("hit:"), "{}", run.err);
}
