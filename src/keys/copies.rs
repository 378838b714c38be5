//! Configuration and key slots are small, and everything depends on them: each is stored three times. Here is how the
//! copies are told good from bad, and how a bad one is written again.

use crate::error::{Error, ErrorKind, Result};
use crate::format::config::MAX_OBJECT;
use crate::format::envelope;
use crate::storage::{COPIES, Created, Name, Storage};

/// How one copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyState {
    /// It is whole.
    Whole,
    /// It is not there.
    Missing,
    /// Its own bytes show that it is not what was written: how.
    Damaged(String),
    /// Nobody with the repository's key has made it: how that shows.
    MadeUp(String),
    /// Nobody can tell: the storage failed, or a newer program wrote it. It is left alone.
    Unknown(String),
}

impl CopyState {
    /// How an object is that could not be decoded.
    pub(crate) fn of(error: &Error, object: &[u8]) -> Self {
        match error.kind() == ErrorKind::Unsupported && envelope::is_intact(object) {
            true => CopyState::Unknown(error.to_string()),
            false => CopyState::Damaged(error.to_string()),
        }
    }

    /// Whether a good copy may take the place of this one.
    pub fn may_be_replaced(&self) -> bool {
        matches!(self, CopyState::Missing | CopyState::Damaged(_) | CopyState::MadeUp(_))
    }
}

/// The copies of one object.
#[derive(Debug)]
pub struct Copies<T> {
    names: Vec<Name>,
    states: Vec<CopyState>,
    /// What each whole copy holds, as a place in `values`.
    holds: Vec<Option<usize>>,
    values: Vec<(Vec<u8>, T)>,
}

/// A copy that was written again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// Its name.
    pub name: Name,
    /// What was wrong with it.
    pub was: CopyState,
}

impl<T> Copies<T> {
    /// Reads the copies named by `name`; `listed` are the objects of the class that are there. `decode` takes a whole
    /// object.
    pub(crate) fn read(
        storage: &dyn Storage,
        name: impl Fn(u8) -> Name,
        listed: &[(Name, u64)],
        decode: impl Fn(&[u8]) -> Result<T>,
    ) -> Self {
        Self::read_judged(storage, name, listed, |object| decode(object).map_err(|e| CopyState::of(&e, object)))
    }

    /// The same with a `decode` that says itself how a copy is that holds nothing.
    pub(crate) fn read_judged(
        storage: &dyn Storage,
        name: impl Fn(u8) -> Name,
        listed: &[(Name, u64)],
        decode: impl Fn(&[u8]) -> std::result::Result<T, CopyState>,
    ) -> Self {
        let names: Vec<Name> = (0..COPIES).map(name).collect();
        let mut copies = Copies { names, states: Vec::new(), holds: Vec::new(), values: Vec::new() };
        let read = |name: &Name| {
            let size = listed.iter().find(|(listed, _)| listed == name).map(|(_, size)| *size);
            size.map(|size| read_copy(storage, name, size))
        };
        let objects: Vec<Option<std::result::Result<Vec<u8>, CopyState>>> = match storage.costs().high_latency() {
            true => std::thread::scope(|scope| {
                let reads: Vec<_> = copies.names.iter().map(|name| scope.spawn(|| read(name))).collect();
                let unknown = || Some(Err(CopyState::Unknown("a thread that read it ended".to_owned())));
                reads.into_iter().map(|read| read.join().unwrap_or_else(|_| unknown())).collect()
            }),
            false => copies.names.iter().map(read).collect(),
        };
        for object in objects {
            let (state, holds) = match object {
                Some(object) => copies.take(object, &decode),
                None => (CopyState::Missing, None),
            };
            copies.states.push(state);
            copies.holds.push(holds);
        }
        copies
    }

    fn take(
        &mut self,
        object: std::result::Result<Vec<u8>, CopyState>,
        decode: impl Fn(&[u8]) -> std::result::Result<T, CopyState>,
    ) -> (CopyState, Option<usize>) {
        let object = match object {
            Ok(object) => object,
            Err(state) => return (state, None),
        };
        if let Some(same) = self.values.iter().position(|(bytes, _)| *bytes == object) {
            return (CopyState::Whole, Some(same));
        }
        match decode(&object) {
            Ok(value) => {
                self.values.push((object, value));
                (CopyState::Whole, Some(self.values.len() - 1))
            }
            Err(state) => (state, None),
        }
    }

    /// Each copy's name and state.
    pub fn states(&self) -> impl Iterator<Item = (Name, &CopyState)> {
        self.names.iter().copied().zip(&self.states)
    }

    /// How many copies are whole.
    pub fn whole(&self) -> usize {
        self.states.iter().filter(|state| **state == CopyState::Whole).count()
    }

    /// Whether the first copies are whole and the others missing: so it is when a slot was not added to the end.
    pub(crate) fn lacks_last(&self) -> bool {
        let whole = self.states.iter().take_while(|state| **state == CopyState::Whole).count();
        let rest = self.states.iter().skip(whole);
        (1..self.states.len()).contains(&whole) && !self.differ() && rest.into_iter().all(|state| *state == CopyState::Missing)
    }

    /// Whether copies that are whole hold different things. Nobody but a person or a hostile store makes such; nothing
    /// is done about it.
    pub fn differ(&self) -> bool {
        self.values.len() > 1
    }

    /// What whole copies hold: nothing, or one value, or several if they [differ](Self::differ).
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.values.iter().map(|(_, value)| value)
    }

    /// Calls every copy damaged whose value is not one of `genuine`.
    pub(crate) fn distrust(&mut self, why: &str, genuine: impl Fn(&T) -> bool) {
        let good: Vec<bool> = self.values.iter().map(|(_, value)| genuine(value)).collect();
        let mut kept = 0;
        let places: Vec<Option<usize>> = good.iter().map(|good| good.then(|| (kept, kept += 1).0)).collect();
        for (state, holds) in self.states.iter_mut().zip(&mut self.holds) {
            let Some(at) = *holds else { continue };
            *holds = places.get(at).copied().flatten();
            if holds.is_none() {
                *state = CopyState::Damaged(why.to_owned());
            }
        }
        let mut good = good.into_iter();
        self.values.retain(|_| good.next().unwrap_or(false));
    }

    /// Writes the copies again that are missing or damaged, with the bytes of a whole one. An object's name keeps its
    /// one value that way: a damaged copy is deleted, and the same bytes as ever are created under its name.
    ///
    /// Does nothing where no copy is whole, or whole ones differ.
    pub(crate) fn repair(&self, storage: &dyn Storage) -> Result<Vec<Repaired>> {
        let [(bytes, _)] = self.values.as_slice() else { return Ok(Vec::new()) };
        let Some(source) = self.states().find(|(_, state)| **state == CopyState::Whole).map(|(name, _)| name) else {
            return Ok(Vec::new());
        };
        let mut repaired = Vec::new();
        // The missing ones first: while damaged ones are deleted, there are as many good ones as can be.
        for missing in [true, false] {
            for (name, state) in self.states() {
                let wanted = state.may_be_replaced() && missing == (*state == CopyState::Missing);
                if wanted && write_again(storage, &name, bytes)? {
                    repaired.push(Repaired { name, was: state.clone() });
                }
            }
        }
        if repaired.is_empty() {
            return Ok(repaired);
        }
        storage.sync()?;
        // Somebody who removes a slot at this moment deletes all its copies, and must not be left with a new one.
        let mut found = Vec::new();
        if storage.read(&source, None, &mut found).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            repaired.iter().try_for_each(|copy| storage.delete(&copy.name))?;
            storage.sync()?;
            return Ok(Vec::new());
        }
        Ok(repaired)
    }
}

/// Reads one copy of `size` bytes.
fn read_copy(storage: &dyn Storage, name: &Name, size: u64) -> std::result::Result<Vec<u8>, CopyState> {
    if size > MAX_OBJECT {
        return Err(CopyState::Damaged(format!("it has {size} bytes")));
    }
    let mut object = Vec::new();
    match storage.read(name, None, &mut object) {
        Ok(()) => Ok(object),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(CopyState::Missing),
        Err(e) if e.kind() == ErrorKind::Corrupt => Err(CopyState::Damaged(e.to_string())),
        Err(e) => Err(CopyState::Unknown(e.to_string())),
    }
}

/// Puts `bytes` under `name`, unless they are there by now; says whether it did.
fn write_again(storage: &dyn Storage, name: &Name, bytes: &[u8]) -> Result<bool> {
    let mut found = Vec::new();
    let read = |found: &mut Vec<u8>| storage.read(name, None, found);
    match read(&mut found) {
        Ok(()) if found == bytes => return Ok(false),
        Err(e) if ![ErrorKind::NotFound, ErrorKind::Corrupt].contains(&e.kind()) => return Err(e),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        _ => storage.delete(name)?,
    }
    let created = storage.create(name, &[bytes])?;
    read(&mut found)?;
    if found != bytes {
        return Err(Error::corrupt(format!("{name} was written again and still does not hold what was written")));
    }
    Ok(created == Created::New)
}
