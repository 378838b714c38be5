//! Snapshots as a file system, without a kernel: lookup, attributes, listing and reading on plain types.
//!
//! | file | what it is |
//! |---|---|
//! | `view` | the file system: each request of a kernel is a method |
//! | `view/versions` | the versions of a name, in the directories `.versions` |
//! | `attr`, `stat` | what it answers, and how nodes are shown |
//! | `inode`, `below` | inode numbers, and the way from a number to a node |
//! | `root`, `names`, `list`, `follow` | the made-up directories, the list of snapshots behind them, and following it |
//! | `templates` | further directories of links, by templates of the user |
//! | `image` | a tree as an image of EROFS, the file system of Linux |
//! | `readahead` | decoding ahead of readers, and giving the kernel what they will want |
//!
//! The semantics are in `docs/mount.md`.

use crate::repo::snapshots::SnapshotFilter;
use std::path::PathBuf;

use crossbeam_channel::Receiver;

pub mod attr;
pub(crate) mod below;
pub(crate) mod follow;
pub mod image;
pub(crate) mod inode;
mod list;
pub(crate) mod names;
pub(crate) mod readahead;
pub mod root;
mod stat;
pub mod templates;
pub(crate) mod view;

pub use view::View;

use templates::LinkTemplates;

/// Whether the kernel reads a snapshot as an image of EROFS, which the mount serves, in the place of asking for every
/// entry through FUSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Native {
    /// Where it can be.
    Auto,
    /// Never.
    #[default]
    Off,
    /// It is an error where it cannot be.
    Require,
}

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// A snapshot's name (see [`crate::repo::snapshots::find`]) and the absolute path of a directory in it: what is at
    /// the root. `None`: the whole repository.
    pub scope: Option<(String, Vec<u8>)>,
    /// Which snapshots are shown, and among which `latest` is the newest.
    pub filter: SnapshotFilter,
    /// Further directories of links in the root, and how times are written there.
    pub templates: LinkTemplates,
    /// Lets other users in; the modes, owners and ACLs that the mount shows decide what they may read.
    pub allow_other: bool,
    /// Shows everything as root's.
    pub owner_root: bool,
    /// Shows no extended attributes and no ACLs: the kernel then answers for them, and does not ask for those of every
    /// file that is copied.
    pub without_xattrs: bool,
    /// What the repository is called, for who asks what is mounted.
    pub repository: String,
    /// Whether a snapshot that is mounted alone is read by the kernel itself.
    pub native: Native,
    /// What comes here has everything about the snapshots read again, as far as it can change: new ones, tags, what was
    /// damaged.
    pub list_again: Option<Receiver<()>>,
    /// Bytes of decoded data and trees that are kept in memory.
    pub memory: u64,
    /// Further mount options, each as in `-o`.
    pub extra: Vec<String>,
    /// Local directories that the mount must neither be in nor contain: the repository itself, the cache.
    pub avoid: Vec<PathBuf>,
}

impl MountOptions {
    /// Whether other users get in.
    pub(crate) fn lets_others_in(&self) -> bool {
        self.allow_other || self.extra.iter().any(|option| option == "allow_other")
    }
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            scope: None,
            filter: SnapshotFilter::default(),
            templates: LinkTemplates::default(),
            allow_other: false,
            owner_root: false,
            without_xattrs: false,
            repository: String::new(),
            native: Native::Off,
            list_again: None,
            memory: 66 << 20,
            extra: Vec::new(),
            avoid: Vec::new(),
        }
    }
}
