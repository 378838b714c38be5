//! Reading objects of buckets: small ones in batches, others piece by piece, each by a thread that waits for the network.

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use crate::error::{Error, ErrorKind, Result};
use crate::ingest::bucket::{Bucket, OpenObject};
use crate::ingest::read::{FilePart, INLINE, Message, ReadFile, ReaderContext, SMALL, SmallFile, TRIES};
use crate::ingest::sink::stopped;
use crate::model::bucket::{ObjectFacts, PlacedObject};
use crate::model::versions::with_version;
use crate::model::{Content, Timestamp};
use crate::sys::{FileKind, Stat, process, xattr};

/// Objects that are read by one thread, one after another, into one frame.
pub(crate) const BATCH_OBJECTS: usize = 16;
/// Bytes of an object that are cut at once.
const PIECE: usize = 1 << 20;
/// Permissions of files that are objects.
const MODE: u16 = 0o600;

/// An object to read.
#[derive(Debug)]
pub(crate) struct ObjectTask {
    /// Its number among all that is read.
    pub(crate) slot: u64,
    /// The bucket.
    pub(crate) bucket: Arc<dyn Bucket>,
    /// What the list says of it.
    pub(crate) object: PlacedObject,
    /// The previous version.
    pub(crate) base: Option<Content>,
}

/// The stat of an object's file.
pub(super) fn stat(size: u64, modified: Timestamp) -> Stat {
    Stat {
        kind: FileKind::File,
        mode: MODE,
        uid: process::user(),
        gid: process::group(),
        size,
        blocks: 0,
        mtime: modified,
        ctime: Timestamp::default(),
        birth: None,
        inode: 0,
        device: (0, 0),
        links: 1,
        rdev: (0, 0),
        locked: false,
        mount_root: false,
    }
}

fn failed(e: Error) -> io::Error {
    let kind = if e.kind() == ErrorKind::NotFound { io::ErrorKind::NotFound } else { io::ErrorKind::Other };
    io::Error::new(kind, e.to_string())
}

fn replaced() -> io::Error {
    io::Error::other("it was replaced while it was read, at every try")
}

impl ObjectTask {
    fn open(&self) -> Result<Box<dyn OpenObject>> {
        let key = self.object.key().ok_or_else(|| Error::invalid("it has no key"))?;
        let version = self.object.version.as_ref().map(|version| version.id.as_slice());
        // Gone since it was listed: as if it had gone a moment earlier.
        self.bucket.open(&key, version)?.ok_or_else(|| Error::new(ErrorKind::NotFound, "it was deleted since it was listed"))
    }

    /// What became of it when it was read.
    fn read_file(&self, facts: ObjectFacts) -> ReadFile {
        // A list is exact where a header knows only seconds.
        let listed = facts.etag == self.object.etag && facts.size == self.object.size;
        let modified = if listed { self.object.modified } else { facts.modified };
        let failed = facts.failed.map(io::Error::other);
        let version = self.object.version.as_ref();
        let list = version.map(|version| with_version(&facts.attributes, modified, version));
        let xattrs = xattr::ReadXattrs { list: list.unwrap_or(facts.attributes), failed };
        let stat = stat(facts.size, modified);
        ReadFile { stat, xattrs, flags: 0, changed: false, moved: false, made_up: false }
    }
}

impl ReaderContext<'_> {
    /// Reads batches of objects until there are none left: the body of a thread. A batch is one object, or small ones.
    pub(super) fn read_objects(&self, tasks: &Receiver<Vec<ObjectTask>>, out: &Sender<Message>) -> Result<()> {
        while let Some(batch) = self.shutdown.next(tasks) {
            match batch.as_slice() {
                [one] if one.object.size > SMALL => self.big_object(one, out)?,
                _ => self.small_objects(batch, out)?,
            }
        }
        Ok(())
    }

    fn small_objects(&self, batch: Vec<ObjectTask>, out: &Sender<Message>) -> Result<()> {
        let held = batch.iter().map(|task| task.object.size).sum();
        let first = batch.first().map_or(0, |task| task.slot);
        if !self.shutdown.bytes.take(first, held) {
            return Err(stopped());
        }
        let mut bytes = Vec::with_capacity(held as usize + 4096);
        let mut files = Vec::with_capacity(batch.len());
        for mut task in batch {
            if self.shutdown.is_wanted() {
                return Err(stopped());
            }
            let start = bytes.len();
            let file = small_object(&task, &mut bytes);
            if file.is_err() {
                bytes.truncate(start);
            }
            let range = start..bytes.len();
            let mut cuts = Vec::new();
            if range.len() as u64 > INLINE {
                self.cut(bytes.get(start..).unwrap_or_default(), start, true, None, &mut cuts);
            }
            files.push(SmallFile { slot: task.slot, range, cuts, holes: Vec::new(), base: task.base.take(), file });
        }
        out.send(Message::Batch { first, bytes, files, held }).map_err(|_| stopped())
    }

    fn big_object(&self, task: &ObjectTask, out: &Sender<Message>) -> Result<()> {
        let send = |part| out.send(Message::Piece { slot: task.slot, part }).map_err(|_| stopped());
        send(FilePart::Begin(task.object.size, task.base.clone()))?;
        for _ in 0..TRIES {
            let end = match self.pieces(task, &send)? {
                Ok(None) => {
                    send(FilePart::Again)?;
                    continue;
                }
                Ok(Some(facts)) => Ok(task.read_file(facts)),
                Err(e) => Err(failed(e)),
            };
            return send(FilePart::End(Box::new(end)));
        }
        send(FilePart::End(Box::new(Err(replaced()))))
    }

    /// One try at an object; `Ok(None)` when it was replaced meanwhile.
    fn pieces(&self, task: &ObjectTask, send: &dyn Fn(FilePart) -> Result<()>) -> Result<Result<Option<ObjectFacts>>> {
        let mut object = match task.open() {
            Ok(object) => object,
            Err(e) => return Ok(Err(e)),
        };
        let held = (PIECE + self.cutter.max()) as u64;
        let (mut rest, mut ended) = (Vec::new(), false);
        while !ended {
            if !self.shutdown.bytes.take(task.slot, held) || self.shutdown.is_wanted() {
                return Err(stopped());
            }
            let mut bytes = Vec::with_capacity(held as usize);
            bytes.append(&mut rest);
            let full = bytes.len() + PIECE;
            while !ended && bytes.len() < full {
                match object.next(&mut bytes) {
                    Ok(Some(read)) => ended = read == 0,
                    other => {
                        self.shutdown.bytes.give(task.slot, held);
                        return Ok(other.map(|_| None));
                    }
                }
            }
            let mut cuts = Vec::new();
            let cut = self.cut(&bytes, 0, ended, None, &mut cuts);
            rest.extend_from_slice(bytes.get(cut..).unwrap_or_default());
            bytes.truncate(cut);
            send(FilePart::Data { bytes, cuts, held })?;
        }
        Ok(object.finish().map(Some))
    }
}

/// Reads an object whole, appended to `bytes`.
fn small_object(task: &ObjectTask, bytes: &mut Vec<u8>) -> io::Result<ReadFile> {
    let start = bytes.len();
    for _ in 0..TRIES {
        bytes.truncate(start);
        let mut object = task.open().map_err(failed)?;
        if object.facts().size > 2 * SMALL {
            return Err(io::Error::other("it was replaced by a longer one while it was read: the next ingest has it"));
        }
        let whole = loop {
            match object.next(bytes).map_err(failed)? {
                Some(0) => break true,
                Some(_) => {}
                None => break false,
            }
        };
        if whole {
            return Ok(task.read_file(object.finish().map_err(failed)?));
        }
    }
    Err(replaced())
}
