//! Many agents at one server.

use std::time::Instant;

use yester::remote::control::client::JobClient;
use yester::remote::control::{ClaimRequest, EndReport, JobKind, JobOutcome, JobStatus, NewJob};
use yester::remote::protocol::Capability;

use crate::net::support::{Server, serve_options};

/// 200 agents with a token each, and jobs for all of them: each is taken once, and nobody waits for nothing. The figures are
/// printed (`--nocapture`); `YESTER_TEST_JOBS` says how many jobs.
#[test]
fn two_hundred_agents_take_all_jobs_once() {
    let count: usize = std::env::var("YESTER_TEST_JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(400);
    const AGENTS: usize = 200;
    let scratch = tempfile::tempdir().unwrap();
    let server = Server::with(serve_options(scratch.path()));
    drop(server.storage("web"));
    let client = |capability| {
        let token = server.token(server.grant("web", &[capability]));
        JobClient::new(&server.address("web"), &server.options(&token)).unwrap()
    };
    let asker = client(Capability::Jobs);
    let agents: Vec<JobClient> = (0..AGENTS).map(|_| client(Capability::Agent)).collect();
    let began = Instant::now();
    let taken = std::thread::scope(|scope| {
        let working: Vec<_> = agents
            .iter()
            .enumerate()
            .map(|(agent, client)| {
                let wanted = count / AGENTS;
                scope.spawn(move || {
                    let mut taken = Vec::new();
                    for n in 0..wanted {
                        let claim = format!("{:032x}", agent * 100_000 + n);
                        let host = format!("h{agent}");
                        let request = ClaimRequest { host, claim: claim.clone(), kinds: vec![JobKind::Check], wait: 55 };
                        // Of so many that begin at once from one address some are cut: an agent asks again.
                        let job = std::iter::repeat_with(|| client.claim(&request).ok().flatten()).flatten().next().unwrap();
                        let (outcome, message, snapshot) = (JobOutcome::Done, None, None);
                        let end = EndReport {
                            claim,
                            outcome,
                            message,
                            snapshot,
                            size: None,
                            added: None,
                            exit_code: Some(0),
                            next_steps: Vec::new(),
                        };
                        while client.end(&job.id, &end).is_err() {}
                        taken.push(job.id);
                    }
                    taken
                })
            })
            .collect();
        for n in 0..count {
            let host = format!("h{}", n % AGENTS);
            let job = NewJob { kind: JobKind::Check, host, set: None, snapshot: None, backup: None };
            // It may be cut, too, as long as it is a stranger among so many. With a key it is the same job again.
            while asker.create(&job, Some(&n.to_string())).is_err() {}
        }
        working.into_iter().flat_map(|agent| agent.join().unwrap()).collect::<std::collections::BTreeSet<_>>()
    });
    let all = began.elapsed();
    assert_eq!(taken.len(), count);
    let mut times: Vec<_> = taken
        .iter()
        .take(500)
        .map(|id| {
            let began = Instant::now();
            assert_eq!(asker.job(id).unwrap().state, JobStatus::Done);
            began.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "{count} jobs of {AGENTS} agents in {all:?}; one shown: median {:?}, most {:?}",
        times[times.len() / 2],
        times.last()
    );
}
