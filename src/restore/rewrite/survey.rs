//! Before anything is touched: whether everything that is to be rewritten can be.

use crate::error::Result;
use crate::model::{Node, escape};
use crate::restore::RestoreSource;
use crate::restore::descent::Descent;
use crate::restore::filter::{FilterVerdict, PathFilter};
use crate::restore::rewrite::Rewriter;
use crate::restore::run::RestoreRun;

/// Computes every rewrite of a source. The first that cannot be computed is the error; damage of what leads to files is for
/// the restore itself to tell.
pub(crate) fn source(run: &RestoreRun<'_>, rewriter: &Rewriter, source: &RestoreSource<'_>, filter: &PathFilter) -> Result<()> {
    let nodes = source.parents.iter().skip(1).chain([&source.node]).filter(|node| !node.name.is_empty());
    let path: Vec<u8> = nodes.flat_map(|node| [b"/", node.name.as_slice()].concat()).collect();
    let verdict = filter.judge(if path.is_empty() { b"/" } else { &path }, false);
    if verdict == FilterVerdict::Skip {
        return Ok(());
    }
    let Some(model) = source.node.directory() else { return one(run, rewriter, &path, &source.node) };
    let mut descent = Descent::new(run, filter, path);
    descent.enter(model, verdict == FilterVerdict::Take, ());
    while let Some(entry) = descent.next() {
        match entry.directory() {
            Some(model) => descent.enter(model, entry.is_taken(), ()),
            None if entry.is_taken() => one(run, rewriter, descent.path(), entry.node())?,
            None => {}
        }
    }
    Ok(())
}

fn one(run: &RestoreRun<'_>, rewriter: &Rewriter, path: &[u8], node: &Node) -> Result<()> {
    let failed = |e: crate::Error| e.context(format!("nothing was touched: {}", escape(path)));
    rewriter.change(run.tree, path, node).map(drop).map_err(failed)
}
