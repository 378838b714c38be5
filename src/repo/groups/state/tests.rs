//! Every interleaving of small rounds: who dies where, who is late, who says something twice, several who decide.

use std::collections::HashSet;

use super::*;
use GroupStep::{Barrier, Begin, Cut, Done, Failed, Frozen, Joined, Thawed, Verdict};

const LIMIT: u64 = 1000;
/// Longer than any limit.
const LONG: Waited = Waited { round: Duration::MAX, begin: Duration::MAX, news: Duration::MAX };

fn opened(members: usize, round: GroupRound) -> GroupEntries {
    let members = (0..members).map(|n| format!("db{n}").into_bytes()).collect();
    let round = GroupRound { members, limit: LIMIT, still_limit: LIMIT, ..round };
    GroupEntries::from([(GroupSlot::default(), GroupEntry { round: Some(round), ..GroupEntry::default() })])
}

/// The first who says something has said it.
fn say(records: &mut GroupEntries, record: GroupEntry) {
    records.entry(record.slot).or_insert(record);
}

/// Somebody decides who has waited so long.
fn settle(records: &mut GroupEntries, waited: Waited) {
    let decision = decide(records, waited).unwrap();
    say(records, decision);
}

fn step(member: u16, step: GroupStep) -> GroupEntry {
    GroupEntry { slot: GroupSlot::of_member(member, step), ..GroupEntry::default() }
}

/// What a member does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum MemberAt {
    Nowhere,
    Joined,
    /// It stands still, and has not said so.
    Freezing,
    Frozen,
    /// The barrier fell, and it takes its part.
    Cutting,
    Storing,
    Ended,
    Dead,
}

/// A member that lives does what it can; whoever it is that waits decides when it may.
#[derive(Debug, Clone)]
struct World {
    records: GroupEntries,
    at: Vec<MemberAt>,
    deaths: usize,
}

/// What was said, where each member is, and how many may still die.
type WorldKey = (Vec<(GroupSlot, bool, Vec<u16>)>, Vec<MemberAt>, usize);

impl World {
    fn key(&self) -> WorldKey {
        let said = self.records.iter().map(|(slot, record)| (*slot, record.goes_on, record.members.clone()));
        (said.collect(), self.at.clone(), self.deaths)
    }

    fn decision(&self, step: GroupStep) -> Option<&GroupEntry> {
        self.records.get(&GroupSlot::of_round(step))
    }

    /// Whether a decision lets a member go on; `None`: there is none yet.
    fn may(&self, member: u16, step: GroupStep) -> Option<bool> {
        self.decision(step).map(|record| record.goes_on && record.members.contains(&member))
    }

    /// Every world that a step of one of the members leads to.
    fn next(&self) -> Vec<World> {
        let mut out = Vec::new();
        for member in 0..self.at.len() as u16 {
            out.extend(self.moved(member));
            if self.deaths > 0 && !matches!(self.at[usize::from(member)], MemberAt::Ended | MemberAt::Dead) {
                let mut dead = self.clone();
                dead.deaths -= 1;
                dead.at[usize::from(member)] = MemberAt::Dead;
                out.push(dead);
            }
        }
        // Somebody who has just come, and somebody who has waited for longer than every limit.
        for waited in [Waited::default(), LONG] {
            if let Some(decision) = decide(&self.records, waited) {
                let mut decided = self.clone();
                say(&mut decided.records, decision.clone());
                // Another one decides the same moment: nothing becomes of it.
                let before = decided.key();
                say(&mut decided.records, GroupEntry { goes_on: !decision.goes_on, ..decision });
                assert_eq!(decided.key(), before);
                out.push(decided);
            }
        }
        out
    }

    fn moved(&self, member: u16) -> Vec<World> {
        let to = |at: MemberAt, said: &[GroupStep]| {
            let mut world = self.clone();
            world.at[usize::from(member)] = at;
            // Each of them is said twice, as after an answer that was lost.
            said.iter().chain(said).for_each(|said| say(&mut world.records, step(member, *said)));
            world
        };
        let fails = |said: &[GroupStep]| to(MemberAt::Ended, &[said, &[GroupStep::Failed]].concat());
        match self.at[usize::from(member)] {
            MemberAt::Nowhere => vec![to(MemberAt::Joined, &[GroupStep::Joined])],
            MemberAt::Joined => match self.may(member, GroupStep::Begin) {
                None => vec![fails(&[])],
                Some(true) => vec![to(MemberAt::Freezing, &[]), fails(&[])],
                Some(false) => vec![fails(&[])],
            },
            MemberAt::Freezing => vec![to(MemberAt::Frozen, &[GroupStep::Frozen]), fails(&[GroupStep::Thawed])],
            MemberAt::Frozen => match self.may(member, GroupStep::Barrier) {
                // It can wait no longer, and cannot reach the repository to decide.
                None => vec![fails(&[GroupStep::Thawed]), fails(&[])],
                Some(true) => vec![to(MemberAt::Cutting, &[GroupStep::Cut])],
                Some(false) => vec![fails(&[GroupStep::Thawed])],
            },
            MemberAt::Cutting => vec![to(MemberAt::Storing, &[GroupStep::Thawed]), fails(&[GroupStep::Thawed])],
            MemberAt::Storing => vec![to(MemberAt::Ended, &[GroupStep::Done]), fails(&[])],
            MemberAt::Ended | MemberAt::Dead => Vec::new(),
        }
    }

    fn check(&self, allow_missing: bool, end: bool) {
        let view = view(&self.records).unwrap();
        let states: Vec<MemberState> = view.members.iter().map(|member| member.state).collect();
        let done = |state: &&MemberState| **state == MemberState::Completed;
        assert_eq!(view.state == GroupState::Completed, states.iter().filter(done).count() == states.len(), "{self:?}");
        match self.decision(GroupStep::Barrier) {
            Some(barrier) if barrier.goes_on => {
                // All for whom it falls have said that they stand still.
                assert!(barrier.members.iter().all(|m| self.records.contains_key(&step(*m, GroupStep::Frozen).slot)), "{self:?}");
                assert!(allow_missing || barrier.members.len() == states.len(), "{self:?}");
            }
            // All or none.
            _ => assert!(!self.records.keys().any(|slot| slot.step == GroupStep::Cut), "{self:?}"),
        }
        if !allow_missing {
            assert_ne!(view.state, GroupState::Incomplete, "{self:?}");
        }
        if end {
            // Nobody waits for anything, whoever died; and nobody who lives stands still.
            assert!(view.over && view.state != GroupState::Processing, "{self:?}");
            assert!(states.iter().all(|state| *state != MemberState::Processing), "{self:?}");
            assert!(self.at.iter().all(|at| matches!(at, MemberAt::Ended | MemberAt::Dead | MemberAt::Nowhere)), "{self:?}");
            assert!(decide(&self.records, LONG).is_none());
        }
    }
}

/// Goes through every world that can be reached; answers how many there are, and the states of groups in the end.
fn explore(members: usize, deaths: usize, allow_missing: bool) -> (usize, HashSet<&'static str>) {
    let round = GroupRound { barrier: true, allow_missing, ..GroupRound::default() };
    let mut worlds = vec![World { records: opened(members, round), at: vec![MemberAt::Nowhere; members], deaths }];
    let (mut seen, mut ends) = (HashSet::new(), HashSet::new());
    while let Some(world) = worlds.pop() {
        if !seen.insert(world.key()) {
            continue;
        }
        let next = world.next();
        // Deaths and late joins are no progress that anybody can count on.
        let is_end =
            world.at.iter().all(|at| matches!(at, MemberAt::Ended | MemberAt::Dead)) && decide(&world.records, LONG).is_none();
        world.check(allow_missing, is_end);
        if is_end {
            ends.insert(view(&world.records).unwrap().state.word());
        } else {
            assert!(!next.is_empty(), "nothing can happen any more: {world:?}");
        }
        worlds.extend(next);
    }
    (seen.len(), ends)
}

#[test]
fn every_interleaving_ends_in_a_true_state() {
    for (members, deaths) in [(1, 1), (2, 2), (3, 1)] {
        let (worlds, ends) = explore(members, deaths, false);
        assert_eq!(ends, HashSet::from(["completed", "failed"]), "{members} {worlds}");
        let (worlds, ends) = explore(members, deaths, true);
        let incomplete = if members > 1 { vec!["incomplete"] } else { vec![] };
        assert_eq!(ends, ["completed", "failed"].into_iter().chain(incomplete).collect(), "{members} {worlds}");
    }
}

/// The round of `members` in which these things were said.
fn after(members: usize, round: GroupRound, said: &[(u16, &[GroupStep])]) -> GroupEntries {
    let mut records = opened(members, round);
    for (member, steps) in said {
        steps.iter().for_each(|said| say(&mut records, step(*member, *said)));
    }
    records
}

fn words(records: &GroupEntries) -> Vec<&'static str> {
    let view = view(records).unwrap();
    std::iter::once(view.state.word()).chain(view.members.iter().map(|member| member.state.word())).collect()
}

const BARRIER: GroupRound = GroupRound {
    kind: GroupRound::INGEST,
    set: Vec::new(),
    members: Vec::new(),
    barrier: true,
    allow_missing: false,
    limit: 0,
    still_limit: 0,
    of: None,
    parts: Vec::new(),
};

#[test]
fn limits_are_those_of_whoever_waits() {
    let waits = |begin: u64, round: u64| Waited {
        round: Duration::from_millis(round),
        begin: Duration::from_millis(begin),
        news: Duration::ZERO,
    };
    let mut records = after(2, BARRIER, &[(0, &[Joined])]);
    // Times of other machines do not count, however wrong they are.
    for record in records.values_mut() {
        record.time = Timestamp { secs: i64::MAX, nanos: 0 };
    }
    assert_eq!(decide(&records, waits(0, LIMIT - 1)), None);
    let decision = decide(&records, waits(0, LIMIT)).unwrap();
    assert_eq!((decision.slot.step, decision.goes_on), (Begin, false));
    assert_eq!(decision.message, b"db1 did not come in time");
    say(&mut records, step(1, Joined));
    settle(&mut records, waits(0, 0));
    say(&mut records, step(0, Frozen));
    assert_eq!(decide(&records, waits(LIMIT / 2 - 1, u64::MAX)), None, "the barrier has a limit of its own");
    let decision = decide(&records, waits(LIMIT / 2, 0)).unwrap();
    assert_eq!((decision.slot.step, decision.goes_on), (Barrier, false));
    say(&mut records, decision);
    assert_eq!(words(&records), ["failed", "failed", "failed"]);
}

#[test]
fn what_is_missing_is_said() {
    let allowed = GroupRound { allow_missing: true, ..BARRIER };
    let mut records = after(3, allowed, &[(0, &[Joined]), (1, &[Joined])]);
    assert_eq!(words(&records), ["processing", "processing", "processing", "missing"]);
    settle(&mut records, LONG);
    // The one who comes later is too late, and holds nobody.
    say(&mut records, step(2, Joined));
    assert_eq!(words(&records)[3], "failed");
    for member in [0, 1] {
        say(&mut records, step(member, Frozen));
    }
    settle(&mut records, Waited::default());
    for (member, steps) in [(0, &[Cut, Thawed, Done][..]), (1, &[Cut, Thawed])] {
        steps.iter().for_each(|said| say(&mut records, step(member, *said)));
    }
    assert_eq!(words(&records), ["processing", "completed", "processing", "failed"]);
    assert_eq!(decide(&records, Waited::default()), None);
    let verdict = decide(&records, LONG).unwrap();
    assert_eq!((verdict.slot.step, verdict.goes_on, &verdict.members[..]), (Verdict, false, &[0][..]));
    say(&mut records, verdict);
    assert_eq!(words(&records), ["incomplete", "completed", "failed", "failed"]);
    // What comes after all counts: it is there.
    say(&mut records, step(1, Done));
    assert_eq!(words(&records), ["incomplete", "completed", "completed", "failed"]);
}

#[test]
fn without_a_barrier_nobody_waits_for_another() {
    let round = GroupRound { barrier: false, ..BARRIER };
    let mut records = after(2, round, &[(1, &[Joined, Done])]);
    assert_eq!(decide(&records, Waited::default()), None);
    assert_eq!(words(&records), ["processing", "missing", "completed"]);
    [Joined, Done].into_iter().for_each(|said| say(&mut records, step(0, said)));
    assert_eq!(words(&records), ["completed", "completed", "completed"]);
    let verdict = decide(&records, Waited::default()).unwrap();
    assert!(verdict.goes_on && verdict.slot.step == Verdict);
}

#[test]
fn a_restore_is_kept_by_all_or_taken_back_by_all() {
    let round = GroupRound { kind: GroupRound::RESTORE, ..BARRIER };
    let mut records = after(2, round, &[(0, &[Joined]), (1, &[Joined])]);
    settle(&mut records, Waited::default());
    let staged = |records: &mut GroupEntries, member| say(records, step(member, Frozen));
    staged(&mut records, 0);
    // Staging takes longer than anything may stand still.
    assert_eq!(decide(&records, Waited { begin: Duration::from_millis(LIMIT - 1), ..Waited::default() }), None);
    staged(&mut records, 1);
    settle(&mut records, Waited::default());
    say(&mut records, step(0, Cut));
    assert_eq!(decide(&records, Waited::default()), None);
    let mut taken_back = records.clone();
    say(&mut taken_back, step(1, Failed));
    let verdict = decide(&taken_back, Waited::default()).unwrap();
    assert_eq!((verdict.goes_on, &verdict.message[..]), (false, &b"db1 failed"[..]));
    say(&mut taken_back, verdict);
    assert_eq!(words(&taken_back), ["failed", "failed", "failed"]);
    say(&mut records, step(1, Cut));
    let verdict = decide(&records, Waited::default()).unwrap();
    assert!(verdict.goes_on);
    say(&mut records, verdict);
    assert_eq!(words(&records), ["completed"; 3], "also before they say that they know");
    (0..2).for_each(|member| say(&mut records, step(member, Done)));
    assert_eq!(words(&records), ["completed", "completed", "completed"]);
}

#[test]
fn it_is_looked_often_while_members_stand_still() {
    let gaps = |records: &GroupEntries| [2, 10, 100].map(|news| gap(records, Duration::from_secs(news)).as_millis());
    for (kind, still) in [(GroupRound::INGEST, [200; 3]), (GroupRound::RESTORE, [200, 1000, 2000])] {
        let mut records = after(1, GroupRound { kind, ..BARRIER }, &[(0, &[Joined])]);
        let round = records.get_mut(&GroupSlot::default()).unwrap().round.as_mut().unwrap();
        (round.limit, round.still_limit) = (60_000, 60_000);
        let mut found = vec![gaps(&records)];
        for said in [Frozen, Cut] {
            settle(&mut records, Waited::default());
            found.push(gaps(&records));
            say(&mut records, step(0, said));
        }
        assert_eq!(found, [[200, 1000, 2000], still, [200, 1000, 2000]]);
    }
    // Not so seldom that the barrier is missed; and often if nothing is known.
    let mut records = after(1, BARRIER, &[]);
    records.get_mut(&GroupSlot::default()).unwrap().round.as_mut().unwrap().still_limit = 12_000;
    assert_eq!(gaps(&records), [200, 600, 600]);
    settle(&mut records, LONG);
    assert_eq!(gaps(&records), [200, 600, 600], "it was given up");
    assert_eq!(gaps(&GroupEntries::new()), [200; 3]);
}

#[test]
fn a_round_is_under_way_for_its_limit_and_a_day() {
    let mut records = opened(1, GroupRound::default());
    records.get_mut(&GroupSlot::default()).unwrap().round.as_mut().unwrap().limit = 3_600_000;
    say(&mut records, GroupEntry { time: Timestamp { secs: 1000, nanos: 0 }, ..step(0, Joined) });
    let last = 1000 + 3600 + 86_400;
    let [at, after] = [last, last + 1].map(|secs| is_under_way(&records, Timestamp { secs, nanos: 0 }));
    assert!(at && !after);
}

#[test]
fn without_its_round_nothing_is_known_of_a_group() {
    let mut records = after(2, BARRIER, &[(0, &[Joined])]);
    // A member that nobody expects, and a decision about it.
    say(&mut records, step(7, Done));
    assert_eq!(words(&records), ["processing", "processing", "missing"]);
    records.remove(&GroupSlot::default());
    assert_eq!((view(&records), decide(&records, LONG)), (None, None));
}

#[test]
fn the_window_is_from_the_first_cut_to_the_last() {
    let mut records = after(2, BARRIER, &[(0, &[Joined, Frozen]), (1, &[Joined, Frozen])]);
    for _ in 0..2 {
        settle(&mut records, Waited::default());
    }
    let cut = |member, nanos| GroupEntry { time: Timestamp { secs: 7, nanos }, ..step(member, Cut) };
    say(&mut records, cut(1, 5_000_000));
    assert_eq!(view(&records).unwrap().window, None);
    say(&mut records, cut(0, 2_000_000));
    assert_eq!(view(&records).unwrap().window, Some(Duration::from_millis(3)));
}
