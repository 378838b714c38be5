//! tar archives: ustar, GNU and PAX, with holes, attributes and ACLs as GNU tar, bsdtar, star and `yester export` write them.
//!
//! An archive is in any order, and a snapshot in that of names: contents are stored as they come, and what the entries say
//! is sorted, if need be in files without a name, before the trees are built.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, IoContext, Result};
use crate::import::flow::FlowReader;
use crate::import::intake::TreeIntake;
use crate::import::intake::content::PastPiece;
use crate::import::{PastHistory, PastList, PastSnapshot, key_of, stopped};
use crate::model::{Origin, RepositoryId, SnapshotId, Timestamp, escape};
use crate::sys::flow::CommandStream;
use crate::task::Task;

mod header;
mod links;
pub(crate) mod member;
mod pax;
mod walk;

pub(crate) use member::TarReader;
pub(crate) use walk::TarWalk;

/// Bytes that are read at once.
const BUFFER: usize = 1 << 20;

/// An archive as a history of one snapshot.
#[derive(Debug)]
pub struct TarHistory {
    /// `None`: standard input.
    file: Option<PathBuf>,
    /// Where its top stands in the snapshot.
    top: Vec<u8>,
    host: Vec<u8>,
    user: Vec<u8>,
    scratch: Option<PathBuf>,
}

impl TarHistory {
    /// The archive in a file, or on standard input. Its top is `top` in the snapshot; host and user are those of this machine.
    pub fn new(file: Option<&Path>, top: &[u8], scratch: Option<&Path>) -> Self {
        let user = crate::sys::users::user_name(crate::sys::process::user()).unwrap_or_default();
        let (file, scratch) = (file.map(Path::to_owned), scratch.map(Path::to_owned));
        TarHistory { file, top: top.to_vec(), host: crate::sys::process::host_name(), user, scratch }
    }

    fn shown(&self) -> String {
        self.file.as_ref().map_or_else(|| "standard input".to_owned(), |file| escape(file.as_os_str().as_encoded_bytes()))
    }

    /// What stands for the archive, the same at every import: the hash of its bytes. What can be read once has none.
    fn origin(&self, task: &Task<'_>) -> Result<(SnapshotId, Timestamp)> {
        let Some(file) = &self.file else { return Ok((SnapshotId::random()?, task.now())) };
        let what = || format!("cannot read the archive {}", self.shown());
        let mut file = File::open(file).at(what)?;
        let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; BUFFER]);
        loop {
            task.go_on("the import was stopped")?;
            let read = file.read(&mut buffer).at(what)?;
            if read == 0 {
                break;
            }
            hasher.update(buffer.get(..read).unwrap_or_default());
        }
        hasher.update(&self.top);
        let stat = crate::sys::dir::stat(&file).at(what)?;
        Ok((SnapshotId(*hasher.finalize().as_bytes()), stat.mtime))
    }
}

impl PastHistory for TarHistory {
    fn snapshots(&mut self, task: &Task<'_>) -> Result<PastList> {
        let (snapshot, time) = self.origin(task)?;
        let past = PastSnapshot {
            name: self.shown(),
            origin: Origin { repository: RepositoryId(key_of(&[b"tar"])), snapshot },
            time,
            host: self.host.clone(),
            user: self.user.clone(),
            paths: vec![self.top.clone()],
            tags: Vec::new(),
            note: Vec::new(),
            excludes: Vec::new(),
            program: "tar".to_owned(),
        };
        Ok(PastList { snapshots: vec![past], unreadable: 0 })
    }

    fn walk(&mut self, past: &PastSnapshot, intake: &mut TreeIntake<'_>) -> Result<()> {
        let what = || format!("cannot read the archive {}", self.shown());
        let from: Box<dyn Read + '_> = match &self.file {
            Some(file) => Box::new(File::open(file).at(what)?),
            None => {
                let file = std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned().at(what)?;
                Box::new(FlowReader::new(CommandStream::of(file.into()), "standard input", intake.task()))
            }
        };
        let mut reader = TarReader::new(unpacked(from).map_err(|e| e.context(self.shown()))?);
        let names = crate::ingest::sources::names(&self.top)?.into_iter().map(<[u8]>::to_vec).collect();
        let walk = TarWalk::new(names, past.time, self.scratch.as_deref());
        let walked = walk.read(&mut reader, intake);
        if intake.task().is_stopped() {
            return Err(stopped());
        }
        walked.map_err(|e| e.context(self.shown()))?.build(intake)
    }
}

/// Reads an archive, plain or compressed, and keeps nothing of it; answers how many entries it has, and how many bytes of
/// content that are no holes. Errors: it is none, or is cut short.
pub fn survey<'r>(from: impl Read + 'r) -> Result<(u64, u64)> {
    let mut reader = TarReader::new(unpacked(Box::new(from))?);
    let (mut entries, mut bytes, mut piece) = (0, 0, Vec::new());
    while let Some(member) = reader.next()? {
        entries += 1;
        while reader.content(&member, &mut piece)? != PastPiece::End {
            bytes += piece.len() as u64;
            piece.clear();
        }
    }
    Ok((entries, bytes))
}

/// What an archive's bytes are once they are decompressed: by what they begin with.
fn unpacked<'r>(from: Box<dyn Read + 'r>) -> Result<Box<dyn Read + 'r>> {
    let mut from = BufReader::with_capacity(BUFFER, from);
    let head = from.fill_buf().at(|| "cannot read the archive".to_owned())?;
    let other = |what: &str, program: &str| {
        let text = format!("it is compressed by {what}: pipe it, as in {program} ARCHIVE | yester import tar:-");
        Err(Error::invalid(text))
    };
    match head {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(from))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::stream::Decoder::with_buffer(from).at(|| "cannot decompress the archive".to_owned())?;
            Ok(Box::new(decoder))
        }
        [0xfd, b'7', b'z', b'X', b'Z', ..] => other("xz", "xz -dc"),
        [b'B', b'Z', b'h', ..] => other("bzip2", "bzip2 -dc"),
        [] => Err(Error::corrupt("it is empty: not even the end of an archive is there")),
        _ => Ok(Box::new(from)),
    }
}
