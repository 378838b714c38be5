//! Killed clients, killed servers and reset connections, at random moments of ingests and restores. `YESTER_CUTS` says how
//! many; `YESTER_CUTS_SEED` where chance begins.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::program::{World, finish, shown};
use crate::net::program::{Variables, variables};
use crate::net::proxy::{FAIR, Fault, Plan, Proxy};
use crate::net::support::noise;

struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A server that can be killed.
struct Killable<'a> {
    world: &'a World,
    port: u16,
    child: Child,
}

impl<'a> Killable<'a> {
    fn start(world: &'a World) -> (Killable<'a>, String) {
        let mut command = world.command(&["serve", "--json", "--root", &shown(&world.at("root")), "--listen", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address: std::net::SocketAddr = said["address"].as_str().unwrap().parse().unwrap();
        (Killable { world, port: address.port(), child }, said["tls_fingerprint"].as_str().unwrap().to_owned())
    }

    /// The old one is gone before there is a new one, which has another port: somebody else may have taken the old one's.
    fn kill_and_start(&mut self, proxy: &Proxy) {
        let _ = (self.child.kill(), self.child.wait());
        *self = Killable::start(self.world).0;
        proxy.lead_to(self.port);
    }
}

impl Drop for Killable<'_> {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

fn spawn(world: &World, variables: &Variables, args: &[&str]) -> Child {
    let mut command = world.command(args);
    command.envs(variables.iter().cloned()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn snapshots(world: &World, variables: &Variables) -> Vec<String> {
    let listed = finish(world.command(&["snapshots", "--json"]).envs(variables.iter().cloned())).ok().json();
    listed.iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn nothing_committed_is_lost_and_the_next_run_completes() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (cuts, mut chance) = (number("YESTER_CUTS", 9), Chance(number("YESTER_CUTS_SEED", 88_172_645_463_325_252)));
    let world = World::new();
    std::fs::create_dir(world.at("root")).unwrap();
    let token =
        finish(&mut world.command(&["serve", "token", "create", "web", "--full", "-q", "--root", &shown(&world.at("root"))]));
    let token = token.ok().text().trim().to_owned();
    let (mut server, fingerprint) = Killable::start(&world);
    let proxy = Proxy::to(server.port);
    let repo = format!("https://127.0.0.1:{}/web", proxy.port);
    let key = shown(&world.at("key"));
    let variables = variables(&[
        ("YESTER_REPO", &repo),
        ("YESTER_KEY_FILE", &key),
        ("YESTER_TOKEN", &token),
        ("YESTER_TLS_FINGERPRINT", &fingerprint),
    ]);
    let run = |args: &[&str]| finish(world.command(args).envs(variables.iter().cloned()));
    run(&["init"]).ok();
    let source = shown(&world.at("src"));
    let mut committed: Vec<String> = Vec::new();
    for round in 0..cuts {
        let size = 200_000 + chance.below(3_000_000) as usize;
        world.file(&format!("src/{}", round % 12), noise(round as u8, size));
        let restores = !committed.is_empty() && chance.below(3) == 0;
        let back = shown(&world.at("back"));
        let args: &[&str] = match restores {
            true => &["restore", "-q", "latest", "--target", &back],
            false => &["ingest", "--json", &source],
        };
        let (how, moment) = (chance.below(3), Duration::from_millis(5 + chance.below(250)));
        if how == 2 {
            let fault = [Fault::Reset, Fault::Cut, Fault::Corrupt][chance.below(3) as usize];
            let (after, up) = (chance.below(size as u64), chance.below(2) == 0);
            proxy.set(Plan { fault, after, up, connections: 2 });
        }
        let mut child = spawn(&world, &variables, args);
        if how < 2 {
            std::thread::sleep(moment);
        }
        match how {
            0 => drop(child.kill()),
            1 => server.kill_and_start(&proxy),
            _ => {}
        }
        let output = child.wait_with_output().unwrap();
        proxy.set(FAIR);
        let said = format!("round {round}, how {how}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(how == 0 || output.status.success(), "{said}");
        // The next run completes, and everything that was committed is there.
        if !restores {
            let last = run(&["ingest", "--json", &source]).ok();
            for out in [&output.stdout, &last.out] {
                let lines = String::from_utf8_lossy(out);
                let parsed = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
                committed.extend(parsed.filter_map(|v| v["snapshot_id"].as_str().map(str::to_owned)));
            }
        } else {
            run(args).ok();
        }
        let seen = snapshots(&world, &variables);
        for id in &committed {
            assert!(seen.contains(id), "{said}: snapshot {id} is lost");
        }
        if round % 25 == 24 {
            run(&["check", "--read-data"]).ok();
        }
    }
    assert!(!committed.is_empty());
    // The last rounds may have been restores, and the source has changed since.
    run(&["ingest", "-q", &source]).ok();
    run(&["check", "--read-data"]).ok();
    let last = shown(&world.at("last"));
    run(&["restore", "-q", &format!("latest:{source}"), "--target", &last]).ok();
    let same = Command::new("diff").args(["-r", &source, &last]).output().unwrap();
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    run(&["prune"]).ok();
    run(&["check", "--read-data"]).ok();
}
