//! One error type for the whole library: a kind that a caller can act on, a
//! sentence that names the object and the next step, and the cause.

use std::fmt;
use std::io;

/// What a caller can do about an error; the command line maps it to an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A named thing (snapshot, path, object) does not exist.
    NotFound,
    /// A thing that should not be there is there already.
    Exists,
    /// There is no repository at the given place.
    NoRepository,
    /// Bytes are not what their checksum, tag or structure says they must be.
    Corrupt,
    /// The operating system refused or failed.
    Io,
    /// Nobody can tell any more whether it happened: what was asked for may still come to be.
    Unsettled,
    /// Somebody else is at work.
    Busy,
    /// Something is still alive that must not be.
    Alive,
    /// A format version, feature or parameter that this program does not know.
    Unsupported,
    /// The request makes no sense: a usage error.
    Invalid,
    /// No key, or the wrong one.
    Key,
    /// The user stopped the operation.
    Interrupted,
}

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: what it is (`kind`), what happened to which object (`Display`), and why (`source`).
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with a sentence for the user.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), source: None }
    }

    /// Damage: shorthand for [`ErrorKind::Corrupt`].
    pub fn corrupt(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Corrupt, message)
    }

    /// A usage error: shorthand for [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Invalid, message)
    }

    /// An operating system error with what was being done; `ENOENT` and `EEXIST` keep their meaning as kinds.
    pub fn io(message: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            _ => ErrorKind::Io,
        };
        Error { kind, message: message.into(), source: Some(Box::new(source)) }
    }

    /// The same error, said from one step further out: `outer: inner`.
    pub fn context(mut self, outer: impl fmt::Display) -> Self {
        self.message = format!("{outer}: {}", self.message);
        self
    }

    /// The same error under another kind (a missing pack is damage, not a usage error).
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The operating system's error number, where one is at the root of this error.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.as_ref()?.downcast_ref::<io::Error>()?.raw_os_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// Adds what was being done to an [`io::Error`].
pub trait IoContext<T> {
    /// Turns the error into an [`Error`] whose message is `message()`.
    fn at(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::io(message(), source))
    }
}
