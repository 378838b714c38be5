//! Which snapshots, and what in them: filters and `SNAP[:PATH]`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use yester::model::{Snapshot, Timestamp, escape};
use yester::query::history;
use yester::repo::Repository;
use yester::repo::snapshots::{self, SnapshotFilter};
use yester::repo::tree::TreeReader;
use yester::task::Task;
use yester::{Error, ErrorKind, Result};

use crate::cli::context::Context;
use crate::cli::given::naming::{self, SnapshotName};
use crate::cli::say::output::note;
use crate::cli::say::{paths, units};

/// Options that choose among snapshots.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filters")]
pub struct Filters {
    /// Only snapshots of this host (may be repeated: any of them)
    #[arg(short = 'H', long = "host", value_name = "HOST")]
    hosts: Vec<OsString>,
    /// Only snapshots with all these tags (may be repeated: any of the sets)
    #[arg(long = "tag", value_name = "TAG[,TAG…]")]
    tags: Vec<OsString>,
    /// Only snapshots that were given this path (may be repeated: all of them)
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only snapshots since then, as "2 weeks ago"; --older-than: before then
    #[arg(long, value_name = "TIME", value_parser = naming::moment)]
    newer_than: Option<Timestamp>,
    /// Only snapshots before this time, as 2026-11-20
    #[arg(long, value_name = "TIME", value_parser = naming::moment, hide_short_help = true)]
    older_than: Option<Timestamp>,
}

impl Filters {
    /// Whether everything passes.
    pub fn is_empty(&self) -> bool {
        let Filters { hosts, tags, paths, newer_than, older_than } = self;
        hosts.is_empty() && tags.is_empty() && paths.is_empty() && newer_than.is_none() && older_than.is_none()
    }

    /// The library's filter.
    pub fn filter(&self) -> Result<SnapshotFilter> {
        let absolute = |path: &PathBuf| paths::absolute(path).map(|p| paths::bytes(&p).to_vec());
        Ok(SnapshotFilter {
            hosts: self.hosts.iter().map(|h| h.as_bytes().to_vec()).collect(),
            tags: self.tags.iter().map(|set| tags(set)).collect(),
            paths: self.paths.iter().map(absolute).collect::<Result<_>>()?,
            newer_than: self.newer_than,
            older_than: self.older_than,
        })
    }
}

/// The tags of one `--tag`: parted at commas, sorted, without doubles and empty ones.
pub fn tags(list: &OsStr) -> Vec<Vec<u8>> {
    let mut tags: Vec<Vec<u8>> = list.as_bytes().split(|b| *b == b',').filter(|t| !t.is_empty()).map(<[u8]>::to_vec).collect();
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// `SNAP[:PATH]` as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// The snapshot's name.
    pub snapshot: String,
    /// The path, absolute; `None` when there was no colon.
    pub path: Option<PathBuf>,
}

impl Spec {
    /// Parts `text` at its first colon that is not in a time. A relative path is joined to the working directory; nothing after the colon
    /// is the root.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let bytes = text.as_bytes();
        let (name, rest) = bytes.split_at(naming::len(bytes));
        let path = rest.get(1..);
        let path =
            path.map(|p| if p.is_empty() { Ok(PathBuf::from("/")) } else { paths::absolute(Path::new(OsStr::from_bytes(p))) });
        // A name that is not UTF-8 is none; `find` says so.
        Ok(Spec { snapshot: String::from_utf8_lossy(name).into_owned(), path: path.transpose()? })
    }

    /// The path's names, from the root.
    pub fn names(&self) -> Vec<&[u8]> {
        self.path.as_deref().map(paths::names).unwrap_or_default()
    }
}

/// A snapshot for people: its id, time, and host.
pub fn described(snapshot: &Snapshot) -> String {
    format!("{} of {} ({})", snapshot.id.short(), units::local_time(snapshot.time), escape(&snapshot.host))
}

/// The snapshot called `name` among those that pass.
pub fn snapshot(context: &Context, repo: &Repository, name: &str, filters: &Filters) -> Result<Snapshot> {
    Chooser::new(context, repo, filters)?.snapshot(name).cloned()
}

/// The snapshots that are meant: those named, or all that pass the filters.
pub fn chosen(context: &Context, repo: &Repository, names: &[String], filters: &Filters) -> Result<Vec<Snapshot>> {
    if names.is_empty() {
        let filter = filters.filter()?;
        let all = snapshots::list(repo)?;
        return Ok(all.into_iter().filter(|snapshot| filter.matches(snapshot)).collect());
    }
    let chooser = Chooser::new(context, repo, filters)?;
    let mut out: Vec<Snapshot> = Vec::new();
    for name in names {
        let found = chooser.snapshot(name)?;
        if out.iter().all(|other| other.id != found.id) {
            out.push(found.clone());
        }
    }
    Ok(out)
}

/// The snapshots among which a name is looked for.
pub struct Chooser {
    filter: SnapshotFilter,
    /// All, oldest first.
    all: Vec<Snapshot>,
    /// What could not be read of others.
    damaged: Option<Error>,
    /// Whether to say which snapshot is meant where that is no matter of course.
    says: bool,
}

impl Chooser {
    /// Lists the snapshots.
    pub fn new(context: &Context, repo: &Repository, filters: &Filters) -> Result<Self> {
        let (all, damaged) = snapshots::list_with_damage(repo)?;
        let says = !context.global.quiet && !context.global.json;
        Ok(Chooser { filter: filters.filter()?, all, damaged: damaged.into_iter().next(), says })
    }

    /// The snapshot called `name`, among those that pass the filters (an id needs not).
    pub fn snapshot(&self, name: &str) -> Result<&Snapshot> {
        match self.parse(name)? {
            SnapshotName::Id(_) => self.by_id(name),
            SnapshotName::Latest { host, back } => {
                let mut passing = self.newest_first(host.as_deref(), None);
                passing.nth(back).ok_or_else(|| self.none(name, host.as_deref()))
            }
            SnapshotName::Version(_) => {
                let text = "is a version of a path: write it with the path, as";
                Err(Error::invalid(format!("{name} {text} {name}:/PATH (see: yester history --help)")))
            }
            SnapshotName::Before(time) => {
                let found = self.newest_first(None, Some(time)).next().ok_or_else(|| self.none(name, None))?;
                self.say(&format!("{name} is snapshot {}", described(found)));
                Ok(found)
            }
        }
    }

    /// The snapshot that `spec` names. Where it says a path, `latest` is the newest that has it, and `latest~1` the one
    /// before that has it; so is the newest before a time. Where no snapshot will do, the error says which would.
    pub fn with_path(&self, trees: &TreeReader, spec: &Spec) -> Result<&Snapshot> {
        // The index may have been loaded before the snapshots were listed.
        trees.chunks().snapshots_listed();
        let (name, names) = (spec.snapshot.as_str(), spec.names());
        if names.is_empty() {
            return self.snapshot(name);
        }
        let (host, before, back) = match self.parse(name)? {
            SnapshotName::Id(_) => {
                let found = self.by_id(name)?;
                return if has(trees, found, &names)? { Ok(found) } else { Err(self.elsewhere(trees, found, &names)) };
            }
            SnapshotName::Latest { host, back } => (host, None, back),
            SnapshotName::Before(time) => (None, Some(time), 0),
            SnapshotName::Version(number) => return self.version(trees, name, number, &names),
        };
        let mut passing = self.newest_first(host.as_deref(), before);
        let Some(newest) = passing.next() else { return Err(self.none(name, host.as_deref())) };
        let mut left = back;
        for snapshot in std::iter::once(newest).chain(passing) {
            if !may_have(snapshot, &names) || !has(trees, snapshot, &names)? {
                continue;
            }
            if left > 0 {
                left -= 1;
                continue;
            }
            if before.is_some() || back == 0 && snapshot.id != newest.id {
                let path = shown(&names);
                let not =
                    if snapshot.id == newest.id { String::new() } else { format!("{path} is not in {}; ", described(newest)) };
                self.say(&format!("{not}{name} is snapshot {}", described(snapshot)));
            }
            return Ok(snapshot);
        }
        let (path, found) = (shown(&names), back - left);
        Err(match found {
            0 => self.elsewhere(trees, newest, &names),
            n => not_found(format!("{name}: only {} {path}", units::counted(n as u64, "snapshot has", "snapshots have"))),
        })
    }

    /// The snapshots that pass and whose given paths let them have this path, oldest first.
    pub fn that_may_have(&self, names: &[&[u8]]) -> Result<Vec<&Snapshot>> {
        if let Some(e) = &self.damaged {
            return Err(Error::new(e.kind(), e.to_string()));
        }
        self.require_some()?;
        Ok(self.all.iter().filter(|s| self.filter.matches(s) && may_have(s, names)).collect())
    }

    /// The newest snapshot of a version of a path.
    fn version(&self, trees: &TreeReader, name: &str, number: usize, names: &[&[u8]]) -> Result<&Snapshot> {
        let snapshots = self.that_may_have(names)?;
        let versions = history::versions(trees, &snapshots, names, &Task::default())?;
        let mut runs = history::runs(&versions, snapshots.len());
        runs.retain(|run| run.node.is_some());
        let run = number.checked_sub(1).and_then(|at| runs.get(at));
        run.and_then(|run| snapshots.get(run.last)).copied().ok_or_else(|| {
            let count = units::counted(runs.len() as u64, "version", "versions");
            not_found(format!("{name}: there are {count} of {} (see: yester history)", shown(names)))
        })
    }

    /// Refuses filters that no snapshot passes.
    pub fn require_some(&self) -> Result<()> {
        match self.newest_first(None, None).next() {
            None if !self.filter.is_empty() && !self.all.is_empty() => Err(not_found(none_passes(&self.all))),
            _ => Ok(()),
        }
    }

    /// Understands a name. A damaged snapshot may be the one that is meant: `latest` must not silently become an older one.
    fn parse(&self, name: &str) -> Result<SnapshotName> {
        let parsed = SnapshotName::parse(name.as_bytes(), &jiff::Zoned::now()).map_err(|e| match is_path(name) {
            true => {
                Error::invalid(format!("{e}; the path in the newest snapshot that has it is latest:{}", escape(name.as_bytes())))
            }
            false => e,
        })?;
        match &self.damaged {
            Some(e) if !matches!(parsed, SnapshotName::Id(_)) => Err(Error::new(e.kind(), format!("{name} cannot be told: {e}"))),
            _ => Ok(parsed),
        }
    }

    fn by_id(&self, name: &str) -> Result<&Snapshot> {
        snapshots::find(&self.all, name, &self.filter).map_err(|error| match &self.damaged {
            Some(e) => Error::new(e.kind(), e.to_string()),
            None => error,
        })
    }

    fn newest_first(&self, host: Option<&[u8]>, before: Option<Timestamp>) -> impl Iterator<Item = &Snapshot> {
        let of_host = move |s: &&Snapshot| host.is_none_or(|host| s.host == host);
        let older = move |s: &&Snapshot| before.is_none_or(|time| s.time < time);
        self.all.iter().rev().filter(|s| self.filter.matches(s)).filter(of_host).filter(older)
    }

    /// The error for a name that no snapshot has.
    fn none(&self, name: &str, host: Option<&[u8]>) -> Error {
        let passing = self.newest_first(host, None).count();
        let oldest = self.newest_first(host, None).last();
        not_found(match (self.all.len(), oldest) {
            (0, _) => "the repository has no snapshots yet (make one with: yester ingest PATH)".to_owned(),
            (_, None) if host.is_none() => format!("{name}: {}", none_passes(&self.all)),
            (all, None) => {
                let all = units::counted(all as u64, "snapshot", "snapshots");
                format!("{name}: none of {all} is of that host; there are some of: {}", hosts(&self.all))
            }
            (all, Some(oldest)) => {
                let of = if all > passing { " that pass the filters" } else { "" };
                let count = units::counted(passing as u64, "snapshot", "snapshots");
                format!("{name} is not there: there are only {count}{of}, the oldest is {}", described(oldest))
            }
        })
    }

    /// The error for a path that a snapshot does not have: which one has it.
    fn elsewhere(&self, trees: &TreeReader, snapshot: &Snapshot, names: &[&[u8]]) -> Error {
        let mut others = self.all.iter().rev().filter(|s| s.id != snapshot.id && may_have(s, names));
        let other = others.find(|s| has(trees, s, names).unwrap_or(false));
        let would = match other {
            Some(other) => format!("the newest that has it is {}", described(other)),
            None => "no other has it either".to_owned(),
        };
        not_found(format!("{} is not in snapshot {}; {would}", shown(names), described(snapshot)))
    }

    fn say(&self, line: &str) {
        if self.says {
            note(&format!("yester: {line}"));
        }
    }
}

fn not_found(text: String) -> Error {
    Error::new(ErrorKind::NotFound, text)
}

fn shown(names: &[&[u8]]) -> String {
    format!("/{}", escape(&names.join(&b'/')))
}

/// Whether the given paths of a snapshot let it have this path: it is one of them, below one, or leads to one.
fn may_have(snapshot: &Snapshot, names: &[&[u8]]) -> bool {
    snapshot.paths.iter().any(|given| {
        let given = given.split(|b| *b == b'/').filter(|name| !name.is_empty());
        given.zip(names).all(|(given, name)| given == *name)
    })
}

fn has(trees: &TreeReader, snapshot: &Snapshot, names: &[&[u8]]) -> Result<bool> {
    let mut node = snapshot.root.clone();
    for name in names {
        let Some(directory) = node.directory() else { return Ok(false) };
        let found = trees.lookup(directory, name).map_err(|e| e.context(format!("snapshot {}", described(snapshot))))?;
        let Some(entry) = found else { return Ok(false) };
        node = entry.node().clone();
    }
    Ok(true)
}

/// Whether somebody who writes this for a snapshot means a path.
pub fn is_path(name: &str) -> bool {
    name.contains('/') || Path::new(name).symlink_metadata().is_ok()
}

/// What to say where there are snapshots, and none passes the filters.
pub fn none_passes(all: &[Snapshot]) -> String {
    let count = units::counted(all.len() as u64, "snapshot", "snapshots");
    format!("none of {count} passes the filters; there are some of: {}", hosts(all))
}

/// The hosts of these snapshots, each once.
fn hosts(all: &[Snapshot]) -> String {
    let mut hosts: Vec<String> = all.iter().map(|s| escape(&s.host)).collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_parted_at_the_first_colon() {
        let spec = |text: &str| Spec::parse(OsStr::new(text)).unwrap();
        assert_eq!(spec("latest"), Spec { snapshot: "latest".into(), path: None });
        assert_eq!(spec("latest:"), Spec { snapshot: "latest".into(), path: Some("/".into()) });
        assert_eq!(spec("latest~2:/a/../b:c/").names(), [b"b:c"]);
        assert!(spec("abcd:x").path.is_some_and(|p| p.is_absolute() && p.ends_with("x")));
    }

    #[test]
    fn tags_are_sets() {
        assert_eq!(tags(OsStr::new("b,a,,b")), [b"a".to_vec(), b"b".to_vec()]);
    }
}
