//! Lists that are whole, or errors.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::StreamExt;
use object_store::list::PaginatedListOptions;
use object_store::path::Path as Key;
use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{PackId, Timestamp};
use crate::remote::s3::S3Storage;
use crate::remote::s3::fault::Trouble;
use crate::storage::{Class, Name, Receipt, listed_size};

/// How often a list is asked for again that leaves out what is there.
const MOST_STALE: u32 = 8;
/// Pages of one list at most: 1000 objects each.
const MOST_PAGES: u32 = 1_000_000;

/// An object of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListedObject {
    /// Its name.
    pub(crate) name: Name,
    /// Its length.
    pub(crate) size: u64,
    /// When the store received it.
    pub(crate) at: Timestamp,
}

impl ListedObject {
    /// When the store received it.
    pub(super) fn receipt(&self) -> (Name, Receipt) {
        (self.name, Receipt { at: self.at, by: None })
    }
}

impl S3Storage {
    pub(super) fn listed(&self, class: Class) -> Result<Vec<ListedObject>> {
        if class == Class::Config
            && let Some(listed) = self.first.lock().take()
        {
            return Ok(listed);
        }
        let listed = self.wait(self.entries(class));
        listed.map_err(|e| e.context(format!("cannot list {}/ in {}", class.prefix(), self.address)))
    }

    /// All objects of a class. What was there before and is not in the list is looked for: then either it was deleted, or
    /// the list is not to be trusted, and is asked for again.
    pub(super) async fn entries(&self, class: Class) -> Result<Vec<ListedObject>> {
        let mut tries = 0;
        let listed = self.patiently(async |_| {
            // Before the list begins: what is made meanwhile need not be in it.
            let known: Vec<Name> = self.known.lock().get(&class).into_iter().flat_map(|known| known.iter()).copied().collect();
            let entries = self.pages(class).await?;
            let found: std::collections::HashSet<Name> = entries.iter().map(|entry| entry.name).collect();
            let missed: Vec<Name> = known.into_iter().filter(|name| !found.contains(name)).collect();
            let Some(there) = self.still_there(class, &missed).await.map_err(Trouble::Final)? else {
                self.forget(class, &missed);
                Arc::make_mut(self.known.lock().entry(class).or_default()).extend(found);
                return Ok(entries);
            };
            tries += 1;
            let text = format!("the store's list leaves out {there}, which is there");
            let e = Error::new(ErrorKind::Io, text);
            Err(if tries < MOST_STALE { Trouble::Stale(e) } else { Trouble::Final(e) })
        });
        listed.await.map_err(Trouble::error)
    }

    /// One of these that is there, and that nobody here has deleted meanwhile.
    async fn still_there(&self, class: Class, names: &[Name]) -> Result<Option<Name>> {
        let looks = futures_util::stream::iter(names.iter().copied()).map(|name| async move {
            let there = self.head(&self.key(&name)).await?.is_some();
            Ok::<_, Error>(there.then_some(name))
        });
        let mut looks = std::pin::pin!(looks.buffer_unordered(self.connections));
        while let Some(looked) = looks.next().await {
            if let Some(name) = looked?
                && self.known.lock().get(&class).is_some_and(|known| known.contains(&name))
            {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    async fn pages(&self, class: Class) -> Result<Vec<ListedObject>, Trouble> {
        let (mut entries, mut token) = (Vec::new(), None);
        for _ in 0..MOST_PAGES {
            let (page, next) = self.page_after(class, token.as_ref()).await?;
            entries.extend(page);
            match next {
                None => return Ok(entries),
                next => token = next,
            }
        }
        Err(Trouble::Final(Error::new(ErrorKind::Io, "the store's list does not end")))
    }

    /// A page of a list, and the token of the next one.
    async fn page_after(&self, class: Class, token: Option<&String>) -> Result<(Vec<ListedObject>, Option<String>), Trouble> {
        let prefix = self.address.key(&format!("{}/", class.prefix()));
        let options = PaginatedListOptions { page_token: token.cloned(), ..PaginatedListOptions::default() };
        let page =
            self.patiently(async |_| self.store.list_paginated(&prefix, options.clone()).await.map_err(|e| self.judge(&e)));
        let page = page.await?;
        let entries = page.result.objects.iter().filter_map(|object| {
            let at = object.last_modified;
            let at = Timestamp { secs: at.timestamp(), nanos: at.timestamp_subsec_nanos() };
            let name = name(class, &prefix, &object.location)?;
            Some(ListedObject { name, size: listed_size(class, object.size), at })
        });
        // A store that begins again and again would never end.
        if page.page_token.is_some() && page.page_token.as_ref() == token {
            return Err(Trouble::Unknown(Error::new(ErrorKind::Io, "the store's list goes round")));
        }
        Ok((entries.collect(), page.page_token))
    }

    /// As [`S3Storage::page_after`].
    pub(super) async fn page(&self, class: Class, token: Option<&String>) -> Result<(Vec<ListedObject>, Option<String>)> {
        self.page_after(class, token).await.map_err(|trouble| match trouble {
            Trouble::Missing => Error::new(ErrorKind::NoRepository, "the bucket is not there"),
            trouble => trouble.error(),
        })
    }

    /// The storage class of each pack.
    pub(super) fn listed_classes(&self) -> Result<HashMap<PackId, String>> {
        *self.shared.classes.lock() = Some(HashMap::new());
        let listed = self.wait(self.entries(Class::Packs));
        let classes = self.shared.classes.lock().take().unwrap_or_default();
        listed.map_err(|e| e.context(format!("cannot list packs/ in {}", self.address)))?;
        let prefix = self.address.key(&format!("{}/", Class::Packs.prefix()));
        let pack = |(key, class): (String, String)| match name(Class::Packs, &prefix, &Key::from(key)) {
            Some(Name::Pack(id)) => Some((id, class)),
            _ => None,
        };
        Ok(classes.into_iter().filter_map(pack).collect())
    }

    /// Refuses a prefix where something else is.
    pub(super) async fn nothing_there(&self) -> Result<()> {
        let prefix = self.address.key("");
        let first = self.patiently(async |_| {
            let options = PaginatedListOptions { max_keys: Some(10), ..PaginatedListOptions::default() };
            self.store.list_paginated(&prefix, options).await.map_err(|e| self.judge(&e))
        });
        let first = match first.await {
            Ok(first) => first,
            Err(Trouble::Missing) => return Err(Error::new(ErrorKind::NoRepository, "the bucket is not there")),
            Err(trouble) => return Err(trouble.error()),
        };
        let ours = |key: &Key| {
            let rest = key.as_ref().strip_prefix(&prefix).unwrap_or_default();
            let first = rest.split('/').next().unwrap_or_default();
            Class::ALL.iter().any(|class| class.prefix() == first) || first.starts_with(super::proof::PLACE)
        };
        let objects = first.result.objects;
        if objects.iter().any(|object| object.location.as_ref().starts_with(&format!("{prefix}config/"))) {
            return Err(Error::new(ErrorKind::Exists, "there is a repository already"));
        }
        match objects.iter().find(|object| !ours(&object.location)) {
            Some(object) => {
                let text = format!("something else is there ({}): give another prefix", object.location);
                Err(Error::new(ErrorKind::Exists, text))
            }
            None => Ok(()),
        }
    }
}

/// As [`storage_classes`], of Azure's.
pub(super) fn access_tiers(page: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(page);
    let found: TieredList = quick_xml::de::from_str(text.trim_start_matches('\u{feff}')).unwrap_or_default();
    let blob = |blob: TieredBlob| (blob.name, blob.properties.access_tier.unwrap_or_else(|| "Hot".to_owned()));
    found.blobs.blob.into_iter().map(blob).collect()
}

#[derive(Debug, Default, Deserialize)]
struct TieredList {
    #[serde(rename = "Blobs")]
    blobs: TieredBlobs,
}

#[derive(Debug, Default, Deserialize)]
struct TieredBlobs {
    #[serde(default, rename = "Blob")]
    blob: Vec<TieredBlob>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TieredBlob {
    name: String,
    properties: BlobTier,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BlobTier {
    access_tier: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ClassedList {
    #[serde(default, rename = "Contents")]
    contents: Vec<ClassedObject>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ClassedObject {
    key: String,
    storage_class: Option<String>,
}

/// Keys and storage classes of a page of a list. An object without a class is in the one that every store has.
pub(super) fn storage_classes(page: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(page);
    let found: ClassedList = quick_xml::de::from_str(&text).unwrap_or(ClassedList { contents: Vec::new() });
    let object = |object: ClassedObject| {
        // Keys may come encoded; those of packs have nothing else that is encoded than slashes.
        let key = object.key.replace("%2F", "/").replace("%2f", "/");
        (key, object.storage_class.unwrap_or_else(|| "STANDARD".to_owned()))
    };
    found.contents.into_iter().map(object).collect()
}

/// A class that is being listed page by page, so that no list has to fit into memory.
#[derive(Debug)]
pub(crate) struct StoreWalk {
    class: Class,
    token: Option<String>,
    /// What was made here before the list began.
    known: Arc<HashSet<Name>>,
    /// What of that was found.
    found: HashSet<Name>,
    pages: u32,
    done: bool,
}

impl StoreWalk {
    /// Begins to list a class.
    pub(crate) fn new(storage: &S3Storage, class: Class) -> Self {
        let known = storage.known.lock().get(&class).cloned().unwrap_or_default();
        StoreWalk { class, token: None, known, found: HashSet::new(), pages: 0, done: false }
    }

    /// The next page: name, size, time of receipt; `None` is the end. A list that leaves out what is there ends with an
    /// error.
    pub(crate) fn some(&mut self, storage: &S3Storage) -> Result<Option<Vec<(Name, u64, Timestamp)>>> {
        if self.done {
            return Ok(None);
        }
        let context = |e: Error| e.context(format!("cannot list {}/ in {}", self.class.prefix(), storage.address));
        let page = storage.wait(storage.page(self.class, self.token.as_ref()));
        let (entries, next) = page.map_err(context)?;
        self.pages += 1;
        self.found.extend(entries.iter().map(|entry| entry.name).filter(|name| self.known.contains(name)));
        match next {
            Some(_) if self.pages >= MOST_PAGES => {
                return Err(Error::new(ErrorKind::Io, "the store's list does not end"));
            }
            Some(_) => self.token = next,
            None => {
                let missed: Vec<Name> = self.known.difference(&self.found).copied().collect();
                let left_out = storage.wait(storage.still_there(self.class, &missed));
                if let Some(there) = left_out? {
                    return Err(Error::new(ErrorKind::Io, format!("the store's list leaves out {there}, which is there")));
                }
                storage.forget(self.class, &missed);
                self.done = true;
            }
        }
        Ok(Some(entries.into_iter().map(|entry| (entry.name, entry.size, entry.at)).collect()))
    }
}

/// The name that a key stands for; `None` for a foreign one.
fn name(class: Class, prefix: &str, key: &Key) -> Option<Name> {
    let rest = key.as_ref().strip_prefix(prefix)?;
    let leaf = match class {
        Class::Packs => {
            let (shard, leaf) = rest.split_once('/')?;
            Some(leaf).filter(|leaf| leaf.get(..2) == Some(shard))?
        }
        _ => rest,
    };
    Name::parse(class, leaf)
}
