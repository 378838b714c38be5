//! The system call that mounts, for root: `fuser` would make the type `fuse`, and not `fuse.yester`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fuser::{Config, Filesystem, MountOption, Session, SessionACL};

use crate::mount::point::{self, NAME};
use crate::sys::{mount as system, process};

/// Begins a session that is mounted at `place` (absolute): as `fuser` does it where the system call is refused.
pub(super) fn begin<FS: Filesystem>(adapter: FS, place: &Path, config: &Config) -> io::Result<Session<FS>> {
    let Some(connection) = connection(place, config)? else { return Session::new(adapter, place, config) };
    Session::from_fd(adapter, connection, config.acl, config.clone()).inspect_err(|_| {
        // It is dead; it may be gone.
        let _ = point::detach(place, true);
    })
}

/// A connection that is mounted at `place`; `None` for those who are not root, and where root may not either.
fn connection(place: &Path, config: &Config) -> io::Result<Option<OwnedFd>> {
    if process::user() != 0 {
        return Ok(None);
    }
    let mut options = format!("rootmode={:o},user_id=0,group_id=0", std::fs::metadata(place)?.mode());
    let mut flags = system::FuseFlags::default();
    for option in &config.mount_options {
        match option {
            MountOption::DefaultPermissions => options.push_str(",default_permissions"),
            MountOption::CUSTOM(text) => {
                options.push(',');
                options.push_str(text);
            }
            MountOption::NoExec => flags.noexec = true,
            MountOption::Sync => flags.sync = true,
            MountOption::DirSync => flags.dirsync = true,
            // Always so, the default, or said by the type.
            _ => {}
        }
    }
    if config.acl == SessionACL::All {
        options.push_str(",allow_other");
    }
    match system::mount_fuse(NAME, place, &options, flags) {
        Ok(connection) => Ok(Some(connection)),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(e) => Err(e),
    }
}
