//! Is there room? Asked before anything is written.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::model::{Directory as Model, Kind, Node, Snapshot};
use crate::repo::tree::Entry;
use crate::restore::filter::{Filter, Verdict};
use crate::restore::run::Run;
use crate::restore::target::{Directory, State};
use crate::restore::{Source, shown};
use crate::sys::FileKind;

/// Bytes needed and free, for each file system.
type Devices = HashMap<(u32, u32), (u64, u64)>;

/// Refuses what cannot fit. The snapshot's own counts are enough when there is plenty of room; only otherwise the tree
/// is gone through for what will really be written.
pub(crate) fn space(run: &Run<'_>, sources: &[Source<'_>], filter: &Filter) -> Result<()> {
    let entries = sources.iter().map(|source| source.node.weight()).fold(0u64, u64::saturating_add);
    let most = sources.iter().map(|source| source.snapshot.statistics.bytes).fold(0u64, u64::saturating_add);
    let whole = sources.iter().all(|source| source.parents.is_empty());
    run.expect(entries, if whole { most } else { 0 });
    let Some(root) = run.target.root() else { return Ok(()) };
    let (free, _) = root.space().at(|| format!("cannot ask for the free space of {}", shown(&run.target.path)))?;
    if most <= free {
        return Ok(());
    }
    let mut devices = Devices::new();
    for source in sources {
        let mut survey = Survey { run, snapshot: source.snapshot, filter, devices: &mut devices };
        survey.source(source)?;
    }
    match devices.values().find(|(needed, free)| needed > free) {
        Some((needed, free)) => {
            let text = format!(
                "there is not enough room in {}: {} MiB are needed and {} MiB are free",
                shown(&run.target.path),
                needed.div_ceil(1 << 20),
                free >> 20
            );
            Err(Error::new(ErrorKind::Io, text))
        }
        None => Ok(()),
    }
}

struct Survey<'s> {
    run: &'s Run<'s>,
    snapshot: &'s Snapshot,
    filter: &'s Filter,
    devices: &'s mut Devices,
}

struct Level {
    model: Model,
    place: Arc<Directory>,
    device: (u32, u32),
    taken: bool,
    next: Option<Entry>,
    path_len: usize,
}

impl Survey<'_> {
    fn source(&mut self, source: &Source<'_>) -> Result<()> {
        let mut path: Vec<u8> = Vec::new();
        let mut place = self.run.target.directory(false, false, None);
        for node in source.parents.iter().skip(1).chain([&source.node]).filter(|node| !node.name.is_empty()) {
            path.push(b'/');
            path.extend_from_slice(&node.name);
            if !source.direct && node.directory().is_some() {
                place = self.below(&place, &node.name);
            }
        }
        let verdict = self.filter.judge(if path.is_empty() { b"/" } else { &path }, false);
        if verdict == Verdict::Skip {
            return Ok(());
        }
        let device = self.device(&place, (0, 0));
        if source.node.directory().is_none() {
            return self.file(&place, device, &source.node);
        }
        self.tree(&source.node, place, device, verdict == Verdict::Take, path)
    }

    fn below(&self, place: &Arc<Directory>, name: &[u8]) -> Arc<Directory> {
        self.run.target.child(place, name, State { real: place.real, ..State::default() }, None)
    }

    /// The file system of a directory; the one above it where it is not there.
    fn device(&mut self, place: &Directory, above: (u32, u32)) -> (u32, u32) {
        let Ok(dir) = self.run.target.open(place) else { return above };
        let Ok(stat) = dir.stat_self() else { return above };
        let free = dir.space().map_or(u64::MAX, |(free, _)| free);
        self.devices.entry(stat.device).or_insert((0, free));
        stat.device
    }

    fn tree(&mut self, node: &Node, place: Arc<Directory>, device: (u32, u32), taken: bool, mut path: Vec<u8>) -> Result<()> {
        let tree = self.run.tree;
        let model = node.directory().copied().unwrap_or_default();
        let next = tree.entry_number(&model, 0).unwrap_or_default();
        let mut levels = vec![Level { model, place, device, taken, next, path_len: path.len() }];
        while let Some(level) = levels.last_mut().filter(|_| !self.run.stopped()) {
            path.truncate(level.path_len);
            // Damage is for the restore itself to tell.
            let Some(entry) = level.next.take() else {
                levels.pop();
                continue;
            };
            level.next = tree.next(&level.model, &entry).unwrap_or_default();
            let node = entry.node();
            path.push(b'/');
            path.extend_from_slice(&node.name);
            let verdict = self.filter.judge(&path, level.taken);
            match (&node.kind, verdict) {
                (Kind::Directory(model), Verdict::Take | Verdict::Pass) => {
                    let place = self.below(&level.place, &node.name);
                    let device = self.device(&place, level.device);
                    let next = tree.entry_number(model, 0).unwrap_or_default();
                    let taken = verdict == Verdict::Take;
                    levels.push(Level { model: *model, place, device, taken, next, path_len: path.len() });
                }
                (Kind::File(_), Verdict::Take) => {
                    let (place, device) = (level.place.clone(), level.device);
                    self.file(&place, device, node)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds what a file needs, less what the file that it replaces gives back.
    fn file(&mut self, place: &Directory, device: (u32, u32), node: &Node) -> Result<()> {
        let Kind::File(content) = &node.kind else { return Ok(()) };
        let links = match (&node.link, &self.snapshot.links) {
            (Some(group), Some(root)) => self.run.tree.link(root, group)?.map_or(1, |entry| u64::from(entry.count.max(1))),
            _ => 1,
        };
        let there = self.run.target.open(place).and_then(|dir| dir.stat(&node.name)).ok();
        let given_back = there.filter(|stat| stat.kind == FileKind::File).map_or(0, |stat| stat.blocks.saturating_mul(512));
        let (needed, _) = self.devices.entry(device).or_insert((0, u64::MAX));
        *needed = needed.saturating_add((content.data() / links).saturating_sub(given_back));
        Ok(())
    }
}
