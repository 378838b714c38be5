//! Content of files: cut as an ingest cuts it, so that the same file has the same chunks whichever way it came.

use crate::error::Result;
use crate::format::pack::PackKind;
use crate::import::intake::{PastFault, PastResult, TreeIntake};
use crate::import::memory::SourceKey;
use crate::import::stopped;
use crate::ingest::chunks::BatchFile;
use crate::ingest::grid;
use crate::ingest::read::{Cut, INLINE, SMALL};
use crate::ingest::recipe::Recipe;
use crate::model::{Content, Item};

/// Bytes of a big file that are cut at once.
const PIECE: usize = 1 << 20;

/// What came next of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PastPiece {
    /// Bytes, which were appended.
    Bytes,
    /// A hole of this length.
    Hole(u64),
    /// The end.
    End,
}

/// Appends the next bytes of a file, or says what else comes.
pub(crate) type PieceReader<'r> = dyn FnMut(&mut Vec<u8>) -> PastResult<PastPiece> + 'r;

/// A file that is being cut.
struct CutFile {
    recipe: Recipe,
    /// Bytes that are not cut yet.
    bytes: Vec<u8>,
    /// It is long, or has holes.
    big: bool,
    grid: bool,
    size: u64,
}

impl TreeIntake<'_> {
    /// Stores a file of `size` bytes that `read` gives piece by piece, and remembers it by `key`. What was there under this
    /// key is not read again.
    pub(crate) fn content(&mut self, size: u64, key: Option<&SourceKey>, read: &mut PieceReader<'_>) -> PastResult<Content> {
        if let Some(key) = key
            && let Some(content) = self.memory.content(key)?
        {
            self.files.1 += 1;
            self.read += size;
            return Ok(Ok(content));
        }
        let mut file = CutFile { recipe: Recipe::default(), bytes: Vec::new(), big: false, grid: false, size };
        loop {
            if self.task.is_stopped() {
                return Err(stopped());
            }
            let piece = match read(&mut file.bytes)? {
                Ok(piece) => piece,
                Err(fault) => return Ok(Err(fault)),
            };
            let came = file.recipe.size + file.bytes.len() as u64;
            match piece {
                PastPiece::Bytes if came > size => return Ok(Err(other_length(came, size))),
                PastPiece::Bytes if file.big || file.bytes.len() as u64 > SMALL => {
                    self.begin_cut(&mut file)?;
                    if file.bytes.len() >= PIECE.max(self.cutter.max()) {
                        self.cut(&mut file, false)?;
                    }
                }
                PastPiece::Bytes => {}
                PastPiece::Hole(len) => {
                    self.begin_cut(&mut file)?;
                    self.cut(&mut file, true)?;
                    file.recipe.push(Item::Hole { len }, &mut self.chunks)?;
                }
                PastPiece::End if came != size => return Ok(Err(other_length(came, size))),
                PastPiece::End => break,
            }
        }
        let content = self.end_cut(file)?;
        self.files.0 += 1;
        self.read += size;
        if let Some(key) = key {
            self.memory.put_content(key, &content)?;
        }
        Ok(Ok(content))
    }

    /// The file is not one that is gathered with others.
    fn begin_cut(&mut self, file: &mut CutFile) -> Result<()> {
        if !std::mem::replace(&mut file.big, true) {
            file.grid = self.cutter.max() as u64 >= grid::GRID && grid::suits_head(&file.bytes, file.size);
            self.chunks.begin_big(file.size)?;
        }
        Ok(())
    }

    /// Cuts what is there, at the end of the file or before a hole all of it.
    fn cut(&mut self, file: &mut CutFile, end: bool) -> Result<()> {
        let mut at = 0;
        while let Some(rest) = file.bytes.get(at..).filter(|rest| !rest.is_empty() && (end || rest.len() >= self.cutter.max())) {
            let len = match file.grid {
                true => grid::length(file.recipe.size).min(rest.len()),
                false => self.cutter.cut(rest),
            };
            let chunk = rest.get(..len).unwrap_or_default();
            let id = self.repo.keys().chunk_id(PackKind::Data, chunk);
            self.chunks.big(&id, chunk, None)?;
            file.recipe.push(Item::Chunk { id, len: len as u32 }, &mut self.chunks)?;
            at += len;
        }
        file.bytes.drain(..at);
        self.progress(file.recipe.size);
        Ok(())
    }

    fn end_cut(&mut self, mut file: CutFile) -> Result<Content> {
        if file.big {
            self.cut(&mut file, true)?;
            return file.recipe.finish(&mut self.chunks);
        }
        if file.bytes.len() as u64 <= INLINE {
            return Ok(Content::Inline(file.bytes));
        }
        let (mut cuts, mut at) = (Vec::new(), 0);
        while let Some(rest) = file.bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let len = self.cutter.cut(rest);
            let id = self.repo.keys().chunk_id(PackKind::Data, rest.get(..len).unwrap_or_default());
            cuts.push(Cut { id, start: at as u32, len: len as u32 });
            file.recipe.push(Item::Chunk { id, len: len as u32 }, &mut self.chunks)?;
            at += len;
        }
        self.chunks.batch(file.bytes, &[BatchFile { cuts, start: 0, base: None }])?;
        file.recipe.finish(&mut self.chunks)
    }
}

fn other_length(came: u64, size: u64) -> PastFault {
    PastFault(format!("its content has {came} bytes or more, and {size} are what it should have"))
}
