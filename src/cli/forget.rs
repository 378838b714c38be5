//! `forget`: which snapshots stay, which go, and why.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;

use clap::Args;
use comfy_table::{Table, presets};
use jiff::tz::TimeZone;
use serde::Serialize;
use yester::jobs::config::keys::{Amount, Keep as Rule, Set};
use yester::maintain::forget::{self, ForgetOptions, Series};
use yester::maintain::retention::{GroupBy, GroupStandings, KeepCount, Policy, Within};
use yester::model::{EXPECTED, Remarks, Snapshot, SnapshotId, escape};
use yester::observe::{Event, Observer};
use yester::repo::signs;
use yester::repo::snapshots::{self, SnapshotFilter};
use yester::repo::times::{self, Received};
use yester::sys::process;
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::configured;
use crate::cli::given::select::{self, Filters};
use crate::cli::prune::How;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{Output, exact, lossy};
use crate::cli::say::progress::Display;
use crate::cli::say::units;
use crate::cli::{basket, gone, prune};

/// Forget snapshots, by their names or by what is to be kept
///
/// The given ones go, or in every series those that the --keep options do not keep. Nothing is deleted until the next
/// prune; --prune does that as well.
#[derive(Debug, Args)]
pub struct ForgetArgs {
    /// Which snapshots to forget
    #[arg(value_name = "SNAP", conflicts_with = "policy")]
    names: Vec<String>,
    #[command(flatten)]
    keep: KeepArgs,
    /// Keep what this set of the configuration file says
    #[arg(long, value_name = "NAME", conflicts_with_all = ["names", "policy"])]
    set: Option<String>,
    /// What snapshots of one series have in common: host, paths, tags, token (of a server: who put them);
    /// empty: all snapshots are one series
    #[arg(short = 'g', long, value_name = "WHAT[,WHAT…]", default_value = "host,paths,token")]
    group_by: GroupBy,
    #[command(flatten)]
    filters: Filters,
    /// Accept that snapshots which nobody forgot are gone
    #[arg(long, conflicts_with_all = ["names", "policy", "prune"], help_heading = WHAT)]
    accept_gone: bool,
    /// Let prune leave them so long: 7d [default: as configured, or 0]
    #[arg(long, value_name = "SPAN", value_parser = units::parse_grace, help_heading = WHAT)]
    grace: Option<u64>,
    /// Take back that these were forgotten, before prune removes them
    #[arg(long, conflicts_with_all = ["policy", "set", "prune", "accept_gone", "grace"], help_heading = WHAT)]
    undo: bool,
    /// Delete afterwards what no snapshot needs
    #[arg(long, help_heading = WHAT)]
    prune: bool,
    #[command(flatten)]
    how: How,
    /// Let a policy take all snapshots of a series, or names all there are
    #[arg(long, help_heading = WHAT)]
    unsafe_allow_remove_all: bool,
    /// Only say what would be done
    #[arg(short = 'n', long, help_heading = WHAT)]
    dry_run: bool,
}

/// What is neither about what stays nor a filter stands among the options without a heading.
const WHAT: Option<&str> = None;

/// What stays of every series.
#[derive(Debug, Clone, Default, Args)]
#[group(id = "policy", multiple = true)]
#[command(next_help_heading = "What stays (N: a number, or unlimited)")]
struct KeepArgs {
    /// The N newest
    #[arg(short = 'l', long, value_name = "N")]
    keep_last: Option<KeepCount>,
    /// Everything this close to the newest: 30d, 1y6m, 36h
    #[arg(long, value_name = "SPAN")]
    keep_within: Option<Within>,
    /// The newest of each of the last N hours that have any
    #[arg(long, value_name = "N")]
    keep_hourly: Option<KeepCount>,
    /// The newest of each of the last N days that have any
    #[arg(short = 'd', long, value_name = "N")]
    keep_daily: Option<KeepCount>,
    /// The newest of each of the last N weeks that have any
    #[arg(short = 'w', long, value_name = "N")]
    keep_weekly: Option<KeepCount>,
    /// The newest of each of the last N months that have any
    #[arg(short = 'm', long, value_name = "N")]
    keep_monthly: Option<KeepCount>,
    /// The newest of each of the last N years that have any
    #[arg(short = 'y', long, value_name = "N")]
    keep_yearly: Option<KeepCount>,
    /// The newest of each hour this close to the newest
    #[arg(long, value_name = "SPAN")]
    keep_within_hourly: Option<Within>,
    /// The newest of each day this close to the newest
    #[arg(long, value_name = "SPAN")]
    keep_within_daily: Option<Within>,
    /// The newest of each week this close to the newest
    #[arg(long, value_name = "SPAN")]
    keep_within_weekly: Option<Within>,
    /// The newest of each month this close to the newest
    #[arg(long, value_name = "SPAN")]
    keep_within_monthly: Option<Within>,
    /// The newest of each year this close to the newest
    #[arg(long, value_name = "SPAN")]
    keep_within_yearly: Option<Within>,
    /// Everything with all these tags (may be repeated)
    #[arg(long, value_name = "TAG[,TAG…]")]
    keep_tag: Vec<OsString>,
}

impl KeepArgs {
    /// What the configuration file says of a set.
    fn of_set(set: &Set) -> Result<Self> {
        let mut keep = KeepArgs::default();
        for (rule, Amount(amount)) in &set.keep {
            let count = || amount.parse::<KeepCount>().map(Some).map_err(Error::invalid);
            match rule {
                Rule::Last => keep.keep_last = count()?,
                Rule::Hourly => keep.keep_hourly = count()?,
                Rule::Daily => keep.keep_daily = count()?,
                Rule::Weekly => keep.keep_weekly = count()?,
                Rule::Monthly => keep.keep_monthly = count()?,
                Rule::Yearly => keep.keep_yearly = count()?,
                Rule::Within => keep.keep_within = Some(amount.parse().map_err(Error::invalid)?),
            }
        }
        Ok(keep)
    }

    fn policy(&self, group_by: GroupBy) -> Policy {
        let count = |given: Option<KeepCount>| given.unwrap_or_default();
        Policy {
            last: count(self.keep_last),
            hourly: count(self.keep_hourly),
            daily: count(self.keep_daily),
            weekly: count(self.keep_weekly),
            monthly: count(self.keep_monthly),
            yearly: count(self.keep_yearly),
            within: self.keep_within.clone(),
            within_each: [
                self.keep_within_hourly.clone(),
                self.keep_within_daily.clone(),
                self.keep_within_weekly.clone(),
                self.keep_within_monthly.clone(),
                self.keep_within_yearly.clone(),
            ],
            group_by,
            received: Default::default(),
            pinned: Default::default(),
            turned: Default::default(),
            groups: Default::default(),
            tags: self.keep_tag.iter().map(|set| select::tags(set)).collect(),
        }
    }
}

impl ForgetArgs {
    /// The set that it is of.
    pub fn set(&self) -> Option<&str> {
        self.set.as_deref()
    }

    /// What is kept, and of which snapshots: as it was typed, or as the set has it.
    fn rules(&self, context: &Context) -> Result<(KeepArgs, SnapshotFilter)> {
        let mut filter = self.filters.filter()?;
        let Some(name) = &self.set else { return Ok((self.keep.clone(), filter)) };
        let set = context.set(name)?;
        if set.keep.is_empty() {
            return Err(Error::invalid(format!("the set {name} says nothing of what is kept: give it a table keep")));
        }
        let host = set.host.as_ref().map_or_else(process::host_name, |host| host.clone().into_bytes());
        filter.hosts = vec![host];
        filter.paths.extend(configured::inputs(set, &[]).iter().map(|input| input.stored().to_vec()));
        Ok((KeepArgs::of_set(set)?, filter))
    }

    /// Why, for the marks: what was asked for.
    fn why(&self, keep: &KeepArgs) -> Vec<u8> {
        if !self.names.is_empty() {
            return b"named".to_vec();
        }
        let counts = [
            ("last", keep.keep_last),
            ("hourly", keep.keep_hourly),
            ("daily", keep.keep_daily),
            ("weekly", keep.keep_weekly),
            ("monthly", keep.keep_monthly),
            ("yearly", keep.keep_yearly),
        ];
        let mut out: Vec<String> =
            counts.into_iter().filter_map(|(name, count)| count.map(|count| format!("--keep-{name} {count}"))).collect();
        out.extend(keep.keep_within.iter().map(|within| format!("--keep-within {within}")));
        out.extend(keep.keep_tag.iter().map(|set| format!("--keep-tag {}", set.to_string_lossy())));
        format!("policy: {}", out.join(" ")).into_bytes()
    }
}

/// Forgets.
pub fn run(context: &Context, args: &ForgetArgs) -> Result<Outcome> {
    let (keep, filter) = args.rules(context)?;
    let repo = context.open_for(!args.dry_run)?;
    if args.undo {
        return basket::undo(context, &repo, &args.names, args.dry_run);
    }
    let grace = args.grace.map_or_else(|| context.grace(), Ok)?;
    let snapshots::SnapshotList { snapshots: all, damaged, remarks, unread_annotations, received, .. } =
        snapshots::find_all(&repo)?;
    let (damaged, now): (Vec<Error>, _) = (damaged.into_iter().map(|(_, e)| e).collect(), context::now());
    let pinned = remarks.iter().filter(|(_, said)| said.pin.holds(now)).map(|(id, _)| *id).collect();
    if args.accept_gone {
        return gone::accept(context, &repo, args.dry_run);
    }
    let display = Display::new(&context.global);
    let lost = gone::seen(context, &repo)?;
    let mut out = Output::new();
    let present = snapshots::names(&repo)?;
    let (going, series) = match args.names.is_empty() {
        true => {
            pins_are_known(&unread_annotations)?;
            let (turned, groups) = (turned(&all, &remarks), GroupStandings::read(&repo, now)?);
            let known = Policy { received: received.clone(), pinned, turned, groups, ..keep.policy(args.group_by) };
            by_policy(args, known, &all, &filter)?
        }
        false => {
            let ids = forget::by_names(&repo, &all, &args.names, &filter, &lost, args.unsafe_allow_remove_all)?;
            none_is_pinned(&ids, &pinned)?;
            let series = touched(&all, &ids, &received);
            (ids, series)
        }
    };
    let unreadable: Vec<&SnapshotId> = going.iter().filter(|id| all.iter().all(|s| s.id != **id)).collect();
    show(&mut out, context, &series, (&received, times::differ(&received, &all)), &unreadable)?;
    warn(&series, &display);
    // The display writes there, too.
    out.finish()?;
    let forgotten = match args.dry_run {
        true => going.clone(),
        false => forget::forget(&repo, &going, &ForgetOptions { why: args.why(&keep), grace }, &Task::new(&display))?,
    };
    display.finish();
    let mut out = Output::new();
    let failed = going.len() - forgotten.len();
    // Of all that there are, whether or not a policy looked at them, and those that cannot be read.
    let unread =
        damaged.len() - forgotten.iter().filter(|id| unreadable.contains(id) && present.contains(id)).count().min(damaged.len());
    let staying = all.iter().filter(|s| !forgotten.contains(&s.id)).count() + unread;
    summary(&mut out, context, &forgotten, (staying as u64, failed as u64), args.dry_run)?;
    out.finish()?;
    let mut pruned = Outcome::Done;
    if args.prune && forgotten.len() == going.len() {
        let options = args.how.options(context);
        let options = if args.dry_run { prune::without(options, &going) } else { options };
        pruned = prune::prune(context, &repo, &options, args.dry_run)?;
    }
    // A policy cannot tell what it would make of a snapshot that cannot be read.
    let unread = if args.names.is_empty() { damaged.len() } else { 0 };
    Ok(outcome(pruned, failed, damaged.first().filter(|_| unread > 0).map(|first| (unread, first))))
}

/// How it ended: as the prune after it, if all could be forgotten, and all could be read that a policy is for.
fn outcome(pruned: Outcome, failed: usize, unread: Option<(usize, &Error)>) -> Outcome {
    if failed > 0 {
        let count = units::counted(failed as u64, "snapshot", "snapshots");
        return Outcome::Partial(format!("{count} could not be forgotten"));
    }
    let Some((unread, first)) = unread else { return pruned };
    let count = units::counted(unread as u64, "snapshot", "snapshots");
    Outcome::Partial(format!("{count} cannot be read and stayed (forget them by their ids): {first}"))
}

/// The snapshots that show signs of a source that was turned over, and nobody has said that they are as they should be.
fn turned(all: &[Snapshot], remarks: &HashMap<SnapshotId, Remarks>) -> HashSet<SnapshotId> {
    let expected = |id: &SnapshotId| remarks.get(id).is_some_and(|said| said.expected);
    signs::all(all).into_keys().filter(|id| !expected(id)).collect()
}

/// Refuses to forget what is pinned.
fn none_is_pinned(ids: &[SnapshotId], pinned: &HashSet<SnapshotId>) -> Result<()> {
    let Some(id) = ids.iter().find(|id| pinned.contains(id)) else { return Ok(()) };
    let id = id.short();
    Err(Error::invalid(format!("snapshot {id} is pinned (yester pin --remove {id} takes the pin away)")))
}

/// An annotation that cannot be read may be a pin: then no policy forgets.
fn pins_are_known(unread: &[(SnapshotId, Error)]) -> Result<()> {
    let Some((_, e)) = unread.first() else { return Ok(()) };
    let next = match e.kind() {
        ErrorKind::Unsupported => "use the newer yester",
        _ => "yester repair objects gives it up",
    };
    Err(Error::new(e.kind(), format!("no policy forgets while this may be a pin: {e} ({next})")))
}

/// What the policy lets go, and all series that it looked at.
fn by_policy<'a>(
    args: &ForgetArgs,
    policy: Policy,
    all: &'a [Snapshot],
    filter: &SnapshotFilter,
) -> Result<(Vec<SnapshotId>, Vec<Series<'a>>)> {
    let zone = TimeZone::system();
    let series = forget::by_policy(all, filter, &policy, &zone, context::now(), args.unsafe_allow_remove_all)?;
    Ok((series.iter().flat_map(|one| one.remove.iter().map(|s| s.id)).collect(), series))
}

/// The series that these snapshots are of: what goes, and what stays.
fn touched<'a>(all: &'a [Snapshot], ids: &[SnapshotId], received: &Received) -> Vec<Series<'a>> {
    let mut series: BTreeMap<_, Series<'a>> = BTreeMap::new();
    for snapshot in all {
        let token = times::by(received, snapshot.id);
        let series_of = || Series { token: token.map(str::to_owned), ..Series::default() };
        let one = series.entry((snapshot.series(), token)).or_insert_with(series_of);
        match ids.contains(&snapshot.id) {
            true => one.remove.push(snapshot),
            false => one.keep.push((snapshot, Vec::new())),
        }
    }
    series.into_values().filter(|one| !one.remove.is_empty()).collect()
}

/// Shows what goes and what stays; `unreadable` is what goes and cannot be read.
fn show(
    out: &mut Output,
    context: &Context,
    series: &[Series<'_>],
    (received, tokens): (&Received, bool),
    unreadable: &[&SnapshotId],
) -> Result<()> {
    if context.global.json {
        return series.iter().try_for_each(|one| out.json(&json(one)));
    }
    if context.global.quiet {
        return Ok(());
    }
    series.iter().try_for_each(|one| text(out, one, received, tokens))?;
    unreadable.iter().try_for_each(|id| out.line(&format!("- forget  {}  (it cannot be read)", id.short())))
}

/// Names what stays and holds much less than what goes for it: the source may have been empty, or somebody wants it so.
fn warn(series: &[Series<'_>], display: &Display) {
    for id in series.iter().flat_map(|one| &one.held) {
        let (id, tag) = (id.short(), escape(EXPECTED));
        let message = format!(
            "it is much changed, so nothing before it in its series is forgotten by rules. Look at it (yester diff, yester ls \
             {id}); if it is as it should be: yester tag {id} --add {tag}"
        );
        display.event(&Event::Warning { subject: format!("snapshot {id}").as_bytes(), message: &message });
    }
    for snapshot in series.iter().flat_map(|one| &one.small) {
        let bytes = units::size(snapshot.statistics.bytes);
        let files = units::counted(snapshot.statistics.files, "file", "files");
        let message = format!(
            "it stays and holds much less ({files}, {bytes}) than snapshots that go: look whether it is what it should be \
             (yester ls {})",
            snapshot.id.short()
        );
        let subject = format!("snapshot {}", snapshot.id.short());
        display.event(&Event::Warning { subject: subject.as_bytes(), message: &message });
    }
}

/// `tokens`: the repository has snapshots of several.
fn text(out: &mut Output, series: &Series<'_>, received: &Received, tokens: bool) -> Result<()> {
    let token =
        if tokens && series.group_by.token { crate::cli::snapshots::token(series.token.as_deref()) } else { String::new() };
    out.line(&format!("{}{token}", heading(series)))?;
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["", "ID", "Time", "Tags", "Reasons"]);
    let kept = series.keep.iter().map(|(snapshot, why)| (*snapshot, "= keep", why.join(", ")));
    let gone = series.remove.iter().map(|snapshot| (*snapshot, "- forget", String::new()));
    let mut rows: Vec<(&Snapshot, &str, String)> = kept.chain(gone).collect();
    rows.sort_by_key(|(snapshot, ..)| (snapshot.time, snapshot.id));
    for (snapshot, what, why) in rows {
        let tags: Vec<String> = snapshot.tags.iter().map(|t| escape(t)).collect();
        let mark = (snapshot.statistics.errors > 0).then(|| "(incomplete)".to_owned());
        let marks: Vec<String> = [Some(tags.join(", ")).filter(|tags| !tags.is_empty()), mark].into_iter().flatten().collect();
        let time = crate::cli::snapshots::time(snapshot, received);
        table.add_row([what, &snapshot.id.short(), &time, &marks.join(" "), &why]);
    }
    out.line(&table.trim_fmt())?;
    out.line("")
}

/// What the snapshots of a series have in common.
fn heading(series: &Series<'_>) -> String {
    let (host, paths, tags) = series.name();
    let host = host.map_or("all hosts".to_owned(), escape);
    let paths = paths.map_or("all paths".to_owned(), crate::cli::say::paths::several);
    match tags {
        None => format!("{host}: {paths}"),
        Some([]) => format!("{host}: {paths}, no tags"),
        Some(tags) => format!("{host}: {paths}, tags {}", crate::cli::say::paths::several(tags)),
    }
}

#[derive(Serialize)]
struct JsonSeries {
    message_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths_b64: Option<Vec<Option<String>>>,
    keep: Vec<JsonForgetSnapshot>,
    remove: Vec<JsonForgetSnapshot>,
}

#[derive(Serialize)]
struct JsonForgetSnapshot {
    id: String,
    short_id: String,
    time: String,
    tags: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
}

fn json(series: &Series<'_>) -> JsonSeries {
    let snapshot = |snapshot: &Snapshot, reasons: &[String]| JsonForgetSnapshot {
        id: snapshot.id.to_string(),
        short_id: snapshot.id.short(),
        time: units::utc_time(snapshot.time),
        tags: snapshot.tags.iter().map(|t| lossy(t)).collect(),
        reasons: reasons.to_vec(),
    };
    let (host, paths, tags) = series.name();
    let exact: Vec<Option<String>> = paths.unwrap_or_default().iter().map(|p| exact(p)).collect();
    let list = |list: &[Vec<u8>]| list.iter().map(|text| lossy(text)).collect::<Vec<_>>();
    JsonSeries {
        message_type: "series",
        host: host.map(lossy),
        paths: paths.map(list),
        tags: tags.map(list),
        token_id: series.token.clone(),
        paths_b64: exact.iter().any(Option::is_some).then_some(exact),
        keep: series.keep.iter().map(|(kept, why)| snapshot(kept, why)).collect(),
        remove: series.remove.iter().map(|gone| snapshot(gone, &[])).collect(),
    }
}

#[derive(Serialize)]
struct ForgetSummary {
    message_type: &'static str,
    dry_run: bool,
    snapshots_forgotten: Vec<String>,
    snapshots_kept: u64,
    snapshots_failed: u64,
}

fn summary(
    out: &mut Output,
    context: &Context,
    forgotten: &[SnapshotId],
    (staying, failed): (u64, u64),
    dry_run: bool,
) -> Result<()> {
    if context.global.json {
        let snapshots_forgotten = forgotten.iter().map(SnapshotId::to_string).collect();
        let (snapshots_kept, snapshots_failed) = (staying, failed);
        return out.json(&ForgetSummary {
            message_type: "forgotten",
            dry_run,
            snapshots_forgotten,
            snapshots_kept,
            snapshots_failed,
        });
    }
    if context.global.quiet {
        return Ok(());
    }
    let count = units::counted(forgotten.len() as u64, "snapshot", "snapshots");
    let what = if dry_run { "dry run, would forget" } else { "forgot" };
    let failed = if failed > 0 { format!("; {} could not be forgotten", units::count(failed)) } else { String::new() };
    let stay = if staying == 1 { "stays" } else { "stay" };
    out.line(&format!("{what} {count}{failed}; {} {stay}", units::count(staying)))
}
