//! Properties of the formats and of the cutter: what is encoded decodes to the same, has one encoding, and nothing that
//! is fed to a decoder makes it panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::decoders;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use yester::chunk::cutter::Cutter;
use yester::chunk::keys::{ClassKey, Credential, MasterKey};
use yester::chunk::seal::{SealKey, open_object, seal_object};
use yester::format::config::{
    ChunkerParameters, Config, Derivation, KeySlot, WrappedKey, config_fields, decode_config, decode_slot,
};
use yester::format::config::{encode_config, encode_config_unchecked, encode_slot};
use yester::format::cursor::Cursor;
use yester::format::pack::{self, Codec, DirectoryEntry, FrameInfo, PackKind, Tail};
use yester::format::page::{self, Child, LinkEntry, PageKind, ScanRecord};
use yester::format::recovery::Recovery;
use yester::format::{node, segment, snapshot};
use yester::model::*;
use yester::repo::index::paged::{PagedSegment, Pages};
use yester::repo::index::segment::Segment;
use yester::repo::pack::StoredPack;
use yester::repo::{InitOptions, Repository};
use yester::storage::memory::MemoryStorage;

fn time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
}

fn chunk_id() -> impl Strategy<Value = ChunkId> {
    any::<[u8; 32]>().prop_map(ChunkId)
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..40).prop_filter("a name", |name| yester::model::node::check_name(name).is_ok())
}

fn items(most: usize) -> impl Strategy<Value = Vec<Item>> {
    let chunk = (chunk_id(), 1..=pack::MAX_CHUNK as u32).prop_map(|(id, len)| Item::Chunk { id, len });
    let hole = (1..1u64 << 50).prop_map(|len| Item::Hole { len });
    vec(prop_oneof![3 => chunk, 1 => hole], 1..most)
}

fn tree_root() -> impl Strategy<Value = Root> {
    (chunk_id(), 0..=page::MAX_HEIGHT).prop_map(|(page, height)| Root { page, height })
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        vec(any::<u8>(), 0..200).prop_map(Content::Inline),
        items(12).prop_map(Content::Items),
        (tree_root(), 0..1u64 << 60, any::<u64>()).prop_map(|(root, size, n)| Content::Tree { root, size, data: n % (size + 1) }),
    ]
}

fn directory() -> impl Strategy<Value = Directory> {
    let full = (tree_root(), 1..1u64 << 40, 0..1u64 << 40, any::<u64>()).prop_map(|(root, entries, more, n)| Directory {
        root: Some(root),
        entries,
        descendants: entries + more,
        subdirs: n % (entries + 1),
    });
    prop_oneof![Just(Directory::default()), full]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => content().prop_map(Kind::File),
        2 => directory().prop_map(Kind::Directory),
        1 => vec(1u8.., 1..100).prop_map(Kind::Symlink),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
        1 => any::<(u32, u32)>().prop_map(|(a, b)| Kind::CharDevice(a, b)),
        1 => any::<(u32, u32)>().prop_map(|(a, b)| Kind::BlockDevice(a, b)),
    ]
}

fn xattrs() -> impl Strategy<Value = Xattrs> {
    prop_oneof![
        3 => Just(Xattrs::None),
        1 => btree_map(vec(1u8.., 1..20), vec(any::<u8>(), 0..50), 1..5).prop_map(|map| Xattrs::Inline(map.into_iter().collect())),
        1 => chunk_id().prop_map(Xattrs::Stored),
    ]
}

fn metadata() -> impl Strategy<Value = Metadata> {
    (0..0o10000u16, any::<u32>(), any::<u32>(), time(), xattrs(), any::<u32>())
        .prop_map(|(mode, uid, gid, mtime, xattrs, flags)| Metadata { mode, uid, gid, mtime, xattrs, flags })
}

fn node() -> impl Strategy<Value = Node> {
    (name(), metadata(), kind(), option::of(any::<[u8; 16]>()), any::<(bool, bool, u32)>()).prop_map(
        |(name, meta, kind, link, (given, changed, left_out))| {
            let link = link.filter(|_| !matches!(kind, Kind::Directory(_))).map(LinkGroup);
            let left_out = LeftOut(if matches!(kind, Kind::Directory(_)) { left_out } else { 0 });
            Node { name, meta, kind, link, given, changed, left_out }
        },
    )
}

fn root_node() -> impl Strategy<Value = Node> {
    (metadata(), directory()).prop_map(|(meta, directory)| Node {
        name: Vec::new(),
        meta,
        kind: Kind::Directory(directory),
        link: None,
        given: false,
        changed: false,
        left_out: LeftOut(3),
    })
}

fn record() -> impl Strategy<Value = ScanRecord> {
    (any::<u64>(), time(), option::of(time())).prop_map(|(inode, ctime, birth)| ScanRecord { inode, ctime, birth })
}

fn owners() -> impl Strategy<Value = Vec<(u32, Vec<u8>)>> {
    btree_map(any::<u32>(), name(), 0..4).prop_map(|map| map.into_iter().collect())
}

fn joined(texts: &[Vec<u8>]) -> Vec<u8> {
    texts.concat()
}

fn a_snapshot() -> impl Strategy<Value = Snapshot> {
    let texts = || vec(vec(any::<u8>(), 0..30), 0..4);
    let roots = (option::of(tree_root()), option::of(tree_root()));
    let who = (vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..20));
    let lists = (texts(), texts(), owners(), owners());
    let parent = option::of(any::<[u8; 32]>());
    (any::<[u8; 32]>(), (time(), time(), time()), who, lists, parent, root_node(), roots, any::<[u64; 10]>()).prop_map(
        |(id, times, (host, user, program), (paths, tags, users, groups), parent, root, (scan, links), n)| Snapshot {
            id: SnapshotId(id),
            time: times.0,
            finished: times.1,
            host,
            user,
            rules: tags.iter().map(|text| Rule::new(text.len() as u64, text.clone())).collect(),
            composition: Composition {
                set: paths.first().map(|name| SetText { name: name.clone(), text: joined(&tags) }),
                parts: paths
                    .iter()
                    .map(|path| Part {
                        kind: n[0],
                        state: n[1],
                        path: path.clone(),
                        started: times.0,
                        finished: times.1,
                        bytes: n[2],
                        changed: n[3],
                        errors: n[4],
                        message: joined(&tags),
                    })
                    .collect(),
                frozen: n[5],
                addresses: tags.clone(),
                group: parent.map(|id| GroupPart { group: SnapshotId(id), member: joined(&tags) }),
                origin: parent.map(|id| Origin { repository: RepositoryId([3; 16]), snapshot: SnapshotId(id) }),
            },
            paths,
            tags,
            parent: parent.map(SnapshotId),
            writer: None,
            chain: Chain { number: n[9], follows: parent.map(SnapshotId).into_iter().collect() },
            root,
            scan,
            scan_start: times.2,
            links,
            owners: Owners { users, groups },
            statistics: Statistics {
                files: n[0],
                directories: n[1],
                others: n[2],
                bytes: n[3],
                files_new: n[4],
                files_changed: n[5],
                files_unchanged: n[6],
                bytes_new: n[7],
                bytes_stored: n[8],
                errors: n[9],
                with_attributes: (n[0] % 3 > 0).then_some(n[1]),
            },
            program,
        },
    )
}

fn frames() -> impl Strategy<Value = Vec<DirectoryEntry>> {
    let chunks = vec((any::<[u8; 16]>().prop_map(ChunkKey), 1..200_000u32), 1..20);
    let frame = (chunks, any::<bool>(), 1..5000u32, vec(any::<[u8; 16]>().prop_map(ChunkKey), 0..2));
    let entry = frame.prop_map(|(chunks, raw, stored, bases)| {
        let plain = chunks.iter().map(|(_, len)| len).sum();
        let raw = raw && bases.is_empty();
        let (codec, stored) = if raw { (Codec::Raw, plain + 16) } else { (Codec::Zstd, stored + 16) };
        DirectoryEntry { frame: FrameInfo { offset: 0, stored, plain, codec, bases }, chunks }
    });
    vec(entry, 0..12).prop_map(|mut entries| {
        entries.iter_mut().fold(pack::PREAMBLE as u64, |at, entry| {
            entry.frame.offset = at;
            at + u64::from(entry.frame.stored)
        });
        entries
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn nodes(mut nodes in vec(node(), 1..20)) {
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes.dedup_by(|a, b| a.name == b.name);
        let bytes = decoders::leaf(PageKind::Directory, |out| nodes.iter().for_each(|n| node::encode_unchecked(n, out)));
        prop_assert_eq!(page::nodes(&bytes).unwrap(), nodes);
        decoders::tree(&bytes);
    }

    #[test]
    fn recipes(items in items(300)) {
        let bytes = decoders::leaf(PageKind::Recipe, |out| items.iter().for_each(|i| page::put_item(i, out)));
        prop_assert_eq!(page::items(&bytes).unwrap(), items);
        decoders::tree(&bytes);
    }

    #[test]
    fn scan_records(records in vec(record(), 1..100)) {
        let bytes = decoders::scan_page(&records);
        prop_assert_eq!(page::scan_records(&bytes).unwrap(), records);
        decoders::tree(&bytes);
    }

    #[test]
    fn links(entries in btree_map(any::<[u8; 16]>(), any::<(u64, u32)>(), 1..50)) {
        let entries: Vec<LinkEntry> =
            entries.into_iter().map(|(group, (first, count))| LinkEntry { group: LinkGroup(group), first, count }).collect();
        let bytes = decoders::leaf(PageKind::Links, |out| entries.iter().for_each(|l| page::put_link(l, out)));
        prop_assert_eq!(page::links(&bytes).unwrap(), entries);
        decoders::tree(&bytes);
    }

    #[test]
    fn inner_pages(keys in btree_map(name(), (chunk_id(), 1u64.., any::<u64>()), 1..50), level in 1..=page::MAX_HEIGHT) {
        let children: Vec<Child> =
            keys.into_iter().map(|(key, (page, count, weight))| Child { page, count, weight, key }).collect();
        for kind in [PageKind::Directory, PageKind::Recipe, PageKind::Scan, PageKind::Links] {
            let bytes = decoders::inner_page(kind, level, &children);
            prop_assert_eq!(page::children(&bytes, kind, level).unwrap(), children.clone());
            prop_assert!(page::children(&bytes, kind, level - 1).is_err());
            decoders::tree(&bytes);
        }
    }

    #[test]
    fn pack_directories(entries in frames(), lie in any::<prop::sample::Index>()) {
        let directory = entries.last().map_or(pack::PREAMBLE as u64, |e| e.frame.offset + u64::from(e.frame.stored));
        let tail = Tail { directory, directory_len: 0, frames: entries.len() as u32 };
        let bytes = pack::encode_directory_unchecked(&entries);
        prop_assert_eq!(pack::decode_directory(&bytes, &tail).unwrap(), entries.clone());
        let (more, further) = (Tail { frames: tail.frames + 1, ..tail }, Tail { directory: directory + 1, ..tail });
        prop_assert!(pack::decode_directory(&bytes, &more).is_err());
        prop_assert!(pack::decode_directory(&bytes, &further).is_err());
        if !entries.is_empty() {
            let mut wrong = entries.clone();
            wrong[lie.index(entries.len())].frame.plain += 1;
            prop_assert!(pack::decode_directory(&pack::encode_directory_unchecked(&wrong), &tail).is_err());
        }
    }

    #[test]
    fn snapshots(snapshot in a_snapshot()) {
        let bytes = snapshot::encode_snapshot_unchecked(&snapshot);
        prop_assert_eq!(snapshot::encode_snapshot_unchecked(&snapshot::decode_snapshot(&bytes, snapshot.id).unwrap()), bytes.clone());
        prop_assert_eq!(snapshot::decode_snapshot(&bytes, snapshot.id).unwrap(), snapshot);
        for cut in 0..bytes.len() {
            prop_assert!(snapshot::decode_snapshot(&bytes[..cut], SnapshotId([0; 32])).is_err(), "cut at {}", cut);
        }
    }

    #[test]
    fn sessions_and_marks(
        (host, boot) in (vec(any::<u8>(), 0..30), vec(any::<u8>(), 0..40)),
        (pid, started) in any::<(u32, u64)>(),
        (machine, namespace, number) in (vec(any::<u8>(), 0..20), any::<u64>(), any::<u64>()),
        time in time(),
        ids in btree_set(any::<[u8; 32]>(), 0..5),
    ) {
        let lists = ids.into_iter().map(SnapshotId).collect();
        let session = snapshot::Session { host: host.clone(), boot, pid, started, machine, namespace, time, lists };
        prop_assert_eq!(snapshot::decode_beat(&snapshot::encode_beat(number, time)).unwrap(), (number, time));
        prop_assert_eq!(snapshot::decode_session(&snapshot::encode_session(&session).unwrap()).unwrap(), session.clone());
        let mark = snapshot::Mark { snapshot: SnapshotId([7; 32]), host, user: session.boot.clone(), time, why: b"why".to_vec(), follows: vec![SnapshotId([8; 32])], grace: 9 };
        prop_assert_eq!(snapshot::decode_mark(&snapshot::encode_mark(&mark).unwrap()).unwrap(), mark);
    }

    #[test]
    fn configurations(
        repository in any::<[u8; 16]>(),
        created in time(),
        mac in any::<[u8; 32]>(),
        low in 8..18u32,
        sealed in proptest::option::of(any::<([u8; 32], [u8; 16])>()),
    ) {
        let cutter = sealed.map(|(secret, tag)| std::array::from_fn(|at| *secret.iter().chain(&tag).nth(at).unwrap()));
        let chunker = ChunkerParameters { min: 1 << low, avg: 2 << low, max: 8 << low };
        let config = Config { repository: RepositoryId(repository), created, chunker, cutter, mandatory: 0 };
        let bytes = encode_config(&config, &mac).unwrap();
        let (back, fields, found) = decode_config(&bytes, config.repository).unwrap();
        prop_assert_eq!((&back, fields, found), (&config, &config_fields(&config)[..], mac));
        let closed = Config { mandatory: 1, ..config.clone() };
        let bytes = encode_config(&closed, &mac).unwrap();
        let back = decode_config(&bytes, closed.repository).unwrap().0;
        prop_assert!(back.is_closed() && back == closed);
        let newer = Config { mandatory: 2, ..config };
        let refused = decode_config(&encode_config_unchecked(&newer, &mac), newer.repository).unwrap_err();
        prop_assert_eq!(refused.kind(), yester::ErrorKind::Unsupported);
    }

    #[test]
    fn key_slots(
        derivation in prop_oneof![
            Just(Derivation::KeyFile),
            (1..=16u32, 1..=64u32, 128..=4u32 << 20).prop_map(|(lanes, passes, memory)| Derivation::Passphrase { memory, passes, lanes }),
        ],
        (salt, commitment, created) in (any::<[u8; 32]>(), any::<[u8; 16]>(), time()),
        (wrapped, label) in (
            prop_oneof![
                vec(any::<u8>(), 48).prop_map(|bytes| WrappedKey::Master(bytes.try_into().unwrap())),
                vec(any::<u8>(), WrappedKey::WRITER).prop_map(|bytes| WrappedKey::Writer(bytes.try_into().unwrap())),
            ],
            vec(any::<u8>(), 0..30),
        ),
        former in 0..5usize,
    ) {
        let former = if former == 0 || wrapped.only_writes() { Vec::new() } else { vec![7; 32 * former + 16] };
        let slot = KeySlot { derivation, salt, commitment, wrapped, created, label, former };
        prop_assert_eq!(decode_slot(&encode_slot(&slot, &[0; 32]).unwrap()).unwrap(), slot);
    }

    /// What a key that only writes seals, the repository's key opens under its own name and no other key does.
    #[test]
    fn sealed_one_way(plain in vec(any::<u8>(), 0..2000), slot in any::<[u8; 16]>(), id in any::<[u8; 32]>(), at in any::<prop::sample::Index>()) {
        let (master, other) = (MasterKey::from_bytes([1; 32]), MasterKey::from_bytes([2; 32]));
        let (repository, writer) = (RepositoryId([7; 16]), SlotId(slot).writer());
        let own = master.writer(writer, repository, ChunkerParameters::DEFAULT).unwrap().keys();
        let mut id = id;
        id[24..].copy_from_slice(&writer.0);
        let object = seal_object(ObjectType::Snapshot, repository, &id, &own.snapshot, &plain).unwrap();
        let open = |keys: &yester::chunk::keys::Keys, id: &[u8], object: &[u8]| {
            open_object(ObjectType::Snapshot, repository, id, &keys.snapshot, object, "t")
        };
        prop_assert_eq!(open(&master.keys(), &id, &object).unwrap(), plain.clone());
        prop_assert_eq!(open(&own, &id, &object).unwrap_err().kind(), yester::ErrorKind::Key);
        prop_assert!(open(&other.keys(), &id, &object).is_err());
        let (mut elsewhere, mut changed) = (id, object.clone());
        elsewhere[at.index(32)] ^= 1;
        prop_assert!(open(&master.keys(), &elsewhere, &object).is_err());
        changed[at.index(object.len())] ^= 1;
        prop_assert!(open(&master.keys(), &id, &changed).is_err());
        // It makes nothing that takes something away, and nothing in the name of another.
        for kind in [ObjectType::Forgotten, ObjectType::Condemned, ObjectType::Damaged, ObjectType::Removed, ObjectType::Annotation] {
            prop_assert!(seal_object(kind, repository, &id, &own.snapshot, &plain).is_err());
        }
        elsewhere[31] = id[31] ^ 1;
        prop_assert!(seal_object(ObjectType::Snapshot, repository, &elsewhere, &own.snapshot, &plain).is_err());
    }

    /// A chunk's name tells whose it is.
    #[test]
    fn chunks_of_writers(plain in vec(any::<u8>(), 0..200), slots in any::<[[u8; 16]; 2]>()) {
        prop_assume!(slots[0][..8] != slots[1][..8]);
        let master = MasterKey::from_bytes([1; 32]);
        let keys = master.keys();
        let of = |slot| master.writer(SlotId(slot).writer(), RepositoryId([7; 16]), ChunkerParameters::DEFAULT).unwrap().keys();
        let [a, b] = slots.map(of);
        let ids = [&keys, &a, &b].map(|keys| keys.chunk_id(PackKind::Data, &plain));
        prop_assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0].key() != ids[1].key() && ids[1].key() != ids[2].key());
        for id in &ids {
            // The second time it is known whose it is.
            for _ in 0..2 {
                prop_assert!(keys.is_chunk(PackKind::Data, id, &plain));
                prop_assert!(!keys.is_chunk(PackKind::Tree, id, &plain));
                prop_assert!(!keys.is_chunk(PackKind::Data, id, &[&plain[..], b"x"].concat()));
            }
        }
        prop_assert!(!a.is_chunk(PackKind::Data, &ids[0], &plain) && !a.is_chunk(PackKind::Data, &ids[2], &plain));
    }

    #[test]
    fn seals(plain in vec(any::<u8>(), 0..2000), aad in vec(any::<u8>(), 0..50), number in any::<u64>(), flip in any::<prop::sample::Index>()) {
        let key = SealKey::derive(&ClassKey::from_bytes([1; 32]), &[2; 32]).unwrap();
        let mut sealed = plain.clone();
        key.seal(number, &aad, &mut sealed).unwrap();
        prop_assert_eq!(sealed.len(), plain.len() + 16);
        let mut out = vec![7; 10];
        key.open_to(number, &aad, &sealed, &mut out).unwrap();
        prop_assert_eq!(&out, &plain);
        prop_assert!(key.open_to(number ^ 1, &aad, &sealed, &mut out).is_err());
        let other = SealKey::derive(&ClassKey::from_bytes([1; 32]), &[3; 32]).unwrap();
        prop_assert!(other.commitment != key.commitment && other.open_to(number, &aad, &sealed, &mut out).is_err());
        let at = flip.index(sealed.len());
        sealed[at] ^= 1;
        prop_assert!(key.open(number, &aad, &mut sealed).is_err());
    }

    #[test]
    fn recovery_texts_hold_what_they_were_made_of(created in time(), repository in any::<[u8; 16]>(), master in any::<[u8; 32]>()) {
        let config = Config { repository: RepositoryId(repository), created, chunker: ChunkerParameters::DEFAULT, cutter: None, mandatory: 0 };
        let lines = Recovery::new(config.clone(), &master).lines().unwrap();
        let back = Recovery::read(lines.as_bytes()).unwrap();
        prop_assert_eq!((&back.config, &*back.master), (&config, &master));
    }

    #[test]
    fn any_bytes_are_taken_without_a_panic(bytes in vec(any::<u8>(), 0..600)) {
        decoders::TARGETS.iter().for_each(|(_, target)| target(&bytes));
        for kind in 1..=4 {
            for level in 0..2 {
                decoders::tree(&[&[kind, level], &bytes[..]].concat());
            }
        }
    }
}

/// Texts that are mostly short, and now and then at a limit or beyond it.
fn text(limit: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => vec(any::<u8>(), 0..30),
        1 => (0..3usize, any::<u8>()).prop_map(move |(more, byte)| vec![byte; limit - 1 + more]),
    ]
}

fn any_content() -> impl Strategy<Value = Content> {
    let item = prop_oneof![
        (chunk_id(), any::<u32>()).prop_map(|(id, len)| Item::Chunk { id, len }),
        prop_oneof![Just(0), Just(u64::MAX), Just(i64::MAX as u64), 1..1u64 << 40].prop_map(|len| Item::Hole { len }),
    ];
    let any_root = (chunk_id(), any::<u8>()).prop_map(|(page, height)| Root { page, height: height % 20 });
    prop_oneof![
        text(node::MAX_INLINE).prop_map(Content::Inline),
        vec(item, 0..3).prop_map(Content::Items),
        (0..3usize).prop_map(|more| Content::Items(vec![Item::Hole { len: 1 }; node::MAX_ITEMS - 1 + more])),
        (any_root, any::<u64>(), any::<u64>()).prop_map(|(root, size, data)| Content::Tree { root, size, data }),
    ]
}

fn any_kind() -> impl Strategy<Value = Kind> {
    let directory = (option::of(tree_root()), 0..3u64, 0..4u64, 0..3u64)
        .prop_map(|(root, entries, descendants, subdirs)| Directory { root, entries, descendants, subdirs });
    prop_oneof![
        any_content().prop_map(Kind::File),
        directory.prop_map(Kind::Directory),
        text(yester::model::node::MAX_TARGET).prop_map(Kind::Symlink),
        Just(Kind::Fifo),
        any::<(u32, u32)>().prop_map(|(a, b)| Kind::BlockDevice(a, b)),
    ]
}

fn any_xattrs() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    prop_oneof![
        vec((text(yester::model::node::MAX_NAME), text(node::MAX_XATTR_VALUE)), 0..4),
        // In order, and then as many as are too many.
        (0..3usize).prop_map(|more| {
            let name = |n: usize| (format!("user.{n:08}").into_bytes(), Vec::new());
            (0..node::MAX_XATTRS - 1 + more).map(name).collect()
        }),
    ]
}

fn any_node() -> impl Strategy<Value = Node> {
    let xattrs = prop_oneof![2 => Just(Xattrs::None), 1 => any_xattrs().prop_map(Xattrs::Inline)];
    let times = (any::<i64>(), prop_oneof![6 => 0..1_000_000_000u32, 1 => any::<u32>()]);
    let meta = (any::<u16>(), any::<u32>(), times, xattrs).prop_map(|(mode, uid, (secs, nanos), xattrs)| Metadata {
        mode: mode & 0o17777,
        uid,
        gid: uid,
        mtime: Timestamp { secs, nanos },
        xattrs,
        flags: uid,
    });
    let name = text(yester::model::node::MAX_NAME);
    (name, meta, any_kind(), option::of(any::<[u8; 16]>())).prop_map(|(name, meta, kind, link)| Node {
        name,
        meta,
        kind,
        link: link.map(LinkGroup),
        given: true,
        changed: false,
        left_out: Default::default(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// What an encoder takes its decoder takes, and makes the same of it; what the decoder refuses the encoder refuses.
    #[test]
    fn nodes_have_one_limit_for_both_ways(node in any_node()) {
        let mut raw = Vec::new();
        node::encode_unchecked(&node, &mut raw);
        let mut cursor = Cursor::new(&raw, "a node");
        let read = node::decode(&mut cursor).ok().filter(|found| cursor.remaining() == 0 && *found == node);
        let mut out = Vec::new();
        prop_assert_eq!(node::encode(&node, &mut out).is_ok(), read.is_some(), "{:?}", node::check(&node));
        prop_assert!(out.is_empty() || out == raw);
    }

    #[test]
    fn attributes_have_one_limit_for_both_ways(list in any_xattrs()) {
        let mut raw = Vec::new();
        node::encode_xattrs_unchecked(&list, &mut raw);
        let read = node::decode_xattrs(&raw).ok().filter(|found| *found == list && raw.len() <= pack::MAX_CHUNK);
        prop_assert_eq!(node::encode_xattrs(&list, &mut Vec::new()).is_ok(), read.is_some());
    }

    #[test]
    fn snapshots_have_one_limit_for_both_ways(
        mut made in a_snapshot(),
        (host, path, tag) in (text(snapshot::MAX_TEXT), text(snapshot::MAX_TEXT), text(snapshot::MAX_TEXT)),
        (root, long) in (any_node(), prop_oneof![3 => Just(0), 1 => snapshot::MAX_LIST - 1..snapshot::MAX_LIST + 2]),
        (users, which) in (vec((any::<u32>(), text(yester::model::node::MAX_NAME)), 0..3), 0..3u8),
    ) {
        (made.host, made.user) = (host, tag.clone());
        made.paths.push(path);
        made.tags.push(tag);
        made.owners.users = users;
        if which == 0 {
            made.root = root;
        }
        match which {
            1 => made.paths = vec![b"/x".to_vec(); long],
            2 => made.owners.groups = (0..long as u32).map(|id| (id, b"g".to_vec())).collect(),
            _ => {}
        }
        let raw = snapshot::encode_snapshot_unchecked(&made);
        let read = snapshot::decode_snapshot(&raw, made.id).ok().filter(|found| *found == made);
        prop_assert_eq!(snapshot::encode_snapshot(&made).ok(), read.map(|_| raw));
    }

    #[test]
    fn what_small_objects_encode_decodes((host, boot) in (text(snapshot::MAX_TEXT), text(snapshot::MAX_TEXT)), time in any_time(), label in text(65_000)) {
        let session = snapshot::Session { host: host.clone(), boot, time, ..Default::default() };
        if let Ok(bytes) = snapshot::encode_session(&session) {
            prop_assert_eq!(snapshot::decode_session(&bytes).unwrap(), session);
        }
        let mark = snapshot::Mark { snapshot: SnapshotId([7; 32]), host, user: b"u".to_vec(), time, ..snapshot::Mark::of(SnapshotId([7; 32])) };
        if let Ok(bytes) = snapshot::encode_mark(&mark) {
            prop_assert_eq!(snapshot::decode_mark(&bytes).unwrap(), mark);
        }
        let slot = KeySlot {
            derivation: Derivation::Passphrase { memory: time.nanos, passes: 3, lanes: time.nanos % 20 },
            salt: [1; 32],
            commitment: [2; 16],
            wrapped: WrappedKey::Master([3; 48]),
            created: time,
            label,
            former: vec![4; time.nanos as usize % 99],
        };
        if let Ok(bytes) = encode_slot(&slot, &[0; 32]) {
            prop_assert!(bytes.len() as u64 <= yester::format::config::MAX_OBJECT);
            prop_assert_eq!(decode_slot(&bytes).unwrap(), slot);
        }
        let chunker = ChunkerParameters { min: time.nanos, avg: time.nanos << 1, max: time.nanos << 3 };
        let config = Config { repository: RepositoryId([7; 16]), created: time, chunker, cutter: None, mandatory: u64::from(time.nanos & 1) };
        if let Ok(bytes) = encode_config(&config, &[4; 32]) {
            prop_assert_eq!(decode_config(&bytes, config.repository).unwrap().0, config);
        }
    }

    #[test]
    fn what_packs_and_segments_encode_decodes(mut entries in frames(), (spoil, by) in (any::<prop::sample::Index>(), 0..6u32), frames in 0..3u32) {
        if !entries.is_empty() {
            let at = spoil.index(entries.len());
            let entry = &mut entries[at];
            match by {
                0 => entry.frame.plain += 1,
                1 => entry.frame.stored = 16,
                2 => entry.chunks.clear(),
                3 => entry.frame.bases = vec![ChunkKey([9; 16]); pack::MAX_BASES + 1],
                4 => entry.chunks[0].1 = pack::MAX_CHUNK as u32 + 1,
                _ => {}
            }
        }
        if let Ok(bytes) = pack::encode_directory(&entries) {
            let directory = entries.iter().fold(pack::PREAMBLE as u64, |at, entry| at + u64::from(entry.frame.stored));
            let tail = Tail { directory, directory_len: bytes.len() as u32, frames: entries.len() as u32 };
            prop_assert_eq!(pack::decode_directory(&bytes, &tail).unwrap(), entries.clone());
        }
        let infos: Vec<FrameInfo> = entries.iter().map(|entry| entry.frame.clone()).collect();
        if let Ok(bytes) = segment::encode_frames(&infos) {
            prop_assert_eq!(segment::decode_frames(&bytes, 0, &[0, infos.len() as u32]).unwrap(), infos);
        }
        let places: Vec<segment::IndexEntry> = entries
            .iter()
            .flat_map(|entry| &entry.chunks)
            .map(|(key, len)| segment::IndexEntry { key: *key, frame: by, offset: *len, len: *len })
            .collect();
        if let Ok(bytes) = segment::encode_entries(&places, frames) {
            prop_assert_eq!(segment::decode_entries(&bytes, places.len(), frames).unwrap(), places);
        }
    }
}

/// Times, some of which there are not.
fn any_time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), any::<u32>()).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
}

/// The least that a sink does.
#[derive(Default)]
struct Ids(u8);

impl yester::repo::tree::writer::PageSink for Ids {
    fn page(&mut self, _: &[u8]) -> yester::Result<ChunkId> {
        self.0 = self.0.wrapping_add(1);
        Ok(ChunkId([self.0; 32]))
    }
}

#[test]
fn a_page_that_no_reader_takes_is_never_stored() {
    use yester::repo::tree::writer::TreeWriter;
    let file = |name: &str| Node {
        name: name.into(),
        meta: Metadata::default(),
        kind: Kind::Fifo,
        link: None,
        given: true,
        changed: false,
        left_out: Default::default(),
    };
    let tree = |names: &[&str]| {
        let (mut writer, mut sink, mut bytes) = (TreeWriter::new(PageKind::Directory), Ids::default(), Vec::new());
        for name in names {
            bytes.clear();
            node::encode(&file(name), &mut bytes).unwrap();
            writer.push(&bytes, 1, name.as_bytes(), || 1, &mut sink).unwrap();
        }
        writer.finish(&mut sink)
    };
    assert!(tree(&["a", "b", "c"]).is_ok());
    for bad in [&["a", "a"][..], &["b", "a"], &["a/b"], &[""], &["..", "x"]] {
        let error = tree(bad).unwrap_err();
        assert!(error.to_string().contains("nothing was saved"), "{error}");
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    std::fs::read_dir(place).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
}

#[test]
fn cut_and_flipped_seeds_are_taken_without_a_panic() {
    for (name, target) in decoders::TARGETS {
        // Every frame input is compressed and sealed, every cutter input cut: fewer of them say as much.
        let step = if matches!(name, "frame" | "cutter") { 37 } else { 1 };
        for seed in seeds(name) {
            target(&seed);
            for at in (0..seed.len()).step_by(step) {
                target(&seed[..at]);
                for flip in [0x01, 0x80, 0xff] {
                    let mut bad = seed.clone();
                    bad[at] ^= flip;
                    target(&bad);
                }
            }
        }
    }
}

#[test]
fn damaged_compressed_bytes_never_decode_to_another_length() {
    use yester::chunk::codec::{Compression, Decoder, Encoder};
    let plain = b"the same words again and again ".repeat(200);
    let mut stored = Vec::new();
    assert_eq!(Encoder::new(Compression::Auto).unwrap().encode(&plain, &mut stored).unwrap(), Codec::Zstd);
    let (mut decoder, mut out) = (Decoder::new().unwrap(), Vec::new());
    for at in 0..stored.len() {
        assert!(decoder.decode(Codec::Zstd, &stored[..at], plain.len(), &mut out).is_err(), "cut at {at}");
        let mut bad = stored.clone();
        bad[at] ^= 0x55;
        let decoded = decoder.decode(Codec::Zstd, &bad, plain.len(), &mut out);
        assert!(decoded.is_err() || out.len() == plain.len());
    }
    decoder.decode(Codec::Zstd, &stored, plain.len(), &mut out).expect("an error leaves the decoder usable");
    assert_eq!(out, plain);
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut out);
    out
}

fn pieces(cutter: &Cutter, parameters: ChunkerParameters, data: &[u8]) -> HashSet<blake3::Hash> {
    let mut rest = data;
    let lengths = decoders::check_cuts(cutter, parameters, data);
    assert_eq!(lengths.iter().sum::<usize>(), data.len());
    let hash = |len| {
        let (piece, after) = rest.split_at(len);
        rest = after;
        blake3::hash(piece)
    };
    lengths.into_iter().map(hash).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn one_edit_changes_few_chunks(seed in any::<u8>(), at in 0..400_000usize, edit in vec(any::<u8>(), 0..100), gone in 0..100usize) {
        let parameters = ChunkerParameters { min: 1 << 10, avg: 4 << 10, max: 16 << 10 };
        let cutter = Cutter::new(parameters, &[seed; 32]).unwrap();
        let before = noise(400_000 + 200, seed);
        let mut after = before.clone();
        after.splice(at..at + gone, edit);
        let (old, new) = (pieces(&cutter, parameters, &before), pieces(&cutter, parameters, &after));
        prop_assert!(old.len() > 50);
        prop_assert!(new.difference(&old).count() <= 12, "{} of {} chunks are new", new.difference(&old).count(), new.len());
    }

    #[test]
    fn cuts_hold_their_bounds(data in vec(any::<u8>(), 0..3000), repeat in 1..30usize, low in 8..11u32, secret in any::<u8>()) {
        let parameters = ChunkerParameters { min: 1 << low, avg: 4 << low, max: 8 << low };
        let cutter = Cutter::new(parameters, &[secret; 32]).unwrap();
        pieces(&cutter, parameters, &data.repeat(repeat));
    }
}

/// All places that a segment has for a key: pack, frame, offset, length. With and without the filter they are the same.
fn places_of(segment: &PagedSegment, key: &ChunkKey, pages: &Pages) -> Vec<(PackId, u32, u32, u32)> {
    let mut found = Vec::new();
    let mut visit = |_: u32, entry: &yester::format::segment::IndexEntry| {
        let (pack, number) = segment.pack_of(entry.frame);
        found.push((segment.packs()[pack].id, number, entry.offset, entry.len));
    };
    segment.find(key, true, pages, &mut visit).unwrap();
    found
}

fn memory_repository() -> Repository {
    let options = InitOptions {
        chunker: ChunkerParameters::DEFAULT,
        derivation: Derivation::KeyFile,
        now: Timestamp::default(),
        label: Vec::new(),
    };
    Repository::init(Arc::new(MemoryStorage::default()), &Credential::KeyFile([1; 32]), &options).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn segments(packs in vec((any::<[u8; 32]>(), any::<bool>(), frames()), 0..5), absent in btree_set(any::<[u8; 16]>(), 0..50), twice in any::<bool>()) {
        let repo = memory_repository();
        let mut packs: Vec<StoredPack> = packs.into_iter().map(|(id, data, entries)| {
            let kind = if data { PackKind::Data } else { PackKind::Tree };
            StoredPack { id: PackId(id), kind, size: 1 << 20, one_way: id[0] & 1 == 1, entries }
        }).collect();
        if twice && let Some(first) = packs.first() {
            // The same chunks in two packs: both places are kept.
            let (id, kind, entries) = (PackId([0xee; 32]), first.kind, first.entries.clone());
            let again = StoredPack { id, kind, size: 1 << 20, one_way: first.one_way, entries };
            packs.push(again);
        }
        let mut expected: BTreeMap<ChunkKey, Vec<(PackId, u32, u32, u32)>> = BTreeMap::new();
        for pack in &packs {
            for (number, entry) in pack.entries.iter().enumerate() {
                let mut offset = 0;
                for (key, len) in &entry.chunks {
                    expected.entry(*key).or_default().push((pack.id, number as u32, offset, *len));
                    offset += len;
                }
            }
        }
        let (id, size) = Segment::of_packs(&packs).store(&repo, Vec::new()).unwrap();
        let segment = PagedSegment::open(&repo, id, size).unwrap();
        let pages = Pages::new().unwrap();
        let one_way = |packs: &[StoredPack]| packs.iter().map(|pack| pack.one_way).collect::<Vec<_>>();
        prop_assert_eq!(segment.packs().iter().map(|pack| pack.one_way).collect::<Vec<_>>(), one_way(&packs));
        let find = |key: &ChunkKey| places_of(&segment, key, &pages);
        for (key, places) in &expected {
            prop_assert_eq!(&find(key), places);
        }
        for key in absent.into_iter().map(ChunkKey).filter(|key| !expected.contains_key(key)) {
            prop_assert!(find(&key).is_empty());
        }
        for edge in [[0; 16], [0xff; 16]].map(ChunkKey) {
            prop_assert_eq!(find(&edge).len(), expected.get(&edge).map_or(0, Vec::len));
        }
    }
}

#[test]
fn a_segment_of_many_pages_finds_every_key() {
    let repo = memory_repository();
    let bytes = noise(16 * 9000, 4);
    let keys: Vec<ChunkKey> = bytes.as_chunks::<16>().0.iter().map(|key| ChunkKey(*key)).collect();
    let entry = |keys: &[ChunkKey]| DirectoryEntry {
        frame: FrameInfo { offset: 0, stored: 100, plain: keys.len() as u32 * 5, codec: Codec::Zstd, bases: Vec::new() },
        chunks: keys.iter().map(|key| (*key, 5)).collect(),
    };
    let mut at = pack::PREAMBLE as u64;
    let entries = keys.chunks(2).map(|keys| {
        let mut entry = entry(keys);
        entry.frame.offset = at;
        at += 100;
        entry
    });
    let pack =
        StoredPack { id: PackId([3; 32]), kind: PackKind::Data, size: 1 << 20, one_way: false, entries: entries.collect() };
    let (id, size) = Segment::of_packs(&[pack]).store(&repo, Vec::new()).unwrap();
    let segment = PagedSegment::open(&repo, id, size).unwrap();
    let pages = Pages::new().unwrap();
    assert_eq!(segment.frames(), 4500);
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(places_of(&segment, key, &pages), [(PackId([3; 32]), n as u32 / 2, n as u32 % 2 * 5, 5)]);
        assert_eq!(segment.frame(n as u32 / 2, &pages).unwrap().offset, pack::PREAMBLE as u64 + n as u64 / 2 * 100);
        let mut other = ChunkKey([0; 16]);
        other.0.copy_from_slice(&blake3::hash(&n.to_le_bytes()).as_bytes()[..16]);
        assert!(places_of(&segment, &other, &pages).is_empty());
    }
    let sorted: BTreeSet<ChunkKey> = keys.into_iter().collect();
    // Of the 9000 keys that are not there, the filter let about one in a hundred through.
    assert!((9000..9200).contains(&pages.touched.get()), "{}", pages.touched.get());
    assert!(Arc::new(segment).all_entries().map(|e| e.unwrap().key).eq(sorted));
}

#[test]
fn a_master_key_is_unwrapped_by_its_own_credential_only() {
    let quick = Derivation::Passphrase { memory: 64, passes: 1, lanes: 1 };
    let (master, slot) = (MasterKey::from_bytes([5; 32]), SlotId([6; 16]));
    let right = Credential::Passphrase(b"right".to_vec());
    let made = master.wrap(&right, quick, Timestamp::default(), Vec::new(), slot).unwrap();
    let id = |key: &MasterKey| key.keys().chunk_id(PackKind::Data, b"x");
    assert_eq!(MasterKey::unwrap(&made, &right, slot).unwrap().map(|key| id(&key)), Some(id(&master)));
    let opens = |credential, slot| MasterKey::unwrap(&made, &credential, slot).unwrap().is_some();
    assert!(!opens(Credential::Passphrase(b"wrong".to_vec()), slot));
    assert!(!opens(Credential::KeyFile([5; 32]), slot));
    assert!(!opens(right, SlotId([7; 16])));
}

#[test]
fn numbers_cannot_be_encoded_twice() {
    let mut long = vec![0x81, 0x00];
    assert!(Cursor::new(&long, "a number").varint().is_err());
    long[1] = 0x01;
    assert_eq!(Cursor::new(&long, "a number").varint().unwrap(), 129);
}

#[test]
fn attributes_in_a_node_are_held_to_their_limit() {
    let of = |len| {
        let meta = Metadata { xattrs: Xattrs::Inline(vec![(b"user.a".to_vec(), vec![0; len])]), ..Metadata::default() };
        let node = Node {
            name: b"n".to_vec(),
            meta,
            kind: Kind::Fifo,
            link: None,
            given: true,
            changed: false,
            left_out: Default::default(),
        };
        let bytes = decoders::leaf(PageKind::Directory, |out| node::encode_unchecked(&node, out));
        page::nodes(&bytes).is_ok()
    };
    assert!(of(node::MAX_INLINE_XATTRS - 20));
    assert!(!of(node::MAX_INLINE_XATTRS));
}
