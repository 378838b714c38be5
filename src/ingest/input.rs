//! What a snapshot is made of: inputs, each for one place of it. Three kinds: what stands at a path of this machine, a
//! stream (bytes that a command writes, or that this process is given, which become one file), and a bucket, whose objects
//! become files.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::ingest::bucket::Bucket;
use crate::ingest::handles::Handle;
use crate::ingest::options::Source;
use crate::ingest::scan::Scanned;
use crate::ingest::sources;
use crate::model::bucket::PlacedObject;
use crate::model::escape;
use crate::sys::flow::CommandStream;
use crate::sys::{Dir, FileKind, Stat};

/// Something that is ingested, and where it stands in the snapshot.
pub trait Input: fmt::Debug + Send + Sync {
    /// Its absolute path in the snapshot.
    fn stored(&self) -> &[u8];

    /// What messages call it.
    fn shown(&self) -> &[u8];

    /// Where it is on this machine, if it is there at all.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// Whether it is another input than `other`, which stands at the same place.
    fn differs(&self, other: &dyn Input) -> bool {
        self.path().is_none() || self.path().map(Path::as_os_str) != other.path().map(Path::as_os_str)
    }

    /// Starts what has to run beside the walk; called once, before it. `None` for what is only looked at when the walk
    /// comes to it.
    fn start(&self) -> Option<io::Result<CommandStream>> {
        None
    }

    /// What is there, when the walk comes to it.
    fn open(&self) -> Result<Opened>;

    /// The same, read at `instead`: in a snapshot of its file system.
    fn open_at(&self, _instead: &Path) -> Result<Opened> {
        self.open()
    }

    /// The bucket that it is.
    fn bucket(&self) -> Option<&Arc<dyn Bucket>> {
        None
    }

    /// Whether there is to be no snapshot without it.
    fn is_required(&self) -> bool {
        false
    }

    /// Whether a stream may give no bytes at all.
    fn may_be_empty(&self) -> bool {
        true
    }

    /// How long a stream may take; it has failed if it takes longer.
    fn limit(&self) -> Option<Duration> {
        None
    }
}

/// What an input turns out to be.
#[derive(Debug)]
pub enum Opened {
    /// A directory.
    Directory(Box<Scanned>),
    /// Anything else that has a name: its directory, its name there, its stat.
    Entry(Arc<Handle>, Vec<u8>, Box<Stat>),
    /// A stream: its bytes are received by a thread of its own, whatever the walk is at.
    Stream,
    /// A bucket, listed.
    Bucket(Arc<dyn Bucket>, Vec<PlacedObject>),
}

impl Input for Source {
    fn stored(&self) -> &[u8] {
        &self.stored
    }

    fn shown(&self) -> &[u8] {
        self.path.as_os_str().as_bytes()
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    /// A directory, or the directory that it is in. A link that was given is stored as a link; one that was given with a
    /// slash behind it leads to what is stored.
    fn open(&self) -> Result<Opened> {
        self.open_at(&self.path)
    }

    fn open_at(&self, path: &Path) -> Result<Opened> {
        // The caller adds the path.
        let failed = || "cannot open it".to_owned();
        let directory = |dir: io::Result<Dir>| Ok(Opened::Directory(Box::new(dir.and_then(Scanned::of).at(failed)?)));
        let Some((parent, name)) = sources::split(path).filter(|_| !sources::follows(path)) else {
            return directory(Dir::open(path));
        };
        let dir = Arc::new(Handle::new(Dir::open(parent).at(failed)?));
        let name = name.as_bytes().to_vec();
        let stat = dir.stat(&name).at(failed)?;
        match stat.kind {
            FileKind::Directory => directory(dir.open_dir(&name)),
            FileKind::Unknown => Err(Error::new(ErrorKind::Invalid, "it is of an unknown type")),
            _ => Ok(Opened::Entry(dir, name, Box::new(stat))),
        }
    }
}

/// A file of a snapshot whose content is the output of a command, or an open file read to its end.
#[derive(Debug)]
pub struct Stream {
    stored: Vec<u8>,
    from: From,
    allow_empty: bool,
    required: bool,
    limit: Option<Duration>,
}

/// Where a stream's bytes come from.
#[derive(Debug)]
enum From {
    /// The output of a command: its words, and variables for it.
    Command(Vec<OsString>, Vec<(OsString, OsString)>),
    /// An open file, which can be read once.
    File(Mutex<Option<File>>),
}

impl Stream {
    /// The standard output of `command` (a program and its arguments; no shell), as the file `stored` of the snapshot. The
    /// command gets `variables` beside those of this process.
    pub fn of_command(stored: Vec<u8>, command: Vec<OsString>, variables: Vec<(OsString, OsString)>) -> Self {
        Stream { stored, from: From::Command(command, variables), allow_empty: false, required: false, limit: None }
    }

    /// What an open file (a pipe, standard input) gives until its end, as the file `stored` of the snapshot.
    pub fn of_file(stored: Vec<u8>, file: File) -> Self {
        Stream { stored, from: From::File(Mutex::new(Some(file))), allow_empty: false, required: false, limit: None }
    }

    /// The same stream, which may give no bytes at all; else that is a failure.
    pub fn allow_empty(self, allow_empty: bool) -> Self {
        Stream { allow_empty, ..self }
    }

    /// The same stream, which is ended and has failed if it takes longer than this.
    pub fn within(self, limit: Option<Duration>) -> Self {
        Stream { limit, ..self }
    }

    /// The same stream; when it is required and fails, there is no snapshot.
    pub fn required(self, required: bool) -> Self {
        Stream { required, ..self }
    }
}

impl Input for Stream {
    fn stored(&self) -> &[u8] {
        &self.stored
    }

    fn shown(&self) -> &[u8] {
        &self.stored
    }

    fn start(&self) -> Option<io::Result<CommandStream>> {
        Some(match &self.from {
            From::Command(command, variables) => CommandStream::start(command, variables).map_err(|e| {
                let program = command.first().map(|word| escape(word.as_bytes())).unwrap_or_default();
                io::Error::new(e.kind(), format!("{program} cannot be run: {e}"))
            }),
            From::File(file) => match file.lock().take() {
                Some(file) => Ok(CommandStream::of(file)),
                None => Err(io::Error::other("it was read already, and cannot be read again: ingest it again")),
            },
        })
    }

    fn open(&self) -> Result<Opened> {
        Ok(Opened::Stream)
    }

    fn may_be_empty(&self) -> bool {
        self.allow_empty
    }

    fn limit(&self) -> Option<Duration> {
        self.limit
    }

    fn is_required(&self) -> bool {
        self.required
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_is_read_once_and_a_command_as_often_as_wanted() {
        let file = Stream::of_file(b"/x".to_vec(), File::open("/dev/null").expect("a file"));
        assert!(file.start().is_some_and(|flow| flow.is_ok()));
        assert!(file.start().is_some_and(|flow| flow.is_err_and(|e| e.to_string().contains("already"))));
        let command = Stream::of_command(b"/x".to_vec(), vec!["true".into()], Vec::new());
        assert!((0..2).all(|_| command.start().is_some_and(|flow| flow.is_ok())));
        let missing = Stream::of_command(b"/x".to_vec(), vec!["/nonexistent".into()], Vec::new());
        assert!(missing.start().is_some_and(|flow| flow.is_err_and(|e| e.to_string().contains("/nonexistent cannot be run"))));
        assert!(command.differs(&command));
    }
}
