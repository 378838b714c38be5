//! What client and server say to each other (docs/protocol.md): paths, headers, capabilities, refusals.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Class, Name};

/// The version of the protocol. A change that an older side would misunderstand gets a new one.
pub(crate) const VERSION: u32 = 1;
/// On every request and every answer: the version. An answer without it is not from our server.
pub(crate) const VERSION_HEADER: &str = "yester-protocol";
/// On requests: the repository, a name for a server and a path in hexadecimal over ssh. Compared, never joined.
pub(crate) const REPOSITORY_HEADER: &str = "yester-repository";
/// On uploads: BLAKE3 of the body.
pub(crate) const CONTENT_HEADER: &str = "yester-content";
/// The first line of `serve --stdio`: what comes before is somebody's greeting.
pub(crate) const GREETING: &str = "yester serve --stdio, protocol 1\n";
/// The most bytes of headers of a request or an answer.
pub(crate) const MAX_HEADERS: u32 = 16 << 10;

/// The name of a repository on a server: one component, made of harmless characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryName(String);

impl RepositoryName {
    /// Parses a name: 1 to 64 of `a-z A-Z 0-9 . _ -`, not beginning with a dot or a dash.
    pub fn parse(text: &str) -> Result<Self> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        if first && text.len() <= 64 && text.bytes().all(good) {
            return Ok(RepositoryName(text.to_owned()));
        }
        let rule = "1 to 64 letters, digits, dots, underscores and dashes, beginning with a letter or digit";
        Err(Error::invalid(format!("{:?} is no name of a repository on a server: {rule}", crate::model::escape(text.as_bytes()))))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RepositoryName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        RepositoryName::parse(&text)
    }
}

impl From<RepositoryName> for String {
    fn from(name: RepositoryName) -> String {
        name.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Create packs, segments, own sessions, and snapshots under own sessions.
    Put,
    /// Read objects.
    Get,
    /// List objects.
    List,
    /// Forget, mark packs for deletion, fence others, delete, change configuration and keys.
    Prune,
    /// Read the server's counters.
    Metrics,
    /// Ask for jobs, list and cancel them.
    Jobs,
    /// Take jobs, and say what became of them.
    Agent,
}

impl Capability {
    /// All of them.
    pub(crate) const ALL: [Capability; 7] = [
        Capability::Put,
        Capability::Get,
        Capability::List,
        Capability::Prune,
        Capability::Metrics,
        Capability::Jobs,
        Capability::Agent,
    ];
    /// What a token gets when nothing is said: enough for everything but deleting.
    pub const APPEND_ONLY: [Capability; 3] = [Capability::Put, Capability::Get, Capability::List];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Capability::Put => "put",
            Capability::Get => "get",
            Capability::List => "list",
            Capability::Prune => "prune",
            Capability::Metrics => "metrics",
            Capability::Jobs => "jobs",
            Capability::Agent => "agent",
        }
    }

    /// The capability of this name.
    pub fn parse(text: &str) -> Result<Self> {
        let found = Capability::ALL.into_iter().find(|c| c.name() == text);
        found.ok_or_else(|| Error::invalid(format!("{text:?} is no capability: put, get, list, prune, metrics, jobs or agent")))
    }
}

/// Why a request is refused: what a client acts on, and the status that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// 400: the request makes no sense.
    Invalid,
    /// 401: no token, an unknown one, or one that has expired.
    Unauthorized,
    /// 403: the token is for another repository, or lacks the capability.
    Forbidden,
    /// 404: there is no repository.
    NoRepository,
    /// 404: there is no such object.
    NotFound,
    /// 408: the client sent nothing, or too little, for too long.
    TooSlow,
    /// 409: the name is taken, by other bytes; or a session has no outcome yet.
    Conflict,
    /// 411: an upload without a length.
    NoLength,
    /// 413: longer than an object of this class may be.
    TooLong,
    /// 416: the range lies beyond the end.
    Range,
    /// 422: the content is not what its name or its hash says.
    Mismatch,
    /// 422: no object of this repository has this form.
    Malformed,
    /// 426: the protocol's version is unknown here.
    Version,
    /// 429: too many requests at once.
    TooMany,
    /// 500: the server failed.
    Failed,
    /// 503: the server is stopping, or what it stands on does not answer.
    Unavailable,
    /// 504: nobody can tell whether the object was stored.
    Unsettled,
    /// 507: the token's quota is used up.
    Quota,
    /// 507: the server's disk is full.
    NoSpace,
}

impl Code {
    /// The word that stands for it in an answer.
    pub(crate) fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Code::Invalid => 400,
            Code::Unauthorized => 401,
            Code::Forbidden => 403,
            Code::NoRepository | Code::NotFound => 404,
            Code::TooSlow => 408,
            Code::Conflict => 409,
            Code::NoLength => 411,
            Code::TooLong => 413,
            Code::Range => 416,
            Code::Mismatch | Code::Malformed => 422,
            Code::Version => 426,
            Code::TooMany => 429,
            Code::Failed => 500,
            Code::Unavailable => 503,
            Code::Unsettled => 504,
            Code::Quota | Code::NoSpace => 507,
        }
    }

    /// What a caller of the client gets.
    pub fn kind(self) -> ErrorKind {
        match self {
            Code::Invalid | Code::NoLength => ErrorKind::Invalid,
            Code::Unauthorized => ErrorKind::Key,
            Code::NoRepository => ErrorKind::NoRepository,
            Code::NotFound => ErrorKind::NotFound,
            Code::Conflict => ErrorKind::Exists,
            Code::Range | Code::Mismatch | Code::Malformed => ErrorKind::Corrupt,
            Code::Version => ErrorKind::Unsupported,
            Code::Quota | Code::NoSpace => ErrorKind::Full,
            _ => ErrorKind::Io,
        }
    }
}

/// A refusal, as it stands in the body of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    /// What a client acts on.
    pub error: Code,
    /// A message for people.
    pub(crate) message: String,
}

impl Refusal {
    /// A refusal.
    pub(crate) fn new(error: Code, message: impl Into<String>) -> Self {
        Refusal { error, message: message.into() }
    }
}

/// What `GET /v1/repository` answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// Bytes that can still be stored: of the disk, or of the quota.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<u64>,
    /// What the token may do.
    pub capabilities: Vec<Capability>,
    /// Who the server takes the asker for: the id of the token, or the name of a client over ssh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<String>,
}

/// What `GET` and `DELETE /v1/leftovers` answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeftoversFound {
    /// How many.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// The class whose prefix is `text`.
pub(crate) fn parse_class(text: &str) -> Option<Class> {
    Class::ALL.into_iter().find(|class| class.prefix() == text)
}

/// The path of an object.
pub fn object_path(name: &Name) -> String {
    format!("/v1/objects/{}/{}", name.class().prefix(), name.leaf())
}

/// The path of a list.
pub(crate) fn list_path(class: Class) -> String {
    format!("/v1/objects/{}", class.prefix())
}

/// The longest object of a class.
pub(crate) fn max_object(class: Class) -> u64 {
    class.max_object()
}

/// Whether objects of the class are named by their content: BLAKE3 of all but the last 32 bytes, which are the name.
pub(crate) fn names_content(class: Class) -> bool {
    matches!(class, Class::Packs | Class::Index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_repositories_are_harmless() {
        for good in ["web", "Web-1.x_y", "_", "9"] {
            assert_eq!(RepositoryName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".server", "-x", "a/b", "a b", "a\0", "é", "%2e", &"x".repeat(65)] {
            assert!(RepositoryName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
