//! Answers of a store that are documents, and documents that it is sent.

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};
use crate::model::Timestamp;
use crate::model::bucket::BucketEntry;
use crate::remote::s3::sign::encoded;

/// A page of a list.
#[derive(Debug)]
pub(crate) struct BucketPage {
    /// Objects.
    pub(crate) entries: Vec<BucketEntry>,
    /// Where the next page begins; `None` at the end.
    pub(crate) token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListBucketResult {
    is_truncated: bool,
    encoding_type: Option<String>,
    next_continuation_token: Option<String>,
    #[serde(default)]
    contents: Vec<Contents>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Contents {
    key: String,
    last_modified: String,
    #[serde(rename = "ETag")]
    etag: String,
    size: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tagging {
    tag_set: TagSet,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TagSet {
    #[serde(default)]
    tag: Vec<Tag>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InitiateMultipartUploadResult {
    upload_id: String,
}

fn parsed<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    let wrong = |e: &dyn std::fmt::Display| Error::new(ErrorKind::Io, format!("the store's answer cannot be read: {e}"));
    let text = std::str::from_utf8(bytes).map_err(|e| wrong(&e))?;
    quick_xml::de::from_str(text).map_err(|e| wrong(&e))
}

/// A page of a list of objects.
pub(super) fn page(bytes: &[u8]) -> Result<BucketPage> {
    let ListBucketResult { is_truncated, encoding_type, next_continuation_token, contents } = parsed(bytes)?;
    let encoded = encoding_type.as_deref() == Some("url");
    let entry = |Contents { key, last_modified, etag, size }: Contents| {
        let key = if encoded { decoded(key.as_bytes()) } else { key.into_bytes() };
        Ok(BucketEntry { key, size, modified: time(&last_modified)?, etag: etag.into_bytes(), version: None })
    };
    let entries = contents.into_iter().map(entry).collect::<Result<_>>()?;
    Ok(BucketPage { entries, token: next_continuation_token.filter(|_| is_truncated) })
}

/// A time of a list.
pub(super) fn time(text: &str) -> Result<Timestamp> {
    let wrong = || Error::new(ErrorKind::Io, format!("the store's list has a time that is none: {text:?}"));
    let at: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    Ok(Timestamp { secs: at.as_second(), nanos: at.subsec_nanosecond().unsigned_abs() })
}

/// Bytes that were written with `%XX`, and with `+` for a space.
pub(super) fn decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        let hex = after.get(..2).filter(|_| *byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        let hex = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(hex.unwrap_or(if *byte == b'+' { b' ' } else { *byte }));
        rest = after.get(if hex.is_some() { 2.. } else { 0.. }).unwrap_or_default();
    }
    out
}

/// The tags of an object, as a header has them.
pub(super) fn tags(bytes: &[u8]) -> Result<Vec<u8>> {
    let Tagging { tag_set } = parsed(bytes)?;
    let mut tags: Vec<String> = tag_set
        .tag
        .iter()
        .map(|Tag { key, value }| format!("{}={}", encoded(key.as_bytes(), b""), encoded(value.as_bytes(), b"")))
        .collect();
    tags.sort_unstable();
    Ok(tags.join("&").into_bytes())
}

/// The id of an upload in parts.
pub(super) fn upload(bytes: &[u8]) -> Result<String> {
    Ok(parsed::<InitiateMultipartUploadResult>(bytes)?.upload_id)
}

/// What makes an object of its parts, which are these ETags.
pub(crate) fn parts(etags: &[String]) -> String {
    let part = |(number, etag): (usize, &String)| {
        format!("<Part><PartNumber>{}</PartNumber><ETag>{}</ETag></Part>", number + 1, quick_xml::escape::escape(etag.as_str()))
    };
    let parts: String = etags.iter().enumerate().map(part).collect();
    format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
}

/// Where a bucket is to be made.
pub(crate) fn location(region: &str) -> String {
    let region = quick_xml::escape::escape(region);
    format!("<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_tags_are_read() {
        let text = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name>\
                    <IsTruncated>true</IsTruncated><EncodingType>url</EncodingType>\
                    <NextContinuationToken>t+/=</NextContinuationToken><Contents><Key>a%2Fb+%FF%2B</Key>\
                    <LastModified>2026-11-29T05:00:00.250Z</LastModified><ETag>&quot;e&quot;</ETag><Size>7</Size></Contents>\
                    <CommonPrefixes><Prefix>x</Prefix></CommonPrefixes></ListBucketResult>";
        let page = page(text.as_bytes()).unwrap();
        assert_eq!(page.token.as_deref(), Some("t+/="));
        let [entry] = page.entries.as_slice() else { panic!("{page:?}") };
        assert_eq!((entry.key.as_slice(), entry.size, entry.etag.as_slice()), (&b"a/b \xff+"[..], 7, &b"\"e\""[..]));
        assert_eq!(entry.modified.nanos, 250_000_000);
        let text = "<Tagging><TagSet><Tag><Key>b c</Key><Value>1</Value></Tag><Tag><Key>a</Key><Value/></Tag></TagSet></Tagging>";
        assert_eq!(tags(text.as_bytes()).unwrap(), b"a=&b%20c=1");
        assert_eq!(tags(b"<Tagging><TagSet/></Tagging>").unwrap(), b"");
        assert!(tags(b"no").is_err() && super::page(b"").is_err());
    }
}
