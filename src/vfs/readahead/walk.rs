//! The job of walking on from a reader's cursor: it asks for the frames that come next, until the window is full.

use std::sync::Arc;

use crate::format::pack::PackKind;
use crate::model::{Content, Item, Kind, PackId};
use crate::repo::index::{FrameRef, Index};
use crate::repo::pack::run::FrameRun;
use crate::repo::reader::ChunkReader;
use crate::vfs::below::NodeFinder;
use crate::vfs::readahead::stream::WindowWalk;
use crate::vfs::root::MountedSnapshot;

/// On high-latency storage, a window has room for a few requests only, and several should be under way at once. So each
/// is for this part of what is worth one read.
const RUNS_A_READ: u64 = 2;
/// Frames that are remembered as asked for: neighbours share them.
const RECENT: usize = 4;

/// Carries out a walk. Frames that are to be decoded go to `ask`, neighbours on high-latency storage together, as long
/// as it answers that it takes them.
pub(super) fn walk(
    below: &NodeFinder,
    tree: &Arc<MountedSnapshot>,
    walk: &mut WindowWalk,
    ask: &mut dyn FnMut(Vec<FrameRef>) -> bool,
) {
    let chunks = below.trees().chunks();
    let most = chunks.repo().storage().costs().worth_one_read / RUNS_A_READ;
    let mut asker = FrameAsker { chunks, index: chunks.index(), recent: [None; RECENT], next: 0, run: FrameRun::new(most), ask };
    while let Some((position, offset)) = walk.next() {
        // A damaged node ends the walk; the reader will meet it.
        if position >= tree.snapshot.nodes() || asker.node(below, tree, walk, (position, offset)).is_none() {
            break;
        }
    }
    let rest = asker.run.take();
    asker.send(rest);
}

struct FrameAsker<'a> {
    chunks: &'a ChunkReader,
    index: Arc<Index>,
    /// The frames that were asked for last.
    recent: [Option<(PackId, u32)>; RECENT],
    next: usize,
    run: FrameRun,
    ask: &'a mut dyn FnMut(Vec<FrameRef>) -> bool,
}

impl FrameAsker<'_> {
    fn send(&mut self, frames: Vec<FrameRef>) -> bool {
        frames.is_empty() || (self.ask)(frames)
    }

    /// Takes what fits of the node where the walk is, and goes on behind it.
    fn node(
        &mut self,
        below: &NodeFinder,
        tree: &Arc<MountedSnapshot>,
        walk: &mut WindowWalk,
        (position, offset): (u64, u64),
    ) -> Option<()> {
        let found = below.node(tree, position).ok()?;
        let mut size = 0;
        if let Kind::File(content) = &found.node().kind
            && !matches!(content, Content::Inline(_))
            && offset < content.size()
        {
            size = content.size();
            below.trees().items(content, offset, &mut |start, item| Ok(self.item(walk, start, item))).ok()?;
        }
        walk.leave(size);
        Some(())
    }

    /// Asks for the frame of one item; false when the window is full or nobody takes frames.
    fn item(&mut self, walk: &mut WindowWalk, start: u64, item: &Item) -> bool {
        walk.pass(start, item.len());
        let Item::Chunk { id, len } = item else { return true };
        let Ok(Some(location)) = self.index.find(PackKind::Data, &id.key()) else { return true };
        let key = self.index.frame_key(&location);
        if !self.recent.contains(&Some(key)) {
            self.recent[self.next % RECENT] = Some(key);
            self.next += 1;
            // An error of the index is the reader's to meet, too.
            let frame = if self.chunks.has_frame(&key) { None } else { self.index.frame(&location).ok() };
            let frames = frame.map(|frame| self.run.add(frame)).unwrap_or_default();
            if !self.send(frames) {
                walk.stop();
                return false;
            }
        }
        walk.take(u64::from(*len))
    }
}
