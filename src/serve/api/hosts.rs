//! What agents have said of their hosts: a file for each, below the jobs of the repository. Losing it loses nothing: the
//! agents say it again.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind as IoKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{IoContext, Result};
use crate::remote::control::report::{HostReport, HostStanding, MAX_REPORT, ReportedSet, SetReport, second};
use crate::remote::protocol::{Code, Refusal};
use crate::serve::objects::hosted::refuse;
use crate::sys::whole;

/// Where they are, below the repository's directory.
const DIRECTORY: [&str; 2] = [".jobs", "hosts"];
/// The most hosts of a repository.
const MOST: usize = 2000;

/// What is kept of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptReport {
    /// When it came, in seconds since 1970.
    at: i64,
    token: String,
    report: HostReport,
}

/// The directory with the reports of a repository.
#[derive(Debug)]
pub(super) struct Hosts {
    directory: PathBuf,
    most: usize,
}

impl Hosts {
    /// In this repository's directory. It is made with the first report.
    pub(super) fn of(repository: &Path) -> Self {
        Hosts { directory: DIRECTORY.iter().fold(repository.to_owned(), |path, name| path.join(name)), most: MOST }
    }

    /// A name of the host that is a name of a file, whatever the host is called.
    fn file(&self, host: &str) -> PathBuf {
        self.directory.join(&blake3::hash(host.as_bytes()).to_hex()[..32])
    }

    /// Keeps a report in the place of the host's last one.
    pub(super) fn keep(&self, report: HostReport, token: &str, now: i64) -> Result<(), Refusal> {
        report.check().map_err(|e| Refusal::new(Code::Invalid, e.to_string()))?;
        let file = self.file(&report.host);
        if !file.exists() && self.files().map_err(|e| refuse(&e))?.len() >= self.most {
            let text = format!("the repository has reports of {} hosts, the most it may have", self.most);
            return Err(Refusal::new(Code::Quota, text));
        }
        let kept = KeptReport { at: now, token: token.to_owned(), report };
        self.write(&file, &kept).map_err(|e| refuse(&e))
    }

    fn write(&self, file: &Path, kept: &KeptReport) -> Result<()> {
        let what = || "cannot keep the report of a host".to_owned();
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).at(what)?;
        let text = serde_json::to_vec(kept).map_err(std::io::Error::from).at(what)?;
        whole::replace(file, &text).at(what)
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        let what = || "cannot list the reports of hosts".to_owned();
        let entries = match fs::read_dir(&self.directory) {
            Err(e) if e.kind() == IoKind::NotFound => return Ok(Vec::new()),
            entries => entries.at(what)?,
        };
        let mut out = Vec::new();
        for entry in entries {
            let entry = entry.at(what)?;
            if entry.file_name().len() == 32 {
                out.push(entry.path());
            }
        }
        Ok(out)
    }

    /// What is known of a host. What cannot be read is not known: its agent says it again.
    pub(super) fn of_host(&self, host: &str, now: i64) -> Option<HostStanding> {
        self.read(&self.file(host), now).filter(|standing| standing.host == host)
    }

    /// What is known of all hosts, by name.
    pub(super) fn all(&self, now: i64) -> Result<Vec<HostStanding>, Refusal> {
        let files = self.files().map_err(|e| refuse(&e))?;
        let mut out: Vec<HostStanding> = files.iter().filter_map(|file| self.read(file, now)).collect();
        out.sort_by(|a, b| a.host.cmp(&b.host));
        Ok(out)
    }

    fn read(&self, file: &Path, now: i64) -> Option<HostStanding> {
        let found = fs::symlink_metadata(file).ok()?;
        if !found.is_file() || found.len() > 2 * MAX_REPORT as u64 {
            return None;
        }
        let KeptReport { at, token, report } = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        let is_past = |time: &String| second(time).is_ok_and(|time| time <= now);
        let judged = |report: SetReport| ReportedSet { overdue: report.overdue_at.as_ref().is_some_and(is_past), report };
        let reported_at = jiff::Timestamp::from_second(at).ok()?.to_string();
        Some(HostStanding { host: report.host, reported_at, token, sets: report.sets.into_iter().map(judged).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_kept_by_host_and_judged_by_the_servers_clock() {
        let dir = tempfile::tempdir().unwrap();
        let mut hosts = Hosts::of(dir.path());
        assert!(hosts.all(0).unwrap().is_empty() && hosts.of_host("a", 0).is_none());
        let set = SetReport { set: "web".into(), overdue_at: Some("1970-01-01T00:01:00Z".into()), ..SetReport::default() };
        let report = |host: &str| HostReport { host: host.into(), sets: vec![set.clone()] };
        for host in ["b", "a", "../../x", "b"] {
            hosts.keep(report(host), "token", 10).unwrap();
        }
        let names = |now| hosts.all(now).unwrap().into_iter().map(|h| (h.host, h.sets[0].overdue)).collect::<Vec<_>>();
        assert_eq!(names(59), [("../../x", false), ("a", false), ("b", false)].map(|(h, o)| (h.to_owned(), o)));
        assert!(names(60).iter().all(|(_, overdue)| *overdue), "also when nothing more is heard of the agent");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no name leads out of the directory");
        // What is damaged is not known, and said again.
        fs::write(hosts.file("a"), b"{").unwrap();
        assert!(hosts.of_host("a", 0).is_none() && hosts.of_host("b", 0).is_some());
        hosts.keep(report("a"), "token", 11).unwrap();
        assert_eq!(hosts.of_host("a", 0).unwrap().reported_at, "1970-01-01T00:00:11Z");
        hosts.most = 3;
        assert_eq!(hosts.keep(report("c"), "token", 12).unwrap_err().error, Code::Quota);
        hosts.keep(report("b"), "token", 12).unwrap();
    }
}
