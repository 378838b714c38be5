//! This process and its host: their identities, and whether another process is still alive.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{self, Resource, Rlimit};
use serde::{Deserialize, Serialize};

/// Cores that this process may use; 2 where the system does not say.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// The host's name.
pub fn host_name() -> Vec<u8> {
    rustix::system::uname().nodename().to_bytes().to_vec()
}

/// Changes with every boot; empty where the kernel does not say.
pub(crate) fn boot_id() -> Vec<u8> {
    fs::read("/proc/sys/kernel/random/boot_id").map(|id| id.trim_ascii().to_vec()).unwrap_or_default()
}

/// This process.
pub fn id() -> u32 {
    std::process::id()
}

/// When process `pid` started, in clock ticks after boot; `None` when there is no such process. With the boot id it
/// names a process for ever, where the number alone is used again.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The command, field 2, is in parentheses and may hold anything; field 22 is the 20th after it.
    let end = stat.iter().rposition(|&b| b == b')')?;
    let mut fields = stat.get(end + 2..)?.split(|&b| b == b' ');
    // Killed and not yet buried (zombie), or being buried: it does nothing any more.
    if matches!(fields.next()?, b"Z" | b"X") {
        return None;
    }
    std::str::from_utf8(fields.nth(18)?).ok()?.parse().ok()
}

/// What stays of a machine when it is renamed: a hash of its machine id; empty where it has none.
pub(crate) fn machine_id() -> Vec<u8> {
    let files = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
    let id = files.iter().filter_map(|file| fs::read(file).ok()).find(|id| !id.trim_ascii().is_empty());
    let hash =
        |id: Vec<u8>| blake3::hash(&[b"the machine of a writer of yester ", id.trim_ascii()].concat()).as_bytes()[..16].to_vec();
    id.map(hash).unwrap_or_default()
}

/// The namespace that process numbers of this process are of; 0 where the kernel does not say.
pub(crate) fn namespace() -> u64 {
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let number = link.to_str().and_then(|text| text.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok());
    number.unwrap_or(0)
}

/// Seconds since this machine booted, also those that it slept; `None` where the kernel does not say.
pub(crate) fn uptime() -> Option<u64> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    text.split(['.', ' ']).next()?.parse().ok()
}

/// A process, as others can tell whether it still lives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The name of its host.
    pub host: Vec<u8>,
    /// See `machine_id`.
    pub machine: Vec<u8>,
    /// See `boot_id`.
    pub boot: Vec<u8>,
    /// See `namespace`.
    pub namespace: u64,
    /// Its number.
    pub pid: u32,
    /// See [`start_time`]; 0: it could not tell itself.
    pub started: u64,
}

impl ProcessIdentity {
    /// This process.
    pub fn this() -> Self {
        ProcessIdentity { pid: id(), started: start_time(id()).unwrap_or(0), ..Self::here() }
    }

    /// This machine, and no process of it.
    fn here() -> Self {
        ProcessIdentity { host: host_name(), machine: machine_id(), boot: boot_id(), namespace: namespace(), pid: 0, started: 0 }
    }

    /// Whether it can be told here whether this process lives: it runs since the same boot, whatever the host was called
    /// then, under numbers of the same namespace.
    pub(crate) fn is_here(&self) -> bool {
        let here = Self::here();
        !self.boot.is_empty() && self.boot == here.boot && self.namespace == here.namespace
    }

    /// Whether it is known to be gone: it ran on this machine before the last boot, or under a number that has ended or
    /// begun again since. False when it lives, and when that cannot be told from here.
    pub(crate) fn is_gone(&self) -> bool {
        let here = Self::here();
        if self.boot.is_empty() || here.boot.is_empty() {
            return false;
        }
        if self.boot != here.boot {
            // Machines are copied with their ids, and hosts have the same names: only both together tell.
            return self.host == here.host && self.machine == here.machine;
        }
        self.namespace == here.namespace && has_ended(self.pid, self.started)
    }
}

/// Whether the process of this number that started then has ended.
fn has_ended(pid: u32, started: u64) -> bool {
    let number = i32::try_from(pid).ok().and_then(process::Pid::from_raw);
    // Other users' processes may be hidden in /proc, but not from a signal.
    let no_such = || number.is_none_or(|number| process::test_kill_process(number) == Err(rustix::io::Errno::SRCH));
    // The file system of another namespace shows other processes under these numbers.
    let own = fs::read_link("/proc/self").is_ok_and(|own| own.to_str() == Some(&id().to_string()));
    match start_time(pid) {
        _ if !own => no_such(),
        // 0: it could not tell itself.
        Some(time) => started != 0 && time != started,
        None => no_such() || fs::metadata(format!("/proc/{pid}")).is_ok(),
    }
}

/// The effective user.
pub fn user() -> u32 {
    process::geteuid().as_raw()
}

/// The effective group.
pub fn group() -> u32 {
    process::getegid().as_raw()
}

/// The groups that this process is in, the effective one first.
pub(crate) fn groups() -> Vec<u32> {
    let others = process::getgroups().unwrap_or_default();
    std::iter::once(group()).chain(others.into_iter().map(|group| group.as_raw())).collect()
}

/// Raises the limit of open files as far as it goes.
pub fn raise_file_limit() {
    let limit = process::getrlimit(Resource::Nofile);
    // Refused: then the old limit holds, and everything here closes what it opens.
    let _ = process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// How many files this process may have open.
pub(crate) fn file_limit() -> u64 {
    process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Detaches from the terminal: a new session.
pub fn detach() -> io::Result<()> {
    process::setsid().map(|_| ()).map_err(Into::into)
}

/// The parent process; `None` when that is in another process namespace.
pub fn parent() -> Option<u32> {
    process::getppid().and_then(|parent| u32::try_from(parent.as_raw_nonzero().get()).ok())
}

/// Has SIGUSR1 sent to this process when the thread that started it ends.
pub fn signal_at_end_of_parent() -> io::Result<()> {
    Ok(process::set_parent_process_death_signal(Some(process::Signal::USR1))?)
}

/// Whether any thread of a process has not ended yet.
pub fn has_threads(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let stat = fs::read(thread.path().join("stat")).unwrap_or_default();
        // The state follows the command, which is in parentheses and may hold anything.
        let state = stat.iter().rposition(|&b| b == b')').and_then(|end| stat.get(end + 2)).copied();
        state.is_some_and(|state| !matches!(state, b'Z' | b'X'))
    })
}

/// Whether a process other than this one stands in the directory `place` (absolute) or below, or has something of it
/// open. Of processes that this one may not look at nothing is known.
pub(crate) fn stand_in(place: &Path) -> bool {
    let Ok(list) = fs::read_dir("/proc") else { return false };
    let own = id().to_string();
    list.flatten().any(|entry| {
        let name = entry.file_name();
        let is_other = name.as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) && name != *own;
        let leads = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(place));
        let open = || fs::read_dir(entry.path().join("fd")).is_ok_and(|list| list.flatten().any(|fd| leads(fd.path())));
        is_other && (leads(entry.path().join("cwd")) || leads(entry.path().join("root")) || open())
    })
}

/// Threads share as many heaps as there are processors. By itself the C library makes eight times as many, and each keeps
/// what was freed in it: a first ingest of 80,000 files took 169 to 189 MiB, and with this 124 to 132, and less processor.
/// To be called before threads start.
pub fn share_heaps() {
    let heaps = i32::try_from(cores()).unwrap_or(i32::MAX);
    // SAFETY: `mallopt` takes two integers and changes the allocator's settings.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, heaps);
    }
}

/// Gives freed blocks of 256 KiB and more back to the system at once. By itself the C library raises this limit to
/// 32 MiB and then keeps about twice what a cache of half-megabyte frames holds (measured: 231 against 157 MiB). Costs
/// page faults, so it is for processes that stay, not for those that hurry.
pub fn return_large_blocks() {
    // SAFETY: `mallopt` takes two integers and changes the allocator's settings; it is called before threads start.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 << 10);
        // What is freed at the end of the heap is asked for again by the next frame.
        libc::mallopt(libc::M_TRIM_THRESHOLD, 8 << 20);
    }
}

/// No core dumps and no tracing by others: secrets stay in this process.
pub fn protect_memory() {
    let _ = process::set_dumpable_behavior(process::DumpableBehavior::NotDumpable);
}
