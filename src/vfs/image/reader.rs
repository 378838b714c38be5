//! The bytes of an image: metadata as they are, data from the files that lie there.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::{Content, Kind};
use crate::vfs::attr::ViewFault;
use crate::vfs::below::FoundNode;
use crate::vfs::image::made::{Image, Lying};
use crate::vfs::image::tree::ImagePart;
use crate::vfs::readahead::{FileRead, ReadAhead};

/// An image with the tree behind it.
#[derive(Debug)]
pub(crate) struct Reader {
    part: ImagePart,
    image: Image,
    read_ahead: Arc<ReadAhead>,
}

impl Reader {
    /// Of an image that was made of `part`. Readers of data are run ahead of by `read_ahead`.
    pub(crate) fn new(part: ImagePart, image: Image, read_ahead: Arc<ReadAhead>) -> Reader {
        Reader { part, image, read_ahead }
    }

    /// The image.
    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// Reads up to `size` bytes from `offset` on into `out` (replaced); fewer only at the end of the image. What is
    /// damaged anywhere in it is an error of the whole read.
    pub(crate) fn read(&self, offset: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        let end = offset.saturating_add(size as u64).min(self.image.len());
        let mut at = offset;
        if at < end.min(self.image.data()) {
            let upto = end.min(self.image.data());
            out.resize((upto - at) as usize, 0);
            self.image.metadata(at, out)?;
            at = upto;
        }
        let mut bytes = Vec::new();
        let mut number = if at < end { self.image.number_at(at)? } else { 0 };
        while at < end {
            let file = self.image.file(number)?;
            let upto = end.min(file.end);
            self.file(file, at - file.begin, (upto - at) as usize, &mut bytes)?;
            out.extend_from_slice(&bytes);
            // What a block has behind the end of its file.
            out.resize(out.len() + (upto - at) as usize - bytes.len().min((upto - at) as usize), 0);
            at = upto;
            number += 1;
        }
        Ok(())
    }

    fn file(&self, file: Lying, offset: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        let found = self.found(file)?;
        let content = content(&found)?;
        self.ahead(file, &found, offset, size as u64);
        self.part.trees().read(content, offset, size, out)
    }

    /// The node of a file.
    pub(super) fn found(&self, file: Lying) -> Result<FoundNode> {
        self.part.found(file.position).map_err(ViewFault::into_error)
    }

    /// Notes that a part of a file is being read.
    pub(super) fn ahead(&self, file: Lying, found: &FoundNode, offset: u64, size: u64) {
        let position = self.part.position(file.position);
        let tree = self.part.mounted();
        // The kernel knows the files of images by no number.
        self.read_ahead.reading(&FileRead { tree, position, found, ino: None, range: (offset, size) });
    }

    /// The tree.
    pub(super) fn part(&self) -> &ImagePart {
        &self.part
    }
}

/// The content of a node that must be a file.
pub(super) fn content(found: &FoundNode) -> Result<&Content> {
    match &found.node().kind {
        Kind::File(content) => Ok(content),
        _ => Err(ViewFault::Invalid.into_error()),
    }
}

/// A damaged file, by where it is.
pub(super) fn at(e: Error, file: Lying) -> Error {
    e.context(format_args!("entry {} of the snapshot", file.position))
}
