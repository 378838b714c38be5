//! What becomes of jobs when the agent, the server, or both are killed, and when jobs are cancelled.

use std::fs;

use rustix::process::Signal;

use crate::common::mounted::until;
use crate::net::jobs_page::Site;

/// A set whose run waits until there is `go`, or nothing of the test is left, and counts its runs.
const SLOW: &str = r#"
[sets.slow]
paths = ["HOME/etc"]
hooks = { before = "echo run >> HOME/runs; touch HOME/begun; until test -e HOME/go || ! test -e HOME/begun; do sleep 0.05; done" }
"#;

fn runs(site: &Site) -> usize {
    fs::read_to_string(site.world.at("runs")).unwrap_or_default().lines().count()
}

/// A job whose run has begun.
fn begun(site: &Site) -> String {
    let id = site.one(&["run", "ingest", "--host", "pg1", "--set", "slow"])["id"].as_str().unwrap().to_owned();
    until(|| site.world.at("begun").exists());
    id
}

#[test]
fn a_server_that_is_killed_meanwhile_hears_of_the_end() {
    let mut site = Site::new(SLOW, &[]);
    site.start_agent();
    let id = begun(&site);
    let queued = site.one(&["run", "check", "--host", "pg1"])["id"].as_str().unwrap().to_owned();
    site.kill_server();
    site.serve();
    site.world.file("go", "");
    let job = site.wait(&id, "done");
    assert_eq!((job["lost"].as_bool(), job["exit_code"].as_u64()), (Some(false), Some(0)), "{job}");
    site.wait(&queued, "done");
    assert_eq!((runs(&site), site.snapshots()), (1, 1));
    // The end comes while the server is away: the run needs it, and so fails, and that is said when it is back.
    fs::remove_file(site.world.at("go")).unwrap();
    fs::remove_file(site.world.at("begun")).unwrap();
    let id = begun(&site);
    site.kill_server();
    site.world.file("go", "");
    let kept = site.world.at(".local/state/yester/agent/job");
    until(|| fs::read_to_string(&kept).unwrap_or_default().contains("\"outcome\":\"failed\""));
    site.serve();
    let job = site.wait(&id, "failed");
    assert!(job["lost"] == false && job["exit_code"].is_u64() && job["message"].is_string(), "{job}");
}

#[test]
fn an_agent_that_is_killed_finds_out_what_became_of_its_job() {
    let mut site = Site::new(SLOW, &[]);
    site.start_agent();
    let id = begun(&site);
    site.kill_agent(Signal::KILL);
    site.start_agent();
    // What the killed agent had started still runs.
    assert_eq!(site.one(&["show", &id])["state"], "running");
    site.world.file("go", "");
    let job = site.wait(&id, "done");
    assert!(job["snapshot"].is_string() && job["finished_at"].is_string(), "{job}");
    assert_eq!((runs(&site), site.snapshots()), (1, 1));
    // It goes on with the next.
    let next = site.one(&["run", "ingest", "--host", "pg1", "--set", "slow"]);
    site.wait(next["id"].as_str().unwrap(), "done");
    assert_eq!(runs(&site), 2);
}

#[test]
fn both_killed_and_the_agent_away_for_long() {
    let mut site = Site::new(SLOW, &["--lost-after", "1"]);
    site.start_agent();
    let id = begun(&site);
    site.kill_agent(Signal::KILL);
    site.kill_server();
    site.serve();
    let job = site.wait(&id, "failed");
    assert_eq!(job["lost"], true, "{job}");
    assert!(job["message"].as_str().unwrap().starts_with("lost"), "{job}");
    // Nobody else runs it, and what it came to is said when the agent is back.
    site.world.file("go", "");
    until(|| site.snapshots() == 1);
    site.start_agent();
    let job = site.wait(&id, "done");
    assert_eq!((job["lost"].as_bool(), runs(&site), site.snapshots()), (Some(false), 1, 1));
}

#[test]
fn a_job_that_runs_is_cancelled_and_one_that_waits_is_not_begun() {
    let mut site = Site::new(SLOW, &[]);
    site.start_agent();
    let id = begun(&site);
    let waiting = site.one(&["run", "ingest", "--host", "pg1", "--set", "slow"])["id"].as_str().unwrap().to_owned();
    assert_eq!(site.one(&["cancel", &waiting])["state"], "cancelled");
    let asked = site.one(&["cancel", &id]);
    assert!(asked["state"] == "cancelled" || asked["cancel_requested"] == true, "{asked}");
    site.wait(&id, "cancelled");
    assert_eq!((runs(&site), site.snapshots()), (1, 0));
    site.job(&["watch", &id]).fails(1, &["was cancelled"]);
    // A run that somebody else has begun is waited for, and says so.
    site.world.file("runs", "");
    let lock = fs::File::open(site.world.at(".local/state/yester/agent/slow.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let id = site.one(&["run", "ingest", "--host", "pg1", "--set", "slow"])["id"].as_str().unwrap().to_owned();
    until(|| site.one(&["show", &id])["message"].as_str().is_some_and(|text| text.contains("waits for the run of set slow")));
    site.job(&["cancel", &id]).ok();
    site.wait(&id, "cancelled");
    assert_eq!(runs(&site), 0);
    drop(lock);
    // An agent that is stopped says what it stopped.
    fs::remove_file(site.world.at("begun")).unwrap();
    let id = begun(&site);
    site.kill_agent(Signal::TERM);
    site.start_agent();
    let job = site.wait(&id, "failed");
    assert!(job["message"].as_str().unwrap().contains("was stopped while it ran"), "{job}");
}
