//! Signatures of requests: AWS Signature Version 4.
//!
//! The library signs only addresses that its own kind of path can hold; keys of a bucket may be anything, and none of their
//! slashes and dots may be taken away on the way to the signature.

use std::time::SystemTime;

use aws_lc_rs::{digest, hmac};
use hyper::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use jiff::Timestamp;
use object_store::aws::AwsCredential;
use object_store::client::HttpRequest;

use crate::error::{Error, Result};
use crate::model::id::to_hex;

/// What is signed with.
#[derive(Debug)]
pub(crate) struct SigningKey<'a> {
    /// The key and its secret.
    pub(crate) credential: &'a AwsCredential,
    /// The store's region.
    pub(crate) region: &'a str,
    /// When it is signed.
    pub(crate) at: SystemTime,
}

/// Bytes as they stand in an address: all but letters, digits, `-`, `.`, `_`, `~` and what is in `but` as `%XX`.
pub(crate) fn encoded(bytes: &[u8], but: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || but.contains(byte) => out.push(char::from(*byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The SHA-256 of these bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    to_hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

impl SigningKey<'_> {
    /// Signs a request: its method, its address (as it is written, whose query is in order), all its headers, and a body of
    /// this SHA-256.
    pub(super) fn sign(&self, request: &mut HttpRequest, body: &str) -> Result<()> {
        let wrong = |_| Error::invalid("the credentials hold what no header may");
        let at = Timestamp::try_from(self.at).map_err(|e| Error::invalid(e.to_string()))?;
        let (day, time) = (at.strftime("%Y%m%d").to_string(), at.strftime("%Y%m%dT%H%M%SZ").to_string());
        let authority = request.uri().authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
        let token = self.credential.token.as_deref().map(|token| ("x-amz-security-token", token));
        let own = [("x-amz-date", time.as_str()), ("x-amz-content-sha256", body)];
        for (name, value) in own.into_iter().chain(token) {
            request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_str(value).map_err(wrong)?);
        }
        request.headers_mut().insert(HOST, HeaderValue::from_str(&authority).map_err(wrong)?);
        let (canonical, names) = canonical(request, body);
        request.headers_mut().remove(HOST);
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(&canonical));
        let first = format!("AWS4{}", self.credential.secret_key).into_bytes();
        let steps = [day.as_str(), self.region, "s3", "aws4_request", &text];
        let signature = to_hex(&steps.iter().fold(first, |key, step| mac(&key, step.as_bytes())));
        let id = &self.credential.key_id;
        let value = format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
        request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_str(&value).map_err(wrong)?);
        Ok(())
    }
}

/// What is signed of a request, and the names of its headers.
fn canonical(request: &HttpRequest, body: &str) -> (Vec<u8>, String) {
    let mut names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    let uri = request.uri();
    let mut out = format!("{}\n{}\n{}\n", request.method(), uri.path(), uri.query().unwrap_or_default()).into_bytes();
    for name in &names {
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        let values: Vec<Vec<u8>> = request.headers().get_all(*name).iter().map(|value| trimmed(value.as_bytes())).collect();
        out.extend_from_slice(&values.join(&b','));
        out.push(b'\n');
    }
    let names = names.join(";");
    out.extend_from_slice(format!("\n{names}\n{body}").as_bytes());
    (out, names)
}

/// A value without space around it, and with one space for several.
fn trimmed(value: &[u8]) -> Vec<u8> {
    let words: Vec<&[u8]> = value.split(|b| *b == b' ').filter(|word| !word.is_empty()).collect();
    words.join(&b' ')
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use object_store::client::HttpRequestBody;

    use super::*;

    /// The examples of AWS's own documentation.
    #[test]
    fn requests_are_signed_as_documented() {
        let credential = AwsCredential {
            key_id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            token: None,
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        let key = SigningKey { credential: &credential, region: "us-east-1", at };
        let signature = |method: &str, path: &str, headers: &[(&'static str, &'static str)], body: &'static str| {
            let mut request = HttpRequest::new(HttpRequestBody::empty());
            *request.method_mut() = method.parse().unwrap();
            *request.uri_mut() = format!("https://examplebucket.s3.amazonaws.com{path}").parse().unwrap();
            for (name, value) in headers {
                request.headers_mut().insert(*name, HeaderValue::from_static(value));
            }
            key.sign(&mut request, &sha256(body.as_bytes())).unwrap();
            let value = request.headers()[AUTHORIZATION].to_str().unwrap().to_owned();
            value.split_once("Signature=").unwrap().1.to_owned()
        };
        assert_eq!(
            signature("GET", "/test.txt", &[("range", "bytes=0-9")], ""),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let headers = [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")];
        assert_eq!(
            signature("PUT", "/test%24file.text", &headers, "Welcome to Amazon S3."),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(signature("GET", "/?lifecycle=", &[], ""), "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
    }

    #[test]
    fn all_bytes_have_a_place_in_an_address() {
        assert_eq!(encoded(b"a/../ b\xff+~", b"/"), "a/../%20b%FF%2B~");
        assert_eq!(encoded(b"a/b", b""), "a%2Fb");
    }
}
