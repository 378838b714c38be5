//! Objects in memory: for tests, and for what needs no disk.

use std::collections::BTreeMap;
use std::ops::Range;

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Class, Costs, Created, Name, Storage};

/// A repository in memory.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    objects: Mutex<BTreeMap<Name, Vec<u8>>>,
}

impl MemoryStorage {
    fn objects(&self) -> parking_lot::MutexGuard<'_, BTreeMap<Name, Vec<u8>>> {
        self.objects.lock()
    }

    /// Changes the bytes of an object behind everybody's back: what a failing disk does.
    pub fn damage(&self, name: &Name, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(object) = self.objects().get_mut(name) {
            change(object);
        }
    }
}

impl Storage for MemoryStorage {
    fn create(&self, name: &Name, parts: &[&[u8]]) -> Result<Created> {
        let mut objects = self.objects();
        if objects.contains_key(name) {
            return Ok(Created::Exists);
        }
        objects.insert(*name, parts.concat());
        Ok(Created::New)
    }

    fn read(&self, name: &Name, range: Option<Range<u64>>, out: &mut Vec<u8>) -> Result<()> {
        let objects = self.objects();
        let object =
            objects.get(name).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("cannot read {name}: it is not there")))?;
        let range = match range {
            Some(range) => range,
            None => 0..super::whole(name, object.len() as u64)?,
        };
        let part = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok()).and_then(|(a, b)| object.get(a..b));
        out.clear();
        out.extend_from_slice(part.ok_or_else(|| Error::corrupt(format!("cannot read {name}: it is too short")))?);
        Ok(())
    }

    fn list(&self, class: Class) -> Result<Vec<(Name, u64)>> {
        Ok(self
            .objects()
            .iter()
            .filter(|(name, _)| name.class() == class)
            .map(|(name, object)| (*name, object.len() as u64))
            .collect())
    }

    fn delete(&self, name: &Name) -> Result<()> {
        self.objects().remove(name);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn costs(&self) -> Costs {
        Costs::local(2)
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}
