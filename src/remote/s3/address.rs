//! Where a repository in an object store is: `s3:https://ENDPOINT/BUCKET/PREFIX`, `gs:BUCKET/PREFIX` or
//! `azure:CONTAINER/PREFIX`.

use std::fmt;
use std::net::IpAddr;

use crate::error::{Error, Result};
use crate::remote::address::host_and_port;
use crate::remote::s3::credentials::S3Options;
use crate::storage::Name;

/// The form, for people.
pub(crate) const FORM: &str = "s3:https://ENDPOINT/BUCKET/PREFIX";
/// The form of a place in Google's store.
pub(crate) const GOOGLE_FORM: &str = "gs:BUCKET/PREFIX";
/// Where Google's store is.
const GOOGLE: &str = "storage.googleapis.com";
/// The form of a place in Azure's store.
pub(crate) const AZURE_FORM: &str = "azure:CONTAINER/PREFIX";
/// Where the accounts of Azure are.
const AZURE: &str = "blob.core.windows.net";
/// The variables that name an account, the first that counts before the other.
const ACCOUNTS: [&str; 2] = ["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"];
/// The longest prefix: with the longest name behind it, it is shorter than any key may be.
const LONGEST: usize = 512;

/// What a store speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    /// S3.
    S3,
    /// The XML API of Google Cloud Storage.
    Google,
    /// The REST API of Azure Blob Storage.
    Azure,
}

/// A place in an object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreAddress {
    /// What is spoken there.
    pub(crate) kind: StoreKind,
    /// Whether TLS is spoken.
    pub(crate) tls: bool,
    /// A name or an address, without brackets; empty where it comes of an account that is not named yet.
    pub(crate) host: String,
    /// The port, where it is not the usual one.
    pub(crate) port: Option<u16>,
    /// The account of Azure.
    pub(crate) account: Option<String>,
    /// The bucket.
    pub(crate) bucket: String,
    /// What every key begins with, without slashes around it; may be empty.
    pub(crate) prefix: String,
}

fn wrong(what: &str) -> Error {
    Error::invalid(format!("{what}: a repository in an object store is written {FORM}"))
}

impl StoreAddress {
    /// What stands behind `s3:`.
    pub fn parse(rest: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(rest).map_err(|_| wrong("the repository's name is not text"))?;
        Self::with_endpoint(StoreKind::S3, text)?.ok_or_else(|| wrong("the repository's name lacks the endpoint"))
    }

    /// What stands behind `gs:`.
    pub fn google(rest: &[u8]) -> Result<Self> {
        Self::where_it_is_known(StoreKind::Google, GOOGLE, rest)
            .map_err(|what| Error::invalid(format!("{what}: a repository in Google's store is written {GOOGLE_FORM}")))
    }

    /// What stands behind `azure:`.
    pub fn azure(rest: &[u8]) -> Result<Self> {
        Self::where_it_is_known(StoreKind::Azure, "", rest)
            .map_err(|what| Error::invalid(format!("{what}: a repository in Azure's store is written {AZURE_FORM}")))
    }

    /// A place that needs no endpoint, or what is wrong with it.
    fn where_it_is_known(kind: StoreKind, host: &str, rest: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(rest).map_err(|_| "the repository's name is not text".to_owned())?;
        // As other programs write it.
        let text = text.strip_prefix("//").unwrap_or(text);
        let found = match Self::with_endpoint(kind, text) {
            Ok(None) => Self::at(kind, true, (host, None), text),
            Ok(Some(found)) => Ok(found),
            Err(e) => Err(e),
        };
        found.map_err(|e| e.to_string().split(": ").next().unwrap_or_default().to_owned())
    }

    /// A place whose endpoint is named; `None` where none is.
    fn with_endpoint(kind: StoreKind, text: &str) -> Result<Option<Self>> {
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Ok(None),
        };
        let (authority, path) = rest.split_once('/').ok_or_else(|| wrong("the repository's name lacks the bucket"))?;
        let (host, port) = host_and_port(authority, FORM)?;
        if kind != StoreKind::Azure {
            return Self::at(kind, tls, (host, port), path).map(Some);
        }
        // An account has a host, but where there are no names of hosts it stands before the container.
        let (account, path) = match has_accounts(host) {
            true => path.split_once('/').ok_or_else(|| wrong("the repository's name lacks the container"))?,
            false => (host.split('.').next().filter(|_| host.contains(".blob.")).unwrap_or_default(), path),
        };
        let account = Some(account.to_owned()).filter(|account| !account.is_empty());
        if !account.as_deref().is_none_or(is_account) {
            return Err(wrong("the account's name has letters, digits and hyphens"));
        }
        Ok(Some(StoreAddress { account, ..Self::at(kind, tls, (host, port), path)? }))
    }

    /// The same, in the account that the variables name, where the address names none.
    pub fn in_account(&self, options: &S3Options) -> Result<Self> {
        if self.kind != StoreKind::Azure || self.account.is_some() {
            return Ok(self.clone());
        }
        let named = ACCOUNTS.iter().find_map(|name| options.variables.get(*name).filter(|value| !value.is_empty()));
        let account = named.filter(|account| is_account(account)).ok_or_else(|| {
            let what =
                if named.is_none() { "names no account" } else { "is in no account: its name has letters, digits and hyphens" };
            let text = format!("set AZURE_STORAGE_ACCOUNT_NAME, or write azure:https://ACCOUNT.{AZURE}/CONTAINER/PREFIX");
            Error::invalid(format!("{self} {what}: {text}"))
        })?;
        let host = if self.host.is_empty() { format!("{account}.{AZURE}") } else { self.host.clone() };
        Ok(StoreAddress { account: Some(account.clone()), host, ..self.clone() })
    }

    fn at(kind: StoreKind, tls: bool, (host, port): (&str, Option<u16>), path: &str) -> Result<Self> {
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if bucket.len() < 3 || bucket.len() > 63 || !bucket.bytes().all(good) {
            return Err(wrong("the bucket's name has 3 to 63 letters, digits, dots and hyphens"));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(good);
        let fits = prefix.is_empty() || prefix.len() <= LONGEST && prefix.split('/').all(part);
        if !fits {
            return Err(wrong(
                "the prefix has parts of letters, digits, dots, hyphens and underscores, with one slash between two",
            ));
        }
        let usual = if tls { 443 } else { 80 };
        let port = port.filter(|port| *port != usual);
        let (host, bucket, prefix) = (host.to_owned(), bucket.to_owned(), prefix.to_owned());
        Ok(StoreAddress { kind, tls, host, port, account: None, bucket, prefix })
    }

    /// The endpoint as a URL; with `bucket` in the host's name, where it is to be there.
    pub(crate) fn endpoint(&self, bucket: Option<&str>) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let bucket = bucket.map(|bucket| format!("{bucket}.")).unwrap_or_default();
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{scheme}://{bucket}{host}{port}")
    }

    /// The endpoint as a URL, without the bucket.
    pub fn endpoint_url(&self) -> String {
        self.endpoint(None)
    }

    /// The address of an account of Azure: what stands before the container.
    pub(crate) fn account_url(&self) -> String {
        let account = self.account.as_deref().filter(|_| has_accounts(&self.host));
        format!("{}{}", self.endpoint(None), account.map(|account| format!("/{account}")).unwrap_or_default())
    }

    /// The account of Azure, where the address names one.
    pub fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// Whether S3 is spoken there.
    pub fn speaks_s3(&self) -> bool {
        self.kind == StoreKind::S3
    }

    /// The bucket.
    pub fn bucket_name(&self) -> &str {
        &self.bucket
    }

    /// The key of an object of the repository.
    pub fn object_key(&self, name: &Name) -> String {
        self.key(&name.to_string())
    }

    /// The key of what is called `name` in the repository.
    pub(crate) fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }

    /// The region that an endpoint of AWS has in its name.
    pub(crate) fn region(&self) -> Option<&str> {
        let rest = self.host.strip_suffix(".amazonaws.com")?;
        rest.strip_prefix("s3.").or_else(|| rest.strip_prefix("s3.dualstack.")).filter(|region| !region.is_empty())
    }
}

/// Whether a host has several accounts, in its paths: an emulator has.
fn has_accounts(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok()
}

fn is_account(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            StoreKind::S3 => write!(f, "s3:{}/{}", self.endpoint(None), self.key_of_bucket()),
            StoreKind::Google if self.tls && self.host == GOOGLE && self.port.is_none() => {
                write!(f, "gs:{}", self.key_of_bucket())
            }
            StoreKind::Google => write!(f, "gs:{}/{}", self.endpoint(None), self.key_of_bucket()),
            StoreKind::Azure if self.host.is_empty() => write!(f, "azure:{}", self.key_of_bucket()),
            StoreKind::Azure => write!(f, "azure:{}/{}", self.account_url(), self.key_of_bucket()),
        }
    }
}

impl StoreAddress {
    fn key_of_bucket(&self) -> String {
        if self.prefix.is_empty() { self.bucket.clone() } else { format!("{}/{}", self.bucket, self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StoreAddress> {
        StoreAddress::parse(text.strip_prefix("s3:").unwrap().as_bytes())
    }

    #[test]
    fn addresses_read_as_they_are_written() {
        for text in [
            "s3:https://s3.eu-central-1.amazonaws.com/bucket",
            "s3:https://ceph.example:8443/bucket/web/one",
            "s3:http://127.0.0.1:7480/bucket/p",
            "s3:https://[::1]:9000/bucket",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("s3:https://h:443/bucket/p/").unwrap().to_string(), "s3:https://h/bucket/p");
        let aws = parse("s3:https://s3.eu-west-3.amazonaws.com/bucket").unwrap();
        assert_eq!((aws.region(), aws.endpoint(Some("b"))), (Some("eu-west-3"), "https://b.s3.eu-west-3.amazonaws.com".into()));
        assert_eq!(aws.key("packs/"), "packs/");
        for bad in [
            "s3:bucket/p",
            "s3://bucket/p",
            "s3:https://h",
            "s3:https://h/",
            "s3:https://h/b",
            "s3:https://h/bucket//p",
            "s3:https://h/bucket/../p",
            "s3:https://h/bucket/a b",
            "s3:https://h:0/bucket",
            "s3:ftp://h/bucket",
            "s3:",
        ] {
            let said = parse(bad).unwrap_err().to_string();
            assert!(said.contains("s3:https://ENDPOINT"), "{bad}: {said}");
        }
    }

    #[test]
    fn places_in_googles_store_need_no_endpoint() {
        let google = |text: &str| StoreAddress::google(text.strip_prefix("gs:").unwrap().as_bytes());
        for text in ["gs:bucket", "gs:bucket/web/one", "gs:http://127.0.0.1:4443/bucket/p"] {
            assert_eq!(google(text).unwrap().to_string(), text);
        }
        assert_eq!(google("gs://bucket/p/").unwrap().to_string(), "gs:bucket/p");
        assert_eq!(google("gs:https://storage.googleapis.com/bucket/p").unwrap().to_string(), "gs:bucket/p");
        assert_eq!(google("gs:bucket").unwrap().endpoint(None), "https://storage.googleapis.com");
        for bad in ["gs:", "gs:b", "gs:bucket//p", "gs:bucket/../p", "gs:https://h", "gs:bucket/a b"] {
            let said = google(bad).unwrap_err().to_string();
            assert!(said.contains("written gs:BUCKET/PREFIX"), "{bad}: {said}");
        }
    }

    #[test]
    fn places_in_azures_store_are_in_an_account() {
        let azure = |text: &str| StoreAddress::azure(text.strip_prefix("azure:").unwrap().as_bytes());
        let options = |pairs: &[(&str, &str)]| {
            let variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            S3Options { variables, ..S3Options::default() }
        };
        let named = options(&[("AZURE_STORAGE_ACCOUNT", "second"), ("AZURE_STORAGE_ACCOUNT_NAME", "first")]);
        let full = "azure:https://one.blob.core.windows.net/web/p";
        for text in ["azure:web", "azure:web/a/b", full, "azure:http://127.0.0.1:10000/one/web/p"] {
            assert_eq!(azure(text).unwrap().to_string(), text);
        }
        assert_eq!(azure("azure://web/p/").unwrap().to_string(), "azure:web/p");
        assert_eq!(azure("azure:web/p").unwrap().in_account(&named).unwrap().to_string(), full.replace("one", "first"));
        assert_eq!(azure(full).unwrap().in_account(&named).unwrap().to_string(), full);
        let emulated = azure("azure:http://127.0.0.1:10000/one/web/p").unwrap();
        assert_eq!((emulated.account(), emulated.account_url().as_str()), (Some("one"), "http://127.0.0.1:10000/one"));
        let own = azure("azure:https://blobs.example/web/p").unwrap().in_account(&named).unwrap();
        assert_eq!((own.account(), own.account_url().as_str()), (Some("first"), "https://blobs.example"));
        for none in [options(&[]), options(&[("AZURE_STORAGE_ACCOUNT_NAME", "a/b")])] {
            let said = azure("azure:web").unwrap().in_account(&none).unwrap_err().to_string();
            assert!(said.contains("AZURE_STORAGE_ACCOUNT_NAME"), "{said}");
        }
        for bad in [
            "azure:",
            "azure:w",
            "azure:web//p",
            "azure:web/../p",
            "azure:https://h",
            "azure:http://127.0.0.1/one",
            "azure:web/a b",
        ] {
            let said = azure(bad).unwrap_err().to_string();
            assert!(said.contains("written azure:CONTAINER/PREFIX"), "{bad}: {said}");
        }
    }
}
