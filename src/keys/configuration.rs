//! The configuration: found by its copies, believed by its MAC.

use std::collections::BTreeSet;

use crate::chunk::keys::Keys;
use crate::error::{Error, ErrorKind, Result};
use crate::format::config::{self, Config};
use crate::format::envelope::{self, HEADER, ObjectType};
use crate::keys::copies::{Copies, CopyState};
use crate::model::RepositoryId;
use crate::storage::{COPIES, Class, Created, Name, Storage};

/// A configuration whose bytes are whole; whether it is genuine, the key says.
#[derive(Debug)]
pub struct Candidate {
    header: [u8; HEADER],
    fields: Vec<u8>,
    mac: [u8; 32],
    /// What it says, or why that takes a newer program.
    config: Result<Config>,
}

impl Candidate {
    fn repository(&self) -> RepositoryId {
        let mut id = [0; 16];
        self.header.iter().skip(HEADER - id.len()).zip(&mut id).for_each(|(from, to)| *to = *from);
        RepositoryId(id)
    }

    /// The MAC is of the header as it stands and of all before the MAC, in every version: so an authentic configuration of
    /// a newer one is told from something that only claims to be.
    fn is_authentic(&self, keys: &Keys) -> bool {
        let mac = keys.config_mac(&self.header, &self.fields);
        aws_lc_rs::constant_time::verify_slices_are_equal(&mac, &self.mac).is_ok()
    }
}

/// Every configuration of a repository, by number, the newest first.
#[derive(Debug)]
pub(crate) struct Configurations {
    numbers: Vec<(u32, Copies<Candidate>)>,
}

/// Configurations of which the key has said which are authentic. Copies of others count as damaged.
#[derive(Debug)]
pub(crate) struct JudgedConfigurations {
    found: Configurations,
    /// The numbers of those that are authentic under a key that was changed since. They tell who has only that.
    former: BTreeSet<u32>,
}

/// A configuration that the key has confirmed.
#[derive(Debug)]
pub(crate) struct Authentic {
    /// What it says.
    pub(crate) config: Config,
    /// Its copies; those that are not authentic count as damaged.
    pub(crate) copies: Copies<Candidate>,
    /// Its number.
    pub(crate) number: u32,
}

/// The object of a configuration.
pub(crate) fn object(config: &Config, keys: &Keys) -> Result<Vec<u8>> {
    let header = envelope::header(ObjectType::Config, config.repository);
    let mac = keys.config_mac(&header, &config::config_fields(config));
    Ok(envelope::wrap(ObjectType::Config, config.repository, &config::encode_config(config, &mac)?))
}

/// Creates all copies of configuration `number`; durable when this returns. False when the name is taken by something
/// else.
pub(crate) fn create(storage: &dyn Storage, number: u32, object: &[u8]) -> Result<bool> {
    let mut found = Vec::new();
    for copy in 0..COPIES {
        let name = Name::Config(number, copy);
        if storage.create(&name, &[object])? == Created::Exists {
            storage.read(&name, None, &mut found)?;
            if found != object {
                return Ok(false);
            }
        }
    }
    storage.sync()?;
    Ok(true)
}

impl Configurations {
    /// Reads them all; there may be none.
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self> {
        let listed = storage.list(Class::Config)?;
        let numbers: BTreeSet<u32> =
            listed.iter().filter_map(|(name, _)| if let Name::Config(number, _) = name { Some(*number) } else { None }).collect();
        let read = |number| (number, Copies::read(storage, |copy| Name::Config(number, copy), &listed, decode));
        Ok(Configurations { numbers: numbers.into_iter().rev().map(read).collect() })
    }

    /// Which repositories they speak of; one, unless something was mixed up.
    pub(crate) fn repositories(&self) -> Vec<RepositoryId> {
        let mut out = Vec::new();
        for candidate in self.numbers.iter().flat_map(|(_, copies)| copies.values()) {
            if !out.contains(&candidate.repository()) {
                out.push(candidate.repository());
            }
        }
        out
    }

    /// The lowest number above `number` of a configuration of this repository that is whole and authentic under none of
    /// `keys`: of another key, if nobody has made it up.
    pub(crate) fn foreign(&self, repository: RepositoryId, number: u32, keys: &Keys) -> Option<u32> {
        let is_foreign = |candidate: &Candidate| {
            let mut all = std::iter::once(keys).chain(keys.former());
            candidate.repository() == repository && !all.any(|keys| candidate.is_authentic(keys))
        };
        let above = self.numbers.iter().rev().filter(|(found, _)| *found > number);
        above.filter(|(_, copies)| copies.values().any(is_foreign)).map(|(found, _)| *found).next()
    }

    /// The newest that can be read of a repository, for who cannot tell which are authentic.
    pub(crate) fn claimed(&self, repository: RepositoryId) -> Result<(Config, u32)> {
        let mut found = self.numbers.iter().flat_map(|(number, copies)| copies.values().map(|found| (found, *number)));
        match found.find(|(found, _)| found.repository() == repository).map(|(found, number)| (&found.config, number)) {
            Some((Ok(config), number)) => Ok((config.clone(), number)),
            Some((Err(newer), _)) => Err(Error::new(newer.kind(), newer.to_string())),
            None => Err(Error::new(ErrorKind::Key, "this key is of another repository")),
        }
    }

    /// Lets the key say which are authentic.
    pub(crate) fn judge(mut self, keys: &Keys) -> JudgedConfigurations {
        let is_former = |copies: &Copies<Candidate>| {
            copies.values().any(|candidate| keys.former().iter().any(|keys| candidate.is_authentic(keys)))
        };
        let former = self.numbers.iter().filter(|(_, copies)| is_former(copies)).map(|(number, _)| *number).collect();
        for (_, copies) in &mut self.numbers {
            copies.distrust("it is not authentic under the repository's key", |candidate| candidate.is_authentic(keys));
        }
        JudgedConfigurations { found: self, former }
    }

    /// Why nothing in `config/` can be used.
    pub(crate) fn error(&self, storage: &dyn Storage) -> Error {
        let place = storage.describe();
        let next = "yester key recover writes it anew";
        let mut states: Vec<_> = self.numbers.iter().flat_map(|(_, copies)| copies.states()).collect();
        // What cannot be looked at may be good: nothing is to be written anew because of it.
        states.sort_by_key(|(_, state)| !matches!(state, CopyState::Unknown(_)));
        match states.first() {
            Some((name, CopyState::Unknown(why))) => Error::new(ErrorKind::Io, format!("{name} in {place}: {why}")),
            Some((name, CopyState::Damaged(why) | CopyState::MadeUp(why))) => {
                let text = format!("no copy of the configuration of {place} is good: {name}: {why}");
                Error::corrupt(format!("{text}; {next}"))
            }
            _ if !holds(storage, |class| class != Class::Config) => {
                Error::new(ErrorKind::NoRepository, format!("there is no repository at {place} (make one with: yester init)"))
            }
            _ if !holds(storage, |class| ![Class::Config, Class::Keys].contains(&class)) => {
                let text = format!("there is no repository at {place}, only the beginning of one: remove it and use yester init");
                Error::new(ErrorKind::NoRepository, text)
            }
            _ => Error::corrupt(format!("the configuration of {place} is lost: its config/ is empty; {next}")),
        }
    }
}

impl JudgedConfigurations {
    /// The newest authentic one; `None`: there is none. An error if that is of a newer program. What is not authentic says
    /// nothing, whatever it claims.
    pub(crate) fn newest(self) -> Result<Option<Authentic>> {
        for (number, copies) in self.found.numbers {
            // Two that differ cannot both have been made: there is one object a number. The first serves.
            let config = match copies.values().next().map(|candidate| &candidate.config) {
                Some(Ok(config)) => config.clone(),
                Some(Err(newer)) => return Err(Error::new(newer.kind(), newer.to_string())),
                None => continue,
            };
            return Ok(Some(Authentic { config, copies, number }));
        }
        Ok(None)
    }

    /// Objects that claim to be newer than the configuration that counts, and are not authentic: each with what is wrong
    /// with it. They count for nothing.
    pub(crate) fn ignored(&self) -> Vec<(Name, String)> {
        let newer = self.found.numbers.iter().take_while(|(_, copies)| copies.whole() == 0);
        damaged(newer.filter(|(number, _)| !self.former.contains(number)).map(|(_, copies)| copies))
    }

    /// The same, and what was superseded: all that is of a number of which no copy is authentic.
    pub(crate) fn useless(&self) -> Vec<(Name, String)> {
        let useless = self.found.numbers.iter().filter(|(_, copies)| copies.whole() == 0);
        damaged(useless.filter(|(number, _)| !self.former.contains(number)).map(|(_, copies)| copies))
    }

    /// The next number after those of configurations that are authentic or cannot be looked at.
    pub(crate) fn free_number(&self) -> Result<u32> {
        let counts = |copies: &Copies<Candidate>| {
            copies.states().any(|(_, state)| matches!(state, CopyState::Whole | CopyState::Unknown(_)))
        };
        self.free_after(self.found.numbers.iter().find(|(_, copies)| counts(copies)).map_or(0, |(number, _)| *number))
    }

    /// The first number after this one that nothing is stored under.
    pub(crate) fn free_after(&self, highest: u32) -> Result<u32> {
        let is_taken = |number: &u32| self.found.numbers.iter().any(|(taken, _)| taken == number);
        let free = (highest..=u32::MAX).skip(1).find(|number| !is_taken(number));
        free.ok_or_else(|| Error::corrupt("config/ffffffff is taken: no newer configuration can be written"))
    }

    /// The error of what cannot be looked at, and may be authentic.
    pub(crate) fn unreadable(&self, storage: &dyn Storage) -> Option<Error> {
        let mut states = self.found.numbers.iter().flat_map(|(_, copies)| copies.states());
        states.any(|(_, state)| matches!(state, CopyState::Unknown(_))).then(|| self.found.error(storage))
    }
}

/// The error of whoever has a key that is no longer the repository's.
pub(crate) fn closed() -> Error {
    let text = "the key of this repository was changed, and this is a former one: use the new key, or its recovery text; if \
                the change was stopped half way, yester key rotate ends it";
    Error::new(ErrorKind::Key, text)
}

/// The error of whoever would end a change that another key has ended: what that stored would be lost.
pub(crate) fn decided(number: u32) -> Error {
    let text = format!(
        "the key of this repository was changed, and with a key that this one opens no slot of (config/{number:08x} is authentic \
         under another one): use that key. If there is none, and somebody who may write to the store has made this up, delete \
         config/{number:08x}.* there, and run yester key rotate again"
    );
    Error::new(ErrorKind::Key, text)
}

/// An error if `keys`, with which configuration `number` was found, are no longer those of the repository. One listing, as
/// long as there is no newer configuration.
pub(crate) fn is_current(storage: &dyn Storage, config: &Config, number: u32, keys: &Keys) -> Result<()> {
    let is_newer = |name: &Name| matches!(name, Name::Config(found, _) if *found > number);
    if !storage.list(Class::Config)?.iter().any(|(name, _)| is_newer(name)) {
        return Ok(());
    }
    let found = Configurations::read(storage)?;
    // A key that only writes cannot tell which is authentic.
    let newest = match keys.writer() {
        Some(_) => found.claimed(config.repository).map(|(_, newest)| newest > number)?,
        None => found.judge(keys).newest()?.is_some_and(|newest| newest.config.is_closed()),
    };
    match newest {
        true => Err(closed().context("this began before the key was changed, and was given up; nothing that was stored is lost")),
        false => Ok(()),
    }
}

/// The damaged ones of these copies, with what is wrong.
fn damaged<'a>(copies: impl Iterator<Item = &'a Copies<Candidate>>) -> Vec<(Name, String)> {
    let why = |(name, state): (Name, &CopyState)| {
        if let CopyState::Damaged(why) | CopyState::MadeUp(why) = state { Some((name, why.clone())) } else { None }
    };
    copies.flat_map(|copies| copies.states().filter_map(why)).collect()
}

/// Whether there may be an object of one of these classes.
fn holds(storage: &dyn Storage, of: impl Fn(Class) -> bool) -> bool {
    Class::ALL.into_iter().filter(|class| of(*class)).any(|class| !storage.list(class).is_ok_and(|list| list.is_empty()))
}

fn decode(object: &[u8]) -> Result<Candidate> {
    const WHAT: &str = "the configuration";
    let (header, body) = envelope::parts(object, ObjectType::Config, WHAT)?;
    let Some((fields, mac)) = body.split_last_chunk::<32>() else {
        return Err(Error::corrupt(format!("{WHAT} is too short")));
    };
    let read = || {
        let (repository, body) = envelope::unwrap(object, ObjectType::Config, WHAT)?;
        config::decode_config(body, repository).map(|(config, ..)| config)
    };
    let config = match read() {
        Err(e) if e.kind() != ErrorKind::Unsupported => return Err(e),
        config => config,
    };
    Ok(Candidate { header: *header, fields: fields.to_vec(), mac: *mac, config })
}
