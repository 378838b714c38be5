//! Streams: stored as they come, whatever the walk is at. A stream gets into the tree when the walk comes to its place.

use std::collections::HashMap;
use std::io;

use crossbeam_channel::{Receiver, never, select};

use crate::error::Result;
use crate::ingest::assemble::Assembler;
use crate::ingest::budget::ReadBudget;
use crate::ingest::chunks::{Gathered, Previous};
use crate::ingest::plan::WalkStep;
use crate::ingest::read::Cut;
use crate::ingest::recipe::Recipe;
use crate::ingest::sink::stopped;
use crate::ingest::stream::StreamPart;
use crate::model::{Content, Item, Kind, Node, Timestamp};
use crate::observe::Event;

/// The streams of an ingest.
#[derive(Debug)]
pub(crate) struct Streams<'a> {
    budget: &'a ReadBudget,
    arriving: HashMap<usize, Arriving>,
    /// Bytes of those that have not ended.
    bytes: u64,
}

/// A stream that is being stored.
#[derive(Debug, Default)]
struct Arriving {
    recipe: Recipe,
    gathered: Gathered,
    end: Option<(Timestamp, Option<io::Error>)>,
}

/// A stream that has ended, and was looked at when the walk came to its place.
#[derive(Debug)]
pub(crate) struct EndedStream {
    /// The number of its input.
    pub(crate) number: usize,
    /// When it was started.
    pub(crate) started: Timestamp,
    /// When it was taken over, or given up.
    pub(crate) finished: Timestamp,
    /// Bytes that came.
    pub(crate) bytes: u64,
    /// Why nothing of it is stored.
    pub(crate) failure: Option<String>,
}

impl<'a> Streams<'a> {
    /// Streams that hold what they read in `budget`; those of these numbers, each with its previous version.
    pub(crate) fn new(budget: &'a ReadBudget, before: impl IntoIterator<Item = (usize, Option<Content>)>) -> Self {
        let arriving = |base| Arriving { recipe: Recipe::over(base), ..Arriving::default() };
        Streams { budget, arriving: before.into_iter().map(|(number, base)| (number, arriving(base))).collect(), bytes: 0 }
    }
}

impl Assembler<'_> {
    /// The next steps of the walk; until they come, streams are stored. `None` at the end.
    pub(super) fn next_steps(&mut self, steps: &Receiver<Vec<WalkStep>>) -> Result<Option<Vec<WalkStep>>> {
        if self.streams.arriving.is_empty() {
            return Ok(steps.recv().ok());
        }
        let (messages, none) = (self.messages, never());
        let mut open = messages;
        loop {
            select! {
                recv(steps) -> steps => return Ok(steps.ok()),
                recv(open) -> message => match message {
                    Ok(message) => self.receive(message)?,
                    Err(_) => open = &none,
                },
            }
        }
    }

    /// Stores the next part of a stream.
    pub(super) fn stream_part(&mut self, number: usize, part: StreamPart) -> Result<()> {
        let Some(stream) = self.streams.arriving.get_mut(&number) else { return Ok(()) };
        match part {
            StreamPart::Data { bytes, cuts, held } => {
                for Cut { id, start, len } in cuts {
                    let at = stream.recipe.size;
                    let previous = stream.recipe.base.as_ref().map(|content| Previous { content, offset: at });
                    let bytes = bytes.get(start as usize..(start + len) as usize).unwrap_or_default();
                    self.chunks.stream(&id, bytes, at, previous, &mut stream.gathered)?;
                    stream.recipe.push(Item::Chunk { id, len }, &mut self.chunks)?;
                    self.streams.bytes += u64::from(len);
                }
                self.streams.budget.give(number as u64, held);
                self.progress(self.streams.bytes);
            }
            StreamPart::End { started, failure } => {
                self.chunks.end_stream(&mut stream.gathered)?;
                stream.end = Some((started, failure));
            }
        }
        Ok(())
    }

    /// Waits for the end of a stream and takes it over; false when nothing of it is stored, which is told. What is byte for
    /// byte as it was keeps its time: so it is the same node, and costs nothing.
    pub(super) fn stream(&mut self, node: &mut Node, number: usize, before: Option<&Node>) -> Result<bool> {
        let subject = self.path_of(node);
        let (recipe, end) = loop {
            match self.streams.arriving.get_mut(&number) {
                Some(Arriving { end: None, .. }) => {
                    self.task.observer.event(&Event::Current { subject: &subject });
                    let message = self.messages.recv().map_err(|_| stopped())?;
                    self.receive(message)?;
                }
                Some(stream) => {
                    let Arriving { recipe, end, .. } = std::mem::take(stream);
                    self.streams.arriving.remove(&number);
                    self.streams.bytes -= recipe.size;
                    break (recipe, end);
                }
                None => return Err(stopped()),
            }
        };
        let Some((started, failure)) = end else { return Err(stopped()) };
        let failure = failure.map(|e| e.to_string());
        self.ended.push(EndedStream { number, started, finished: self.task.now(), bytes: recipe.size, failure: failure.clone() });
        if let Some(failure) = failure {
            return self.lose(node, &format!("nothing of it is stored: {failure}")).map(|()| false);
        }
        node.kind = Kind::File(recipe.finish(&mut self.chunks)?);
        node.meta.mtime = match before {
            Some(before) if before.kind == node.kind => before.meta.mtime,
            _ => started,
        };
        Ok(true)
    }
}
