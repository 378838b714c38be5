//! What other writers have indexed since this one began: looked for now and then, and counted on from then on.
//!
//! A session protects more than what was there when it began. Prune waits for every session that is older than a list of
//! packs for deletion, or fences it; so a writer may load the index again at any time, in the same order (rule 2).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::format::pack::{PREAMBLE, PackKind, Preamble};
use crate::local::at_work::AtWork;
use crate::local::watch::SessionWatch;
use crate::model::{ChunkKey, PackId, SegmentId, SnapshotId};
use crate::repo::Repository;
use crate::repo::index::Index;
use crate::repo::index::paged::PagedSegment;
use crate::repo::pack::StoredPack;
use crate::storage::Name;

/// The list of packs is read again when one pack was stored for so many that the index names: it takes a small share of
/// the work, whatever the size of the repository.
const PACKS_A_LOAD: usize = 4096;
/// Packs between two looks.
const PACKS_A_LOOK: usize = 4;
/// While other writers are at work, they are looked for after each of the first packs: who walks the same tree is found
/// before much is stored twice.
const FIRST_PACKS: usize = 4;
/// So many packs that were stored last are compared with what others store, by so many chunks of each.
const RECENT: usize = 16;
const SAMPLE: usize = 16;

/// What a writer knows of others.
#[derive(Debug)]
pub(crate) struct Others {
    session: SnapshotId,
    began: Instant,
    /// The index as it was loaded last.
    index: Arc<Index>,
    /// Segments that this writer has stored.
    pub(crate) own: HashSet<SegmentId>,
    /// Packs that were stored, in all, since the last look, and since the index was loaded.
    packs: usize,
    since_look: usize,
    since_loaded: usize,
    /// Whether other writers were at work at the last look.
    sessions: AtWork,
    at_work: bool,
    /// Chunks of the data packs that were stored last.
    recent: VecDeque<Vec<ChunkKey>>,
    /// The index, when it was loaded again and nobody was told.
    pub(crate) fresh: Option<Arc<Index>>,
    /// Who stores the same at the same time and goes ahead, when nobody was told.
    pub(crate) ahead: Option<Ahead>,
    /// Whether the index was loaded again: something may have been counted on that others stored meanwhile.
    pub(crate) counted_on: bool,
}

/// A writer that stores the same as this one, and whom this one lets go ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// Its session.
    pub(crate) session: SnapshotId,
    /// The time in which this writer stored as much as the other puts in one segment.
    pub(crate) pace: Duration,
}

impl Others {
    /// Nothing has changed since `index` was loaded for this session. `at_work`: there are other sessions, and `watch` knows
    /// how long they stood still.
    pub(crate) fn new(session: SnapshotId, index: Arc<Index>, at_work: bool, watch: Arc<SessionWatch>) -> Self {
        Others {
            session,
            began: Instant::now(),
            index,
            own: HashSet::new(),
            packs: 0,
            since_look: 0,
            since_loaded: 0,
            sessions: AtWork::new(session, watch),
            at_work,
            recent: VecDeque::new(),
            fresh: None,
            ahead: None,
            counted_on: false,
        }
    }

    /// Another pack is about to be stored. Answers whether it is time for a look.
    pub(crate) fn is_time(&mut self) -> bool {
        self.packs += 1;
        self.since_look += 1;
        self.since_look >= PACKS_A_LOOK || self.packs == 2 || self.at_work && self.packs <= FIRST_PACKS
    }

    /// Takes note of what this writer has stored.
    pub(crate) fn stored(&mut self, pack: &StoredPack) {
        if pack.kind != PackKind::Data {
            return;
        }
        let keys: Vec<ChunkKey> = pack.entries.iter().flat_map(|entry| entry.chunks.iter().map(|(key, _)| *key)).collect();
        self.recent.push_back(keys.iter().step_by((keys.len() / SAMPLE).max(1)).copied().collect());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    /// Looks at what is listed, and loads the index again when somebody else has added to it. True: other writers are at
    /// work.
    pub(crate) fn look(&mut self, repo: &Repository) -> Result<bool> {
        self.since_loaded += std::mem::take(&mut self.since_look);
        self.at_work = self.sessions.look(repo)?;
        if self.since_loaded >= self.index.packs().count() / PACKS_A_LOAD {
            let new = self.news(repo)?;
            if !new.is_empty() {
                self.fresh = Some(self.load(repo)?);
                self.ahead = self.in_step(repo, &new)?;
            }
        }
        Ok(self.at_work)
    }

    /// While this writer waits for another one: the index, loaded again, if others have added enough to it; and whether
    /// that writer is at work.
    pub(crate) fn look_for(&mut self, repo: &Repository, other: SnapshotId) -> Result<(Option<Arc<Index>>, bool)> {
        self.sessions.look(repo)?;
        let open = self.sessions.is_at_work(other);
        let new = self.news(repo)?.len();
        // A segment is of as many packs as there are between two looks.
        let due = new * PACKS_A_LOOK >= self.index.packs().count() / PACKS_A_LOAD || !open;
        let index = if new > 0 && due { Some(self.load(repo)?) } else { None };
        Ok((index, open))
    }

    /// Segments that others have stored since the index was loaded.
    fn news(&self, repo: &Repository) -> Result<HashSet<SegmentId>> {
        Ok(self.index.new_segments(repo)?.into_iter().filter(|id| !self.own.contains(id)).collect())
    }

    fn load(&mut self, repo: &Repository) -> Result<Arc<Index>> {
        let index = Arc::new(self.index.load_again_for_writing(repo)?);
        (self.since_loaded, self.fresh, self.counted_on) = (0, None, true);
        self.index = index.clone();
        Ok(index)
    }

    /// The writer that has stored one of this writer's last packs as well, and is to go ahead: of two that walk the same
    /// tree in step, the one whose session has the smaller id. So two writers never wait for each other.
    fn in_step(&self, repo: &Repository, new: &HashSet<SegmentId>) -> Result<Option<Ahead>> {
        for segment in self.index.segments().iter().filter(|segment| new.contains(&segment.id())) {
            for keys in &self.recent {
                let Some(pack) = self.held(segment, keys)? else { continue };
                let mut bytes = Vec::new();
                // A pack that is damaged or gone is skipped here. Who needs what is in it reports that.
                let read = repo.storage().read(&Name::Pack(pack), Some(0..PREAMBLE as u64), &mut bytes);
                let Ok(preamble) = read.and_then(|()| Preamble::decode(&bytes)) else { continue };
                if preamble.session < self.session && self.sessions.is_at_work(preamble.session) {
                    let packs = u32::try_from(self.packs).unwrap_or(u32::MAX).max(1);
                    let pace = self.began.elapsed() / packs * PACKS_A_LOOK as u32;
                    return Ok(Some(Ahead { session: preamble.session, pace }));
                }
            }
        }
        Ok(None)
    }

    /// The pack by which a segment has at least half of these chunks.
    fn held(&self, segment: &PagedSegment, keys: &[ChunkKey]) -> Result<Option<PackId>> {
        let mut packs: HashMap<usize, usize> = HashMap::new();
        let mut found = 0;
        for key in keys {
            let mut pack = None;
            segment.find_or_rescue(key, true, self.index.pages(), &mut |_, entry| pack = Some(segment.pack_of(entry.frame).0))?;
            if let Some(pack) = pack {
                found += 1;
                *packs.entry(pack).or_default() += 1;
            }
        }
        let most = packs.into_iter().max_by_key(|(_, count)| *count).filter(|_| found * 2 >= keys.len());
        Ok(most.and_then(|(pack, _)| segment.packs().get(pack)).map(|pack| pack.id))
    }
}
