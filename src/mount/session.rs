//! Mounting, serving, unmounting.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, SessionACL};

use crate::error::{Error, ErrorKind, Result};
use crate::mount::fuse::Adapter;
use crate::mount::native::{Images, ToKernel};
use crate::mount::{kernel, point};
use crate::observe::Reports;
use crate::repo::Repository;
use crate::sys::mount as system;
use crate::vfs::MountOptions;
use crate::vfs::root::Invalidation;
use crate::vfs::view::View;

/// How long a mount that was asked to end goes on for those who still use it.
const GRACE: Duration = Duration::from_secs(5);
/// How far the kernel reads ahead of who goes through a file; a fault of mapped memory reads as much around it.
const READ_AHEAD: u64 = 512 << 10;

/// Ends a mount from outside: from a thread that waits for signals.
#[derive(Debug, Clone)]
pub struct Shutdown {
    send: Sender<()>,
    wait: Receiver<()>,
}

impl Default for Shutdown {
    fn default() -> Self {
        let (send, wait) = crossbeam_channel::bounded(1);
        Shutdown { send, wait }
    }
}

impl Shutdown {
    /// A handle that ends nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Unmounts; at once if nobody uses the mount, else it vanishes from the tree and its users have five seconds.
    /// Asking a second time does not wait for them.
    pub fn trigger(&self) {
        // Full: it was asked for already.
        let _ = self.send.try_send(());
    }
}

/// Mounts `repo` on `mountpoint` and serves it until it is unmounted or `shutdown` is triggered. `ready` is called
/// once the mount answers. Errors: the mount point cannot be used, the system has no FUSE, the snapshot is not there.
pub fn mount(
    repo: &Arc<Repository>,
    options: &MountOptions,
    mountpoint: &Path,
    shutdown: &Shutdown,
    ready: impl FnOnce() + Send,
) -> Result<()> {
    point::check_system()?;
    let place = point::prepare(mountpoint, &options.avoid)?;
    let config = configuration(options)?;
    let view = Arc::new(View::open(repo, options)?);
    let changes = view.changes();
    let failed = |e: std::io::Error| failure(&place, &e);
    let images = Arc::new(Images::new(view.clone(), &place, options)?);
    let adapter = Adapter::new(view.clone(), images.clone(), config.n_threads.unwrap_or(1), options.repository.clone());
    let session = kernel::begin(adapter, &place, &config).map_err(failed)?;
    // A mount that nobody serves is not left behind.
    let undone = |e: Error| {
        let _ = point::detach(&place, true);
        e
    };
    let (notifier, pusher) = (session.notifier(), session.notifier());
    let (to_images, of_names) = (session.notifier(), session.notifier());
    view.connect(Box::new(move |ino, offset, content| pusher.store(INodeNo(ino), offset, content)));
    if let Some(again) = options.list_again.clone() {
        let view = Arc::downgrade(&view);
        start("mount-again", move || again.iter().map_while(|()| view.upgrade()).for_each(|view| view.refresh_anew()))
            .map_err(undone)?;
    }
    drop(view);
    start("mount-notify", move || notify(&changes, &notifier)).map_err(undone)?;
    let serving = without_unmounting(session.spawn().map_err(|e| undone(failed(e)))?);
    let (done, ended) = crossbeam_channel::bounded(1);
    let broken = |_| Err(std::io::Error::other("a thread of the session ended"));
    start("mount-serve", move || drop(done.send(serving.join().unwrap_or_else(broken)))).map_err(undone)?;
    match std::fs::metadata(&place) {
        Ok(root) => {
            // Only root may; without, what is given unasked (`vfs/readahead`) does most of it.
            if let Err(e) = system::set_read_ahead(root.dev(), READ_AHEAD) {
                tracing::debug!("the kernel reads ahead as far as it does everywhere: {e}");
            }
        }
        Err(e) => {
            let _ = point::detach(&place, true);
            return Err(Error::io(format!("the mount at {} does not answer", mountpoint.display()), e));
        }
    }
    let forget = move |name: &[u8]| drop(of_names.inval_entry(INodeNo::ROOT, std::ffi::OsStr::from_bytes(name)));
    let store = move |ino, offset, content: &[u8]| to_images.store(INodeNo(ino), offset, content);
    if let Err(e) = images.start(ToKernel { store: Box::new(store), forget: Box::new(forget) }) {
        let _ = point::detach(&place, true);
        return Err(e);
    }
    ready();
    serve(&place, &images, (&ended, shutdown), repo.reports())
}

/// The thread of a session, which unmounts nothing when it ends. By itself fuser 0.18 takes away whatever is mounted at
/// the place by then, even if that is the next mount there (<https://github.com/cberner/fuser/pull/703>).
fn without_unmounting(mut session: BackgroundSession) -> JoinHandle<std::io::Result<()>> {
    let thread = std::mem::replace(&mut session.guard, std::thread::spawn(|| Ok(())));
    // This keeps one descriptor of a connection that is gone, until the process ends.
    std::mem::forget(session);
    thread
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map(drop).map_err(|e| Error::io("cannot start a thread", e))
}

/// Waits for the end of the session, from inside or outside.
fn serve(
    place: &Path,
    images: &Images,
    (ended, shutdown): (&Receiver<std::io::Result<()>>, &Shutdown),
    reports: &Reports,
) -> Result<()> {
    let outcome = |result: std::io::Result<()>| {
        images.end();
        // After an aborted connection the mount is still there; after a session that failed, too.
        point::clear(place, result.is_err())?;
        result.map_err(|e| Error::io("the mount broke off", e))
    };
    crossbeam_channel::select! {
        recv(ended) -> result => return outcome(result.unwrap_or(Ok(()))),
        recv(shutdown.wait) -> _ => {}
    }
    images.end();
    match point::detach(place, false) {
        Err(e) if e.kind() == ErrorKind::Busy => {
            let next = format!("it is taken out of the tree and ends in {} seconds", GRACE.as_secs());
            reports.warn("", format!("{e}; {next}"));
            point::detach(place, true)?;
        }
        other => other?,
    }
    crossbeam_channel::select! {
        recv(ended) -> result => outcome(result.unwrap_or(Ok(()))),
        // When this process ends, the kernel answers what is still open with errors.
        recv(shutdown.wait) -> _ => Ok(()),
        recv(crossbeam_channel::at(Instant::now() + GRACE)) -> _ => Ok(()),
    }
}

/// Tells the kernel what it must forget. Holds nothing that a request could wait for: the kernel may ask while it
/// forgets.
fn notify(changes: &Receiver<Invalidation>, notifier: &Notifier) {
    for change in changes {
        let told = match &change {
            Invalidation::Entry { parent, name } => {
                notifier.inval_entry(INodeNo(*parent), std::os::unix::ffi::OsStrExt::from_bytes(name.as_slice()))
            }
            Invalidation::Directory(ino) => notifier.inval_inode(INodeNo(*ino), 0, 0),
        };
        if let Err(e) = told {
            // The kernel keeps made-up entries for a second only: they will be right soon.
            tracing::debug!("the kernel was not told of {change:?}: {e}");
        }
    }
}

fn failure(place: &Path, e: &std::io::Error) -> Error {
    let text = e.to_string();
    let name = place.display();
    if text.contains("user_allow_other") {
        let text = format!("cannot mount on {name}: --allow-other needs the line user_allow_other in /etc/fuse.conf");
        return Error::new(ErrorKind::Unsupported, text);
    }
    Error::new(ErrorKind::Io, format!("cannot mount on {name}: {}", text.trim()))
}

/// What the kernel and fusermount3 are told.
fn configuration(options: &MountOptions) -> Result<Config> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(point::NAME.to_owned()),
        MountOption::Subtype(point::NAME.to_owned()),
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    for option in &options.extra {
        match option.as_str() {
            "allow_other" => config.acl = SessionACL::All,
            other => config.mount_options.extend(extra(other)?),
        }
    }
    let cores = crate::sys::process::cores();
    // As many as can be at work, one that waits for the storage, and one that takes the next request.
    config.n_threads = Some(cores.clamp(2, 16) + 2);
    config.clone_fd = true;
    Ok(config)
}

/// One option of `-o`.
fn extra(option: &str) -> Result<Option<MountOption>> {
    Ok(Some(match option {
        "ro" | "nosuid" | "nodev" | "noatime" | "default_permissions" | "defaults" => return Ok(None),
        // For mount(8) and systemd, which pass them on; and what a mount of files that never change has anyway.
        "auto" | "noauto" | "nofail" | "_netdev" | "user" | "users" | "nouser" | "owner" | "group" | "relatime"
        | "norelatime" | "strictatime" | "nostrictatime" | "lazytime" | "nolazytime" => return Ok(None),
        other if ["x-", "X-", "comment=", "fsname=", "subtype="].iter().any(|begin| other.starts_with(begin)) => return Ok(None),
        "exec" => MountOption::Exec,
        "noexec" => MountOption::NoExec,
        "sync" => MountOption::Sync,
        "async" => MountOption::Async,
        "dirsync" => MountOption::DirSync,
        "rw" | "suid" | "dev" | "auto_unmount" => {
            return Err(Error::invalid(format!("-o {option}: a yester mount is always ro,nosuid,nodev and unmounts itself")));
        }
        other => {
            let name = other.split('=').next().unwrap_or_default();
            if !["max_read", "context", "fscontext", "defcontext", "rootcontext"].contains(&name) || other.contains([',', '\0']) {
                let known = "exec, noexec, sync, async, dirsync, allow_other, max_read=, context=";
                return Err(Error::invalid(format!("-o {}: not an option of a mount ({known})", option.escape_default())));
            }
            MountOption::CUSTOM(other.to_owned())
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_options_are_judged() {
        assert!(matches!(extra("noexec"), Ok(Some(MountOption::NoExec))));
        for nothing in ["ro", "nofail", "_netdev", "noauto", "x-systemd.automount", "relatime", "fsname=x"] {
            assert!(matches!(extra(nothing), Ok(None)), "{nothing}");
        }
        for bad in ["rw", "suid", "dev", "fd=3", "max_read=1,user_id=0", ""] {
            assert!(extra(bad).is_err(), "{bad}");
        }
    }
}
