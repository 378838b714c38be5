//! Against chance: packs of any sizes, any losses; and the storage failing at every change.
#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::found::FoundGroup;
use super::{AddOptions, ParityPlace, ParityShape, RebuiltPacks, add, find, rebuild, tend, verify};
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope;
use crate::format::pack::PackKind;
use crate::format::parity::{ParityGroup, encode_parity};
use crate::model::{ObjectType, PackId, RepositoryId};
use crate::storage::memory::MemoryStorage;
use crate::storage::{Class, Costs, Created, Name, Storage};
use crate::task::Task;

const OWN: RepositoryId = RepositoryId([7; 16]);

/// Something that begins as a pack does, of so many bytes.
fn pack(storage: &dyn Storage, kind: PackKind, seed: u64, len: usize) -> (PackId, Vec<u8>) {
    let mut body = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut body);
    // What stands between the header and the kind is random in real ones, too.
    body[80] = kind as u8;
    body[81..84].fill(0);
    let object = envelope::wrap(ObjectType::Pack, OWN, &body);
    let id = PackId(*object.last_chunk().unwrap());
    storage.create(&Name::Pack(id), &[&object]).unwrap();
    (id, object)
}

fn options(packs: usize, rows: u8) -> AddOptions {
    let shape = ParityShape { packs, rows };
    AddOptions { data: shape, trees: shape, times: HashMap::new() }
}

fn change(storage: &dyn Storage, name: &Name, with: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = Vec::new();
    storage.read(name, None, &mut bytes).unwrap();
    with(&mut bytes);
    storage.delete(name).unwrap();
    storage.create(name, &[&bytes]).unwrap();
}

/// All objects of parity.
fn rows(storage: &dyn Storage) -> Vec<(Name, Vec<u8>)> {
    let mut out: Vec<(Name, Vec<u8>)> =
        storage.list(Class::Parity).unwrap().into_iter().map(|(name, _)| (name, Vec::new())).collect();
    out.iter_mut().for_each(|(name, bytes)| storage.read(name, None, bytes).unwrap());
    out.sort();
    out
}

fn only_group(place: &ParityPlace<'_>) -> FoundGroup {
    let mut found = find(place).unwrap();
    assert!(found.bad.is_empty() && found.groups.len() == 1, "{found:?}");
    found.groups.pop().unwrap()
}

/// Packs, rows, and what of them is lost: whole objects, as many as there are rows; ranges, of as many others as are left.
#[derive(Debug, Clone)]
struct Case {
    lens: Vec<usize>,
    rows: u8,
    order: Vec<usize>,
    whole: usize,
    torn: Vec<(usize, usize)>,
}

fn case() -> impl Strategy<Value = Case> {
    (1_usize..12, 1_u8..5).prop_flat_map(|(packs, rows)| {
        let all = packs + usize::from(rows);
        // Of one class of sizes, so that they make one group.
        let lens = prop::collection::vec(4096_usize..30_000, packs);
        let order = Just((0..all).collect::<Vec<usize>>()).prop_shuffle();
        let torn = prop::collection::vec((0_usize..40_000, 1_usize..3000), usize::from(rows));
        (lens, Just(rows), order, 0..=usize::from(rows), torn).prop_map(|(lens, rows, order, whole, torn)| Case {
            lens,
            rows,
            order,
            whole,
            torn,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// As many objects of a group as it has rows are lost, some whole and the others torn: every pack comes back.
    #[test]
    fn any_losses_up_to_the_rows_are_healed(case in case()) {
        let storage = Arc::new(MemoryStorage::default());
        let packs: Vec<(PackId, Vec<u8>)> =
            (0..).zip(&case.lens).map(|(seed, len)| pack(&*storage, PackKind::Data, seed, *len)).collect();
        let place = ParityPlace::new(&*storage, OWN, None);
        add(&place, &options(packs.len(), case.rows), &Task::default()).unwrap();
        let group = only_group(&place);
        prop_assert!(verify(&place, &find(&place).unwrap(), &Task::default()).unwrap().is_empty());
        prop_assert_eq!(group.bytes(), u64::from(case.rows) * group.group.row_len());
        let names: Vec<Name> = group.group.packs.iter().map(|(id, _)| Name::Pack(*id)).chain(group.names().map(|(name, _)| name)).collect();
        for (n, at) in case.order.iter().take(usize::from(case.rows)).enumerate() {
            match n < case.whole {
                true => storage.delete(&names[*at]).unwrap(),
                false => change(&*storage, &names[*at], |bytes| {
                    let from = case.torn[n].0 % bytes.len();
                    let until = (from + case.torn[n].1).min(bytes.len());
                    bytes[from..until].iter_mut().for_each(|byte| *byte = !*byte);
                }),
            }
        }
        // If every row is gone there is nothing to know of the group, and every pack is as it was.
        let found = find(&place).unwrap();
        let Some(group) = found.groups.first() else {
            prop_assert_eq!(place.packs().unwrap().len(), packs.len());
            return Ok(());
        };
        let present = place.packs().unwrap();
        let all: Vec<usize> = (0..packs.len()).collect();
        for rebuilt in rebuild(&place, group, &present, &all, &Task::default()).unwrap() {
            let (_, bytes) = packs.iter().find(|(id, _)| *id == rebuilt.id).unwrap();
            prop_assert!(rebuilt.bytes.is_some_and(|found| found[..] == bytes[..]), "{:?}", rebuilt.id);
        }
        // The same when only a range is read.
        let ids: HashSet<PackId> = packs.iter().map(|(id, _)| *id).collect();
        let mended = RebuiltPacks::new(storage.clone(), OWN, found.groups.clone(), present, &ids);
        let mut out = Vec::new();
        for (id, bytes) in &packs {
            let range = (bytes.len() / 3) as u64..(bytes.len() - 7) as u64;
            mended.read(&Name::Pack(*id), Some(range.clone()), &mut out).unwrap();
            prop_assert!(out[..] == bytes[range.start as usize..range.end as usize]);
        }
    }
}

/// One more than there are rows: what is whole stays so, and what is not is never taken for it.
#[test]
fn beyond_the_rows_nothing_false_comes_back() {
    let storage = MemoryStorage::default();
    let packs: Vec<(PackId, Vec<u8>)> = (0..6).map(|seed| pack(&storage, PackKind::Data, seed, 20_000)).collect();
    let place = ParityPlace::new(&storage, OWN, None);
    add(&place, &options(6, 2), &Task::default()).unwrap();
    let group = only_group(&place);
    let gone: Vec<PackId> = group.group.packs[..3].iter().map(|(id, _)| *id).collect();
    gone.iter().for_each(|id| storage.delete(&Name::Pack(*id)).unwrap());
    for rebuilt in rebuild(&place, &group, &place.packs().unwrap(), &[0, 1, 2, 3], &Task::default()).unwrap() {
        assert_eq!(rebuilt.bytes.is_none(), gone.contains(&rebuilt.id));
    }
    assert_eq!(packs.len(), 6);
}

/// A pack that is damaged already gets no parity, and the others of its group do.
#[test]
fn no_parity_is_made_of_damage() {
    let storage = MemoryStorage::default();
    let packs: Vec<(PackId, Vec<u8>)> = (0..4).map(|seed| pack(&storage, PackKind::Data, seed, 9_000)).collect();
    change(&storage, &Name::Pack(packs[1].0), |bytes| bytes[5000] ^= 1);
    let place = ParityPlace::new(&storage, OWN, None);
    let added = add(&place, &options(16, 2), &Task::default()).unwrap();
    assert_eq!(added.damaged.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [packs[1].0]);
    let members: HashSet<PackId> = only_group(&place).group.packs.iter().map(|(id, _)| *id).collect();
    assert_eq!(members, packs.iter().map(|(id, _)| *id).filter(|id| *id != packs[1].0).collect());
}

/// Fails at one change, before or after it was done, and at all that come after it.
#[derive(Debug)]
struct CutStorage {
    inner: Arc<MemoryStorage>,
    left: AtomicU64,
    done: bool,
}

impl CutStorage {
    fn change<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let cut = || Error::new(ErrorKind::Io, "cut");
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
            Err(_) => Err(cut()),
            Ok(1) if self.done => work().and_then(|_| Err(cut())),
            Ok(1) => Err(cut()),
            Ok(_) => work(),
        }
    }
}

impl Storage for CutStorage {
    fn create(&self, name: &Name, parts: &[&[u8]]) -> Result<Created> {
        self.change(|| self.inner.create(name, parts))
    }

    fn read(&self, name: &Name, range: Option<Range<u64>>, out: &mut Vec<u8>) -> Result<()> {
        self.inner.read(name, range, out)
    }

    fn list(&self, class: Class) -> Result<Vec<(Name, u64)>> {
        self.inner.list(class)
    }

    fn delete(&self, name: &Name) -> Result<()> {
        self.change(|| self.inner.delete(name))
    }

    fn sync(&self) -> Result<()> {
        self.change(|| self.inner.sync())
    }

    fn costs(&self) -> Costs {
        self.inner.costs()
    }

    fn describe(&self) -> String {
        "cut".to_owned()
    }
}

/// Reads no parity: the operating system answers with this error number.
#[derive(Debug)]
struct SickStorage {
    inner: Arc<MemoryStorage>,
    error: i32,
}

impl Storage for SickStorage {
    fn create(&self, name: &Name, parts: &[&[u8]]) -> Result<Created> {
        self.inner.create(name, parts)
    }

    fn read(&self, name: &Name, range: Option<Range<u64>>, out: &mut Vec<u8>) -> Result<()> {
        match name {
            Name::Parity(..) => Err(Error::io("cannot read it", std::io::Error::from_raw_os_error(self.error))),
            _ => self.inner.read(name, range, out),
        }
    }

    fn list(&self, class: Class) -> Result<Vec<(Name, u64)>> {
        self.inner.list(class)
    }

    fn delete(&self, name: &Name) -> Result<()> {
        self.inner.delete(name)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn costs(&self) -> Costs {
        self.inner.costs()
    }

    fn describe(&self) -> String {
        "sick".to_owned()
    }
}

/// Stopped at any change, parity add leaves what heals as far as it goes, and the next one ends with what one that was not
/// stopped makes.
#[test]
fn stopped_anywhere_the_next_one_ends_it() {
    // Two kinds; a group that is full, one that is not, and a smaller one that a greater one takes the place of.
    let fresh = || {
        let storage = Arc::new(MemoryStorage::default());
        (0..6).for_each(|seed| drop(pack(&*storage, PackKind::Data, seed, 5_000 + seed as usize * 100)));
        (10..12).for_each(|seed| drop(pack(&*storage, PackKind::Tree, seed, 4_200)));
        add(&ParityPlace::new(&*storage, OWN, None), &options(4, 2), &Task::default()).unwrap();
        drop(pack(&*storage, PackKind::Data, 7, 6_000));
        drop(pack(&*storage, PackKind::Tree, 12, 4_300));
        storage
    };
    let whole = fresh();
    let place = ParityPlace::new(&*whole, OWN, None);
    let added = add(&place, &options(4, 2), &Task::default()).unwrap();
    assert!(added.groups >= 2 && added.superseded >= 1, "{added:?}");
    let expected = rows(&*whole);
    let mut cuts = 0;
    for done in [false, true] {
        for at in 1.. {
            let storage = fresh();
            let cut = CutStorage { inner: storage.clone(), left: AtomicU64::new(at), done };
            let stopped = add(&ParityPlace::new(&cut, OWN, None), &options(4, 2), &Task::default());
            let place = ParityPlace::new(&*storage, OWN, None);
            let found = find(&place).unwrap();
            assert!(found.bad.is_empty() && verify(&place, &found, &Task::default()).unwrap().is_empty(), "{done} {at}");
            // Every pack that had parity has it still.
            assert!(found.covered().len() >= 8, "{done} {at}: {}", found.covered().len());
            add(&place, &options(4, 2), &Task::default()).unwrap();
            if stopped.is_ok() && cut.left.load(Ordering::SeqCst) > 0 {
                break;
            }
            assert!(rows(&*storage) == expected, "{done} {at}");
            cuts += 1;
        }
    }
    assert!(cuts > 10, "{cuts}");
}

/// The parity of a pack that is lost stays, whatever comes beside it: doctor needs it.
#[test]
fn no_parity_of_a_lost_pack_is_removed() {
    for beside in [0, 1] {
        let storage = MemoryStorage::default();
        let packs: Vec<PackId> = (0..=beside).map(|seed| pack(&storage, PackKind::Data, seed, 5_000).0).collect();
        let place = ParityPlace::new(&storage, OWN, None);
        add(&place, &options(4, 2), &Task::default()).unwrap();
        storage.delete(&Name::Pack(packs[0])).unwrap();
        (20..22).for_each(|seed| drop(pack(&storage, PackKind::Data, seed, 5_100)));
        add(&place, &options(4, 2), &Task::default()).unwrap();
        let found = find(&place).unwrap();
        let of = |group: &&FoundGroup| group.group.packs.iter().any(|(id, _)| *id == packs[0]);
        assert!(found.groups.iter().filter(of).any(|group| group.missing_rows().is_empty()), "{beside}");
    }
}

/// Who may only add says of made-up rows that they are of a greater group: nothing that is there goes for it, and nothing is
/// made of it.
#[test]
fn made_up_groups_take_the_place_of_none() {
    let storage = MemoryStorage::default();
    let packs: Vec<(PackId, u64)> = (0..2).map(|seed| (pack(&storage, PackKind::Data, seed, 5_000).0, 5_000)).collect();
    let place = ParityPlace::new(&storage, OWN, None);
    add(&place, &options(4, 2), &Task::default()).unwrap();
    let own = rows(&storage);
    let lengths = place.packs().unwrap();
    let packs: Vec<(PackId, u64)> = packs.iter().map(|(id, _)| (*id, lengths[id])).collect();
    for (rows, shard, twice) in [(2, 2048, false), (2, 1024, true), (3, 1024, false), (64, 1024, false)] {
        let mut packs = packs.clone();
        packs.reverse();
        if twice {
            packs.push((PackId([9; 32]), 5_000));
        }
        let group = ParityGroup { kind: PackKind::Data, shard, rows, packs };
        let head = encode_parity(&group);
        let object = [&envelope::header(ObjectType::Parity, OWN)[..], &(head.len() as u32).to_le_bytes(), &head].concat();
        for row in 0..rows.min(3) {
            storage.create(&Name::Parity(group.id(OWN), row), &[&object]).unwrap();
        }
    }
    let before = rows(&storage);
    tend::tend(&place).unwrap();
    let added = add(&place, &options(4, 2), &Task::default()).unwrap();
    // The real group may take the place of one that was made up for the same packs.
    assert_eq!((added.groups, added.completed, added.bytes), (0, 0, 0), "{added:?}");
    let after = rows(&storage);
    assert!(own.iter().all(|row| after.contains(row)));
    assert!(after.iter().all(|row| before.contains(row)));
}

/// A disk that cannot read a row for a moment, or for good, is no reason to remove it.
#[test]
fn what_cannot_be_read_is_not_removed() {
    for error in [5, 12, 24] {
        let storage = Arc::new(MemoryStorage::default());
        drop(pack(&*storage, PackKind::Data, 1, 9_000));
        let place = ParityPlace::new(&*storage, OWN, None);
        add(&place, &options(4, 2), &Task::default()).unwrap();
        let before = rows(&*storage);
        let sick = SickStorage { inner: storage.clone(), error };
        let place = ParityPlace::new(&sick, OWN, None);
        match tend::tend(&place) {
            Ok(tended) => assert_eq!((tended.objects, error), (0, 5)),
            Err(e) => assert!(error != 5, "{e}"),
        }
        assert!(rows(&*storage) == before, "{error}");
    }
}

#[test]
fn shapes_are_parsed_strictly() {
    assert_eq!("16+2".parse(), Ok(ParityShape::DATA));
    assert_eq!("256+64".parse(), Ok(ParityShape { packs: 256, rows: 64 }));
    for bad in ["", "16", "+", "16+", "+2", "0+2", "16+0", "257+2", "16+65", "-1+2", "16 + 2", "16+2+1", "16+300"] {
        assert!(bad.parse::<ParityShape>().is_err(), "{bad:?}");
    }
    assert_eq!(ParityShape::TREES.to_string(), "3+3");
}
