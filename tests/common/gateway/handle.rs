//! What the gateway does with a request.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Request};

use super::{Asked, Gateway, Object, Upload, Version, signature};
use crate::common::s3::answer::{Answer, Content, etag, http_date, plain, refusal};

/// Headers that are kept with an object.
const KEPT: [&str; 6] =
    ["cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "x-amz-storage-class"];

/// Answers a request; an error ends the connection.
pub async fn handle(gateway: Arc<Gateway>, request: Request<Incoming>) -> io::Result<Answer> {
    let arrived = Instant::now();
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().strip_prefix('/').unwrap().to_owned();
    let (bucket, key) = path.split_once('/').map_or((path.as_str(), ""), |(bucket, key)| (bucket, key));
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let asked =
        Asked { method: parts.method.to_string(), bucket: bucket.to_owned(), key: decoded(key), query, access: String::new() };
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let refused = |status, code| if asked.method == "HEAD" { plain(status, "") } else { refusal(status, code) };
    if let Some(code) = limited(&gateway, arrived) {
        return Ok(refused(503, code));
    }
    let signed = signature::check(&parts, &body, &gateway.keys.lock());
    let access = match signed {
        Ok(access) => access,
        Err(code) => return Ok(refused(403, code)),
    };
    let asked = Asked { access, ..asked.clone() };
    gateway.asked.lock().push(asked.clone());
    let hook = gateway.hook.lock().clone();
    if let Some((status, code)) = hook.and_then(|hook| hook(&asked, &gateway)) {
        return Ok(refused(status, code));
    }
    let answer = match (asked.method.as_str(), asked.key.is_empty()) {
        (_, true) => of_bucket(&gateway, &asked),
        ("GET" | "HEAD", _) if asked.query.contains("tagging=") => tagging(&gateway, &asked),
        ("GET" | "HEAD", _) => get(&gateway, &asked, &parts.headers),
        ("PUT", _) => put(&gateway, &asked, &parts.headers, body),
        ("POST", _) => post(&gateway, &asked, &parts.headers),
        ("DELETE", _) => delete(&gateway, &asked),
        _ => refusal(501, "NotImplemented"),
    };
    Ok(if asked.method == "HEAD" { answer.map(|_| Content::none()) } else { answer })
}

/// A token bucket that begins full would allow two seconds' worth in one: so every second is looked at.
fn limited(gateway: &Gateway, arrived: Instant) -> Option<&'static str> {
    let mut gate = gateway.gate.lock();
    if gate.slow > 0 {
        gate.slow -= 1;
        return Some("SlowDown");
    }
    let rate = gate.rate?;
    while gate.arrivals.front().is_some_and(|before| arrived.saturating_duration_since(*before) >= Duration::from_secs(1)) {
        gate.arrivals.pop_front();
    }
    if gate.arrivals.len() >= rate {
        gate.over += 1;
        return Some("SlowDown");
    }
    gate.arrivals.push_back(arrived);
    None
}

fn of_bucket(gateway: &Gateway, asked: &Asked) -> Answer {
    let mut buckets = gateway.buckets.lock();
    match asked.method.as_str() {
        "PUT" if asked.query == "versioning=" && buckets.contains_key(&asked.bucket) => {
            gateway.versions.lock().entry(asked.bucket.clone()).or_default();
            plain(200, "")
        }
        "PUT" => match buckets.contains_key(&asked.bucket) {
            true => refusal(409, "BucketAlreadyOwnedByYou"),
            false => {
                buckets.insert(asked.bucket.clone(), BTreeMap::new());
                plain(200, "")
            }
        },
        _ if !buckets.contains_key(&asked.bucket) => match asked.method.as_str() {
            "HEAD" => plain(404, ""),
            _ => refusal(404, "NoSuchBucket"),
        },
        "GET" if asked.query.contains("versions=") => list_versions(gateway, &buckets[&asked.bucket], asked),
        "GET" => list(&buckets[&asked.bucket], &asked.query, *gateway.page.lock()),
        _ => plain(200, ""),
    }
}

fn list(objects: &super::Objects, query: &str, most: usize) -> Answer {
    let prefix = parameter(query, "prefix").unwrap_or_default();
    let after = parameter(query, "continuation-token").map(|token| decoded(&String::from_utf8(token).unwrap()));
    let found: Vec<_> =
        objects.iter().filter(|(key, _)| key.starts_with(&prefix) && after.as_ref().is_none_or(|after| *key > after)).collect();
    let page = &found[..found.len().min(most)];
    let more = found.len() > page.len();
    let mut out = format!("<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{more}</IsTruncated>");
    for (key, object) in page {
        let modified = jiff::Timestamp::try_from(object.modified).unwrap().strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
        let (key, etag, size) = (encoded(key), etag(&object.bytes).replace('"', "&quot;"), object.bytes.len());
        out += &format!(
            "<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>{etag}</ETag><Size>{size}</Size></Contents>"
        );
    }
    if let Some((key, _)) = page.last().filter(|_| more) {
        out += &format!("<NextContinuationToken>{}</NextContinuationToken>", encoded(key));
    }
    plain(200, out + "</ListBucketResult>")
}

/// Versions of a bucket: the newest of a key first. Where none are kept, each object is one.
fn list_versions(gateway: &Gateway, objects: &super::Objects, asked: &Asked) -> Answer {
    let text = |name: &str| parameter(&asked.query, name).map(|text| String::from_utf8(text).unwrap());
    let prefix = parameter(&asked.query, "prefix").unwrap_or_default();
    let after = parameter(&asked.query, "key-marker").zip(text("version-id-marker"));
    let kept = gateway.versions.lock().get(&asked.bucket).cloned().unwrap_or_default();
    let mut all: Vec<(Vec<u8>, Version, bool)> = Vec::new();
    let keys: std::collections::BTreeSet<&Vec<u8>> =
        objects.keys().chain(kept.keys()).filter(|key| key.starts_with(&prefix)).collect();
    for key in keys {
        let versions = kept.get(key).filter(|versions| !versions.is_empty()).cloned().unwrap_or_else(|| {
            let object = objects.get(key).into_iter();
            object.map(|it| Version { id: "null".to_owned(), object: Some(it.clone()), modified: it.modified }).collect()
        });
        let last = versions.len().saturating_sub(1);
        all.extend(versions.into_iter().enumerate().rev().map(|(number, version)| (key.clone(), version, number == last)));
    }
    let begin = after.map_or(0, |(key, id)| 1 + all.iter().position(|(k, version, _)| (k, &version.id) == (&key, &id)).unwrap());
    let rest = &all[begin..];
    let page = &rest[..rest.len().min(*gateway.page.lock())];
    let more = rest.len() > page.len();
    let mut out = format!("<ListVersionsResult><EncodingType>url</EncodingType><IsTruncated>{more}</IsTruncated>");
    for (key, version, latest) in page {
        let modified = jiff::Timestamp::try_from(version.modified).unwrap().strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
        let of_both = format!(
            "<Key>{}</Key><VersionId>{}</VersionId><IsLatest>{latest}</IsLatest><LastModified>{modified}</LastModified>",
            encoded(key),
            version.id
        );
        out += &match &version.object {
            Some(object) => {
                let (etag, size) = (etag(&object.bytes).replace('"', "&quot;"), object.bytes.len());
                format!("<Version>{of_both}<ETag>{etag}</ETag><Size>{size}</Size></Version>")
            }
            None => format!("<DeleteMarker>{of_both}</DeleteMarker>"),
        };
    }
    if let Some((key, version, _)) = page.last().filter(|_| more) {
        let (key, id) = (encoded(key), &version.id);
        out += &format!("<NextKeyMarker>{key}</NextKeyMarker><NextVersionIdMarker>{id}</NextVersionIdMarker>");
    }
    plain(200, out + "</ListVersionsResult>")
}

/// The object that is asked for: the newest version, or the one of this id.
fn asked_for(gateway: &Gateway, asked: &Asked) -> Option<Object> {
    match parameter(&asked.query, "versionId") {
        Some(id) => {
            let versions = gateway.versions.lock();
            let of_key = versions.get(&asked.bucket).and_then(|all| all.get(&asked.key)).filter(|all| !all.is_empty());
            match of_key {
                Some(all) => all.iter().find(|version| version.id.as_bytes() == id)?.object.clone(),
                None => gateway.buckets.lock().get(&asked.bucket)?.get(&asked.key).filter(|_| id == b"null").cloned(),
            }
        }
        None => gateway.buckets.lock().get(&asked.bucket)?.get(&asked.key).cloned(),
    }
}

fn tagging(gateway: &Gateway, asked: &Asked) -> Answer {
    let Some(object) = asked_for(gateway, asked) else {
        return refusal(404, "NoSuchKey");
    };
    let tags: String = object
        .tags
        .split('&')
        .filter_map(|tag| tag.split_once('='))
        .map(|(key, value)| {
            let text = |text: &str| String::from_utf8(decoded(text)).unwrap().replace('&', "&amp;");
            format!("<Tag><Key>{}</Key><Value>{}</Value></Tag>", text(key), text(value))
        })
        .collect();
    plain(200, format!("<Tagging><TagSet>{tags}</TagSet></Tagging>"))
}

fn get(gateway: &Gateway, asked: &Asked, headers: &HeaderMap) -> Answer {
    let Some(object) = asked_for(gateway, asked) else {
        return if asked.method == "HEAD" { plain(404, "") } else { refusal(404, "NoSuchKey") };
    };
    let whole = object.bytes.len();
    let from = headers.get("range").map(|range| {
        let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap();
        range.parse::<usize>().unwrap()
    });
    let mut answer = match from {
        Some(from) if from >= whole => return refusal(416, "InvalidRange"),
        Some(from) => {
            let mut answer = plain(206, object.bytes.slice(from..));
            answer.headers_mut().insert("content-range", format!("bytes {from}-{}/{whole}", whole - 1).parse().unwrap());
            answer
        }
        None => plain(200, object.bytes.clone()),
    };
    let out = answer.headers_mut();
    out.insert("etag", etag(&object.bytes).parse().unwrap());
    out.insert("last-modified", http_date(object.modified).parse().unwrap());
    for (name, value) in &object.headers {
        out.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap());
    }
    if !object.tags.is_empty() {
        out.insert("x-amz-tagging-count", object.tags.split('&').count().to_string().parse().unwrap());
    }
    if asked.method == "HEAD" {
        out.insert("content-length", whole.to_string().parse().unwrap());
        return answer;
    }
    let mut cut = gateway.cut.lock();
    if *cut > 0 && whole > 1 {
        *cut -= 1;
        return answer.map(Content::half);
    }
    answer
}

/// An object without its bytes.
fn object(headers: &HeaderMap) -> Object {
    let kept = |name: &str| KEPT.contains(&name) || name.starts_with("x-amz-meta-");
    let kept = headers.iter().filter(|(name, _)| kept(name.as_str()));
    let tags = headers.get("x-amz-tagging").map(|tags| tags.to_str().unwrap().to_owned()).unwrap_or_default();
    Object {
        bytes: Bytes::new(),
        headers: kept.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect(),
        tags,
        modified: SystemTime::now(),
    }
}

fn put(gateway: &Gateway, asked: &Asked, headers: &HeaderMap, body: Bytes) -> Answer {
    let tag = etag(&body);
    if let Some(id) = parameter(&asked.query, "uploadId") {
        let number = parameter(&asked.query, "partNumber").unwrap();
        let mut uploads = gateway.uploads.lock();
        let Some(upload) = uploads.get_mut(std::str::from_utf8(&id).unwrap()) else { return refusal(404, "NoSuchUpload") };
        upload.parts.insert(String::from_utf8(number).unwrap().parse().unwrap(), body);
    } else {
        if !gateway.buckets.lock().contains_key(&asked.bucket) {
            return refusal(404, "NoSuchBucket");
        }
        gateway.insert(&asked.bucket, &asked.key, Object { bytes: body, ..object(headers) });
    }
    let mut answer = plain(200, "");
    answer.headers_mut().insert("etag", tag.parse().unwrap());
    answer
}

fn post(gateway: &Gateway, asked: &Asked, headers: &HeaderMap) -> Answer {
    let mut uploads = gateway.uploads.lock();
    if asked.query == "uploads=" {
        let id = format!("upload/{}", uploads.len());
        uploads.insert(id.clone(), Upload { object: object(headers), parts: BTreeMap::new() });
        return plain(200, format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"));
    }
    let id = String::from_utf8(parameter(&asked.query, "uploadId").unwrap()).unwrap();
    let Some(upload) = uploads.remove(&id) else { return refusal(404, "NoSuchUpload") };
    let bytes: Vec<u8> = upload.parts.values().flatten().copied().collect();
    let object = Object { bytes: bytes.into(), modified: SystemTime::now(), ..upload.object };
    gateway.insert(&asked.bucket, &asked.key, object);
    plain(200, "<CompleteMultipartUploadResult/>")
}

fn delete(gateway: &Gateway, asked: &Asked) -> Answer {
    match parameter(&asked.query, "uploadId") {
        Some(id) => drop(gateway.uploads.lock().remove(std::str::from_utf8(&id).unwrap())),
        None => gateway.remove(&asked.bucket, &asked.key),
    }
    plain(204, "")
}

fn encoded(bytes: &[u8]) -> String {
    bytes.iter().map(|b| if b.is_ascii_alphanumeric() { char::from(*b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A parameter of a query, decoded.
fn parameter(query: &str, name: &str) -> Option<Vec<u8>> {
    let (_, value) = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name)?;
    Some(decoded(value))
}

fn decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let hex = [rest.next().unwrap(), rest.next().unwrap()];
            out.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
        } else {
            out.push(byte);
        }
    }
    out
}
