//! What becomes of jobs when the agent, the server, or both are killed, and when jobs are cancelled.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::Signal;
use yester::Result;
use yester::remote::client::RemoteOptions;
use yester::remote::control::client::JobClient;
use yester::remote::control::{ClaimRequest, EndReport, JobKind, JobOutcome, JobStatus, NewJob};
use yester::remote::tls::{Fingerprint, Trust};
use zeroize::Zeroizing;

use crate::common::mounted::until;
use crate::net::jobs_page::Site;
use crate::net::support::{PATIENT, at_port};

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
    // A record that is damaged keeps nobody from reading the others.
    site.job(&["run", "check", "--host", "pg1", "--wait"]).ok();
    let record = fs::read_dir(site.world.at("root/pg/runs")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&record).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&record, bytes).unwrap();
    site.world.run(&["runs"]).fails(1, &["runs/"]);
    let id = begun(&site);
    site.kill_agent(Signal::KILL);
    site.start_agent();
    // What the killed agent had started still runs.
    assert_eq!(site.one(&["show", &id])["state"], "running");
    site.world.file("go", "");
    let job = site.wait(&id, "done");
    assert!(job["snapshot"].is_string() && job["finished_at"].is_string() && job["exit_code"] == 0, "{job}");
    assert_eq!((runs(&site), site.snapshots()), (1, 1));
    // It goes on with the next.
    let next = site.one(&["run", "ingest", "--host", "pg1", "--set", "slow"]);
    site.wait(next["id"].as_str().unwrap(), "done");
    assert_eq!(runs(&site), 2);
}

#[test]
fn a_job_is_over_if_every_run_of_the_repository_is_damaged() {
    let mut site = Site::new(SLOW, &[]);
    site.start_agent();
    let id = begun(&site);
    site.kill_agent(Signal::KILL);
    site.world.file("go", "");
    let records = || fs::read_dir(site.world.at("root/pg/runs")).into_iter().flatten().map(|entry| entry.unwrap().path());
    until(|| records().count() == 1);
    // The command of the job has its lock until it has written its run and ended.
    let lock = fs::File::open(site.world.at(".local/state/yester/agent/slow.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    drop(lock);
    for record in records() {
        let mut bytes = fs::read(&record).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&record, bytes).unwrap();
    }
    site.start_agent();
    let job = site.wait(&id, "failed");
    assert!(job["lost"] == false && job["message"].as_str().unwrap().contains("1 of its records of runs are"), "{job}");
    assert_eq!((runs(&site), site.snapshots()), (1, 1));
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
fn who_follows_a_job_waits_for_a_server_that_is_away() {
    let mut site = Site::new("", &[]);
    let id = site.one(&["run", "check", "--host", "elsewhere"])["id"].as_str().unwrap().to_owned();
    let mut command = site.world.command(&["job", "watch", &id, "--timeout", "3600"]);
    command.env("YESTER_TOKEN", &site.token).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watching = command.spawn().unwrap();
    let mut said = BufReader::new(watching.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("is queued"), "{line}");
    site.kill_server();
    site.serve();
    site.job(&["cancel", &id]).ok();
    line.clear();
    said.read_line(&mut line).unwrap();
    let output = watching.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(line.contains("is cancelled") && complaint.contains("was cancelled"), "{line}: {complaint}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn an_agent_does_nothing_with_sets_of_another_repository() {
    let sets = "[sets.there]\npaths = [\"HOME/etc\"]\nrepository = \"other\"\n\
                [repositories.other]\nlocation = \"HOME/other\"\nkey-file = \"HOME/key\"\n";
    let mut site = Site::new(sets, &[]);
    site.start_agent();
    let id = site.one(&["run", "ingest", "--host", "pg1", "--set", "there"])["id"].as_str().unwrap().to_owned();
    let job = site.wait(&id, "failed");
    assert!(job["message"].as_str().unwrap().contains("no set there of this repository"), "{job}");
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

#[test]
fn a_server_that_is_killed_at_any_moment_loses_no_job_and_gives_none_twice() {
    const JOBS: usize = 80;
    let mut site = Site::new("", &[]);
    let fingerprint = Fingerprint::read(&site.world.at("root/.server/certificate.pem")).unwrap();
    let address = at_port(site.port, "pg");
    let client = |token: &str| {
        let trust = Trust { fingerprint: Some(fingerprint), authorities: None };
        let token = Some(Zeroizing::new(token.to_owned()));
        JobClient::new(&address, &RemoteOptions { token, trust, timeout: PATIENT, ..RemoteOptions::default() }).unwrap()
    };
    let (asker, agent) = (client(&site.token), client(&fs::read_to_string(site.world.at("token")).unwrap()));
    // Again until there is an answer, and not with another request.
    fn stubborn<T>(what: impl Fn() -> Result<T>) -> T {
        let mut found = None;
        until(|| {
            found = what().ok();
            found.is_some()
        });
        found.unwrap()
    }
    let taken = std::thread::scope(|scope| {
        let (asker, agent) = (&asker, &agent);
        let asking = scope.spawn(move || {
            let job = NewJob { kind: JobKind::Check, host: "h".into(), set: None, snapshot: None, backup: None };
            (0..JOBS).map(|n| stubborn(|| asker.create(&job, Some(&n.to_string()))).id).collect::<Vec<_>>()
        });
        let working = scope.spawn(move || {
            let mut taken = Vec::new();
            for n in 0.. {
                let claim = format!("{n:032x}");
                let request = ClaimRequest { host: "h".into(), claim: claim.clone(), kinds: vec![JobKind::Check], wait: 0 };
                if taken.len() == JOBS {
                    break;
                }
                let mut got = None;
                until(|| {
                    got = stubborn(|| agent.claim(&request));
                    got.is_some()
                });
                let id = got.unwrap().id;
                let (outcome, message, snapshot) = (JobOutcome::Done, None, None);
                let end = EndReport {
                    claim,
                    outcome,
                    message,
                    snapshot,
                    size: Some(n),
                    added: None,
                    exit_code: Some(0),
                    next_steps: Vec::new(),
                };
                stubborn(|| agent.end(&id, &end));
                taken.push(id);
            }
            taken
        });
        for n in 0.. {
            if working.is_finished() {
                break;
            }
            // Longer with time: on a busy machine nothing is done in the first ones.
            std::thread::sleep(std::time::Duration::from_millis(n * 37 % 211 + n / 8 * 50));
            site.kill_server();
            site.serve();
        }
        let (mut asked, taken) = (asking.join().unwrap(), working.join().unwrap());
        asked.sort();
        let mut sorted = taken.clone();
        sorted.sort();
        assert_eq!(asked, sorted, "each was taken once");
        taken
    });
    for (n, id) in taken.iter().enumerate() {
        let job = stubborn(|| asker.job(id));
        assert_eq!((job.state, job.size), (JobStatus::Done, Some(n as u64)));
    }
    assert_eq!(fs::read_dir(site.world.at("root/pg/.jobs")).unwrap().count(), 3 * JOBS);
}
