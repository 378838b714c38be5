//! What is mounted on this machine, and how each mount does: a mount is asked by the name of a link that no list has.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::mount::point;
use crate::sys::mount as system;

/// The link's name in the root is longer than a name in a snapshot can be, so that it hides nothing.
pub(crate) const NAME: &[u8] = &[b'~'; 300];
/// Inode numbers of what is answered: each is used once, as the kernel keeps targets.
pub(crate) const FIRST: u64 = 7 << 61;
/// A target of a link is shorter than a page.
const LONGEST: usize = 4000;
/// A mount that does not answer for so long is stopped, or its storage is.
const PATIENCE: Duration = Duration::from_secs(2);

/// A tree that is read through FUSE though it was to be an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FuseTree {
    /// Where it is, below the mount point.
    pub tree: String,
    /// Why.
    pub why: String,
}

/// What a mount says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountStatus {
    /// Its process.
    pub pid: u32,
    /// The repository, as it was named.
    pub repository: String,
    /// Why no tree is an image; `None` where they may be.
    pub never: Option<String>,
    /// Trees that were to be images and are not.
    pub through_fuse: Vec<FuseTree>,
    /// So many more of these.
    pub more: u64,
}

impl MountStatus {
    /// As the target of a link.
    pub(crate) fn to_target(&self) -> Vec<u8> {
        let mut shown = self.clone();
        // No more than these could fit.
        let most = LONGEST / 32;
        shown.more += shown.through_fuse.len().saturating_sub(most) as u64;
        shown.through_fuse.truncate(most);
        loop {
            let text = serde_json::to_vec(&shown).unwrap_or_default();
            if text.len() <= LONGEST {
                return text;
            }
            // Without the last tree; and if there is none, without a name of thousands of bytes.
            match shown.through_fuse.pop() {
                Some(_) => shown.more += 1,
                None if shown.repository.is_empty() => return Vec::new(),
                None => shown.repository.clear(),
            }
        }
    }
}

/// How a mount does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountState {
    /// It answers.
    Works(MountStatus),
    /// It works as far as can be told: it does not answer this user, or an image covers its root.
    Silent,
    /// Its process is gone.
    Dead,
}

/// A mount of yester's on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundMount {
    /// Where.
    pub point: PathBuf,
    /// How it does.
    pub state: MountState,
    /// Trees in it that the kernel reads as images.
    pub images: u64,
}

/// The mounts of yester's that this process sees, in the order in which they were made.
pub fn list() -> Result<Vec<FoundMount>> {
    let table = system::table().map_err(|e| Error::io("cannot read /proc/self/mountinfo", e))?;
    let mounts: Vec<&system::Mount> = table.iter().filter(|mount| mount.is_of(point::NAME)).collect();
    // All at once: those that do not answer are waited for together.
    let asked: Vec<MountAsked> = mounts.iter().map(|mount| ask(&mount.point)).collect();
    let until = Instant::now() + PATIENCE;
    let found = mounts.into_iter().zip(asked).map(|(mount, asked)| {
        let below = table.iter().filter(|other| other.point.starts_with(&mount.point));
        let images = below.filter(|other| other.image().is_some()).count() as u64;
        FoundMount { point: mount.point.clone(), state: state(&mount.point, &asked, until), images }
    });
    Ok(found.collect())
}

type MountAsked = Receiver<io::Result<PathBuf>>;

fn state(point: &Path, asked: &MountAsked, until: Instant) -> MountState {
    let Ok(answer) = asked.recv_deadline(until) else { return MountState::Silent };
    let status = answer.ok().and_then(|target| serde_json::from_slice(target.as_os_str().as_bytes()).ok());
    match status {
        Some(status) => MountState::Works(status),
        None if point::is_dead(point) => MountState::Dead,
        None => MountState::Silent,
    }
}

/// Asks in another thread: it is left behind when there is no answer.
fn ask(point: &Path) -> MountAsked {
    let link = point.join(std::ffi::OsStr::from_bytes(NAME));
    let (answer, asked) = crossbeam_channel::bounded(1);
    // Without a thread nobody answers.
    let _ = std::thread::Builder::new().name("mount-ask".to_owned()).spawn(move || answer.send(fs::read_link(link)));
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_fits_into_a_link() {
        let tree = |n: u64| FuseTree { tree: format!("ids/{n:08x}"), why: "it has files with holes".to_owned() };
        let status = MountStatus { through_fuse: (0..1000).map(tree).collect(), ..MountStatus::default() };
        let target = status.to_target();
        let read: MountStatus = serde_json::from_slice(&target).unwrap();
        assert!(target.len() <= LONGEST && read.through_fuse.len() > 20);
        assert_eq!(read.through_fuse.len() as u64 + read.more, 1000);
        let long = MountStatus { repository: "r".repeat(5000), pid: 7, ..MountStatus::default() };
        let read: MountStatus = serde_json::from_slice(&long.to_target()).unwrap();
        assert_eq!((read.pid, read.repository.as_str()), (7, ""));
    }
}
