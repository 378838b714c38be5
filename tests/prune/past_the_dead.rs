//! An ingest follows a live one of the same tree, whatever dead sessions lie about, and goes on when that one dies.

use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use yester::chunk::keys::Credential;
use yester::chunk::seal;
use yester::error::{Error, Result};
use yester::format::envelope::ObjectType;
use yester::format::snapshot::{Session, encode_session};
use yester::model::SnapshotId;
use yester::repo::{Repository, session};
use yester::storage::{Class, Name, Storage};
use yester::sys::process;

use crate::common::record::Operation;
use crate::prune::in_step::{Meeting, meet, with_image};
use crate::prune::support::World;

/// The pack at which the one that goes ahead dies.
const DIES: usize = 8;
/// So many looks without a pack between them are those of one that waits.
const WAITS: usize = 5;
/// One that does not see that the other is dead would look on for ten minutes.
const SEES: usize = 100;

/// The one that goes ahead: its session is that of a process that can be killed.
struct Mortal {
    process: Mutex<Child>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Sessions that are in the repository.
    begun: [bool; 2],
    /// The session is that of the process.
    is_named: bool,
    /// Looks of the other since it stored something and the one that goes ahead stands still.
    looks: usize,
    is_dead: bool,
}

impl Mortal {
    fn new() -> Self {
        let process = Mutex::new(Command::new("sleep").arg("3600").spawn().unwrap());
        Mortal { process, state: Mutex::default(), changed: Condvar::new() }
    }

    /// When both sessions are there, the one that goes ahead gets its process before anybody looks at it.
    fn begins(&self, world: &Arc<Repository>, me: usize, meeting: &Meeting) {
        let mut state = self.state.lock().unwrap();
        state.begun[me] = true;
        self.changed.notify_all();
        while !state.begun[1 - me] {
            state = self.changed.wait(state).unwrap();
        }
        if meeting.is_ahead(me) {
            let id = meeting.session(me);
            let pid = self.process.lock().unwrap().id();
            let started = process::start_time(pid).unwrap();
            put(world, id, &Session { pid, started, ..session::read(world, id).unwrap() });
            state.is_named = true;
            self.changed.notify_all();
        }
        while !state.is_named {
            state = self.changed.wait(state).unwrap();
        }
    }

    /// An operation of the one that follows, when the one that goes ahead stands still.
    fn is_followed(&self, operation: &Operation) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        match operation {
            Operation::List(Class::Sessions) => state.looks += 1,
            Operation::Create(Name::Pack(_), _) => state.looks = 0,
            _ => {}
        }
        if state.looks == WAITS && !state.is_dead {
            let mut process = self.process.lock().unwrap();
            process.kill().unwrap();
            process.wait().unwrap();
            (state.is_dead, state.looks) = (true, 0);
        }
        match state.looks > SEES {
            true => Err(Error::invalid("it waits for one that is dead")),
            false => Ok(()),
        }
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        let mut process = self.process.lock().unwrap();
        let _ = process.kill();
        let _ = process.wait();
    }
}

fn put(repo: &Repository, id: SnapshotId, session: &Session) {
    let plain = encode_session(session).unwrap();
    let object = seal::seal_object(ObjectType::Session, repo.id(), &id.0, &repo.keys().snapshot, &plain).unwrap();
    repo.storage().delete(&Name::Session(id)).unwrap();
    repo.storage().create(&Name::Session(id), &[&object]).unwrap();
}

/// A session of a process of this host that is gone, which is before all others.
fn with_dead_session() -> World {
    let world = with_image();
    let id = session::begin(&world.repo, yester::sys::clock::now()).unwrap();
    let dead = Session { started: 1, ..session::read(&world.repo, id).unwrap() };
    session::end(&world.repo, id).unwrap();
    put(&world.repo, SnapshotId([0; 32]), &dead);
    world
}

#[test]
fn an_ingest_follows_past_a_dead_session_until_who_is_ahead_dies() {
    let world = with_dead_session();
    let inner: Arc<dyn Storage> = world.storage.inner.clone();
    let repo = Arc::new(Repository::open(inner, &Credential::KeyFile([9; 32])).unwrap());
    let (meeting, mortal) = (Arc::new(Meeting::default()), Arc::new(Mortal::new()));
    let (met, watched) = (meeting.clone(), mortal.clone());
    let begun = [(); 2].map(|()| std::sync::Once::new());
    let before = move |me: usize, operation: &Operation| {
        // The first sync is that of the session.
        if *operation == Operation::Sync {
            begun[me].call_once(|| watched.begins(&repo, me, &met));
        }
        met.before(me, operation, DIES);
        match met.packs(1 - me) >= DIES && met.is_ahead(1 - me) {
            true => watched.is_followed(operation),
            false => Ok(()),
        }
    };
    meet(world, Duration::from_secs(600), &meeting, Arc::new(before));
    assert!(mortal.state.lock().unwrap().is_dead, "nobody waited for the one that went ahead");
}
