//! Answers of the server, whole and broken.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::{Response, StatusCode};

use super::Object;

/// A body of which not all may come.
#[derive(Debug)]
pub struct Content {
    bytes: Option<Bytes>,
    length: u64,
    broken: bool,
}

impl Content {
    pub fn whole(bytes: impl Into<Bytes>) -> Content {
        let bytes = bytes.into();
        Content { length: bytes.len() as u64, bytes: Some(bytes), broken: false }
    }

    /// Half of it, then the connection ends.
    pub fn half(self) -> Content {
        let half = self.bytes.map(|bytes| bytes.slice(..bytes.len() / 2));
        Content { bytes: half, length: self.length, broken: true }
    }

    /// No bytes, where a length is said: of HEAD.
    pub fn none() -> Content {
        Content { bytes: None, length: 0, broken: false }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(match self.bytes.take() {
            Some(bytes) if !bytes.is_empty() => Some(Ok(Frame::data(bytes))),
            _ if self.broken => Some(Err(io::ErrorKind::BrokenPipe.into())),
            _ => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        !self.broken && self.bytes.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

pub type Answer = Response<Content>;

/// An answer with this status.
pub fn plain(status: u16, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Content::whole(body));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer.headers_mut().insert("server", "yester-test-s3".parse().unwrap());
    answer
}

/// A refusal as S3 says it.
pub fn refusal(status: u16, code: &str) -> Answer {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>told to</Message><RequestId>1</RequestId></Error>"
    );
    plain(status, text)
}

/// The ETag of these bytes.
pub fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", &blake3::hash(bytes).to_hex()[..32])
}

/// The time as HTTP says it.
pub fn http_date(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap();
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// One page of a list.
pub struct Page<'a> {
    pub prefix: &'a str,
    pub objects: &'a [(&'a String, &'a Object)],
    /// Whether there are more, and where they begin.
    pub more: bool,
    pub token: Option<String>,
}

impl Page<'_> {
    pub fn xml(&self) -> String {
        let mut out = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Name>{}</Name><Prefix>{}</Prefix><KeyCount>{}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>{}</IsTruncated>",
            super::BUCKET,
            self.prefix,
            self.objects.len(),
            self.more
        );
        for (key, object) in self.objects {
            let modified = jiff::Timestamp::try_from(object.modified).unwrap().strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
            let class = object.headers.iter().find(|(name, _)| name.ends_with("-storage-class"));
            let class = class.map_or("STANDARD", |(_, class)| class.as_str());
            let (etag, size) = (etag(&object.bytes).replace('"', "&quot;"), object.bytes.len());
            out += &format!(
                "<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>{etag}</ETag><Size>{size}</Size>\
                 <StorageClass>{class}</StorageClass></Contents>"
            );
        }
        if let Some(token) = &self.token {
            out += &format!("<NextContinuationToken>{token}</NextContinuationToken>");
        }
        out + "</ListBucketResult>"
    }

    /// The same as Azure says it.
    pub fn azure(&self) -> String {
        let mut out = format!(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ServiceEndpoint=\"http://h/\" \
             ContainerName=\"{}\"><Prefix>{}</Prefix><Blobs>",
            super::BUCKET,
            self.prefix
        );
        for (key, object) in self.objects {
            let tier = object.headers.iter().find(|(name, _)| name == "x-ms-access-tier");
            let tier = tier.map_or("Hot", |(_, tier)| tier.as_str());
            let (etag, size, modified) = (etag(&object.bytes), object.bytes.len(), http_date(object.modified));
            out += &format!(
                "<Blob><Name>{key}</Name><Properties><Creation-Time>{modified}</Creation-Time><Last-Modified>{modified}\
                 </Last-Modified><Etag>{etag}</Etag><Content-Length>{size}</Content-Length><Content-Type>application/\
                 octet-stream</Content-Type><Content-Encoding /><BlobType>BlockBlob</BlobType><AccessTier>{tier}</AccessTier>\
                 <LeaseStatus>unlocked</LeaseStatus></Properties><OrMetadata /></Blob>"
            );
        }
        let next = self.token.as_ref().map_or("<NextMarker />".to_owned(), |t| format!("<NextMarker>{t}</NextMarker>"));
        format!("{out}</Blobs>{next}</EnumerationResults>")
    }
}
