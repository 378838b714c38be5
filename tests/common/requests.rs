//! A server under requests that are made of bytes: one at a time of any kind, and sequences of sensible ones by clients with
//! different roles, each compared with a model of what the server must have.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use yester::format::envelope::{self, ObjectType};
use yester::model::{PackId, RepositoryId, SegmentId, SlotId, SnapshotId};
use yester::remote::protocol::{Capability, Code, Refusal, RepositoryName, object_path};
use yester::remote::tokens::Grant;
use yester::serve::objects::limits::Limits;
use yester::serve::objects::offline::Offline;
use yester::serve::objects::tokens;
use yester::storage::directory::DirectoryStorage;
use yester::storage::{Class, Name, Storage};

/// What the client with a quota may have.
const QUOTA: u64 = 9_000;
/// Sessions of one token.
const SESSIONS: usize = 3;

/// A server, its repository, and one token for each role.
struct World {
    root: PathBuf,
    server: Offline,
    local: DirectoryStorage,
    tokens: Vec<String>,
}

/// What each token may do; the last but two has a quota.
const ROLES: [&[Capability]; 6] = [
    &[Capability::Put, Capability::Get, Capability::List, Capability::Prune],
    &Capability::APPEND_ONLY,
    &Capability::APPEND_ONLY,
    &[Capability::Put, Capability::Get, Capability::List, Capability::Prune],
    &[Capability::Get, Capability::List],
    &[Capability::Prune],
];
const WITH_QUOTA: usize = 3;

/// A directory in memory, where there is one, for each thread that tests.
fn scratch() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let base = Path::new("/dev/shm");
    let base = if base.is_dir() { base.to_owned() } else { std::env::temp_dir() };
    base.join(format!("yester-requests-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

thread_local! {
    static WORLD: World = World::new();
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

impl World {
    fn new() -> World {
        let root = scratch();
        let _ = std::fs::remove_dir_all(&root);
        let local = DirectoryStorage::create(&root.join("web")).unwrap();
        let limits = Limits { sessions: SESSIONS, ..Limits::default() };
        let server = Offline::new(root.clone(), limits).unwrap();
        let token = |(n, role): (usize, &&[Capability])| {
            let quota = (n == WITH_QUOTA).then_some(QUOTA);
            let repository = Some(RepositoryName::parse("web").unwrap());
            let grant = Grant { repository, capabilities: role.to_vec(), quota, ..Grant::default() };
            tokens(&root).create(grant).unwrap().1.to_string()
        };
        let tokens = ROLES.iter().enumerate().map(token).collect();
        World { root, server, local, tokens }
    }
}

impl World {
    fn ask(&self, token: usize, method: &str, path: &str, headers: &[(&[u8], &[u8])], body: &[u8]) -> (u16, Vec<u8>) {
        let bearer = format!("Bearer {}", self.tokens[token]);
        let own: [(&[u8], &[u8]); 3] =
            [(b"yester-protocol", b"1"), (b"yester-repository", b"web"), (b"authorization", bearer.as_bytes())];
        let (status, body) = self.server.ask(method.as_bytes(), path.as_bytes(), &[&own, headers].concat(), body).unwrap();
        (status, body.unwrap())
    }

    fn put(&self, token: usize, name: &Name, body: &[u8]) -> u16 {
        let (length, hash) = (body.len().to_string(), blake3::hash(body).to_string());
        let headers: [(&[u8], &[u8]); 2] = [(b"content-length", length.as_bytes()), (b"yester-content", hash.as_bytes())];
        self.ask(token, "PUT", &object_path(name), &headers, body).0
    }

    /// Everything that is stored.
    fn stored(&self) -> BTreeMap<Name, u64> {
        Class::ALL.into_iter().flat_map(|class| self.local.list(class).unwrap()).collect()
    }

    /// Deletes everything, in the way that the protocol has for it.
    fn empty(&self) {
        // What is there may be of the other repository. Without these, it may be of any.
        for name in self.stored().into_keys().filter(|name| matches!(name.class(), Class::Config | Class::Keys)) {
            assert_eq!(self.ask(0, "DELETE", &object_path(&name), &[], b"").0, 204, "{name}");
        }
        for name in self.stored().into_keys() {
            if let Name::Session(id) = name {
                self.put(0, &Name::Snapshot(id), &content(&Name::Snapshot(id), 0));
                assert_eq!(self.ask(0, "DELETE", &object_path(&name), &[], b"").0, 204);
            }
        }
        for name in self.stored().into_keys() {
            assert_eq!(self.ask(0, "DELETE", &object_path(&name), &[], b"").0, 204, "{name}");
        }
        assert!(self.stored().is_empty());
    }
}

/// The type of an object of this name; of those that snapshots may have one or the other.
fn kind(name: &Name, variant: u8) -> ObjectType {
    match name {
        Name::Config(..) => ObjectType::Config,
        Name::Key(..) => ObjectType::KeySlot,
        Name::Removed(_) => ObjectType::Removed,
        Name::Pack(_) => ObjectType::Pack,
        Name::Segment(_) => ObjectType::Segment,
        Name::Session(_) => ObjectType::Session,
        Name::Beat(..) => ObjectType::Beat,
        Name::Snapshot(_) if variant.is_multiple_of(4) => ObjectType::Fence,
        Name::Snapshot(_) => ObjectType::Snapshot,
        Name::Forgotten(_) => ObjectType::Forgotten,
        Name::Condemned(_) => ObjectType::Condemned,
        Name::Damaged(_) => ObjectType::Damaged,
        Name::Run(_) => ObjectType::Run,
        Name::Annotation(_) => ObjectType::Annotation,
        Name::Group(..) => ObjectType::Group,
        Name::Parity(..) => ObjectType::Parity,
    }
}

/// Whose objects these are, and who else there is.
const OWN: RepositoryId = RepositoryId([7; 16]);
const OTHER: RepositoryId = RepositoryId([8; 16]);

/// A whole object of a variant, whose name is the hash of its content.
fn named(kind: ObjectType, variant: u8) -> Vec<u8> {
    envelope::wrap(kind, OWN, &vec![variant / 2; 440 + usize::from(variant / 2) % 4 * 700])
}

/// An object of this name; odd variants have other content, or, where the name says what it is, wrong content.
fn content(name: &Name, variant: u8) -> Vec<u8> {
    let kind = kind(name, variant);
    match (name, variant.is_multiple_of(2)) {
        (Name::Pack(_) | Name::Segment(_), true) => named(kind, variant),
        (Name::Pack(_) | Name::Segment(_), false) => named(kind, variant.wrapping_add(2)),
        _ => {
            let of = if variant % 16 == 15 { OTHER } else { OWN };
            let mut object = envelope::wrap(kind, of, &vec![variant; 440 + usize::from(variant / 2) % 4 * 700]);
            match variant % 16 {
                // No magic, type, version or checksum that there is; or no room for one.
                13 => object[usize::from(variant) / 16 % 12] ^= 0x41,
                11 => *object.last_mut().unwrap() ^= 1,
                9 => object.truncate(usize::from(variant) / 16 * 4),
                _ => {}
            }
            object
        }
    }
}

/// Whether a server can tell, without the key, that this is no object of the name. `known` is the repository's id.
fn is_malformed(name: &Name, object: &[u8], known: Option<RepositoryId>) -> bool {
    let Some(said) = envelope::peek(object) else { return true };
    let kinds =
        if matches!(name, Name::Snapshot(_)) { vec![ObjectType::Snapshot, ObjectType::Fence] } else { vec![kind(name, 1)] };
    !kinds.iter().any(|kind| *kind as u8 == said.kind)
        || said.version == 0
        || known.is_some_and(|known| known != said.repository)
        || !envelope::is_intact(object)
}

/// Few names, so that they meet. A pack or segment has the name of its content.
fn name(number: u8, variant: u8) -> Name {
    let id = SnapshotId([number / 10 % 3 + 1; 32]);
    let hash = |kind| *named(kind, variant).last_chunk().unwrap();
    match number % 10 {
        0..=1 => Name::Pack(PackId(hash(ObjectType::Pack))),
        2 => Name::Segment(SegmentId(hash(ObjectType::Segment))),
        3..=4 => Name::Session(id),
        5..=6 => Name::Snapshot(id),
        7 => Name::Forgotten(id),
        8 => Name::Condemned(id),
        _ if number < 100 => Name::Config(1, 0),
        _ if number < 150 => Name::Removed(SlotId([1; 16])),
        _ => Name::Key(SlotId([1; 16]), 1),
    }
}

/// What the server must have, and what it must answer.
#[derive(Default)]
struct Model {
    objects: BTreeMap<Name, Vec<u8>>,
    owners: BTreeMap<SnapshotId, usize>,
}

impl Model {
    /// The repository that the first configuration, or key slot, says it is.
    fn repository(&self) -> Option<RepositoryId> {
        let of = |class| {
            let mut found = self.objects.iter().filter(|(name, _)| name.class() == class);
            found.find_map(|(name, object)| envelope::peek(object).filter(|_| !is_malformed(name, object, None)))
        };
        of(Class::Config).or_else(|| of(Class::Keys)).map(|said| said.repository)
    }

    fn may_create(&self, who: usize, name: &Name) -> u16 {
        let can = |capability| ROLES[who].contains(&capability);
        let allowed = |yes: bool| if yes { 0 } else { 403 };
        match name {
            Name::Forgotten(_) | Name::Condemned(_) | Name::Removed(_) => allowed(can(Capability::Prune)),
            Name::Session(id) => match self.objects.contains_key(name) && self.owners.get(id) != Some(&who) {
                _ if !can(Capability::Put) => 403,
                true => 409,
                false => 0,
            },
            _ if can(Capability::Prune) => 0,
            Name::Snapshot(id) => allowed(can(Capability::Put) && self.owners.get(id) == Some(&who)),
            Name::Config(..) | Name::Key(..) => {
                let in_use =
                    |name: &Name| !matches!(name.class(), Class::Config | Class::Keys | Class::Forgotten | Class::Condemned);
                allowed(can(Capability::Put) && !self.objects.keys().any(in_use))
            }
            _ => allowed(can(Capability::Put)),
        }
    }

    fn put(&mut self, who: usize, name: &Name, body: &[u8]) -> u16 {
        let refused = self.may_create(who, name);
        if refused != 0 {
            return refused;
        }
        // What its length says comes first.
        if body.len() < envelope::HEADER + envelope::CHECKSUM {
            return 422;
        }
        let used: usize = self.objects.values().map(Vec::len).sum();
        let there = self.objects.get(name);
        if who == WITH_QUOTA && there.is_none() && (used + body.len()) as u64 > QUOTA {
            return 507;
        }
        let named = match name {
            Name::Pack(PackId(id)) | Name::Segment(SegmentId(id)) => Some(id),
            _ => None,
        };
        let is_named =
            |id: &[u8; 32]| body.split_last_chunk::<32>().is_some_and(|(plain, tail)| tail == id && blake3::hash(plain) == *id);
        if !named.is_none_or(is_named) || is_malformed(name, body, self.repository()) {
            return 422;
        }
        if let Some(there) = there {
            return if there == body { 200 } else { 409 };
        }
        if let Name::Session(id) = name {
            let open = |id: &SnapshotId| self.objects.contains_key(&Name::Session(*id));
            if self.owners.iter().filter(|(id, owner)| **owner == who && open(id)).count() >= SESSIONS {
                return 403;
            }
            self.owners.insert(*id, who);
        }
        self.objects.insert(*name, body.to_vec());
        201
    }

    fn delete(&mut self, who: usize, name: &Name) -> u16 {
        let can = |capability| ROLES[who].contains(&capability);
        let there = self.objects.contains_key(name);
        if let Name::Session(id) = name {
            let own = self.owners.get(id) == Some(&who);
            if there && !own && !can(Capability::Prune) || !can(Capability::Put) && !can(Capability::Prune) {
                return 403;
            }
            if there && !can(Capability::Prune) && !self.objects.contains_key(&Name::Snapshot(*id)) {
                return 409;
            }
            self.owners.remove(id);
        } else if !can(Capability::Prune) {
            return 403;
        }
        self.objects.remove(name);
        204
    }
}

/// Carries out requests by several clients, three bytes each, and compares each answer and what is there with the model.
pub fn sequence(bytes: &[u8]) {
    WORLD.with(|world| sequence_in(world, bytes));
}

fn sequence_in(world: &World, bytes: &[u8]) {
    world.empty();
    let mut model = Model::default();
    for step in bytes.chunks_exact(3).take(60) {
        let who = usize::from(step[0] >> 3) % ROLES.len();
        let name = name(step[1], step[2]);
        let can = |capability| ROLES[who].contains(&capability);
        match step[0] & 7 {
            0..=3 => {
                let body = content(&name, step[2]);
                assert_eq!(world.put(who, &name, &body), model.put(who, &name, &body), "{who} puts {name} {}", step[2]);
            }
            4..=5 => {
                let answer = world.ask(who, "DELETE", &object_path(&name), &[], b"").0;
                assert_eq!(answer, model.delete(who, &name), "{who} deletes {name}");
            }
            6 => {
                let (status, body) = world.ask(who, "GET", &object_path(&name), &[], b"");
                match model.objects.get(&name).filter(|_| can(Capability::Get)) {
                    Some(there) => assert!(status == 200 && body == *there, "{name}: {status}"),
                    None => assert_eq!(status, if can(Capability::Get) { 404 } else { 403 }),
                }
            }
            _ => {
                let (status, body) = world.ask(who, "GET", "/v1/repository", &[], b"");
                let said: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let used: usize = model.objects.values().map(Vec::len).sum();
                let left = QUOTA.saturating_sub(used as u64);
                assert!(
                    status == 200 && (who != WITH_QUOTA || said["free"].as_u64() == Some(left)),
                    "{said}, and {left} are left"
                );
            }
        }
        let expected: BTreeMap<Name, u64> = model.objects.iter().map(|(name, body)| (*name, body.len() as u64)).collect();
        assert_eq!(world.stored(), expected);
    }
}

/// One request made of anything: a method, a path, headers and a body, of which some are good. Nothing but a success of
/// one who may changes anything.
pub fn single(bytes: &[u8]) {
    WORLD.with(|world| single_in(world, bytes));
}

fn single_in(world: &World, bytes: &[u8]) {
    let kept = name(0, 0);
    world.put(0, &kept, &content(&kept, 0));
    let before = world.stored();
    let mut parts = bytes.split(|byte| *byte == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let flags = part().first().copied().unwrap_or_default();
    let methods = ["GET", "HEAD", "PUT", "DELETE", "POST", "OPTIONS", "PATCH", "CONNECT"];
    let paths = [object_path(&kept), "/v1/objects/packs".to_owned(), "/v1/objects/".to_owned(), String::new()];
    let path = [paths[usize::from(flags >> 3) % 4].as_bytes(), part()].concat();
    let bearer = format!("Bearer {}", world.tokens[4 + usize::from(flags >> 5) % 2]);
    let mut headers: Vec<(&[u8], &[u8])> = Vec::new();
    if flags & 0x40 == 0 {
        headers.extend([(&b"yester-protocol"[..], &b"1"[..]), (b"authorization", bearer.as_bytes())]);
    }
    let own = ["range", "content-length", "yester-content", "yester-repository", "authorization", "yester-protocol"];
    for line in parts.clone().take(8) {
        let Some((first, value)) = line.split_first() else { break };
        match line.iter().position(|byte| *byte == b':') {
            Some(at) if *first >= b'a' => headers.push((&line[..at], &line[at + 1..])),
            _ => headers.push((own[usize::from(*first) % own.len()].as_bytes(), value)),
        }
    }
    let body = bytes.get(bytes.len() / 2..).unwrap_or_default();
    let Some((status, answer)) = world.server.ask(methods[usize::from(flags & 7)].as_bytes(), &path, &headers, body) else {
        return;
    };
    assert!((200..=206).contains(&status) || (400..=507).contains(&status), "{status}");
    assert_ne!(status, 500, "{:?}", answer.map(|answer| String::from_utf8_lossy(&answer).into_owned()));
    if status >= 400
        && let Ok(answer) = answer
        && !answer.is_empty()
    {
        let refusal: Refusal = serde_json::from_slice(&answer).unwrap();
        assert!(refusal.error.status() == status && refusal.error != Code::Failed);
    }
    let after = world.stored();
    if before != after {
        // The one of these two tokens that may do something may delete.
        assert!(status == 204 && flags >> 5 & 1 == 1, "{status}: {before:?} became {after:?}");
    }
}
