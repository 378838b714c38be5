//! Is there room? Asked before anything is written.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::model::{Kind, Node, Snapshot};
use crate::restore::descent::Descent;
use crate::restore::existing;
use crate::restore::filter::{FilterVerdict, PathFilter};
use crate::restore::leads;
use crate::restore::run::RestoreRun;
use crate::restore::target::{DirectoryState, TargetDirectory};
use crate::restore::{Overwrite, RestoreOptions, RestoreSource, shown};
use crate::sys::{Dir, FileKind, Stat};

/// What a restore needs of a file system, and what is free there.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// Bytes that are taken in the end, and at the time when most are.
    bytes: u64,
    peak: u64,
    free_bytes: u64,
    entries: u64,
    free_entries: u64,
}

impl Room {
    /// Adds a file with so many bytes of `data`. One that replaces another is complete before that one goes.
    fn add(&mut self, options: &RestoreOptions, node: &Node, data: u64, there: Option<&Stat>) {
        let file = there.filter(|stat| stat.kind == FileKind::File);
        let same = file.is_some_and(|stat| stat.size == node.size() && stat.mtime == node.meta.mtime);
        let stays = there.is_some_and(|stat| !existing::may_replace(options.overwrite, node, stat));
        if stays || same && options.overwrite != Overwrite::Always {
            return;
        }
        let growth = data.saturating_sub(file.map_or(0, |stat| stat.blocks.saturating_mul(512)));
        let beside = if options.in_place && file.is_some_and(|stat| stat.links == 1) { growth } else { data };
        self.peak = self.peak.max(self.bytes.saturating_add(beside));
        self.bytes = self.bytes.saturating_add(growth);
    }
}

type Devices = HashMap<(u32, u32), Room>;

/// Refuses what cannot fit, be it by its bytes or by the number of its entries. The snapshot's own counts are enough when
/// there is plenty of room; only otherwise the tree is gone through for what will really be written.
pub(crate) fn space(run: &RestoreRun<'_>, sources: &[RestoreSource<'_>], filter: &PathFilter) -> Result<()> {
    let entries = sources.iter().map(|source| source.node.weight()).fold(0u64, u64::saturating_add);
    let most = sources.iter().map(|source| source.snapshot.statistics.bytes).fold(0u64, u64::saturating_add);
    let whole = sources.iter().all(|source| source.parents.is_empty());
    run.expect(entries, if whole { most } else { 0 });
    let Some(root) = run.target.root() else { return Ok(()) };
    let failed = || format!("cannot ask for the free space of {}", shown(&run.target.path));
    let (free, free_entries) = (free(root).at(failed)?, root.free_entries().at(failed)?);
    if run.options.no_space_check || most <= free && entries <= free_entries {
        return Ok(());
    }
    let mut devices = Devices::new();
    for source in sources {
        let mut survey = PreflightSurvey { run, snapshot: source.snapshot, filter, devices: &mut devices };
        survey.source(source)?;
    }
    match devices.values().find(|room| room.peak > room.free_bytes) {
        Some(room) => {
            let text = format!(
                "there is not enough room in {}: {} MiB are needed and {} MiB are free{}; --no-space-check begins all the same",
                shown(&run.target.path),
                room.peak.div_ceil(1 << 20),
                room.free_bytes >> 20,
                match room.peak > room.bytes && !run.options.in_place {
                    true => " (files are written beside those that they replace; --in-place writes only what differs)",
                    false => "",
                }
            );
            Err(Error::new(ErrorKind::Io, text))
        }
        None => Ok(()),
    }
}

/// Free bytes of a file system; all there are where it tells of none at all.
fn free(dir: &Dir) -> std::io::Result<u64> {
    dir.space().map(|(free, total)| if total == 0 { u64::MAX } else { free })
}

struct PreflightSurvey<'s> {
    run: &'s RestoreRun<'s>,
    snapshot: &'s Snapshot,
    filter: &'s PathFilter,
    devices: &'s mut Devices,
}

/// A directory of the target: where it is, on which file system, and whether it is there already.
#[derive(Clone)]
struct PlannedDirectory {
    place: Arc<TargetDirectory>,
    device: (u32, u32),
    there: bool,
}

impl PreflightSurvey<'_> {
    fn source(&mut self, source: &RestoreSource<'_>) -> Result<()> {
        let mut path: Vec<u8> = Vec::new();
        let mut place = self.run.target.directory(false, false, None);
        for node in source.parents.iter().skip(1).chain([&source.node]).filter(|node| !node.name.is_empty()) {
            path.push(b'/');
            path.extend_from_slice(&node.name);
            if !source.direct && node.directory().is_some() {
                place = leads::look(self.run, &place, &node.name);
            }
        }
        let verdict = self.filter.judge(if path.is_empty() { b"/" } else { &path }, false);
        if verdict == FilterVerdict::Skip {
            return Ok(());
        }
        let root = self.spot(self.run.target.directory(false, false, None), (0, 0));
        let spot = self.spot(place, root.device);
        if source.node.directory().is_none() {
            return self.entry(&spot, &source.node);
        }
        self.tree(&source.node, spot, verdict == FilterVerdict::Take, path)
    }

    fn below(&self, place: &Arc<TargetDirectory>, name: &[u8]) -> Arc<TargetDirectory> {
        self.run.target.child(place, name, DirectoryState { real: place.real, ..DirectoryState::default() }, None)
    }

    /// Looks at a directory; one that is not there will be on the file system `above`.
    fn spot(&mut self, place: Arc<TargetDirectory>, above: (u32, u32)) -> PlannedDirectory {
        let opened = self.run.target.open(&place).ok();
        let Some((dir, stat)) = opened.and_then(|dir| dir.stat_self().ok().map(|stat| (dir, stat))) else {
            return PlannedDirectory { place, device: above, there: false };
        };
        let (free_bytes, free_entries) = (free(&dir).unwrap_or(u64::MAX), dir.free_entries().unwrap_or(u64::MAX));
        self.devices.entry(stat.device).or_insert(Room { bytes: 0, peak: 0, free_bytes, entries: 0, free_entries });
        PlannedDirectory { place, device: stat.device, there: true }
    }

    fn tree(&mut self, node: &Node, spot: PlannedDirectory, taken: bool, path: Vec<u8>) -> Result<()> {
        // Damage is for the restore itself to tell.
        let mut descent = Descent::new(self.run, self.filter, path);
        descent.enter(&node.directory().copied().unwrap_or_default(), taken, spot);
        while let Some(entry) = descent.next() {
            let (spot, node) = (&entry.value, entry.node());
            if entry.is_taken() {
                self.entry(spot, node)?;
            }
            let Some(model) = entry.directory() else { continue };
            let below = match node.given && entry.is_taken() {
                true => self.below(&spot.place, &node.name),
                false => leads::look(self.run, &spot.place, &node.name),
            };
            let spot = match spot.there {
                true => self.spot(below, spot.device),
                false => PlannedDirectory { place: below, ..spot.clone() },
            };
            descent.enter(model, entry.is_taken(), spot);
        }
        Ok(())
    }

    /// Adds what an entry needs: its bytes, less what the file that it replaces gives back, and its place in the file
    /// system's table, unless it has one or shares that of another link. A tree may state more entries than anybody can
    /// go through (directories that hold each other many times), so too many end this at once.
    fn entry(&mut self, spot: &PlannedDirectory, node: &Node) -> Result<()> {
        let there = match spot.there {
            true => self.run.target.open(&spot.place).and_then(|dir| dir.stat(&node.name)).ok(),
            false => None,
        };
        let links = match (&node.link, &self.snapshot.links) {
            (Some(group), Some(root)) => self.run.tree.link(root, group)?.map_or(1, |entry| u64::from(entry.count.max(1))),
            _ => 1,
        };
        let Some(room) = self.devices.get_mut(&spot.device) else { return Ok(()) };
        if let Kind::File(content) = &node.kind {
            room.add(self.run.options, node, content.data() / links, there.as_ref());
        }
        room.entries += u64::from(there.is_none() && node.link.is_none());
        if room.entries <= room.free_entries {
            return Ok(());
        }
        let text = format!(
            "there is not enough room in {}: its file system takes {} more entries, and more are needed",
            shown(&self.run.target.path),
            room.free_entries
        );
        Err(Error::new(ErrorKind::Io, text))
    }
}
