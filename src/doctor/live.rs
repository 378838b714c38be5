//! Healing from files of this machine: first the bytes at the place where each lost chunk was, then an ingest of what is hit
//! that stores nothing but what is lost, and no snapshot.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::doctor::look::{LostKind, LostPlace};
use crate::doctor::{Doctor, Loss};
use crate::error::{ErrorKind, Result};
use crate::ingest::{self, Exclude, IngestOptions, OnlyChunks, Parent, Source};
use crate::model::{ChunkKey, Rule, Snapshot};

/// Files of one length that are looked into for a lost chunk, beside the one of its name.
const TRIED: usize = 64;

/// What was found of `loss` below `directory`.
pub(super) fn heal(doctor: &Doctor<'_>, loss: &Loss, directory: &Path) -> Result<HashSet<ChunkKey>> {
    let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let mut files = LiveFiles { directory: &directory, by_size: None, open: None };
    let sizes: HashSet<u64> = loss.chunks.values().filter(|c| c.kind == LostKind::Data).map(|c| c.place.size).collect();
    let mut met = doctor.gather(loss, |chunk| {
        if chunk.kind != LostKind::Data {
            return Ok(None);
        }
        let snapshot = loss.snapshots.get(chunk.place.snapshot);
        let is_right = |bytes: &[u8]| doctor.repo.keys().is_chunk(chunk.pack_kind(), &chunk.id, bytes);
        Ok(files.find(&chunk.place, chunk.len, snapshot, &sizes, &is_right))
    })?;
    for (rules, sources) in sources(loss, &met, &directory) {
        met.extend(store(doctor, loss, &rules, &sources)?);
    }
    Ok(met)
}

/// Where a path of a snapshot may be on this machine: as it is, below the directory, or below it instead of what was given.
fn places(path: &[u8], directory: &Path, snapshot: Option<&Snapshot>) -> Vec<PathBuf> {
    let own = PathBuf::from(OsStr::from_bytes(path));
    let mut out = Vec::new();
    if own.starts_with(directory) {
        out.push(own.clone());
    }
    let given = snapshot.map(|snapshot| snapshot.paths.as_slice()).unwrap_or_default();
    let given = given.iter().map(|given| Path::new(OsStr::from_bytes(given)));
    out.extend(given.filter_map(|given| own.strip_prefix(given).ok()).map(|rest| directory.join(rest)));
    out.push(directory.join(own.strip_prefix("/").unwrap_or(&own)));
    // A path with nothing behind it would end with a slash, which means to follow a link.
    let mut seen = HashSet::new();
    out.into_iter().map(|path| path.components().collect::<PathBuf>()).filter(|path| seen.insert(path.clone())).collect()
}

/// Files that may hold what is lost.
struct LiveFiles<'a> {
    directory: &'a Path,
    /// Files below the directory that are as long as one that is hit.
    by_size: Option<HashMap<u64, Vec<PathBuf>>>,
    /// The file that was read last.
    open: Option<(PathBuf, File)>,
}

impl LiveFiles<'_> {
    fn find(
        &mut self,
        place: &LostPlace,
        len: u32,
        snapshot: Option<&Snapshot>,
        sizes: &HashSet<u64>,
        is_right: &dyn Fn(&[u8]) -> bool,
    ) -> Option<Vec<u8>> {
        for path in places(&place.path, self.directory, snapshot) {
            if let Some(bytes) = self.read(&path, place.offset, len).filter(|bytes| is_right(bytes)) {
                return Some(bytes);
            }
        }
        let by_size = match self.by_size.take() {
            Some(known) => known,
            None => files_of(self.directory, sizes),
        };
        let mut others = by_size.get(&place.size).into_iter().flatten().take(TRIED);
        let found = others.find_map(|path| self.read(path, place.offset, len).filter(|bytes| is_right(bytes)));
        self.by_size = Some(by_size);
        found
    }

    /// What cannot be read heals nothing.
    fn read(&mut self, path: &Path, offset: u64, len: u32) -> Option<Vec<u8>> {
        if self.open.as_ref().is_none_or(|(open, _)| open != path) {
            // Opening a pipe would wait for ever.
            fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
            self.open = Some((path.to_owned(), File::open(path).ok()?));
        }
        let (_, file) = self.open.as_ref()?;
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }
}

/// All files below a directory that have one of these lengths.
fn files_of(directory: &Path, sizes: &HashSet<u64>) -> HashMap<u64, Vec<PathBuf>> {
    let (mut out, mut stack): (HashMap<u64, Vec<PathBuf>>, _) = (HashMap::new(), vec![directory.to_owned()]);
    while let Some(directory) = stack.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => stack.push(entry.path()),
                Ok(metadata) if metadata.is_file() && sizes.contains(&metadata.len()) => {
                    out.entry(metadata.len()).or_default().push(entry.path());
                }
                _ => {}
            }
        }
    }
    out
}

/// What is ingested, by the rules of the snapshots that it is of.
type SourcesByRules = Vec<(Vec<Rule>, Vec<Source>)>;

/// What is to be ingested to find the rest: the directories whose pages are lost, and files that were read in vain.
fn sources(loss: &Loss, met: &HashSet<ChunkKey>, directory: &Path) -> SourcesByRules {
    let mut wanted: BTreeMap<usize, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for chunk in loss.in_order().into_iter().filter(|chunk| !met.contains(&chunk.id.key())) {
        let Some(snapshot) = loss.snapshots.get(chunk.place.snapshot) else { continue };
        let paths = wanted.entry(chunk.place.snapshot).or_default();
        match chunk.kind {
            // Of a directory that only leads to what was given nothing else is in the snapshot.
            LostKind::Side => paths.extend(snapshot.paths.iter().cloned()),
            LostKind::Directory | LostKind::Attributes if !chunk.place.given => {
                let below = |given: &&Vec<u8>| Path::new(OsStr::from_bytes(given)).starts_with(shown(&chunk.place.path));
                paths.extend(snapshot.paths.iter().filter(below).cloned());
            }
            _ => drop(paths.insert(chunk.place.path.clone())),
        }
    }
    let mut out: SourcesByRules = Vec::new();
    for (number, paths) in wanted {
        let Some(snapshot) = loss.snapshots.get(number) else { continue };
        let mut sources: Vec<Source> = Vec::new();
        for stored in paths {
            let inside = |other: &Source| shown(&stored).starts_with(shown(&other.stored));
            if sources.iter().any(inside) {
                continue;
            }
            let found = places(&stored, directory, Some(snapshot)).into_iter().find(|path| path.symlink_metadata().is_ok());
            sources.extend(found.map(|path| Source { path, stored }));
        }
        if !sources.is_empty() && !out.iter().any(|(rules, known)| *rules == snapshot.rules && *known == sources) {
            out.push((snapshot.rules.clone(), sources));
        }
    }
    out
}

fn shown(path: &[u8]) -> &Path {
    if path.is_empty() { Path::new("/") } else { Path::new(OsStr::from_bytes(path)) }
}

/// Ingests `sources` without making a snapshot, and stores lost chunks only. Returns those that were found.
fn store(doctor: &Doctor<'_>, loss: &Loss, rules: &[Rule], sources: &[Source]) -> Result<HashSet<ChunkKey>> {
    let only = Arc::new(OnlyChunks::new(loss.chunks.keys().copied(), loss.has_pages()));
    let options = IngestOptions {
        parent: Parent::None,
        exclude: exclude(rules),
        dry_run: doctor.dry,
        only: Some(only.clone()),
        ..IngestOptions::default()
    };
    match ingest::ingest(doctor.repo, sources, &options, doctor.task) {
        Ok(_) => Ok(only.met()),
        // What is not there, or cannot be read, heals nothing.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Io | ErrorKind::Invalid) => Ok(HashSet::new()),
        Err(e) => Err(e),
    }
}

/// The rules by which a snapshot left things out, as an ingest takes them.
fn exclude(rules: &[Rule]) -> Exclude {
    let mut out = Exclude::default();
    for rule in rules {
        let Ok(text) = String::from_utf8(rule.text.clone()) else { continue };
        match rule.kind {
            Rule::PATTERN => out.patterns.push(text),
            Rule::PATTERN_ANY_CASE => out.patterns_ignore_case.push(text),
            Rule::CACHES => out.caches = true,
            Rule::IF_PRESENT => out.if_present.push(text),
            Rule::LARGER_THAN => out.larger_than = text.parse().ok(),
            Rule::ONE_FILE_SYSTEM => out.one_file_system = true,
            Rule::ATTRIBUTE => out.xattrs.push(text),
            _ => {}
        }
    }
    out
}
