//! Whether a mount of one snapshot shows no extended attributes at all.
//!
//! Linux keeps neither the list of an inode's attributes nor that it is empty, so `cp -a` asks for it twice a file, and
//! every question is two switches between processes. A file system may say once that it has none whatsoever, and the
//! kernel answers for it from then on. That is final for a mount: so it is said only where all that is shown is
//! immutable, and has been looked through.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::Result;
use crate::model::{Directory, Xattrs};
use crate::mount::below::{Below, Dir};

const UNASKED: u8 = 0;
const UNKNOWN: u8 = 1;
const PLAIN: u8 = 2;

/// What is known of the attributes of everything below one directory.
#[derive(Debug)]
pub struct Plain {
    top: Dir,
    known: AtomicU8,
}

impl Plain {
    /// Nothing is known of `top` and what is below it.
    pub fn new(top: Dir) -> Self {
        Plain { top, known: AtomicU8::new(UNASKED) }
    }

    /// Whether it is known that nothing has attributes. Who asks first sets a thread to look through the tree.
    pub fn is_known(self: &Arc<Self>, below: &Arc<Below>) -> bool {
        match self.known.compare_exchange(UNASKED, UNKNOWN, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                let (this, below) = (self.clone(), below.clone());
                // Without a thread it stays unknown, which only costs speed.
                let _ = std::thread::Builder::new().name("mount-plain".into()).spawn(move || this.look(&below));
                false
            }
            Err(known) => known == PLAIN,
        }
    }

    fn look(&self, below: &Below) {
        // What cannot be read may have attributes.
        if self.nothing_has_attributes(below).unwrap_or(false) {
            self.known.store(PLAIN, Ordering::Release);
        }
    }

    /// Goes through the tree page by page, and ends at the first entry that has attributes.
    fn nothing_has_attributes(&self, below: &Below) -> Result<bool> {
        let trees = below.trees();
        match below.node(&self.top.tree, self.top.position) {
            Ok(found) if found.node().meta.xattrs == Xattrs::None => (),
            _ => return Ok(false),
        }
        // Directories that are open, and the number of the entry that comes next in each.
        let mut open: Vec<(Directory, u64)> = vec![(self.top.directory, 0)];
        while let Some((directory, number)) = open.pop() {
            let mut next = trees.entry_number(&directory, number)?;
            while let Some(entry) = next {
                let node = entry.node();
                if node.meta.xattrs != Xattrs::None {
                    return Ok(false);
                }
                if let Some(inner) = node.directory() {
                    open.push((directory, entry.number + 1));
                    open.push((*inner, 0));
                    break;
                }
                next = trees.next(&directory, &entry)?;
            }
        }
        Ok(true)
    }
}
