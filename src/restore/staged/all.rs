//! A whole staged restore: its places, what goes to each, and the exchange.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Node, Snapshot};
use crate::observe::Event;
use crate::repo::tree::TreeReader;
use crate::restore::staged::{Staged, StagedPhase, StagedTarget, path_bytes};
use crate::restore::{self, BeforeExchange, RestoreOptions, RestoreReport, RestoreRequest, resolve, shown, target};
use crate::task::Task;

/// One place, and what goes there.
struct StagedSource {
    target: StagedTarget,
    sources: Vec<(Arc<Snapshot>, Vec<Vec<u8>>)>,
}

/// Restores `request` beside its places, and exchanges all of them. What is answered is not [kept](Staged::keep) yet:
/// commands may belong to it. In a dry run there is none. `set` is the set that this is of, or empty.
///
/// What was cut off before is finished first. If that is this very restore, nothing more is done, and the report is empty.
pub fn restore(
    reader: &Arc<TreeReader>,
    request: &RestoreRequest,
    options: &RestoreOptions,
    set: &[u8],
    task: &Task<'_>,
) -> Result<(RestoreReport, Option<Staged>)> {
    let all = places(reader, request)?;
    let Some(snapshot) = all.first().and_then(|one| one.sources.first()).map(|(snapshot, _)| snapshot.clone()) else {
        return Err(Error::invalid("nothing to restore: name a snapshot (see: yester snapshots)"));
    };
    let paths: Vec<PathBuf> = all.iter().map(|one| one.target.path.clone()).collect();
    if options.dry_run {
        return dry(reader, &all, options, task).map(|report| (report, None));
    }
    for mut staged in Staged::find(&paths)? {
        if !staged.settle(task.observer)? || staged.phase() != StagedPhase::Exchanged {
            continue;
        }
        if staged.is_of(snapshot.id, set) && paths.len() == staged.paths().len() {
            return Ok((RestoreReport::default(), Some(staged)));
        }
        let text = format!(
            "a staged restore of snapshot {} was cut off after it had exchanged directories: restore that once more to finish it, \
             or take it back with --rollback",
            staged.snapshot().get(..8).unwrap_or_default()
        );
        return Err(Error::new(ErrorKind::Exists, text));
    }
    let targets: Vec<StagedTarget> = all.iter().map(|one| one.target.clone()).collect();
    let mut staged = Staged::begin(&targets, snapshot.id, set, &snapshot.owners, &options.forbidden)?;
    let staging = stage(reader, &all, &staged, options, task);
    let ready = staging.and_then(|report| options.before_exchange.as_ref().map_or(Ok(()), BeforeExchange::ask).map(|()| report));
    match ready {
        Ok(report) => staged.exchange().map(|()| (report, Some(staged))),
        Err(e) => {
            // What cannot be removed now is removed by the next call.
            let _ = staged.abandon();
            Err(e)
        }
    }
}

fn stage(
    reader: &Arc<TreeReader>,
    all: &[StagedSource],
    staged: &Staged,
    options: &RestoreOptions,
    task: &Task<'_>,
) -> Result<RestoreReport> {
    let options = RestoreOptions { verify: true, sync: true, ..options.clone() };
    let mut report = RestoreReport::default();
    for (one, stage) in all.iter().zip(staged.stages()) {
        let request = RestoreRequest { sources: one.sources.clone(), target: stage };
        add(&mut report, &restore::restore_part(reader, &request, &options, task, false)?);
    }
    if let Some(rewriter) = &options.rewriter {
        rewriter.all_matched()?;
    }
    match report.errors {
        0 => Ok(report),
        1 => Err(Error::new(ErrorKind::Io, "nothing was exchanged: 1 entry could not be restored")),
        n => Err(Error::new(ErrorKind::Io, format!("nothing was exchanged: {n} entries could not be restored"))),
    }
}

fn dry(reader: &Arc<TreeReader>, all: &[StagedSource], options: &RestoreOptions, task: &Task<'_>) -> Result<RestoreReport> {
    let mut report = RestoreReport::default();
    for one in all {
        let kept = Staged::look(&one.target, &options.forbidden)?;
        let message = match (kept, one.target.path.symlink_metadata().is_ok()) {
            (true, _) => "something is kept beside it from an earlier staged restore: this one would be refused",
            (false, true) => "would be exchanged for what is restored beside it",
            (false, false) => "is not there: what is restored beside it would take its place",
        };
        task.observer.event(&Event::Note { subject: path_bytes(&one.target.path), message });
        let nowhere = one.target.path.with_file_name(".yester-dry-run");
        let request = RestoreRequest { sources: one.sources.clone(), target: nowhere };
        add(&mut report, &restore::restore_part(reader, &request, options, task, false)?);
    }
    Ok(report)
}

/// The places of a request. In place, each source is one; anywhere else the target is.
fn places(reader: &TreeReader, request: &RestoreRequest) -> Result<Vec<StagedSource>> {
    if target::is_root(&request.target) {
        return in_place(reader, request);
    }
    // As any restore sees a target: a link is seen as what it is.
    let path: PathBuf = request.target.components().collect();
    let found = resolve(reader, request, false)?;
    let single = match found.as_slice() {
        [one] if one.direct && one.node.directory().is_none() => Some(one.node.name.clone()),
        _ => None,
    };
    let directory = single.is_none();
    let path = match single {
        Some(name) => path.join(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(name)),
        None => path,
    };
    if path.symlink_metadata().is_ok_and(|there| there.is_dir() != directory) {
        let what = if directory {
            "no directory, and a directory is restored there"
        } else {
            "a directory, and a file is restored there"
        };
        return Err(Error::invalid(format!("cannot restore to {}: it is {what}", shown(&path))));
    }
    let target = StagedTarget { path, directory, above: Vec::new() };
    Ok(vec![StagedSource { target, sources: request.sources.clone() }])
}

fn in_place(reader: &TreeReader, request: &RestoreRequest) -> Result<Vec<StagedSource>> {
    let names = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|b| *b == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let mut sources = Vec::new();
    for (snapshot, path) in &request.sources {
        match path.is_empty() {
            false => sources.push((snapshot.clone(), path.clone())),
            // The whole of it is what was given: a root cannot be exchanged.
            true => sources.extend(snapshot.paths.iter().map(|path| (snapshot.clone(), names(path)))),
        }
    }
    let mut out = Vec::new();
    for (number, (snapshot, path)) in sources.iter().enumerate() {
        let covers = |(other, (_, above)): &(usize, &(Arc<Snapshot>, Vec<Vec<u8>>))| {
            *other != number && path.starts_with(above) && (above.len() < path.len() || *other < number)
        };
        if let Some((_, (other, _))) = sources.iter().enumerate().find(covers) {
            match other.id == snapshot.id {
                true => continue,
                false => return Err(Error::invalid("two snapshots go to one place: restore one after the other")),
            }
        }
        let one = RestoreRequest { sources: vec![(snapshot.clone(), path.clone())], target: PathBuf::from("/") };
        let (above, node) = match resolve(reader, &one, true)?.pop() {
            Some(found) => (found.parents, found.node),
            None => (Vec::<Node>::new(), snapshot.root.clone()),
        };
        let whole = path.iter().fold(Vec::new(), |whole, name| [&whole[..], b"/", name].concat());
        let whole = if whole.is_empty() { b"/".to_vec() } else { whole };
        let path = Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&whole)).to_owned();
        let target = StagedTarget { path, directory: node.directory().is_some(), above };
        out.push(StagedSource { target, sources: one.sources });
    }
    Ok(out)
}

fn add(sum: &mut RestoreReport, one: &RestoreReport) {
    sum.files += one.files;
    sum.directories += one.directories;
    sum.others += one.others;
    sum.links += one.links;
    sum.bytes += one.bytes;
    sum.bytes_local += one.bytes_local;
    sum.frames += one.frames;
    sum.unchanged += one.unchanged;
    sum.metadata += one.metadata;
    sum.kept += one.kept;
    sum.deleted += one.deleted;
    sum.spared += one.spared;
    sum.errors += one.errors;
    sum.warnings += one.warnings;
    sum.not_given += one.not_given;
}
