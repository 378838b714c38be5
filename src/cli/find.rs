//! `find`: where something is, in all snapshots at once.

use clap::Args;
use regex::bytes::RegexBuilder;
use serde::Serialize;
use yester::model::patterns::Patterns;
use yester::model::{Kind, Snapshot, Timestamp};
use yester::query::find::{self, FindReceiver, Query};
use yester::query::{EntryVersion, SnapshotSet, content};
use yester::repo::snapshots;
use yester::repo::tree::TreeReader;
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::{self, Context};
use crate::cli::given::patterns::PatternRoots;
use crate::cli::given::select::Filters;
use crate::cli::gone;
use crate::cli::say::exit::{self, Outcome};
use crate::cli::say::output::{JsonPath, Output, note};
use crate::cli::say::units;

/// Find files in all snapshots
///
/// Each line is a state of an entry: the snapshots it is in, first..last of each row of them, its size, its time, its
/// path. Snapshots that are not of the same host and paths are different rows. A pattern is as for ingest --exclude:
/// *.o are such names anywhere, /etc/fstab this path.
#[derive(Debug, Args)]
pub struct FindArgs {
    /// Names or paths
    #[arg(value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Paths in which this regular expression is found (may be repeated: any of them)
    #[arg(long, value_name = "EXPRESSION")]
    regex: Vec<String>,
    /// Whatever the case of letters
    #[arg(short, long)]
    ignore_case: bool,
    /// Files of at least so many bytes, as 10M
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    larger: Option<u64>,
    /// Files of at most so many bytes
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    smaller: Option<u64>,
    /// Changed at this time or later
    #[arg(long, value_name = "TIME", value_parser = units::parse_time)]
    newer: Option<Timestamp>,
    /// Changed at this time or earlier
    #[arg(long, value_name = "TIME", value_parser = units::parse_time)]
    older: Option<Timestamp>,
    /// Kinds: f file, d directory, l link, p pipe, s socket, c and b devices
    #[arg(long = "type", value_name = "KIND", value_delimiter = ',', value_parser = ["f", "d", "l", "p", "s", "c", "b"])]
    kinds: Vec<String>,
    /// Of this owner, by number or name
    #[arg(long, value_name = "OWNER")]
    owner: Option<String>,
    /// Files with this content, by the beginning of its name, as --json shows it
    #[arg(long, value_name = "ID")]
    content: Option<String>,
    /// Only paths that some snapshots have, and the newest of the same host and paths has not
    #[arg(long)]
    deleted: bool,
    /// Only the newest state of each path, and the last snapshot it is in
    #[arg(long)]
    last: bool,
    #[command(flatten)]
    filters: Filters,
}

/// Looks.
pub fn run(context: &Context, args: &FindArgs) -> Result<Outcome> {
    let filter = args.filters.filter()?;
    let repo = context.open()?;
    gone::warn(context, &repo)?;
    let (all, damaged) = snapshots::list_with_damage(&repo)?;
    let mut chosen: Vec<Snapshot> = all.into_iter().filter(|s| filter.matches(s)).collect();
    // Rows of one series stand together; the sort keeps the order of time.
    chosen.sort_by(|a, b| a.series().cmp(&b.series()));
    let trees = context::trees(&repo)?;
    trees.chunks().snapshots_listed();
    let query = args.query(&chosen)?;
    let mut listing = FindPrinter {
        out: Output::new(),
        json: context.global.json,
        trees: &trees,
        snapshots: &chosen,
        deleted: args.deleted,
        last: args.last,
        failed: damaged,
        found: false,
    };
    find::find(&trees, &chosen, &query, &Task::default(), &mut listing)?;
    listing.out.finish()?;
    if !listing.found && !context.global.quiet && !context.global.json {
        let count = units::counted(chosen.len() as u64, "snapshot", "snapshots");
        note(&format!("yester: note: nothing like that is in {count}"));
    }
    let Some((first, rest)) = listing.failed.split_first() else { return Ok(Outcome::Done) };
    for e in rest {
        exit::report(exit::FAILED, &e.to_string(), context.global.json);
    }
    Err(Error::new(ErrorKind::Corrupt, first.to_string()))
}

impl FindArgs {
    fn query(&self, snapshots: &[Snapshot]) -> Result<Query> {
        let patterns = PatternRoots::new().all(&self.patterns)?;
        let expression = |text: &String| {
            let built = RegexBuilder::new(text).case_insensitive(self.ignore_case).build();
            built.map_err(|e| Error::invalid(format!("the expression {text:?} cannot be used: {e}")))
        };
        let owners = self.owner.as_ref().map(|owner| match owner.parse() {
            Ok(number) => vec![number],
            Err(_) => {
                let users = snapshots.iter().flat_map(|snapshot| &snapshot.owners.users);
                users.filter(|(_, name)| name == owner.as_bytes()).map(|(number, _)| *number).collect()
            }
        });
        let least = Timestamp { secs: i64::MIN, nanos: 0 };
        let most = Timestamp { secs: i64::MAX, nanos: 0 };
        let sizes = self.larger.is_some() || self.smaller.is_some();
        let times = self.newer.is_some() || self.older.is_some();
        Ok(Query {
            patterns: Patterns::new(patterns.iter().map(|pattern| (pattern.as_str(), self.ignore_case)))?,
            expressions: self.regex.iter().map(expression).collect::<Result<_>>()?,
            size: sizes.then(|| self.larger.unwrap_or(0)..=self.smaller.unwrap_or(u64::MAX)),
            time: times.then(|| self.newer.unwrap_or(least)..=self.older.unwrap_or(most)),
            kinds: self.kinds.iter().filter_map(|kind| kind.chars().next()).collect(),
            owners,
            content: self.content.as_ref().map(|id| id.to_ascii_lowercase()),
        })
    }
}

struct FindPrinter<'a> {
    out: Output,
    json: bool,
    trees: &'a TreeReader,
    snapshots: &'a [Snapshot],
    deleted: bool,
    last: bool,
    failed: Vec<Error>,
    found: bool,
}

#[derive(Serialize)]
struct JsonRange {
    first: String,
    last: String,
    snapshots: usize,
}

#[derive(Serialize)]
struct JsonHit {
    message_type: &'static str,
    #[serde(flatten)]
    path: JsonPath,
    r#type: &'static str,
    size: u64,
    mtime: String,
    mode: u16,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    snapshots: usize,
    ranges: Vec<JsonRange>,
}

impl FindReceiver for FindPrinter<'_> {
    fn hit(&mut self, path: &[u8], mut versions: Vec<EntryVersion>, all: &SnapshotSet) -> Result<()> {
        if self.deleted && !self.is_deleted(all) {
            return Ok(());
        }
        if self.last {
            let newest = |version: &EntryVersion| {
                let snapshot = version.set.iter().filter_map(|at| Some((self.snapshots.get(at)?.time, at))).max();
                snapshot.map(|(time, at)| ((time, at), at))
            };
            let last = versions.into_iter().filter_map(|version| Some((newest(&version)?, version))).max_by_key(|(at, _)| at.0);
            versions = last.map(|((_, at), version)| EntryVersion { set: SnapshotSet::one(at), ..version }).into_iter().collect();
        }
        self.found |= !versions.is_empty();
        versions.iter().try_for_each(|version| self.show(path, version))
    }

    fn failed(&mut self, error: Error) {
        self.failed.push(error);
    }
}

impl FindPrinter<'_> {
    /// Whether a series has it somewhere, and not in its newest snapshot.
    fn is_deleted(&self, all: &SnapshotSet) -> bool {
        let mut series = self.snapshots.iter().enumerate().collect::<Vec<_>>();
        series.retain(|(at, snapshot)| self.snapshots.get(at + 1).is_none_or(|next| next.series() != snapshot.series()));
        series.iter().any(|(newest, snapshot)| {
            let of_series = |at: usize| self.snapshots.get(at).is_some_and(|other| other.series() == snapshot.series());
            !all.has(*newest) && all.iter().any(of_series)
        })
    }

    fn show(&mut self, path: &[u8], version: &EntryVersion) -> Result<()> {
        let (node, ranges) = (&version.node, self.ranges(&version.set));
        let short = |at: usize| self.snapshots.get(at).map(|snapshot| snapshot.id.short()).unwrap_or_default();
        if self.json {
            let id = |at: usize| self.snapshots.get(at).map(|snapshot| snapshot.id.to_string()).unwrap_or_default();
            let range =
                |(first, last): &(usize, usize)| JsonRange { first: id(*first), last: id(*last), snapshots: last - first + 1 };
            let file = if let Kind::File(content) = &node.kind { Some(content) } else { None };
            return self.out.json(&JsonHit {
                message_type: "hit",
                path: JsonPath::new(path),
                r#type: crate::cli::ls::type_name(&node.kind),
                size: node.size(),
                mtime: units::utc_time(node.meta.mtime),
                mode: node.meta.mode,
                uid: node.meta.uid,
                gid: node.meta.gid,
                content: file.map(|file| content::id(self.trees, file).to_string()),
                snapshots: version.set.len(),
                ranges: ranges.iter().map(range).collect(),
            });
        }
        let range = |(first, last): &(usize, usize)| match first == last {
            true => short(*first),
            false => format!("{}..{}", short(*first), short(*last)),
        };
        let ranges: Vec<String> = ranges.iter().map(range).collect();
        let (size, time) = (units::size(node.size()), units::local_time(node.meta.mtime));
        let mut line = format!("{:<18} {size:>9} {time} ", ranges.join(",")).into_bytes();
        line.extend_from_slice(&self.out.name(path));
        line.extend_from_slice(if node.directory().is_some() { b"/\n" } else { b"\n" });
        self.out.bytes(&line)
    }

    /// Rows of snapshots that follow one another in a series: first and last.
    fn ranges(&self, set: &SnapshotSet) -> Vec<(usize, usize)> {
        let mut out: Vec<(usize, usize)> = Vec::new();
        for at in set.iter() {
            let series = |at: usize| self.snapshots.get(at).map(Snapshot::series);
            match out.last_mut().filter(|(_, last)| last + 1 == at && series(*last) == series(at)) {
                Some((_, last)) => *last = at,
                None => out.push((at, at)),
            }
        }
        out
    }
}
