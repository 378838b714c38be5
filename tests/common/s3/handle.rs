//! What the server does with a request.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_RANGE, ETAG, LAST_MODIFIED, RANGE};
use hyper::{HeaderMap, Method, Request};
use md5::{Digest, Md5};

use super::answer::{Answer, Content, Page, etag, http_date, plain, refusal};
use super::dialect::Dialect;
use super::{Fault, Kind, Manner, Object, Seen, State};

/// Answers a request; an error ends the connection.
pub async fn handle(state: Arc<State>, request: Request<Incoming>) -> io::Result<Answer> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    if let Some(token) = token(&state, &path, &parts.headers) {
        return Ok(token);
    }
    let dialect = Dialect::of(&parts);
    let key = dialect.key(&parts);
    let lists = parts.method == Method::GET && dialect.is_list(&query);
    let kind = match parts.method {
        Method::PUT => Kind::Put,
        Method::GET if lists => Kind::List,
        Method::GET => Kind::Get,
        Method::HEAD => Kind::Head,
        Method::DELETE => Kind::Delete,
        _ => Kind::Other,
    };
    let shown = if lists { parameter(&query, "prefix").unwrap_or_default() } else { key.clone().unwrap_or_default() };
    let access = dialect.access(&parts);
    let seen = {
        let mut all = state.seen.lock();
        let seen = Seen { number: all.len(), kind, key: shown, access: access.clone().unwrap_or_default() };
        all.push(seen.clone());
        seen
    };
    let script = state.script.lock().clone();
    let fault = script(&seen);
    let ended = || io::Error::from(io::ErrorKind::ConnectionAborted);
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    match fault {
        Some(Fault::Cut) => return Err(ended()),
        Some(Fault::Refused(status, code)) => return Ok(dialect.refused(kind, status, code)),
        _ => {}
    }
    if access.is_none() {
        return Ok(dialect.refused(kind, 403, "AccessDenied"));
    }
    let Some(key) = key else { return Ok(dialect.refused(kind, 404, "NoSuchBucket")) };
    // Other clients ask whether the bucket is there, and where.
    if key.is_empty() && kind == Kind::Head {
        return Ok(plain(200, "").map(|_| Content::none()));
    }
    if key.is_empty() && query.starts_with("location") {
        return Ok(plain(200, "<LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"></LocationConstraint>"));
    }
    let body = if parts.headers.contains_key("x-amz-decoded-content-length") { unchunked(&body) } else { body };
    let answer = match kind {
        Kind::Put => put(&state, dialect, &key, &parts.headers, body).await,
        Kind::Get | Kind::Head => get(&state, dialect, &key, &parts.headers, kind, fault),
        Kind::List => list(&state, dialect, &query, fault),
        Kind::Delete => {
            let removed = state.objects.lock().remove(&key);
            match dialect {
                Dialect::S3 => plain(204, ""),
                _ if removed.is_none() => dialect.refused(kind, 404, "NoSuchKey"),
                Dialect::Google => plain(204, ""),
                Dialect::Azure => plain(202, ""),
            }
        }
        Kind::Other => refusal(501, "NotImplemented"),
    };
    match fault {
        Some(Fault::CutAfter) => Err(ended()),
        Some(Fault::SilentAfter) => std::future::pending().await,
        Some(Fault::DoneThen(status, code)) => Ok(dialect.refused(kind, status, code)),
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

/// The token of the machine, where machines of Google and of Azure get theirs.
fn token(state: &State, path: &str, headers: &HeaderMap) -> Option<Answer> {
    let asked = match path {
        "/computeMetadata/v1/instance/service-accounts/default/token" => {
            headers.get("metadata-flavor").is_some_and(|v| v == "Google")
        }
        "/metadata/identity/oauth2/token" => headers.get("metadata").is_some_and(|v| v == "true"),
        _ => return None,
    };
    let busy = state.busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
    let token =
        "{\"access_token\":\"of-the-machine\",\"expires_in\":3600,\"expires_on\":\"4102444800\",\"token_type\":\"Bearer\"}";
    Some(match (busy, asked) {
        (true, _) => plain(503, ""),
        (false, true) => plain(200, token),
        (false, false) => plain(403, ""),
    })
}

async fn put(state: &State, dialect: Dialect, key: &str, headers: &HeaderMap, body: Bytes) -> Answer {
    if let Some(wrong) = dialect.wrong(headers) {
        return wrong;
    }
    let conditional = dialect.is_create(headers);
    let [class, metadata] = dialect.headers();
    let kept = |name: &str| name == class || state.metadata.load(Ordering::SeqCst) && name.starts_with(metadata);
    // What is damaged on the way is not taken.
    let digest = headers.get("content-md5").map(|v| v.to_str().unwrap().to_owned());
    if dialect == Dialect::Google && digest != Some(BASE64_STANDARD.encode(Md5::digest(&body))) {
        return refusal(400, "BadDigest");
    }
    let headers = headers.iter().filter(|(name, _)| kept(name.as_str()));
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let object = Object { bytes: body, modified: SystemTime::now(), order: state.made.fetch_add(1, Ordering::SeqCst), headers };
    let manner = *state.manner.lock();
    if conditional && manner == Manner::LooksThenWrites {
        if state.objects.lock().contains_key(key) {
            return dialect.exists();
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
        return dialect.exists();
    }
    let tag = etag(&object.bytes);
    objects.insert(key.to_owned(), object);
    let mut answer = plain(if dialect == Dialect::Azure { 201 } else { 200 }, "");
    answer.headers_mut().insert(ETAG, tag.parse().unwrap());
    answer
}

fn get(state: &State, dialect: Dialect, key: &str, headers: &HeaderMap, kind: Kind, fault: Option<Fault>) -> Answer {
    let objects = state.objects.lock();
    let Some(object) = objects.get(key) else { return dialect.refused(kind, 404, "NoSuchKey") };
    let cold = |(name, class): &(String, String)| {
        name == dialect.headers()[0] && ["GLACIER", "DEEP_ARCHIVE", "Archive"].contains(&class.as_str())
    };
    if kind == Kind::Get && object.headers.iter().any(cold) {
        return dialect.refused(kind, if dialect == Dialect::Azure { 409 } else { 403 }, "InvalidObjectState");
    }
    let mut bytes = object.bytes.clone();
    if fault == Some(Fault::Elsewhere) {
        bytes = Bytes::from(vec![0x5a; bytes.len()]);
    }
    let whole = bytes.len();
    let tag = etag(if fault == Some(Fault::WrongEtag) { b"another" } else { &object.bytes });
    let mut answer = match headers.get(RANGE).map(|v| range(v.to_str().unwrap(), whole)) {
        Some(None) => return dialect.refused(kind, 416, "InvalidRange"),
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

fn list(state: &State, dialect: Dialect, query: &str, fault: Option<Fault>) -> Answer {
    let prefix = parameter(query, "prefix").unwrap_or_default();
    let after = parameter(query, dialect.marker()).unwrap_or_default();
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
    let page = Page { prefix: &prefix, objects: page, more, token };
    match (dialect, fault) {
        (Dialect::Azure, Some(Fault::NoToken)) => plain(200, page.azure().replace("<NextMarker />", "")),
        (Dialect::Azure, _) => plain(200, page.azure()),
        (Dialect::S3 | Dialect::Google, _) => plain(200, page.xml()),
    }
}

/// A parameter of a query, decoded.
pub fn parameter(query: &str, name: &str) -> Option<String> {
    let (_, value) = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name)?;
    decoded(value)
}

pub fn decoded(value: &str) -> Option<String> {
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
