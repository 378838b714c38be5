//! What a file's content is called, and comparing it with a file of this machine.

use std::fs::File;

use crate::error::{IoContext, Result};
use crate::format::pack::PackKind;
use crate::model::{ChunkId, Content, Item};
use crate::repo::tree::TreeReader;
use crate::sys::open_file;

/// A name for a content: equal for equal content of one repository, without reading it. Of a file of one chunk it is
/// the chunk's id.
pub fn id(trees: &TreeReader, content: &Content) -> ChunkId {
    let keys = trees.chunks().repo().keys();
    match content {
        Content::Inline(bytes) => keys.chunk_id(PackKind::Data, bytes),
        Content::Items(items) => match items.as_slice() {
            [Item::Chunk { id, .. }] => *id,
            items => {
                let mut hash = blake3::Hasher::new_derive_key("yester content of several chunks");
                for item in items {
                    match item {
                        Item::Chunk { id, len } => hash.update(&id.0).update(&len.to_le_bytes()),
                        Item::Hole { len } => hash.update(b"hole").update(&len.to_le_bytes()),
                    };
                }
                ChunkId(*hash.finalize().as_bytes())
            }
        },
        Content::Tree { root, size, .. } => {
            let mut hash = blake3::Hasher::new_derive_key("yester content of a tree of chunks");
            hash.update(&root.page.0).update(&[root.height]).update(&size.to_le_bytes());
            ChunkId(*hash.finalize().as_bytes())
        }
    }
}

/// So many bytes of a file are compared at once.
const PIECE: usize = 1 << 20;

/// Whether `file` holds just `content`.
pub(crate) fn same(trees: &TreeReader, content: &Content, file: &File) -> Result<bool> {
    let (mut at, mut ours, mut theirs) = (0u64, Vec::new(), Vec::new());
    loop {
        trees.read(content, at, PIECE, &mut ours)?;
        theirs.clear();
        open_file::read_up_to(file, at, PIECE, &mut theirs).at(|| "it cannot be read".to_owned())?;
        if ours != theirs {
            return Ok(false);
        }
        if ours.len() < PIECE {
            return Ok(true);
        }
        at += ours.len() as u64;
    }
}
