use std::net::TcpListener;
use std::path::Path;

use jiff::tz::TimeZone;
use serde_json::json;

use super::*;
use crate::jobs::agent::memory::Memory;
use crate::jobs::config::keys::AgentKeys;
use crate::observe::Silent;
use crate::remote::address::Address;
use crate::remote::client::RemoteOptions;

fn job(value: Value) -> Job {
    let mut all = json!({"id": "0123456789abcdef", "host": "h", "state": "running", "created_at": "",
        "updated_at": "", "token": "", "is_downloadable": false, "cancel_requested": false, "lost": false});
    all.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

/// An agent whose server is away; in place of `yester` it runs a script.
fn agent(dir: &Path, script: &str) -> (Setup, WorkSource) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = Address::https(format!("127.0.0.1:{port}/web").as_bytes()).unwrap();
    let token = Some(zeroize::Zeroizing::new("token".to_owned()));
    let client = JobClient::new(&address, &RemoteOptions { token, ..RemoteOptions::default() }).unwrap();
    let source = WorkSource { client, host: "h".into(), kinds: JobKind::ALL.to_vec(), reports: false };
    let setup = Setup {
        program: ["sh", "-c", script, "yester"].map(OsString::from).to_vec(),
        sets: Default::default(),
        names: ["a".to_owned()].into(),
        source: None,
        keys: AgentKeys::default(),
        zone: TimeZone::UTC,
        host: "machine".into(),
        memory: Memory::open(dir).unwrap(),
        stop: Arc::default(),
        observer: Arc::new(Silent),
    };
    (setup, source)
}

#[test]
fn what_a_lying_server_says_becomes_no_option() {
    let dir = tempfile::tempdir().unwrap();
    let words = dir.path().join("words");
    let (setup, source) = agent(dir.path(), &format!("echo \"$@\" >> {}", words.display()));
    let taker = Taker { setup: &setup, source: &source };
    let run = |value| taker.run(&job(value), "claim");
    let restore = |snapshot: &str| json!({"kind": "restore", "set": "a", "snapshot": snapshot});
    let bad = ["--password-command=touch /tmp/x", "-x", "latest", "", "0123ABCD"].map(restore);
    let others = [
        json!({"kind": "restore"}),
        json!({"kind": "prune", "set": "a"}),
        json!({"kind": "ingest", "set": "b"}),
        json!({"kind": "check", "host": "another"}),
    ];
    for value in bad.into_iter().chain(others) {
        let kept = ClaimMemory { claim: "claim".into(), job: Some(job(value.clone())), ..ClaimMemory::default() };
        let e = run(value.clone()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid, "{value}");
        // The same for one that was kept before the agent was ended.
        let ended = taker.recovered(&job(value), &kept).unwrap();
        assert_eq!((ended.outcome, ended.message), (JobOutcome::Failed, Some(e.to_string())));
    }
    assert!(!words.exists(), "nothing was run");
    assert_eq!(run(restore("0123abcd")).unwrap().outcome, JobOutcome::Done);
    // What others than restores have as their snapshot is no word.
    assert_eq!(run(json!({"kind": "check", "snapshot": "--x"})).unwrap().outcome, JobOutcome::Done);
    // A restore is followed by the question of what a person still has to do.
    let (restored, asked) = ("restore --json --set=a 0123abcd", "restore --json --set=a 0123abcd --next-steps");
    assert_eq!(std::fs::read_to_string(&words).unwrap(), format!("{restored}\n{asked}\ncheck --json\n"));
}

#[test]
fn the_run_of_a_job_is_of_its_host_and_set_and_not_of_before() {
    let job = job(json!({"kind": "ingest", "set": "a"}));
    let is = |kind: &str, host: &str, set: &str, started: &str| {
        is_run(&json!({"message_type": "run", "kind": kind, "hostname": host, "set": set, "started": started}), &job, "h", 1000)
    };
    let (then, before) = ("1970-01-01T00:16:40.5Z", "1970-01-01T00:16:39Z");
    assert!(is("ingest", "h", "a", then));
    assert!(!is("ingest", "g", "a", then) && !is("ingest", "h", "b", then) && !is("restore", "h", "a", then));
    assert!(!is("ingest", "h", "a", before) && !is("ingest", "h", "a", ""));
}

#[test]
fn what_became_of_a_job_is_what_its_run_says_also_if_others_cannot_be_read() {
    let recovered = |script: &str, value: Value| {
        let dir = tempfile::tempdir().unwrap();
        let (setup, source) = agent(dir.path(), script);
        let job = job(value);
        let kept = ClaimMemory { claim: "claim".into(), job: Some(job.clone()), began: 1000, ended: None };
        Taker { setup: &setup, source: &source }.recovered(&job, &kept)
    };
    let ingest = || json!({"kind": "ingest", "set": "a"});
    let run = |host: &str, rest: &str| {
        let own = format!(
            r#"{{"message_type":"run","kind":"ingest","set":"a","hostname":"{host}","started":"1970-01-01T00:20:00Z",{rest}}}"#
        );
        format!("echo '{own}';")
    };
    let (other, complete) =
        (run("h", r#""state":"failed""#), run("machine", r#""state":"complete","snapshot_id":"5","bytes":7"#));
    let damaged = r#"echo '{"message_type":"damaged_runs","count":2}';"#;
    let ended = recovered(&format!("{other}{complete}{damaged}exit 1"), ingest()).unwrap();
    assert_eq!((ended.outcome, ended.exit_code, ended.message), (JobOutcome::Done, Some(0), None));
    assert_eq!((ended.snapshot.as_deref(), ended.size), (Some("5"), Some(7)));
    let ended = recovered(&run("machine", r#""state":"incomplete","message":"no""#), ingest()).unwrap();
    assert_eq!((ended.outcome, ended.exit_code, ended.message.as_deref()), (JobOutcome::Failed, Some(PARTIAL), Some("no")));
    let ended = recovered(&run("machine", r#""state":"interrupted""#), ingest()).unwrap();
    assert_eq!((ended.outcome, ended.exit_code), (JobOutcome::Failed, None));
    let ended = recovered(&format!("{damaged}exit 1"), ingest()).unwrap();
    assert!(ended.outcome == JobOutcome::Failed && ended.message.unwrap().contains("2 of its records of runs are"));
    for script in [format!("{other}{damaged}exit 1"), other.clone()] {
        let ended = recovered(&script, ingest()).unwrap();
        assert!(ended.outcome == JobOutcome::Failed && ended.message.unwrap().contains("does not say"), "{script}");
    }
    // A repository that is away is asked again, also if it went away while runs were listed.
    let e = recovered(&format!("{other}exit 1"), ingest()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io);
    let away = r#"echo '{"message_type":"exit_error","message":"it is away"}' >&2; exit 1"#;
    let e = recovered(away, ingest()).unwrap_err();
    assert!(e.kind() == ErrorKind::Io && e.to_string().ends_with("cannot be told yet: it is away"), "{e}");
}
