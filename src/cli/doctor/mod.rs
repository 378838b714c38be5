//! `doctor`: what is damaged, what can be healed and from where, and healing it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use yester::doctor::{Doctor, HealSource, HealTally, Loss};
use yester::maintain::check::{CheckOptions, CheckReport, Subset};
use yester::maintain::prune::{Prune, PruneOptions, Unused};
use yester::parity::{self, ParityPlace};
use yester::repo::Repository;
use yester::repo::tree::TreeReader;
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::from_repo::FromRepository;
use crate::cli::say::exit::Outcome;
use crate::cli::say::progress::{self, Display};
use crate::cli::say::{paths, units};
use crate::cli::{check, signals};

mod say;
mod steps;

use say::{Printer, Treated};
use steps::Steps;

/// How often what was healed shows more that is lost below it: a tree is not higher.
const ROUNDS: u32 = 64;

/// Find out what is damaged, and heal it
///
/// Looks as check does, says which files of which snapshots are hit and what can be healed from where, asks, and heals: by
/// parity, from other copies in the repository and this machine's cache, from the files below --from-tree, from the snapshots of
/// --from-repo. Only what is byte for byte what was lost is taken. Then what is damaged is deleted, as far as nobody needs it.
/// What cannot be healed stays marked: restore and mount give all the rest. Exit codes: 0 no damage is left, 3 something is.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Read all data too: without it, only damage that is known or shows in the trees is found
    #[arg(long)]
    read_data: bool,
    /// Look for what is lost in the files below this directory, by content: where they were, below DIR instead of what was
    /// given, and under other names (may be repeated)
    #[arg(long, value_name = "DIR")]
    from_tree: Vec<PathBuf>,
    #[command(flatten)]
    from: FromRepository,
    /// Write snapshots anew without what nobody has, and then forget the old ones
    #[arg(long)]
    drop_lost: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Only say what could be healed
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// A source, and what it is called.
pub struct Healing<'a> {
    kind: &'static str,
    name: String,
    text: String,
    source: HealSource<'a>,
}

/// What the work is done with.
struct Ward<'a> {
    context: &'a Context,
    args: &'a DoctorArgs,
    repo: &'a Arc<Repository>,
    display: &'a Display,
    task: &'a Task<'a>,
    sources: &'a [Healing<'a>],
}

/// Looks, asks, heals.
pub fn run(context: &Context, args: &DoctorArgs) -> Result<Outcome> {
    let began = Instant::now();
    let other = args.from.open(context)?.map(Arc::new);
    let repo = if args.dry_run { context.open()? } else { context.open_for(true)? };
    if other.as_ref().is_some_and(|other| other.id() == repo.id()) {
        return Err(Error::invalid("both are the same repository: --from-repo names the one to heal from, --repo the other"));
    }
    let display = Display::new(&context.global);
    let read = args.read_data.then_some(Subset::All);
    let looked = check::look(context, &repo, &display, CheckOptions { read, ..CheckOptions::default() });
    display.finish();
    let report = looked?;
    let trees = other.as_ref().map(context::trees).transpose()?;
    let sources = sources(args, other.as_ref().zip(trees.as_ref()))?;
    let task = Task::new(&display).stopped_by(&signals::stop_flag()?);
    let ward = Ward { context, args, repo: &repo, display: &display, task: &task, sources: &sources };
    ward.treat(&report, began)
}

/// Where to look: the nearest first.
fn sources<'a>(args: &DoctorArgs, other: Option<(&'a Arc<Repository>, &'a TreeReader)>) -> Result<Vec<Healing<'a>>> {
    let text = "from other copies in the repository, or this machine's cache".to_owned();
    let parity = "from the rest of their packs, by parity".to_owned();
    let mut out = vec![
        Healing { kind: "parity", name: String::new(), text: parity, source: HealSource::Parity },
        Healing { kind: "here", name: String::new(), text, source: HealSource::Here },
    ];
    for directory in &args.from_tree {
        let path = paths::absolute(directory)?;
        if !path.is_dir() {
            return Err(Error::invalid(format!("--from-tree {}: it is no directory", paths::shown(directory))));
        }
        let name = paths::shown(directory);
        out.push(Healing { kind: "tree", text: format!("from the files below {name}"), name, source: HealSource::Tree(path) });
    }
    if let Some((repo, trees)) = other {
        let name = args.from.shown();
        let text = format!("from the repository {name}");
        out.push(Healing { kind: "repository", name, text, source: HealSource::Repository(repo, trees) });
    }
    Ok(out)
}

impl Ward<'_> {
    fn doctor(&self, dry: bool) -> Doctor<'_> {
        Doctor { repo: self.repo, task: self.task, dry }
    }

    fn treat(&self, report: &CheckReport, began: Instant) -> Result<Outcome> {
        let printer = Printer { context: self.context, dry: self.args.dry_run };
        if report.is_sound() {
            printer.summary(&Treated { sound: true, ..Treated::default() }, began.elapsed())?;
            return Ok(Outcome::Done);
        }
        if let Some(e) = &report.unrecorded {
            let text = format!("there is damage, and it cannot be healed, since nothing can be written to the repository: {e}");
            return Err(Error::corrupt(text));
        }
        if self.args.dry_run || !self.args.yes {
            let (healed, loss) = self.plan(&printer)?;
            if self.args.dry_run {
                if self.args.drop_lost {
                    let mut would = Vec::new();
                    self.doctor(true).drop_lost(&loss, &mut |one| would.push(one.clone()))?;
                    would.iter().try_for_each(|one| printer.rewritten(one))?;
                }
                let done = Treated { healed, lost: loss.chunks(), snapshots_lost: loss.hit_snapshots(), ..Treated::default() };
                printer.summary(&done, began.elapsed())?;
                return Ok(self.outcome(&done, loss.unreadable.len() as u64));
            }
            if !progress::can_ask() {
                return Err(Error::corrupt("there is damage, and nothing was changed: --yes heals what can be healed"));
            }
            if !self.display.ask("yester: heal what can be healed?") {
                return Err(Error::corrupt("there is damage, and nothing was changed"));
            }
        }
        self.carry_out(&printer, began)
    }

    /// Says what can be healed from where. Changes nothing.
    fn plan(&self, printer: &Printer<'_>) -> Result<(HealTally, Loss)> {
        self.display.resume();
        let doctor = self.doctor(true);
        let mut loss = doctor.look()?;
        let mut steps = Steps::take(self.context, self.repo, self.display, true, !loss.is_empty())?;
        steps.parity = Steps::parity(self.repo, self.display, self.args.read_data, true)?.parity;
        let (found, healed) = self.round(&doctor, &mut loss)?;
        self.display.finish();
        if !steps.is_empty() || healed.chunks() > 0 {
            printer.line("can be healed:")?;
        }
        printer.steps(&steps)?;
        for (healing, tally) in self.sources.iter().zip(found) {
            if tally.chunks() > 0 || !healing.name.is_empty() {
                printer.source(healing, tally)?;
            }
        }
        if !loss.is_empty() || !loss.unreadable.is_empty() {
            printer.line("cannot be healed:")?;
            printer.lost(&loss)?;
        }
        Ok((healed, loss))
    }

    /// Asks every source once.
    fn round(&self, doctor: &Doctor<'_>, loss: &mut Loss) -> Result<(Vec<HealTally>, HealTally)> {
        let (mut found, mut sum) = (Vec::new(), HealTally::default());
        for healing in self.sources {
            let tally = doctor.heal(loss, &healing.source)?;
            (sum.data, sum.pages) = (sum.data + tally.data, sum.pages + tally.pages);
            found.push(tally);
        }
        Ok((found, sum))
    }

    fn carry_out(&self, printer: &Printer<'_>, began: Instant) -> Result<Outcome> {
        self.display.resume();
        let doctor = self.doctor(false);
        let mut done = Treated::default();
        let missing = !doctor.look()?.is_empty();
        let steps = Steps::take(self.context, self.repo, self.display, false, missing)?;
        let mut found = vec![HealTally::default(); self.sources.len()];
        let mut loss = doctor.look()?;
        for _ in 0..ROUNDS {
            let (round, healed) = self.round(&doctor, &mut loss)?;
            for (sum, tally) in found.iter_mut().zip(round) {
                (sum.data, sum.pages) = (sum.data + tally.data, sum.pages + tally.pages);
            }
            // What is below a page shows when the page is there again.
            loss = doctor.look()?;
            if healed.chunks() == 0 || loss.is_empty() {
                break;
            }
        }
        self.display.finish();
        if !steps.is_empty() || found.iter().any(|tally| tally.chunks() > 0) {
            printer.line("healed:")?;
        }
        printer.steps(&steps)?;
        for (healing, tally) in self.sources.iter().zip(&found).filter(|(_, tally)| tally.chunks() > 0) {
            printer.source(healing, *tally)?;
            (done.healed.data, done.healed.pages) = (done.healed.data + tally.data, done.healed.pages + tally.pages);
        }
        if self.args.drop_lost && !(loss.is_empty() && loss.unreadable.is_empty()) {
            let mut rewritten = Vec::new();
            let dropped = doctor.drop_lost(&loss, &mut |one| rewritten.push(one.clone()));
            self.display.finish();
            rewritten.iter().try_for_each(|one| printer.rewritten(one))?;
            dropped?;
            done.rewritten = rewritten.len() as u64;
            loss = doctor.look()?;
        }
        (done.lost, done.snapshots_lost) = (loss.chunks(), loss.hit_snapshots());
        self.end(printer, done, &loss, began)
    }

    /// Deletes what is damaged, as far as nobody needs it, and looks again.
    fn end(&self, printer: &Printer<'_>, mut done: Treated, loss: &Loss, began: Instant) -> Result<Outcome> {
        let mut waits = None;
        if loss.is_empty() && loss.unreadable.is_empty() {
            self.display.resume();
            let pruned = self.prune();
            self.display.finish();
            match pruned {
                Ok(()) => done.pruned = true,
                Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
                Err(e) => waits = Some(e),
            }
        }
        if done.pruned {
            self.display.resume();
            let renewed = Steps::parity(self.repo, self.display, self.args.read_data, false);
            self.display.finish();
            printer.steps(&renewed?)?;
        }
        self.display.resume();
        let looked = check::look(self.context, self.repo, self.display, CheckOptions::default());
        self.display.finish();
        let report = looked?;
        done.sound = report.is_sound();
        printer.summary(&done, began.elapsed())?;
        let without = parity::uncovered(&ParityPlace::of(self.repo))?;
        if done.sound && without > 0 {
            let packs = units::counted(without, "pack has", "packs have");
            printer.line(&format!("{packs} no parity: yester parity add makes it"))?;
        }
        let only_gone = report.damage == report.gone.len() as u64 && report.hits == 0;
        match waits {
            _ if done.sound => Ok(Outcome::Done),
            _ if only_gone => {
                Err(Error::new(ErrorKind::WentBack, "what is damaged is healed, but snapshots are gone (named above)"))
            }
            Some(e) => Ok(Outcome::Partial(format!(
                "everything that was lost is there again; what is damaged could not be deleted yet, yester prune does that: {e}"
            ))),
            None => Ok(self.outcome(&done, loss.unreadable.len() as u64)),
        }
    }

    fn prune(&self) -> Result<()> {
        let options = PruneOptions {
            max_unused: Unused::Unlimited,
            state: self.context.places.state().map(std::path::Path::to_owned),
            ..PruneOptions::default()
        };
        Prune::prepare(self.repo, &options, self.task)?.carry_out().map(drop)
    }

    /// How it ended, when not everything is there.
    fn outcome(&self, done: &Treated, unreadable: u64) -> Outcome {
        if done.lost == 0 && unreadable == 0 {
            return match self.args.dry_run {
                true => Outcome::Done,
                false => Outcome::Partial("damage is left that is named above, with what helps".to_owned()),
            };
        }
        let chunks = units::counted(done.lost, "chunk", "chunks");
        let snapshots = units::counted(done.snapshots_lost + unreadable, "snapshot", "snapshots");
        Outcome::Partial(format!(
            "{chunks} of {snapshots} cannot be healed from what was looked at (the files are named above; --from-tree and \
             --from-repo name more to look at; yester doctor --drop-lost goes on without what is lost)"
        ))
    }
}
