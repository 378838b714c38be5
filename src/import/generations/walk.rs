//! The walk through one generation: once to count the names that an inode has in it, and once to take it over.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};
use crate::import::intake::content::PastPiece;
use crate::import::intake::{PastEntry, PastFault, TreeIntake, root};
use crate::import::key_of;
use crate::import::memory::SourceKey;
use crate::model::{Content, Directory, Kind, LinkGroup, Metadata, Timestamp, escape};
use crate::sys::table::Table;
use crate::sys::{self, Dir, FileKind, Listing, Stat, users, xattr};

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;

/// What is remembered from one generation to the next.
#[derive(Debug)]
pub(super) struct GenerationWalk {
    scratch: Option<PathBuf>,
    /// `chattr` flags of files that were read.
    flags: Table<4>,
    /// Names of users, and of groups.
    names: [HashMap<u32, Vec<u8>>; 2],
}

/// A directory at hand.
struct GenerationLevel {
    dir: Dir,
    names: Listing,
    at: usize,
}

impl GenerationLevel {
    fn of(dir: Dir) -> std::io::Result<GenerationLevel> {
        let names = dir.list()?;
        Ok(GenerationLevel { dir, names, at: 0 })
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let at = self.at;
        self.at += 1;
        (at < self.names.len()).then(|| self.names.name(at).to_vec())
    }
}

fn inode(stat: &Stat) -> [u8; 16] {
    key_of(&[b"inode", &stat.device.0.to_le_bytes(), &stat.device.1.to_le_bytes(), &stat.inode.to_le_bytes()])
}

/// What stands for the content of a file: nobody changes a file of a generation, but a number may be used again.
fn content_key(stat: &Stat) -> SourceKey {
    let time = [stat.mtime.secs.to_le_bytes(), u64::from(stat.mtime.nanos).to_le_bytes()];
    key_of(&[&inode(stat), &stat.size.to_le_bytes(), time.as_flattened()])
}

impl GenerationWalk {
    pub(super) fn new(scratch: Option<&Path>) -> Self {
        GenerationWalk { scratch: scratch.map(Path::to_owned), flags: Table::new(scratch), names: Default::default() }
    }

    /// Takes a generation over, at these names below the root.
    pub(super) fn run(&mut self, generation: Dir, top: Vec<Vec<u8>>, time: Timestamp, intake: &mut TreeIntake<'_>) -> Result<()> {
        let names = self.count(&generation, intake)?;
        let stat = generation.stat_self().at(|| "cannot read the generation".to_owned())?;
        let mut own = self.bare(Vec::new(), &stat, Kind::Directory(Directory::default()));
        take_attributes(xattr::find(&generation), &mut own, intake);
        own.node.meta.flags = sys::dir::user_flags(&generation).unwrap_or(0);
        match top.split_last() {
            None => intake.set_root(own)?,
            Some((last, before)) => {
                for name in before {
                    let unsaid = root(time);
                    intake.enter(PastEntry::new(name.clone(), unsaid.kind, unsaid.meta))?;
                }
                own.node.name.clone_from(last);
                intake.enter(own)?;
            }
        }
        let mut levels = self.level(generation, intake)?.into_iter().collect::<Vec<_>>();
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.next() else {
                levels.pop();
                if !levels.is_empty() {
                    intake.leave(None)?;
                }
                continue;
            };
            if let Some(dir) = self.entry(&level.dir, name, &names, intake)? {
                match self.level(dir, intake)? {
                    Some(next) => levels.push(next),
                    None => intake.leave(None)?,
                }
            }
        }
        top.iter().try_for_each(|_| intake.leave(None))
    }

    /// How often each inode that has several names anywhere has one here: once, or more often.
    fn count(&self, generation: &Dir, intake: &TreeIntake<'_>) -> Result<Table<1>> {
        let mut names: Table<1> = Table::new(self.scratch.as_deref());
        // What cannot be read is told by the second walk.
        let mut levels: Vec<GenerationLevel> = generation.try_clone().and_then(GenerationLevel::of).into_iter().collect();
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.next() else {
                levels.pop();
                intake.task().go_on("the import was stopped; the same command goes on with it")?;
                continue;
            };
            let Ok(stat) = level.dir.stat(&name) else { continue };
            if stat.kind == FileKind::Directory {
                let next = level.dir.open_dir(&name).and_then(GenerationLevel::of);
                levels.extend(next);
            } else if stat.links > 1 {
                let key = inode(&stat);
                let more = u8::from(names.get(&key).is_some());
                names.put(&key, &[more]).at(|| "cannot remember hard links".to_owned())?;
            }
        }
        Ok(names)
    }

    /// An entry with what its stat says.
    fn bare(&mut self, name: Vec<u8>, stat: &Stat, kind: Kind) -> PastEntry {
        let meta = Metadata { mode: stat.mode, uid: stat.uid, gid: stat.gid, mtime: stat.mtime, ..Metadata::default() };
        let [user_names, group_names] = &mut self.names;
        let user = user_names.entry(stat.uid).or_insert_with(|| users::user_name(stat.uid).unwrap_or_default()).clone();
        let group = group_names.entry(stat.gid).or_insert_with(|| users::group_name(stat.gid).unwrap_or_default()).clone();
        PastEntry { user, group, ..PastEntry::new(name, kind, meta) }
    }

    fn level(&self, dir: Dir, intake: &mut TreeIntake<'_>) -> Result<Option<GenerationLevel>> {
        Ok(match GenerationLevel::of(dir) {
            Ok(level) => Some(level),
            Err(e) => {
                intake.unread(&format!("it cannot be listed: {e}"));
                None
            }
        })
    }

    /// An entry. A directory is entered, and answered.
    fn entry(&mut self, dir: &Dir, name: Vec<u8>, names: &Table<1>, intake: &mut TreeIntake<'_>) -> Result<Option<Dir>> {
        let lost = |intake: &mut TreeIntake<'_>, e: std::io::Error| intake.lose(&name, &format!("it cannot be read: {e}"));
        let stat = match dir.stat(&name) {
            Ok(stat) => stat,
            Err(e) => return lost(intake, e).map(|()| None),
        };
        let kind = match stat.kind {
            FileKind::Directory => Kind::Directory(Directory::default()),
            FileKind::File => Kind::File(Content::Inline(Vec::new())),
            FileKind::Symlink => match dir.read_link(&name) {
                Ok(target) => Kind::Symlink(target),
                Err(e) => return lost(intake, e).map(|()| None),
            },
            FileKind::Fifo => Kind::Fifo,
            FileKind::Socket => Kind::Socket,
            FileKind::CharDevice => Kind::CharDevice(stat.rdev.0, stat.rdev.1),
            FileKind::BlockDevice => Kind::BlockDevice(stat.rdev.0, stat.rdev.1),
            FileKind::Unknown => return intake.lose(&name, "its type is unknown").map(|()| None),
        };
        let mut entry = self.bare(name.clone(), &stat, kind);
        take_attributes(xattr::find_at(dir, &name), &mut entry, intake);
        if stat.kind == FileKind::Directory {
            let opened = match dir.open_dir(&name) {
                Ok(opened) => opened,
                Err(e) => {
                    intake.enter(entry)?;
                    intake.unread(&format!("it cannot be opened: {e}"));
                    return intake.leave(None).map(|()| None);
                }
            };
            entry.node.meta.flags = sys::dir::user_flags(&opened).unwrap_or(0);
            return intake.enter(entry).map(|()| Some(opened));
        }
        let key = inode(&stat);
        if stat.links > 1 && names.get(&key) == Some([1]) {
            entry.node.link = Some(LinkGroup(key));
        }
        if stat.kind != FileKind::File {
            return intake.leaf(entry, None).map(|()| None);
        }
        let (content, flags) = self.file(dir, &name, &stat, intake)?;
        entry.node.meta.flags = flags;
        match content {
            Ok(content) => intake.leaf(entry, Some(content))?,
            Err(PastFault(text)) => intake.lose(&name, &format!("it cannot be read and is left out: {text}"))?,
        }
        Ok(None)
    }

    /// The content of a file, read if no earlier generation had it, and its `chattr` flags.
    fn file(
        &mut self,
        dir: &Dir,
        name: &[u8],
        stat: &Stat,
        intake: &mut TreeIntake<'_>,
    ) -> Result<(std::result::Result<Content, PastFault>, u32)> {
        let key = content_key(stat);
        let mut reading = ReadingFile { file: None, size: stat.size, at: 0, flags: 0 };
        let content = intake
            .content(stat.size, Some(&key), &mut |out| Ok(reading.next(dir, name, out).map_err(|e| PastFault(e.to_string()))))?;
        let flags = match self.flags.get(&key).filter(|_| reading.file.is_none()) {
            Some(flags) => u32::from_le_bytes(flags),
            None => {
                self.flags.put(&key, &reading.flags.to_le_bytes()).at(|| "cannot remember flags".to_owned())?;
                reading.flags
            }
        };
        Ok((content, flags))
    }
}

/// A file that is opened when it is wanted.
struct ReadingFile {
    file: Option<File>,
    size: u64,
    at: u64,
    flags: u32,
}

impl ReadingFile {
    fn next(&mut self, dir: &Dir, name: &[u8], out: &mut Vec<u8>) -> std::io::Result<PastPiece> {
        let file: &File = match &mut self.file {
            Some(file) => file,
            none => {
                let file = dir.open_file(name)?;
                self.flags = sys::dir::user_flags(&file).unwrap_or(0);
                none.insert(file)
            }
        };
        if self.at >= self.size {
            return Ok(PastPiece::End);
        }
        let (start, end) = sys::dir::next_data(file, self.at)?.unwrap_or((self.size, self.size));
        let (start, end) = (start.min(self.size), end.min(self.size));
        if start > self.at {
            let hole = start - self.at;
            self.at = start;
            return Ok(PastPiece::Hole(hole));
        }
        let len = (end - self.at).min(PIECE) as usize;
        let before = out.len();
        out.resize(before + len, 0);
        file.read_exact_at(out.get_mut(before..).unwrap_or_default(), self.at)?;
        self.at += len as u64;
        Ok(PastPiece::Bytes)
    }
}

fn take_attributes(read: xattr::ReadXattrs, entry: &mut PastEntry, intake: &mut TreeIntake<'_>) {
    entry.xattrs = read.list;
    if let Some(e) = read.failed {
        intake.less(
            &mut entry.node,
            &format!("not all of its extended attributes can be read: {}", escape(e.to_string().as_bytes())),
        );
    }
}
