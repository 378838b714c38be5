//! What a server needs of the store behind it: one connection for many repositories, parts of objects with their whole
//! length, objects that are not copied before they are sent.

use std::ops::Range;

use bytes::Bytes;
use object_store::PutPayload;
use object_store::{GetOptions, GetRange, ObjectStore};

use crate::error::Result;
use crate::remote::client::RemoteOptions;
use crate::remote::client::fault::ProgressTimeout;
use crate::remote::s3::S3Storage;
use crate::remote::s3::address::StoreAddress;
use crate::remote::s3::create::PIECE;
use crate::remote::s3::fault::Trouble;
use crate::storage::{Class, Created, Name};

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
            timeout: self.timeout,
            reports: self.reports.clone(),
            renewable: self.renewable,
            data_class: self.data_class.clone(),
            known: parking_lot::Mutex::default(),
            first: parking_lot::Mutex::default(),
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
        created.map_err(|e| e.context(format!("cannot write {name} in {}", self.address))).inspect(|_| self.know(name))
    }
}
