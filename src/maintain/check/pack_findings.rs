//! What reading one pack has found.

use crate::format::damage::DamagedExtent;

/// What was found in one pack.
#[derive(Debug, Default)]
pub(super) struct PackFindings {
    pub(super) messages: Vec<String>,
    /// Nothing of it can be opened.
    pub(super) whole: bool,
    pub(super) frames: Vec<u32>,
    pub(super) chunks: Vec<(u32, u32)>,
    /// Frames that are themselves not what was written: not those that only lack a base.
    pub(super) own: Vec<u32>,
    /// The pack is not what its name says, as far as its bytes could be had.
    pub(super) torn: bool,
    pub(super) bytes: u64,
}

impl PackFindings {
    /// Adds what was found in later frames. Of several bad ones only the first is told of.
    pub(super) fn add(&mut self, later: PackFindings) {
        if self.frames.is_empty() && self.chunks.is_empty() {
            self.messages.extend(later.messages);
        }
        self.frames.extend(later.frames);
        self.chunks.extend(later.chunks);
        self.own.extend(later.own);
    }

    /// What there is to write down.
    pub(super) fn extent(&self) -> Option<DamagedExtent> {
        match self.torn || !self.own.is_empty() {
            true if self.whole => Some(DamagedExtent::Whole),
            true => Some(DamagedExtent::Frames(self.own.iter().copied().collect())),
            false => None,
        }
    }
}
