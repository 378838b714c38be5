//! Which copy of each needed chunk stays, and so what each pack is good for.
//!
//! Only copies in usable packs count: there, whole, named by a visible segment, not marked for deletion (rule 7). A copy in a
//! delta frame counts if all bases of the frame have copies that count in frames without bases; those copies are then
//! needed too. Of a chunk with a copy in a frame without bases no other copy is needed. If a needed chunk has no copy that
//! counts, every pack that it can be read from stays, also packs that are marked for deletion. If it cannot be read from
//! anywhere, every pack that names it stays: an ingest of the same files may store it again, and a later read may succeed.
//! A copy that is known to be damaged never counts.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::pack::PackKind;
use crate::maintain::prune::mark::Marks;
use crate::maintain::prune::packs::{Packs, Standing};
use crate::maintain::prune::view::RepositoryView;
use crate::model::{ChunkKey, PackId};
use crate::repo::bits::EntryBits;
use crate::repo::index::{ChunkLocation, Index};
use crate::repo::reader::ChunkReader;

/// What came out.
#[derive(Debug)]
pub(crate) struct Survey {
    index: Arc<Index>,
    /// Packs and frames, with what is live in each.
    pub(crate) packs: Packs,
    /// Chunks that snapshots need, and bases of the difference frames that are to stay.
    pub(crate) needed: EntryBits,
    /// Chunks with several copies that count, at the first of them.
    contested: EntryBits,
    /// The place of each pack when there is a choice: the fullest of what is needed first.
    rank: Vec<u32>,
    /// Needed chunks of which there are only copies that are damaged.
    pub(crate) lost: u64,
    /// Chunks without any copy at all.
    missing: u64,
    /// One of them.
    example: Option<ChunkKey>,
    /// Places that hold something else than they should, as [`Survey::prove`] found.
    wrong: HashSet<(u32, u32)>,
}

/// Copies in packs of keys that only write whose bytes were looked at, and are right: pack, frame, place in it, chunk.
pub(crate) type Proven = HashSet<(PackId, u32, u32, ChunkKey)>;

impl Survey {
    /// Surveys what `marks` say is live in the repository of `view`. A needed chunk that is in no pack that is there is an
    /// error: then something was lost, and nothing may be deleted.
    /// Copies in packs of `avoid` stay only where there is no other.
    /// `proven` is what earlier looks have proven, by `reader`.
    pub(crate) fn new(
        view: &RepositoryView,
        marks: &Marks,
        avoid: &HashSet<PackId>,
        (reader, proven): (&ChunkReader, &mut Proven),
    ) -> Result<Survey> {
        let index = view.index.clone();
        let packs = Packs::new(view)?;
        let (needed, contested) = (marks.live.clone(), EntryBits::new(&index));
        let (rank, wrong) = (Vec::new(), HashSet::new());
        let mut survey = Survey { index, packs, needed, contested, rank, lost: 0, missing: 0, example: None, wrong };
        survey.live(marks)?;
        survey.bases()?;
        survey.settle(avoid, reader, proven)?;
        let index = survey.index.clone();
        survey.packs.sum_up(&index)?;
        match survey.example {
            None => Ok(survey),
            Some(key) => {
                let text = format!(
                    "{} chunks that snapshots need are in no pack that is there, {}… among them (yester check names the files; an \
                     ingest of them stores them again)",
                    survey.missing,
                    key.short()
                );
                Err(Error::corrupt(text))
            }
        }
    }

    /// Goes through all chunks that snapshots need.
    fn live(&mut self, marks: &Marks) -> Result<()> {
        let index = self.index.clone();
        for segment in 0..index.segments().len() {
            index.scan(segment, &mut |location, key, pack| {
                self.packs.count(&location);
                if !marks.live.get(location.entry()) {
                    return Ok(());
                }
                let places = index.find_all(pack.kind, key)?;
                // Once a chunk: at its first place.
                if places.first().is_some_and(|first| first.entry() == location.entry()) {
                    let counting = self.counting(&places)?;
                    match counting.is_empty() {
                        true => self.hold(key, &places)?,
                        false => self.keep(&places, &counting),
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The copies that count: those in frames without bases, if there are any; else those in complete delta frames.
    fn counting(&mut self, places: &[ChunkLocation]) -> Result<Vec<ChunkLocation>> {
        let plain = self.plain(places);
        if !plain.is_empty() {
            return Ok(plain);
        }
        let mut out = Vec::new();
        for place in places {
            let usable = self.packs.of(place).standing == Standing::Usable && !self.packs.frame(place).is_damaged();
            if usable && !self.wrong.contains(&place.entry()) && self.is_complete(place)? {
                out.push(*place);
            }
        }
        Ok(out)
    }

    /// The copies that count and stand by themselves.
    pub(crate) fn plain(&self, places: &[ChunkLocation]) -> Vec<ChunkLocation> {
        let counts = |place: &&ChunkLocation| {
            let frame = self.packs.frame(place);
            let sound = !frame.is_damaged() && !self.wrong.contains(&place.entry());
            self.packs.of(place).standing == Standing::Usable && !frame.is_delta() && sound
        };
        places.iter().filter(counts).copied().collect()
    }

    /// Whether every base of a location's frame has a copy that counts in a frame without bases.
    fn is_complete(&mut self, place: &ChunkLocation) -> Result<bool> {
        if let Some(known) = self.packs.frame(place).complete() {
            return Ok(known);
        }
        let mut complete = true;
        for (kind, base) in self.bases_of(place)? {
            complete = complete && !self.plain(&self.index.find_all(kind, &base)?).is_empty();
        }
        self.packs.frame_mut(place).set_complete(complete);
        Ok(complete)
    }

    fn bases_of(&self, place: &ChunkLocation) -> Result<Vec<(PackKind, ChunkKey)>> {
        let frame = self.index.frame(place)?;
        Ok(frame.info.bases.into_iter().map(|base| (frame.pack.kind, base)).collect())
    }

    /// One of these copies stays.
    fn keep(&mut self, places: &[ChunkLocation], counting: &[ChunkLocation]) {
        let mut packs: Vec<usize> = Vec::with_capacity(counting.len());
        for place in counting {
            let frame = self.packs.frame_mut(place);
            let number = frame.pack();
            if frame.is_delta() {
                frame.want();
            }
            // The same copy, seen through two segments, is one.
            if !packs.contains(&number) {
                packs.push(number);
                self.packs.list[number].wanted += u64::from(place.len);
            }
        }
        match (counting, places) {
            // The only copy that counts may be rubbish, and then others that can be read have to stay.
            ([only], _) if places.len() == 1 || !self.packs.of(only).one_way => self.packs.frame_mut(only).live += only.len,
            (_, [first, ..]) => {
                self.contested.set(first.entry());
            }
            _ => {}
        }
    }

    /// Nothing of this chunk counts: whatever it can be read from stays until it is copied to where it does.
    fn hold(&mut self, key: &ChunkKey, places: &[ChunkLocation]) -> Result<()> {
        let mut can_be_read = false;
        for place in places {
            let lost = self.packs.frame(place).is_damaged() || self.wrong.contains(&place.entry());
            if lost || !self.packs.of(place).is_readable() {
                continue;
            }
            let mut whole = true;
            for (kind, base) in self.bases_of(place)? {
                let copies = self.index.find_all(kind, &base)?;
                let readable: Vec<usize> = copies
                    .iter()
                    .map(|copy| self.packs.frame(copy))
                    .filter(|frame| !frame.is_delta() && !frame.is_damaged())
                    .map(|frame| frame.pack())
                    .filter(|number| self.packs.list[*number].is_readable())
                    .collect();
                if readable.is_empty() {
                    whole = false;
                    self.give_up(&copies);
                } else if self.plain(&copies).is_empty() {
                    let len = copies.first().map_or(0, |copy| u64::from(copy.len));
                    for number in readable {
                        let pack = &mut self.packs.list[number];
                        (pack.held, pack.salvage) = (true, true);
                        pack.wanted += len;
                    }
                }
            }
            can_be_read = can_be_read || whole;
            let frame = self.packs.frame_mut(place);
            // The bases of it that do count have to stay, too.
            if frame.is_delta() {
                frame.want();
            }
            let number = frame.pack();
            let pack = &mut self.packs.list[number];
            pack.held = true;
            pack.salvage |= whole;
            pack.wanted += u64::from(place.len);
        }
        if can_be_read {
            return Ok(());
        }
        match self.give_up(places) {
            true => self.lost += 1,
            false => {
                self.missing += 1;
                self.example.get_or_insert(*key);
            }
        }
        Ok(())
    }

    /// None of these copies can be read: all that are there stay as they are. False: there are none.
    fn give_up(&mut self, places: &[ChunkLocation]) -> bool {
        let mut there = false;
        for place in places {
            let number = self.packs.frame(place).pack();
            let pack = &mut self.packs.list[number];
            if pack.is_there() {
                (pack.held, pack.lost) = (true, true);
                there = true;
            }
        }
        there
    }

    /// Goes through the bases of delta frames that are to stay.
    fn bases(&mut self) -> Result<()> {
        let index = self.index.clone();
        for segment in 0..self.packs.frames.len() {
            for number in 0..self.packs.frames[segment].len() {
                if !self.packs.frames[segment][number].is_wanted() {
                    continue;
                }
                let frame = index.frame_at((segment as u32, number as u32))?;
                for base in &frame.info.bases {
                    let places = index.find_all(frame.pack.kind, base)?;
                    // One that a snapshot needs, or another frame, was gone through.
                    if places.first().is_none_or(|first| self.needed.get(first.entry())) {
                        continue;
                    }
                    for place in &places {
                        self.needed.set(place.entry());
                    }
                    let counting = self.plain(&places);
                    self.keep(&places, &counting);
                }
            }
        }
        Ok(())
    }

    /// Decides where there is a choice.
    fn settle(&mut self, avoid: &HashSet<PackId>, reader: &ChunkReader, proven: &mut Proven) -> Result<()> {
        self.rank_packs(avoid);
        if self.contested.is_clear() {
            return Ok(());
        }
        while self.prove(reader, proven)? {}
        let index = self.index.clone();
        for segment in 0..index.segments().len() {
            index.scan(segment, &mut |location, key, pack| {
                if self.contested.get(location.entry()) {
                    let places = index.find_all(pack.kind, key)?;
                    match self.stays(&places)? {
                        Some(stays) => self.packs.frame_mut(&stays).live += stays.len,
                        // A base that only differences have: the frames that need it hold it.
                        None if places.iter().all(|place| !self.wrong.contains(&place.entry())) => {}
                        None => self.hold(key, &places)?,
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Looks at the bytes of the copies that are to stay, where they are in packs of keys that only write: who has such a
    /// key can store anything under the names of its chunks, and what was stored before must not go because of it. True:
    /// some are wrong, and others are to stay instead.
    fn prove(&mut self, reader: &ChunkReader, proven: &mut Proven) -> Result<bool> {
        if !self.packs.list.iter().any(|pack| pack.one_way) {
            return Ok(false);
        }
        let index = self.index.clone();
        let mut chosen: Vec<(ChunkLocation, PackKind, ChunkKey)> = Vec::new();
        for segment in 0..index.segments().len() {
            index.scan(segment, &mut |location, key, pack| {
                if self.contested.get(location.entry())
                    && let Some(stays) = self.stays(&index.find_all(pack.kind, key)?)?
                    && self.packs.of(&stays).one_way
                {
                    let (id, frame) = index.frame_key(&stays);
                    if !proven.contains(&(id, frame, stays.offset, *key)) {
                        chosen.push((stays, pack.kind, *key));
                    }
                }
                Ok(())
            })?;
        }
        // Frame after frame, so that each is decoded once.
        chosen.sort_unstable_by_key(|(place, ..)| (place.frame_order(), place.offset));
        let before = self.wrong.len();
        for (place, kind, key) in chosen {
            match reader.is_at(&index, &place, kind, &key)? {
                true => drop(proven.insert((index.frame_key(&place).0, index.frame_key(&place).1, place.offset, key))),
                false => drop(self.wrong.insert(place.entry())),
            }
        }
        Ok(self.wrong.len() > before)
    }

    /// The fullest first; so of two packs with the same chunks, the one with more else that is needed keeps them, and
    /// the other can go. What must stay in any case comes before all: copies in it cost nothing.
    fn rank_packs(&mut self, avoid: &HashSet<PackId>) {
        let list = &self.packs.list;
        let mut order: Vec<u32> = (0..list.len() as u32).collect();
        order.sort_by_cached_key(|number| {
            let pack = &list[*number as usize];
            let share = (u128::from(pack.wanted) << 32) / u128::from(pack.plain.max(1));
            (!pack.held, avoid.contains(&pack.id), Reverse(share), pack.id)
        });
        self.rank = vec![0; order.len()];
        for (rank, pack) in order.into_iter().enumerate() {
            self.rank[pack as usize] = rank as u32;
        }
    }

    /// Of the places of a needed chunk, the one whose copy stays; `None`: nothing counts.
    pub(super) fn stays(&mut self, places: &[ChunkLocation]) -> Result<Option<ChunkLocation>> {
        let counting = self.counting(places)?;
        let best = counting.into_iter().min_by_key(|place| (self.rank[self.packs.frame(place).pack()], place.entry()));
        Ok(best)
    }
}
