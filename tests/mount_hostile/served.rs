//! Mounts that a process of their own serves, as users have them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use yester::chunk::keys::Credential;
use yester::repo::Repository;
use yester::storage::directory::DirectoryStorage;

use crate::common::program::{World, shown, with};

/// A mount of a repository, by `yester mount`.
pub struct Served<'a> {
    pub world: &'a World,
    pub point: PathBuf,
    /// The process that serves it.
    pub pid: u32,
}

impl<'a> Served<'a> {
    /// `args` come before the mount point, which is `point` below the home directory.
    pub fn new(world: &'a World, options: &[String], args: &[&str]) -> Served<'a> {
        let point = world.at("point");
        fs::create_dir_all(&point).unwrap();
        let mut line = with(options, &[&["mount", "--json"][..], args].concat());
        line.push(shown(&point));
        let said = world.run(&line).ok().json();
        let pid = said[0]["pid"].as_u64().unwrap() as u32;
        Served { world, point, pid }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.point.join(below)
    }

    /// Leaves the mount to somebody else.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    /// A line of `/proc/…/status`, in kibibytes.
    pub fn memory(&self, what: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        if self.world.run(&["umount", &shown(&self.point)]).code != Some(0) {
            rustix::process::Pid::from_raw(self.pid as i32)
                .map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
            self.world.run(&["umount", &shown(&self.point)]);
        }
    }
}

/// The repository that `World::repository` made.
pub fn open(world: &World) -> Arc<Repository> {
    let key = fs::read_to_string(world.at("key")).unwrap();
    let key = Credential::KeyFile(yester::model::id::from_hex(key.trim()).unwrap());
    Arc::new(Repository::open(Arc::new(DirectoryStorage::open(&world.at("repo")).unwrap()), &key).unwrap())
}

/// Whether a process is there and has not ended.
pub fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}
