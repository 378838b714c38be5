//! A cluster whose members are processes with directories and configurations of their own, and a writer that counts in all
//! of them.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::program::{Run, World, shown};

/// Hooks as a database has them: what is frozen cannot be written to.
const HOOKS: &str = r#"
[sets.store.hooks]
before = "BEFORE"
freeze = "flock DIR/lock touch DIR/frozen; FREEZE"
thaw = "rm -f DIR/frozen; echo thawed >> DIR/log; THAW"
"#;

/// Members by name, and one repository.
pub struct Cluster {
    pub world: World,
    pub members: Vec<&'static str>,
    /// Where each member reaches the repository.
    locations: Vec<String>,
    /// More of the repository's configuration.
    access: String,
}

impl Cluster {
    /// With a repository in a directory.
    pub fn new(members: &[&'static str]) -> Cluster {
        let world = World::new();
        world.repository();
        let locations = vec![shown(&world.at("repo")); members.len()];
        let cluster = Cluster { world, members: members.to_vec(), locations, access: String::new() };
        members.iter().for_each(|member| cluster.write(member, &[]));
        cluster
    }

    /// The same repository, reached otherwise.
    pub fn reached(&mut self, locations: Vec<String>, access: &str) {
        (self.locations, self.access) = (locations, access.to_owned());
        self.members.iter().for_each(|member| self.write(member, &[]));
    }

    /// A member's directory.
    pub fn dir(&self, member: &str) -> PathBuf {
        self.world.at(member)
    }

    /// Writes a member's configuration, with these words of it replaced.
    pub fn write(&self, member: &str, replaced: &[(&str, &str)]) {
        let dir = shown(&self.dir(member));
        let mut hooks = HOOKS.to_owned();
        for (from, to) in replaced.iter().chain(&[("BEFORE", ":"), ("FREEZE", ":"), ("THAW", ":"), ("[[STREAM]]", "")]) {
            hooks = hooks.replace(from, to);
        }
        let stream = replaced.iter().find(|(from, _)| *from == "STREAM").map(|(_, command)| {
            format!("[[sets.store.streams]]\nat = \"/dump\"\ncommand = [\"sh\", \"-c\", \"{command}\"]\nallow-empty = true\n")
        });
        let key = shown(&self.world.at("key"));
        let text = format!(
            "[repository]\nlocation = \"{}\"\nkey-file = \"{key}\"\n{}\n[sets.store]\nhost = \"{member}\"\npaths = \
             [\"DIR/data\"]\n{}{hooks}",
            self.locations[self.members.iter().position(|other| other == &member).unwrap()],
            self.access,
            stream.unwrap_or_default()
        );
        self.world.file(&format!("{member}/config.toml"), text.replace("DIR", &dir));
        if !self.dir(member).join("data").exists() {
            self.world.file(&format!("{member}/data/counter"), "0");
            self.world.file(&format!("{member}/lock"), "");
        }
    }

    /// A command on the machine of a member.
    pub fn command(&self, member: &str, args: &[&str]) -> Command {
        let config = shown(&self.dir(member).join("config.toml"));
        let mut command = self.world.command(&[&["--config", &config], args].concat());
        command.env("HOME", self.dir(member));
        command
    }

    /// Runs one to its end.
    pub fn on(&self, member: &str, args: &[&str]) -> Run {
        crate::common::program::finish(&mut self.command(member, args))
    }

    /// Opens a group of all members; answers its id.
    pub fn create(&self, options: &[&str]) -> String {
        let members = self.members.join(",");
        let args = [&["-q", "group", "create", "--set", "store", "--members", &members], options].concat();
        self.on(self.members[0], &args).ok().text().trim().to_owned()
    }

    /// A member begins to take part.
    pub fn join(&self, member: &str, id: &str) -> Taking {
        let mut command = self.command(member, &["ingest", "--set", "store", "--group", id]);
        Taking(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    /// All take part, to their ends.
    pub fn all(&self, id: &str) -> Vec<Run> {
        let taking: Vec<Taking> = self.members.iter().map(|member| self.join(member, id)).collect();
        taking.into_iter().map(Taking::end).collect()
    }

    pub fn status(&self, id: &str) -> Value {
        self.on(self.members[0], &["--json", "group", "status", id]).ok().json().pop().unwrap()
    }

    /// The state of the group, and those of its members.
    pub fn states(&self, id: &str) -> Vec<String> {
        let status = self.status(id);
        let members = status["members"].as_array().unwrap().iter().map(|member| &member["state"]);
        std::iter::once(&status["state"]).chain(members).map(|state| state.as_str().unwrap().to_owned()).collect()
    }

    /// Waits until a step was said.
    pub fn until_said(&self, id: &str, step: &str) {
        let path = self.world.at(&format!("repo/groups/{id}.{step}"));
        until(|| path.exists(), &format!("{step} is said"));
    }

    /// Waits until nothing stands still any more.
    pub fn until_thawed(&self) {
        until(|| self.members.iter().all(|m| !self.dir(m).join("frozen").exists()), "all go on");
    }

    /// The counters in the snapshots of a group.
    pub fn counters(&self, id: &str) -> Vec<u64> {
        let status = self.status(id);
        let of = |(at, member): (usize, &&str)| {
            let snapshot = status["members"][at]["snapshot_id"].as_str().unwrap();
            let spec = format!("{snapshot}:{}/data/counter", shown(&self.dir(member)));
            self.on(self.members[0], &["cat", &spec]).ok().text().parse().unwrap()
        };
        self.members.iter().enumerate().map(of).collect()
    }

    /// Begins to count.
    pub fn writer(&self) -> Writer {
        let dirs: Vec<PathBuf> = self.members.iter().map(|member| self.dir(member)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut count = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                count += 1;
                dirs.iter().for_each(|dir| write_counter(dir, count, &stopped));
            }
            count
        });
        Writer { stop, thread: Some(thread) }
    }
}

/// Writes the counter of a member, as soon as that may be written to.
fn write_counter(dir: &std::path::Path, count: u64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let lock = File::open(dir.join("lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        if !dir.join("frozen").exists() {
            // As a database would: not one half of it.
            fs::write(dir.join("counter.new"), count.to_string()).unwrap();
            fs::rename(dir.join("counter.new"), dir.join("data/counter")).unwrap();
            return;
        }
        drop(lock);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Counts in every member, one after the other.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Writer {
    /// Ends it; answers how far it counted.
    pub fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A member that takes part.
pub struct Taking(Option<Child>);

impl Taking {
    pub fn end(mut self) -> Run {
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        Run { code: output.status.code(), out: output.stdout, err: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.0.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for a condition.
pub fn until(condition: impl Fn() -> bool, what: &str) {
    for _ in 0..30_000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited in vain until {what}");
}
