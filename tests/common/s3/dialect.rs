//! What the stores say differently: credentials, conditions, metadata, refusals.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use base64::prelude::{BASE64_STANDARD, Engine};
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use hyper::http::request::Parts;

use super::answer::{Answer, plain, refusal};
use super::handle::{decoded, parameter};
use super::{ACCOUNT, ACCOUNT_KEY, BUCKET, Kind, SAS};

/// How a request speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    S3,
    Google,
    Azure,
}

impl Dialect {
    pub fn of(parts: &Parts) -> Dialect {
        let token = parts.headers.get(AUTHORIZATION).is_some_and(|v| v.as_bytes().starts_with(b"Bearer"));
        match parts.uri.path().starts_with(&format!("/{ACCOUNT}/")) {
            true => Dialect::Azure,
            false if token => Dialect::Google,
            false => Dialect::S3,
        }
    }

    /// The key of the object, empty for the bucket; `None` in another bucket.
    pub fn key(self, parts: &Parts) -> Option<String> {
        // Google's clients write all but letters and digits of keys as %XX.
        let path = decoded(&parts.uri.path().replace('+', "%2B")).unwrap();
        let path = match self {
            Dialect::Azure => path.strip_prefix(&format!("/{ACCOUNT}")).unwrap().to_owned(),
            Dialect::S3 | Dialect::Google => path,
        };
        // Both styles: the bucket is in the path, or in the host's name.
        let host = parts.headers.get("host").map_or("", |host| host.to_str().unwrap());
        if host.starts_with(&format!("{BUCKET}.")) {
            return Some(path.trim_start_matches('/').to_owned());
        }
        path.strip_prefix(&format!("/{BUCKET}")).map(|rest| rest.trim_start_matches('/').to_owned())
    }

    /// Who asks; `None` for who shows nothing that counts.
    pub fn access(self, parts: &Parts) -> Option<String> {
        let shown = parts.headers.get(AUTHORIZATION).map(|v| v.to_str().unwrap()).unwrap_or_default();
        if let Some(token) = shown.strip_prefix("Bearer") {
            return Some(token.trim().to_owned());
        }
        let query = parts.uri.query().unwrap_or_default();
        match self {
            Dialect::S3 if shown.starts_with("AWS4-HMAC-SHA256 ") => {
                let (_, rest) = shown.split_once("Credential=")?;
                rest.split('/').next().map(str::to_owned)
            }
            Dialect::Azure if shown == format!("SharedKey {ACCOUNT}:{}", shared_key(parts)) => Some("the key".to_owned()),
            Dialect::Azure if shown.is_empty() && parameter(query, "sig").as_deref() == Some(SAS) => Some("a SAS".to_owned()),
            _ => None,
        }
    }

    pub fn is_list(self, query: &str) -> bool {
        let (name, value) = if self == Dialect::Azure { ("comp", "list") } else { ("list-type", "2") };
        parameter(query, name).as_deref() == Some(value)
    }

    /// The parameter that says where a page begins.
    pub fn marker(self) -> &'static str {
        if self == Dialect::Azure { "marker" } else { "continuation-token" }
    }

    /// The header of an object's class, and how those of its metadata begin.
    pub fn headers(self) -> [&'static str; 2] {
        match self {
            Dialect::S3 => ["x-amz-storage-class", "x-amz-meta-"],
            Dialect::Google => ["x-goog-storage-class", "x-goog-meta-"],
            Dialect::Azure => ["x-ms-access-tier", "x-ms-meta-"],
        }
    }

    /// Whether a PUT wants to be the first.
    pub fn is_create(self, headers: &HeaderMap) -> bool {
        let (name, value) = match self {
            Dialect::Google => ("x-goog-if-generation-match", "0"),
            Dialect::S3 | Dialect::Azure => ("if-none-match", "*"),
        };
        headers.get(name).is_some_and(|v| v == value)
    }

    /// What is wrong with a PUT, whatever it puts.
    pub fn wrong(self, headers: &HeaderMap) -> Option<Answer> {
        let word = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let named = |name: &str| name.strip_prefix("x-ms-meta-").is_none_or(word);
        match self {
            Dialect::Azure if headers.get("x-ms-blob-type").is_none_or(|v| v != "BlockBlob") => {
                Some(self.refused(Kind::Put, 400, "InvalidHeaderValue"))
            }
            Dialect::Azure if !headers.keys().all(|name| named(name.as_str())) => {
                Some(self.refused(Kind::Put, 400, "InvalidMetadata"))
            }
            _ => None,
        }
    }

    /// The answer to who wanted to be the first, and is not.
    pub fn exists(self) -> Answer {
        match self {
            Dialect::Azure => self.refused(Kind::Put, 409, "BlobAlreadyExists"),
            Dialect::S3 | Dialect::Google => self.refused(Kind::Put, 412, "PreconditionFailed"),
        }
    }

    /// HEAD has no body; Azure says why in a header.
    pub fn refused(self, kind: Kind, status: u16, code: &str) -> Answer {
        let code = match code {
            "NoSuchKey" if self == Dialect::Azure => "BlobNotFound",
            "NoSuchBucket" if self == Dialect::Azure => "ContainerNotFound",
            "AccessDenied" if self == Dialect::Azure => "AuthenticationFailed",
            "InvalidObjectState" if self == Dialect::Azure => "BlobArchived",
            code => code,
        };
        let mut answer = if kind == Kind::Head { plain(status, "") } else { refusal(status, code) };
        if self == Dialect::Azure {
            answer.headers_mut().insert("x-ms-error-code", code.parse().unwrap());
        }
        answer
    }
}

/// What signs a request with the account's key: <https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key>.
fn shared_key(parts: &Parts) -> String {
    let header = |name: &str| parts.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default();
    let mut text = format!("{}\n", parts.method);
    for name in ["content-encoding", "content-language", "content-length", "content-md5", "content-type", "date"] {
        // An empty body has no length.
        let value = if name == "content-length" && header(name) == "0" { "" } else { header(name) };
        text += &format!("{value}\n");
    }
    for name in ["if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"] {
        text += &format!("{}\n", header(name));
    }
    let own: BTreeMap<&str, &str> = parts.headers.keys().map(|name| (name.as_str(), header(name.as_str()))).collect();
    own.iter().filter(|(name, _)| name.starts_with("x-ms-")).for_each(|(name, value)| text += &format!("{name}:{value}\n"));
    text += &format!("/{ACCOUNT}{}", parts.uri.path());
    let query = parts.uri.query().unwrap_or_default();
    let pairs: BTreeMap<&str, String> =
        query.split('&').filter_map(|pair| pair.split_once('=')).map(|(n, v)| (n, decoded(v).unwrap())).collect();
    pairs.iter().for_each(|(name, value)| text += &format!("\n{name}:{value}"));
    let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64_STANDARD.decode(ACCOUNT_KEY).unwrap());
    BASE64_STANDARD.encode(hmac::sign(&key, text.as_bytes()).as_ref())
}
