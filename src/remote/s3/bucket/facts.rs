//! What the headers of an answer say of an object, and headers that say it again.

use hyper::HeaderMap;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, LAST_MODIFIED};

use crate::error::{Error, ErrorKind, Result};
use crate::model::Timestamp;
use crate::model::bucket::{ObjectAttributes, ObjectFacts, attribute};

/// What metadata of the user is called in headers.
const METADATA: &str = "x-amz-meta-";
const CLASS: &str = "x-amz-storage-class";
const TAGGING: &str = "x-amz-tagging";
/// The class that is meant where none is said.
const STANDARD: &[u8] = b"STANDARD";

/// What an answer says. Tags are not in it.
pub(super) fn of(headers: &HeaderMap) -> Result<ObjectFacts> {
    let lacks = |what: &str| Error::new(ErrorKind::Io, format!("the store does not say {what} of an object"));
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let whole = text(CONTENT_RANGE).map(|range| range.rsplit('/').next().unwrap_or_default());
    let size = whole.or_else(|| text(CONTENT_LENGTH)).and_then(|size| size.parse().ok()).ok_or_else(|| lacks("the length"))?;
    let etag = headers.get(ETAG).ok_or_else(|| lacks("the ETag"))?.as_bytes().to_vec();
    let modified = text(LAST_MODIFIED).and_then(|time| jiff::fmt::rfc2822::parse(time).ok());
    let modified = modified.map(|time| time.timestamp()).ok_or_else(|| lacks("the time"))?;
    let modified = Timestamp { secs: modified.as_second(), nanos: modified.subsec_nanosecond().unsigned_abs() };
    let mut attributes = ObjectAttributes::new();
    attributes.push((attribute::ETAG.to_vec(), etag.clone()));
    for name in headers.keys() {
        let values: Vec<&[u8]> = headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
        if let Some(own) = attribute_of(name.as_str()) {
            attributes.push((own, values.join(&b',')));
        }
    }
    attributes.sort_unstable();
    Ok(ObjectFacts { size, modified, etag, attributes, failed: None })
}

/// How many tags an object has, if the store says so.
pub(crate) fn tags(headers: &HeaderMap) -> u64 {
    headers.get("x-amz-tagging-count").and_then(|count| count.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// The attribute that keeps a header.
fn attribute_of(header: &str) -> Option<Vec<u8>> {
    if header == CLASS {
        return Some(attribute::CLASS.to_vec());
    }
    if let Some(name) = header.strip_prefix(METADATA) {
        return Some(format!("{}{name}", attribute::METADATA).into_bytes());
    }
    attribute::HEADERS.contains(&header).then(|| format!("{}{header}", attribute::PREFIX).into_bytes())
}

/// The headers with which an object of these attributes is written. What is no header of an object is left out.
pub(crate) fn headers(attributes: &[(Vec<u8>, Vec<u8>)]) -> Vec<(HeaderName, Vec<u8>)> {
    let header = |(name, value): &(Vec<u8>, Vec<u8>)| {
        let text = std::str::from_utf8(name).ok()?.strip_prefix(attribute::PREFIX)?;
        let header = match text {
            _ if name == attribute::TAGS => TAGGING.to_owned(),
            _ if name == attribute::CLASS && value == STANDARD => return None,
            _ if name == attribute::CLASS => CLASS.to_owned(),
            _ if attribute::HEADERS.contains(&text) => text.to_owned(),
            _ => format!("{METADATA}{}", text.strip_prefix("meta.")?),
        };
        Some((HeaderName::from_bytes(header.as_bytes()).ok()?, value.clone()))
    };
    attributes.iter().filter_map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_were() {
        let mut given = HeaderMap::new();
        for (name, value) in [
            ("content-length", "5"),
            ("etag", "\"x\""),
            ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("content-type", "text/plain"),
            ("cache-control", "no-cache"),
            ("x-amz-meta-owner", "me"),
            ("x-amz-storage-class", "STANDARD_IA"),
            ("x-amz-request-id", "1"),
            ("server", "x"),
        ] {
            given.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        let facts = of(&given).unwrap();
        assert_eq!((facts.size, facts.modified.secs, facts.etag.as_slice()), (5, 784_111_777, &b"\"x\""[..]));
        let mut names: Vec<String> = headers(&facts.attributes).into_iter().map(|(name, _)| name.to_string()).collect();
        names.sort_unstable();
        assert_eq!(names, ["cache-control", "content-type", "x-amz-meta-owner", "x-amz-storage-class"]);
        given.insert(CONTENT_RANGE, "bytes 2-4/9".parse().unwrap());
        assert_eq!(of(&given).unwrap().size, 9);
        given.remove(ETAG);
        assert!(of(&given).is_err());
    }
}
