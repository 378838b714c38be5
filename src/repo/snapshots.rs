//! Snapshots: committing, listing, naming.

use std::collections::HashMap;

use crate::chunk::seal;
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::ObjectType;
use crate::format::snapshot;
use crate::model::{Chain, Remarks, Snapshot, SnapshotId, Timestamp, WriterId, escape};
use crate::repo::Repository;
use crate::repo::small::{self, Small};
use crate::repo::{annotations, marks, parallel, times};
use crate::storage::{Class, Created, Name};

/// The most snapshots that are remembered, once read.
const REMEMBERED: usize = 4096;

/// Which snapshots an operation is about; empty lists let everything pass.
#[derive(Debug, Clone, Default)]
pub struct SnapshotFilter {
    /// One of these hosts.
    pub hosts: Vec<Vec<u8>>,
    /// All of one of these sets of tags.
    pub tags: Vec<Vec<Vec<u8>>>,
    /// All of these given paths.
    pub paths: Vec<Vec<u8>>,
    /// From this time on.
    pub newer_than: Option<Timestamp>,
    /// Before this time.
    pub older_than: Option<Timestamp>,
}

impl SnapshotFilter {
    /// Whether everything passes.
    pub fn is_empty(&self) -> bool {
        let SnapshotFilter { hosts, tags, paths, newer_than, older_than } = self;
        hosts.is_empty() && tags.is_empty() && paths.is_empty() && newer_than.is_none() && older_than.is_none()
    }

    /// Whether `snapshot` passes.
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        let host = self.hosts.is_empty() || self.hosts.contains(&snapshot.host);
        let tags = self.tags.is_empty() || self.tags.iter().any(|set| set.iter().all(|tag| snapshot.tags.contains(tag)));
        let newer = self.newer_than.is_none_or(|time| snapshot.time >= time);
        let older = self.older_than.is_none_or(|time| snapshot.time < time);
        host && tags && newer && older && self.paths.iter().all(|path| snapshot.paths.contains(path))
    }
}

/// The names of all snapshots (fences among them) that are not forgotten: `snapshots/` is listed before `forgotten/`.
pub fn names(repo: &Repository) -> Result<Vec<SnapshotId>> {
    let listed = repo.storage().list(Class::Snapshots)?;
    let ids = listed.into_iter().filter_map(|(name, _)| if let Name::Snapshot(id) = name { Some(id) } else { None });
    let ids: Vec<SnapshotId> = ids.collect();
    repo.snapshot_copies().iter().for_each(|copies| copies.clean(&ids));
    let forgotten = marks::forgotten_among(repo, &ids)?;
    Ok(ids.into_iter().filter(|id| !forgotten.contains(id)).collect())
}

/// Reads `snapshots/<id>`: `None` for a fence. Whatever cannot be read is an error.
pub fn load(repo: &Repository, id: SnapshotId) -> Result<Option<Snapshot>> {
    judge(repo, id)?.result(&Name::Snapshot(id))
}

/// Reads and judges `snapshots/<id>`: `None` for a fence, of which nothing but its being there is needed.
pub(crate) fn judge(repo: &Repository, id: SnapshotId) -> Result<Small<Option<Snapshot>>> {
    Ok(without_damaged_fences(judge_exactly(repo, id)?))
}

fn without_damaged_fences(found: Small<Option<Snapshot>>) -> Small<Option<Snapshot>> {
    match found {
        Small::Damaged(ObjectType::Fence, _) => Small::Sound(None),
        found => found,
    }
}

/// The same, with fences that are damaged told from others.
pub(crate) fn judge_exactly(repo: &Repository, id: SnapshotId) -> Result<Small<Option<Snapshot>>> {
    small::read(repo, &Name::Snapshot(id), |made, plain| decode(id, made, plain))
}

fn decode(id: SnapshotId, made: small::Made, plain: &[u8]) -> Result<Option<Snapshot>> {
    match made.kind {
        ObjectType::Fence => marks::decode(id, plain).map(|_| None),
        _ => Ok(Some(said_by(made.writer, snapshot::decode_snapshot(plain, id)?))),
    }
}

/// The snapshot as its maker may say it: a key that only writes has seen no others, and what it says of them is not
/// believed.
fn said_by(writer: Option<WriterId>, mut snapshot: Snapshot) -> Snapshot {
    if writer.is_some() {
        (snapshot.writer, snapshot.parent, snapshot.chain) = (writer, None, Chain::default());
        (snapshot.composition.origin, snapshot.composition.group) = (None, None);
    }
    snapshot
}

/// Everything in `snapshots/` that is not forgotten.
#[derive(Debug, Default)]
pub struct SnapshotList {
    /// Snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Snapshots that cannot be read, or not by this program, and why.
    pub damaged: Vec<(SnapshotId, Error)>,
    /// Snapshots that a newer program made with a key that only writes. Whoever stole it could stop all readers with one,
    /// so these are told once, and left out. Prune does not go on as long as they are there.
    pub newer: Vec<SnapshotId>,
    /// What nobody with the key made, and so counts for nothing.
    pub made_up: Vec<(Name, Error)>,
    /// Notes and pins of them, where there are any.
    pub remarks: HashMap<SnapshotId, Remarks>,
    /// Annotations that cannot be read: what they say does not hold, and may have been a pin.
    pub unread_annotations: Vec<(SnapshotId, Error)>,
    /// When a server received them, and from whom, as far as that is known.
    pub received: times::Received,
}

/// Reads everything in `snapshots/` that is not forgotten. What is not authentic is told, once.
pub fn find_all(repo: &Repository) -> Result<SnapshotList> {
    let mut out = find_unannotated(repo)?;
    let said = annotations::read_all(repo)?;
    out.remarks = said.apply(&mut out.snapshots);
    out.unread_annotations = said.unread;
    Ok(out)
}

/// The same without annotations: tags are those that the snapshots were made with.
pub(crate) fn find_unannotated(repo: &Repository) -> Result<SnapshotList> {
    let mut out = read_all(repo, &names(repo)?)?;
    out.received = times::received(repo)?;
    times::sort(&mut out.snapshots, &out.received);
    Ok(out)
}

/// As [`judge`], of one that has just been listed. Where each read is a request it is read once, and kept on a local disk.
pub(crate) fn read_listed(repo: &Repository, id: SnapshotId) -> Result<Small<Option<Snapshot>>> {
    if !repo.storage().costs().high_latency() {
        return judge(repo, id);
    }
    if let Some(snapshot) = repo.memory.read.lock().get(&id) {
        return Ok(Small::Sound(Some(snapshot.clone())));
    }
    let found = without_damaged_fences(small::read_listed(repo, id, |made, plain| decode(id, made, plain))?);
    if let Small::Sound(Some(snapshot)) = &found {
        let mut read = repo.memory.read.lock();
        if read.len() < REMEMBERED {
            read.insert(id, snapshot.clone());
        }
    }
    Ok(found)
}

fn read_all(repo: &Repository, ids: &[SnapshotId]) -> Result<SnapshotList> {
    let mut out = SnapshotList::default();
    for (id, found) in ids.iter().zip(parallel::many(repo, ids, |id| read_listed(repo, *id))) {
        match found {
            Ok(Small::Sound(Some(snapshot))) => out.snapshots.push(snapshot),
            // A fence; or forgotten and pruned since it was listed.
            Ok(Small::Sound(None) | Small::Gone) => {}
            Ok(Small::Newer(e, Some(writer))) => {
                out.newer.push(*id);
                small::tell_newer(repo, *id, writer, &e);
            }
            Ok(Small::Damaged(_, e) | Small::Newer(e, None)) | Err(e) => out.damaged.push((*id, e)),
            Ok(Small::MadeUp(e)) => out.made_up.push((Name::Snapshot(*id), e)),
        }
    }
    small::tell(repo, &out.made_up, "yester prune removes it");
    let place = |s: &Snapshot| Chain { number: s.chain.number, follows: s.before().to_vec() };
    let sound = out.snapshots.iter().map(|s| (s.id, place(s)));
    repo.memory.snapshots.lock().extend(sound);
    Ok(out)
}

/// All snapshots, oldest first, and what could not be read of the others. One damaged snapshot does not hide the rest.
pub fn list_with_damage(repo: &Repository) -> Result<(Vec<Snapshot>, Vec<Error>)> {
    let found = find_all(repo)?;
    Ok((found.snapshots, found.damaged.into_iter().map(|(_, e)| e).collect()))
}

/// The ids of all snapshots that are there, authentic and not forgotten, also of damaged ones. What was read before is
/// not read again.
pub fn present(repo: &Repository) -> Result<Vec<SnapshotId>> {
    let names = names(repo)?;
    let known = |id: &SnapshotId| repo.memory.snapshots.lock().contains_key(id);
    let (mut out, new): (Vec<SnapshotId>, Vec<SnapshotId>) = names.into_iter().partition(known);
    let found = read_all(repo, &new)?;
    out.extend(found.snapshots.iter().map(|s| s.id).chain(found.damaged.iter().map(|(id, _)| *id)).chain(found.newer));
    Ok(out)
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
pub fn find<'a>(snapshots: &'a [Snapshot], text: &str, filter: &SnapshotFilter) -> Result<&'a Snapshot> {
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
    repo.snapshot_copies().iter().for_each(|copies| copies.keep(&snapshot.id, &object));
    Ok(true)
}
