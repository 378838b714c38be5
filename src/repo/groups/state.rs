//! How a group stands, and what is to be decided: pure functions of what was said of it, and of how long somebody has
//! waited by a clock of their own. No time that another machine wrote counts, but for `is_under_way`.

use std::time::Duration;

use crate::model::{GroupEntry, GroupRound, GroupSlot, GroupStep, SnapshotId, Timestamp, escape};
use crate::repo::groups::GroupEntries;

/// In seconds.
const DAY: i64 = 86_400;
/// How often it is looked what others have said while members stand still.
pub(crate) const POLL: Duration = Duration::from_millis(200);
/// How often at the least: each look lists all groups.
pub(crate) const SLOWEST: Duration = Duration::from_secs(2);
/// Nothing was new for so many times as long as it is waited until the next look.
const BACK_OFF: u32 = 10;

/// How a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// It has not come.
    Missing,
    /// It takes part, and its part is not there yet.
    Processing,
    /// Its part is there.
    Completed,
    /// Its part will not come.
    Failed,
}

impl MemberState {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            MemberState::Missing => "missing",
            MemberState::Processing => "processing",
            MemberState::Completed => "completed",
            MemberState::Failed => "failed",
        }
    }
}

/// How a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// Something is still waited for.
    Processing,
    /// Every member's part is there.
    Completed,
    /// Parts are missing, and that was allowed.
    Incomplete,
    /// Parts are missing, and that was not allowed; or there is none.
    Failed,
}

impl GroupState {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            GroupState::Processing => "processing",
            GroupState::Completed => "completed",
            GroupState::Incomplete => "incomplete",
            GroupState::Failed => "failed",
        }
    }
}

/// A member, as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Its name in the round.
    pub name: Vec<u8>,
    /// How it stands.
    pub state: MemberState,
    /// The last thing that it said; empty for nothing.
    pub step: &'static str,
    /// The host that it runs on.
    pub host: Vec<u8>,
    /// Its part.
    pub snapshot: Option<SnapshotId>,
    /// Entries that could not be read as they were.
    pub errors: u64,
    /// How long it stood still.
    pub still: Option<Duration>,
    /// When it took its part, by its own clock.
    pub cut: Option<Timestamp>,
    /// Why its part will not come.
    pub message: Vec<u8>,
}

/// A group, as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// What it is of.
    pub round: GroupRound,
    /// When it was opened.
    pub opened: Timestamp,
    /// How it stands.
    pub state: GroupState,
    /// Nobody waits for anything any more.
    pub over: bool,
    /// Its members, in order.
    pub members: Vec<MemberView>,
    /// Why it was given up.
    pub message: Vec<u8>,
    /// From the first cut to the last one, by the clocks of the members, once all have cut that take part.
    pub window: Option<Duration>,
}

impl GroupView {
    /// Members in this state, by name.
    pub fn names(&self, state: MemberState) -> String {
        let names = self.members.iter().filter(|member| member.state == state).map(|member| escape(&member.name));
        names.collect::<Vec<_>>().join(", ")
    }
}

/// How long somebody has waited, by their own clock, since they first saw something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waited {
    /// Since the round was seen.
    pub(crate) round: Duration,
    /// Since it was seen that it begins.
    pub(crate) begin: Duration,
    /// Since anything was seen that is new.
    pub(crate) news: Duration,
}

/// Everything that was said, with the questions that are asked of it.
struct RoundSaid<'a> {
    records: &'a GroupEntries,
    round: &'a GroupRound,
}

impl<'a> RoundSaid<'a> {
    fn of(records: &'a GroupEntries) -> Option<Self> {
        let round = records.get(&GroupSlot::of_round(GroupStep::Round))?.round.as_ref()?;
        Some(RoundSaid { records, round })
    }

    fn all(&self) -> impl Iterator<Item = u16> + use<> {
        0..u16::try_from(self.round.members.len()).unwrap_or(u16::MAX)
    }

    fn decision(&self, step: GroupStep) -> Option<&'a GroupEntry> {
        self.records.get(&GroupSlot::of_round(step))
    }

    fn member(&self, member: u16, step: GroupStep) -> Option<&'a GroupEntry> {
        self.records.get(&GroupSlot::of_member(member, step))
    }

    fn has(&self, member: u16, step: GroupStep) -> bool {
        self.member(member, step).is_some()
    }

    fn name(&self, member: u16) -> String {
        self.round.members.get(usize::from(member)).map(|name| escape(name)).unwrap_or_default()
    }

    fn names(&self, members: impl IntoIterator<Item = u16>) -> String {
        members.into_iter().map(|member| self.name(member)).collect::<Vec<_>>().join(", ")
    }

    /// The decision that leaves a member out, if there is one.
    fn left_out(&self, member: u16) -> Option<&'a GroupEntry> {
        let of_barrier = [GroupStep::Begin, GroupStep::Barrier].into_iter().filter_map(|step| self.decision(step));
        let mut decisions: Vec<&GroupEntry> = of_barrier.filter(|_| self.round.barrier).collect();
        decisions.extend(self.decision(GroupStep::Verdict).filter(|record| is_restore(self.round) && !record.goes_on));
        decisions.into_iter().find(|record| !record.goes_on || !record.members.contains(&member))
    }

    /// How a member stands, whether that may still change, and why its part will not come.
    fn state(&self, member: u16) -> (MemberState, bool, Vec<u8>) {
        if self.has(member, GroupStep::Done) {
            return (MemberState::Completed, true, Vec::new());
        }
        if let Some(failed) = self.member(member, GroupStep::Failed) {
            return (MemberState::Failed, true, failed.message.clone());
        }
        let joined = self.has(member, GroupStep::Joined);
        match (joined, self.left_out(member), self.decision(GroupStep::Verdict)) {
            (true, Some(decision), _) if !decision.goes_on => (MemberState::Failed, true, decision.message.clone()),
            (true, Some(_), _) => (MemberState::Failed, true, b"it was too late: the others went on without it".to_vec()),
            // What it exchanged stays; it has not said yet that it knows.
            (true, None, Some(verdict)) if is_restore(self.round) && verdict.goes_on => {
                (MemberState::Completed, true, Vec::new())
            }
            (true, None, Some(_)) => (MemberState::Failed, true, b"lost: nothing more was heard of it".to_vec()),
            (false, Some(_), _) | (false, None, Some(_)) => (MemberState::Missing, true, Vec::new()),
            (true, None, None) => (MemberState::Processing, false, Vec::new()),
            (false, None, None) => (MemberState::Missing, false, Vec::new()),
        }
    }

    fn group_state(&self) -> (GroupState, bool) {
        let states: Vec<(MemberState, bool)> =
            self.all().map(|member| self.state(member)).map(|(s, over, _)| (s, over)).collect();
        let completed = states.iter().filter(|(state, _)| *state == MemberState::Completed).count();
        let over = states.iter().all(|(_, over)| *over);
        let hopeless = states.iter().any(|(state, over)| *over && *state != MemberState::Completed);
        let state = match () {
            () if completed == states.len() => GroupState::Completed,
            () if !self.round.allow_missing && hopeless => GroupState::Failed,
            () if !over => GroupState::Processing,
            () if completed > 0 => GroupState::Incomplete,
            () => GroupState::Failed,
        };
        (state, over)
    }
}

/// How long until it is worth to look again, where nothing is new since so long: not long while members stand still, and
/// never for so long that who sees late that it begins is too late for the barrier.
pub(crate) fn gap(records: &GroupEntries, news: Duration) -> Duration {
    let Some(said) = RoundSaid::of(records) else { return POLL };
    let begins = said.decision(GroupStep::Begin).is_some_and(|begin| begin.goes_on);
    if begins && said.decision(GroupStep::Barrier).is_none() && !is_restore(said.round) {
        return POLL;
    }
    (news / BACK_OFF).min(SLOWEST).min(barrier_limit(said.round) / BACK_OFF).max(POLL)
}

/// Whether something may still come of a round, by what was said of it last: nobody waits longer than its limit. Clocks of
/// other hosts count here, so a day is left for what they are wrong by.
pub(crate) fn is_under_way(records: &GroupEntries, now: Timestamp) -> bool {
    let limit = RoundSaid::of(records).map_or(0, |said| said.round.limit / 1000);
    let newest = records.values().map(|record| record.time.secs).max().unwrap_or(i64::MIN);
    newest.saturating_add(i64::try_from(limit).unwrap_or(i64::MAX)).saturating_add(DAY) >= now.secs
}

fn is_restore(round: &GroupRound) -> bool {
    round.kind == GroupRound::RESTORE
}

/// How long a member that stands still waits for the barrier: half of what it may stand still, so that the other half is
/// left to take its part.
pub fn barrier_limit(round: &GroupRound) -> Duration {
    match is_restore(round) {
        true => Duration::from_millis(round.limit),
        false => Duration::from_millis(round.still_limit / 2),
    }
}

/// How a group stands; `None` as long as nobody can read its round.
pub fn view(records: &GroupEntries) -> Option<GroupView> {
    let said = RoundSaid::of(records)?;
    let (state, over) = said.group_state();
    let members: Vec<MemberView> = said.all().map(|member| member_view(&said, member)).collect();
    let given_up = [GroupStep::Begin, GroupStep::Barrier, GroupStep::Verdict].into_iter().filter_map(|step| said.decision(step));
    let message = given_up.filter(|record| !record.goes_on).map(|record| record.message.clone()).next().unwrap_or_default();
    let message = if state == GroupState::Completed { Vec::new() } else { message };
    let opened = records.get(&GroupSlot::of_round(GroupStep::Round)).map(|record| record.time).unwrap_or_default();
    let window = window(&said);
    Some(GroupView { round: said.round.clone(), opened, state, over, members, message, window })
}

fn member_view(said: &RoundSaid<'_>, member: u16) -> MemberView {
    let (state, _, message) = said.state(member);
    let mut steps = GroupStep::ALL.into_iter().filter(|step| step.is_of_member() && said.has(member, *step));
    let done = said.member(member, GroupStep::Done);
    MemberView {
        name: said.round.members.get(usize::from(member)).cloned().unwrap_or_default(),
        state,
        step: steps.next_back().map(GroupStep::word).unwrap_or_default(),
        host: said.member(member, GroupStep::Joined).map(|record| record.host.clone()).unwrap_or_default(),
        snapshot: done.and_then(|record| record.snapshot),
        errors: done.map_or(0, |record| record.errors),
        still: said.member(member, GroupStep::Thawed).map(|record| Duration::from_millis(record.still)),
        cut: said.member(member, GroupStep::Cut).map(|record| record.time),
        message,
    }
}

/// From the first cut to the last one.
fn window(said: &RoundSaid<'_>) -> Option<Duration> {
    let barrier = said.decision(GroupStep::Barrier).filter(|record| record.goes_on && !is_restore(said.round))?;
    let cuts: Option<Vec<Timestamp>> =
        barrier.members.iter().map(|member| said.member(*member, GroupStep::Cut).map(|record| record.time)).collect();
    let cuts = cuts?;
    let nanos = |time: Timestamp| i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let (first, last) = (cuts.iter().copied().min()?, cuts.iter().copied().max()?);
    Some(Duration::from_nanos(u64::try_from(nanos(last) - nanos(first)).unwrap_or(u64::MAX)))
}

/// What is to be decided now, as far as somebody can tell who has waited so long: a step and whether it goes on, with whom,
/// and why not.
pub fn decide(records: &GroupEntries, waited: Waited) -> Option<GroupEntry> {
    let said = RoundSaid::of(records)?;
    if said.decision(GroupStep::Verdict).is_some() {
        return None;
    }
    let by_barrier = said.round.barrier;
    match (said.decision(GroupStep::Begin), said.decision(GroupStep::Barrier)) {
        (None, _) if by_barrier => begin(&said, waited),
        (Some(begin), None) if by_barrier && begin.goes_on => barrier(&said, &begin.members, waited),
        (Some(_), Some(barrier)) if by_barrier && barrier.goes_on && is_restore(said.round) => {
            kept(&said, &barrier.members, waited)
        }
        _ => verdict(&said, waited),
    }
}

fn go(step: GroupStep, members: Vec<u16>) -> Option<GroupEntry> {
    Some(GroupEntry { slot: GroupSlot::of_round(step), goes_on: true, members, ..GroupEntry::default() })
}

fn stop(step: GroupStep, members: Vec<u16>, why: String) -> Option<GroupEntry> {
    Some(GroupEntry { slot: GroupSlot::of_round(step), members, message: why.into_bytes(), ..GroupEntry::default() })
}

/// Who takes part: all, or after the limit those who came, if that is allowed.
fn begin(said: &RoundSaid<'_>, waited: Waited) -> Option<GroupEntry> {
    let failed: Vec<u16> = said.all().filter(|member| said.has(*member, GroupStep::Failed)).collect();
    let here: Vec<u16> = said.all().filter(|m| said.has(*m, GroupStep::Joined) && !failed.contains(m)).collect();
    let limit = Duration::from_millis(said.round.limit);
    ready(said, GroupStep::Begin, &said.all().collect::<Vec<_>>(), (here, failed), waited.round >= limit, "did not come in time")
}

/// Whether all stand still.
fn barrier(said: &RoundSaid<'_>, members: &[u16], waited: Waited) -> Option<GroupEntry> {
    let is_gone = |m: &u16| said.has(*m, GroupStep::Failed) || said.has(*m, GroupStep::Thawed);
    let gone: Vec<u16> = members.iter().copied().filter(is_gone).collect();
    let still: Vec<u16> = members.iter().copied().filter(|m| said.has(*m, GroupStep::Frozen) && !is_gone(m)).collect();
    let late = waited.begin >= barrier_limit(said.round);
    ready(said, GroupStep::Barrier, members, (still, gone), late, "was not ready in time")
}

/// Goes on when everybody is `here`, with those who are when it may or must do without the others, or not at all.
fn ready(
    said: &RoundSaid<'_>,
    step: GroupStep,
    wanted: &[u16],
    (here, failed): (Vec<u16>, Vec<u16>),
    late: bool,
    why: &str,
) -> Option<GroupEntry> {
    let outstanding: Vec<u16> = wanted.iter().copied().filter(|m| !here.contains(m) && !failed.contains(m)).collect();
    match said.round.allow_missing {
        false if !failed.is_empty() => stop(step, Vec::new(), format!("{} failed", said.names(failed))),
        false if !outstanding.is_empty() && late => stop(step, Vec::new(), format!("{} {why}", said.names(outstanding))),
        _ if !outstanding.is_empty() && !late => None,
        _ if here.is_empty() => stop(step, Vec::new(), "no member is left".to_owned()),
        _ => go(step, here),
    }
}

/// Of a restore: whether what was exchanged stays.
fn kept(said: &RoundSaid<'_>, members: &[u16], waited: Waited) -> Option<GroupEntry> {
    let failed: Vec<u16> = members.iter().copied().filter(|m| said.has(*m, GroupStep::Failed)).collect();
    let outstanding: Vec<u16> = members.iter().copied().filter(|m| !said.has(*m, GroupStep::Cut)).collect();
    if !failed.is_empty() {
        return stop(GroupStep::Verdict, Vec::new(), format!("{} failed", said.names(failed)));
    }
    if outstanding.is_empty() {
        return go(GroupStep::Verdict, members.to_vec());
    }
    let why = || format!("{} did not exchange in time", said.names(outstanding));
    if waited.news >= Duration::from_millis(said.round.limit) { stop(GroupStep::Verdict, Vec::new(), why()) } else { None }
}

/// Of snapshots: it is over when nothing can come any more, or nothing came for too long.
fn verdict(said: &RoundSaid<'_>, waited: Waited) -> Option<GroupEntry> {
    let (state, over) = said.group_state();
    let outstanding: Vec<u16> = said.all().filter(|member| !said.state(*member).1).collect();
    if !over && waited.news < Duration::from_millis(said.round.limit) {
        return None;
    }
    let completed: Vec<u16> = said.all().filter(|member| said.has(*member, GroupStep::Done)).collect();
    if state == GroupState::Completed {
        return go(GroupStep::Verdict, completed);
    }
    let why = match outstanding.is_empty() {
        true => format!("without {}", said.names(said.all().filter(|member| !completed.contains(member)))),
        false => format!("nothing was heard in time of {}", said.names(outstanding)),
    };
    stop(GroupStep::Verdict, completed, why)
}

#[cfg(test)]
mod tests;
