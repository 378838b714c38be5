//! `restore --set`: guards, completeness, paths, buckets, streams into their commands, steps, in this order.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use yester::jobs::back::Back;
use yester::jobs::config::check::{self, Programs};
use yester::jobs::config::keys::{BucketKeys, Set, StreamKeys, When};
use yester::jobs::groups::GroupMember;
use yester::jobs::guards::{self, ServiceGuard};
use yester::jobs::hooks::HookRun;
use yester::jobs::rewrites as jobs_rewrites;
use yester::jobs::runs::{self, Logged};
use yester::model::{GroupStep, Kind, Part, Run, Snapshot, escape};
use yester::repo::Repository;
use yester::repo::snapshots;
use yester::repo::tree::TreeReader;
use yester::restore::staged::{Staged, all};
use yester::restore::{BeforeExchange, RestoreOptions, RestoreReport, RestoreRequest, restore};
use yester::sys::{network, process};
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::{configured, select};
use crate::cli::restore::{self as single, RestoreArgs};
use crate::cli::restore::{buckets, next_steps, report, rewrites, staged};
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, note};
use crate::cli::say::paths;
use crate::cli::say::progress::Display;
use crate::cli::{gone, signals};

/// The word for all paths of a set.
const PATHS: &str = "paths";

/// What a restore of a set does.
pub struct SetRestore<'a> {
    pub context: &'a Context,
    pub args: &'a RestoreArgs,
    pub snapshot: Arc<Snapshot>,
    set: Set,
    options: RestoreOptions,
    pub reader: Arc<TreeReader>,
    /// All of them exchange, or none.
    together: Option<Arc<GroupMember>>,
    /// It goes back to where it was: streams go into their commands, and steps are run.
    in_place: bool,
}

/// Restores a set.
///
/// As a part of a restore in which all hosts exchange or none, it is `together` with others.
pub fn run(context: &Context, args: &RestoreArgs, name: &str, together: Option<&Arc<GroupMember>>) -> Result<Outcome> {
    let began = Instant::now();
    let repo = context.open()?;
    gone::warn(context, &repo)?;
    let snapshot = Arc::new(chosen(context, &repo, args, name)?);
    let mut set = set_of(context, &snapshot, name)?;
    buckets::turn(&mut set.buckets, &args.bucket)?;
    let refuse = guards_of(&set, args)?;
    if args.next_steps {
        let values = args.rewrites.placeholders(Some(&set.restore), &snapshot)?;
        return next_steps::show(context, name, &set, &snapshot, &values).map(|()| Outcome::Done);
    }
    let target = args.target()?;
    let in_place = target == std::path::Path::new("/");
    let mut options = args.options(context)?;
    let of_set = Some(&set.restore).filter(|_| in_place);
    args.rewrites.apply(of_set, &snapshot, args.part.is_empty(), &mut options)?;
    let (reader, together) = (Arc::new(context::trees(&repo)?), together.cloned());
    let way = SetRestore { context, args, snapshot, set, options, reader, together, in_place };
    way.is_possible()?;
    if way.in_place || !args.refuse_while.is_empty() {
        guards::ask(&refuse, &args.even_while_alive)?;
    }
    let display = Arc::new(Display::new(&context.global));
    let logged = Arc::new(Logged::new(display.clone()));
    let mut run = runs::begin(Run::RESTORE);
    (run.set, run.snapshot) = (name.as_bytes().to_vec(), Some(way.snapshot.id));
    run.target = paths::bytes(&target).to_vec();
    if !args.dry_run {
        context.announce(&display, &run);
    }
    let mut steps = Vec::new();
    let result = way.carry_out(&display, &logged, &mut steps);
    display.finish();
    let (report, failure) = match &result {
        Ok((report, failure)) => (report.as_ref(), failure.clone()),
        Err(e) => {
            runs::failed(&mut run, e);
            (None, None)
        }
    };
    if let Some(report) = report {
        (run.bytes, run.errors) = (report.bytes, report.errors);
    }
    if let Some(failure) = &failure {
        (run.state, run.message) = (Run::INCOMPLETE, failure.clone().into_bytes());
    }
    (run.steps, run.log) = (runs::steps(steps), logged.text());
    run.rewrites = jobs_rewrites::recorded(&way.options, &way.snapshot);
    if !args.dry_run {
        let _ = yester::repo::damaged::record(&repo, &way.reader.chunks().found(), "yester restore", context::now());
        // With a token that may only read, nothing is recorded.
        let _ = runs::end(&repo, run);
    }
    let (report, failure) = result?;
    way.tell(report.as_ref(), began)?;
    Ok(failure.map_or(Outcome::Done, Outcome::Partial))
}

/// What must not be alive: as the set has it, and as it was typed.
fn guards_of(set: &Set, args: &RestoreArgs) -> Result<Vec<ServiceGuard>> {
    let of_set = set.restore.refuse_while.iter().map(|guard| guard.parse::<ServiceGuard>().map_err(Error::invalid));
    of_set.chain(args.refuse_while.iter().cloned().map(Ok)).collect()
}

/// The snapshot that was named, else the newest of the set; one of a key that only writes if there is no other.
fn chosen(context: &Context, repo: &Arc<Repository>, args: &RestoreArgs, name: &str) -> Result<Snapshot> {
    match args.specs.as_slice() {
        [] => {
            let filter = args.filters.filter()?;
            let of_set = |s: &Snapshot| s.composition.set.as_ref().is_some_and(|set| set.name == name.as_bytes());
            let all = snapshots::list(repo)?;
            let passing = all.into_iter().filter(|snapshot| of_set(snapshot) && filter.matches(snapshot));
            let passing: Vec<Snapshot> = passing.collect();
            // Who stole a key that only writes may say of a snapshot that it is of this set.
            let newest = passing.iter().max_by_key(|snapshot| snapshot.writer.is_none()).cloned();
            if let (Some(chosen), Some(last)) = (&newest, passing.last())
                && chosen.id != last.id
                && !context.global.quiet
            {
                let text = "is newer, and of a key that only writes: it is restored if it is named";
                note(&format!("snapshot {} {text}", select::described(last)));
            }
            newest.ok_or_else(|| {
                let text = format!("there is no snapshot of the set {}: yester snapshots lists them", escape(name.as_bytes()));
                Error::new(ErrorKind::NotFound, text)
            })
        }
        [one] => {
            let spec = select::Spec::parse(one)?;
            if spec.path.is_some() {
                return Err(Error::invalid("a set is restored from a snapshot, not from a path in it: choose parts with --part"));
            }
            select::snapshot(context, repo, &spec.snapshot, &args.filters)
        }
        _ => Err(Error::invalid("a set is restored from one snapshot")),
    }
}

/// The set as the configuration file has it, else as the snapshot has it: the host may be lost. What a key that only writes
/// stored runs no commands.
fn set_of(context: &Context, snapshot: &Snapshot, name: &str) -> Result<Set> {
    if let Some(set) = context.set_to_restore(name)? {
        return Ok(set.clone());
    }
    let Some(stored) = snapshot.composition.set.as_ref().filter(|set| set.name == name.as_bytes()) else {
        let text = format!("snapshot {} is of no set {}", snapshot.id.short(), escape(name.as_bytes()));
        return Err(Error::new(ErrorKind::NotFound, text));
    };
    if let Some(writer) = snapshot.writer {
        let text = format!(
            "snapshot {} was taken with a key that only writes ({}), and whoever stole that may have written the commands of the \
             set {} in it: write the set into the configuration file (yester snapshots --json shows it as set_text)",
            snapshot.id.short(),
            writer.short(),
            escape(name.as_bytes()),
        );
        return Err(Error::new(ErrorKind::Key, text));
    }
    let wrong = |e: &dyn std::fmt::Display| {
        Error::invalid(format!("the set {} of snapshot {}: {e}", escape(name.as_bytes()), snapshot.id.short()))
    };
    let set: Set = toml::from_str(&String::from_utf8_lossy(&stored.text)).map_err(|e| wrong(&e.message()))?;
    match check::unfit(&set, Programs(&configured::directories())).into_iter().next() {
        Some((key, message)) => Err(wrong(&format!("{}: {message}", key.join(".")))),
        None => Ok(set),
    }
}

impl SetRestore<'_> {
    fn wants(&self, part: &str) -> bool {
        self.args.part.is_empty() || self.args.part.iter().any(|wanted| wanted == part)
    }

    /// The streams that go into commands.
    fn streams(&self) -> impl Iterator<Item = &StreamKeys> {
        let wanted = self.set.streams.iter().filter(|stream| self.wants(&stream.at));
        wanted.filter(|stream| self.in_place && !stream.restore.is_empty())
    }

    /// The buckets that go back to where they were.
    pub fn buckets(&self) -> Vec<BucketKeys> {
        self.set.buckets.iter().filter(|bucket| self.in_place && self.wants(&bucket.at)).cloned().collect()
    }

    /// The places of streams and buckets that become files, and those of all others.
    fn places(&self) -> (Vec<&str>, Vec<&str>) {
        let streams = self.set.streams.iter().map(|stream| (stream.at.as_str(), self.in_place && !stream.restore.is_empty()));
        let buckets = self.set.buckets.iter().map(|bucket| (bucket.at.as_str(), self.in_place));
        let is_file = |(at, elsewhere): &(&str, bool)| !elsewhere && self.wants(at);
        let (files, others): (Vec<_>, Vec<_>) = streams.chain(buckets).partition(is_file);
        (files.into_iter().map(|(at, _)| at).collect(), others.into_iter().map(|(at, _)| at).collect())
    }

    /// Says what was done, and what differs now, if that is wanted.
    fn tell(&self, report: Option<&RestoreReport>, began: Instant) -> Result<()> {
        rewrites::show(self.context, &self.options)?;
        if let Some(report) = report {
            single::tell(self.context, report, began, self.args.dry_run)?;
        }
        if self.args.report { report::tell_set(self) } else { Ok(()) }
    }

    /// The places of streams and buckets that are not among the restored files.
    pub fn elsewhere(&self) -> Vec<&str> {
        self.places().1
    }

    /// Refuses what is no part, and a snapshot in which a wanted part failed.
    fn is_possible(&self) -> Result<()> {
        let (files, others) = self.places();
        let parts: Vec<&str> = [PATHS].into_iter().chain(files).chain(others).collect();
        if let Some(unknown) = self.args.part.iter().find(|part| !parts.contains(&part.as_str())) {
            let text = format!("{} is no part of the set: there are {}", escape(unknown.as_bytes()), parts.join(", "));
            return Err(Error::invalid(text));
        }
        let mut failed = self.snapshot.composition.parts.iter().filter(|part| part.state == Part::FAILED);
        if let Some(part) = failed.find(|part| self.wants(&String::from_utf8_lossy(&part.path))) {
            let id = self.snapshot.id.short();
            let text = format!(
                "nothing was touched: {} failed when snapshot {id} was taken, and is not in it: choose the other parts with \
                 --part, or an older snapshot",
                escape(&part.path)
            );
            return Err(Error::new(ErrorKind::NotFound, text));
        }
        Ok(())
    }

    /// Does everything, in order; what fails stops what comes after it, and is told.
    fn carry_out(
        &self,
        display: &Arc<Display>,
        logged: &Arc<Logged>,
        steps: &mut Vec<HookRun>,
    ) -> Result<(Option<RestoreReport>, Option<String>)> {
        let stop = signals::stop_flag()?;
        let task = Task::new(&**logged).stopped_by(&stop);
        let (report, mut staged) = self.files(display, &task)?;
        if let Some(member) = self.together.as_ref().filter(|_| staged.is_none()) {
            is_ready(member)?;
        }
        let back = Back { task: &task, variables: self.variables() };
        let mut failure = report.as_ref().and_then(|report| match single::outcome(report) {
            Outcome::Partial(text) => Some(format!("{text}: no command was run")),
            Outcome::Done => None,
        });
        // With others, what is not complete is taken back like what failed: they do that as well.
        if failure.is_none() || self.together.is_some() {
            let done = match failure.take() {
                None => self.beyond(&back, (display, logged), steps).and_then(|failure| self.with_others(failure)),
                failure => Ok(failure),
            };
            if !matches!(done, Ok(None))
                && let Some(staged) = staged.take()
            {
                take_back(staged)?;
                let taken_back = "what was exchanged was taken back";
                let done = done.map_err(|e| e.context(taken_back))?;
                return Ok((report, done.map(|text| format!("{text}; {taken_back}"))));
            }
            failure = done?;
            if failure.is_none() {
                failure = self.steps(&back, display, steps)?;
            }
        }
        if let Some(mut staged) = staged {
            staged.keep()?;
        }
        Ok((report, failure))
    }

    /// Says that all was exchanged, and waits until all others have said so; an error if one of them did not.
    fn with_others(&self, failure: Option<String>) -> Result<Option<String>> {
        let Some(member) = self.together.as_ref().filter(|_| failure.is_none()) else { return Ok(failure) };
        let verdict = member.exchanged()?;
        match verdict.goes_on {
            true => Ok(None),
            false => {
                Err(Error::new(ErrorKind::Io, format!("the restore of the group was given up: {}", escape(&verdict.message))))
            }
        }
    }

    /// What is exchanged with files, or not at all: buckets and streams. Answers which one failed, and why.
    fn beyond(
        &self,
        back: &Back<'_>,
        (display, logged): (&Arc<Display>, &Arc<Logged>),
        steps: &mut Vec<HookRun>,
    ) -> Result<Option<String>> {
        match buckets::run(self, display, logged, steps)? {
            None => self.pour(back, display, steps),
            failure => Ok(failure),
        }
    }

    /// Streams into their commands. Answers which one failed, and why.
    fn pour(&self, back: &Back<'_>, display: &Display, steps: &mut Vec<HookRun>) -> Result<Option<String>> {
        for stream in self.streams() {
            if !self.announce("stream", &stream.at, &stream.restore, display)? {
                continue;
            }
            let (node, _) = self.reader.walk_to(&self.snapshot.root, &names(stream.at.as_bytes()))?;
            let Kind::File(content) = &node.kind else {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("{} is no file in the snapshot", escape(stream.at.as_bytes())),
                ));
            };
            steps.push(back.pour(&stream.at, &stream.restore, &self.reader, content));
            if let Some(failure) = steps.last().and_then(failure) {
                return Ok(Some(failure));
            }
        }
        Ok(None)
    }

    /// Steps, in order. Answers which one failed, and why.
    fn steps(&self, back: &Back<'_>, display: &Display, steps: &mut Vec<HookRun>) -> Result<Option<String>> {
        let changed = self.snapshot.host != process::host_name();
        let all = self.args.part.is_empty() && self.in_place;
        for step in self.set.restore.steps.iter().filter(|step| all && (changed || step.when != Some(When::HostChanged))) {
            if !self.announce("step", &step.name, &step.command, display)? {
                continue;
            }
            steps.push(back.step(&step.name, &step.command, step.timeout.as_deref()));
            if let Some(failure) = steps.last().and_then(failure) {
                return Ok(Some(failure));
            }
        }
        Ok(None)
    }

    /// Restores what are files: to where they were, or all of them below the target.
    fn files(&self, display: &Arc<Display>, task: &Task<'_>) -> Result<(Option<RestoreReport>, Option<Staged>)> {
        let mut options = self.options.clone();
        options.confirm = single::confirm(display);
        if let Some(member) = self.together.clone() {
            options.before_exchange = Some(BeforeExchange::new(move || is_ready(&member)));
        }
        let (files, others) = self.places();
        let with_paths = self.wants(PATHS) && !self.set.paths.is_empty();
        if !with_paths && files.is_empty() {
            return Ok((None, None));
        }
        let is_there = |path: &[u8]| self.reader.walk_to(&self.snapshot.root, &names(path)).is_ok();
        let unwanted = others.into_iter().filter(|at| is_there(at.as_bytes()));
        let mut sources = Vec::new();
        if self.in_place {
            let of_set = self.set.paths.iter().map(|path| paths::bytes(path)).filter(|_| with_paths);
            let wanted = of_set.chain(files.iter().map(|at| at.as_bytes())).filter(|path| is_there(path));
            sources.extend(wanted.map(|path| (self.snapshot.clone(), names(path).into_iter().map(<[u8]>::to_vec).collect())));
            let below = |at: &&str| self.set.paths.iter().any(|path| std::path::Path::new(at).starts_with(path));
            options.exclude.extend(unwanted.filter(below).filter(|_| with_paths).map(literally));
        } else {
            sources.push((self.snapshot.clone(), Vec::new()));
            match with_paths {
                true => options.exclude.extend(unwanted.map(literally)),
                false => options.include.extend(files.into_iter().map(literally)),
            }
        }
        let request = RestoreRequest { sources, target: self.args.target()? };
        if self.args.staged.staged {
            let set = self.snapshot.composition.set.as_ref().map(|set| set.name.as_slice()).unwrap_or_default();
            let (report, staged) = all::restore(&self.reader, &request, &options, set, task)?;
            return Ok((Some(report), staged));
        }
        staged::settle(&request, &options, task.observer)?;
        restore(&self.reader, &request, &options, task).map(|report| (Some(report), None))
    }

    /// What commands are told.
    fn variables(&self) -> Vec<(OsString, OsString)> {
        let text = |bytes: &[u8]| OsString::from(String::from_utf8_lossy(bytes).into_owned());
        let set = self.snapshot.composition.set.as_ref().map(|set| text(&set.name)).unwrap_or_default();
        let all = [
            ("YESTER_SNAPSHOT", self.snapshot.id.to_string().into()),
            ("YESTER_SET", set),
            ("YESTER_HOST", text(&process::host_name())),
            ("YESTER_FROM_HOST", text(&self.snapshot.host)),
            ("YESTER_ADDRESS", network::addresses().first().map(|address| address.to_string().into()).unwrap_or_default()),
            ("YESTER_FROM_ADDRESS", self.snapshot.composition.addresses.first().map(|it| text(it)).unwrap_or_default()),
            ("YESTER_TARGET", self.args.target().unwrap_or_default().into_os_string()),
        ];
        all.into_iter().map(|(name, value)| (OsString::from(name), value)).collect()
    }

    /// In a dry run, says that a command would be run, and answers false.
    fn announce(&self, kind: &'static str, name: &str, command: &[String], display: &Display) -> Result<bool> {
        if !self.args.dry_run {
            return Ok(true);
        }
        display.finish();
        let mut out = Output::new();
        match self.context.global.json {
            true => out.json(&Announced { message_type: "step", kind, name, command, dry_run: true })?,
            false if self.context.global.quiet => {}
            false => {
                let words: Vec<String> = command.iter().map(|word| escape(word.as_bytes())).collect();
                out.line(&format!("would run for {kind} {}: {}", escape(name.as_bytes()), words.join(" ")))?;
            }
        }
        out.finish()?;
        Ok(false)
    }
}

#[derive(Serialize)]
struct Announced<'a> {
    message_type: &'static str,
    kind: &'static str,
    name: &'a str,
    command: &'a [String],
    dry_run: bool,
}

/// Says that all is staged and verified, and waits until all others have said so.
fn is_ready(member: &GroupMember) -> Result<()> {
    member.say(GroupStep::Frozen)?;
    member.wait_for(GroupStep::Barrier)
}

/// Takes back what was exchanged, since a command failed that belongs to it.
fn take_back(mut staged: Staged) -> Result<()> {
    staged.roll_back()?;
    staged.discard()
}

fn failure(step: &HookRun) -> Option<String> {
    let failure = step.failure.as_ref()?;
    Some(format!("{} failed: {failure}; what comes after it was not run", escape(step.name.as_bytes())))
}

/// The names of an absolute path.
pub fn names(path: &[u8]) -> Vec<&[u8]> {
    path.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect()
}

/// A pattern for this path and nothing else.
fn literally(path: &str) -> String {
    path.chars().flat_map(|c| if "*?[]{}!\\".contains(c) { vec!['\\', c] } else { vec![c] }).collect()
}
