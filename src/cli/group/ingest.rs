//! The ingest of a set that is a member's part in a group.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use yester::ingest::{IngestOptions, IngestReport};
use yester::jobs::config::keys::Set;
use yester::jobs::groups::GroupMember;
use yester::jobs::hooks::Runner;
use yester::jobs::runs::Logged;
use yester::model::{GroupRound, escape};
use yester::repo::Repository;
use yester::{Error, Result};

use super::still::GroupStillness;

/// An ingest that takes part.
pub struct GroupIngest {
    member: Arc<GroupMember>,
    still: Option<Arc<GroupStillness>>,
}

impl GroupIngest {
    /// Finds the group and the member that this is. With a barrier it joins when it could freeze, else now.
    pub fn begin(
        repo: &Arc<Repository>,
        (group, member): (&str, Option<&str>),
        (name, set): (&str, &Set),
        (runner, logged, stop): (&Arc<Runner>, &Arc<Logged>, &Arc<AtomicBool>),
        options: &mut IngestOptions,
    ) -> Result<Self> {
        let id = super::find_to_join(repo, group, |set| set == name)?;
        let as_member = member.map_or_else(|| options.host.clone(), |name| name.as_bytes().to_vec());
        let member = Arc::new(GroupMember::new(repo, id, (GroupRound::INGEST, &as_member), stop)?);
        let of = &member.round().set;
        if of != name.as_bytes() {
            let text = format!("group {} is of the set {}, and not of {}", id.short(), escape(of), escape(name.as_bytes()));
            return Err(Error::invalid(text));
        }
        options.group = Some(member.part());
        // Its part names the group: it is there even if nothing has changed.
        options.skip_if_unchanged = false;
        runner.set("YESTER_GROUP", id.to_string());
        if !member.round().barrier {
            member.join()?;
            return Ok(GroupIngest { member, still: None });
        }
        let still = GroupStillness::new(&member, (runner, logged), stop, set.hooks.thaw.clone());
        options.still = Some(still.hooks());
        Ok(GroupIngest { member, still: Some(still) })
    }

    /// Tells the group how it ended.
    pub fn ended(&self, result: Result<IngestReport>) -> Result<IngestReport> {
        let result = match &self.still {
            Some(still) => result.map_err(|e| still.explain(e)),
            None => result,
        };
        match &result {
            Ok(report) => {
                let id = report.snapshot.id;
                let told = self.member.done(id, report.snapshot.statistics.errors);
                told.map_err(|e| e.context(format!("snapshot {} is stored, but the group cannot be told", id.short())))?;
            }
            // Who cannot be told sees that nothing comes.
            Err(e) => drop(self.member.failed(&e.to_string())),
        }
        result
    }
}
