//! The configuration: found by its copies, believed by its MAC.

use std::collections::BTreeSet;

use crate::chunk::keys::Keys;
use crate::error::{Error, ErrorKind, Result};
use crate::format::config::{self, Config};
use crate::format::envelope::{self, ObjectType};
use crate::keys::copies::{Copies, State};
use crate::model::RepositoryId;
use crate::storage::{COPIES, Class, Created, Name, Storage};

/// A configuration that can be read; whether it is genuine, the key says.
#[derive(Debug)]
pub struct Candidate {
    config: Config,
    fields: Vec<u8>,
    mac: [u8; 32],
}

impl Candidate {
    /// What it says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn is_authentic(&self, keys: &Keys) -> bool {
        let header = envelope::header(ObjectType::Config, self.config.repository);
        aws_lc_rs::constant_time::verify_slices_are_equal(&keys.config_mac(&header, &self.fields), &self.mac).is_ok()
    }
}

/// Every configuration of a repository, by number, the newest first.
#[derive(Debug)]
pub(crate) struct Configurations {
    numbers: Vec<(u32, Copies<Candidate>)>,
}

/// A configuration that the key has confirmed.
#[derive(Debug)]
pub(crate) struct Authentic {
    /// What it says.
    pub config: Config,
    /// Its copies; those that are not authentic count as damaged.
    pub copies: Copies<Candidate>,
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
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let listed = storage.list(Class::Config)?;
        let numbers: BTreeSet<u32> =
            listed.iter().filter_map(|(name, _)| if let Name::Config(number, _) = name { Some(*number) } else { None }).collect();
        let read = |number| (number, Copies::read(storage, |copy| Name::Config(number, copy), &listed, decode));
        Ok(Configurations { numbers: numbers.into_iter().rev().map(read).collect() })
    }

    /// Which repositories they speak of; one, unless something was mixed up.
    pub fn repositories(&self) -> Vec<RepositoryId> {
        let mut out = Vec::new();
        for candidate in self.numbers.iter().flat_map(|(_, copies)| copies.values()) {
            if !out.contains(&candidate.config.repository) {
                out.push(candidate.config.repository);
            }
        }
        out
    }

    /// The error of a newer program's configuration, if it is newer than any that this one can read.
    pub fn check_supported(&mut self) -> Result<()> {
        for (_, copies) in &mut self.numbers {
            if let Some(e) = copies.unsupported() {
                return Err(e);
            }
            if copies.whole() > 0 {
                break;
            }
        }
        Ok(())
    }

    /// The newest one that the key confirms.
    pub fn authentic(self, keys: &Keys) -> Option<Authentic> {
        for (_, mut copies) in self.numbers {
            copies.distrust("it is not authentic under the repository's key", |candidate| candidate.is_authentic(keys));
            // Two that differ cannot both have been made: there is one object a number. The first serves.
            let config = copies.values().next().map(|candidate| candidate.config.clone());
            if let Some(config) = config {
                return Some(Authentic { config, copies });
            }
        }
        None
    }

    /// A number that no configuration has.
    pub fn free_number(&self) -> Result<u32> {
        let highest = self.numbers.first().map_or(0, |(number, _)| *number);
        highest.checked_add(1).ok_or_else(|| Error::corrupt("config/ffffffff is taken: no newer configuration can be written"))
    }

    /// Why nothing in `config/` can be used.
    pub fn error(&self, storage: &dyn Storage) -> Error {
        let place = storage.describe();
        let next = "yester key recover writes it anew";
        let mut states: Vec<_> = self.numbers.iter().flat_map(|(_, copies)| copies.states()).collect();
        // What cannot be looked at may be good: nothing is to be written anew because of it.
        states.sort_by_key(|(_, state)| !matches!(state, State::Unknown(_)));
        match states.first() {
            Some((name, State::Unknown(why))) => Error::new(ErrorKind::Io, format!("{name} in {place}: {why}")),
            Some((name, State::Damaged(why))) => {
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

/// Whether there may be an object of one of these classes.
fn holds(storage: &dyn Storage, of: impl Fn(Class) -> bool) -> bool {
    Class::ALL.into_iter().filter(|class| of(*class)).any(|class| !storage.list(class).is_ok_and(|list| list.is_empty()))
}

fn decode(object: &[u8]) -> Result<Candidate> {
    let (repository, body) = envelope::unwrap(object, ObjectType::Config, "the configuration")?;
    let (config, fields, mac) = config::decode_config(body, repository)?;
    Ok(Candidate { config, fields: fields.to_vec(), mac })
}
