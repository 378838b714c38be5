//! Buckets of sets: what the configuration says of one, and what speaks to it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::ingest::bucket::{Bucket, OpenObject};
use crate::jobs::config::check;
use crate::jobs::config::keys::{BucketKeys, BucketPlace};
use crate::jobs::location::{self, Location};
use crate::jobs::units;
use crate::model::bucket::{BucketEntry, ObjectFacts};
use crate::model::escape;
use crate::remote::client::RemoteOptions;
use crate::remote::s3::address::StoreAddress;
use crate::remote::s3::bucket::{BodyPiece, BucketClient, ObjectBody};
use crate::remote::s3::gate::{RequestGate, RequestWaits};
use crate::remote::tls::{Fingerprint, Trust};

pub mod back;
mod versions;

/// Requests at once, when nobody says otherwise: a gateway has others to serve, too.
const CONNECTIONS: u16 = 4;
/// Variables that say who one is, and that a profile takes the place of.
const IDENTITY: [&str; 4] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE"];

/// Refuses a bucket that cannot be one.
pub fn unfit(keys: &BucketKeys) -> Result<()> {
    let invalid = |(key, message): (&str, String)| Error::invalid(format!("{key}: {message}"));
    check::stream_place(&keys.at).map_err(Error::invalid)?;
    address(keys)?;
    if let Some(Err(e)) = keys.tls_fingerprint.as_deref().map(Fingerprint::parse) {
        return Err(invalid(("tls-fingerprint", e.to_string())));
    }
    if let Some(message) = keys.cacert.as_deref().and_then(check::relative) {
        return Err(invalid(("cacert", message)));
    }
    if keys.connections.is_some_and(|n| !(1..=64).contains(&n)) {
        return Err(invalid(("connections", "it must be from 1 to 64".to_owned())));
    }
    if keys.rate == Some(0) {
        return Err(invalid(("rate", "it is requests a second, and must be at least 1".to_owned())));
    }
    units::limit(keys.limit_upload.as_ref())?;
    units::limit(keys.limit_download.as_ref()).map(drop)
}

/// Where a bucket is.
fn address(keys: &BucketKeys) -> Result<StoreAddress> {
    match location::parse(OsStr::new(&keys.url)) {
        Ok(Location::Store(address)) if address.speaks_s3() => Ok(address),
        Ok(_) => Err(Error::invalid("url is no bucket: write s3:https://ENDPOINT/BUCKET or s3:https://ENDPOINT/BUCKET/PREFIX")),
        Err(e) => Err(e.context("url")),
    }
}

/// A bucket as the configuration has it. What speaks to it is made when it is needed.
#[derive(Debug)]
pub struct ConfiguredBucket {
    keys: BucketKeys,
    base: RemoteOptions,
    stop: Arc<AtomicBool>,
    /// That of its endpoint, which other buckets may share.
    gate: Arc<RequestGate>,
    client: Mutex<Option<Arc<BucketClient>>>,
}

impl ConfiguredBucket {
    /// Buckets of these keys; variables, time-outs and reports are those of `base`. Those of one endpoint share the least of
    /// their rates, as long as all of them are there. Setting `stop` ends all waiting.
    pub fn all(keys: &[BucketKeys], base: &RemoteOptions, stop: &Arc<AtomicBool>) -> Vec<Arc<Self>> {
        let endpoint = |keys: &BucketKeys| address(keys).map_or_else(|_| keys.url.clone(), |address| address.endpoint(None));
        let mut rates: HashMap<String, Option<u32>> = HashMap::new();
        for keys in keys {
            let rate = rates.entry(endpoint(keys)).or_default();
            *rate = [*rate, keys.rate].into_iter().flatten().min();
        }
        let gates: HashMap<String, Arc<RequestGate>> =
            rates.into_iter().map(|(endpoint, rate)| (endpoint, Arc::new(RequestGate::new(rate)))).collect();
        let bucket = |keys: &BucketKeys| {
            let gate = gates.get(&endpoint(keys)).cloned().unwrap_or_else(|| Arc::new(RequestGate::new(keys.rate)));
            let (keys, base, stop) = (keys.clone(), base.clone(), stop.clone());
            Arc::new(ConfiguredBucket { keys, base, stop, gate, client: Mutex::default() })
        };
        keys.iter().map(bucket).collect()
    }

    /// How long requests have waited, in words to put behind others.
    pub fn waits(&self) -> String {
        waited(self.gate.waits(), self.gate.rate())
    }

    /// What it says of itself.
    pub fn keys(&self) -> &BucketKeys {
        &self.keys
    }

    /// What speaks to it.
    pub fn client(&self) -> Result<Arc<BucketClient>> {
        let mut client = self.client.lock();
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let made = BucketClient::new(&address(&self.keys)?, &self.options()?, &self.gate, &self.stop);
        let made = Arc::new(made.map_err(|e| self.told(e))?);
        *client = Some(made.clone());
        Ok(made)
    }

    fn options(&self) -> Result<RemoteOptions> {
        let (keys, base) = (&self.keys, &self.base);
        let mut s3 = base.s3.clone();
        if let Some(profile) = &keys.profile {
            IDENTITY.iter().for_each(|name| drop(s3.variables.remove(*name)));
            s3.variables.insert("AWS_PROFILE".to_owned(), profile.clone());
        }
        s3.region.clone_from(&keys.region);
        s3.virtual_hosts = keys.bucket_in == Some(BucketPlace::Host);
        s3.connections = Some(usize::from(keys.connections.unwrap_or(CONNECTIONS)));
        let fingerprint = keys.tls_fingerprint.as_deref().map(Fingerprint::parse).transpose()?;
        Ok(RemoteOptions {
            trust: Trust { fingerprint, authorities: keys.cacert.as_deref().map(Path::to_owned) },
            limit_upload: units::limit(keys.limit_upload.as_ref())?,
            limit_download: units::limit(keys.limit_download.as_ref())?,
            s3,
            ..base.clone()
        })
    }

    fn told(&self, e: Error) -> Error {
        e.context(&self.keys.url)
    }
}

impl Bucket for ConfiguredBucket {
    fn list(&self) -> Result<Vec<BucketEntry>> {
        let client = self.client()?;
        let listed = if self.keys.versions { client.list_versions(None) } else { client.list() };
        listed.map_err(|e| self.told(e))
    }

    fn open(&self, key: &[u8], version: Option<&[u8]>) -> Result<Option<Box<dyn OpenObject>>> {
        Ok(self.client()?.open(key, version)?.map(|body| Box::new(ReadObject(body)) as Box<dyn OpenObject>))
    }

    fn connections(&self) -> usize {
        usize::from(self.keys.connections.unwrap_or(CONNECTIONS))
    }

    fn waited(&self) -> String {
        self.waits()
    }
}

/// How long requests have waited.
fn waited(waits: RequestWaits, rate: Option<u32>) -> String {
    let RequestWaits { limited, slowed, slow_downs } = waits;
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    let mut out = String::new();
    if let Some(rate) = rate.filter(|_| !limited.is_zero()) {
        out.push_str(&format!("; waited {} for the limit of {rate} requests a second", seconds(limited)));
    }
    if slow_downs > 0 {
        out.push_str(&format!("; the store said {slow_downs} times to slow down: waited {} for that", seconds(slowed)));
    }
    out
}

/// An object that is being read.
#[derive(Debug)]
struct ReadObject(ObjectBody);

impl OpenObject for ReadObject {
    fn facts(&self) -> &ObjectFacts {
        self.0.facts()
    }

    fn next(&mut self, out: &mut Vec<u8>) -> Result<Option<usize>> {
        Ok(match self.0.next(out)? {
            BodyPiece::Bytes(bytes) => Some(bytes),
            BodyPiece::End => Some(0),
            BodyPiece::Replaced => None,
        })
    }

    fn finish(self: Box<Self>) -> Result<ObjectFacts> {
        self.0.finish()
    }
}

/// A bucket and a key in it, for people.
pub(crate) fn shown(keys: &BucketKeys, key: &[u8]) -> String {
    format!("{}/{}", escape(keys.url.as_bytes()), escape(key))
}
