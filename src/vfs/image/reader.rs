//! The bytes of an image: metadata as they are, data from the files that lie there.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::{Content, Item, Kind};
use crate::vfs::attr::ViewFault;
use crate::vfs::below::FoundNode;
use crate::vfs::image::made::{Image, Lying};
use crate::vfs::image::tree::ImagePart;
use crate::vfs::readahead::{FileRead, ImageData, ImageRead, ReadAhead};

/// An image with the tree behind it.
#[derive(Debug)]
struct ImageBytes {
    part: ImagePart,
    image: Image,
}

impl ImageBytes {
    /// The node of a file.
    fn found(&self, file: Lying) -> Result<FoundNode> {
        self.part.found(file.position).map_err(ViewFault::into_error)
    }

    /// Visits the files that lie in a range of the image: each with its part of the range.
    fn files(&self, range: &Range<u64>, visit: &mut dyn FnMut(Lying, Range<u64>) -> Result<()>) -> Result<()> {
        let (mut at, end) = (range.start.max(self.image.data()), range.end.min(self.image.len()));
        let mut number = if at < end { self.image.number_at(at)? } else { 0 };
        while at < end {
            let file = self.image.file(number)?;
            let upto = end.min(file.end);
            visit(file, at..upto)?;
            at = upto;
            number += 1;
        }
        Ok(())
    }
}

impl ImageData for ImageBytes {
    fn read(&self, offset: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        let end = offset.saturating_add(size as u64).min(self.image.len());
        if offset < end.min(self.image.data()) {
            out.resize((end.min(self.image.data()) - offset) as usize, 0);
            self.image.metadata(offset, out)?;
        }
        let mut bytes = Vec::new();
        self.files(&(offset..end), &mut |file, part| {
            let found = self.found(file)?;
            let len = (part.end - part.start) as usize;
            self.part.trees().read(content(&found)?, part.start - file.begin, len, &mut bytes)?;
            out.extend_from_slice(&bytes);
            // What a block has behind the end of its file.
            out.resize(out.len() + len - bytes.len().min(len), 0);
            Ok(())
        })
    }

    fn items(&self, range: &Range<u64>, visit: &mut dyn FnMut(&Item) -> Result<()>) -> Result<()> {
        self.files(range, &mut |file, part| {
            let found = self.found(file)?;
            let last = part.end - file.begin;
            self.part.trees().items(content(&found)?, part.start - file.begin, &mut |start, item| {
                visit(item)?;
                Ok(start + item.len() < last)
            })
        })
    }
}

/// An image with the tree behind it, and what runs ahead of its readers.
#[derive(Debug)]
pub(crate) struct Reader {
    bytes: Arc<ImageBytes>,
    /// The same.
    data: Arc<dyn ImageData>,
    read_ahead: Arc<ReadAhead>,
}

impl Reader {
    /// Of an image that was made of `part`. Readers of data are run ahead of by `read_ahead`.
    pub(crate) fn new(part: ImagePart, image: Image, read_ahead: Arc<ReadAhead>) -> Reader {
        let bytes = Arc::new(ImageBytes { part, image });
        Reader { data: bytes.clone(), bytes, read_ahead }
    }

    /// The image.
    pub(crate) fn image(&self) -> &Image {
        &self.bytes.image
    }

    /// Reads up to `size` bytes from `offset` on into `out` (replaced); fewer only at the end of the image. What is
    /// damaged anywhere in it is an error of the whole read. The kernel knows the image as the inode `ino`.
    pub(crate) fn read(&self, ino: u64, offset: u64, size: usize, out: &mut Vec<u8>) -> Result<()> {
        let (end, len) = (offset.saturating_add(size as u64), self.image().len());
        let read = ImageRead { data: &self.data, ino, len, range: (offset, size as u64) };
        if end > self.image().data() && !self.read_ahead.reading_image(&read) {
            self.bytes.files(&(offset..end), &mut |file, part| {
                self.ahead(file, &self.found(file)?, part.start - file.begin, part.end - part.start);
                Ok(())
            })?;
        }
        self.bytes.read(offset, size, out)
    }

    /// Reads metadata of the image into `out`: from `offset` on, no further than to the data.
    pub(crate) fn metadata(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.image().metadata(offset, out)
    }

    /// The node of a file.
    pub(super) fn found(&self, file: Lying) -> Result<FoundNode> {
        self.bytes.found(file)
    }

    /// Notes that a part of a file is being read.
    pub(super) fn ahead(&self, file: Lying, found: &FoundNode, offset: u64, size: u64) {
        let position = self.bytes.part.position(file.position);
        let tree = self.bytes.part.mounted();
        // The kernel knows the files of images by no number.
        self.read_ahead.reading(&FileRead { tree, position, found, ino: None, range: (offset, size) });
    }

    /// The tree.
    pub(super) fn part(&self) -> &ImagePart {
        &self.bytes.part
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
