//! A group: one round over several hosts, as the objects of `groups/` tell it. Each object is written once; every state of
//! the round is derived from which of them there are.

use std::fmt;

use crate::model::{SnapshotId, Timestamp};

/// What an object of a group says. Its name has it, so that each is said once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum GroupStep {
    /// The round was opened: what it is of, and who is expected.
    #[default]
    Round,
    /// All that take part are known, and are to freeze; or the round was given up.
    Begin,
    /// All stand still, and take their parts; or the round was given up.
    Barrier,
    /// It is over: for a restore, whether what was exchanged stays.
    Verdict,
    /// A member takes part.
    Joined,
    /// A member stands still; in a restore, all is staged and verified.
    Frozen,
    /// A member has seen the barrier fall, and takes its part; in a restore, it has exchanged.
    Cut,
    /// A member goes on.
    Thawed,
    /// A member's part is stored, or restored.
    Done,
    /// A member has failed.
    Failed,
}

impl GroupStep {
    /// All of them; the place is the number on disk.
    pub const ALL: [GroupStep; 10] = [
        GroupStep::Round,
        GroupStep::Begin,
        GroupStep::Barrier,
        GroupStep::Verdict,
        GroupStep::Joined,
        GroupStep::Frozen,
        GroupStep::Cut,
        GroupStep::Thawed,
        GroupStep::Done,
        GroupStep::Failed,
    ];

    /// The word in an object's name.
    pub(crate) fn word(self) -> &'static str {
        match self {
            GroupStep::Round => "round",
            GroupStep::Begin => "begin",
            GroupStep::Barrier => "barrier",
            GroupStep::Verdict => "verdict",
            GroupStep::Joined => "joined",
            GroupStep::Frozen => "frozen",
            GroupStep::Cut => "cut",
            GroupStep::Thawed => "thawed",
            GroupStep::Done => "done",
            GroupStep::Failed => "failed",
        }
    }

    /// Whether a member says it, and not anybody of the whole round.
    pub(crate) fn is_of_member(self) -> bool {
        self >= GroupStep::Joined
    }
}

/// The place of an object in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct GroupSlot {
    /// The number of the member among those that the round expects; 0 where it is of the whole round.
    pub(crate) member: u16,
    /// What it says.
    pub(crate) step: GroupStep,
}

impl GroupSlot {
    /// Of the whole round.
    pub fn of_round(step: GroupStep) -> Self {
        GroupSlot { member: 0, step }
    }

    /// Of a member.
    pub fn of_member(member: u16, step: GroupStep) -> Self {
        GroupSlot { member, step }
    }

    /// Parses what stands behind the group's id in a name: `round`, `0003.frozen`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (member, word) = text.split_once('.').map_or((None, text), |(member, word)| (Some(member), word));
        let step = GroupStep::ALL.into_iter().find(|step| step.word() == word)?;
        let member = member.map(|digits| u16::from_str_radix(digits, 16)).transpose().ok()?;
        let slot = GroupSlot { member: member.unwrap_or(0), step };
        Some(slot).filter(|slot| slot.to_string() == text)
    }
}

impl fmt::Display for GroupSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step.is_of_member() {
            true => write!(f, "{:04x}.{}", self.member, self.step.word()),
            false => f.write_str(self.step.word()),
        }
    }
}

/// An object of a group. Which of its fields say something depends on the step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupEntry {
    /// Its place, the same as in its name.
    pub slot: GroupSlot,
    /// When it was written, by the clock of whoever wrote it: for people. No limit is counted by it.
    pub time: Timestamp,
    /// The host that it was written on.
    pub host: Vec<u8>,
    /// The user who wrote it.
    pub user: Vec<u8>,
    /// Of a round.
    pub round: Option<GroupRound>,
    /// Of `begin`, `barrier` and `verdict`: it goes on, and with whom.
    pub goes_on: bool,
    /// Of `begin`, `barrier` and `verdict`: the numbers of the members with whom it goes on, sorted.
    pub members: Vec<u16>,
    /// Of `joined`: a random id of this execution, so that it knows its own.
    pub nonce: Option<SnapshotId>,
    /// Of `done`: the snapshot that is the member's part.
    pub snapshot: Option<SnapshotId>,
    /// Of `done`: entries that could not be read as they were.
    pub errors: u64,
    /// Of `thawed`: how long it stood still, in milliseconds.
    pub still: u64,
    /// Why it failed, or was given up.
    pub message: Vec<u8>,
}

/// What a round is of, and its limits. Limits are counted by the clock of whoever waits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupRound {
    /// One of the kinds here, or one of a later version.
    pub kind: u64,
    /// The set whose snapshots these are.
    pub set: Vec<u8>,
    /// The names of the members, in order.
    pub members: Vec<Vec<u8>>,
    /// All stand still at once.
    pub barrier: bool,
    /// It may be completed without some of them.
    pub allow_missing: bool,
    /// How long it is waited for members to come, and later for their parts, in milliseconds.
    pub limit: u64,
    /// How long a member may stand still, in milliseconds.
    pub still_limit: u64,
    /// Of a restore: the group that is restored.
    pub of: Option<SnapshotId>,
    /// Of a restore: for each member, the name of the member of that group whose part it takes.
    pub parts: Vec<Vec<u8>>,
}

impl GroupRound {
    /// Each member takes a snapshot.
    pub const INGEST: u64 = 0;
    /// Each member restores its part.
    pub const RESTORE: u64 = 1;
    /// The most members.
    pub const MAX_MEMBERS: usize = 4096;

    /// The number of the member of this name.
    pub fn member(&self, name: &[u8]) -> Option<u16> {
        self.members.iter().position(|member| member == name).and_then(|at| u16::try_from(at).ok())
    }
}

/// The group that a snapshot is a part of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupPart {
    /// The group.
    pub group: SnapshotId,
    /// The name of the member that it is of.
    pub member: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_one_name() {
        for step in GroupStep::ALL {
            let member = if step.is_of_member() { 0xab } else { 0 };
            let slot = GroupSlot { member, step };
            assert_eq!(GroupSlot::parse(&slot.to_string()), Some(slot));
        }
        for bad in ["", "joined", "0000.round", "1.joined", "00AB.joined", "+0ab.joined", "00ab.", "00ab.joined.x", "0000x"] {
            assert_eq!(GroupSlot::parse(bad), None, "{bad}");
        }
    }
}
