//! The small objects: configuration, key slots, sessions, marks, sentences, snapshots.

use std::collections::BTreeMap;

use crate::chunk::seal;
use crate::error::{Error, ErrorKind, Result};
use crate::format::config;
use crate::format::envelope::{self, ObjectType};
use crate::format::snapshot as format;
use crate::model::{PackId, Snapshot};
use crate::repo::{Repository, beat, damaged, session, snapshots};
use crate::storage::{COPIES, Class, Name};

use super::CheckReport;
use super::findings::Findings;

/// Opens every small object; returns the live snapshots, oldest first.
pub(super) fn check(repo: &Repository, findings: &mut Findings<'_>, report: &mut CheckReport) -> Result<Vec<Snapshot>> {
    copies(repo, Class::Config, findings, &|object| config_is_sound(repo, object))?;
    copies(repo, Class::Keys, findings, &|object| slot_is_sound(repo, object))?;
    let sessions = std::cell::Cell::new(0);
    each(repo, Class::Sessions, findings, &|name, _| match name {
        Name::Session(id) => {
            sessions.set(sessions.get() + 1);
            session::read(repo, *id).map(drop)
        }
        Name::Beat(id, number) => beat::is_authentic(repo, *id, *number),
        _ => Ok(()),
    })?;
    report.sessions = sessions.get();
    each(repo, Class::Forgotten, findings, &|name, object| mark_is_sound(repo, ObjectType::Forgotten, name, object))?;
    each(repo, Class::Condemned, findings, &|name, object| sentence_is_sound(repo, name, object))?;
    each(repo, Class::Damaged, findings, &|name, object| match name {
        Name::Damaged(id) => damaged::open(repo, *id, object)
            .map(drop)
            .map_err(|e| Error::new(e.kind(), format!("{e}; it says nothing, and yester prune removes it"))),
        _ => Ok(()),
    })?;
    live_snapshots(repo, findings)
}

fn live_snapshots(repo: &Repository, findings: &mut Findings<'_>) -> Result<Vec<Snapshot>> {
    let mut out = Vec::new();
    let mut object = Vec::new();
    for id in snapshots::names(repo)? {
        let name = Name::Snapshot(id);
        match snapshots::load(repo, id) {
            Ok(Some(snapshot)) => out.push(snapshot),
            Ok(None) => {
                repo.storage().read(&name, None, &mut object)?;
                if let Err(e) = mark_is_sound(repo, ObjectType::Fence, &name, &object) {
                    findings.damage(name, e);
                }
            }
            // Forgotten and pruned since it was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => findings.damage(name, bare(&name, &e)),
        }
    }
    out.sort_by_key(|s| (s.time, s.id));
    Ok(out)
}

/// What the error says besides the object's name, which the finding says itself.
pub(super) fn bare(name: &Name, error: &Error) -> String {
    let text = error.to_string();
    text.strip_prefix(&format!("{name}: ")).map(str::to_owned).unwrap_or(text)
}

type Judge<'a> = dyn Fn(&[u8]) -> Result<()> + 'a;

/// Looks at every copy of the objects of a class that are stored several times.
fn copies(repo: &Repository, class: Class, findings: &mut Findings<'_>, judge: &Judge<'_>) -> Result<()> {
    // What is copied, and of each copy what is wrong with it.
    let mut all: BTreeMap<Name, Vec<Option<String>>> = BTreeMap::new();
    let mut object = Vec::new();
    for (name, _) in repo.storage().list(class)? {
        let read = repo.storage().read(&name, None, &mut object).and_then(|()| judge(&object));
        let (first, copy) = match name {
            Name::Config(number, copy) => (Name::Config(number, 0), copy),
            Name::Key(slot, copy) => (Name::Key(slot, 0), copy),
            _ => continue,
        };
        let found = all.entry(first).or_insert_with(|| vec![Some("it is missing".to_owned()); usize::from(COPIES)]);
        if let Some(place) = found.get_mut(usize::from(copy)) {
            *place = read.err().map(|e| bare(&name, &e));
        }
    }
    for (first, found) in &all {
        let numbered = |copy: usize| match *first {
            Name::Key(slot, _) => Name::Key(slot, copy as u8),
            Name::Config(number, _) => Name::Config(number, copy as u8),
            other => other,
        };
        let next = match found.iter().any(Option::is_none) {
            true => "yester repair keys writes it again from a good copy",
            false => "no copy of it is good",
        };
        for (copy, wrong) in found.iter().enumerate() {
            if let Some(wrong) = wrong {
                findings.damage(numbered(copy), format!("{wrong}; {next}"));
            }
        }
    }
    Ok(())
}

fn config_is_sound(repo: &Repository, object: &[u8]) -> Result<()> {
    let (repository, body) = envelope::unwrap(object, ObjectType::Config, "the configuration")?;
    let (_, fields, mac) = config::decode_config(body, repository)?;
    let header = envelope::header(ObjectType::Config, repo.id());
    if repository != repo.id() || repo.keys().config_mac(&header, fields) != mac {
        return Err(Error::corrupt("it is not authentic under the repository's key"));
    }
    Ok(())
}

fn slot_is_sound(repo: &Repository, object: &[u8]) -> Result<()> {
    let (repository, body) = envelope::unwrap(object, ObjectType::KeySlot, "a key slot")?;
    if repository != repo.id() {
        return Err(Error::corrupt(format!("it belongs to repository {}", repository.short())));
    }
    config::decode_slot(body).map(drop)
}

/// Judges every object of a class; answers how many there are.
fn each(repo: &Repository, class: Class, findings: &mut Findings<'_>, judge: &dyn Fn(&Name, &[u8]) -> Result<()>) -> Result<u64> {
    let mut count = 0;
    let mut object = Vec::new();
    for (name, _) in repo.storage().list(class)? {
        match repo.storage().read(&name, None, &mut object).and_then(|()| judge(&name, &object)) {
            // Ended or deleted since it was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => findings.damage(name, bare(&name, &e)),
            Ok(()) => {}
        }
        count += 1;
    }
    Ok(count)
}

fn plain(repo: &Repository, kind: ObjectType, name: &Name, object: &[u8], what: &'static str) -> Result<Vec<u8>> {
    let id = match name {
        Name::Snapshot(id) | Name::Forgotten(id) | Name::Condemned(id) => id,
        _ => return Err(Error::invalid(format!("{name} is no sealed object"))),
    };
    seal::open_object(kind, repo.id(), &id.0, &repo.keys().snapshot, object, what)
}

fn mark_is_sound(repo: &Repository, kind: ObjectType, name: &Name, object: &[u8]) -> Result<()> {
    let plain = plain(repo, kind, name, object, "a mark")?;
    format::decode_mark(&plain).map(drop)
}

fn sentence_is_sound(repo: &Repository, name: &Name, object: &[u8]) -> Result<()> {
    let plain = plain(repo, ObjectType::Condemned, name, object, "a sentence")?;
    match plain.len().is_multiple_of(PackId::LEN) {
        true => Ok(()),
        false => Err(Error::corrupt("a sentence: its length is not that of a list of packs")),
    }
}
