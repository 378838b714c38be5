//! What `--delete` leaves alone: entries that a snapshot could not have had, since they were excluded, not read, or on
//! another file system.

use std::io::Read;
use std::sync::Arc;

use crate::model::patterns::Patterns;
use crate::model::{LeftOut, Rule, Snapshot};
use crate::repo::attributes::AttributeFilter;
use crate::sys::{Dir, FileKind, Stat};

/// What a cache directory's tag begins with (bford.info/cachedir).
const CACHEDIR_TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// What `--delete` also deletes, though the snapshot could not have had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeleteAlso {
    /// What the ingest excluded.
    pub excluded: bool,
    /// What is in directories that the ingest could not read whole.
    pub unread: bool,
    /// What is on file systems that are mounted inside.
    pub mounted: bool,
}

/// Why an entry stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Why {
    /// The ingest left it out.
    Excluded,
    /// The ingest could not read its directory whole.
    Unread,
    /// Another file system is mounted there.
    Mounted,
    /// It is never touched.
    Forbidden,
}

impl Why {
    /// The reason, said of one entry in a list.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Why::Excluded => "excluded from the snapshot",
            Why::Unread => "directory not read whole at ingest",
            Why::Mounted => "another file system",
            Why::Forbidden => "this repository or its key",
        }
    }

    /// The reason, and what to do about it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Why::Excluded => "the snapshot was taken without them, by its rules (--delete-also excluded)",
            Why::Unread => "their directory was not read whole when the snapshot was taken (--delete-also unread)",
            Why::Mounted => "another file system is mounted there (--delete-also mounted)",
            Why::Forbidden => "they are this repository, or what it is unlocked by",
        }
    }
}

/// Extended attributes that a snapshot could not have had: a restore does not remove them.
#[derive(Debug, Default)]
pub(crate) struct KeptAttributes {
    filter: AttributeFilter,
    /// Some rules cannot be followed: any attribute may have been left out.
    all: bool,
}

impl KeptAttributes {
    fn of(snapshot: &Snapshot, also: DeleteAlso) -> Self {
        if also.excluded {
            return KeptAttributes::default();
        }
        let mut all = snapshot.rules.iter().any(|rule| rule.kind == Rule::MORE || rule.kind > Rule::ATTRIBUTE);
        let texts = snapshot.rules.iter().filter(|rule| rule.kind == Rule::ATTRIBUTE);
        let patterns: Vec<String> = texts.map(|rule| String::from_utf8_lossy(&rule.text).into_owned()).collect();
        let filter = AttributeFilter::new(&patterns).unwrap_or_else(|_| {
            all = true;
            AttributeFilter::default()
        });
        KeptAttributes { filter, all }
    }

    /// Whether none stays.
    pub(crate) fn is_empty(&self) -> bool {
        !self.all && self.filter.is_empty()
    }

    /// Whether the attribute of this name stays.
    pub(crate) fn keeps(&self, name: &[u8]) -> bool {
        self.all || self.filter.excludes(name)
    }
}

/// The rules of one snapshot.
#[derive(Debug)]
pub(crate) struct Spare {
    also: DeleteAlso,
    patterns: Patterns,
    caches: bool,
    /// File name and the text that it must begin with.
    markers: Vec<(Vec<u8>, Vec<u8>)>,
    larger_than: Option<u64>,
    paths: Vec<Vec<u8>>,
    /// Attributes that are not removed.
    attributes: Arc<KeptAttributes>,
    /// Some rules cannot be followed: where anything was excluded, nothing is known.
    unclear: bool,
}

impl Spare {
    /// Reads them off the snapshot.
    pub(crate) fn of(snapshot: &Snapshot, also: DeleteAlso) -> Self {
        let mut spare = Spare {
            also,
            patterns: Patterns::default(),
            caches: false,
            markers: Vec::new(),
            larger_than: None,
            paths: Vec::new(),
            attributes: Arc::new(KeptAttributes::of(snapshot, also)),
            unclear: false,
        };
        // As the ingest took them: of those that match the last one counts.
        let mut patterns = Vec::new();
        for rule in &snapshot.rules {
            match rule.kind {
                Rule::PATTERN | Rule::PATTERN_ANY_CASE => match std::str::from_utf8(&rule.text) {
                    Ok(text) => patterns.push((text, rule.kind == Rule::PATTERN_ANY_CASE)),
                    Err(_) => spare.unclear = true,
                },
                Rule::CACHES => spare.caches = true,
                Rule::IF_PRESENT => spare.markers.push(match rule.text.iter().position(|b| *b == b':') {
                    Some(at) => (rule.text[..at].to_vec(), rule.text[at + 1..].to_vec()),
                    None => (rule.text.clone(), Vec::new()),
                }),
                Rule::LARGER_THAN => match std::str::from_utf8(&rule.text).ok().and_then(|text| text.parse().ok()) {
                    Some(limit) => spare.larger_than = Some(limit),
                    None => spare.unclear = true,
                },
                // Mount points say of themselves that they were not entered.
                Rule::ONE_FILE_SYSTEM | Rule::ATTRIBUTE => {}
                Rule::PATH => spare.paths.push(rule.text.clone()),
                _ => spare.unclear = true,
            }
        }
        match Patterns::new(patterns) {
            Ok(patterns) => spare.patterns = patterns,
            Err(_) => spare.unclear = true,
        }
        spare
    }

    /// The attributes that stay of an entry that has `left_out` in the snapshot: all that are there where they could not be
    /// read when it was taken.
    pub(crate) fn attributes_of(&self, left_out: LeftOut) -> Arc<KeptAttributes> {
        match left_out.has(LeftOut::ATTRIBUTES) && !self.also.unread {
            true => Arc::new(KeptAttributes { filter: AttributeFilter::default(), all: true }),
            false => self.attributes.clone(),
        }
    }

    /// Why nothing goes of a directory that has `left_out` in the snapshot, and is on a file system of its own inside
    /// what is restored, when `foreign`.
    pub(crate) fn whole(&self, left_out: LeftOut, foreign: bool) -> Option<Why> {
        let known = [LeftOut::EXCLUDED, LeftOut::UNREAD, LeftOut::MOUNTED, LeftOut::LOST, LeftOut::MARKED, LeftOut::ATTRIBUTES];
        let known = known.iter().fold(0, |bits, known| bits | known.0);
        let unread = LeftOut(LeftOut::UNREAD.0 | LeftOut::LOST.0 | !known);
        let excluded = left_out.has(LeftOut::MARKED) || left_out.has(LeftOut::EXCLUDED) && self.unclear;
        match () {
            () if !self.also.mounted && (foreign || left_out.has(LeftOut::MOUNTED)) => Some(Why::Mounted),
            () if !self.also.unread && left_out.has(unread) => Some(Why::Unread),
            () if !self.also.excluded && excluded => Some(Why::Excluded),
            () => None,
        }
    }

    /// Why the entry at `path` of the snapshot, of which `stat` is known, stays.
    pub(crate) fn entry(&self, path: &[u8], stat: &Stat, device: (u32, u32)) -> Option<Why> {
        if !self.also.mounted && (stat.mount_root || stat.device != device) {
            return Some(Why::Mounted);
        }
        let too_large = stat.kind == FileKind::File && self.larger_than.is_some_and(|limit| stat.size > limit);
        let matches = || self.paths.iter().any(|p| p == path) || self.patterns.find(path).is_some();
        (!self.also.excluded && (too_large || matches())).then_some(Why::Excluded)
    }

    /// Whether the content of an open directory would have been left out for what a file in it says.
    pub(crate) fn is_marked(&self, dir: &Dir) -> bool {
        if self.also.excluded {
            return false;
        }
        self.caches && begins(dir, b"CACHEDIR.TAG", CACHEDIR_TAG)
            || self.markers.iter().any(|(name, header)| begins(dir, name, header))
    }
}

fn begins(dir: &Dir, name: &[u8], header: &[u8]) -> bool {
    if dir.stat(name).is_err() {
        return false;
    }
    let mut first = Vec::new();
    header.is_empty()
        || dir
            .open_file(name)
            .is_ok_and(|file| file.take(header.len() as u64).read_to_end(&mut first).is_ok_and(|_| first == header))
}
