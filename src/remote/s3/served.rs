//! What a server needs of the store behind it: one connection for many repositories, parts of objects with their whole
//! length, objects that are not copied before they are sent.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::{GetOptions, GetRange, PutPayload};

use crate::error::Result;
use crate::remote::client::RemoteOptions;
use crate::remote::client::fault::ProgressTimeout;
use crate::remote::s3::S3Storage;
use crate::remote::s3::address::StoreAddress;
use crate::remote::s3::create::PIECE;
use crate::remote::s3::fault::Trouble;
use crate::storage::{Class, Created, Name};

/// How many packs and index segments a server looks for in lists, and how long after it made them: stores that are behind are
/// so by seconds.
const MOST_PASSING: usize = 4096;
const PASSING: Duration = Duration::from_secs(300);

impl S3Storage {
    /// A connection to the store at `address`, below which there are repositories. Requests run on threads of its own: who
    /// waits for them may hold all others.
    pub(crate) fn root(address: &StoreAddress, options: &RemoteOptions) -> Result<Self> {
        Self::connect(address, options)
    }

    /// The repository of this name below, over the same connections.
    pub(crate) fn below(&self, name: &str) -> Self {
        let address = StoreAddress { prefix: self.address.key(name), ..self.address.clone() };
        S3Storage {
            address,
            store: self.store.clone(),
            shared: self.shared.clone(),
            connections: self.connections,
            small_at_once: self.small_at_once,
            timeout: self.timeout,
            reports: self.reports.clone(),
            renewable: self.renewable,
            data_class: self.data_class.clone(),
            known: parking_lot::Mutex::default(),
            passing: parking_lot::Mutex::default(),
            first: parking_lot::Mutex::default(),
            received: parking_lot::Mutex::default(),
            holds: tokio::sync::Mutex::default(),
            threads: self.threads.clone(),
            runtime: None,
        }
    }

    /// Whether there is a repository.
    pub(crate) fn is_there(&self) -> Result<bool> {
        let listed = self.wait(self.page(Class::Config, None));
        let listed = listed.map_err(|e| e.context(format!("cannot look for a repository at {}", self.address)))?;
        Ok(!listed.0.is_empty())
    }

    /// That a repository can be made here: nothing is there, and the store is proven.
    pub(crate) fn make_ready(&self) -> Result<()> {
        let made = self.wait(async {
            self.nothing_there().await?;
            self.proven().await
        });
        made.map(drop).map_err(|e| e.context(format!("cannot make a repository at {}", self.address)))
    }

    /// The length of an object in bytes; `None` when it is not there.
    pub(crate) fn length(&self, name: &Name) -> Result<Option<u64>> {
        let found = self.wait(self.head(&self.key(name)));
        let found = found.map_err(|e| e.context(format!("cannot look for {name} in {}", self.address)))?;
        Ok(found.map(|(length, _)| length))
    }

    /// Reads what there is of a range into `out` (replaced), and says how long the whole object is.
    pub(crate) fn part(&self, name: &Name, range: Range<u64>, out: &mut Vec<u8>) -> Result<u64> {
        out.clear();
        let read = self.wait(async {
            let read = self.patiently(async |patience| self.clipped(name, &range, out, patience).await);
            match read.await {
                Ok(length) => Ok(length),
                Err(Trouble::Beyond) => {
                    let found = self.head(&self.key(name)).await?;
                    found.map(|(length, _)| length).ok_or_else(|| Trouble::Missing.error())
                }
                Err(trouble) => Err(trouble.error()),
            }
        });
        read.map_err(|e| e.context(format!("cannot read {name} in {}", self.address)))
    }

    async fn clipped(
        &self,
        name: &Name,
        range: &Range<u64>,
        out: &mut Vec<u8>,
        patience: &mut ProgressTimeout,
    ) -> Result<u64, Trouble> {
        let from = range.start + out.len() as u64;
        let options = GetOptions { range: Some(GetRange::Bounded(from..range.end)), ..GetOptions::default() };
        let found = self.store.get_opts(&self.key(name), options).await.map_err(|e| self.judge(&e))?;
        let size = found.meta.size;
        let left = usize::try_from(range.end.min(size).saturating_sub(from)).unwrap_or(usize::MAX);
        self.fill(found, left, out, patience).await?;
        Ok(size)
    }

    /// As [`Storage::create`](crate::storage::Storage::create), of bytes that are sent from where they are.
    pub(crate) fn create_whole(&self, name: &Name, bytes: Bytes) -> Result<Created> {
        let pieces = (0..bytes.len()).step_by(PIECE).map(|from| bytes.slice(from..bytes.len().min(from + PIECE)));
        let created = self.wait(self.put_payload(name, PutPayload::from_iter(pieces)));
        created.map_err(|e| e.context(format!("cannot write {name} in {}", self.address))).inspect(|_| self.know_for_now(name))
    }

    /// As [`S3Storage::know`]; packs and index segments, of which there is no end, only the last of them for some minutes.
    fn know_for_now(&self, name: &Name) {
        self.know(name);
        if matches!(name.class(), Class::Packs | Class::Index) {
            self.passing.lock().push_back((Instant::now(), *name));
        }
        self.pass(MOST_PASSING, PASSING);
    }

    /// Forgets what passes, but for so many that were made within this time.
    fn pass(&self, most: usize, age: Duration) {
        let mut passing = self.passing.lock();
        let mut gone = Vec::new();
        while passing.len() > most || passing.front().is_some_and(|(at, _)| at.elapsed() > age) {
            gone.extend(passing.pop_front().map(|(_, name)| name));
        }
        for class in [Class::Packs, Class::Index] {
            self.forget(class, gone.iter().filter(|name| name.class() == class));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PackId, SnapshotId};

    #[test]
    fn a_server_remembers_the_last_packs_for_some_time() {
        let address = StoreAddress::parse(b"http://127.0.0.1:9/bucket/fleet").unwrap();
        let mut options = RemoteOptions::default();
        let variables = [("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "SK")];
        options.s3.variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        let root = S3Storage::root(&address, &options).unwrap();
        let storage = root.below("web");
        let known = |class| storage.known.lock().get(&class).map_or(0, |known| known.len());
        (0..9).for_each(|n| storage.know_for_now(&Name::Pack(PackId([n; 32]))));
        storage.know_for_now(&Name::Snapshot(SnapshotId([1; 32])));
        assert_eq!((known(Class::Packs), known(Class::Snapshots)), (9, 1));
        // Who lists meanwhile looks for what was there at the beginning.
        let walk = storage.known.lock().get(&Class::Packs).cloned().unwrap();
        storage.pass(4, PASSING);
        assert_eq!((known(Class::Packs), walk.len()), (4, 9));
        assert!(storage.known.lock()[&Class::Packs].contains(&Name::Pack(PackId([8; 32]))));
        storage.pass(4, Duration::ZERO);
        assert_eq!((known(Class::Packs), known(Class::Snapshots)), (0, 1));
    }
}
