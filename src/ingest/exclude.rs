//! What an ingest leaves out.

use std::collections::HashSet;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::format::node::{MAX_XATTRS, is_xattr};
use crate::format::snapshot::{MAX_LIST, MAX_TEXT};
use crate::ingest::options::{Exclude, IngestOptions};
use crate::ingest::sources;
use crate::ingest::stand_in::KEEPER;
use crate::model::patterns::Patterns;
use crate::model::{Rule, escape};
use crate::repo::attributes::AttributeFilter;
use crate::sys::dir::Listing;
use crate::sys::{Dir, FileKind, Stat, mount, xattr};

/// Why what is in a repository is not ingested.
const REPOSITORY: &str = "it belongs to a repository and is left out";
/// What a cache directory's tag begins with (bford.info/cachedir).
const CACHEDIR_TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// The rules of one ingest, ready to be asked.
#[derive(Debug)]
pub(crate) struct Rules {
    patterns: Patterns,
    changed_is_ok: Patterns,
    xattrs: AttributeFilter,
    /// File name and the text it must begin with.
    markers: Vec<(Vec<u8>, Vec<u8>)>,
    caches: bool,
    larger_than: Option<u64>,
    /// Directories that are never entered: device and inode.
    never: HashSet<(u64, u64)>,
    /// Where this program's own mounts are, and the devices they are.
    mounts: Vec<(PathBuf, (u32, u32))>,
}

/// What the content of a directory says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marked {
    /// Nothing.
    No,
    /// It is left out but for the entry of this name.
    AllBut(&'static [u8]),
    /// Its content is left out.
    All,
}

impl Rules {
    /// Compiles the options; a malformed pattern is a usage error that names it.
    pub(super) fn new(all: &IngestOptions, never: &[PathBuf]) -> Result<Self> {
        let options = &all.exclude;
        let sensitive = options.patterns.iter().map(|p| (p.as_str(), false));
        let patterns = Patterns::new(sensitive.chain(options.patterns_ignore_case.iter().map(|p| (p.as_str(), true))))?;
        let marker = |text: &String| match text.split_once(':') {
            Some((name, header)) => (name.as_bytes().to_vec(), header.as_bytes().to_vec()),
            None => (text.as_bytes().to_vec(), Vec::new()),
        };
        Ok(Rules {
            patterns,
            changed_is_ok: Patterns::new(all.changed_is_ok.iter().map(|p| (p.as_str(), false)))?,
            xattrs: AttributeFilter::new(&options.xattrs)?,
            markers: options.if_present.iter().map(marker).collect(),
            caches: options.caches,
            larger_than: options.larger_than,
            never: never.iter().filter_map(|p| std::fs::metadata(p).ok()).map(|m| (m.dev(), m.ino())).collect(),
            mounts: own_mounts(),
        })
    }

    /// Why the entry at the absolute `path` is left out; `None` for one that is not.
    pub(super) fn excludes(&self, path: &[u8], stat: &Stat) -> Option<String> {
        if stat.kind == FileKind::Directory && path.rsplit(|b| *b == b'/').next() == Some(KEEPER.as_bytes()) {
            return Some("snapshots of file systems that yester makes".to_owned());
        }
        if let Some(pattern) = self.patterns.find(path) {
            return Some(format!("pattern {pattern}"));
        }
        let limit = self.larger_than.filter(|limit| stat.kind == FileKind::File && stat.size > *limit)?;
        Some(format!("larger than {limit} bytes"))
    }

    /// Whether a pattern leaves out the directory at the absolute `path`, or one that it is in and that is below `given`.
    pub(super) fn excludes_below(&self, given: &[u8], path: &[u8]) -> bool {
        let ends = path.iter().enumerate().skip(given.len() + 1).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        ends.chain([path.len()]).any(|end| self.patterns.find(path.get(..end).unwrap_or_default()).is_some())
    }

    /// Whether the file at the absolute `path` may change while it is read.
    pub(crate) fn changed_is_ok(&self, path: &[u8]) -> bool {
        self.changed_is_ok.find(path).is_some()
    }

    /// The patterns that nothing matched, as they were given.
    pub(crate) fn unmatched(&self) -> Vec<String> {
        self.patterns.unmatched().chain(self.changed_is_ok.unmatched()).map(str::to_owned).collect()
    }

    /// What is kept of attributes that were found. Those that no snapshot can hold are left out and told.
    pub(crate) fn attributes(&self, mut found: xattr::ReadXattrs) -> xattr::ReadXattrs {
        let wanted = |name: &[u8]| !self.xattrs.excludes(name);
        let mut kept = 0;
        found.list.retain(|(name, value)| {
            let fits = is_xattr(name, value) && kept < MAX_XATTRS;
            if wanted(name) && !fits {
                let text = format!("{}: it is too long, or one too many, to be stored", escape(name));
                found.failed.get_or_insert_with(|| std::io::Error::new(std::io::ErrorKind::InvalidData, text));
            }
            kept += usize::from(wanted(name) && fits);
            wanted(name) && fits
        });
        found
    }

    /// Why a given path is not taken, for where it is; `None` for all that may be.
    pub(crate) fn never_takes(&self, path: &Path) -> Option<&'static str> {
        let real = std::fs::canonicalize(if sources::follows(path) { path } else { path.parent()? }).ok()?;
        let mut above = real.ancestors().filter_map(|above| std::fs::metadata(above).ok());
        above.any(|m| self.never.contains(&(m.dev(), m.ino()))).then_some(REPOSITORY)
    }

    /// Why a directory is never entered, whatever the patterns say; `None` for directories that may be entered.
    pub(super) fn never_enters(&self, stat: &Stat) -> Option<&'static str> {
        if self.mounts.iter().any(|(_, device)| *device == stat.device) {
            return Some("it is in a mounted repository and is left out");
        }
        let own = self.never.contains(&(crate::sys::dir::device_number(stat.device), stat.inode));
        own.then_some(REPOSITORY)
    }

    /// Whether `path` is one of this program's own mounts: one that is dead, or another user's, cannot be examined.
    pub(crate) fn is_own_mount(&self, path: &[u8]) -> bool {
        self.mounts.iter().any(|(point, _)| point.as_os_str().as_bytes() == path)
    }

    /// What the files in a directory say about it.
    pub(super) fn marked(&self, listing: &Listing, dir: Option<&Dir>) -> Marked {
        let begins = |name: &[u8], header: &[u8]| {
            listing.contains(name) && (header.is_empty() || dir.is_some_and(|dir| begins_with(dir, name, header)))
        };
        if self.caches && begins(b"CACHEDIR.TAG", CACHEDIR_TAG) {
            return Marked::AllBut(b"CACHEDIR.TAG");
        }
        if self.markers.iter().any(|(name, header)| begins(name, header)) { Marked::All } else { Marked::No }
    }
}

/// What a snapshot keeps of the rules: `options`, and the `repositories` that were left out (`None`: too many to name).
pub(super) fn recorded(options: &Exclude, repositories: Option<&[Vec<u8>]>) -> Vec<Rule> {
    let of = |kind, texts: &[String]| texts.iter().map(|text| Rule::new(kind, text.as_bytes())).collect::<Vec<_>>();
    let mut rules = of(Rule::ATTRIBUTE, &options.xattrs);
    rules.extend(of(Rule::PATTERN, &options.patterns));
    rules.extend(of(Rule::PATTERN_ANY_CASE, &options.patterns_ignore_case));
    rules.extend(options.caches.then(|| Rule::new(Rule::CACHES, "")));
    rules.extend(of(Rule::IF_PRESENT, &options.if_present));
    rules.extend(options.larger_than.map(|limit| Rule::new(Rule::LARGER_THAN, limit.to_string())));
    rules.extend(options.one_file_system.then(|| Rule::new(Rule::ONE_FILE_SYSTEM, "")));
    rules.extend(repositories.unwrap_or_default().iter().map(|path| Rule::new(Rule::PATH, path.clone())));
    let given = rules.len();
    rules.retain(|rule| rule.text.len() <= MAX_TEXT);
    rules.truncate(MAX_LIST - 1);
    if repositories.is_none() || rules.len() < given {
        rules.push(Rule::new(Rule::MORE, ""));
    }
    rules
}

/// What is said of attributes that are not kept.
pub(super) fn not_kept(e: &std::io::Error) -> String {
    let what = if e.kind() == std::io::ErrorKind::InvalidData { "stored" } else { "read" };
    format!("its extended attributes cannot be {what}: {e}")
}

/// Where there is no table of mounts, there is nothing mounted either.
fn own_mounts() -> Vec<(PathBuf, (u32, u32))> {
    let all = mount::table().unwrap_or_default();
    all.into_iter().filter(|m| m.is_of(mount::OWN)).map(|m| (m.point, m.device)).collect()
}

fn begins_with(dir: &Dir, name: &[u8], header: &[u8]) -> bool {
    let mut first = Vec::new();
    let Ok(file) = dir.open_file(name) else { return false };
    file.take(header.len() as u64).read_to_end(&mut first).is_ok_and(|_| first == header)
}
