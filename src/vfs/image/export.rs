//! Writing an image with its data.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::{Content, Item, Snapshot};
use crate::observe::Event;
use crate::repo::tree::TreeReader;
use crate::task::Task;
use crate::vfs::below::NodeFinder;
use crate::vfs::image::BLOCK;
use crate::vfs::image::area::Areas;
use crate::vfs::image::build::{ImageName, Losses, build};
use crate::vfs::image::made::Lying;
use crate::vfs::image::reader::{self, Reader};
use crate::vfs::image::tree::ImagePart;
use crate::vfs::readahead::ReadAhead;
use crate::vfs::root::MountedSnapshot;

/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;

/// How an image is written.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// The directory in which metadata are put together, in files without a name.
    pub spool: PathBuf,
    /// Bytes that are decoded ahead.
    pub memory: u64,
}

/// What was written.
#[derive(Debug, Clone, Copy)]
pub struct Exported {
    /// Bytes of the image; of these only what is not in holes takes room.
    pub bytes: u64,
    /// Inodes' data: files with content.
    pub files: u64,
    /// What the image does not show as the snapshot has it.
    pub losses: Losses,
}

/// The number of an image of a directory of a snapshot: the same whenever it is made.
pub(crate) fn name(snapshot: &Snapshot, position: u64, shown: &[u8]) -> ImageName {
    let mut hash = blake3::Hasher::new();
    hash.update(b"yester image").update(&snapshot.id.0).update(&position.to_le_bytes()).update(shown);
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&hash.finalize().as_bytes()[..16]);
    // Version and variant of random numbers.
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    ImageName { uuid, time: snapshot.time }
}

/// Writes the image of the directory at `position` of a snapshot into `out`, which is empty.
pub fn export(
    trees: &Arc<TreeReader>,
    snapshot: Snapshot,
    position: u64,
    options: &ExportOptions,
    task: &Task<'_>,
    out: &File,
) -> Result<Exported> {
    let below = Arc::new(NodeFinder::new(trees.clone()));
    let name = name(&snapshot, position, b"");
    let tree = Arc::new(MountedSnapshot::new(0, snapshot));
    let part = ImagePart::new(below.clone(), tree, position, false, false);
    let image = build(&part, &Areas::files(&options.spool), name)?;
    let read_ahead = Arc::new(ReadAhead::new(below, options.memory)?);
    let reader = Reader::new(part, image, read_ahead);
    let mut writer = ImageWriter { out: BufWriter::with_capacity(BUFFER, out), at: 0 };
    writer.metadata(&reader)?;
    let files = reader.image().files();
    for number in 0..files {
        task.go_on("the export was stopped")?;
        let file = reader.image().file(number)?;
        writer.file(&reader, file).map_err(|e| reader::at(e, file))?;
        let (entries, bytes) = (number + 1, writer.at);
        task.observer.event(&Event::Progress { entries, bytes, total_entries: files, total_bytes: 0, unit: "files" });
    }
    let bytes = reader.image().len();
    writer.finish(bytes)?;
    Ok(Exported { bytes, files, losses: reader.image().losses() })
}

struct ImageWriter<'a> {
    out: BufWriter<&'a File>,
    /// Where the next byte goes.
    at: u64,
}

fn io(e: std::io::Error) -> Error {
    Error::io("cannot write the image", e)
}

impl ImageWriter<'_> {
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        if at != self.at {
            // Over a hole, or to the next block.
            self.out.seek(SeekFrom::Start(at)).map_err(io)?;
        }
        self.out.write_all(bytes).map_err(io)?;
        self.at = at + bytes.len() as u64;
        Ok(())
    }

    fn metadata(&mut self, reader: &Reader) -> Result<()> {
        let mut bytes = vec![0; BUFFER];
        let end = reader.image().data();
        for at in (0..end).step_by(BUFFER) {
            let part = &mut bytes[..(end - at).min(BUFFER as u64) as usize];
            reader.metadata(at, part)?;
            self.put(at, part)?;
        }
        Ok(())
    }

    fn file(&mut self, reader: &Reader, file: Lying) -> Result<()> {
        let found = reader.found(file)?;
        let content = reader::content(&found)?;
        if let Content::Inline(bytes) = content {
            return self.put(file.begin, bytes);
        }
        let trees = reader.part().trees();
        trees.items(content, 0, &mut |start, item| {
            if let Item::Chunk { id, len } = item {
                reader.ahead(file, &found, start, u64::from(*len));
                self.put(file.begin + start, &trees.data(id, *len)?)?;
            }
            Ok(true)
        })
    }

    fn finish(mut self, len: u64) -> Result<()> {
        self.out.flush().map_err(io)?;
        let out = *self.out.get_ref();
        debug_assert_eq!(len % BLOCK, 0);
        out.set_len(len).and_then(|()| out.sync_all()).map_err(io)
    }
}
