//! Reading an object, also over a connection that breaks.

use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::header::RANGE;
use object_store::client::HttpResponseBody;

use crate::error::{Error, ErrorKind, Result};
use crate::model::bucket::{ObjectFacts, attribute};
use crate::remote::s3::MOST_ATTEMPTS;
use crate::remote::s3::bucket::{BucketClient, StoreCall, facts, of_version};
use crate::remote::s3::fault::{Trouble, judge_cause};

/// What comes of an object when more of it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyPiece {
    /// So many bytes.
    Bytes(usize),
    /// It was all.
    End,
    /// Another object has its key by now.
    Replaced,
}

/// An object that is being read.
#[derive(Debug)]
pub struct ObjectBody {
    client: Arc<BucketClient>,
    key: Vec<u8>,
    version: Option<Vec<u8>>,
    facts: ObjectFacts,
    tags: u64,
    at: u64,
    /// What comes; `None` at the end, and where the connection broke.
    body: Option<HttpResponseBody>,
    broken: u32,
}

impl BucketClient {
    /// Begins to read an object, or a version of it; `None` when it is not there.
    pub fn open(self: &Arc<Self>, key: &[u8], version: Option<&[u8]>) -> Result<Option<ObjectBody>> {
        let raw_query = of_version(version);
        match self.wait(self.patiently(&StoreCall { key: Some(key), raw_query, ..StoreCall::default() })) {
            Ok(answer) => {
                let (facts, tags) = (facts::of(answer.headers())?, facts::tags(answer.headers()));
                let (client, body) = (self.clone(), Some(answer.into_body()));
                let (key, version) = (key.to_vec(), version.map(<[u8]>::to_vec));
                Ok(Some(ObjectBody { client, key, version, facts, tags, at: 0, body, broken: 0 }))
            }
            Err(Trouble::Missing) => Ok(None),
            Err(trouble) => Err(trouble.error()),
        }
    }
}

impl ObjectBody {
    /// What the store says of it; without its tags.
    pub(crate) fn facts(&self) -> &ObjectFacts {
        &self.facts
    }

    /// The next bytes, appended to `out`.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Result<BodyPiece> {
        while self.at < self.facts.size {
            let Some(body) = &mut self.body else {
                match self.go_on()? {
                    true => continue,
                    false => return Ok(BodyPiece::Replaced),
                }
            };
            let frame = self.client.wait(async { Ok::<_, Error>(body.frame().await) })?;
            let e = match frame {
                Some(Ok(frame)) => {
                    let bytes = frame.into_data().unwrap_or_default();
                    if bytes.is_empty() {
                        continue;
                    }
                    self.at += bytes.len() as u64;
                    if self.at > self.facts.size {
                        return Err(Error::new(ErrorKind::Io, "the store sends more than the object has"));
                    }
                    out.extend_from_slice(&bytes);
                    return Ok(BodyPiece::Bytes(bytes.len()));
                }
                Some(Err(e)) => judge_cause(&e, self.client.renewable).error(),
                None => Error::new(ErrorKind::Io, "the store's answer was cut"),
            };
            self.body = None;
            self.broken += 1;
            if self.broken == MOST_ATTEMPTS {
                return Err(e.context("given up after several attempts"));
            }
        }
        self.body = None;
        Ok(BodyPiece::End)
    }

    /// Asks for the rest; false when it is another object's.
    fn go_on(&mut self) -> Result<bool> {
        let headers = vec![(RANGE, format!("bytes={}-", self.at).into_bytes())];
        let raw_query = of_version(self.version.as_deref());
        let call = StoreCall { key: Some(&self.key), headers, raw_query, ..StoreCall::default() };
        match self.client.wait(self.client.patiently(&call)) {
            Ok(answer) => {
                let now = facts::of(answer.headers())?;
                let same = now.etag == self.facts.etag && now.size == self.facts.size;
                if same && answer.status() != StatusCode::PARTIAL_CONTENT {
                    return Err(Error::new(ErrorKind::Io, "the store does not send a part of an object"));
                }
                self.body = same.then(|| answer.into_body());
                Ok(same)
            }
            // It was deleted, or is shorter.
            Err(Trouble::Missing | Trouble::Beyond) => Ok(false),
            Err(trouble) => Err(trouble.error()),
        }
    }

    /// What there is to know of it, when it was read to its end.
    pub fn finish(mut self) -> Result<ObjectFacts> {
        // One request at a time: the connection is free for the tags.
        self.body = None;
        if self.tags > 0 {
            match self.client.tags(&self.key, self.version.as_deref()) {
                Ok(tags) => self.facts.attributes.push((attribute::TAGS.to_vec(), tags)),
                Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
                Err(e) => self.facts.failed = Some(format!("its tags cannot be read: {e}")),
            }
            self.facts.attributes.sort_unstable();
        }
        Ok(self.facts)
    }
}
