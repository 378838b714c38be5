//! Creating an object exactly once, also when several try at the same time.
//!
//! Every attempt of one call carries the same random mark in the object's metadata. After anything but a plain success,
//! what is there is looked at: an object with this mark is ours, however the store answered. Where a store does not keep
//! metadata, the content decides.

use std::borrow::Cow;

use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{Attribute, Attributes, GetOptions, PutMode, PutOptions, PutPayload};

use crate::error::{Error, ErrorKind, Result};
use crate::format::pack::{PREAMBLE, PackKind, Preamble};
use crate::model::id::{random_bytes, to_hex};
use crate::remote::client::fault::ProgressTimeout;
use crate::remote::s3::fault::Trouble;
use crate::remote::s3::{MOST_ONE_PUT, S3Storage};
use crate::storage::{Class, Created, Name};

/// Bytes that go at once: limits and time-outs count them so.
pub(super) const PIECE: usize = 256 << 10;

/// The metadata that says which call made an object. Azure takes what a program could name a variable, and no more.
pub(crate) fn mark() -> Attribute {
    Attribute::Metadata(Cow::Borrowed("yestercreate"))
}

/// An object on its way.
pub(crate) struct Sending {
    payload: PutPayload,
    attributes: Attributes,
    mark: String,
}

impl Sending {
    /// An object of these bytes.
    pub(super) fn new(parts: &[&[u8]], class: Option<&str>) -> Result<Self> {
        Self::of(payload(parts), class)
    }

    fn of(payload: PutPayload, class: Option<&str>) -> Result<Self> {
        let mark_text = to_hex(&random_bytes::<16>()?);
        let mut attributes = Attributes::new();
        attributes.insert(mark(), mark_text.clone().into());
        if let Some(class) = class {
            attributes.insert(Attribute::StorageClass, class.to_owned().into());
        }
        Ok(Sending { payload, attributes, mark: mark_text })
    }
}

fn payload(parts: &[&[u8]]) -> PutPayload {
    parts.iter().flat_map(|part| part.chunks(PIECE)).map(Bytes::copy_from_slice).collect()
}

/// Whose object has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Ours,
    Others,
    Nobodys,
}

impl S3Storage {
    /// Creates an object.
    pub(super) async fn put(&self, name: &Name, parts: &[&[u8]]) -> Result<Created> {
        self.put_payload(name, payload(parts)).await
    }

    /// Creates an object of these bytes.
    pub(super) async fn put_payload(&self, name: &Name, payload: PutPayload) -> Result<Created> {
        if payload.content_length() as u64 > MOST_ONE_PUT {
            return Err(Error::new(ErrorKind::Unsupported, "it is longer than one request to an object store may be"));
        }
        let key = self.key(name);
        if !self.proven().await? {
            self.alone(name).await?;
            // Its conditions mean nothing there: so one looks, and there is nobody else.
            if self.head(&key).await?.is_some() {
                return Ok(Created::Exists);
            }
        }
        let class = self.data_class.as_deref().filter(|_| is_data(name, &payload));
        let sending = Sending::of(payload, class)?;
        let mut patience = ProgressTimeout::new(self.timeout);
        // Attempts of which nobody can tell what became of them.
        let mut unknown = 0;
        // Whatever ends it then: one of them may still come to be there.
        let ended = |e: Error, unknown: u32| if unknown > 0 { e.with_kind(ErrorKind::Unsettled) } else { e };
        loop {
            let trouble = match self.attempt(&key, &sending).await {
                Ok(()) => return Ok(Created::New),
                Err(Trouble::Final(e)) => return Err(ended(e, unknown)),
                Err(trouble) => trouble,
            };
            unknown += u32::from(matches!(trouble, Trouble::Unknown(_)));
            match self.whose(&key, &sending, unknown > 0).await.map_err(|e| ended(e, unknown))? {
                Whose::Ours => return Ok(Created::New),
                Whose::Others => return Ok(Created::Exists),
                // Rule 3 of docs/durability.md.
                Whose::Nobodys if unknown > 0 && matches!(name, Name::Pack(_)) => {
                    return Err(ended(trouble.error(), unknown));
                }
                Whose::Nobodys => {}
            }
            self.rest(&mut patience, trouble, unknown).await.map_err(|trouble| ended(trouble.error(), unknown))?;
        }
    }

    /// Sends it once.
    pub(super) async fn attempt(&self, key: &Key, sending: &Sending) -> Result<(), Trouble> {
        let attributes = sending.attributes.clone();
        let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
        match self.store.put_opts(key, sending.payload.clone(), options).await {
            Ok(_) => Ok(()),
            // There is nothing that a PUT does not find but the bucket.
            Err(e) => Err(match self.judge(&e) {
                Trouble::Missing => Trouble::Final(Error::new(ErrorKind::NoRepository, "the bucket is not there")),
                trouble => trouble,
            }),
        }
    }

    /// Whose object is there. `maybe`: an attempt of ours may have made it.
    async fn whose(&self, key: &Key, sending: &Sending, maybe: bool) -> Result<Whose> {
        let length = sending.payload.content_length() as u64;
        match self.head(key).await? {
            None => Ok(Whose::Nobodys),
            Some((_, Some(mark))) => Ok(if mark == sending.mark { Whose::Ours } else { Whose::Others }),
            Some((size, None)) if size != length || !maybe => Ok(Whose::Others),
            Some((_, None)) => self.same_content(key, sending).await,
        }
    }

    async fn same_content(&self, key: &Key, sending: &Sending) -> Result<Whose> {
        let read = self.patiently(async |_| {
            let found = self.store.get_opts(key, GetOptions::default()).await.map_err(|e| self.judge(&e))?;
            found.bytes().await.map_err(|e| self.judge(&e))
        });
        match read.await {
            Ok(found) => {
                let sent = sending.payload.iter().flatten();
                Ok(if found.iter().eq(sent) { Whose::Ours } else { Whose::Others })
            }
            Err(Trouble::Missing) => Ok(Whose::Nobodys),
            Err(trouble) => Err(trouble.error()),
        }
    }

    /// On a store that does not decide: refuses a second writer.
    async fn alone(&self, name: &Name) -> Result<()> {
        let Name::Session(own) = name else { return Ok(()) };
        let others = self.entries(Class::Sessions).await?;
        let other = others.iter().find(|entry| matches!(entry.name, Name::Session(id) if id != *own));
        match other {
            None => Ok(()),
            Some(entry) => Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "{} is there, and this store does not decide between two writers, so one may write at a time: if no other \
                     is at work anywhere, yester prune --only-writer ends the session",
                    entry.name
                ),
            )),
        }
    }
}

/// Whether it is a pack that holds content of files: trees and the index must be at hand.
fn is_data(name: &Name, payload: &PutPayload) -> bool {
    let begin: Vec<u8> = payload.iter().flatten().take(PREAMBLE).copied().collect();
    matches!(name, Name::Pack(_)) && Preamble::decode(&begin).is_ok_and(|preamble| preamble.kind == PackKind::Data)
}
