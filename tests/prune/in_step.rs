//! Two ingests that walk the same tree at the same time, in step: one of them goes ahead, and the other finds what it stores.

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crate::common::record::Operation;
use yester::chunk::codec::Compression;
use yester::error::Result;
use yester::ingest::{IngestOptions, IngestReport, Parent, Source, ingest};
use yester::model::SnapshotId;
use yester::repo::Repository;
use yester::storage::{Class, Name, Storage};
use yester::task::Task;

use crate::common::faults::Faults;
use crate::prune::support::{World, noise};

/// A disk image of many frames, of which each is a pack, or nearly.
const IMAGE: usize = 33 << 20;
const FRAME: u64 = 128 << 10;
/// So many packs of each are stored in step.
const IN_STEP: usize = 2;

/// What the two know of each other.
#[derive(Default)]
pub struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    packs: [usize; 2],
    sessions: [Option<SnapshotId>; 2],
    ended: [bool; 2],
}

impl Meeting {
    /// Before an operation of number `me`. The one whose session has the smaller id stands still at pack `stands_still`
    /// until the other has ended.
    pub fn before(&self, me: usize, operation: &Operation, stands_still: usize) {
        let mut state = self.state.lock().unwrap();
        match operation {
            Operation::Create(Name::Session(id), _) => state.sessions[me] = Some(*id),
            Operation::Create(Name::Pack(_), _) => state.packs[me] += 1,
            _ => return,
        }
        self.changed.notify_all();
        loop {
            let (packs, other) = (state.packs[me], 1 - me);
            let early = packs <= IN_STEP && state.packs[other] < packs && !state.ended[other];
            let alone = state.sessions[other].is_none();
            let stands = packs == stands_still && state.sessions[me] < state.sessions[other] && !state.ended[other];
            if !(early || alone || stands) {
                return;
            }
            state = self.changed.wait(state).unwrap();
        }
    }

    /// Whether the other one's session has the larger id.
    pub fn is_ahead(&self, me: usize) -> bool {
        let state = self.state.lock().unwrap();
        state.sessions[me] < state.sessions[1 - me]
    }

    /// The session of this one, which has begun.
    pub fn session(&self, one: usize) -> SnapshotId {
        self.state.lock().unwrap().sessions[one].unwrap()
    }

    /// Packs that this one has begun to store.
    pub fn packs(&self, one: usize) -> usize {
        self.state.lock().unwrap().packs[one]
    }

    fn end(&self, me: usize) {
        self.state.lock().unwrap().ended[me] = true;
        self.changed.notify_all();
    }
}

fn options(wait: Duration) -> IngestOptions {
    let compression = Compression::Level(1);
    let pack_size = FRAME / 2;
    IngestOptions { compression, readers: 2, pack_size, parent: Parent::None, wait_for_others: wait, ..IngestOptions::default() }
}

fn bytes_of_packs(world: &World) -> u64 {
    world.storage.inner.list(Class::Packs).unwrap().iter().map(|(_, size)| size).sum()
}

/// What comes before each operation of each of the two.
pub type Before = dyn Fn(usize, &Operation) -> Result<()> + Send + Sync;

/// Two ingests of the source; the bytes of all packs. `stands_still`: the pack that the one that goes ahead never stores
/// while the other is at work.
fn both(world: World, wait: Duration, stands_still: usize) -> u64 {
    let meeting = Arc::new(Meeting::default());
    let met = meeting.clone();
    let before = move |me: usize, operation: &Operation| {
        met.before(me, operation, stands_still);
        Ok(())
    };
    meet(world, wait, &meeting, Arc::new(before))
}

/// Two ingests of the source, with something before each of their operations; the bytes of all packs.
pub fn meet(mut world: World, wait: Duration, meeting: &Meeting, before: Arc<Before>) -> u64 {
    let source = [Source { path: world.source.path().to_owned(), stored: b"/live".to_vec() }];
    let one = |me: usize| -> IngestReport {
        let storage = Faults::over(world.storage.inner.clone());
        let credential = yester::chunk::keys::Credential::KeyFile([9; 32]);
        let repo = Arc::new(Repository::open(storage.clone(), &credential).unwrap());
        let before = before.clone();
        storage.before(move |operation| before(me, operation));
        let report = ingest(&repo, &source, &options(wait), &Task::default());
        // Also when it failed: the other may wait for that.
        meeting.end(me);
        report.unwrap()
    };
    let reports = thread::scope(|scope| {
        let threads = [0, 1].map(|me| scope.spawn(move || one(me)));
        threads.map(|thread| thread.join().unwrap())
    });
    for report in reports {
        assert!(report.committed && report.is_complete(), "{report:?}");
        world.history.insert(report.snapshot.id, world.expected());
    }
    world.verify();
    let bytes = bytes_of_packs(&world);
    world.recovers();
    bytes
}

pub fn with_image() -> World {
    let world = World::new();
    world.write("image", &noise(1, IMAGE));
    world
}

#[test]
fn two_ingests_in_step_store_little_twice() {
    let (one, pack) = {
        let world = with_image();
        world.try_ingest(&options(Duration::ZERO)).unwrap();
        (bytes_of_packs(&world), bytes_of_packs(&world) / world.packs().len() as u64)
    };
    // Packs that are on their way when the one learns of the other.
    let under_way = (2 * thread::available_parallelism().map_or(2, |n| n.get() as u64) + 6) * pack;
    let both = both(with_image(), Duration::from_secs(600), usize::MAX);
    assert!(both <= one + one / 10 + under_way, "{both} bytes together, {one} alone");
}

/// The one that is let ahead stands still for ever: the other does not.
#[test]
fn nobody_waits_for_one_that_stands_still() {
    both(with_image(), Duration::from_millis(50), 8);
}
