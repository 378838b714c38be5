//! Whether a request is signed with a key that the gateway knows: computed from what came over the line.

use std::collections::BTreeMap;

use aws_lc_rs::{digest, hmac};
use hyper::http::request::Parts;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// The id of the key that signed it, or why it is refused.
pub fn check(parts: &Parts, body: &[u8], keys: &BTreeMap<String, String>) -> Result<String, &'static str> {
    let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let authorization = header("authorization").ok_or("AccessDenied")?;
    let field = |name: &str| {
        let (_, rest) = authorization.split_once(&format!("{name}=")).unwrap();
        rest.split(',').next().unwrap().trim().to_owned()
    };
    let (credential, signed, signature) = (field("Credential"), field("SignedHeaders"), field("Signature"));
    let (id, scope) = credential.split_once('/').unwrap();
    let Some(secret) = keys.get(id) else { return Err("InvalidAccessKeyId") };
    let digest = hex(digest::digest(&digest::SHA256, body).as_ref());
    if header("x-amz-content-sha256").as_deref() != Some(&digest) {
        return Err("XAmzContentSHA256Mismatch");
    }
    let mut canonical = format!("{}\n{}\n", parts.method, parts.uri.path()).into_bytes();
    let mut query: Vec<String> = parts.uri.query().unwrap_or_default().split('&').map(str::to_owned).collect();
    query.sort();
    canonical.extend_from_slice(query.join("&").as_bytes());
    canonical.push(b'\n');
    for name in signed.split(';') {
        canonical.extend_from_slice(name.as_bytes());
        canonical.push(b':');
        let words: Vec<&[u8]> = parts.headers[name].as_bytes().split(|b| *b == b' ').filter(|word| !word.is_empty()).collect();
        canonical.extend_from_slice(&words.join(&b' '));
        canonical.push(b'\n');
    }
    canonical.extend_from_slice(format!("\n{signed}\n{digest}").as_bytes());
    let time = header("x-amz-date").unwrap();
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(digest::digest(&digest::SHA256, &canonical).as_ref()));
    let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| mac(&key, part));
    if hex(&mac(&key, &text)) == signature { Ok(id.to_owned()) } else { Err("SignatureDoesNotMatch") }
}
