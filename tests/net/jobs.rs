//! The job API from outside: who may do what, what is refused, what is kept, and that a job is taken once.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use yester::remote::control::client::JobClient;
use yester::remote::control::{ClaimRequest, EndReport, JobKind, JobOutcome, JobProgress, JobStatus, NewJob, ProgressReport};
use yester::remote::protocol::Capability;
use yester::serve::objects::limits::Limits;
use yester::{ErrorKind, Result};

use crate::common::mounted::until;
use crate::net::support::{PATIENT, Server, serve_options};

const BOTH: [Capability; 2] = [Capability::Jobs, Capability::Agent];

fn client(server: &Server, name: &str, capabilities: &[Capability]) -> JobClient {
    let token = server.token(server.grant(name, capabilities));
    JobClient::new(&server.address(name), &server.options(&token)).unwrap()
}

fn wanted(host: &str) -> NewJob {
    NewJob { kind: JobKind::Ingest, host: host.into(), set: Some("a".into()), snapshot: None, backup: None }
}

fn claim(word: u64) -> ClaimRequest {
    ClaimRequest { host: "h".into(), claim: format!("{word:032x}"), kinds: JobKind::ALL.to_vec(), wait: 0 }
}

fn end(word: u64, outcome: JobOutcome) -> EndReport {
    let claim = format!("{word:032x}");
    EndReport {
        claim,
        outcome,
        message: None,
        snapshot: None,
        size: None,
        added: None,
        exit_code: Some(0),
        next_steps: Vec::new(),
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(kind: ErrorKind, words: &str, result: Result<T>) {
    let e = result.unwrap_err();
    assert!(e.kind() == kind && e.to_string().contains(words), "{e:?}");
}

fn start() -> (tempfile::TempDir, Server) {
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::start(scratch.path());
    drop(server.storage("web"));
    (scratch, server)
}

#[test]
fn of_many_agents_one_takes_a_job_and_each_job_is_taken_once() {
    let (_scratch, server) = start();
    let asker = client(&server, "web", &BOTH);
    let mut all: BTreeSet<String> = (0..60).map(|_| asker.create(&wanted("h"), None).unwrap().id).collect();
    let taken = std::thread::scope(|scope| {
        let agents: Vec<_> = (0..8)
            .map(|agent| {
                let server = &server;
                scope.spawn(move || {
                    let (client, mut mine) = (client(server, "web", &BOTH), Vec::new());
                    for n in 0.. {
                        let request = claim(agent * 1000 + n);
                        let Some(job) = client.claim(&request).unwrap() else { break };
                        // The answer was lost, and it is asked again.
                        assert_eq!(client.claim(&request).unwrap().unwrap().id, job.id);
                        mine.push(job.id);
                    }
                    mine
                })
            })
            .collect();
        agents.into_iter().flat_map(|agent| agent.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(taken.len(), 60);
    taken.iter().for_each(|id| assert!(all.remove(id), "{id} was taken twice"));
    // An agent that waits gets what comes, and one of another host does not.
    let waits = ClaimRequest { wait: 55, ..claim(9999) };
    std::thread::scope(|scope| {
        let other = client(&server, "web", &BOTH);
        let waiting = scope.spawn(move || other.claim(&waits).unwrap().unwrap());
        asker.create(&wanted("another"), None).unwrap();
        let job = asker.create(&wanted("h"), None).unwrap();
        assert_eq!(waiting.join().unwrap().id, job.id);
    });
    assert_eq!(asker.list(&[("state", "queued")]).unwrap().jobs[0].host, "another");
}

#[test]
fn a_job_is_what_was_said_of_it_also_after_a_restart() {
    let (_scratch, mut server) = start();
    let token = server.token(server.grant("web", &BOTH));
    let mut asker = JobClient::new(&server.address("web"), &server.options(&token)).unwrap();
    let ids: Vec<String> = (0..5).map(|_| asker.create(&wanted("h"), None).unwrap().id).collect();
    let keyed = asker.create(&wanted("h"), Some("once")).unwrap();
    let made = asker.create(&wanted("maker"), None).unwrap().id;
    asker.claim(&ClaimRequest { host: "maker".into(), ..claim(50) }).unwrap().unwrap();
    asker.end(&made, &EndReport { snapshot: Some("ab".repeat(32)), ..end(50, JobOutcome::Done) }).unwrap();
    let of_backup = NewJob { kind: JobKind::Restore, backup: Some(made), ..wanted("elsewhere") };
    let restore = asker.create(&of_backup, Some("restore")).unwrap();
    for (word, id) in ids.iter().enumerate().take(4) {
        assert_eq!(&asker.claim(&claim(word as u64)).unwrap().unwrap().id, id, "the oldest first");
    }
    let report = ProgressReport {
        claim: claim(0).claim,
        progress: JobProgress { percent: Some(41.0), message: Some("x".repeat(5000)), ..JobProgress::default() },
    };
    assert!(!asker.progress(&ids[0], &report).unwrap());
    let shown = asker.job(&ids[0]).unwrap();
    assert_eq!((shown.state, shown.progress.unwrap().message.unwrap().len()), (JobStatus::Running, 1024));
    refused(ErrorKind::Exists, "not taken with this token", asker.progress(&ids[1], &report));
    refused(ErrorKind::Exists, "not taken", client(&server, "web", &BOTH).progress(&ids[0], &report));
    asker.end(&ids[0], &end(0, JobOutcome::Done)).unwrap();
    asker.end(&ids[0], &end(0, JobOutcome::Failed)).unwrap();
    asker.end(&ids[1], &EndReport { message: Some("no".into()), exit_code: Some(7), ..end(1, JobOutcome::Failed) }).unwrap();
    assert!(asker.cancel(&ids[2]).unwrap().cancel_requested);
    let two = ProgressReport { claim: claim(2).claim, progress: JobProgress::default() };
    assert!(asker.progress(&ids[2], &two).unwrap(), "it is told to end");
    assert_eq!(asker.cancel(&ids[4]).unwrap().state, JobStatus::Cancelled);
    assert_eq!(asker.cancel(&ids[4]).unwrap().state, JobStatus::Cancelled);
    refused(ErrorKind::Exists, "nothing to cancel", asker.cancel(&ids[0]));
    let states = |asker: &JobClient| -> Vec<(JobStatus, Option<u8>, bool)> {
        ids.iter().map(|id| asker.job(id).unwrap()).map(|job| (job.state, job.exit_code, job.cancel_requested)).collect()
    };
    let before = states(&asker);
    assert_eq!(
        before.iter().map(|(state, ..)| state.name()).collect::<Vec<_>>(),
        ["done", "failed", "running", "running", "cancelled"]
    );
    // What is the server's own is lost: but for tokens and certificate, which the client here needs.
    server.stop();
    let root = server.root.clone();
    let server = Server::with(serve_options(&root));
    asker = JobClient::new(&server.address("web"), &server.options(&token)).unwrap();
    assert_eq!(states(&asker), before);
    assert_eq!(asker.create(&wanted("h"), Some("once")).unwrap().id, keyed.id);
    assert_eq!(asker.job(&restore.id).unwrap(), restore);
    assert_eq!(asker.create(&of_backup, Some("restore")).unwrap().id, restore.id);
    assert_eq!(asker.claim(&claim(3)).unwrap().unwrap().id, ids[3], "a claim is remembered");
    asker.end(&ids[2], &end(2, JobOutcome::Cancelled)).unwrap();
    assert_eq!(asker.job(&ids[2]).unwrap().state, JobStatus::Cancelled);
}

#[test]
fn a_silent_agent_is_lost_and_comes_back() {
    let scratch = tempfile::tempdir().unwrap();
    let mut options = serve_options(scratch.path());
    options.limits = Limits { silence: Duration::ZERO, ..options.limits };
    let mut server = Server::with(options);
    drop(server.storage("web"));
    let token = server.token(server.grant("web", &BOTH));
    let asker = JobClient::new(&server.address("web"), &server.options(&token)).unwrap();
    let id = asker.create(&wanted("h"), None).unwrap().id;
    asker.claim(&claim(1)).unwrap().unwrap();
    let job = asker.job(&id).unwrap();
    assert!(job.state == JobStatus::Failed && job.lost && job.message.unwrap().contains("nobody knows"));
    assert!(asker.claim(&claim(2)).unwrap().is_none(), "it is nobody else's");
    // With patience it is running again once its agent says something, and what the agent says of its end counts.
    server.stop();
    let server = Server::with(serve_options(scratch.path()));
    let asker = JobClient::new(&server.address("web"), &server.options(&token)).unwrap();
    assert!(asker.job(&id).unwrap().lost);
    asker.progress(&id, &ProgressReport { claim: claim(1).claim, progress: JobProgress::default() }).unwrap();
    assert_eq!(asker.job(&id).unwrap().state, JobStatus::Running);
    asker.end(&id, &end(1, JobOutcome::Done)).unwrap();
    let job = asker.job(&id).unwrap();
    assert!(job.state == JobStatus::Done && !job.lost);
}

#[test]
fn garbage_among_the_records_hides_nothing_and_runs_nothing() {
    let (_scratch, mut server) = start();
    let token = server.token(server.grant("web", &BOTH));
    let asker = JobClient::new(&server.address("web"), &server.options(&token)).unwrap();
    let ids: Vec<String> = (0..4).map(|_| asker.create(&wanted("h"), None).unwrap().id).collect();
    asker.claim(&claim(1)).unwrap().unwrap();
    asker.end(&ids[0], &end(1, JobOutcome::Done)).unwrap();
    server.stop();
    let at = |name: &str| server.root.join("web/.jobs").join(name);
    fs::write(at(&format!("{}.1", ids[1])), b"{").unwrap();
    fs::write(at(&ids[2]), [0xff; 100]).unwrap();
    fs::write(at(".new-half"), b"half").unwrap();
    fs::write(at("not a job"), b"x").unwrap();
    fs::write(at("ffffffffffffffff.3"), b"{}").unwrap();
    fs::create_dir(at("eeeeeeeeeeeeeeee")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", at("dddddddddddddddd")).unwrap();
    fs::write(at("cccccccccccccccc"), r#"{"job":{"kind":"ingest","host":"h"},"token":"x","at":9223372036854775807}"#).unwrap();
    fs::write(at("bbbbbbbbbbbbbbbb"), r#"{"job":{"kind":"check","host":"far"},"token":"x","at":9223372036854775807}"#).unwrap();
    let server = Server::with(serve_options(&server.root));
    let asker = JobClient::new(&server.address("web"), &server.options(&token)).unwrap();
    let state = |id: &str| asker.job(id).map(|job| job.state);
    assert_eq!(state(&ids[0]).unwrap(), JobStatus::Done);
    assert!(!server.root.join("web/.jobs/.new-half").exists());
    assert!(!server.root.join("web/.jobs/ffffffffffffffff.3").exists(), "it is of no job");
    let damaged = asker.job(&ids[1]).unwrap();
    assert!(damaged.state == JobStatus::Failed && damaged.message.unwrap().contains("damaged"));
    refused(ErrorKind::NotFound, "there is no job", state(&ids[2]));
    assert_eq!(asker.list(&[]).unwrap().jobs.len(), 4);
    assert_eq!(asker.claim(&claim(2)).unwrap().unwrap().id, ids[3]);
    assert!(asker.claim(&claim(3)).unwrap().is_none(), "what was damaged is not run");
}

#[test]
fn a_token_does_what_it_may_in_its_own_repository() {
    let (_scratch, server) = start();
    drop(server.storage("other"));
    let asker = client(&server, "web", &[Capability::Jobs]);
    let id = asker.create(&wanted("h"), Some("k")).unwrap().id;
    refused(ErrorKind::Io, "capability agent", asker.claim(&claim(1)));
    refused(ErrorKind::Io, "capability jobs", client(&server, "web", &[Capability::Agent]).list(&[]));
    refused(
        ErrorKind::Io,
        "capability jobs",
        client(&server, "web", &[Capability::Put, Capability::Prune]).create(&wanted("h"), None),
    );
    let stranger = client(&server, "other", &BOTH);
    refused(ErrorKind::NotFound, "there is no job", stranger.job(&id));
    refused(ErrorKind::NotFound, "there is no job", stranger.cancel(&id));
    assert!(stranger.claim(&claim(1)).unwrap().is_none() && stranger.list(&[]).unwrap().jobs.is_empty());
    assert_ne!(stranger.create(&wanted("h"), Some("k")).unwrap().id, id);
    assert_ne!(client(&server, "web", &BOTH).create(&wanted("h"), Some("k")).unwrap().id, id, "a key is a token's own");
}

/// One request by curl: the status, the type of the answer, and the answer.
fn curl(server: &Server, token: &str, args: &[&str], path: &str) -> (u16, String, String) {
    let mut command = Command::new("curl");
    command.args(["-sk", "-m", "100", "-w", "\n%{http_code} %{content_type}", "-H", &format!("Authorization: Bearer {token}")]);
    let output = command.args(args).arg(format!("https://127.0.0.1:{}{path}", server.port)).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, last) = text.rsplit_once('\n').unwrap();
    let (status, kind) = last.split_once(' ').unwrap();
    (status.parse().unwrap(), kind.to_owned(), body.to_owned())
}

#[test]
fn what_makes_no_sense_is_refused_as_a_problem() {
    let (_scratch, server) = start();
    let token = server.token(server.grant("web", &BOTH));
    let ask = |args: &[&str], path: &str| {
        let (status, kind, body) = curl(&server, &token, args, path);
        assert_eq!(kind, "application/problem+json", "{path}: {body}");
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert!(problem["status"] == status && problem["detail"].is_string() && problem["type"] == "about:blank", "{problem}");
        status
    };
    let long = format!("{{\"kind\":\"check\",\"host\":\"{}\"}}", "x".repeat(20_000));
    for bad in [
        "",
        "{",
        "[]",
        r#"{"kind":"ingest"}"#,
        r#"{"kind":"drill","host":"h"}"#,
        r#"{"kind":"check","host":"h","command":["rm"]}"#,
        r#"{"kind":"check","host":""}"#,
        r#"{"kind":"restore","host":"h","set":"a","snapshot":"--target=/"}"#,
        r#"{"kind":"check","host":"h\u0000"}"#,
    ] {
        assert_eq!(ask(&["--json", bad], "/api/v1/jobs"), 400, "{bad}");
    }
    assert_eq!(ask(&["--json", &long], "/api/v1/jobs"), 413);
    assert_eq!(ask(&["-d", "kind=check"], "/api/v1/jobs"), 400);
    assert_eq!(ask(&["--json", r#"{"kind":"check","host":"h"}"#, "-H", "Idempotency-Key: é"], "/api/v1/jobs"), 400);
    let backup = r#"{"kind":"restore","host":"h","set":"a","backup":"0123456789abcdef"}"#;
    assert_eq!(ask(&["--json", backup], "/api/v1/jobs"), 404);
    for (path, status) in [
        ("/api/v1/jobs?limit=0", 400),
        ("/api/v1/jobs?what=x", 400),
        ("/api/v1/jobs?after=x", 404),
        ("/api/v1/jobs/..%2f..%2fkeys", 404),
        ("/api/v1/jobs/%ff", 400),
        ("/api/v1/nothing", 404),
        ("/api/v1/jobs/0123456789abcdef/events", 404),
    ] {
        assert_eq!(ask(&[], path), status, "{path}");
    }
    assert_eq!(curl(&server, "x", &[], "/api/v1/jobs").0, 401);
    assert_eq!(curl(&server, &token, &["-X", "POST"], "/api/v1/agent/jobs/0123456789abcdef/end").0, 400);
    assert!(!server.root.join("web/.jobs").exists(), "nothing was kept of all this");
}

#[test]
fn the_document_has_every_path_and_every_answer() {
    let (_scratch, server) = start();
    let token = server.token(server.grant("web", &BOTH));
    let (status, kind, body) = curl(&server, "x", &[], "/api/v1/openapi.json");
    assert_eq!((status, kind.as_str()), (200, "application/json"));
    let document: Value = serde_json::from_str(&body).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 12);
    let word = "0123456789abcdef";
    let asker = client(&server, "web", &BOTH);
    for (path, methods) in paths {
        for method in ["get", "post", "put", "delete", "patch"] {
            let (id, host) = (asker.create(&wanted("h"), None).unwrap().id, "h");
            let real = path.replace("{id}", &id).replace("{host}", host).replace("{set}", "a");
            asker.cancel(&id).unwrap();
            let body = json!({"kind": "check", "host": "h", "claim": word, "kinds": ["check"], "outcome": "done"}).to_string();
            let report = r#"{"host":"h","sets":[{"set":"a"}]}"#;
            let (check, claim) = (r#"{"kind":"check","host":"h"}"#, r#"{"host":"h","claim":"0123456789abcdef","kinds":[]}"#);
            for body in [body.as_str(), check, claim, report] {
                let args = ["-X", &method.to_uppercase(), "--json", body].map(str::to_owned);
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let (status, kind, text) = curl(&server, &token, &args, &real);
                let Some(described) = methods.get(method) else {
                    assert_eq!(status, 405, "{method} {path} is not in the document");
                    continue;
                };
                assert_ne!(status, 405, "{method} {path} is in the document");
                let answers = described["responses"].as_object().unwrap();
                let answer = answers.get(&status.to_string()).or_else(|| answers.get(&format!("{}XX", status / 100)));
                let answer = answer.unwrap_or_else(|| panic!("{method} {path}: {status} is not in the document: {text}"));
                if let Some(content) = answer["content"].as_object() {
                    assert!(content.contains_key(&kind), "{method} {path}: {kind} is not in {content:?}");
                }
            }
            // Without a token nothing is said but what there is.
            if methods.get(method).is_some() && path != "/api/v1/openapi.json" {
                assert_eq!(curl(&server, "x", &["-X", &method.to_uppercase(), "--json", "{}"], &real).0, 401);
            }
        }
    }
    // What the answers have is in the schemas.
    let schema = &document["components"]["schemas"]["Job"]["properties"];
    let job = serde_json::to_value(asker.create(&wanted("h"), None).unwrap()).unwrap();
    job.as_object().unwrap().keys().for_each(|name| assert!(schema.get(name).is_some(), "{name}"));
}

#[test]
fn pages_and_filters_give_every_job_once() {
    let (_scratch, server) = start();
    let asker = client(&server, "web", &BOTH);
    for n in 0..25 {
        let set = Some(format!("set & {}", n % 3));
        asker.create(&NewJob { set, ..wanted(if n % 2 == 0 { "h" } else { "g" }) }, None).unwrap();
    }
    let mut seen = Vec::new();
    let mut page = asker.list(&[("limit", "4")]).unwrap();
    loop {
        seen.extend(page.jobs.into_iter().map(|job| job.id));
        let Some(next) = page.next else { break };
        page = asker.list(&[("limit", "4"), ("after", &next)]).unwrap();
    }
    assert_eq!((seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (25, 25));
    assert_eq!(asker.list(&[("host", "g")]).unwrap().jobs.len(), 12);
    let fields = [("host", "g"), ("set", "set & 1"), ("state", "queued"), ("kind", "ingest")];
    assert_eq!(asker.list(&fields).unwrap().jobs.len(), 4);
    assert_eq!(asker.list(&[("kind", "check")]).unwrap().jobs.len(), 0);
}

#[test]
fn a_server_that_stops_lets_those_go_who_wait() {
    let scratch = tempfile::tempdir().unwrap();
    let mut options = serve_options(scratch.path());
    // One request at once of a token, so that it can be seen that one waits; and nobody is cut.
    options.limits = Limits { requests: 1, stopping: PATIENT, ..options.limits };
    let mut server = Server::with(options);
    drop(server.storage("web"));
    let agents = server.token(server.grant("web", &BOTH));
    let new = |token: &str| JobClient::new(&server.address("web"), &server.options(token)).unwrap();
    let id = client(&server, "web", &BOTH).create(&wanted("elsewhere"), None).unwrap().id;
    let (agent, other, watcher) = (new(&agents), new(&agents), client(&server, "web", &BOTH));
    let is_full = |e: &yester::Error| e.to_string().contains("too many requests");
    let (seen, saw) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        loop {
            match agent.claim(&ClaimRequest { wait: 55, ..claim(1) }) {
                // The other looks just then.
                Err(e) if is_full(&e) => {}
                claimed => return claimed,
            }
        }
    });
    let watching = std::thread::spawn(move || watcher.watch(&id, |job| Ok(seen.send(job.state).is_ok())));
    assert_eq!(saw.recv_timeout(PATIENT).unwrap(), JobStatus::Queued);
    until(|| other.list(&[]).is_err_and(|e| is_full(&e)));
    server.stop();
    assert!(waiting.join().unwrap().unwrap().is_none());
    watching.join().unwrap().unwrap();
}
