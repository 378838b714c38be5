//! `ls`: what a directory of a snapshot holds.

use std::ffi::OsString;

use clap::Args;
use serde::Serialize;
use yester::Result;
use yester::model::{Directory, Kind, LeftOut, Node, Owners};
use yester::repo::tree::{Entry, TreeReader};

use crate::cli::context::{self, Context};
use crate::cli::given::select::{Chooser, Filters, Spec};
use crate::cli::gone;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::{JsonPath, Output, exact, lossy, note};
use crate::cli::say::{parts, units};

/// List a directory of a snapshot
///
/// Lists the names in a directory, or one file; with -R the paths of all that is below it.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Which snapshot, and which directory or file in it
    #[arg(value_name = "SNAP[:PATH]")]
    spec: OsString,
    /// Show mode, owner, size and time too
    #[arg(short)]
    long: bool,
    /// List everything below, with whole paths
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    filters: Filters,
}

/// How entries are shown.
struct LsPrinter<'a> {
    out: Output,
    json: bool,
    long: bool,
    whole_paths: bool,
    owners: &'a Owners,
}

/// Lists.
pub fn run(context: &Context, args: &LsArgs) -> Result<Outcome> {
    let spec = Spec::parse(&args.spec)?;
    let repo = context.open()?;
    gone::warn(context, &repo)?;
    let chooser = Chooser::new(context, &repo, &args.filters)?;
    let reader = context::trees(&repo)?;
    let snapshot = chooser.with_path(&reader, &spec)?;
    let names = spec.names();
    let (node, _) = reader.walk_to(&snapshot.root, &names)?;
    let mut path: Vec<u8> = names.iter().flat_map(|name| [b"/", *name].concat()).collect();
    let json = context.global.json;
    let whole_paths = args.recursive || node.directory().is_none();
    let mut listing = LsPrinter { out: Output::new(), json, long: args.long, whole_paths, owners: &snapshot.owners };
    match node.directory() {
        Some(directory) => walk(&reader, *directory, &mut path, args.recursive, &mut listing)?,
        None => listing.show(&path, &node)?,
    }
    listing.out.finish()?;
    if !context.global.quiet && !json {
        parts::notes(snapshot).iter().for_each(|line| note(&format!("yester: note: {line}")));
    }
    Ok(Outcome::Done)
}

/// Shows the entries of `directory`, whose path is `path`, in the order of their names; with `deep` also what is below
/// them. In memory is one entry a level.
fn walk(reader: &TreeReader, directory: Directory, path: &mut Vec<u8>, deep: bool, listing: &mut LsPrinter<'_>) -> Result<()> {
    let first = |directory: &Directory| reader.entry_number(directory, 0);
    let mut levels: Vec<(Directory, Option<Entry>, usize)> = vec![(directory, first(&directory)?, path.len())];
    while let Some((directory, next, parent_len)) = levels.last_mut() {
        path.truncate(*parent_len);
        let Some(entry) = next.take() else {
            levels.pop();
            continue;
        };
        *next = reader.next(directory, &entry)?;
        path.push(b'/');
        path.extend_from_slice(&entry.node().name);
        listing.show(path, entry.node())?;
        if let Some(below) = entry.node().directory().filter(|_| deep) {
            levels.push((*below, first(below)?, path.len()));
        }
    }
    Ok(())
}

impl LsPrinter<'_> {
    fn show(&mut self, path: &[u8], node: &Node) -> Result<()> {
        if self.json {
            return self.out.json(&json(path, node, self.owners));
        }
        if self.long {
            let line = long(node, self.owners);
            self.out.bytes(line.as_bytes())?;
        }
        let name = if self.whole_paths { path } else { &node.name };
        let shown = self.out.name(name).into_owned();
        self.out.bytes(&shown)?;
        if let (true, Kind::Symlink(target)) = (self.long, &node.kind) {
            self.out.bytes(b" -> ")?;
            let shown = self.out.name(target).into_owned();
            self.out.bytes(&shown)?;
        }
        if let (true, Some(text)) = (self.long, left_out(node.left_out)) {
            self.out.bytes(text.as_bytes())?;
        }
        self.out.bytes(b"\n")
    }
}

/// What stands behind the name in `ls -l` where not all of an entry is in the snapshot.
fn left_out(bits: LeftOut) -> Option<String> {
    let parts = [
        (LeftOut::UNREAD, "not read whole"),
        (LeftOut::LOST, "entries could not be stored"),
        (LeftOut::MOUNTED, "a file system that is mounted here was left out"),
        (LeftOut::MARKED, "its content was excluded"),
        (LeftOut::EXCLUDED, "some entries were excluded"),
        (LeftOut::ATTRIBUTES, "its extended attributes could not be stored"),
    ];
    let parts: Vec<&str> = parts.iter().filter(|(bit, _)| bits.has(*bit)).map(|(_, text)| *text).collect();
    let first = if bits.has(LeftOut(LeftOut::UNREAD.0 | LeftOut::LOST.0 | LeftOut::ATTRIBUTES.0)) { "incomplete: " } else { "" };
    (!parts.is_empty()).then(|| format!("  ({first}{})", parts.join(", ")))
}

/// What stands before the name in `ls -l`.
fn long(node: &Node, owners: &Owners) -> String {
    let owner = |list: &[(u32, Vec<u8>)], id| owner_name(list, id).map_or_else(|| id.to_string(), yester::model::escape);
    let size = match node.kind {
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => format!("{major}, {minor}"),
        _ => node.size().to_string(),
    };
    let (user, group) = (owner(&owners.users, node.meta.uid), owner(&owners.groups, node.meta.gid));
    format!("{} {user:<8} {group:<8} {size:>12} {} ", mode(node), units::local_time(node.meta.mtime))
}

fn owner_name(list: &[(u32, Vec<u8>)], id: u32) -> Option<&[u8]> {
    let at = list.binary_search_by_key(&id, |(n, _)| *n).ok()?;
    list.get(at).map(|(_, name)| name.as_slice())
}

fn letter(kind: &Kind) -> char {
    match kind {
        Kind::File(_) => '-',
        Kind::Directory(_) => 'd',
        Kind::Symlink(_) => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDevice(..) => 'c',
        Kind::BlockDevice(..) => 'b',
    }
}

/// `drwxr-sr-t` and the like.
fn mode(node: &Node) -> String {
    let bits = node.meta.mode;
    let mut out = String::from(letter(&node.kind));
    for (shift, special, set, set_only) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bit = |bit: u16, c| if bits >> shift & bit != 0 { c } else { '-' };
        let execute = match (bits & special != 0, bits >> shift & 1 != 0) {
            (true, true) => set,
            (true, false) => set_only,
            (false, true) => 'x',
            (false, false) => '-',
        };
        out.extend([bit(4, 'r'), bit(2, 'w'), execute]);
    }
    out
}

#[derive(Serialize)]
struct JsonNode {
    message_type: &'static str,
    #[serde(flatten)]
    path: JsonPath,
    r#type: &'static str,
    size: u64,
    mode: u16,
    permissions: String,
    mtime: String,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linktarget: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linktarget_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hard_link_group: Option<String>,
    given: bool,
    changed_while_read: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<&'static str>,
}

/// The kind of an entry, as `--json` has it.
pub fn type_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::File(_) => "file",
        Kind::Directory(_) => "dir",
        Kind::Symlink(_) => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice(..) => "chardev",
        Kind::BlockDevice(..) => "dev",
    }
}

fn json(path: &[u8], node: &Node, owners: &Owners) -> JsonNode {
    let (target, device) = match &node.kind {
        Kind::Symlink(target) => (Some(target), None),
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => (None, Some((*major, *minor))),
        _ => (None, None),
    };
    JsonNode {
        message_type: "node",
        path: JsonPath::new(if path.is_empty() { b"/" } else { path }),
        r#type: type_name(&node.kind),
        size: node.size(),
        mode: node.meta.mode,
        permissions: mode(node),
        mtime: units::utc_time(node.meta.mtime),
        uid: node.meta.uid,
        gid: node.meta.gid,
        user: owner_name(&owners.users, node.meta.uid).map(lossy),
        group: owner_name(&owners.groups, node.meta.gid).map(lossy),
        linktarget: target.map(|t| lossy(t)),
        linktarget_b64: target.and_then(|t| exact(t)),
        device,
        hard_link_group: node.link.map(|group| group.to_string()),
        given: node.given,
        changed_while_read: node.changed,
        left_out: node.left_out.names(),
    }
}

#[cfg(test)]
mod tests {
    use yester::model::Metadata;

    use super::*;

    #[test]
    fn modes_are_those_of_ls() {
        let shown = |bits, kind| {
            let meta = Metadata { mode: bits, ..Metadata::default() };
            mode(&Node { name: b"n".to_vec(), meta, kind, link: None, given: true, changed: false, left_out: Default::default() })
        };
        assert_eq!(shown(0o755, Kind::Directory(Directory::default())), "drwxr-xr-x");
        assert_eq!(shown(0o7777, Kind::Fifo), "prwsrwsrwt");
        assert_eq!(shown(0o7000, Kind::Socket), "s--S--S--T");
        assert_eq!(shown(0o640, Kind::CharDevice(1, 3)), "crw-r-----");
    }
}
