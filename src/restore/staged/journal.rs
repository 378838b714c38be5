//! The journal of a staged restore: a small file beside the first place, and a pointer to it beside each other one.
//!
//! It is always written whole: to a temporary name, made durable, and renamed. So it is the old one or the new one.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::model::id::{random_bytes, to_hex};
use crate::restore::staged::place::StagedPlace;
use crate::sys::{Dir, FileKind, dir, process};

/// The version of the file.
const VERSION: u32 = 1;
/// The longest file.
const LONGEST: u64 = 4 << 20;

/// How far a staged restore is. What was begun is finished by the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StagedPhase {
    /// What is restored is written beside. Cut off here, it is removed.
    Staging,
    /// All of it is there, verified and durable, and takes its places. Cut off here, it goes on.
    Exchanging,
    /// It has its places; commands that belong to it may not have been run.
    Exchanged,
    /// What was there takes its places again. Cut off here, it goes on.
    Returning,
    /// It is done, and what was there is kept.
    Kept,
    /// It was taken back, and what was restored is kept.
    TakenBack,
    /// What is kept is removed. Cut off here, it goes on.
    Discarding,
}

/// What the journal says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedJournal {
    /// The version of this file.
    pub(crate) version: u32,
    /// Which staged restore it is: pointers have the same.
    pub(crate) id: String,
    /// How far it is.
    pub(crate) phase: StagedPhase,
    /// What is restored: the snapshot's id.
    pub(crate) snapshot: String,
    /// The set that it is of, quoted; empty where it is none.
    pub(crate) set: String,
    /// Entries change places by two renames, and names tell how far that is: the file system cannot exchange two entries.
    pub(crate) by_name: bool,
    /// The places.
    pub(crate) places: Vec<JournalPlace>,
}

/// One place in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JournalPlace {
    /// The directory that it is in, quoted.
    pub(crate) parent: String,
    /// Its name in that, quoted.
    pub(crate) name: String,
    /// Whether something was there.
    pub(crate) there: bool,
    /// The inode that was there.
    pub(crate) old: u64,
    /// The inode that was restored.
    pub(crate) new: u64,
}

/// What the file of a place holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum JournalFile {
    /// The journal itself.
    Journal(StagedJournal),
    /// Where it is.
    Pointer {
        /// The version of this file.
        version: u32,
        /// Which staged restore it is.
        id: String,
        /// The first place, quoted.
        first: String,
    },
}

impl StagedJournal {
    /// A new one.
    pub(crate) fn new(snapshot: String, set: &[u8], places: Vec<JournalPlace>) -> Result<Self> {
        Ok(StagedJournal {
            version: VERSION,
            id: to_hex(&random_bytes::<8>()?),
            phase: StagedPhase::Staging,
            snapshot,
            set: quote(set),
            by_name: false,
            places,
        })
    }

    /// The pointer to it for all places but the first.
    pub(crate) fn pointer(&self) -> JournalFile {
        let first = self.places.first().map(JournalPlace::path).unwrap_or_default();
        JournalFile::Pointer { version: VERSION, id: self.id.clone(), first: quote(bytes(&first)) }
    }
}

impl JournalPlace {
    /// Its path.
    pub(crate) fn path(&self) -> PathBuf {
        path(&self.parent).join(path(&self.name))
    }
}

fn bytes(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}

fn path(quoted: &str) -> PathBuf {
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(unquote(quoted)))
}

/// Bytes as text that can be read by people, and back: `\` is `\\`, and what is no UTF-8 is `\xNN`.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let mut out = String::new();
    for part in bytes.utf8_chunks() {
        out.push_str(&part.valid().replace('\\', "\\\\"));
        part.invalid().iter().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
    }
    out
}

/// The bytes of a [quoted](quote) text.
pub(crate) fn unquote(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let byte = || u8::from_str_radix(std::str::from_utf8(after.get(1..3)?).ok()?, 16).ok();
        rest = match (first, after.first()) {
            (b'\\', Some(b'\\')) => {
                out.push(b'\\');
                after.get(1..).unwrap_or_default()
            }
            (b'\\', Some(b'x')) if byte().is_some() => {
                out.extend(byte());
                after.get(3..).unwrap_or_default()
            }
            _ => {
                out.push(first);
                after
            }
        };
    }
    out
}

/// Writes the file of a place, durably.
pub(crate) fn write(place: &StagedPlace, what: &JournalFile) -> Result<()> {
    let name = place.journal();
    let mut text = serde_json::to_vec_pretty(what).map_err(|e| Error::new(ErrorKind::Io, e.to_string()))?;
    text.push(b'\n');
    let new = new_name(place);
    let written = || -> io::Result<()> {
        match place.dir.remove(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = place.dir.create_file(&new, 0o600)?;
        file.write_all(&text)?;
        file.sync_all()?;
        place.dir.rename(&new, &name)?;
        place.dir.sync()
    };
    written().map_err(|e| Error::io(format!("cannot write the journal {}", place.shown(&name)), e))
}

fn new_name(place: &StagedPlace) -> Vec<u8> {
    [&place.journal()[..], b".new"].concat()
}

/// Removes what is left of writing a file that was cut off. It has no meaning, so nothing comes of it if it stays.
pub(crate) fn forget_new(place: &StagedPlace) {
    let _ = place.dir.remove(&new_name(place));
}

/// Reads the file of a place; `None` where there is none.
pub(crate) fn read(place: &StagedPlace) -> Result<Option<JournalFile>> {
    let name = place.journal();
    let shown = place.shown(&name);
    let text = match text(&place.dir, &name) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(format!("cannot read the journal {shown}"), e)),
    };
    let file: JournalFile = serde_json::from_slice(&text)
        .map_err(|e| Error::corrupt(format!("the journal {shown} of a staged restore cannot be understood: {e}")))?;
    let version = match &file {
        JournalFile::Journal(journal) => journal.version,
        JournalFile::Pointer { version, .. } => *version,
    };
    match version == VERSION {
        true => Ok(Some(file)),
        false => Err(Error::new(ErrorKind::Unsupported, format!("the journal {shown} is of a newer version of yester"))),
    }
}

/// The text of a journal, which nobody else can have written: it says what is moved and removed.
fn text(dir: &Dir, name: &[u8]) -> io::Result<Vec<u8>> {
    let file = dir.open_file(name)?;
    let stat = dir::stat(&file)?;
    let ours = [0, process::user()].contains(&stat.uid) && stat.mode & 0o022 == 0 && stat.links == 1;
    if stat.kind != FileKind::File || !ours {
        return Err(io::Error::other("somebody else could have written it: look at it, and remove it"));
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_quoted_and_back() {
        for name in [&b"a b"[..], b"\\x41", b"\xff\\", b"\n", "\u{e9}".as_bytes(), b"\\", b""] {
            assert_eq!(unquote(&quote(name)), name);
        }
    }
}
