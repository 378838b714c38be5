//! The certificate that a server shows: read again when its files change, so that renewing it takes no restart.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::error::Result;
use crate::remote::tls::{Fingerprint, TlsIdentity, shown};

/// How often the files are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

/// What changes when a file is replaced or written: its inode, its size, and when that was.
type FileStamp = Option<(u64, u64, i64, i64)>;

fn stamp(path: &Path) -> FileStamp {
    let meta = fs::metadata(path).ok()?;
    Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

#[derive(Debug)]
struct Current {
    shown: Arc<CertifiedKey>,
    stamps: (FileStamp, FileStamp),
    looked: Instant,
}

/// A chain of certificates and its key, by their files.
#[derive(Debug)]
pub(crate) struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

impl Certificate {
    /// What is in these PEM files now. Also answers its fingerprint.
    pub(super) fn read(chain: PathBuf, key: PathBuf) -> Result<(Self, Option<Fingerprint>)> {
        let stamps = (stamp(&chain), stamp(&key));
        let identity = TlsIdentity::read(&chain, &key)?;
        let fingerprint = identity.fingerprint();
        let current = Mutex::new(Current { shown: Arc::new(identity.certified()?), stamps, looked: Instant::now() });
        Ok((Certificate { chain, key, current }, fingerprint))
    }

    /// What is to be shown now. Files that make no sense, or not together, as in the middle of a renewal, change nothing.
    fn now(&self) -> Arc<CertifiedKey> {
        let mut current = self.current.lock();
        if current.looked.elapsed() < LOOK {
            return current.shown.clone();
        }
        current.looked = Instant::now();
        let stamps = (stamp(&self.chain), stamp(&self.key));
        if stamps != current.stamps {
            let name = shown(&self.chain);
            match TlsIdentity::read(&self.chain, &self.key).and_then(TlsIdentity::certified) {
                Ok(new) => {
                    tracing::info!(certificate = %name, "the certificate was read again");
                    (current.shown, current.stamps) = (Arc::new(new), stamps);
                }
                Err(e) => tracing::warn!(error = %e, "the certificate has changed and cannot be used: the old one is shown"),
            }
        }
        current.shown.clone()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}
