//! What a store's refusals and broken connections mean.

use std::fmt;

use crate::error::{Error, ErrorKind, StoreFailure};

/// An answer that is no success, as it came. It travels through the library's errors as their innermost cause.
#[derive(Debug, Clone)]
pub(crate) struct S3Refusal {
    /// The status.
    pub(crate) status: u16,
    /// The code of the error, where the answer had a body.
    pub(crate) code: String,
    /// Its text.
    pub(crate) message: String,
}

impl std::error::Error for S3Refusal {}

impl fmt::Display for S3Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let S3Refusal { status, code, message } = self;
        match (code.is_empty(), message.is_empty()) {
            (true, _) => write!(f, "the store answers with status {status}"),
            (false, true) => write!(f, "the store answers {code} ({status})"),
            (false, false) => write!(f, "the store answers {code} ({status}): {message}"),
        }
    }
}

impl S3Refusal {
    /// Reads the answer's body.
    pub(crate) fn parse(status: u16, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let within = |tag: &str| {
            let (_, rest) = text.split_once(&format!("<{tag}>"))?;
            let (inner, _) = rest.split_once(&format!("</{tag}>"))?;
            let shown: String = inner.chars().filter(|c| !c.is_control()).take(300).collect();
            Some(shown)
        };
        S3Refusal { status, code: within("Code").unwrap_or_default(), message: within("Message").unwrap_or_default() }
    }
}

/// Something that is wrong with a connection before a request went over it.
#[derive(Debug)]
pub(super) struct NotSent(pub Error);

impl std::error::Error for NotSent {}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a request did not succeed.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The object is not there.
    Missing,
    /// The range begins behind the end of the object.
    Beyond,
    /// The name is taken, or another client is creating it: the caller reads the object to tell.
    Taken(Error),
    /// Nothing was done; trying again may help.
    Later(Error),
    /// Nobody can tell whether it was done.
    Unknown(Error),
    /// It was answered, and the answer is older than what is known; trying again may help.
    Stale(Error),
    /// Trying again does not help.
    Final(Error),
}

impl Trouble {
    /// The error behind it.
    pub(super) fn error(self) -> Error {
        match self {
            Trouble::Missing => Error::new(ErrorKind::NotFound, "it is not there"),
            Trouble::Beyond => Error::corrupt("it is too short"),
            Trouble::Taken(e) | Trouble::Later(e) | Trouble::Unknown(e) | Trouble::Stale(e) | Trouble::Final(e) => e,
        }
    }

    /// The error behind it, when nobody waits any longer.
    pub(super) fn given_up(self) -> Error {
        let silent = matches!(&self, Trouble::Later(e) | Trouble::Unknown(e) if e.kind() == ErrorKind::Io);
        let e = self.error().context("given up after several attempts");
        if silent { e.of_store(StoreFailure::GivenUp) } else { e }
    }
}

/// What an error of the library means. `renewable`: credentials that have expired may be replaced while one waits.
pub(super) fn judge(e: &object_store::Error, renewable: bool) -> Trouble {
    match (e, judge_cause(e, renewable)) {
        (object_store::Error::InvalidPath { source }, Trouble::Unknown(_)) => {
            let e = Error::new(ErrorKind::Io, format!("the bucket holds a key that is no path: {source}"));
            Trouble::Final(e.of_store(StoreFailure::Refused))
        }
        (_, trouble) => trouble,
    }
}

/// Whether the store says that it gets too many requests.
pub(super) fn is_slow_down(e: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(e);
    while let Some(e) = cause {
        if let Some(S3Refusal { status, code, .. }) = e.downcast_ref::<S3Refusal>() {
            return matches!(status, 429 | 503) || code == "SlowDown";
        }
        cause = e.source();
    }
    false
}

/// What an error of HTTP means.
pub(super) fn judge_cause(e: &(dyn std::error::Error + 'static), renewable: bool) -> Trouble {
    let mut cause = e;
    loop {
        if let Some(refusal) = cause.downcast_ref::<S3Refusal>() {
            return refused(refusal, renewable);
        }
        if let Some(NotSent(e)) = cause.downcast_ref::<NotSent>() {
            let e = Error::new(e.kind(), e.to_string());
            // Whom not to trust, and a name that is none, stay what they are.
            return if e.kind() == ErrorKind::Io { Trouble::Later(e) } else { Trouble::Final(e) };
        }
        match cause.source() {
            Some(inner) => cause = inner,
            None => break,
        }
    }
    Trouble::Unknown(Error::new(ErrorKind::Io, cause.to_string()))
}

fn refused(refusal: &S3Refusal, renewable: bool) -> Trouble {
    let error = |kind, hint: &str| Error::new(kind, format!("{refusal}{hint}"));
    match (refusal.status, refusal.code.as_str()) {
        (_, "NoSuchBucket" | "ContainerNotFound" | "ContainerBeingDeleted") => {
            Trouble::Final(error(ErrorKind::NoRepository, ": make the bucket first, or name another"))
        }
        (409, "BlobArchived" | "BlobBeingRehydrated") => {
            let hint = ": the blob is archived and has to be thawed; yester restore --plan says how";
            Trouble::Final(error(ErrorKind::Io, hint).of_store(StoreFailure::Frozen))
        }
        // Neither becomes otherwise while one waits.
        (409, "BlobImmutableDueToPolicy" | "SnapshotsPresent") => {
            Trouble::Final(error(ErrorKind::Io, "").of_store(StoreFailure::Refused))
        }
        (404, _) => Trouble::Missing,
        (416, _) => Trouble::Beyond,
        (409 | 412, _) => Trouble::Taken(error(ErrorKind::Io, "")),
        (_, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired") if renewable => {
            Trouble::Later(error(ErrorKind::Key, ": the credentials have expired and were not renewed"))
        }
        // The answer to a HEAD has no body that says why.
        (403, "") if renewable => Trouble::Later(error(ErrorKind::Key, ": the credentials have expired, or do not allow this")),
        (_, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired") => {
            Trouble::Final(error(ErrorKind::Key, ": the credentials have expired; give new ones"))
        }
        (_, "RequestTimeTooSkewed") => {
            Trouble::Final(error(ErrorKind::Key, ": the clocks of this machine and of the store differ; set the clock"))
        }
        (_, "InvalidObjectState") => {
            let hint = ": the object is in a storage class from which it has to be thawed; yester restore --plan says how";
            Trouble::Final(error(ErrorKind::Io, hint).of_store(StoreFailure::Frozen))
        }
        (301 | 307, _) | (400, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            Trouble::Final(error(ErrorKind::Invalid, ": the bucket is in another region, or at another endpoint; see --region"))
        }
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken") => Trouble::Final(error(
            ErrorKind::Key,
            ": the store does not accept the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile)",
        )),
        (_, "AuthenticationFailed" | "InvalidAuthenticationInfo") => Trouble::Final(error(
            ErrorKind::Key,
            ": the store does not accept the credentials (the key or the SAS token of this account and container, before it \
             expires, by a clock that is right)",
        )),
        (403, _) => {
            Trouble::Final(error(ErrorKind::Key, ": the credentials do not allow this; docs/object-stores.md lists the rights"))
        }
        (401, _) => Trouble::Final(error(ErrorKind::Key, ": the store does not accept the credentials")),
        // Refused because of too many requests: nothing was done.
        (429 | 503, _) => Trouble::Later(error(ErrorKind::Io, "")),
        (408 | 500..=599, _) => Trouble::Unknown(error(ErrorKind::Io, "")),
        _ => Trouble::Final(error(ErrorKind::Io, "").of_store(StoreFailure::Refused)),
    }
}
