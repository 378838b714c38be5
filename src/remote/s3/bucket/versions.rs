//! Versions of objects and delete markers: listing them, and having a bucket keep them.

use bytes::Bytes;
use hyper::Method;
use quick_xml::Reader;
use quick_xml::events::Event;

use crate::error::{Error, ErrorKind, Result};
use crate::model::bucket::BucketEntry;
use crate::model::versions::ObjectVersion;
use crate::remote::s3::bucket::xml::{decoded, time};
use crate::remote::s3::bucket::{BucketClient, StoreCall};

/// Has a bucket keep versions.
const ENABLED: &str = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>Enabled</Status>\
                       </VersioningConfiguration>";

/// A page of a list of versions.
#[derive(Debug, Default)]
struct VersionPage {
    /// Versions and delete markers, in the order of the list: the newest of a key first.
    entries: Vec<BucketEntry>,
    truncated: bool,
    encoded: bool,
    /// Where the next page begins.
    next_key: Vec<u8>,
    next_version: String,
}

impl BucketClient {
    /// All versions of all objects, and all delete markers; of one key, if that is given.
    pub(crate) fn list_versions(&self, key: Option<&[u8]>) -> Result<Vec<BucketEntry>> {
        let above = self.prefix();
        let whole = [&above[..], key.unwrap_or_default()].concat();
        let (mut out, mut next): (Vec<BucketEntry>, Option<(Vec<u8>, String)>) = (Vec::new(), None);
        loop {
            let mut call = StoreCall::default();
            call.query.extend([("versions", String::new()), ("encoding-type", "url".to_owned())]);
            call.raw_query.push(("prefix", whole.clone()));
            if let Some((key, version)) = &next {
                call.raw_query.push(("key-marker", key.clone()));
                call.query.push(("version-id-marker", version.clone()));
            }
            let page = page(&self.wait(self.asked(&call))?)?;
            for mut entry in page.entries {
                let Some(own) = entry.key.strip_prefix(&above[..]).filter(|key| !key.is_empty()).map(<[u8]>::to_vec) else {
                    continue;
                };
                if key.is_none_or(|key| key == own) {
                    entry.key = own;
                    out.push(entry);
                }
            }
            let now = Some((page.next_key, page.next_version)).filter(|_| page.truncated);
            match now {
                None => return Ok(out),
                now if now == next => return Err(Error::new(ErrorKind::Io, "the store's list of versions goes round")),
                now => next = now,
            }
        }
    }

    /// Has the bucket keep versions.
    pub(crate) fn keep_versions(&self) -> Result<()> {
        let query = vec![("versioning", String::new())];
        let call = StoreCall { method: Method::PUT, query, body: Bytes::from(ENABLED), ..StoreCall::default() };
        self.wait(self.patiently(&call)).map(drop).map_err(|trouble| trouble.error())
    }
}

/// Reads a page. Versions and markers stand among one another, and their order tells which one is the newer one.
fn page(bytes: &[u8]) -> Result<VersionPage> {
    let wrong = |e: &dyn std::fmt::Display| Error::new(ErrorKind::Io, format!("the store's answer cannot be read: {e}"));
    let (mut reader, mut out) = (Reader::from_reader(bytes), VersionPage::default());
    let (mut path, mut text) = (Vec::<Vec<u8>>::new(), String::new());
    let mut item: Vec<(Vec<u8>, String)> = Vec::new();
    loop {
        match reader.read_event().map_err(|e| wrong(&e))? {
            Event::Start(begun) => {
                path.push(begun.local_name().as_ref().to_vec());
                text.clear();
            }
            Event::Empty(_) => {}
            Event::Text(more) => text.push_str(&more.decode().map_err(|e| wrong(&e))?),
            Event::GeneralRef(name) => {
                let name = name.decode().map_err(|e| wrong(&e))?;
                text.push_str(&resolved(&name).ok_or_else(|| wrong(&"an entity that is not known"))?);
            }
            Event::End(_) => {
                let name = path.pop().unwrap_or_default();
                match (path.len(), name.as_slice()) {
                    (1, b"Version" | b"DeleteMarker") => {
                        let marker = name == b"DeleteMarker";
                        out.entries
                            .push(entry(&std::mem::take(&mut item), marker).ok_or_else(|| wrong(&"a version that is none"))?);
                    }
                    (2, _) => item.push((name, std::mem::take(&mut text))),
                    (1, b"IsTruncated") => out.truncated = text == "true",
                    (1, b"EncodingType") => out.encoded = text == "url",
                    (1, b"NextKeyMarker") => out.next_key = std::mem::take(&mut text).into_bytes(),
                    (1, b"NextVersionIdMarker") => out.next_version = std::mem::take(&mut text),
                    (0, b"ListVersionsResult") => break,
                    (0, _) => return Err(wrong(&"it is no list of versions")),
                    _ => {}
                }
                if path.len() == 1 {
                    item.clear();
                }
            }
            Event::Eof => return Err(wrong(&"it ends too early")),
            _ => {}
        }
    }
    if out.encoded {
        out.entries.iter_mut().for_each(|entry| entry.key = decoded(&entry.key));
        out.next_key = decoded(&out.next_key);
    }
    Ok(out)
}

/// What an entity stands for.
fn resolved(name: &str) -> Option<String> {
    let number = |text: &str| match text.strip_prefix('x') {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    match name.strip_prefix('#') {
        Some(text) => char::from_u32(number(text)?).map(String::from),
        None => quick_xml::escape::resolve_predefined_entity(name).map(str::to_owned),
    }
}

fn entry(item: &[(Vec<u8>, String)], marker: bool) -> Option<BucketEntry> {
    let of = |name: &str| item.iter().find(|(known, _)| known == name.as_bytes()).map(|(_, text)| text.as_str());
    let version = ObjectVersion { id: of("VersionId")?.as_bytes().to_vec(), latest: of("IsLatest")? == "true", marker, tie: 0 };
    let (size, etag) = match marker {
        true => (0, Vec::new()),
        false => (of("Size")?.parse().ok()?, of("ETag")?.as_bytes().to_vec()),
    };
    let modified = time(of("LastModified")?).ok()?;
    Some(BucketEntry { key: of("Key")?.as_bytes().to_vec(), size, modified, etag, version: Some(version) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_markers_come_in_their_order() {
        let text = "<?xml version=\"1.0\"?><ListVersionsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name>\
                    <Prefix/><KeyMarker></KeyMarker><MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType>\
                    <IsTruncated>true</IsTruncated><NextKeyMarker>a%2Fb</NextKeyMarker><NextVersionIdMarker>v&amp;1</NextVersionIdMarker>\
                    <DeleteMarker><Key>a%2Fb</Key><VersionId>v3</VersionId><IsLatest>true</IsLatest>\
                    <LastModified>2026-11-29T05:00:01.000Z</LastModified><Owner><ID>x</ID><Size>9</Size></Owner></DeleteMarker>\
                    <Version><Key>a%2Fb</Key><VersionId>v&#x32;</VersionId><IsLatest>false</IsLatest>\
                    <LastModified>2026-11-29T05:00:00.250Z</LastModified><ETag>&quot;e&quot;</ETag><Size>7</Size></Version>\
                    <CommonPrefixes><Prefix>x</Prefix></CommonPrefixes></ListVersionsResult>";
        let page = page(text.as_bytes()).unwrap();
        assert_eq!((page.next_key.as_slice(), page.next_version.as_str(), page.truncated), (&b"a/b"[..], "v&1", true));
        let [marker, version] = page.entries.as_slice() else { panic!("{page:?}") };
        let expected = |id: &str, latest, marker| ObjectVersion { id: id.into(), latest, marker, tie: 0 };
        assert_eq!(marker.version, Some(expected("v3", true, true)));
        assert_eq!((version.key.as_slice(), version.size, version.etag.as_slice()), (&b"a/b"[..], 7, &b"\"e\""[..]));
        assert_eq!((version.modified.nanos, &version.version), (250_000_000, &Some(expected("v2", false, false))));
        for wrong in
            ["", "<Error><Code>x</Code></Error>", "<ListVersionsResult><Version></Version></ListVersionsResult>", "<a><b>"]
        {
            assert!(super::page(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
