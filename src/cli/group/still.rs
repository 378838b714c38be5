//! How a member of a group stands still: it freezes when all have come, takes its part when all stand still, and goes on
//! within its own limit, whatever becomes of the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use yester::ingest::FreezeHooks;
use yester::jobs::config::keys::Hook;
use yester::jobs::groups::GroupMember;
use yester::jobs::hooks::Runner;
use yester::jobs::runs::Logged;
use yester::model::GroupStep;
use yester::observe::{Event, Observer};
use yester::{Error, ErrorKind, Result};

use crate::cli::say::units;
use crate::cli::sets::thaw_guard::ThawGuard;

/// How far it is.
enum Still {
    /// Nothing stood still yet.
    Before,
    /// It stands still since then, or is on its way to it.
    Frozen(Instant, Option<ThawGuard>),
    /// It goes on again; it stood still for so long. The guard is here for as long as something may still freeze.
    Thawed(Duration, Option<ThawGuard>),
}

/// A member that stands still with others.
pub struct GroupStillness {
    member: Arc<GroupMember>,
    runner: Arc<Runner>,
    logged: Arc<Logged>,
    stop: Arc<AtomicBool>,
    thaw: Option<Hook>,
    limit: Duration,
    still: Mutex<Still>,
    changed: Condvar,
    late: AtomicBool,
    /// The hook that freezes has ended.
    settled: AtomicBool,
}

impl GroupStillness {
    /// Of this member; `thaw` is the hook that lets it go on.
    pub fn new(
        member: &Arc<GroupMember>,
        (runner, logged): (&Arc<Runner>, &Arc<Logged>),
        stop: &Arc<AtomicBool>,
        thaw: Option<Hook>,
    ) -> Arc<Self> {
        Arc::new(GroupStillness {
            member: member.clone(),
            runner: runner.clone(),
            logged: logged.clone(),
            stop: stop.clone(),
            thaw,
            limit: Duration::from_millis(member.round().still_limit),
            still: Mutex::new(Still::Before),
            changed: Condvar::new(),
            late: AtomicBool::new(false),
            settled: AtomicBool::new(false),
        })
    }

    /// As an ingest wants it.
    pub fn hooks(self: &Arc<Self>) -> FreezeHooks {
        let (freezes, thaws) = (self.clone(), self.clone());
        FreezeHooks { freeze: Arc::new(move || freezes.freeze()), thaw: Arc::new(move || thaws.thaw()) }
    }

    /// The error in the place of an interruption that was only its own limit.
    pub fn explain(&self, e: Error) -> Error {
        if self.late.load(Ordering::Relaxed) && e.kind() == ErrorKind::Interrupted { self.too_late() } else { e }
    }

    fn too_late(&self) -> Error {
        let limit = units::duration(self.limit);
        let text = format!(
            "it stood still for longer than its limit of {limit}, and was thawed: what was read is not kept (yester group create \
             --still-limit)"
        );
        Error::new(ErrorKind::Io, text)
    }

    fn freeze(self: &Arc<Self>) -> Result<()> {
        if !matches!(*self.still.lock(), Still::Before) {
            let text = "the ingest had to begin again after the members of the group stood still: open another round";
            return Err(Error::new(ErrorKind::Io, text));
        }
        self.member.join()?;
        self.member.wait_for(GroupStep::Begin)?;
        let start = |hook: &Hook| ThawGuard::start(hook, &self.runner, Some(self.limit));
        let guard = self.thaw.as_ref().map(start).transpose();
        *self.still.lock() = Still::Frozen(Instant::now(), guard?);
        let watches = self.clone();
        std::thread::spawn(move || watches.watch());
        let frozen = self.runner.run("freeze");
        self.settle()?;
        frozen?;
        self.member.say(GroupStep::Frozen)?;
        self.member.wait_for(GroupStep::Barrier)?;
        if self.late.load(Ordering::Relaxed) {
            return Err(self.too_late());
        }
        self.member.say(GroupStep::Cut)
    }

    /// The hook that freezes has ended. If that was after the limit, what it froze then is thawed.
    fn settle(&self) -> Result<()> {
        let mut still = self.still.lock();
        self.settled.store(true, Ordering::Relaxed);
        match &mut *still {
            Still::Thawed(_, guard) => {
                self.run_thaw(guard.take());
                Err(self.too_late())
            }
            Still::Frozen(_, guard) => {
                guard.iter_mut().for_each(ThawGuard::frozen);
                Ok(())
            }
            Still::Before => Ok(()),
        }
    }

    /// Ends the ingest at the limit, and thaws.
    fn watch(&self) {
        let mut still = self.still.lock();
        while let Still::Frozen(since, _) = *still {
            let left = self.limit.saturating_sub(since.elapsed());
            if left.is_zero() {
                self.late.store(true, Ordering::Relaxed);
                // Also a hook that freezes still.
                self.stop.store(true, Ordering::Relaxed);
                self.let_go(&mut still);
                return;
            }
            self.changed.wait_for(&mut still, left);
        }
    }

    fn let_go(&self, still: &mut Still) {
        let Still::Frozen(since, guard) = std::mem::replace(still, Still::Before) else { return };
        let guard = self.run_thaw(guard);
        *still = Still::Thawed(since.elapsed(), guard);
    }

    /// Runs the hook. The guard is not needed any more if that was well; if it failed, the guard runs it once more. It is
    /// answered while something may freeze after this.
    fn run_thaw(&self, guard: Option<ThawGuard>) -> Option<ThawGuard> {
        let thawed = self.runner.run("thaw");
        if let Err(e) = &thawed {
            self.logged.event(&Event::Warning { subject: b"hook thaw", message: &format!("{e}; it is run once more") });
        }
        if !self.settled.load(Ordering::Relaxed) {
            return guard;
        }
        if let (Ok(()), Some(guard)) = (thawed, guard) {
            guard.thawed();
        }
        None
    }

    fn thaw(&self) -> Result<()> {
        let mut still = self.still.lock();
        if matches!(*still, Still::Frozen(..)) {
            self.let_go(&mut still);
            self.changed.notify_all();
        }
        let Still::Thawed(stood, _) = *still else { return Ok(()) };
        drop(still);
        // The others see it by what comes next as well.
        let _ = self.member.thawed(stood);
        if stood > self.limit || self.late.load(Ordering::Relaxed) { Err(self.too_late()) } else { Ok(()) }
    }
}
