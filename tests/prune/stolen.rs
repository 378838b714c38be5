//! A key that only writes, stolen: what is stored with it, and what its segments say, takes nothing away.

use yester::chunk::keys::Credential;
use yester::chunk::seal;
use yester::format::config::Derivation;
use yester::format::envelope::ObjectType;
use yester::format::pack::{Codec, DirectoryEntry, PackKind};
use yester::ingest::{Source, ingest};
use yester::keys::keyring::KeyRing;
use yester::keys::slots::SlotOptions;
use yester::maintain::prune::{Prune, PruneOptions, Unused};
use yester::model::{Chain, ChunkKey, GroupPart, Origin, PackId, SnapshotId, Timestamp};
use yester::observe::Reports;
use yester::repo::index::Index;
use yester::repo::index::segment::Segment;
use yester::repo::pack::{StoredPack, read_directory};
use yester::repo::{Repository, snapshots};
use yester::storage::{Class, Name, Storage};
use yester::task::Task;

use std::sync::Arc;

use crate::common::forge::RawPack;
use crate::common::record::Operation;
use crate::prune::support::{World, noise, read_directory as files};

const WRITER: Credential = Credential::KeyFile([3; 32]);

/// A repository that both kinds of keys write to; what the writer stored is as the world's history says.
struct Both {
    world: World,
    writer: Arc<Repository>,
}

impl Both {
    fn new() -> Both {
        let world = World::new();
        let ring = KeyRing::open(world.storage.clone(), &Credential::KeyFile([9; 32])).unwrap();
        let options = SlotOptions { derivation: Derivation::KeyFile, now: Timestamp::default(), label: Vec::new() };
        ring.add_writer(&WRITER, &options).unwrap();
        let writer = Repository::open_to_write(world.storage.clone(), &WRITER, &Reports::default()).unwrap();
        Both { world, writer: Arc::new(writer) }
    }

    fn write(&mut self) -> SnapshotId {
        let sources = [Source { path: self.world.source.path().to_owned(), stored: b"/live".to_vec() }];
        let report = ingest(&self.writer, &sources, &self.world.options(), &Task::default()).unwrap();
        assert!(report.committed && report.is_complete());
        self.world.history.insert(report.snapshot.id, files(self.world.source.path()));
        report.snapshot.id
    }

    /// The packs of the writer with what they say of themselves.
    fn packs(&self) -> Vec<StoredPack> {
        let index = Index::load(&self.world.repo).unwrap();
        let mut out = Vec::new();
        for pack in index.packs() {
            let Ok((key, entries)) = read_directory(&self.world.repo, pack.id, pack.size) else { continue };
            if key.preamble().writer.is_some() {
                out.push(StoredPack::of(&key, pack.id, pack.size, entries));
            }
        }
        out
    }

    fn prune(&self) {
        let options = PruneOptions { max_unused: Unused::Bytes(0), ..self.world.prune_options() };
        self.world.try_prune(&options).unwrap();
    }
}

/// Rubbish of the right lengths under these names, in a pack and a segment of the writer.
fn rubbish(writer: &Repository, kind: PackKind, chunks: &[(ChunkKey, u32)]) -> StoredPack {
    let len: u32 = chunks.iter().map(|(_, len)| len).sum();
    let bytes = noise(77, len as usize);
    let pack = RawPack::new(writer, kind, &[(Codec::Raw, len, &bytes)]);
    let mut sealed = pack.store(writer, &[chunks], |_| {});
    sealed.kind = kind;
    sealed
}

/// Without its own look at the bytes, prune keeps the copy in the fullest pack, which the thief's is.
#[test]
fn rubbish_under_the_names_of_its_chunks_pushes_out_none_of_them() {
    let mut both = Both::new();
    both.world.write("stays", &noise(1, 60_000));
    both.world.write("goes", &noise(2, 200_000));
    let first = both.write();
    let old: Vec<Name> = both.packs().iter().map(|pack| Name::Pack(pack.id)).collect();
    both.world.remove("goes");
    both.write();
    // What the second run stored of the content is lost: what stays is in the pack of the first, with much that goes.
    for pack in both.packs().iter().filter(|pack| pack.kind == PackKind::Data && !old.contains(&Name::Pack(pack.id))) {
        both.world.storage.inner.delete(&Name::Pack(pack.id)).unwrap();
    }
    both.world.forget(first);
    let honest: Vec<StoredPack> = both.packs();
    for pack in &honest {
        let chunks: Vec<(ChunkKey, u32)> = pack.entries.iter().flat_map(|entry| entry.chunks.clone()).collect();
        let sealed = rubbish(&both.writer, pack.kind, &chunks);
        Segment::of_packs(&[sealed]).store(&both.writer, Vec::new()).unwrap();
    }
    both.world.verify();
    both.prune();
    both.world.verify();
    both.prune();
    both.world.verify();
}

#[test]
fn what_its_segments_say_of_packs_of_others_counts_for_nothing() {
    let mut both = Both::new();
    both.world.write("first", &noise(1, 60_000));
    let goes = both.world.ingest().snapshot.id;
    both.world.write("second", &noise(2, 60_000));
    both.write();
    both.world.write("third", &noise(3, 60_000));
    both.world.ingest();
    both.world.remove("first");
    both.world.ingest();
    let index = Index::load(&both.world.repo).unwrap();
    let mut lies: Vec<StoredPack> = Vec::new();
    for pack in index.packs() {
        let (key, mut entries) = read_directory(&both.world.repo, pack.id, pack.size).unwrap();
        // Other names at the same places, and the other way around.
        for entry in &mut entries {
            entry.chunks.iter_mut().for_each(|(key, _)| key.0[0] ^= 0xff);
        }
        lies.push(StoredPack::of(&key, pack.id, pack.size, entries));
    }
    for lie in &lies {
        let StoredPack { id, kind, size, one_way, entries } = lie;
        let lie = StoredPack { id: *id, kind: *kind, size: *size, one_way: *one_way, entries: entries.clone() };
        Segment::of_packs(&[lie]).store(&both.writer, Vec::new()).unwrap();
    }
    // Together with a pack that is nowhere, so that its segment is the longest, and would be asked first.
    let frame = lies[0].entries[0].frame.clone();
    let names = (0..300u32).map(|n| (ChunkKey(*blake3::hash(&n.to_le_bytes()).as_bytes().first_chunk().unwrap()), 1)).collect();
    let nowhere = DirectoryEntry { frame, chunks: names };
    lies.push(StoredPack { id: PackId([5; 32]), kind: PackKind::Data, size: 1000, one_way: true, entries: vec![nowhere] });
    Segment::of_packs(&lies).store(&both.writer, Vec::new()).unwrap();
    // And one that takes the place of all that there are.
    let all: Vec<_> = index.listed().to_vec();
    Segment::of_packs(&both.packs()[..1]).store(&both.writer, all).unwrap();
    both.world.verify();
    both.world.forget(goes);
    // Nothing is repacked: packs that stay are found by what segments say of them.
    let (plan, _) = both.world.sweep();
    assert!(plan.dead.count <= 3 && plan.packs.count == 7, "what is needed counts as dead by its word: {plan:?}");
    both.world.verify();
    // What it said is an ordinary segment now, by the word of its packs.
    let mut header = Vec::new();
    for (name, _) in both.world.storage.list(Class::Index).unwrap() {
        both.world.storage.read(&name, Some(0..28), &mut header).unwrap();
        assert_eq!(header[9], 0, "{name}");
    }
    both.write();
    // Segments are merged, and where two say something of one pack, one of them is believed.
    for n in 0..9 {
        both.world.write("changes", &noise(100 + n, 5000));
        both.world.ingest();
    }
    both.world.verify();
    both.world.sweep();
    both.world.verify();
}

/// A writer with such a key lives across a prune, with what it stores.
#[test]
fn it_writes_beside_a_prune() {
    let mut both = Both::new();
    both.world.write("first", &noise(1, 60_000));
    let goes = both.write();
    both.world.write("second", &noise(2, 60_000));
    both.world.remove("first");
    both.world.forget(goes);
    // The prune begins when the writer has stored something and not committed yet.
    let (repo, done) = (both.world.copy_of_repo(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let seen = done.clone();
    both.world.storage.once(
        |operation| matches!(operation, Operation::Create(Name::Segment(_), _)),
        move || {
            let options = PruneOptions { max_unused: Unused::Bytes(0), memory: 8 << 20, ..PruneOptions::default() };
            // It may not delete what the writer counts on, and may refuse while it lives.
            let _ = crate::prune::support::prune(&repo, &options);
            seen.store(true, std::sync::atomic::Ordering::SeqCst);
        },
    );
    both.write();
    assert!(done.load(std::sync::atomic::Ordering::SeqCst));
    both.world.verify();
    both.prune();
    both.world.verify();
}

/// The only copy that is not marked for deletion is rubbish: the others stay, and what is in them is copied.
#[test]
fn rubbish_beside_packs_that_are_marked_for_deletion_pushes_out_none_of_them() {
    let mut both = Both::new();
    both.world.write("file", &noise(1, 60_000));
    both.write();
    // What was marked by a prune that was killed, and is needed again since `forget --undo`.
    let honest = both.packs();
    let (repo, id) = (&both.world.repo, both.world.repo.new_id().unwrap());
    let plain: Vec<u8> = honest.iter().flat_map(|pack| pack.id.0).collect();
    let list = seal::seal_object(ObjectType::Condemned, repo.id(), &id.0, &repo.keys().snapshot, &plain).unwrap();
    both.world.storage.create(&Name::Condemned(id), &[&list]).unwrap();
    for pack in honest.iter().filter(|pack| pack.kind == PackKind::Data) {
        let chunks: Vec<(ChunkKey, u32)> = pack.entries.iter().flat_map(|entry| entry.chunks.clone()).collect();
        let sealed = rubbish(&both.writer, pack.kind, &chunks);
        Segment::of_packs(&[sealed]).store(&both.writer, Vec::new()).unwrap();
    }
    both.world.verify();
    for _ in 0..3 {
        both.prune();
        both.world.verify();
    }
    assert!(both.world.names(Class::Condemned).is_empty());
}

/// What nobody stole costs no look at the bytes: prune reads nothing of packs of data to choose between two copies.
#[test]
fn copies_of_other_keys_are_not_looked_at() {
    let mut both = Both::new();
    both.world.write("file", &noise(1, 60_000));
    both.world.ingest();
    let index = Index::load(&both.world.repo).unwrap();
    let packs: Vec<_> =
        index.packs().map(|pack| (*pack, read_directory(&both.world.repo, pack.id, pack.size).unwrap())).collect();
    // The same copies, seen through two segments.
    let again: Vec<StoredPack> =
        packs.iter().map(|(pack, (key, entries))| StoredPack::of(key, pack.id, pack.size, entries.clone())).collect();
    Segment::of_packs(&again).store(&both.world.repo, Vec::new()).unwrap();
    let data: Vec<Name> =
        packs.iter().filter(|(pack, _)| pack.kind == PackKind::Data).map(|(pack, _)| Name::Pack(pack.id)).collect();
    assert!(!data.is_empty() && again.iter().all(|pack| !pack.one_way));
    let reads = |both: &Both| {
        both.world.storage.take();
        Prune::prepare(&both.world.repo, &both.world.prune_options(), &Task::default()).unwrap();
        let log = both.world.storage.take();
        log.into_iter().filter(|done| matches!(done, Operation::Read(name, _) if data.contains(name))).collect::<Vec<_>>()
    };
    assert_eq!(reads(&both), []);
    // Beside packs of a key that only writes, too.
    both.write();
    both.write();
    assert_eq!(reads(&both), []);
}

/// What its snapshots say of others, and of groups, is not believed.
#[test]
fn its_snapshots_are_of_no_group_and_follow_nobody() {
    let mut both = Both::new();
    both.world.write("file", &noise(1, 10_000));
    let full = both.world.ingest().snapshot.id;
    let id = both.write();
    let mut snapshot = snapshots::load(&both.world.repo, id).unwrap().unwrap();
    let (group, repository) = (both.world.repo.new_id().unwrap(), both.world.repo.id());
    snapshot.id = both.writer.new_id().unwrap();
    (snapshot.parent, snapshot.chain) = (Some(full), Chain { number: 99, follows: vec![full] });
    snapshot.composition.origin = Some(Origin { repository, snapshot: full });
    snapshot.composition.group = Some(GroupPart { group, member: b"victim".to_vec() });
    assert!(snapshots::commit(&both.writer, &snapshot).unwrap());
    let seen = snapshots::load(&both.world.repo, snapshot.id).unwrap().unwrap();
    assert!(seen.writer.is_some() && seen.parent.is_none() && seen.chain == Chain::default());
    assert_eq!((seen.composition.group, seen.composition.origin), (None, None));
}
