//! Trees of generations: directories of whole copies that share unchanged files by hard links, as rsnapshot, `rsync
//! --link-dest` scripts and Time Machine make them. A mounted repository of another tool looks the same.
//!
//! A file that has the same inode as one of an earlier generation is the same file, and is not read again.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::import::generations::walk::GenerationWalk;
use crate::import::intake::TreeIntake;
use crate::import::{PastHistory, PastList, PastSnapshot, key_of};
use crate::model::{Origin, RepositoryId, SnapshotId, Timestamp, escape};
use crate::observe::Event;
use crate::sys::{Dir, FileKind, process, users};
use crate::task::Task;

mod walk;

/// A directory of generations.
#[derive(Debug)]
pub struct GenerationHistory {
    root: PathBuf,
    top: Vec<u8>,
    scratch: Option<PathBuf>,
    walk: Option<GenerationWalk>,
}

impl GenerationHistory {
    /// The generations in `root`, each of which stands at `top` of its snapshot. Errors: it is no directory.
    pub fn new(root: &Path, top: &[u8], scratch: Option<&Path>) -> Result<Self> {
        let root = std::fs::canonicalize(root).at(|| format!("cannot open {}", escape(root.as_os_str().as_bytes())))?;
        Ok(GenerationHistory { root, top: top.to_vec(), scratch: scratch.map(Path::to_owned), walk: None })
    }

    fn shown(&self) -> String {
        escape(self.root.as_os_str().as_bytes())
    }

    fn open(&self) -> Result<Dir> {
        Dir::open(&self.root).at(|| format!("cannot open the directory {}", self.shown()))
    }

    /// A generation: what is in it, and what stands for it at every import. Those that are numbered move on; their times stay.
    fn past(&self, name: &[u8], time: Timestamp, is_dated: bool) -> PastSnapshot {
        let place = self.root.as_os_str().as_bytes();
        let mut hasher = blake3::Hasher::new();
        for part in [&self.top[..], if is_dated { name } else { b"" }] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        if !is_dated {
            hasher.update(&time.secs.to_le_bytes()).update(&time.nanos.to_le_bytes());
        }
        let snapshot = SnapshotId(*hasher.finalize().as_bytes());
        PastSnapshot {
            name: String::from_utf8_lossy(name).into_owned(),
            origin: Origin { repository: RepositoryId(key_of(&[b"tree", place])), snapshot },
            time,
            host: process::host_name(),
            user: users::user_name(process::user()).unwrap_or_default(),
            paths: vec![self.top.clone()],
            tags: Vec::new(),
            note: Vec::new(),
            excludes: Vec::new(),
            program: "a tree of generations".to_owned(),
        }
    }
}

impl PastHistory for GenerationHistory {
    fn snapshots(&mut self, task: &Task<'_>) -> Result<PastList> {
        let root = self.open()?;
        let names = root.list().at(|| format!("cannot list the directory {}", self.shown()))?;
        let mut list = PastList::default();
        for name in (0..names.len()).map(|at| names.name(at)) {
            let Ok(stat) = root.stat(name) else { continue };
            if stat.kind != FileKind::Directory {
                continue;
            }
            match (dated(name), is_numbered(name)) {
                (Some(time), _) => list.snapshots.push(self.past(name, time, true)),
                (None, true) => list.snapshots.push(self.past(name, stat.mtime, false)),
                (None, false) => {
                    let message = "it is no generation: its name has neither a number at its end nor a date";
                    task.observer.event(&Event::Note { subject: name, message });
                }
            }
        }
        if list.snapshots.is_empty() {
            let text = "has no directories that are called as generations are: daily.0, 2026-11-20-101500 (a single directory is \
                        taken by yester ingest)";
            return Err(Error::new(ErrorKind::NotFound, format!("{} {text}", self.shown())));
        }
        list.snapshots.sort_by(|a, b| (a.time, &a.name).cmp(&(b.time, &b.name)));
        Ok(list)
    }

    fn walk(&mut self, past: &PastSnapshot, intake: &mut TreeIntake<'_>) -> Result<()> {
        let gone = || format!("cannot open the generation {}/{}", self.shown(), escape(past.name.as_bytes()));
        let root = self.open()?;
        // A lossy name is looked for.
        let names = root.list().at(gone)?;
        let name = (0..names.len()).map(|at| names.name(at)).find(|name| String::from_utf8_lossy(name) == past.name.as_str());
        let generation = name.ok_or_else(|| io::ErrorKind::NotFound.into()).and_then(|name| root.open_dir(name));
        let generation = generation.at(gone).map_err(|e| e.with_kind(ErrorKind::NotFound))?;
        let top = crate::ingest::sources::names(&self.top)?.into_iter().map(<[u8]>::to_vec).collect();
        let walk = self.walk.get_or_insert_with(|| GenerationWalk::new(self.scratch.as_deref()));
        walk.run(generation, top, past.time, intake)
    }
}

/// Whether a name is that of a numbered generation: `daily.0`.
fn is_numbered(name: &[u8]) -> bool {
    let Some(dot) = name.iter().rposition(|b| *b == b'.') else { return false };
    let (before, number) = (name.get(..dot).unwrap_or_default(), name.get(dot + 1..).unwrap_or_default());
    // What rsnapshot is about to delete is none.
    !before.is_empty()
        && !before.starts_with(b".")
        && before != b"_delete"
        && (1..=6).contains(&number.len())
        && number.iter().all(u8::is_ascii_digit)
}

/// The time in a name: a date, perhaps with a time behind it, with or without signs between the numbers; local, or UTC where a
/// Z follows.
fn dated(name: &[u8]) -> Option<Timestamp> {
    let begins = |at: usize| {
        let digits = name.get(at..at + 4)?;
        let before = at.checked_sub(1).and_then(|at| name.get(at)).is_some_and(u8::is_ascii_digit);
        (!before && digits.iter().all(u8::is_ascii_digit) && (digits.starts_with(b"19") || digits.starts_with(b"20")))
            .then_some(at)
    };
    (0..name.len()).filter_map(begins).find_map(|at| time_at(name.get(at..)?))
}

fn time_at(text: &[u8]) -> Option<Timestamp> {
    let (mut digits, mut utc) = (Vec::new(), false);
    for byte in text {
        match byte {
            b'0'..=b'9' if digits.len() < 14 => digits.push(*byte),
            b'-' | b'_' | b':' | b'.' | b' ' | b'T' | b't' if digits.len() < 14 => {}
            b'Z' => {
                utc = true;
                break;
            }
            _ => break,
        }
    }
    // What follows a date may be some other number.
    let len = [14, 12, 8].into_iter().find(|len| digits.len() >= *len)?;
    let number = |from: usize, to: usize| -> Option<i16> {
        if from >= len { Some(0) } else { std::str::from_utf8(digits.get(from..to)?).ok()?.parse().ok() }
    };
    let two = |from: usize| number(from, from + 2).and_then(|n| i8::try_from(n).ok());
    let time = jiff::civil::DateTime::new(number(0, 4)?, two(4)?, two(6)?, two(8)?, two(10)?, two(12)?, 0).ok()?;
    let zone = if utc { jiff::tz::TimeZone::UTC } else { jiff::tz::TimeZone::system() };
    Some(Timestamp { secs: time.to_zoned(zone).ok()?.timestamp().as_second(), nanos: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_told_by_their_names() {
        for name in ["daily.0", "hourly.23", "backup.monthly.1"] {
            assert!(is_numbered(name.as_bytes()), "{name}");
        }
        for name in ["daily", ".sync", "_delete.123", ".0", "a.", "a.1x", "a.1234567"] {
            assert!(!is_numbered(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn dates_are_found_in_names() {
        let at = |name: &str| dated(name.as_bytes()).map(|time| time.secs);
        let utc = 1_763_633_051;
        for name in ["2025-11-20T10-04-11Z", "host-20251120100411Z", "2025-11-20_10:04:11Z", "2025.11.20 10.04.11Z-ab12"] {
            assert_eq!(at(name), Some(utc), "{name}");
        }
        assert_eq!(at("2025-11-20T1004Z"), Some(utc - 11));
        for name in ["2025-11-20-100411", "20251120", "back-2025-11-20", "2025-11-20.1"] {
            assert!(at(name).is_some_and(|secs| secs.abs_diff(utc) < 48 * 3600), "{name}");
        }
        for name in ["2025", "latest", "2025-13-01", "120251120", "2025-11", "disk1999"] {
            assert_eq!(at(name), None, "{name}");
        }
    }
}
