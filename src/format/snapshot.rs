//! The bodies of snapshots and of the small objects around them (sealed by `chunk::seal`).

use crate::error::{Error, Result};
use crate::format::composition;
use crate::format::cursor::{Cursor, Put};
use crate::format::group::{group_part, put_group_part};
use crate::format::node::{decode, decode_root, encode_root, encode_unchecked};
use crate::model::node::MAX_NAME;
use crate::model::{
    Chain, Composition, Kind, Node, Origin, Owners, RepositoryId, Rule, Snapshot, SnapshotId, Statistics, Timestamp,
};

/// The longest path that a snapshot names, and the longest of its other texts.
pub const MAX_TEXT: usize = 1 << 16;
/// The most paths, tags or owners.
pub const MAX_LIST: usize = 1 << 16;
/// The longest body: with what is around it, it fits what a server takes of a small object.
pub(crate) const MAX_BODY: usize = 63 << 20;

/// What comes out of an encoder, if its own decoder takes it and makes the same of it. What is committed cannot be
/// mended any more.
fn checked<T: PartialEq>(value: &T, bytes: Vec<u8>, what: &str, decode: impl FnOnce(&[u8]) -> Result<T>) -> Result<Vec<u8>> {
    if bytes.len() > MAX_BODY {
        return Err(Error::invalid(format!("{what} of {} bytes is too long: at most {MAX_BODY} can be stored", bytes.len())));
    }
    match decode(&bytes) {
        Ok(found) if found == *value => Ok(bytes),
        Ok(_) => Err(Error::invalid(format!("{what} cannot be stored: it would be read as something else"))),
        Err(e) => Err(Error::invalid(format!("{what} cannot be stored, since it could not be read: {e}"))),
    }
}

const TIME: u64 = 1;
const FINISHED: u64 = 2;
const HOST: u64 = 4;
const USER: u64 = 6;
const PATHS: u64 = 8;
const TAGS: u64 = 10;
const PARENT: u64 = 12;
const ROOT: u64 = 13;
const SCAN: u64 = 14;
const SCAN_START: u64 = 16;
const LINKS: u64 = 17;
const USERS: u64 = 18;
const GROUPS: u64 = 20;
const STATISTICS: u64 = 22;
const PROGRAM: u64 = 24;
const RULES: u64 = 26;
const PARTS: u64 = 28;
const SET: u64 = 30;
const FROZEN: u64 = 32;
const ORIGIN: u64 = 34;
const ADDRESSES: u64 = 36;
const NUMBER: u64 = 38;
const FOLLOWS: u64 = 40;
const GROUP: u64 = 42;

/// Encodes everything but the id, which is the object's name. An error for what no reader would take.
pub fn encode_snapshot(snapshot: &Snapshot) -> Result<Vec<u8>> {
    let bytes = encode_snapshot_unchecked(snapshot);
    let said = Snapshot { writer: None, ..snapshot.clone() };
    checked(&said, bytes, "a snapshot", |bytes| decode_snapshot(bytes, snapshot.id))
}

/// The same bytes, whether or not a reader would take them: for tests of readers.
pub fn encode_snapshot_unchecked(snapshot: &Snapshot) -> Vec<u8> {
    let mut out = Vec::new();
    out.field(TIME, |v| v.timestamp(snapshot.time));
    out.field(FINISHED, |v| v.timestamp(snapshot.finished));
    out.field(HOST, |v| v.extend_from_slice(&snapshot.host));
    out.field(USER, |v| v.extend_from_slice(&snapshot.user));
    out.field(PATHS, |v| put_list(&snapshot.paths, v));
    out.field(TAGS, |v| put_list(&snapshot.tags, v));
    if let Some(parent) = snapshot.parent {
        out.field(PARENT, |v| v.extend_from_slice(&parent.0));
    }
    out.field(ROOT, |v| encode_unchecked(&snapshot.root, v));
    if let Some(root) = &snapshot.scan {
        out.field(SCAN, |v| encode_root(root, v));
    }
    out.field(SCAN_START, |v| v.timestamp(snapshot.scan_start));
    if let Some(root) = &snapshot.links {
        out.field(LINKS, |v| encode_root(root, v));
    }
    out.field(USERS, |v| put_owners(&snapshot.owners.users, v));
    out.field(GROUPS, |v| put_owners(&snapshot.owners.groups, v));
    out.field(STATISTICS, |v| {
        statistics(&snapshot.statistics).into_iter().chain(snapshot.statistics.with_attributes).for_each(|n| v.varint(n));
    });
    out.field(PROGRAM, |v| v.extend_from_slice(&snapshot.program));
    if !snapshot.rules.is_empty() {
        out.field(RULES, |v| put_rules(&snapshot.rules, v));
    }
    let Composition { set, parts, frozen, origin, addresses, group } = &snapshot.composition;
    if !parts.is_empty() {
        out.field(PARTS, |v| composition::put_parts(parts, v));
    }
    if let Some(set) = set {
        out.field(SET, |v| composition::put_set(set, v));
    }
    if *frozen > 0 {
        out.field(FROZEN, |v| v.varint(*frozen));
    }
    if let Some(Origin { repository, snapshot }) = origin {
        out.field(ORIGIN, |v| v.extend_from_slice(&[&repository.0[..], &snapshot.0].concat()));
    }
    if !addresses.is_empty() {
        out.field(ADDRESSES, |v| put_list(addresses, v));
    }
    if snapshot.chain.number > 0 {
        out.field(NUMBER, |v| v.varint(snapshot.chain.number));
    }
    if !snapshot.chain.follows.is_empty() {
        out.field(FOLLOWS, |v| put_ids(&snapshot.chain.follows, v));
    }
    if let Some(part) = group {
        out.field(GROUP, |v| put_group_part(part, v));
    }
    out.push(0);
    out
}

fn put_ids(ids: &[SnapshotId], out: &mut Vec<u8>) {
    ids.iter().for_each(|id| out.extend_from_slice(&id.0));
}

/// Ids of snapshots, as many as there are, sorted.
fn ids(cursor: &mut Cursor<'_>) -> Result<Vec<SnapshotId>> {
    let mut out: Vec<SnapshotId> = Vec::new();
    while cursor.remaining() > 0 {
        let id = SnapshotId(cursor.array()?);
        if out.len() == MAX_LIST || out.last().is_some_and(|last| *last >= id) {
            return Err(cursor.error("its snapshots are out of order or too many"));
        }
        out.push(id);
    }
    Ok(out)
}

fn statistics(s: &Statistics) -> [u64; 10] {
    [
        s.files,
        s.directories,
        s.others,
        s.bytes,
        s.files_new,
        s.files_changed,
        s.files_unchanged,
        s.bytes_new,
        s.bytes_stored,
        s.errors,
    ]
}

pub(super) fn put_list(list: &[Vec<u8>], out: &mut Vec<u8>) {
    list.iter().for_each(|text| out.bytes(text));
}

fn put_owners(list: &[(u32, Vec<u8>)], out: &mut Vec<u8>) {
    for (number, name) in list {
        out.varint(u64::from(*number));
        out.bytes(name);
    }
}

fn put_rules(list: &[Rule], out: &mut Vec<u8>) {
    for rule in list {
        out.varint(rule.kind);
        out.bytes(&rule.text);
    }
}

fn rules(cursor: &mut Cursor<'_>) -> Result<Vec<Rule>> {
    let mut out = Vec::new();
    while cursor.remaining() > 0 {
        if out.len() == MAX_LIST {
            return Err(cursor.error("it has too many rules"));
        }
        out.push(Rule { kind: cursor.varint()?, text: cursor.bytes(MAX_TEXT)?.to_vec() });
    }
    Ok(out)
}

pub(super) fn texts(cursor: &mut Cursor<'_>) -> Result<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    while cursor.remaining() > 0 {
        if out.len() == MAX_LIST {
            return Err(cursor.error("a list is too long"));
        }
        out.push(cursor.bytes(MAX_TEXT)?.to_vec());
    }
    Ok(out)
}

fn owners(cursor: &mut Cursor<'_>) -> Result<Vec<(u32, Vec<u8>)>> {
    let mut out: Vec<(u32, Vec<u8>)> = Vec::new();
    while cursor.remaining() > 0 {
        let owner = (cursor.number32()?, cursor.bytes(MAX_NAME)?.to_vec());
        if out.len() == MAX_LIST || out.last().is_some_and(|last| last.0 >= owner.0) {
            return Err(cursor.error("its owners are out of order or too many"));
        }
        out.push(owner);
    }
    Ok(out)
}

/// The snapshot named `id` before its fields are decoded.
pub(crate) fn unfilled(id: SnapshotId) -> Snapshot {
    Snapshot {
        id,
        time: Timestamp::default(),
        finished: Timestamp::default(),
        host: Vec::new(),
        user: Vec::new(),
        paths: Vec::new(),
        tags: Vec::new(),
        parent: None,
        writer: None,
        chain: Chain::default(),
        root: empty_root(),
        scan: None,
        scan_start: Timestamp::default(),
        links: None,
        owners: Owners::default(),
        rules: Vec::new(),
        composition: Composition::default(),
        statistics: Statistics::default(),
        program: Vec::new(),
    }
}

/// Decodes the body of the snapshot named `id`.
pub fn decode_snapshot(bytes: &[u8], id: SnapshotId) -> Result<Snapshot> {
    let mut cursor = Cursor::new(bytes, "a snapshot");
    let mut root: Option<Node> = None;
    let mut time: Option<Timestamp> = None;
    let mut out = unfilled(id);
    cursor.fields(|tag, mut v| {
        match tag {
            TIME => time = Some(v.timestamp()?),
            FINISHED => out.finished = v.timestamp()?,
            HOST => out.host = v.text(MAX_TEXT)?,
            USER => out.user = v.text(MAX_TEXT)?,
            PATHS => out.paths = texts(&mut v)?,
            TAGS => out.tags = texts(&mut v)?,
            PARENT => out.parent = Some(SnapshotId(v.array()?)),
            ROOT => root = Some(decode(&mut v)?),
            SCAN => out.scan = Some(decode_root(&mut v)?),
            SCAN_START => out.scan_start = v.timestamp()?,
            LINKS => out.links = Some(decode_root(&mut v)?),
            USERS => out.owners.users = owners(&mut v)?,
            GROUPS => out.owners.groups = owners(&mut v)?,
            STATISTICS => out.statistics = decode_statistics(&mut v)?,
            PROGRAM => out.program = v.text(MAX_TEXT)?,
            RULES => out.rules = rules(&mut v)?,
            PARTS => out.composition.parts = composition::parts(&mut v)?,
            SET => out.composition.set = Some(composition::set(&mut v)?),
            FROZEN => out.composition.frozen = v.varint()?,
            ORIGIN => {
                let (repository, snapshot) = (RepositoryId(v.array()?), SnapshotId(v.array()?));
                out.composition.origin = Some(Origin { repository, snapshot });
            }
            ADDRESSES => out.composition.addresses = texts(&mut v)?,
            NUMBER => out.chain.number = v.varint()?,
            FOLLOWS => out.chain.follows = ids(&mut v)?,
            GROUP => out.composition.group = Some(group_part(&mut v)?),
            _ => return Ok(false),
        }
        v.end().map(|()| true)
    })?;
    cursor.end()?;
    match (root, time) {
        (Some(root), Some(time)) if root.name.is_empty() && root.directory().is_some() => {
            out.root = root;
            out.time = time;
            Ok(out)
        }
        (Some(_), Some(_)) => Err(cursor.error("its root is not a directory")),
        _ => Err(cursor.error("it has no root or no time")),
    }
}

fn decode_statistics(v: &mut Cursor<'_>) -> Result<Statistics> {
    Ok(Statistics {
        files: v.varint()?,
        directories: v.varint()?,
        others: v.varint()?,
        bytes: v.varint()?,
        files_new: v.varint()?,
        files_changed: v.varint()?,
        files_unchanged: v.varint()?,
        bytes_new: v.varint()?,
        bytes_stored: v.varint()?,
        errors: v.varint()?,
        with_attributes: if v.remaining() == 0 { None } else { Some(v.varint()?) },
    })
}

/// A root directory without entries.
pub fn empty_root() -> Node {
    Node {
        name: Vec::new(),
        meta: crate::model::Metadata { mode: 0o755, ..Default::default() },
        kind: Kind::Directory(crate::model::Directory::default()),
        link: None,
        given: false,
        changed: false,
        left_out: Default::default(),
    }
}

/// A writer at work: who it is, so that others can tell whether it still lives, and which lists it knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Session {
    /// Its host.
    pub host: Vec<u8>,
    /// The boot id of that host.
    pub boot: Vec<u8>,
    /// Its process.
    pub pid: u32,
    /// When the process started, in clock ticks after boot (`/proc/<pid>/stat`, field 22).
    pub started: u64,
    /// What stays of its machine when the host is renamed.
    pub machine: Vec<u8>,
    /// The namespace of its process number.
    pub namespace: u64,
    /// When the session began.
    pub time: Timestamp,
    /// The lists (`condemned/<id>`) that existed just before it was created, sorted.
    pub lists: Vec<SnapshotId>,
}

/// Encodes a session's body. An error for what no reader would take.
pub fn encode_session(session: &Session) -> Result<Vec<u8>> {
    checked(session, session_bytes(session), "a session", decode_session)
}

fn session_bytes(session: &Session) -> Vec<u8> {
    let mut out = Vec::new();
    out.field(1, |v| session.lists.iter().for_each(|id| v.extend_from_slice(&id.0)));
    out.field(2, |v| v.extend_from_slice(&session.host));
    out.field(4, |v| v.extend_from_slice(&session.boot));
    out.field(6, |v| v.varint(u64::from(session.pid)));
    out.field(8, |v| v.varint(session.started));
    out.field(10, |v| v.timestamp(session.time));
    out.field(12, |v| v.extend_from_slice(&session.machine));
    out.field(14, |v| v.varint(session.namespace));
    out.push(0);
    out
}

/// Decodes a session's body.
pub fn decode_session(bytes: &[u8]) -> Result<Session> {
    let mut cursor = Cursor::new(bytes, "a session");
    let mut out = Session::default();
    cursor.fields(|tag, mut v| {
        match tag {
            1 => {
                while v.remaining() > 0 {
                    out.lists.push(SnapshotId(v.array()?));
                }
            }
            2 => out.host = v.text(MAX_TEXT)?,
            4 => out.boot = v.text(MAX_TEXT)?,
            6 => out.pid = v.number32()?,
            8 => out.started = v.varint()?,
            10 => out.time = v.timestamp()?,
            12 => out.machine = v.bytes_to_end(),
            14 => out.namespace = v.varint()?,
            _ => return Ok(false),
        }
        v.end().map(|()| true)
    })?;
    cursor.end()?;
    Ok(out)
}

/// Encodes the body of a sign of life: its number, which is in its name too, and when it was given.
pub fn encode_beat(number: u64, time: Timestamp) -> Vec<u8> {
    let mut out = Vec::new();
    out.field(1, |v| v.varint(number));
    out.field(2, |v| v.timestamp(time));
    out.push(0);
    out
}

/// Decodes the body of a sign of life.
pub fn decode_beat(bytes: &[u8]) -> Result<(u64, Timestamp)> {
    let mut cursor = Cursor::new(bytes, "a sign of life");
    let (mut number, mut time) = (None, Timestamp::default());
    cursor.fields(|tag, mut v| {
        match tag {
            1 => number = Some(v.varint()?),
            2 => time = v.timestamp()?,
            _ => return Ok(false),
        }
        v.end().map(|()| true)
    })?;
    cursor.end()?;
    let number = number.ok_or_else(|| cursor.error("it has no number"))?;
    Ok((number, time))
}

/// That a snapshot is forgotten, or its id fenced: by whom, when and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Which snapshot: the same as in the object's name.
    pub snapshot: SnapshotId,
    /// The host that says so.
    pub host: Vec<u8>,
    /// The user there.
    pub user: Vec<u8>,
    /// When.
    pub time: Timestamp,
    /// For people: the policy, or the command.
    pub why: Vec<u8>,
    /// Of a forgotten snapshot: what it followed, sorted. It stays known when the snapshot's object is gone.
    pub follows: Vec<SnapshotId>,
    /// Of a forgotten snapshot: how many seconds prune leaves it, from the time that the storage received the mark.
    pub grace: u64,
}

impl Mark {
    /// A mark of this snapshot that says nothing else.
    pub fn of(snapshot: SnapshotId) -> Self {
        let (host, user, why, follows) = Default::default();
        Mark { snapshot, host, user, time: Timestamp::default(), why, follows, grace: 0 }
    }
}

/// Encodes a mark's body. An error for what no reader would take.
pub fn encode_mark(mark: &Mark) -> Result<Vec<u8>> {
    checked(mark, mark_bytes(mark), "a mark", decode_mark)
}

fn mark_bytes(mark: &Mark) -> Vec<u8> {
    let mut out = Vec::new();
    out.field(1, |v| v.extend_from_slice(&mark.snapshot.0));
    out.field(2, |v| v.extend_from_slice(&mark.host));
    out.field(4, |v| v.timestamp(mark.time));
    out.field(6, |v| v.extend_from_slice(&mark.user));
    out.field(8, |v| v.extend_from_slice(&mark.why));
    if !mark.follows.is_empty() {
        out.field(10, |v| put_ids(&mark.follows, v));
    }
    if mark.grace > 0 {
        out.field(12, |v| v.varint(mark.grace));
    }
    out.push(0);
    out
}

/// Decodes a mark's body.
pub fn decode_mark(bytes: &[u8]) -> Result<Mark> {
    let mut cursor = Cursor::new(bytes, "a mark");
    let (mut snapshot, mut out) = (None, Mark::of(SnapshotId([0; 32])));
    cursor.fields(|tag, mut v| {
        match tag {
            1 => snapshot = Some(SnapshotId(v.array()?)),
            2 => out.host = v.text(MAX_TEXT)?,
            4 => out.time = v.timestamp()?,
            6 => out.user = v.text(MAX_TEXT)?,
            8 => out.why = v.text(MAX_TEXT)?,
            10 => out.follows = ids(&mut v)?,
            12 => out.grace = v.varint()?,
            _ => return Ok(false),
        }
        v.end().map(|()| true)
    })?;
    cursor.end()?;
    out.snapshot = snapshot.ok_or_else(|| cursor.error("it does not say of which snapshot it is"))?;
    Ok(out)
}
