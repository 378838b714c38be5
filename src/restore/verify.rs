//! Comparing what is there at the end with the snapshot: every file's bytes, every link's target, by their names.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::pack::PackKind;
use crate::model::{Content, Directory as Model, Item, Kind, Node};
use crate::restore::descent::Descent;
use crate::restore::existing::{self, file_kind};
use crate::restore::filter::{FilterVerdict, PathFilter};
use crate::restore::job::read_exact;
use crate::restore::leads;
use crate::restore::run::RestoreRun;
use crate::restore::target::TargetDirectory;
use crate::restore::{Overwrite, RestoreSource};
use crate::sys::{Dir, FileKind, dir};

/// Compares one source. What differs is told and counted by `run`.
pub(crate) fn source(run: &RestoreRun<'_>, source: &RestoreSource<'_>, filter: &PathFilter) {
    let mut path: Vec<u8> = Vec::new();
    let mut place = run.target.directory(false, false, None);
    for node in source.parents.iter().skip(1).chain([&source.node]).filter(|node| !node.name.is_empty()) {
        path.push(b'/');
        path.extend_from_slice(&node.name);
        if !source.direct && node.directory().is_some() {
            place = leads::look(run, &place, &node.name);
        }
    }
    let verdict = filter.judge(if path.is_empty() { b"/" } else { &path }, false);
    if verdict == FilterVerdict::Skip {
        return;
    }
    match source.node.directory() {
        Some(model) => tree(run, (*model, source.number), place, verdict == FilterVerdict::Take, path, filter),
        None => told(run, &place, &source.node, (source.number, &path)),
    }
}

fn tree(
    run: &RestoreRun<'_>,
    (model, source): (Model, usize),
    place: Arc<TargetDirectory>,
    taken: bool,
    path: Vec<u8>,
    filter: &PathFilter,
) {
    // Damage was told when the entries were restored.
    let mut descent = Descent::new(run, filter, path);
    descent.enter(&model, taken, place);
    while let Some(entry) = descent.next() {
        let (place, node) = (&entry.value, entry.node());
        match entry.directory() {
            // It is not there, which was told, or as the user wanted it: neither is what is in it.
            Some(_) if entry.is_taken() && !is_there(run, place, node) => {}
            Some(model) => descent.enter(model, entry.is_taken(), leads::look(run, place, &node.name)),
            None if entry.is_taken() => told(run, place, node, (source, descent.path())),
            None => {}
        }
    }
}

/// Whether a directory is there. One that is not, and should be, is told.
fn is_there(run: &RestoreRun<'_>, place: &Arc<TargetDirectory>, node: &Node) -> bool {
    let subject = run.target.path_of(place, &node.name);
    if run.has_failed(&subject) {
        return false;
    }
    match run.target.open(&leads::look(run, place, &node.name)) {
        Ok(_) => true,
        Err(e) => {
            let there = run.target.open(place).and_then(|dir| dir.stat(&node.name));
            if !there.is_ok_and(|stat| !existing::may_replace(run.options.overwrite, node, &stat)) {
                run.error(&subject, gone(e));
            }
            false
        }
    }
}

/// Compares an entry; `at` is its source, and its path inside the snapshot.
fn told(run: &RestoreRun<'_>, place: &TargetDirectory, node: &Node, at: (usize, &[u8])) {
    // What could not be restored was told.
    let subject = run.target.path_of(place, &node.name);
    if run.has_failed(&subject) {
        return;
    }
    let rewritten = match run.options.rewriter.as_deref() {
        Some(rewriter) => rewriter.expected(run, at.0, at.1, node),
        None => Ok(None),
    };
    let node = match &rewritten {
        Ok(rewritten) => rewritten.as_ref().unwrap_or(node),
        // That was told when it was to be restored.
        Err(_) => return,
    };
    if let Err(error) = run.target.open(place).map_err(gone).and_then(|dir| entry(run, &dir, node)) {
        run.error(&subject, error);
    }
}

fn gone(e: std::io::Error) -> Error {
    Error::io("what was restored cannot be read back", e)
}

fn entry(run: &RestoreRun<'_>, dir: &Dir, node: &Node) -> Result<()> {
    let there = dir.stat(&node.name).map_err(gone)?;
    let wrong = |what: &str| Err(Error::corrupt(format!("what is there at the end is {what}")));
    // What stayed as the user wanted it is none of this run's.
    let stays = matches!(run.options.overwrite, Overwrite::Never | Overwrite::IfNewer);
    if stays && (there.kind != file_kind(&node.kind) || there.mtime != node.meta.mtime) {
        return match existing::may_replace(run.options.overwrite, node, &there) {
            true => wrong("not what the snapshot has"),
            false => Ok(()),
        };
    }
    if there.kind != file_kind(&node.kind) {
        return wrong("of another kind");
    }
    match &node.kind {
        Kind::Symlink(target) if dir.read_link(&node.name).map_err(gone)? != *target => wrong("a link to something else"),
        Kind::File(content) if there.size != content.size() => wrong("of another size"),
        Kind::File(content) => {
            let file = dir.open_file(&node.name).map_err(gone)?;
            match dir::stat(&file).map_err(gone)?.kind == FileKind::File && holds(run, &file, content)? {
                true => Ok(()),
                false => wrong("not what the snapshot has: something else wrote to it, or the disk or memory is broken"),
            }
        }
        _ => Ok(()),
    }
}

/// Whether a file holds exactly this.
fn holds(run: &RestoreRun<'_>, file: &File, content: &Content) -> Result<bool> {
    let mut buffer = Vec::new();
    if let Content::Inline(bytes) = content {
        buffer.resize(bytes.len(), 0);
        file.read_exact_at(&mut buffer, 0).map_err(gone)?;
        return Ok(buffer == *bytes);
    }
    let mut right = true;
    run.tree.items(content, 0, &mut |offset, item| {
        right = match item {
            Item::Hole { len } => is_zero(file, offset, *len).map_err(gone)?,
            Item::Chunk { id, len } => {
                read_exact(file, offset, *len, &mut buffer).map_err(gone)?;
                run.tree.chunks().repo().keys().is_chunk(PackKind::Data, id, &buffer)
            }
        };
        Ok(right && !run.stopped())
    })?;
    Ok(right)
}

/// Whether a range of a file reads as zeros; what the file system knows to be a hole is not read.
fn is_zero(file: &File, offset: u64, len: u64) -> std::io::Result<bool> {
    let (mut at, end) = (offset, offset + len);
    let mut buffer = Vec::new();
    while at < end {
        let Some((start, stop)) = dir::next_data(file, at)?.filter(|(start, _)| *start < end) else { return Ok(true) };
        at = start;
        while at < stop.min(end) {
            let piece = (stop.min(end) - at).min(1 << 20) as u32;
            read_exact(file, at, piece, &mut buffer)?;
            if buffer.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += u64::from(piece);
        }
    }
    Ok(true)
}
