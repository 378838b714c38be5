//! Reading streams: each by a thread of its own, from the start of the ingest to the stream's end.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::chunk::cutter::Cutter;
use crate::error::Result;
use crate::ingest::input::Input;
use crate::ingest::read::{Cut, Message, ReaderContext};
use crate::ingest::sink::stopped;
use crate::model::{Timestamp, escape};
use crate::observe::{Event, Observer};
use crate::sys::flow::{self, Came, CommandStream};
use crate::task::Task;

/// Bytes of a stream that are cut at once.
const PIECE: usize = 512 << 10;
/// How often a reader that nothing comes to looks whether it is still wanted.
const WAIT: Duration = Duration::from_millis(100);
/// What compressed bytes begin with, and by what they are.
const COMPRESSED: [(&[u8], &str); 5] = [
    (&[0x1f, 0x8b, 8], "gzip"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (b"BZh", "bzip2"),
    (&[4, 0x22, 0x4d, 0x18], "lz4"),
];

/// A stream that was started.
#[derive(Debug)]
pub(crate) struct Running {
    /// Its number among the inputs.
    pub(crate) number: usize,
    input: Arc<dyn Input>,
    started: Timestamp,
    flow: io::Result<CommandStream>,
}

/// The next part of a stream.
#[derive(Debug)]
pub(crate) enum StreamPart {
    /// Chunks, one after the other without gap.
    Data {
        /// Their bytes.
        bytes: Vec<u8>,
        /// Where they are.
        cuts: Vec<Cut>,
        /// What to give back to the budget.
        held: u64,
    },
    /// The end.
    End {
        /// When it was started.
        started: Timestamp,
        /// Why nothing of it is to be stored.
        failure: Option<io::Error>,
    },
}

/// Starts all inputs that are streams, at about the same moment.
pub(crate) fn start_all(inputs: &[Arc<dyn Input>], task: &Task<'_>) -> Vec<Running> {
    let start = |(number, input): (usize, &Arc<dyn Input>)| {
        let started = task.now();
        input.start().map(|flow| Running { number, input: input.clone(), started, flow })
    };
    inputs.iter().enumerate().filter_map(start).collect()
}

/// What so many streams may hold together: none has to wait for another.
pub(crate) fn budget_of(cutter: &Cutter, count: usize) -> u64 {
    count as u64 * 2 * held_by_piece(cutter)
}

/// What a piece takes of it.
fn held_by_piece(cutter: &Cutter) -> u64 {
    (PIECE + cutter.max()) as u64
}

impl ReaderContext<'_> {
    /// Reads a stream to its end: the body of a thread. When the ingest ends before it does, so does its command.
    pub(super) fn read_stream(&self, running: Running, observer: &dyn Observer, out: &Sender<Message>) -> Result<()> {
        let held = held_by_piece(self.cutter);
        let Running { number, input, started, flow } = running;
        let send = |part| out.send(Message::Stream { number, part }).map_err(|_| stopped());
        let end = |failure| send(StreamPart::End { started, failure });
        let mut said = |line: &[u8]| {
            observer.event(&Event::Note { subject: input.shown(), message: &String::from_utf8_lossy(line) });
        };
        let mut flow = match flow {
            Ok(flow) => flow,
            Err(e) => return end(Some(e)),
        };
        let until = input.limit().map(|limit| (limit, Instant::now() + limit));
        let (mut rest, mut total, mut ended) = (Vec::new(), 0, false);
        while !ended {
            if !self.shutdown.streamed.take(number as u64, held) {
                return Err(stopped());
            }
            let mut bytes = Vec::with_capacity(PIECE + self.cutter.max());
            bytes.append(&mut rest);
            let full = bytes.len() + PIECE;
            while !ended && bytes.len() < full {
                let room = full - bytes.len();
                match flow.read(&mut bytes, room, WAIT, &mut said) {
                    Ok(Came::Bytes(read)) => total += read as u64,
                    Ok(Came::Nothing) => {}
                    Ok(Came::End) => ended = true,
                    Err(e) => return end(Some(e)),
                }
                self.is_wanted()?;
                if let Some(e) = too_late(until) {
                    return end(Some(e));
                }
            }
            if total == bytes.len() as u64 {
                advise(&bytes, input.shown(), observer);
            }
            let mut cuts = Vec::new();
            let cut = self.cut(&bytes, 0, ended, None, &mut cuts);
            rest.extend_from_slice(bytes.get(cut..).unwrap_or_default());
            bytes.truncate(cut);
            send(StreamPart::Data { bytes, cuts, held })?;
        }
        let status = loop {
            match flow.ended(WAIT, &mut said) {
                Ok(Some(status)) => break status,
                Ok(None) => self.is_wanted()?,
                Err(e) => return end(Some(e)),
            }
            if let Some(e) = too_late(until) {
                return end(Some(e));
            }
        };
        end(match flow::failure(status) {
            Some(how) => Some(io::Error::other(with_last_line(&format!("its command failed: {how}"), flow.last_line()))),
            None if total == 0 && !input.may_be_empty() => Some(io::Error::other("it gave nothing at all")),
            None => None,
        })
    }

    fn is_wanted(&self) -> Result<()> {
        if self.shutdown.is_wanted() { Err(stopped()) } else { Ok(()) }
    }
}

/// The failure of a stream whose limit is over.
fn too_late(until: Option<(Duration, Instant)>) -> Option<io::Error> {
    let (limit, until) = until?;
    (Instant::now() >= until).then(|| io::Error::other(format!("it took longer than {} s, and was ended", limit.as_secs())))
}

/// Says that a stream that begins like this is compressed already: of its next version nothing will be the same.
fn advise(begin: &[u8], subject: &[u8], observer: &dyn Observer) {
    if let Some((_, what)) = COMPRESSED.iter().find(|(magic, _)| begin.starts_with(magic)) {
        let message = format!(
            "it is compressed by {what}: it differs everywhere from the one before, and all of it is stored again each time. Have \
             it written uncompressed: yester compresses it itself"
        );
        observer.event(&Event::Note { subject, message: &message });
    }
}

fn with_last_line(text: &str, line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    if line.is_empty() { text.to_owned() } else { format!("{text}: {}", escape(line.as_bytes())) }
}
