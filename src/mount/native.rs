//! The kernel's own way to read snapshots: the image of a tree, which the mount serves as one file that nobody sees, is
//! mounted over the tree.
//!
//! ```text
//! MOUNTPOINT              FUSE
//!   ids/4bcf8a01          FUSE, and over it, as soon as there is an image and nobody is in it: EROFS
//!   .yester-image-…-1     FUSE: the image, a file that is read through a loop device
//! ```
//!
//! Images are made behind the mount, which answers from the first moment. A reader that goes through a tree by paths
//! would meet two file systems if it changed meanwhile (`cp -ax` would leave the rest out): a tree is covered only when
//! nobody has asked for anything in it for a while, and no process stands in it or has a file of it open.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Mutex, RwLock};

use crate::error::{Error, ErrorKind, Result};
use crate::model::id::random_bytes;
use crate::model::{SnapshotId, escape};
use crate::mount::point;
use crate::mount::status::{FuseTree, MountStatus};
use crate::sys::{image, mount as system, process};
use crate::vfs::attr::{Attr, Type};
use crate::vfs::follow::ShownTree;
use crate::vfs::image::area::Areas;
use crate::vfs::image::{Losses, Reader};
use crate::vfs::readahead::PageCacheStore;
use crate::vfs::view::View;
use crate::vfs::{MountOptions, Native};

/// The inode number of the first image: below it are those of all snapshots.
pub(crate) const FIRST: u64 = (1 << 62) + (1 << 61);
/// A tree may be covered when nobody has asked for anything in it for this long.
const QUIET: Duration = Duration::from_secs(1);
/// How often that is checked.
const TICK: Duration = Duration::from_millis(200);
/// How often new trees are looked for.
const REST: Duration = Duration::from_secs(5);
/// A tree that could not be read is tried again after this.
const AGAIN: Duration = Duration::from_secs(30);
/// How long a mount that is new waits for the image of the newest snapshot before it says that it answers.
const FIRST_WAIT: Duration = Duration::from_millis(300);
/// Bytes of an inode in an image.
const INODE: u64 = 64;
/// What is given to the kernel at once.
const PIECE: usize = 512 << 10;
/// Metadata that are given unasked, at most.
const GIVEN: u64 = 32 << 20;
/// How far the kernel reads ahead in a file of an image.
const READ_AHEAD: u64 = 512 << 10;

/// Makes the kernel forget a name in the root.
type ForgetName = dyn Fn(&[u8]) + Send + Sync;

/// How the kernel is reached.
pub(crate) struct ToKernel {
    /// Puts bytes into its page cache.
    pub(crate) store: Box<PageCacheStore>,
    /// Makes it forget a name in the root.
    pub(crate) forget: Box<ForgetName>,
}

/// An image that is served as a file.
#[derive(Debug)]
pub(crate) struct ServedImage {
    number: u64,
    reader: Reader,
    /// How often the kernel has looked it up and not forgotten it since.
    lookups: AtomicU64,
}

impl ServedImage {
    /// The attributes of its file.
    pub(crate) fn attr(&self) -> Attr {
        let size = self.reader.image().len();
        Attr {
            ino: self.number,
            kind: Type::File,
            mode: 0o400,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: (0, 0),
            size,
            blocks: size.div_ceil(512),
            mtime: Default::default(),
            lasting: true,
        }
    }

    /// Its bytes.
    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }
}

/// Where a tree stands on the way to being an image.
enum ImageProgress {
    /// It is served as a file.
    Made(Arc<ServedImage>),
    /// It covers its tree.
    Mounted,
    /// It cannot be.
    Refused(String),
    /// It could not be read then.
    Failed(Instant, String),
}

/// All images of a mount.
pub(crate) struct Images {
    view: Arc<View>,
    place: PathBuf,
    wanted: Native,
    without_xattrs: bool,
    exec: bool,
    /// Why there are no images at all.
    never: Option<&'static str>,
    /// What their names begin with. It cannot be guessed, so that it hides no entry of a snapshot.
    name: String,
    areas: Areas,
    memory: u64,
    /// The newest snapshot's image is made though nobody has looked into it: not where that would read much over a slow
    /// line.
    unasked: bool,
    served: RwLock<HashMap<u64, Arc<ServedImage>>>,
    next: AtomicU64,
    progress: Mutex<HashMap<SnapshotId, ImageProgress>>,
    /// Held while something is mounted. Whether the mount has ended.
    ended: Mutex<bool>,
    stop: AtomicBool,
    /// Somebody may be in a tree: it was said that the mount answers.
    announced: AtomicBool,
    wake: (Sender<()>, Receiver<()>),
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Why no tree of a mount with these options can be an image.
fn never(options: &MountOptions) -> Option<&'static str> {
    if options.native == Native::Off {
        return Some("--native off");
    }
    if process::user() != 0 {
        return Some("only root may mount an image");
    }
    if options.scope.is_some() && !options.lets_others_in() {
        return Some("without --allow-other FUSE keeps other users out, and it would be below the image");
    }
    if options.extra.iter().any(|option| option.contains("context=")) {
        return Some("-o context= is of FUSE only");
    }
    if !Path::new("/sys/dev/block").exists() {
        return Some("without /sys nobody can tell which loop device is an image's");
    }
    if Path::new("/sys/fs/selinux/enforce").exists() {
        return Some("SELinux would take the labels in a snapshot for its own");
    }
    None
}

impl Images {
    /// Of a mount at `place` (absolute). None is made yet.
    pub(super) fn new(view: Arc<View>, place: &Path, options: &MountOptions) -> Result<Images> {
        let random: [u8; 16] = random_bytes()?;
        let unasked = options.native == Native::Require || !view.is_far();
        Ok(Images {
            view,
            place: place.to_owned(),
            wanted: options.native,
            without_xattrs: options.without_xattrs,
            exec: !options.extra.iter().any(|option| option == "noexec"),
            never: never(options),
            name: format!("{}{:032x}-", system::IMAGE, u128::from_ne_bytes(random)),
            areas: Areas::memory(options.memory),
            memory: options.memory,
            unasked,
            served: RwLock::default(),
            next: AtomicU64::new(0),
            progress: Mutex::default(),
            ended: Mutex::new(false),
            stop: AtomicBool::new(false),
            announced: AtomicBool::new(false),
            wake: crossbeam_channel::bounded(1),
        })
    }

    /// Begins to make images, and waits a moment for the first. Errors: one is required, and cannot be.
    pub(super) fn start(self: &Arc<Self>, kernel: ToKernel) -> Result<()> {
        if let Some(why) = self.never {
            if self.wanted == Native::Require {
                return Err(Error::new(ErrorKind::Unsupported, format!("--native require: {why}")));
            }
            tracing::debug!("no images: {why}");
            return Ok(());
        }
        let (answer, first) = crossbeam_channel::bounded(1);
        let images = self.clone();
        std::thread::Builder::new()
            .name("mount-native".to_owned())
            .spawn(move || images.run(&kernel, &answer))
            .map_err(|e| Error::io("cannot start a thread", e))?;
        let why = match self.wanted {
            Native::Require => first.recv().map_err(|_| Error::new(ErrorKind::Unsupported, "a thread of the mount ended"))?,
            _ => first.recv_timeout(FIRST_WAIT).ok().flatten(),
        };
        self.announced.store(true, Ordering::Release);
        if self.wanted != Native::Require {
            return Ok(());
        }
        why.map_or(Ok(()), |e| Err(e.context("--native require")))
    }

    /// What this mount says of itself.
    pub(super) fn status(&self, repository: &str) -> MountStatus {
        let progress = self.progress.lock();
        let why = |shown: &ShownTree| match progress.get(&shown.tree.snapshot.id) {
            Some(ImageProgress::Refused(why) | ImageProgress::Failed(_, why)) => Some(why.clone()),
            _ => None,
        };
        let place =
            |shown: &ShownTree| if shown.name.is_empty() { ".".to_owned() } else { format!("ids/{}", escape(&shown.name)) };
        let trees = self.view.trees();
        let through_fuse = trees.iter().filter_map(|shown| Some(FuseTree { tree: place(shown), why: why(shown)? }));
        MountStatus {
            pid: process::id(),
            repository: repository.to_owned(),
            never: self.never.map(str::to_owned),
            through_fuse: through_fuse.collect(),
            more: 0,
        }
    }

    /// The image called `name` in the root, for somebody who may know of it.
    pub(crate) fn lookup(&self, name: &[u8], user: u32) -> Option<Arc<ServedImage>> {
        let number = name.strip_prefix(self.name.as_bytes()).filter(|_| user == 0)?;
        let number: u64 = std::str::from_utf8(number).ok()?.parse().ok()?;
        let image = self.get(FIRST.checked_add(number)?)?;
        image.lookups.fetch_add(1, Ordering::AcqRel);
        Some(image)
    }

    /// The image with this inode number.
    pub(crate) fn get(&self, ino: u64) -> Option<Arc<ServedImage>> {
        if ino < FIRST { None } else { self.served.read().get(&ino).cloned() }
    }

    /// The kernel forgets so many lookups of an inode. What it does not know any more, and nobody is to mount, goes.
    pub(crate) fn forget(&self, ino: u64, count: u64) {
        let Some(image) = self.get(ino) else { return };
        let before = image.lookups.fetch_sub(count, Ordering::AcqRel);
        let wanted = self.progress.lock().values().any(|p| matches!(p, ImageProgress::Made(made) if made.number == ino));
        if before <= count && !wanted {
            self.served.write().remove(&ino);
        }
    }

    fn run(&self, kernel: &ToKernel, first: &Sender<Option<Error>>) {
        let entered = self.view.entered();
        while !self.stop.load(Ordering::Acquire) {
            let (waiting, failed) = self.round(kernel);
            // Nobody waits for the second.
            let _ = first.try_send(failed);
            let wait = if waiting { TICK } else { REST };
            crossbeam_channel::select! {
                recv(entered) -> _ => {}
                recv(self.wake.1) -> _ => {}
                default(wait) => {}
            }
        }
    }

    /// Brings every tree that somebody looked into, and the newest, one step on. Whether there is more to do soon, and
    /// why the newest cannot be an image.
    fn round(&self, kernel: &ToKernel) -> (bool, Option<Error>) {
        let trees = self.view.trees();
        let (mut waiting, mut failed) = (false, None);
        self.tidy(&trees);
        let wanted = |shown: &&ShownTree| shown.newest && self.unasked || shown.tree.asked.quiet_for().is_some();
        for shown in trees.iter().filter(wanted) {
            match self.step(shown, kernel) {
                Ok(done) => waiting |= !done,
                Err(e) => {
                    let refused = e.kind() == ErrorKind::Unsupported;
                    let why = e.to_string();
                    let now = if refused { ImageProgress::Refused(why) } else { ImageProgress::Failed(Instant::now(), why) };
                    let before = self.progress.lock().insert(shown.tree.snapshot.id, now);
                    // Not again each time it is tried.
                    if !matches!(before, Some(ImageProgress::Failed(..))) {
                        let name = format!("ids/{}", escape(&shown.name));
                        self.view.reports().note(name, format!("the kernel reads it through FUSE: {e}"));
                    }
                    failed = failed.or(shown.newest.then_some(e));
                }
            }
        }
        (waiting, failed)
    }

    /// Lets go of what is not shown any more and nobody knows.
    fn tidy(&self, trees: &[ShownTree]) {
        let mut progress = self.progress.lock();
        progress.retain(|id, _| trees.iter().any(|shown| shown.tree.snapshot.id == *id));
        let made = |ino: u64| progress.values().any(|p| matches!(p, ImageProgress::Made(made) if made.number == ino));
        self.served.write().retain(|ino, image| image.lookups.load(Ordering::Acquire) > 0 || made(*ino));
    }

    /// Whether there is nothing more to do soon for a tree.
    fn step(&self, shown: &ShownTree, kernel: &ToKernel) -> Result<bool> {
        let id = shown.tree.snapshot.id;
        let made = match self.progress.lock().get(&id) {
            Some(ImageProgress::Refused(_) | ImageProgress::Mounted) => return Ok(true),
            Some(ImageProgress::Failed(at, _)) if at.elapsed() < AGAIN => return Ok(true),
            Some(ImageProgress::Made(image)) => Some(image.clone()),
            Some(ImageProgress::Failed(..)) | None => None,
        };
        let image = match made {
            Some(image) => image,
            None => self.make(shown)?,
        };
        if self.announced.load(Ordering::Acquire)
            && let Some(since) = shown.tree.asked.quiet_for()
        {
            if since < QUIET {
                return Ok(false);
            }
            // All processes are looked at: not every moment for somebody who stays.
            if process::stand_in(&self.target(shown)) {
                return Ok(true);
            }
        }
        let done = self.cover(shown, &image, kernel)?;
        if done {
            self.progress.lock().insert(id, ImageProgress::Mounted);
            self.view.reports().note(format!("ids/{}", escape(&shown.name)), "the kernel reads it as an image");
            self.give(&image, kernel);
        }
        Ok(true)
    }

    fn make(&self, shown: &ShownTree) -> Result<Arc<ServedImage>> {
        // What is known before anything is read.
        let inodes = shown.tree.snapshot.nodes().saturating_mul(INODE);
        if shown.position == 0 && inodes > self.memory {
            return Err(Error::new(ErrorKind::Unsupported, "its metadata need more memory than an image may have"));
        }
        let reader = self.view.image(shown, self.without_xattrs, &self.areas)?;
        let refuse = |why: &str| Err(Error::new(ErrorKind::Unsupported, why));
        match reader.image().losses() {
            Losses { sparse: 0, flags: 0, attributes: 0, .. } => {}
            Losses { sparse: 0, flags: 0, .. } => return refuse("it has extended attributes that EROFS does not know"),
            Losses { sparse: 0, .. } => return refuse("it has chattr flags, which EROFS does not show"),
            _ => return refuse("it has files with holes, of which EROFS shows a wrong st_blocks"),
        }
        let number = FIRST + self.next.fetch_add(1, Ordering::Relaxed);
        let image = Arc::new(ServedImage { number, reader, lookups: AtomicU64::new(0) });
        self.served.write().insert(number, image.clone());
        self.progress.lock().insert(shown.tree.snapshot.id, ImageProgress::Made(image.clone()));
        Ok(image)
    }

    /// Where a tree is.
    fn target(&self, shown: &ShownTree) -> PathBuf {
        match shown.name.as_slice() {
            b"" => self.place.clone(),
            name => self.place.join("ids").join(std::ffi::OsStr::from_bytes(name)),
        }
    }

    /// Mounts an image over its tree; false when the mount has ended.
    fn cover(&self, shown: &ShownTree, image: &ServedImage, kernel: &ToKernel) -> Result<bool> {
        let name = format!("{}{}", self.name, image.number - FIRST);
        let ended = self.ended.lock();
        if *ended {
            return Ok(false);
        }
        let mounted = image::mount(&self.place.join(&name), &self.target(shown), self.exec);
        (kernel.forget)(name.as_bytes());
        let minor = mounted.map_err(|e| {
            Error::io("the kernel does not mount an image through a loop device", e).with_kind(ErrorKind::Unsupported)
        })?;
        drop(ended);
        if let Err(e) = system::set_read_ahead(system::loop_device(minor), READ_AHEAD) {
            tracing::debug!("the kernel reads ahead in images as far as it does everywhere: {e}");
        }
        Ok(true)
    }

    /// Gives the metadata to the kernel's cache, where it would ask for one page after the other.
    fn give(&self, image: &ServedImage, kernel: &ToKernel) {
        let (end, mut bytes) = (image.reader.image().data().min(GIVEN), vec![0; PIECE]);
        for at in (0..end).step_by(PIECE) {
            let piece = &mut bytes[..(end - at).min(PIECE as u64) as usize];
            if image.reader.metadata(at, piece).is_err() || (kernel.store)(image.number, at, piece).is_err() {
                return;
            }
        }
    }

    /// Takes all images away again, also from under those who use them. None is mounted afterwards.
    pub(crate) fn end(&self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.wake.0.try_send(());
        if self.never.is_some() {
            return;
        }
        *self.ended.lock() = true;
        point::remove_images(&self.place, true);
    }
}
