//! From the entries of an archive to the trees of a snapshot.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::Result;
use crate::format::node::is_xattr;
use crate::import::intake::{PastEntry, TreeIntake};
use crate::import::sorter::RecordSorter;
use crate::import::tar::header::letter;
use crate::import::tar::links::{NumberedEntry, SeenEntries, unsaid};
use crate::import::tar::member::{TarMember, TarReader};
use crate::import::tar::pax;
use crate::model::node::check_name;
use crate::model::{Content, Directory, Kind, Metadata, Timestamp, escape};
use crate::sys::users;

/// A walk through one archive.
pub(crate) struct TarWalk {
    /// The names that lead to its top.
    top: Vec<Vec<u8>>,
    time: Timestamp,
    sorter: RecordSorter,
    seen: SeenEntries,
    roots: GivenRoots,
    number: u64,
}

impl TarWalk {
    /// A walk through an archive whose top stands below these names. Directories that it does not name are of this time.
    pub(crate) fn new(top: Vec<Vec<u8>>, time: Timestamp, scratch: Option<&Path>) -> Self {
        let (sorter, seen) = (RecordSorter::new(scratch), SeenEntries::new(scratch));
        TarWalk { top, time, sorter, seen, roots: GivenRoots::default(), number: 0 }
    }

    /// Reads the whole archive, and stores its contents. Errors: it cannot be read, or is none; those of the repository.
    pub(crate) fn read(mut self, reader: &mut TarReader<'_>, intake: &mut TreeIntake<'_>) -> Result<Self> {
        while let Some(member) = reader.next()? {
            intake.task().go_on("the import was stopped; the same command goes on with it")?;
            let path = member.head.path.clone();
            if let Err(message) = self.member(&member, reader, intake)? {
                intake.lose(path.strip_prefix(b"/").unwrap_or(&path), &format!("{message}: it is left out"))?;
            }
        }
        Ok(self)
    }

    /// An entry: its content is stored, and the rest is kept for later. An error inside is why it is left out.
    fn member(
        &mut self,
        member: &TarMember,
        reader: &mut TarReader<'_>,
        intake: &mut TreeIntake<'_>,
    ) -> Result<Result<(), String>> {
        let key = match key_of_path(&member.head.path) {
            Ok(key) => key,
            Err(message) => return Ok(Err(message)),
        };
        let number = self.number;
        self.number += 1;
        let numbered = if member.head.letter == letter::LINK {
            let target = key_of_path(&member.head.target).ok().map(|target| self.seen.link(&target)).transpose()?.flatten();
            let Some(mut first) = target else {
                let target = escape(&member.head.target);
                return Ok(Err(format!("it is a hard link to {target}, which the archive does not have before it")));
            };
            first.entry.node.name = name_of(&key);
            first
        } else {
            let mut entry = match parsed(member, &key) {
                Ok(entry) => entry,
                Err(message) => return Ok(Err(message)),
            };
            if let Some(dropped) = Self::attributes(member, &mut entry) {
                intake.less(&mut entry.node, &format!("some of its extended attributes cannot be kept: {dropped}"));
            }
            if let Kind::File(_) = entry.node.kind {
                let content = intake.content(member.size, None, &mut |out| reader.content(member, out).map(Ok))?;
                match content {
                    Ok(content) => entry.node.kind = Kind::File(content),
                    Err(fault) => return Ok(Err(fault.0)),
                }
            }
            NumberedEntry { number, entry }
        };
        let encoded = match numbered.encode() {
            Ok(encoded) => encoded,
            Err(e) => return Ok(Err(e.to_string())),
        };
        if numbered.entry.node.directory().is_none() {
            self.seen.put(&key, &encoded)?;
        }
        self.roots.add(&key);
        self.sorter.push(key, encoded)?;
        Ok(Ok(()))
    }

    fn attributes(member: &TarMember, entry: &mut PastEntry) -> Option<String> {
        let ids = |name: &str, group: bool| match group {
            true => users::group_id(name.as_bytes()),
            false => users::user_id(name.as_bytes()),
        };
        let mut dropped = Vec::new();
        for (keyword, value) in &member.records {
            match pax::attribute(keyword, value, &ids) {
                Some(Some((name, value))) if is_xattr(&name, &value) => entry.xattrs.push((name, value)),
                Some(_) => dropped.push(escape(keyword)),
                None => {}
            }
        }
        (!dropped.is_empty()).then(|| dropped.join(", "))
    }

    /// Builds the trees of what was kept, in the order of names.
    pub(crate) fn build(self, intake: &mut TreeIntake<'_>) -> Result<()> {
        let TarWalk { top, time, sorter, seen, roots, .. } = self;
        intake.set_paths(roots.paths(&top));
        let mut build = TarBuild { top, time, seen, intake, open: Vec::new(), begun: false, leaf: None };
        let mut held: Option<(Vec<u8>, Vec<u8>)> = None;
        sorter.each(&mut |key, value| {
            // Of several entries of one path the last one counts, as when they are unpacked.
            match held.replace((key, value)) {
                Some((last, value)) if held.as_ref().is_some_and(|(key, _)| *key != last) => build.entry(last, &value),
                _ => Ok(()),
            }
        })?;
        if let Some((key, value)) = held {
            build.entry(key, &value)?;
        }
        build.finish()
    }
}

/// Entries in the order of names, on their way into the intake.
struct TarBuild<'b, 'i> {
    top: Vec<Vec<u8>>,
    time: Timestamp,
    seen: SeenEntries,
    intake: &'b mut TreeIntake<'i>,
    /// The names of the directories that are open below the top.
    open: Vec<Vec<u8>>,
    begun: bool,
    /// The last entry that is no directory.
    leaf: Option<Vec<u8>>,
}

impl TarBuild<'_, '_> {
    /// Enters the top, of which the archive may say something.
    fn begin(&mut self, said: Option<PastEntry>) -> Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        let Some((last, before)) = self.top.split_last() else { return said.map_or(Ok(()), |said| self.intake.set_root(said)) };
        before.iter().try_for_each(|name| self.intake.enter(unsaid(name, self.time)))?;
        let mut entry = said.unwrap_or_else(|| unsaid(last, self.time));
        entry.node.name.clone_from(last);
        self.intake.enter(entry)
    }

    fn entry(&mut self, key: Vec<u8>, value: &[u8]) -> Result<()> {
        let mut numbered = NumberedEntry::decode(value)?;
        if key.is_empty() {
            return match numbered.entry.node.directory() {
                Some(_) => self.begin(Some(numbered.entry)),
                None => self.intake.lose(b".", "the top of the archive is no directory"),
            };
        }
        self.begin(None)?;
        let below_leaf = |leaf: &Vec<u8>| key.strip_prefix(leaf.as_slice()).is_some_and(|rest| rest.first() == Some(&0));
        let names: Vec<&[u8]> = key.split(|b| *b == 0).collect();
        if self.leaf.as_ref().is_some_and(below_leaf) {
            return self.intake.lose(&names.join(&b'/'), "it is below something that is no directory: it is left out");
        }
        let Some((_, above)) = names.split_last() else { return Ok(()) };
        let common = self.open.iter().zip(above).take_while(|(open, name)| open == *name).count();
        while self.open.len() > common {
            self.open.pop();
            self.intake.leave(None)?;
        }
        for name in above.get(common..).unwrap_or_default() {
            self.intake.enter(unsaid(name, self.time))?;
            self.open.push(name.to_vec());
        }
        if numbered.entry.node.directory().is_some() {
            self.open.push(numbered.entry.node.name.clone());
            return self.intake.enter(numbered.entry);
        }
        if self.seen.is_linked(&numbered) {
            numbered.entry.node.link = Some(numbered.group());
        }
        let content = match &numbered.entry.node.kind {
            Kind::File(content) => Some(content.clone()),
            _ => None,
        };
        self.leaf = Some(key);
        self.intake.leaf(numbered.entry, content)
    }

    fn finish(mut self) -> Result<()> {
        self.begin(None)?;
        let open = self.open.len() + self.top.len();
        (0..open).try_for_each(|_| self.intake.leave(None))
    }
}

/// The entries that are in no directory that the archive has: what it was given, when it was made.
#[derive(Debug, Default)]
struct GivenRoots {
    keys: BTreeSet<Vec<u8>>,
    too_many: bool,
}

impl GivenRoots {
    /// More than these are not told one by one.
    const MOST: usize = 256;

    fn add(&mut self, key: &[u8]) {
        let above = (0..key.len()).filter(|at| key.get(*at) == Some(&0)).map(|at| key.get(..at).unwrap_or_default());
        if self.too_many || std::iter::once(&b""[..]).chain(above).chain([key]).any(|above| self.keys.contains(above)) {
            return;
        }
        let begin = [key, &[0][..]].concat();
        self.keys.retain(|other| !key.is_empty() && !other.starts_with(&begin));
        self.keys.insert(key.to_vec());
        self.too_many = self.keys.len() > Self::MOST;
    }

    /// The given paths of the snapshot.
    fn paths(&self, top: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let top: Vec<u8> = top.iter().flat_map(|name| [&b"/"[..], name].concat()).collect();
        let path = |key: &Vec<u8>| {
            let names = key.split(|b| *b == 0).filter(|name| !name.is_empty());
            let path = names.fold(top.clone(), |path, name| [&path[..], b"/", name].concat());
            if path.is_empty() { b"/".to_vec() } else { path }
        };
        match self.too_many || self.keys.is_empty() {
            true => vec![path(&Vec::new())],
            false => self.keys.iter().map(path).collect(),
        }
    }
}

/// The names of a path, with a NUL between them: so directories come right before what is in them. Paths lead nowhere but down
/// from the top.
fn key_of_path(path: &[u8]) -> Result<Vec<u8>, String> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty() && *name != b".") {
        match check_name(name) {
            Ok(()) => names.push(name),
            Err(_) if name == b".." => return Err("its path leads upwards".to_owned()),
            Err(_) => return Err("its path has a name that no entry can have".to_owned()),
        }
    }
    Ok(names.join(&0))
}

fn name_of(key: &[u8]) -> Vec<u8> {
    match key.rsplit(|b| *b == 0).next() {
        Some(name) if !name.is_empty() => name.to_vec(),
        _ => b"-".to_vec(),
    }
}

/// An entry without its content, or why there can be none.
fn parsed(member: &TarMember, key: &[u8]) -> Result<PastEntry, String> {
    let head = &member.head;
    let kind = match head.letter {
        0 | b'0' | b'7' | letter::GNU_SPARSE if head.path.ends_with(b"/") => Kind::Directory(Directory::default()),
        0 | b'0' | b'7' | letter::GNU_SPARSE => Kind::File(Content::Inline(Vec::new())),
        letter::DIRECTORY | b'D' => Kind::Directory(Directory::default()),
        letter::SYMLINK => Kind::Symlink(head.target.clone()),
        letter::FIFO => Kind::Fifo,
        letter::CHAR => Kind::CharDevice(head.device.0, head.device.1),
        letter::BLOCK => Kind::BlockDevice(head.device.0, head.device.1),
        other => return Err(format!("it is of a kind that has no place here ({})", escape(&[other]))),
    };
    let number = |n: u64| u32::try_from(n).map_err(|_| "the number of its owner is too large".to_owned());
    let mode = (head.mode & 0o7777) as u16;
    let meta = Metadata { mode, uid: number(head.uid)?, gid: number(head.gid)?, mtime: member.mtime, ..Metadata::default() };
    let entry = PastEntry::new(name_of(key), kind, meta);
    Ok(PastEntry { user: head.user.clone(), group: head.group.clone(), ..entry })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_down() {
        let key = |path: &str| key_of_path(path.as_bytes());
        assert_eq!(key("/home//./eva/"), Ok(b"home\0eva".to_vec()));
        assert_eq!((key("./"), key("")), (Ok(Vec::new()), Ok(Vec::new())));
        assert!(key("a/../b").is_err() && key(&"x".repeat(256)).is_err());
    }

    #[test]
    fn what_was_given_is_what_stands_in_nothing_else() {
        let given = |paths: &[&str], top: &[Vec<u8>]| {
            let mut roots = GivenRoots::default();
            paths.iter().for_each(|path| roots.add(&key_of_path(path.as_bytes()).unwrap()));
            let paths = roots.paths(top);
            paths.into_iter().map(|path| String::from_utf8(path).unwrap()).collect::<Vec<String>>()
        };
        assert_eq!(given(&["home/eva/x", "home/eva", "home/eva/y", "etc"], &[]), ["/etc", "/home/eva"]);
        assert_eq!(given(&["a", "b/c", "."], &[b"top".to_vec()]), ["/top"]);
        assert_eq!(given(&["a.b", "a"], &[b"x".to_vec(), b"y".to_vec()]), ["/x/y/a", "/x/y/a.b"]);
        assert_eq!((given(&[], &[]), given(&["."], &[])), (vec!["/".to_owned()], vec!["/".to_owned()]));
        let many: Vec<String> = (0..300).map(|n| format!("f{n}")).collect();
        assert_eq!(given(&many.iter().map(String::as_str).collect::<Vec<_>>(), &[]), ["/"]);
    }
}
