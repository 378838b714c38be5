//! The rules of the protocol, one by one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::record::Operation;
use yester::error::{Error, ErrorKind};
use yester::format::snapshot::Session;
use yester::ingest::{IngestOptions, Parent};
use yester::maintain::prune::{PruneOptions, Unused, open_sessions};
use yester::model::{Snapshot, SnapshotId};
use yester::repo::index::Index;
use yester::repo::{Repository, beat, session, snapshots};
use yester::storage::{Class, Name, Storage};
use yester::task::Task;

use crate::common::faults;
use crate::prune::support::{Reader, Tree, World, noise, now};

fn lists(operation: &Operation) -> bool {
    matches!(operation, Operation::Create(Name::Condemned(_), _))
}

fn deletes_pack(operation: &Operation) -> bool {
    matches!(operation, Operation::Delete(Name::Pack(_)))
}

/// A snapshot of 100,000 bytes that nothing else shares, forgotten; another one stays.
fn with_garbage() -> World {
    garbage().0
}

/// The same, with the forgotten snapshot and what it holds.
fn garbage() -> (World, Snapshot, Tree) {
    let mut world = World::new();
    world.write("stays", &noise(1, 50_000));
    world.ingest();
    world.write("goes", &noise(2, 100_000));
    let second = world.ingest().snapshot;
    let tree = world.expected();
    world.remove("goes");
    world.forget(second.id);
    (world, second, tree)
}

/// Rule 1: a session is older than every list that it does not name.
#[test]
fn a_session_that_does_not_name_the_list_is_older() {
    // It begins after prune has looked for sessions, and before the list.
    let world = with_garbage();
    let (repo, packs) = (world.copy_of_repo(), world.packs());
    world.storage.once(lists, move || {
        session::begin(&repo, now()).unwrap();
    });
    let e = world.try_prune(&world.prune_options()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Busy, "{e}");
    assert_eq!(world.packs(), packs, "nothing may be deleted while it is open");
    // The next prune carries the list out, as soon as the session has ended.
    world.bury(|_| true);
    let (plan, report) = world.sweep();
    assert!(plan.marked.count > 0 && report.packs.count == plan.marked.count, "{plan:?} {report:?}");
    world.verify();

    // It begins after the list, and names it: no chunk of it can be in the condemned packs.
    let world = with_garbage();
    let (repo, marked) = (world.copy_of_repo(), Arc::new(Mutex::new(false)));
    world.storage.before(move |operation| {
        let mut seen = marked.lock().unwrap();
        if *seen && matches!(operation, Operation::List(Class::Sessions)) {
            *seen = false;
            let id = session::begin(&repo, now()).unwrap();
            assert_eq!(session::read(&repo, id).unwrap().lists.len(), 1);
        }
        *seen |= lists(operation);
        Ok(())
    });
    let (_, report) = world.sweep();
    assert!(report.packs.count > 0);
    // But the list stays while it is open: it may have read segments that name the packs.
    assert_eq!((report.lists, world.names(Class::Condemned).len()), (1, 1));
    world.bury(|_| true);
    world.recovers();
}

/// Rule 2: a chunk counts only in a pack that is there and not marked for deletion, and unseen adoption ends with either.
#[test]
fn a_chunk_counts_only_in_a_pack_that_is_there_and_under_no_list() {
    let base = {
        let mut world = World::new();
        // Recipes of every length: in the node, in pages, none.
        world.write("short", &noise(1, 3_000));
        world.write("long", &noise(2, 90_000));
        world.write("tiny", b"tiny");
        world.ingest();
        world
    };
    let again = |world: &mut World| world.ingest().snapshot.statistics;
    let mut same = base.copy();
    assert_eq!(again(&mut same).bytes_new, 0);
    // Condemned packs are read from, and stored again.
    for list in [true, false] {
        let mut world = base.copy();
        let packs = world.packs();
        match list {
            true => drop(world.condemn(&packs)),
            false => packs.iter().for_each(|id| world.storage.inner.delete(&Name::Pack(*id)).unwrap()),
        }
        if !list {
            // The old snapshot is lost with its packs.
            let lost = *world.history.keys().next().unwrap();
            world.forget(lost);
        }
        let statistics = again(&mut world);
        assert_eq!(statistics.bytes_new, 93_000, "condemned: {list}");
        world.verify();
        // The list takes what it names, and the new snapshot does not mind.
        world.prune();
        world.verify();
        assert!(packs.iter().all(|id| !world.packs().contains(id)));
        world.recovers();
    }
    // A list on something else: every chunk is looked up, and all are found.
    let mut world = base.copy();
    world.condemn(&[]);
    assert_eq!(again(&mut world).bytes_new, 0);
    world.verify();
}

/// Rule 2, for a writer who looks just before the list and stores just after it.
#[test]
fn an_ingest_between_two_looks_of_a_prune_loses_nothing() {
    let world = with_garbage();
    let log = {
        let copy = world.copy();
        copy.sweep();
        copy.storage.take()
    };
    // At every operation of a prune a whole ingest takes place, of the very content that the prune is about to delete.
    for at in 0..log.len() {
        let mut world = world.copy();
        world.write("goes", &noise(2, 100_000));
        let (repo, source, options) = (world.copy_of_repo(), world.source.path().to_owned(), world.options());
        let (mut left, taken) = (at, Arc::new(Mutex::new(None)));
        let taken_too = taken.clone();
        world.storage.before(move |_| {
            if left == 0 {
                let sources = [yester::ingest::Source { path: source.clone(), stored: b"/live".to_vec() }];
                let report = yester::ingest::ingest(&repo, &sources, &options, &Task::default()).unwrap();
                *taken_too.lock().unwrap() = Some(report.snapshot.id);
            }
            left = left.wrapping_sub(1);
            Ok(())
        });
        // A session was open or had ended whenever prune looked: it is not in the way.
        let options = PruneOptions { max_unused: Unused::Unlimited, ..world.prune_options() };
        world.try_prune(&options).unwrap();
        world.storage.before(|_| Ok(()));
        if let Some(id) = *taken.lock().unwrap() {
            let expected = world.expected();
            world.history.insert(id, expected);
        }
        world.verify();
        world.recovers();
    }
}

fn committed(world: &World, snapshot: &Snapshot) -> yester::Result<bool> {
    snapshots::commit(&world.repo, snapshot)
}

/// Rule 3: what a commit did is what a read shows.
#[test]
fn a_commit_of_unknown_outcome_is_read() {
    let mut world = with_garbage();
    let snapshot = world.ingest().snapshot;
    let as_new = |id: u8| Snapshot { id: SnapshotId([id; 32]), ..snapshot.clone() };
    // It arrived, though the answer was an error.
    let inner = world.storage.inner.clone();
    let plain = yester::format::snapshot::encode_snapshot_unchecked(&as_new(1));
    let keys = &world.repo.keys().snapshot;
    let kind = yester::format::envelope::ObjectType::Snapshot;
    let object = yester::chunk::seal::seal_object(kind, world.repo.id(), &[1; 32], keys, &plain).unwrap();
    inner.create(&Name::Snapshot(SnapshotId([1; 32])), &[&object]).unwrap();
    // (Sealed with another salt: another's, not ours.)
    assert!(!committed(&world, &as_new(1)).unwrap());
    // Nothing arrived: the error stays.
    world.storage.before(|operation| match operation {
        Operation::Create(Name::Snapshot(_), _) => Err(Error::new(ErrorKind::Io, "the line went dead")),
        _ => Ok(()),
    });
    assert_eq!(committed(&world, &as_new(2)).unwrap_err().kind(), ErrorKind::Io);
    // A fence was there first.
    world.storage.before(|_| Ok(()));
    let id = session::begin(&world.repo, now()).unwrap();
    session::abandon(&world.repo, id, now()).unwrap();
    assert!(!committed(&world, &Snapshot { id, ..snapshot.clone() }).unwrap());
    assert!(snapshots::load(&world.repo, id).unwrap().is_none());
}

/// Rule 4: a session ends only when its id has an outcome that was read; fences stay.
#[test]
fn a_session_ends_only_with_an_outcome() {
    let world = with_garbage();
    let dead = world.dead_session();
    world.storage.take();
    world.sweep();
    let log = world.storage.take();
    let at = |wanted: &dyn Fn(&Operation) -> bool| log.iter().position(wanted).expect("it happens");
    let fence = at(&|o| matches!(o, Operation::Create(Name::Snapshot(id), _) if *id == dead));
    let durable = fence + log[fence..].iter().position(|o| *o == Operation::Sync).unwrap();
    let read = at(&|o| matches!(o, Operation::Read(Name::Snapshot(id), _) if *id == dead));
    let end = at(&|o| *o == Operation::Delete(Name::Session(dead)));
    assert!(fence < durable && durable < read && read < end, "{fence} {durable} {read} {end}");
    assert!(snapshots::load(&world.repo, dead).unwrap().is_none(), "a fence");
    world.recovers();
}

/// Rule 5: a fenced writer begins again, believes nothing that it knew, and commits.
#[test]
fn a_fenced_ingest_begins_again_and_commits() {
    let mut world = World::new();
    world.write("old", &noise(1, 80_000));
    let first = world.ingest().snapshot.id;
    world.write("new", &noise(2, 80_000));
    world.forget(first);
    // At each of its operations in turn the session is fenced, and everything that it counts on is deleted.
    let log = {
        let copy = world.copy();
        copy.storage.take();
        copy.try_ingest(&copy.options()).unwrap();
        copy.storage.take()
    };
    let begins = log.iter().position(|o| matches!(o, Operation::Create(Name::Session(_), _))).unwrap() + 1;
    let commits = log.iter().position(|o| matches!(o, Operation::Create(Name::Snapshot(_), _))).unwrap();
    assert!(commits - begins > 5);
    let mut begun_again = 0;
    for at in begins..=commits {
        let mut world = world.copy();
        let (repo, options) = (world.copy_of_repo(), world.prune_options());
        let (mut left, fenced) = (at, Arc::new(Mutex::new(None)));
        let told = fenced.clone();
        world.storage.before(move |_| {
            if left == 0 {
                let open = open_sessions(&repo).unwrap();
                let fence: Vec<SnapshotId> = open.iter().map(|(id, _)| *id).collect();
                assert_eq!(fence.len(), 1);
                crate::prune::support::prune(&repo, &PruneOptions { fence: fence.clone(), ..options.clone() }).unwrap();
                *told.lock().unwrap() = Some(fence[0]);
            }
            left = left.wrapping_sub(1);
            Ok(())
        });
        let report = world.ingest();
        world.storage.before(|_| Ok(()));
        // The order of a few operations is up to threads: an ingest may commit before its turn comes.
        if let Some(fenced) = *fenced.lock().unwrap() {
            assert_ne!(report.snapshot.id, fenced, "nobody commits under a fenced id");
            begun_again += 1;
        }
        world.verify();
        world.recovers();
    }
    assert!(begun_again > 5, "{begun_again}");
}

/// Rule 5: after a fence every list is read anew and nothing is adopted unseen.
#[test]
fn a_fenced_ingest_adopts_nothing_unseen() {
    for fenced in [false, true] {
        let mut world = World::new();
        // Its recipe is long: without a look at every chunk of it, it is adopted as a whole or not at all.
        world.write("long", &noise(1, 90_000));
        world.ingest();
        world.write("new", &noise(2, 80_000));
        // Another content in the same inode, with the size and time that it had: what adopts unseen does not see it.
        let (path, changed) = (world.source.path().join("long"), noise(3, 90_000));
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, &changed).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        let repo = world.copy_of_repo();
        let is_pack = |o: &Operation| matches!(o, Operation::Create(Name::Pack(_), _));
        if fenced {
            world.storage.once(is_pack, move || {
                let (id, _) = open_sessions(&repo).unwrap().remove(0);
                session::abandon(&repo, id, now()).unwrap();
            });
        }
        world.storage.take();
        let id = world.try_ingest(&world.options()).unwrap().snapshot.id;
        let log = world.storage.take();
        let begins: Vec<usize> = (0..log.len()).filter(|at| matches!(log[*at], Operation::Create(Name::Session(_), _))).collect();
        assert_eq!(begins.len(), if fenced { 2 } else { 1 });
        for class in [Class::Snapshots, Class::Forgotten, Class::Index, Class::Condemned, Class::Packs] {
            assert!(log[*begins.last().unwrap()..].contains(&Operation::List(class)), "{class:?}");
        }
        let mut expected = world.expected();
        if !fenced {
            expected.insert(b"long".to_vec(), noise(1, 90_000));
        }
        world.history.insert(id, expected);
        world.verify();
    }
}

/// Rule 5, for a parent that was named before the session began: it may be forgotten and pruned by then.
#[test]
fn a_parent_that_was_forgotten_is_refused() {
    let (world, forgotten, _) = garbage();
    let options = IngestOptions { parent: Parent::Id(forgotten.id), ..world.options() };
    assert_eq!(world.try_ingest(&options).unwrap_err().kind(), ErrorKind::NotFound);
    let parent = *world.history.keys().next().unwrap();
    let options = IngestOptions { parent: Parent::Id(parent), ..world.options() };
    assert_eq!(world.try_ingest(&options).unwrap().snapshot.parent, Some(parent));
}

/// Rule 6: the mark of a forgotten snapshot comes first and stays, whatever comes back.
#[test]
fn a_forgotten_snapshot_stays_forgotten() {
    let mut world = with_garbage();
    let last = world.ingest().snapshot.id;
    let mut object = Vec::new();
    world.storage.inner.read(&Name::Snapshot(last), None, &mut object).unwrap();
    world.write("more", b"more than before");
    world.ingest();
    world.storage.take();
    world.forget(last);
    let mut log = world.storage.take();
    log.retain(|operation| !matches!(operation, Operation::List(_) | Operation::Read(..)));
    assert!(matches!(log[..], [Operation::Create(Name::Forgotten(_), _), Operation::Sync]), "{log:?}");
    world.sweep();
    let log = world.storage.take();
    let before = log.iter().position(|o| *o == Operation::Delete(Name::Snapshot(last))).expect("its object is deleted");
    // What others forgot is made durable before anything is deleted on the strength of it.
    let first = log.iter().position(|o| matches!(o, Operation::Delete(_))).unwrap();
    assert!(first <= before && log[..first].contains(&Operation::Sync));
    assert!(world.names(Class::Forgotten).contains(&Name::Forgotten(last)));
    // A repeated request of its commit arrives late.
    world.storage.inner.create(&Name::Snapshot(last), &[&object]).unwrap();
    world.verify();
    world.recovers();
}

/// Rule 7: what a session committed after the mark is seen before anything is deleted.
#[test]
fn what_is_committed_after_the_mark_is_kept() {
    let (mut world, forgotten, tree) = garbage();
    // A writer found everything that it needs before the list, and commits after it; then its process dies.
    let repo = world.copy_of_repo();
    let id = session::begin(&repo, now()).unwrap();
    let session = Session { started: 1, ..session::read(&repo, id).unwrap() };
    session::end(&repo, id).unwrap();
    let snapshot = Snapshot { id, ..forgotten };
    // (Prune looks for sessions just before the list, so this one appears only then.)
    world.storage.once(lists, move || {
        put_session(&repo, id, &session);
        assert!(snapshots::commit(&repo, &snapshot).unwrap());
    });
    let before = world.packs();
    let (plan, report) = world.sweep();
    world.history.insert(id, tree);
    world.verify();
    // The list is permanent: what turned out to be needed was copied out of the condemned packs, and these are gone.
    assert!(plan.dead.count > 0 && report.written.count > 0 && report.sessions == 1, "{plan:?} {report:?}");
    assert!(world.packs().iter().filter(|id| before.contains(id)).count() < before.len());
    assert!(world.names(Class::Condemned).is_empty());
    world.recovers();
}

fn put_session(repo: &Repository, id: SnapshotId, session: &Session) {
    let plain = yester::format::snapshot::encode_session(session).unwrap();
    let kind = yester::format::envelope::ObjectType::Session;
    let object = yester::chunk::seal::seal_object(kind, repo.id(), &id.0, &repo.keys().snapshot, &plain).unwrap();
    repo.storage().create(&Name::Session(id), &[&object]).unwrap();
}

/// Rule 7: another copy counts only not marked for deletion. Here every copy is under one.
#[test]
fn a_copy_under_another_list_does_not_count() {
    let mut world = World::new();
    world.write("twice", &noise(1, 60_000));
    world.ingest();
    // The same chunks once more, as by two ingests at once.
    let first = world.packs();
    let list = world.condemn(&first);
    world.ingest();
    world.storage.inner.delete(&Name::Condemned(list)).unwrap();
    let second: Vec<_> = world.packs().into_iter().filter(|id| !first.contains(id)).collect();
    assert!(!second.is_empty());
    let (one, two) = (world.condemn(&first), world.condemn(&second));
    assert_ne!(one, two);
    world.storage.take();
    let counted = world.copy();
    counted.prune();
    // Nothing was deleted before its content was somewhere else and indexed.
    let log = counted.storage.take();
    let segment = log.iter().position(|o| matches!(o, Operation::Create(Name::Segment(_), _))).expect("a copy is indexed");
    let deleted = log.iter().position(deletes_pack).expect("the condemned packs go");
    assert!(segment < deleted, "{segment} {deleted}");
    counted.verify();
    counted.recovers();
    // Of two copies that count one goes.
    let world = world.copy();
    for name in world.names(Class::Condemned) {
        world.storage.inner.delete(&name).unwrap();
    }
    let (plan, _) = world.sweep();
    assert!(plan.dead.bytes > 60_000, "{plan:?}");
    world.verify();
}

/// Rule 7: a list goes only when its packs are gone, nothing names them, and every session since has ended.
#[test]
fn a_list_goes_last() {
    let world = with_garbage();
    world.storage.take();
    world.sweep();
    let log = world.storage.take();
    let last = |wanted: &dyn Fn(&Operation) -> bool| log.iter().rposition(wanted).expect("it happens");
    let pack = last(&|o| deletes_pack(o));
    let segment = last(&|o| matches!(o, Operation::Delete(Name::Segment(_))));
    let sessions = last(&|o| *o == Operation::List(Class::Sessions));
    let list = last(&|o| matches!(o, Operation::Delete(Name::Condemned(_))));
    assert!(pack < segment && segment < sessions && sessions < list, "{pack} {segment} {sessions} {list}");
    assert!(log[pack..segment].contains(&Operation::Sync) && log[segment..list].contains(&Operation::Sync));
    // It was durable before the first pack went.
    let (written, first) = (log.iter().position(lists).unwrap(), log.iter().position(deletes_pack).unwrap());
    assert!(log[written..first].contains(&Operation::Sync));
    // A segment that names the packs still, and that could not be rewritten: the list stays.
    let world = with_garbage();
    let index = Index::load(&world.repo).unwrap();
    let all: Vec<usize> = (0..index.segments().len()).collect();
    index.rewrite(&world.repo, &all, &[], &|_| true).unwrap().unwrap();
    world.storage.before(|operation| match operation {
        Operation::Create(Name::Segment(_), _) => Err(faults::full()),
        _ => Ok(()),
    });
    let packs = world.packs().len();
    let (_, report) = world.sweep();
    assert!(world.packs().len() < packs);
    assert_eq!((report.lists, world.names(Class::Condemned).len()), (1, 1));
    world.storage.before(|_| Ok(()));
    world.recovers();
}

/// Rule 8: only prune deletes segments, the new one is durable before the old ones go, and those that are replaced go
/// before what replaced them.
#[test]
fn segments_are_rewritten_before_they_go() {
    let world = World::eventful();
    world.storage.take();
    // Nothing is repacked: what is written are the segments of packs that stay beside packs that go.
    world.sweep();
    let log = world.storage.take();
    let created: Vec<usize> = (0..log.len()).filter(|at| matches!(log[*at], Operation::Create(Name::Segment(_), _))).collect();
    let new = *created.last().expect("a segment is rewritten");
    let after = log[new..].iter().position(|o| matches!(o, Operation::Delete(Name::Segment(_)))).expect("old ones go");
    assert!(log[new..new + after].contains(&Operation::Sync));
    world.verify();
    assert!(Index::load(&world.repo).unwrap().replaced().is_empty());
    // An ingest deletes none.
    world.write("later", &noise(5, 9_000));
    world.storage.take();
    world.try_ingest(&world.options()).unwrap();
    assert!(!world.storage.take().iter().any(|o| matches!(o, Operation::Delete(Name::Segment(_) | Name::Pack(_)))));
}

/// Rule 9: courtesy. A session whose process is gone is ended; one that lives, or of which nothing is known here, is
/// named, and ended only on demand.
#[test]
fn the_living_are_left_alone() {
    let here = |world: &World| {
        let id = session::begin(&world.repo, now()).unwrap();
        (id, session::read(&world.repo, id).unwrap())
    };
    type Change = fn(Session) -> Session;
    let cases: [(&str, Change, bool); 7] = [
        ("this process", |s| s, true),
        ("another start of the same number", |s| Session { started: s.started + 1, ..s }, false),
        ("before the last boot", |s| Session { boot: b"another".to_vec(), ..s }, false),
        ("this host under an old name", |s| Session { host: b"old".to_vec(), started: s.started + 1, ..s }, false),
        ("another namespace of processes", |s| Session { namespace: s.namespace + 1, started: 1, ..s }, true),
        ("another host", |s| Session { host: b"far away".to_vec(), boot: b"its".to_vec(), ..s }, true),
        ("a host that does not tell its boot", |s| Session { boot: Vec::new(), started: 1, ..s }, true),
    ];
    for (what, change, lives) in cases {
        let world = with_garbage();
        let (id, session) = here(&world);
        let session = change(session);
        world.put_session(id, &session);
        let before = world.size();
        let result = world.try_prune(&world.prune_options());
        match (lives, result) {
            (false, result) => assert_eq!(result.expect(what).1.sessions, 1, "{what}"),
            (true, Ok(done)) => panic!("{what}: {done:?}"),
            (true, Err(e)) => {
                let text = e.to_string();
                assert_eq!(e.kind(), ErrorKind::Busy, "{what}: {text}");
                let host = String::from_utf8(session.host.clone()).unwrap();
                for said in [&id.short(), &host, &session.pid.to_string(), "since 20", "--fence"] {
                    assert!(text.contains(said), "{what}: {said:?} is not in {text:?}");
                }
                assert_eq!(world.size(), before, "{what}");
                let options = PruneOptions { fence: vec![id], ..world.prune_options() };
                assert_eq!(world.try_prune(&options).expect(what).1.sessions, 1);
            }
        }
        assert!(snapshots::load(&world.repo, id).unwrap().is_none());
        world.verify();
        world.recovers();
    }
}

/// Rule 9: a writer that cannot be asked lives as long as it gives signs of life, and is dead when the newest of them did not
/// change for a stated time of the clock of who looks. Only what is authentic is a sign.
#[test]
fn a_writer_without_signs_of_life_is_dead() {
    let world = with_garbage();
    let id = session::begin(&world.repo, now()).unwrap();
    let session = session::read(&world.repo, id).unwrap();
    world.put_session(id, &Session { host: b"far away".to_vec(), boot: b"its".to_vec(), ..session });
    let memory = tempfile::tempdir().unwrap();
    let state = Some(memory.path().to_owned());
    let after =
        |seconds| PruneOptions { dead_after: Duration::from_secs(seconds), state: state.clone(), ..world.prune_options() };
    let busy = |options: &PruneOptions| {
        let e = world.try_prune(options).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Busy, "{e}");
        assert!(e.to_string().contains("counts as dead from 20"), "{e}");
    };
    busy(&after(3600));
    beat::give(&world.repo, id, 1).unwrap();
    // What anybody may put there is no sign.
    world.storage.create(&Name::Beat(id, 2), &[b"rubbish"]).unwrap();
    busy(&after(3600));
    let began = Instant::now();
    // By now it stands still for as long as this machine remembers, which several runs find out together.
    loop {
        match world.try_prune(&after(1)) {
            Ok((_, report)) => break assert_eq!(report.sessions, 1),
            Err(e) => assert!(e.kind() == ErrorKind::Busy && began.elapsed() < Duration::from_secs(300), "{e}"),
        }
    }
    assert!(world.names(Class::Sessions).is_empty(), "its signs go with it");
    assert!(snapshots::load(&world.repo, id).unwrap().is_none());
    world.verify();
    world.recovers();
}

/// Who waits is done as soon as the sessions are that are older than the list; those that begin later are no reason to
/// wait, though there are always some.
#[test]
fn a_prune_that_waits_goes_on_beside_steady_writers() {
    let world = with_garbage();
    let (repo, sessions) = (world.copy_of_repo(), Arc::new(Mutex::new(vec![session::begin(&world.repo, now()).unwrap()])));
    let open = sessions.clone();
    world.storage.before(move |operation| {
        // Each look at the sessions finds another one than the last look did, and never none.
        if matches!(operation, Operation::List(Class::Sessions)) {
            let mut open = open.lock().unwrap();
            open.push(session::begin(&repo, now()).unwrap());
            session::abandon(&repo, open.remove(0), now()).unwrap();
        }
        Ok(())
    });
    let options = PruneOptions { wait: Some(Duration::from_secs(120)), max_unused: Unused::Unlimited, ..world.prune_options() };
    let (plan, report) = world.try_prune(&options).unwrap();
    assert!(plan.dead.count > 0 && report.packs.count >= plan.dead.count, "{plan:?} {report:?}");
    world.storage.before(|_| Ok(()));
    for id in sessions.lock().unwrap().drain(..) {
        session::abandon(&world.repo, id, now()).unwrap();
    }
    world.verify();
    world.recovers();
}

/// Rule 8: segments that a writer may be reading from are left to the next prune.
#[test]
fn a_writer_keeps_the_segments_that_it_reads() {
    let world = with_garbage();
    let repo = world.copy_of_repo();
    let index = Arc::new(Mutex::new(None));
    let (read, mut marked) = (index.clone(), false);
    world.storage.before(move |operation| {
        // It begins once the list is there, and reads the index from then on.
        if marked && read.lock().unwrap().is_none() {
            session::begin(&repo, now()).unwrap();
            *read.lock().unwrap() = Some(Index::load_for_writing(&repo).unwrap());
        }
        marked |= lists(operation);
        Ok(())
    });
    world.sweep();
    world.storage.before(|_| Ok(()));
    let index = index.lock().unwrap().take().unwrap();
    for segment in 0..index.segments().len() {
        index.scan(segment, &mut |_, _, _| Ok(())).unwrap();
    }
    world.bury(|_| true);
    world.recovers();
}

/// Rule 10: a reader that does not find a pack, or a segment, loads the segments again.
#[test]
fn a_reader_that_was_there_before_goes_on() {
    let mut world = with_garbage();
    world.write("half", &noise(9, 40_000));
    world.write("stays too", &noise(10, 40_000));
    let half = world.ingest().snapshot.id;
    world.remove("half");
    world.ingest();
    let reader = Reader::open(&world.repo);
    world.forget(half);
    let before = world.packs();
    world.prune();
    assert!(before.iter().any(|id| !world.packs().contains(id)), "packs were repacked");
    reader.verify(&world.history);
}

/// A list that does not open is void for everybody, also for the prune that wrote it: a writer that comes now counts on
/// the packs again.
#[test]
fn a_list_that_is_damaged_is_void_for_the_prune_that_wrote_it() {
    let world = with_garbage();
    let packs = world.packs().len();
    let (inner, damaged) = (world.storage.inner.clone(), Arc::new(AtomicBool::new(false)));
    let done = damaged.clone();
    let mut written = None;
    world.storage.before(move |operation| {
        match operation {
            Operation::Create(name @ Name::Condemned(_), _) => written = Some(*name),
            // Prune has looked again, and read its list, before it lists the packs.
            Operation::List(Class::Packs) => {
                if let Some(name) = written.take() {
                    inner.damage(&name, |object| object[80] ^= 1);
                    done.store(true, Ordering::SeqCst);
                }
            }
            _ => {}
        }
        Ok(())
    });
    let (_, report) = world.sweep();
    assert!(damaged.load(Ordering::SeqCst));
    assert_eq!((report.packs.count, world.packs().len()), (0, packs));
    world.storage.before(|_| Ok(()));
    world.verify();
    let (_, report) = world.sweep();
    assert!(report.packs.count > 0 && report.ignored == 1);
    world.recovers();
}
