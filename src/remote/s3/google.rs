//! Google Cloud Storage, by its XML API: objects, ranges and lists as in S3, credentials and conditions of its own.
//!
//! A create carries `x-goog-if-generation-match: 0`. Who was first is told by the mark in the object, as everywhere.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use base64::prelude::{BASE64_STANDARD, Engine};
use hyper::body::Body;
use hyper::header::{HeaderValue, InvalidHeaderValue};
use md5::{Digest, Md5};
use object_store::client::HttpRequestBody;
use object_store::gcp::GoogleCloudStorageBuilder;

use crate::error::{Error, ErrorKind, Result};
use crate::remote::client::RemoteOptions;
use crate::remote::s3::address::StoreAddress;
use crate::remote::s3::api::StoreApi;
use crate::remote::s3::http::HttpContext;
use crate::remote::s3::{Connector, no_retries};

/// The variables that name a file of credentials, the first that counts before the others.
const FILES: [&str; 2] = ["GOOGLE_SERVICE_ACCOUNT", "GOOGLE_APPLICATION_CREDENTIALS"];

/// What speaks to the bucket at `address`. Credentials are those of the environment, of `gcloud`, or of the machine.
pub(super) fn store(address: &StoreAddress, options: &RemoteOptions, shared: &Arc<HttpContext>) -> Result<Arc<dyn StoreApi>> {
    let variable = |name: &str| options.s3.variables.get(name).filter(|value| !value.is_empty()).cloned();
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_retry(no_retries())
        .with_http_connector(Connector(shared.clone()))
        .with_base_url(&address.endpoint(None))
        .with_bucket_name(&address.bucket);
    let mut from = "of gcloud auth application-default login, in ~/.config/gcloud".to_owned();
    if let Some(key) = variable("GOOGLE_SERVICE_ACCOUNT_KEY") {
        from = "in GOOGLE_SERVICE_ACCOUNT_KEY".to_owned();
        builder = builder.with_service_account_key(key);
    } else if let Some((name, path)) = FILES.iter().find_map(|name| Some((name, variable(name)?))) {
        from = format!("in {path}, which {name} names,");
        builder = match *name {
            "GOOGLE_SERVICE_ACCOUNT" => builder.with_service_account_path(path),
            _ => builder.with_application_credentials(path),
        };
    }
    let built = builder.build().map_err(|e| {
        Error::new(ErrorKind::Key, format!("the credentials {from} cannot be used for Google's store: {}", cause(&e)))
    })?;
    Ok(Arc::new(built))
}

/// What an object that is sent is checked by when it arrives: the header `Content-MD5`.
pub(super) fn digest(mut body: HttpRequestBody) -> Result<HeaderValue, InvalidHeaderValue> {
    let (mut digest, mut context) = (Md5::new(), Context::from_waker(Waker::noop()));
    while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) {
        digest.update(frame.data_ref().map_or(&[][..], |bytes| bytes));
    }
    HeaderValue::from_str(&BASE64_STANDARD.encode(digest.finalize()))
}

/// The innermost cause, which says most.
pub(super) fn cause(e: &object_store::Error) -> String {
    let mut cause: &dyn std::error::Error = e;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
