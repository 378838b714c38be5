//! Writing objects: whole, or in parts.

use bytes::Bytes;
use hyper::Method;
use hyper::header::ETAG;

use crate::error::{Error, ErrorKind, Result};
use crate::remote::s3::bucket::{BucketClient, StoreCall, facts, xml};
use crate::remote::s3::fault::Trouble;

/// Bytes of an object that is written whole, at most, and the least of a part of a longer one.
pub(crate) const PART: usize = 8 << 20;
/// The most parts that an object may have.
const MOST_PARTS: u64 = 10_000;

/// An object that is being written in parts. It is there when it is finished, and not before.
#[derive(Debug)]
pub struct PartedUpload<'a> {
    client: &'a BucketClient,
    key: &'a [u8],
    id: String,
    etags: Vec<String>,
    /// Bytes of each part but the last.
    pub(crate) part: usize,
}

impl BucketClient {
    /// Writes an object with these attributes.
    pub fn put(&self, key: &[u8], attributes: &[(Vec<u8>, Vec<u8>)], bytes: Vec<u8>) -> Result<()> {
        let (headers, body) = (facts::headers(attributes), Bytes::from(bytes));
        let call = StoreCall { method: Method::PUT, key: Some(key), headers, body, ..StoreCall::default() };
        self.wait(self.patiently(&call)).map(drop).map_err(without_bucket)
    }

    /// Begins to write an object of `size` bytes in parts.
    pub fn begin<'a>(&'a self, key: &'a [u8], attributes: &[(Vec<u8>, Vec<u8>)], size: u64) -> Result<PartedUpload<'a>> {
        let (headers, query) = (facts::headers(attributes), vec![("uploads", String::new())]);
        let call = StoreCall { method: Method::POST, key: Some(key), headers, query, ..StoreCall::default() };
        let id = xml::upload(&self.wait(self.asked(&call))?)?;
        let part = usize::try_from(size.div_ceil(MOST_PARTS)).unwrap_or(usize::MAX).max(PART);
        Ok(PartedUpload { client: self, key, id, etags: Vec::new(), part })
    }
}

impl PartedUpload<'_> {
    /// Writes the next part.
    pub fn put(&mut self, bytes: Vec<u8>) -> Result<()> {
        let query = vec![("partNumber", (self.etags.len() + 1).to_string()), ("uploadId", self.id.clone())];
        let call =
            StoreCall { method: Method::PUT, key: Some(self.key), query, body: Bytes::from(bytes), ..StoreCall::default() };
        let answer = self.client.wait(self.client.patiently(&call)).map_err(without_bucket)?;
        let etag = answer.headers().get(ETAG).and_then(|etag| etag.to_str().ok());
        self.etags.push(etag.ok_or_else(|| Error::new(ErrorKind::Io, "the store gives a part no ETag"))?.to_owned());
        Ok(())
    }

    /// Makes the object of its parts.
    pub fn finish(self) -> Result<()> {
        let body = Bytes::from(xml::parts(&self.etags));
        let query = vec![("uploadId", self.id.clone())];
        let call = StoreCall { method: Method::POST, key: Some(self.key), query, body, ..StoreCall::default() };
        let answer = self.client.wait(self.client.asked(&call))?;
        // The answer begins before it is done, and so does not tell by its status.
        match String::from_utf8_lossy(&answer).contains("<Error>") {
            true => Err(Error::new(ErrorKind::Io, "the store cannot make the object of its parts")),
            false => Ok(()),
        }
    }

    /// Takes the parts away again.
    pub(crate) fn give_up(self) {
        let query = vec![("uploadId", self.id.clone())];
        let call = StoreCall { method: Method::DELETE, key: Some(self.key), query, ..StoreCall::default() };
        // The store's own rules remove what this leaves.
        let _ = self.client.wait(self.client.patiently(&call));
    }
}

/// There is nothing that a PUT does not find but the bucket.
fn without_bucket(trouble: Trouble) -> Error {
    match trouble {
        Trouble::Missing => Error::new(ErrorKind::NotFound, "the bucket is not there"),
        trouble => trouble.error(),
    }
}
