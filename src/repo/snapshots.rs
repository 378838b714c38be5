//! Snapshots: committing, listing, naming.

use std::collections::HashSet;

use crate::chunk::seal;
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::{self, ObjectType};
use crate::format::snapshot;
use crate::model::{Snapshot, SnapshotId, escape};
use crate::repo::Repository;
use crate::storage::{Class, Created, Name};

/// Which snapshots an operation is about; empty lists let everything pass.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// One of these hosts.
    pub hosts: Vec<Vec<u8>>,
    /// All of one of these sets of tags.
    pub tags: Vec<Vec<Vec<u8>>>,
    /// All of these given paths.
    pub paths: Vec<Vec<u8>>,
}

impl Filter {
    /// Whether `snapshot` passes.
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        let host = self.hosts.is_empty() || self.hosts.contains(&snapshot.host);
        let tags = self.tags.is_empty() || self.tags.iter().any(|set| set.iter().all(|tag| snapshot.tags.contains(tag)));
        host && tags && self.paths.iter().all(|path| snapshot.paths.contains(path))
    }
}

/// The names of all snapshots (fences among them) that are not forgotten: `snapshots/` is listed before `forgotten/`.
pub fn names(repo: &Repository) -> Result<Vec<SnapshotId>> {
    let listed = repo.storage().list(Class::Snapshots)?;
    let forgotten: HashSet<SnapshotId> = repo
        .storage()
        .list(Class::Forgotten)?
        .into_iter()
        .filter_map(|(name, _)| if let Name::Forgotten(id) = name { Some(id) } else { None })
        .collect();
    let ids = listed.into_iter().filter_map(|(name, _)| if let Name::Snapshot(id) = name { Some(id) } else { None });
    Ok(ids.filter(|id| !forgotten.contains(id)).collect())
}

/// Reads `snapshots/<id>`: `None` for a fence.
pub fn load(repo: &Repository, id: SnapshotId) -> Result<Option<Snapshot>> {
    let name = Name::Snapshot(id);
    let mut object = Vec::new();
    repo.storage().read(&name, None, &mut object)?;
    decode(repo, id, &object).map_err(|e| e.context(name))
}

fn decode(repo: &Repository, id: SnapshotId, object: &[u8]) -> Result<Option<Snapshot>> {
    let class = &repo.keys().snapshot;
    if envelope::check_header(object, ObjectType::Fence, "a fence").is_ok() {
        seal::open_object(ObjectType::Fence, repo.id(), &id.0, class, object, "a fence")?;
        return Ok(None);
    }
    let plain = seal::open_object(ObjectType::Snapshot, repo.id(), &id.0, class, object, "a snapshot")?;
    snapshot::decode_snapshot(&plain, id).map(Some)
}

/// All snapshots, oldest first, and what could not be read of the others. One damaged snapshot does not hide the rest.
pub fn list_with_damage(repo: &Repository) -> Result<(Vec<Snapshot>, Vec<Error>)> {
    let mut out = Vec::new();
    let mut damaged = Vec::new();
    for id in names(repo)? {
        match load(repo, id) {
            Ok(Some(snapshot)) => out.push(snapshot),
            Ok(None) => {}
            // Forgotten and pruned since it was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => damaged.push(e),
        }
    }
    out.sort_by_key(|s| (s.time, s.id));
    Ok((out, damaged))
}

/// All snapshots, oldest first; damage of any is an error.
pub fn list(repo: &Repository) -> Result<Vec<Snapshot>> {
    let (snapshots, damaged) = list_with_damage(repo)?;
    match damaged.into_iter().next() {
        Some(e) => Err(e),
        None => Ok(snapshots),
    }
}

/// Finds the snapshot that `text` names among `snapshots` (oldest first): `latest`, `latest~N`, or the first digits of
/// its id, at least four.
pub fn find<'a>(snapshots: &'a [Snapshot], text: &str, filter: &Filter) -> Result<&'a Snapshot> {
    if let Some(back) = latest(text) {
        let mut passing = snapshots.iter().rev().filter(|s| filter.matches(s));
        return passing.nth(back?).ok_or_else(|| Error::new(ErrorKind::NotFound, no_latest(snapshots, text)));
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !digits || text.len() < 4 || text.len() > 64 {
        let wanted = "latest, latest~N, or at least 4 hexadecimal digits of an id";
        return Err(Error::invalid(format!("{:?} names no snapshot: {wanted} (see: yester snapshots)", escape(text.as_bytes()))));
    }
    let mut found = snapshots.iter().filter(|s| s.id.to_string().starts_with(text));
    match (found.next(), found.count()) {
        (Some(one), 0) => Ok(one),
        (Some(_), more) => Err(Error::invalid(format!("{text} is the beginning of {} snapshot ids: give more digits", more + 1))),
        (None, _) => Err(Error::new(ErrorKind::NotFound, format!("there is no snapshot {text} (see: yester snapshots)"))),
    }
}

fn latest(text: &str) -> Option<Result<usize>> {
    let rest = text.strip_prefix("latest")?;
    if rest.is_empty() {
        return Some(Ok(0));
    }
    let back = rest.strip_prefix('~')?;
    Some(back.parse().map_err(|_| Error::invalid(format!("latest~{} : a number must follow the ~", escape(back.as_bytes())))))
}

fn no_latest(snapshots: &[Snapshot], text: &str) -> String {
    match snapshots.len() {
        0 => "the repository has no snapshots yet (make one with: yester ingest PATH)".to_owned(),
        n => format!("{text}: none of the {n} snapshots passes the filters and is so far back"),
    }
}

/// Commits: the one moment at which a snapshot begins to exist. Everything it needs must be durable. Answers false
/// when the id was fenced: the writer must begin again under a new one.
pub fn commit(repo: &Repository, snapshot: &Snapshot) -> Result<bool> {
    let plain = snapshot::encode_snapshot(snapshot)?;
    let name = Name::Snapshot(snapshot.id);
    let object = seal::seal_object(ObjectType::Snapshot, repo.id(), &snapshot.id.0, &repo.keys().snapshot, &plain)?;
    let first = repo.storage().create(&name, &[&object]);
    // The outcome is what a read shows, whatever the answer was; identical bytes may be sent again.
    if !matches!(first, Ok(Created::New)) {
        let mut found = Vec::new();
        match repo.storage().read(&name, None, &mut found) {
            Ok(()) if found == object => {}
            Ok(()) => return Ok(false),
            Err(_) => return first.map(|_| false),
        }
    }
    repo.storage().sync()?;
    Ok(true)
}
