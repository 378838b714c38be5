//! Before anything is touched: whether everything that is to be rewritten can be.

use crate::error::Result;
use crate::model::{Directory as Model, Kind, Node, escape};
use crate::repo::tree::Entry;
use crate::restore::RestoreSource;
use crate::restore::filter::{FilterVerdict, PathFilter};
use crate::restore::rewrite::Rewriter;
use crate::restore::run::RestoreRun;

struct SurveyLevel {
    model: Model,
    taken: bool,
    next: Option<Entry>,
    path_len: usize,
}

/// Computes every rewrite of a source. The first that cannot be computed is the error; damage of what leads to files is for
/// the restore itself to tell.
pub(crate) fn source(run: &RestoreRun<'_>, rewriter: &Rewriter, source: &RestoreSource<'_>, filter: &PathFilter) -> Result<()> {
    let nodes = source.parents.iter().skip(1).chain([&source.node]).filter(|node| !node.name.is_empty());
    let mut path: Vec<u8> = nodes.flat_map(|node| [b"/", node.name.as_slice()].concat()).collect();
    let verdict = filter.judge(if path.is_empty() { b"/" } else { &path }, false);
    if verdict == FilterVerdict::Skip {
        return Ok(());
    }
    let tree = run.tree;
    let first = |model: &Model| tree.entry_number(model, 0).unwrap_or_default();
    let Some(model) = source.node.directory() else { return one(run, rewriter, &path, &source.node) };
    let taken = verdict == FilterVerdict::Take;
    let mut levels = vec![SurveyLevel { model: *model, taken, next: first(model), path_len: path.len() }];
    while let Some(level) = levels.last_mut().filter(|_| !run.stopped()) {
        path.truncate(level.path_len);
        let Some(entry) = level.next.take() else {
            levels.pop();
            continue;
        };
        level.next = tree.next(&level.model, &entry).unwrap_or_default();
        let node = entry.node();
        path.push(b'/');
        path.extend_from_slice(&node.name);
        match (filter.judge(&path, level.taken), &node.kind) {
            (FilterVerdict::Skip, _) => {}
            (verdict, Kind::Directory(model)) => {
                let taken = verdict == FilterVerdict::Take;
                levels.push(SurveyLevel { model: *model, taken, next: first(model), path_len: path.len() });
            }
            (FilterVerdict::Pass, _) => {}
            (FilterVerdict::Take, _) => one(run, rewriter, &path, node)?,
        }
    }
    Ok(())
}

fn one(run: &RestoreRun<'_>, rewriter: &Rewriter, path: &[u8], node: &Node) -> Result<()> {
    let failed = |e: crate::Error| e.context(format!("nothing was touched: {}", escape(path)));
    rewriter.change(run.tree, path, node).map(drop).map_err(failed)
}
