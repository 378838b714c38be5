//! Receiving an object: into a temporary file, checked against its name, acknowledged when it is durable.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;

use crate::error::ErrorKind;
use crate::format::envelope::{CHECKSUM, HEADER};
use crate::model::RepositoryId;
use crate::model::id::from_hex;
use crate::remote::protocol::{self, Code, Refusal};
use crate::serve::objects::access::Principal;
use crate::serve::objects::backing::Arrival;
use crate::serve::objects::hosted::{Hosted, Reserved, refuse};
use crate::serve::objects::limits::{Client, HeldPermits};
use crate::serve::objects::metrics::add;
use crate::serve::objects::{Server, blocking, shape};
use crate::storage::{Class, Created, Name};

/// Bytes that are written at once.
const PIECE: usize = 512 << 10;
/// Bytes that are compared at once with what has the name.
const COMPARED: u64 = 64 << 10;

/// Looks at an object as it comes: whether it is what its name says.
struct Checker {
    name: Name,
    /// The first bytes.
    head: Vec<u8>,
    hasher: blake3::Hasher,
    /// Bytes that are still to be hashed; the rest are the tail.
    left: u64,
    /// The checksum at the end: BLAKE3 of everything before it. A pack or a segment has it as its name, too.
    tail: Vec<u8>,
    /// What the client says the hash is, for objects that are not named by it.
    said: Option<[u8; 32]>,
}

impl Checker {
    fn new(name: Name, length: u64, said: Option<&str>) -> Result<Self, Refusal> {
        let named = protocol::names_content(name.class());
        let said = said.and_then(from_hex);
        if !named && said.is_none() {
            let text = format!("an upload to {}/ needs the header {}", name.class().prefix(), protocol::CONTENT_HEADER);
            return Err(Refusal::new(Code::Invalid, text));
        }
        if length < shape::LEAST {
            return Err(shape::malformed(&name, &format!("{length} bytes are too few")));
        }
        let left = length.saturating_sub(CHECKSUM as u64);
        Ok(Checker { name, head: Vec::with_capacity(HEADER), hasher: blake3::Hasher::new(), left, tail: Vec::new(), said })
    }

    /// Takes the next bytes. Says of which repository the object is, once, when the header has come.
    fn take(&mut self, bytes: &[u8]) -> Result<Option<RepositoryId>, Refusal> {
        let missing = HEADER - self.head.len();
        self.head.extend_from_slice(bytes.get(..missing).unwrap_or(bytes));
        let hashed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let (head, tail) = bytes.split_at(hashed);
        self.hasher.update(head);
        self.left -= hashed as u64;
        self.tail.extend_from_slice(tail);
        match missing > 0 && self.head.len() == HEADER {
            true => shape::repository_of(&self.name, &self.head).map(Some),
            false => Ok(None),
        }
    }

    /// The hash, if it is what the name or the client says: of a pack or segment of all but the tail, else of everything.
    fn check(&mut self) -> Result<blake3::Hash, Refusal> {
        let sum = self.hasher.finalize();
        let name = match &self.name {
            Name::Pack(id) => Some(id.0),
            Name::Segment(id) => Some(id.0),
            _ => None,
        };
        let found = if name.is_some() { sum } else { self.hasher.update(&self.tail).finalize() };
        let good = match name {
            Some(name) => found == name && self.tail == name,
            None => self.said.is_some_and(|said| found == said),
        };
        if !good {
            return Err(Refusal::new(Code::Mismatch, format!("what came is not {}: it was not stored", self.name)));
        }
        match self.tail == sum.as_bytes() {
            true => Ok(found),
            false => Err(shape::malformed(&self.name, "its checksum does not match")),
        }
    }
}

/// Takes pieces of a body, not slower than the limits allow.
struct Inlet<'a> {
    server: &'a Server,
    client: &'a Client,
    body: Body,
    left: u64,
    /// When the time began in which so many bytes came.
    window: (Instant, u64),
}

impl Inlet<'_> {
    /// The next bytes, at most about [`PIECE`]; `None` at the end.
    async fn piece(&mut self) -> Result<Option<(Vec<Bytes>, HeldPermits)>, Refusal> {
        if self.left == 0 {
            return self.end().await;
        }
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE);
        let stopping = || Refusal::new(Code::Unavailable, "the server is stopping");
        let held = self.server.budget.hold(self.client, wanted).await.ok_or_else(stopping)?;
        let (mut pieces, mut length) = (Vec::new(), 0);
        while length < wanted {
            let Some(bytes) = self.frame().await? else { return Err(too_short()) };
            length += bytes.len();
            self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(too_long)?;
            pieces.push(bytes);
        }
        if let Some(rate) = &self.client.rate {
            rate.take(length).await;
            self.window = (Instant::now(), 0);
        }
        Ok(Some((pieces, held)))
    }

    async fn end(&mut self) -> Result<Option<(Vec<Bytes>, HeldPermits)>, Refusal> {
        match self.frame().await? {
            Some(bytes) if !bytes.is_empty() => Err(too_long()),
            _ => Ok(None),
        }
    }

    async fn frame(&mut self) -> Result<Option<Bytes>, Refusal> {
        let limits = &self.server.limits;
        let slow = || Refusal::new(Code::TooSlow, "the upload stood still for too long");
        loop {
            let next = tokio::time::timeout(limits.idle, self.body.frame()).await.map_err(|_| slow())?;
            let frame = match next {
                None => return Ok(None),
                Some(frame) => frame.map_err(|_| too_short())?,
            };
            let Ok(bytes) = frame.into_data() else { continue };
            self.window.1 += bytes.len() as u64;
            if self.window.0.elapsed() > limits.idle {
                if self.window.1 < limits.least_rate * limits.idle.as_secs() {
                    return Err(slow());
                }
                self.window = (Instant::now(), 0);
            }
            return Ok(Some(bytes));
        }
    }
}

fn too_short() -> Refusal {
    Refusal::new(Code::Invalid, "the body is shorter than its length says: nothing was stored")
}

fn too_long() -> Refusal {
    Refusal::new(Code::Invalid, "the body is longer than its length says: nothing was stored")
}

/// What an upload is about.
pub(crate) struct Incoming {
    /// The object.
    pub(crate) name: Name,
    /// How long it says it is.
    pub(crate) length: u64,
    /// The hash of its body, as the client says it.
    pub(crate) content: Option<String>,
    /// Who sends it.
    pub(crate) who: Principal,
}

/// Where the bytes go.
enum UploadDestination {
    /// Into a temporary file, or memory, for which there is room.
    New(Arrival, Reserved),
    /// Nowhere: the name is taken. They are compared with what is there, which takes no room.
    Taken,
}

/// Finds room for an object, before any of it is taken.
fn place(hosted: &Arc<Hosted>, name: Name, length: u64, quota: Option<u64>) -> Result<UploadDestination, Refusal> {
    let failed = |e: crate::Error| refuse(&e);
    let longest = hosted.backing.longest();
    if length > longest {
        return Err(Refusal::new(Code::TooLong, format!("an object has at most {longest} bytes in the store behind the server")));
    }
    // The name of a pack is new, and a look into a store costs a request.
    let new = name.class() == Class::Packs && hosted.backing.is_store();
    if !new && hosted.has(&name).map_err(failed)? {
        return Ok(UploadDestination::Taken);
    }
    let reserved = hosted.reserve(length, quota)?;
    if hosted.backing.free_for(length).map_err(failed)?.is_some_and(|free| free < length) {
        return Err(Refusal::new(Code::NoSpace, "the server's disk has no room for it"));
    }
    Ok(UploadDestination::New(hosted.backing.begin(name, length).map_err(failed)?, reserved))
}

/// Receives an object. [`Created::Exists`] when it was there already, the same. What cannot be an object of its name is
/// refused, and told with the token that sent it.
pub(crate) async fn receive(
    server: &Server,
    client: &Client,
    hosted: &Arc<Hosted>,
    incoming: Incoming,
    body: Body,
) -> Result<Created, Refusal> {
    let (id, name) = (incoming.who.id.clone(), incoming.name);
    let received = take_in(server, client, hosted, incoming, body).await;
    if let Err(Refusal { error: Code::Malformed, message }) = &received
        && server.journal.wants(&id)
    {
        tracing::warn!(token = %id, object = %name, why = message, "refused what is no object");
    }
    received
}

async fn take_in(
    server: &Server,
    client: &Client,
    hosted: &Arc<Hosted>,
    incoming: Incoming,
    body: Body,
) -> Result<Created, Refusal> {
    let Incoming { name, length, content, who } = incoming;
    let mut checker = Checker::new(name, length, content.as_deref())?;
    let (room, quota) = (hosted.clone(), who.quota);
    let mut to = hosted.asking(move || place(&room, name, length, quota)).await?;
    let mut of = RepositoryId([0; 16]);
    let mut inlet = Inlet { server, client, body, left: length, window: (Instant::now(), 0) };
    while let Some((pieces, held)) = inlet.piece().await? {
        let room = hosted.clone();
        // Only with the header one may have to look whose it is.
        let turn = if checker.head.len() < HEADER { hosted.backing.turn().await } else { None };
        let written = blocking(move || {
            let _turn = turn;
            for piece in &pieces {
                if let Some(repository) = checker.take(piece)? {
                    of = room.must_be_of(&name, repository)?;
                }
                if let UploadDestination::New(upload, _) = &mut to {
                    upload.write(piece).map_err(|e| refuse(&e))?;
                }
            }
            drop(held);
            Ok((to, checker, of))
        });
        (to, checker, of) = written.await?;
    }
    let hash = checker.check()?;
    let (room, id, sessions) = (hosted.clone(), who.id.clone(), server.limits.sessions);
    let created = hosted.asking(move || commit(&room, &ReceivedObject { name, of, hash, length }, to, (&id, sessions))).await?;
    if created == Created::New {
        add(&server.metrics.created, 1);
        add(&server.metrics.received, length);
        tracing::info!(token = %who.id, object = %name, bytes = length, "created");
    }
    Ok(created)
}

/// An object that has come.
struct ReceivedObject {
    name: Name,
    /// The repository that its header names.
    of: RepositoryId,
    hash: blake3::Hash,
    length: u64,
}

/// Gives the object its name; durable when this returns.
fn commit(hosted: &Arc<Hosted>, whole: &ReceivedObject, to: UploadDestination, who: (&str, usize)) -> Result<Created, Refusal> {
    let ReceivedObject { name, of, hash, length } = whole;
    let failed = |e: crate::Error| refuse(&e);
    let created = match to {
        UploadDestination::New(upload, reserved) => hosted.store((name, *of), upload, reserved, who)?,
        UploadDestination::Taken => Created::Exists,
    };
    if created == Created::Exists {
        // The upload that created it may not have reached its fsync.
        hosted.backing.mark_place_of(name);
    }
    hosted.backing.with(|storage| storage.sync()).map_err(failed)?;
    if created == Created::Exists {
        let same = is_same(hosted, name, *hash, *length).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Refusal::new(Code::Unavailable, "it was there, and was deleted meanwhile: send it again"),
            _ => failed(e),
        })?;
        if !same {
            return Err(Refusal::new(Code::Conflict, format!("{name} is there already, with other content")));
        }
    }
    Ok(created)
}

fn is_same(hosted: &Hosted, name: &Name, hash: blake3::Hash, length: u64) -> crate::Result<bool> {
    let ahead = if protocol::names_content(name.class()) { 0 } else { COMPARED };
    let there = hosted.backing.open(name, 0, ahead)?;
    if there.length != length {
        return Ok(false);
    }
    if ahead == 0 {
        return Ok(true);
    }
    let mut hasher = blake3::Hasher::new();
    let mut from = there.first.as_ref().map_or(0, |first| first.len() as u64);
    hasher.update(there.first.as_deref().unwrap_or_default());
    while from < length {
        let end = length.min(from + COMPARED);
        hasher.update(&there.part(from..end)?);
        from = end;
    }
    Ok(hasher.finalize() == hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::envelope::{self, ObjectType};
    use crate::model::{PackId, SegmentId, SnapshotId};

    const REPOSITORY: RepositoryId = RepositoryId([7; 16]);

    #[test]
    fn what_comes_is_compared_with_its_name_however_it_is_cut() {
        let whole = envelope::wrap(ObjectType::Pack, REPOSITORY, &[7; 1000]);
        let id = PackId(*whole.last_chunk().unwrap());
        let good = |name: Name, bytes: &[u8], said: Option<&str>, piece: usize| {
            let mut checker = Checker::new(name, bytes.len() as u64, said).map_err(|e| e.error)?;
            let mut of = Vec::new();
            for piece in bytes.chunks(piece) {
                of.extend(checker.take(piece).map_err(|e| e.error)?);
            }
            assert_eq!(of, [REPOSITORY]);
            checker.check().map(|_| ()).map_err(|e| e.error)
        };
        for piece in [1, 27, 28, 31, 999, 5000] {
            assert_eq!(good(Name::Pack(id), &whole, None, piece), Ok(()));
            assert_eq!(good(Name::Pack(PackId([1; 32])), &whole, None, piece), Err(Code::Mismatch));
            assert_eq!(good(Name::Pack(id), &whole[..1059], None, piece), Err(Code::Mismatch));
            assert_eq!(good(Name::Pack(id), &whole[..1028], None, piece), Err(Code::Mismatch));
            assert_eq!(good(Name::Pack(id), &whole[..59], None, piece), Err(Code::Malformed));
            assert_eq!(good(Name::Segment(SegmentId(id.0)), &whole, None, piece), Err(Code::Malformed));
        }
        let name = Name::Snapshot(SnapshotId([1; 32]));
        let said = |bytes: &[u8]| blake3::hash(bytes).to_string();
        for kind in [ObjectType::Snapshot, ObjectType::Fence] {
            let whole = envelope::wrap(kind, REPOSITORY, &[7; 1000]);
            assert_eq!(good(name, &whole, Some(&said(&whole)), 9), Ok(()));
            assert_eq!(good(name, &whole, Some(&said(b"other")), 9), Err(Code::Mismatch));
            assert_eq!(good(name, &whole, None, 9), Err(Code::Invalid));
            // A later version is for its programs to judge; a checksum that does not match is for nobody.
            let newer = {
                let mut head = whole[..1028].to_vec();
                (head[9], head[10]) = (1, 2);
                [&head[..], blake3::hash(&head).as_bytes()].concat()
            };
            assert_eq!(good(name, &newer, Some(&said(&newer)), 9), Ok(()));
            for at in [0, 8, 1030] {
                let mut bad = whole.clone();
                bad[at] ^= 0x20;
                assert_eq!(good(name, &bad, Some(&said(&bad)), 9), Err(Code::Malformed), "{at}");
            }
        }
    }
}
