//! What is wrong, said once each.

use std::collections::HashSet;
use std::fmt::Display;

use crate::error::Error;
use crate::model::ChunkId;
use crate::observe::{Event, Observer};
use crate::task::Task;

/// Findings are said once each as long as there are not more than this; then they are only counted.
const MOST: usize = 10_000;
/// Lost chunks that are named one by one.
const CHUNKS: usize = 10;
/// Lost chunks that are told apart; more of them are not counted.
const MOST_CHUNKS: usize = 100_000;
const LOST: &str = "in no pack that the index knows";

/// Gathers findings and tells them to the observer, at once or, while they are held back, later.
pub(super) struct Findings<'a> {
    task: &'a Task<'a>,
    said: HashSet<(String, String)>,
    held: Option<Vec<(String, String)>>,
    count: u64,
    /// Lost chunks, which may be many.
    chunks: HashSet<ChunkId>,
}

/// A moment, to go back to.
pub(super) struct FindingsMark {
    held: usize,
    count: u64,
}

impl<'a> Findings<'a> {
    pub(crate) fn new(task: &'a Task<'a>) -> Self {
        Findings { task, said: HashSet::new(), held: None, count: 0, chunks: HashSet::new() }
    }

    pub(crate) fn task(&self) -> &'a Task<'a> {
        self.task
    }

    pub(crate) fn observer(&self) -> &'a dyn Observer {
        self.task.observer
    }

    /// Begins anew: what was held back is taken back, what comes is held back.
    pub(crate) fn hold(&mut self) {
        (self.said, self.held, self.count, self.chunks) = (HashSet::new(), Some(Vec::new()), 0, HashSet::new());
    }

    /// What is held back.
    pub(crate) fn held(&self) -> HashSet<(String, String)> {
        self.held.iter().flatten().cloned().collect()
    }

    /// Tells what was held back.
    pub(crate) fn release(&mut self) {
        for (object, message) in self.held.take().unwrap_or_default() {
            self.task.observer.event(&Event::Damage { object: &object, message: &message });
        }
    }

    /// Something is wrong with `object`.
    pub(crate) fn damage(&mut self, object: impl Display, message: impl Display) {
        let finding = (object.to_string(), message.to_string());
        if self.said.contains(&finding) {
            return;
        }
        self.count += 1;
        if self.said.len() >= MOST {
            return;
        }
        match &mut self.held {
            Some(held) => held.push(finding.clone()),
            None => self.task.observer.event(&Event::Damage { object: &finding.0, message: &finding.1 }),
        }
        self.said.insert(finding);
    }

    /// The same of an error.
    pub(super) fn error(&mut self, error: &Error) {
        self.damage(error.subject().unwrap_or("a tree"), error.without_subject());
    }

    /// A chunk that snapshots need is in no pack that the index knows.
    pub(crate) fn lost_chunk(&mut self, chunk: &ChunkId) {
        if self.chunks.len() >= MOST_CHUNKS || !self.chunks.insert(*chunk) {
            return;
        }
        match self.chunks.len() <= CHUNKS {
            true => self.damage(format!("chunk {}", chunk.short()), LOST),
            false => self.count += 1,
        }
    }

    /// Says how many lost chunks were not named.
    pub(crate) fn rest_of_chunks(&mut self) {
        if let Some(rest @ 1..) = self.chunks.len().checked_sub(CHUNKS) {
            let count = self.count;
            self.damage(format!("{rest} more chunks"), LOST);
            self.count = count;
        }
    }

    /// How many chunks are lost.
    pub(crate) fn lost_chunks(&self) -> usize {
        self.chunks.len()
    }

    /// What was found so far, while findings are held back.
    pub(crate) fn mark(&self) -> FindingsMark {
        FindingsMark { held: self.held.as_ref().map_or(0, Vec::len), count: self.count }
    }

    /// Takes back what was found since.
    pub(crate) fn back_to(&mut self, mark: &FindingsMark) {
        self.count = mark.count;
        self.chunks.clear();
        for finding in self.held.iter_mut().flat_map(|held| held.drain(mark.held.min(held.len())..)) {
            self.said.remove(&finding);
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}
