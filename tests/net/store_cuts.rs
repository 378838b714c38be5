//! Ingests, copies, forgets and prunes in an object store that are killed, or whose connections are cut, at random moments.
//! After each every snapshot is read whole and compared. `YESTER_STORE_CUTS` says how many; `YESTER_CUTS_SEED` where chance
//! begins. With `--nocapture` it says at the end what happened.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use yester::chunk::keys::Credential;
use yester::model::SnapshotId;
use yester::remote::s3::S3Storage;
use yester::repo::index::Index;
use yester::repo::reader::ChunkReader;
use yester::repo::tree::TreeReader;
use yester::repo::{Repository, snapshots};

use crate::common::program::{World, shown};
use crate::common::s3::S3Server;
use crate::common::trees::capture::{self, Births, Tree, assert_same};
use crate::net::program::{Variables, run, variables};
use crate::net::proxy::{FAIR, Fault, Plan, Proxy};
use crate::net::store::{address, options};
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

/// What a round does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    Ingest,
    Copy,
    Forget,
    Prune,
    ForgetAndPrune,
}

const DEEDS: [Deed; 8] =
    [Deed::Ingest, Deed::Ingest, Deed::Ingest, Deed::Copy, Deed::Copy, Deed::Forget, Deed::Prune, Deed::ForgetAndPrune];

/// How many snapshots are kept, at least.
const KEPT: usize = 3;

/// Two repositories in one store, with and without a proxy before it.
struct Campaign {
    world: World,
    server: S3Server,
    proxy: Proxy,
    /// What each snapshot of `web` holds, and those that are known to be committed.
    expected: BTreeMap<SnapshotId, Tree>,
    told: BTreeMap<(Deed, &'static str), usize>,
    compared: usize,
}

impl Campaign {
    fn new() -> Campaign {
        let (world, server) = (World::new(), S3Server::start());
        let proxy = Proxy::to(server.port);
        let campaign = Campaign { world, server, proxy, expected: BTreeMap::new(), told: BTreeMap::new(), compared: 0 };
        ["web", "copy"].iter().for_each(|name| drop(campaign.run(name, &["init"])));
        campaign
    }

    fn variables(&self, name: &str, port: u16) -> Variables {
        let repo = format!("s3:http://127.0.0.1:{port}/bucket/{name}");
        let from = format!("s3:http://127.0.0.1:{port}/bucket/web");
        let [key, other] = [name, "web"].map(|name| shown(&self.world.at(&format!("{name}.key"))));
        variables(&[
            ("YESTER_REPO", &repo),
            ("YESTER_KEY_FILE", &key),
            ("YESTER_FROM_REPO", &from),
            ("YESTER_FROM_KEY_FILE", &other),
            ("AWS_ACCESS_KEY_ID", "AK"),
            ("AWS_SECRET_ACCESS_KEY", "SK"),
            ("AWS_REGION", "default"),
        ])
    }

    #[track_caller]
    fn run(&self, name: &str, args: &[&str]) -> crate::common::program::Run {
        run(&self.world, &self.variables(name, self.server.port), args).ok()
    }

    fn spawn(&self, name: &str, args: &[&str]) -> Child {
        let mut command = self.world.command(args);
        command.envs(self.variables(name, self.proxy.port)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn open(&self, name: &str) -> Arc<Repository> {
        let storage = S3Storage::open(&address(&self.server.address(name)), &options()).unwrap();
        let key = std::fs::read_to_string(self.world.at(&format!("{name}.key"))).unwrap();
        let key = Credential::KeyFile(yester::model::id::from_hex(key.trim()).unwrap());
        Arc::new(Repository::open(Arc::new(storage), &key).unwrap())
    }

    /// Runs a command that is killed or meets a cut.
    fn disturbed(&self, chance: &mut Chance, name: &str, args: &[&str], length: Duration) -> (&'static str, Output) {
        let kills = chance.below(3) > 0;
        if !kills {
            let fault = [Fault::Reset, Fault::Cut, Fault::Truncate][chance.below(3) as usize];
            let up = chance.below(2) == 0;
            let after = chance.below(if up { 400_000 } else { 20_000 });
            self.proxy.set(Plan { fault, after, up, connections: 1 + chance.below(3) as usize });
        }
        let mut child = self.spawn(name, args);
        if kills {
            std::thread::sleep(length.mul_f64(chance.below(1000) as f64 / 1000.0));
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        self.proxy.set(FAIR);
        let what = match (kills, output.status.signal()) {
            (true, Some(_)) => "killed",
            (true, None) => "ended before the kill",
            (false, _) if output.status.success() => "cut, and done",
            // Packs of which nobody can tell are sent again a few times, and every connection may have met the cut.
            (false, _) => "cut, and given up",
        };
        (what, output)
    }

    /// Every snapshot of a repository is whole, and holds what was ingested. Answers their ids.
    fn look(&mut self, name: &str, said: &str, pending: Option<&Tree>) -> Vec<SnapshotId> {
        let source = self.world.at("src");
        let base: Vec<&[u8]> = source.iter().skip(1).map(OsStrExt::as_bytes).collect();
        self.run(name, &["check", "--read-data"]);
        let repo = self.open(name);
        let found = snapshots::list(&repo).unwrap();
        let index = Arc::new(Index::load(&repo).unwrap());
        let chunks = Arc::new(ChunkReader::new(repo, index, 32 << 20).unwrap());
        let trees = Arc::new(TreeReader::new(chunks, 8 << 20).unwrap());
        for snapshot in &found {
            let original = snapshot.composition.origin.map_or(snapshot.id, |origin| origin.snapshot);
            let expected = self.expected.entry(original).or_insert_with(|| {
                // A snapshot that was committed before the kill, of which nobody heard.
                pending.unwrap_or_else(|| panic!("{said}: snapshot {original} came of nothing")).clone()
            });
            assert_same(expected, &capture::snapshot(&trees, snapshot, &base), Births::All, said);
            self.compared += 1;
        }
        found.iter().map(|snapshot| snapshot.id).collect()
    }
}

#[test]
fn whatever_is_killed_or_cut_every_snapshot_is_whole() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (rounds, mut chance) = (number("YESTER_STORE_CUTS", 8), Chance(number("YESTER_CUTS_SEED", 88_172_645_463_325_252)));
    let mut campaign = Campaign::new();
    let source = shown(&campaign.world.at("src"));
    let keep = KEPT.to_string();
    // How long a deed takes, at most, so far: moments are chosen within.
    let mut lengths: BTreeMap<Deed, Duration> = BTreeMap::new();
    let mut before: BTreeMap<&str, Vec<SnapshotId>> = BTreeMap::new();
    for round in 0..rounds {
        let deed = if round < 2 { Deed::Ingest } else { DEEDS[chance.below(DEEDS.len() as u64) as usize] };
        let name = match deed {
            Deed::Copy => "copy",
            Deed::Ingest => "web",
            _ => ["web", "web", "copy"][chance.below(3) as usize],
        };
        if deed == Deed::Ingest {
            for _ in 0..1 + chance.below(6) {
                let (file, size) = (chance.below(24), chance.below(400_000) as usize);
                campaign.world.file(&format!("src/{}/{file}", file % 5), noise(chance.below(256) as u8, size));
            }
        }
        let args: &[&str] = match deed {
            Deed::Ingest => &["ingest", "-q", &source],
            Deed::Copy => &["copy", "-q"],
            Deed::Forget => &["forget", "-q", "--keep-last", &keep],
            Deed::Prune => &["prune", "-q"],
            Deed::ForgetAndPrune => &["forget", "-q", "--keep-last", &keep, "--prune"],
        };
        let pending = (deed == Deed::Ingest).then(|| capture::directory(&campaign.world.at("src")));
        let length = lengths.get(&deed).copied().unwrap_or(Duration::from_millis(600));
        let began = Instant::now();
        let (what, output) = campaign.disturbed(&mut chance, name, args, length);
        if output.status.success() {
            lengths.insert(deed, began.elapsed().min(Duration::from_secs(5)));
        }
        *campaign.told.entry((deed, what)).or_default() += 1;
        let said = format!("round {round}, {deed:?} in {name}, {what}: {}", String::from_utf8_lossy(&output.stderr));
        let after = campaign.look(name, &said, pending.as_ref());
        let forgets = matches!(deed, Deed::Forget | Deed::ForgetAndPrune);
        let old = before.remove(name).unwrap_or_default();
        // In the order of their making: the last ones are kept by every policy here.
        let stay = if forgets { &old[old.len().saturating_sub(KEPT)..] } else { &old[..] };
        assert!(stay.iter().all(|id| after.contains(id)), "{said}: a snapshot is lost: {old:?} {after:?}");
        assert!(deed != Deed::Ingest || !output.status.success() || after.len() == old.len() + 1, "{said}: none was made");
        before.insert(name, after);
        if round % 25 == 24 {
            println!("{} rounds", round + 1);
        }
    }
    // Nothing has to be mended: the next run of everything does it all.
    for (name, args) in
        [("web", &["ingest", "-q", &source][..]), ("copy", &["copy", "-q"]), ("web", &["prune"]), ("copy", &["prune"])]
    {
        campaign.run(name, args);
    }
    let pending = capture::directory(&campaign.world.at("src"));
    ["web", "copy"].iter().for_each(|name| drop(campaign.look(name, "at the end", Some(&pending))));
    for ((deed, what), count) in &campaign.told {
        println!("{deed:?}: {what}: {count}");
    }
    println!("{rounds} rounds, {} snapshots compared", campaign.compared);
}
