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
    /// There is no room: the disk is full, or a quota is used up.
    Full,
    /// Nobody can tell any more whether it happened: what was asked for may still come to be.
    Unsettled,
    /// Somebody else is at work.
    Busy,
    /// Something is still alive that must not be.
    Alive,
    /// The repository shows less than it did: snapshots are gone that nobody forgot.
    WentBack,
    /// A format version, feature or parameter that this program does not know.
    Unsupported,
    /// The request makes no sense: a usage error.
    Invalid,
    /// No key, or the wrong one.
    Key,
    /// The user stopped the operation.
    Interrupted,
}

/// What an object store did where it is behind an error of [`ErrorKind::Io`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreFailure {
    /// It did not answer, or had no better answer until nobody waited any longer. Other requests would not fare better.
    GivenUp,
    /// It refuses this request, however often it comes. Others are not concerned.
    Refused,
    /// It holds the object where it has to be thawed before it can be read.
    Frozen,
}

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: what it is (`kind`), which object it is about (`subject`), what happened (`Display`),
/// and why (`source`).
#[derive(Debug)]
pub struct Error(Box<Parts>);

#[derive(Debug)]
struct Parts {
    kind: ErrorKind,
    /// What stands before the subject, with `: ` at its end.
    outer: String,
    subject: Option<String>,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    store: Option<StoreFailure>,
}

impl Error {
    /// An error of `kind` with a message for the user.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Parts { kind, outer: String::new(), subject: None, message: message.into(), source: None, store: None }))
    }

    /// Damage: shorthand for [`ErrorKind::Corrupt`].
    pub fn corrupt(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Corrupt, message)
    }

    /// A thread of this process panicked.
    pub(crate) fn panicked() -> Self {
        Error::new(ErrorKind::Io, "a thread panicked: this is a defect of yester")
    }

    /// A usage error: shorthand for [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Invalid, message)
    }

    /// An operating system error with what was being done. `ENOENT`, `EEXIST`, `ENOSPC` and `EDQUOT` keep their
    /// meaning as kinds.
    pub fn io(message: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
            _ => ErrorKind::Io,
        };
        let mut error = Error::new(kind, message);
        error.0.source = Some(Box::new(source));
        error
    }

    /// The same error, said from one step further out: `outer: inner`.
    pub fn context(mut self, outer: impl fmt::Display) -> Self {
        self.0.outer = format!("{outer}: {}", self.0.outer);
        self
    }

    /// The same error with the object that it is about: `subject: inner`. A subject that it had is a
    /// part of its message from then on.
    pub(crate) fn about(mut self, subject: impl fmt::Display) -> Self {
        let inner = self.0.subject.take().map(|inner| format!("{inner}: ")).unwrap_or_default();
        self.0.message = format!("{}{inner}{}", std::mem::take(&mut self.0.outer), self.0.message);
        self.0.subject = Some(subject.to_string());
        self
    }

    /// The object that it is about, where that is known.
    pub(crate) fn subject(&self) -> Option<&str> {
        self.0.subject.as_deref()
    }

    /// What it says without its subject, for who names that.
    pub(crate) fn without_subject(&self) -> String {
        match &self.0.source {
            Some(source) => format!("{}{}: {source}", self.0.outer, self.0.message),
            None => format!("{}{}", self.0.outer, self.0.message),
        }
    }

    /// The same error under another kind (a missing pack is damage, not a usage error).
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The same error with what an object store did.
    pub(crate) fn of_store(mut self, failure: StoreFailure) -> Self {
        self.0.store = Some(failure);
        self
    }

    /// What an object store did, where that is behind it and known.
    pub(crate) fn store_failure(&self) -> Option<StoreFailure> {
        self.0.store
    }

    /// What it says without what was being done.
    pub(crate) fn innermost(&self) -> &str {
        &self.0.message
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operating system's error number, where one is at the root of this error.
    pub(crate) fn raw_os_error(&self) -> Option<i32> {
        self.0.source.as_ref()?.downcast_ref::<io::Error>()?.raw_os_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.outer)?;
        if let Some(subject) = &self.0.subject {
            write!(f, "{subject}: ")?;
        }
        f.write_str(&self.0.message)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_a_kind_of_its_own() {
        for number in [28, 122] {
            assert_eq!(Error::io("cannot write", io::Error::from_raw_os_error(number)).kind(), ErrorKind::Full);
        }
        assert_eq!(Error::io("cannot write", io::Error::from_raw_os_error(5)).kind(), ErrorKind::Io);
    }

    #[test]
    fn the_subject_is_said_once_and_can_be_left_out() {
        let error = Error::corrupt("it is too short").about("packs/ab").context("cannot count");
        assert_eq!(error.to_string(), "cannot count: packs/ab: it is too short");
        assert_eq!((error.subject(), error.without_subject().as_str()), (Some("packs/ab"), "cannot count: it is too short"));
        let error = error.about("snapshots/cd");
        assert_eq!(error.subject(), Some("snapshots/cd"));
        assert_eq!(error.to_string(), "snapshots/cd: cannot count: packs/ab: it is too short");
        let failed = Error::io("cannot read", io::Error::other("why")).about("x");
        assert_eq!((failed.to_string(), failed.without_subject()), ("x: cannot read: why".into(), "cannot read: why".into()));
    }
}
