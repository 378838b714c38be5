//! What the server does with a request.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_RANGE, ETAG, LAST_MODIFIED, RANGE};
use hyper::{HeaderMap, Method, Request};
use md5::{Digest, Md5};

use super::answer::{Answer, Content, Page, etag, http_date, plain, refusal};
use super::{BUCKET, Fault, Kind, Manner, Object, Seen, State};

/// Answers a request; an error ends the connection.
pub async fn handle(state: Arc<State>, request: Request<Incoming>) -> io::Result<Answer> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    // What a machine at Google gets its token from.
    if path == "/computeMetadata/v1/instance/service-accounts/default/token" {
        let busy = state.busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if busy {
            return Ok(plain(503, ""));
        }
        let asked = parts.headers.get("metadata-flavor").is_some_and(|v| v == "Google");
        let token = "{\"access_token\":\"of-the-machine\",\"expires_in\":3600,\"token_type\":\"Bearer\"}";
        return Ok(if asked { plain(200, token) } else { plain(403, "") });
    }
    // Google's clients write all but letters and digits of keys as %XX.
    let path = decoded(&path.replace('+', "%2B")).unwrap_or(path);
    // Both styles: the bucket is in the path, or in the host's name.
    let key = path.strip_prefix(&format!("/{BUCKET}")).map(|rest| rest.trim_start_matches('/').to_owned());
    let virtual_host = parts.headers.get("host").is_some_and(|host| host.to_str().unwrap().starts_with(&format!("{BUCKET}.")));
    let key = if virtual_host { Some(path.trim_start_matches('/').to_owned()) } else { key };
    let lists = parts.method == Method::GET && query.contains("list-type=2");
    let kind = match parts.method {
        Method::PUT => Kind::Put,
        Method::GET if lists => Kind::List,
        Method::GET => Kind::Get,
        Method::HEAD => Kind::Head,
        Method::DELETE => Kind::Delete,
        _ => Kind::Other,
    };
    let shown = if lists { parameter(&query, "prefix").unwrap_or_default() } else { key.clone().unwrap_or_default() };
    let signature = parts.headers.get(AUTHORIZATION).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    let access = signature.split_once("Credential=").and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default();
    let access = signature.strip_prefix("Bearer").map_or(access, str::trim);
    let seen = {
        let mut all = state.seen.lock();
        let seen = Seen { number: all.len(), kind, key: shown, access: access.to_owned() };
        all.push(seen.clone());
        seen
    };
    let script = state.script.lock().clone();
    let fault = script(&seen);
    let ended = || io::Error::from(io::ErrorKind::ConnectionAborted);
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    match fault {
        Some(Fault::Cut) => return Err(ended()),
        Some(Fault::Refused(status, code)) => return Ok(refused(kind, status, code)),
        _ => {}
    }
    let signed = signature.starts_with("AWS4-HMAC-SHA256 ") || signature.starts_with("Bearer");
    if !signed {
        return Ok(refused(kind, 403, "AccessDenied"));
    }
    let Some(key) = key else { return Ok(refused(kind, 404, "NoSuchBucket")) };
    // Other clients ask whether the bucket is there, and where.
    if key.is_empty() && kind == Kind::Head {
        return Ok(plain(200, "").map(|_| Content::none()));
    }
    if key.is_empty() && query.starts_with("location") {
        return Ok(plain(200, "<LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"></LocationConstraint>"));
    }
    let body = if parts.headers.contains_key("x-amz-decoded-content-length") { unchunked(&body) } else { body };
    let answer = match kind {
        Kind::Put => put(&state, &key, &parts.headers, body).await,
        Kind::Get | Kind::Head => get(&state, &key, &parts.headers, kind, fault),
        Kind::List => list(&state, &query, fault),
        Kind::Delete => {
            state.objects.lock().remove(&key);
            plain(204, "")
        }
        Kind::Other => refusal(501, "NotImplemented"),
    };
    match fault {
        Some(Fault::CutAfter) => Err(ended()),
        Some(Fault::SilentAfter) => std::future::pending().await,
        Some(Fault::DoneThen(status, code)) => Ok(refused(kind, status, code)),
        Some(Fault::Truncated) if kind != Kind::Head => Ok(answer.map(Content::half)),
        _ => Ok(answer),
    }
}

/// A body that is signed piece by piece: each has its length and signature before it.
fn unchunked(body: &Bytes) -> Bytes {
    let (mut out, mut rest) = (Vec::new(), &body[..]);
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let line = std::str::from_utf8(&rest[..end]).unwrap();
        let length = usize::from_str_radix(line.split(';').next().unwrap(), 16).unwrap();
        out.extend_from_slice(&rest[end + 2..][..length]);
        rest = &rest[(end + 2 + length + 2).min(rest.len())..];
    }
    out.into()
}

/// HEAD has no body.
fn refused(kind: Kind, status: u16, code: &str) -> Answer {
    if kind == Kind::Head { plain(status, "") } else { refusal(status, code) }
}

async fn put(state: &State, key: &str, headers: &HeaderMap, body: Bytes) -> Answer {
    // Each speaks of conditions, metadata and classes in its own words, and understands no others.
    let google = headers.get(AUTHORIZATION).is_some_and(|v| v.to_str().unwrap().starts_with("Bearer"));
    let conditional = match google {
        true => headers.get("x-goog-if-generation-match").is_some_and(|v| v == "0"),
        false => headers.get("if-none-match").is_some_and(|v| v == "*"),
    };
    let [class, metadata] =
        if google { ["x-goog-storage-class", "x-goog-meta-"] } else { ["x-amz-storage-class", "x-amz-meta-"] };
    let kept = |name: &str| name == class || state.metadata.load(Ordering::SeqCst) && name.starts_with(metadata);
    // What is damaged on the way is not taken.
    let digest = headers.get("content-md5").map(|v| v.to_str().unwrap().to_owned());
    if google && digest != Some(BASE64_STANDARD.encode(Md5::digest(&body))) {
        return refusal(400, "BadDigest");
    }
    let headers = headers.iter().filter(|(name, _)| kept(name.as_str()));
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let object = Object { bytes: body, modified: SystemTime::now(), order: state.made.fetch_add(1, Ordering::SeqCst), headers };
    let manner = *state.manner.lock();
    let failed = || refusal(412, "PreconditionFailed");
    if conditional && manner == Manner::LooksThenWrites {
        if state.objects.lock().contains_key(key) {
            return failed();
        }
        // Long enough for others to look, too: until one does, or a moment has passed. Those who try a store out come
        // together, but on a busy machine not at the same moment.
        let moment = if key.contains("/proof/") { 3000 } else { 100 };
        state.between.fetch_add(1, Ordering::SeqCst);
        for _ in 0..moment {
            if state.between.load(Ordering::SeqCst) > 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        state.between.fetch_sub(1, Ordering::SeqCst);
    }
    let mut objects = state.objects.lock();
    if conditional && manner == Manner::Atomic && objects.contains_key(key) {
        return failed();
    }
    let tag = etag(&object.bytes);
    objects.insert(key.to_owned(), object);
    let mut answer = plain(200, "");
    answer.headers_mut().insert(ETAG, tag.parse().unwrap());
    answer
}

fn get(state: &State, key: &str, headers: &HeaderMap, kind: Kind, fault: Option<Fault>) -> Answer {
    let objects = state.objects.lock();
    let Some(object) = objects.get(key) else { return refused(kind, 404, "NoSuchKey") };
    let cold =
        |(name, class): &(String, String)| name == "x-amz-storage-class" && ["GLACIER", "DEEP_ARCHIVE"].contains(&&**class);
    if kind == Kind::Get && object.headers.iter().any(cold) {
        return refusal(403, "InvalidObjectState");
    }
    let mut bytes = object.bytes.clone();
    if fault == Some(Fault::Elsewhere) {
        bytes = Bytes::from(vec![0x5a; bytes.len()]);
    }
    let whole = bytes.len();
    let tag = etag(if fault == Some(Fault::WrongEtag) { b"another" } else { &object.bytes });
    let mut answer = match headers.get(RANGE).map(|v| range(v.to_str().unwrap(), whole)) {
        Some(None) => return refused(kind, 416, "InvalidRange"),
        Some(Some((a, b))) => {
            let a = if fault == Some(Fault::WrongRange) { a.saturating_sub(1) } else { a };
            let mut answer = plain(206, bytes.slice(a..b));
            let range = format!("bytes {a}-{}/{whole}", b - 1);
            answer.headers_mut().insert(CONTENT_RANGE, range.parse().unwrap());
            answer
        }
        None => plain(200, bytes),
    };
    let out = answer.headers_mut();
    out.insert(ETAG, tag.parse().unwrap());
    out.insert(LAST_MODIFIED, http_date(object.modified).parse().unwrap());
    for (name, value) in &object.headers {
        out.insert(hyper::header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    if kind == Kind::Head {
        out.insert("content-length", whole.to_string().parse().unwrap());
        return answer.map(|_| Content::none());
    }
    answer
}

/// The range of a header, cut at the end of the object; `None` when it begins behind it.
fn range(header: &str, whole: usize) -> Option<(usize, usize)> {
    let (a, b) = header.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let a: usize = a.parse().unwrap();
    let b = b.parse::<usize>().map_or(whole, |b| whole.min(b.saturating_add(1)));
    (a < whole && a < b).then_some((a, b))
}

fn list(state: &State, query: &str, fault: Option<Fault>) -> Answer {
    let prefix = parameter(query, "prefix").unwrap_or_default();
    let after = parameter(query, "continuation-token").unwrap_or_default();
    let objects = state.objects.lock();
    let newest = match fault {
        Some(Fault::Stale(n)) => {
            let listed = objects.iter().filter(|(key, _)| key.starts_with(&prefix));
            let mut orders: Vec<usize> = listed.map(|(_, object)| object.order).collect();
            orders.sort_unstable();
            orders.len().checked_sub(n).and_then(|at| orders.get(at).copied()).unwrap_or(usize::MAX)
        }
        _ => usize::MAX,
    };
    let found: Vec<(&String, &Object)> =
        objects.iter().filter(|(key, object)| key.starts_with(&prefix) && **key > after && object.order < newest).collect();
    let most = match fault {
        Some(Fault::NoToken) => found.len() / 2,
        _ => state.page.load(Ordering::SeqCst),
    };
    let page = &found[..found.len().min(most)];
    let more = found.len() > page.len();
    let token = page.last().map(|(key, _)| (*key).clone()).filter(|_| more && fault != Some(Fault::NoToken));
    plain(200, Page { prefix: &prefix, objects: page, more, token }.xml())
}

/// A parameter of a query, decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    let (_, value) = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name)?;
    decoded(value)
}

fn decoded(value: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let hex = [rest.next()?, rest.next()?];
                out.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
            }
            b'+' => out.push(b' '),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}
