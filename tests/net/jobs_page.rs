//! A server and an agent as processes: every `curl` of docs/api.md, and `yester job`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::mounted::until;
use crate::common::program::{Run, World, finish, shown};

/// A server below `root` of a world, the repository `pg`, and the agent of the host `pg1`.
pub struct Site {
    pub world: World,
    pub server: Option<Child>,
    pub agent: Option<Child>,
    pub port: u16,
    pub token: String,
    more: Vec<String>,
}

impl Drop for Site {
    fn drop(&mut self) {
        for mut child in [self.server.take(), self.agent.take()].into_iter().flatten() {
            let _ = (child.kill(), child.wait());
        }
    }
}

impl Site {
    /// Everything but the agent runs. `sets` is the rest of the configuration, `more` are options of the server.
    pub fn new(sets: &str, more: &[&str]) -> Site {
        let world = World::new();
        fs::create_dir(world.at("root")).unwrap();
        let token = |can: &str| {
            let root = shown(&world.at("root"));
            world.run(&["serve", "token", "create", "pg", "--root", &root, "--can", can]).ok().text().trim().to_owned()
        };
        let (host, asker) = (token("put,get,list,prune,agent"), token("jobs"));
        let file = world.file("token", &host);
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        world.file("etc/one", "1");
        let more = more.iter().map(|text| (*text).to_owned()).collect();
        let mut site = Site { world, server: None, agent: None, port: 0, token: asker, more };
        site.serve();
        site.configure(sets);
        site.world.run(&["init"]).ok();
        site
    }

    pub fn configure(&self, sets: &str) {
        let pin = self.world.run(&["serve", "fingerprint", "--root", &shown(&self.world.at("root"))]).ok().text();
        let text = format!(
            "[repository]\nlocation = \"https://localhost:{}/pg\"\nkey-file = \"HOME/key\"\ntoken-file = \"HOME/token\"\n\
             tls-fingerprint = \"{}\"\n[agent]\nhost = \"pg1\"\njobs = [\"ingest\", \"restore\", \"check\", \"forget\", \"prune\"]\n{sets}",
            self.port,
            pin.trim(),
        );
        self.world.file(".config/yester/config.toml", text.replace("HOME", &shown(self.world.home())));
    }

    /// Starts the server, on the same port if it ran before.
    pub fn serve(&mut self) {
        let mut command = self.world.command(&["serve", "--json", "--listen", &format!("127.0.0.1:{}", self.port), "--root"]);
        command.arg(self.world.at("root")).args(&self.more).stdout(Stdio::piped()).stderr(self.log("server.log"));
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}, {}", self.said("server.log")));
        self.port = said["address"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
        self.server = Some(child);
    }

    pub fn start_agent(&mut self) {
        let mut command = self.world.command(&["agent"]);
        self.agent = Some(command.stdout(Stdio::null()).stderr(self.log("agent.log")).spawn().unwrap());
    }

    pub fn kill_agent(&mut self, signal: Signal) {
        let mut agent = self.agent.take().unwrap();
        kill_process(Pid::from_child(&agent), signal).unwrap();
        agent.wait().unwrap();
    }

    pub fn kill_server(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    fn log(&self, name: &str) -> fs::File {
        fs::OpenOptions::new().append(true).create(true).open(self.world.at(name)).unwrap()
    }

    pub fn said(&self, name: &str) -> String {
        fs::read_to_string(self.world.at(name)).unwrap_or_default()
    }

    /// `yester job` as whoever may ask for jobs.
    pub fn job(&self, args: &[&str]) -> Run {
        let mut command = self.world.command(&[&["job"], args].concat());
        finish(command.env("YESTER_TOKEN", &self.token))
    }

    pub fn one(&self, args: &[&str]) -> Value {
        self.job(&[args, &["--json"]].concat()).ok().json().pop().unwrap()
    }

    /// Waits until a job is in this state.
    #[track_caller]
    pub fn wait(&self, id: &str, state: &str) -> Value {
        let mut last = Value::Null;
        until(|| {
            last = self.job(&["show", id, "--json"]).json().pop().unwrap_or_default();
            last["state"] == state
        });
        last
    }

    pub fn snapshots(&self) -> usize {
        fs::read_dir(self.world.at("root/pg/snapshots")).unwrap().count()
    }

    /// Runs a script of the page.
    fn script(&self, text: &str) -> String {
        let mut command = Command::new("bash");
        command.args(["-e", "-u", "-o", "pipefail", "-c", text]).env("TOKEN", &self.token);
        command.env("API", format!("https://localhost:{}/api/v1", self.port));
        let output = command.env("CURL_CA_BUNDLE", self.world.at("root/.server/certificate.pem")).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{text}\n{out}\n{err}");
        out.into_owned()
    }
}

pub const SET: &str = "[sets.a9s-pg]\npaths = [\"HOME/etc\"]\n";

/// The blocks of a page that are for a shell.
fn blocks() -> Vec<String> {
    let page: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api.md");
    let text = fs::read_to_string(page).unwrap();
    text.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn every_curl_of_the_page_does_what_it_says() {
    let mut site = Site::new(&format!("{SET}[sets.a9s-pg.restore]\nnext-steps = [\"look at the shop of pg1\"]\n"), &[]);
    site.start_agent();
    let blocks = blocks();
    let [trigger, again, state, watch, restore, overdue, watch_restore, cancel, document] = &blocks[..] else {
        panic!("the page has {} blocks", blocks.len())
    };
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let first = read(&site.script(trigger));
    assert!(first["state"] == "queued" && first["kind"] == "ingest" && first["host"] == "pg1", "{first}");
    site.wait(first["id"].as_str().unwrap(), "done");
    let (second, same) = (read(&site.script(again)), read(&site.script(again)));
    assert!(second["id"] == same["id"] && second["id"] != first["id"], "{second} {same}");
    site.wait(second["id"].as_str().unwrap(), "done");
    let found = read(&site.script(state));
    let backups = found["backups"].as_array().unwrap();
    assert!(backups.len() == 2 && found["restores"].as_array().unwrap().is_empty(), "{found}");
    for backup in backups {
        let has = |name: &str| backup.get(name).is_some();
        assert!(["snapshot", "size", "created_at", "updated_at"].into_iter().all(has), "{backup}");
        assert!(backup["is_downloadable"] == false && backup["state"] == "done", "{backup}");
    }
    assert_eq!(site.snapshots(), 2);
    // From here on as one script, since later blocks use what earlier ones have found.
    let events =
        |text: &str| -> Vec<Value> { text.lines().filter_map(|line| line.strip_prefix("data: ")).map(read).collect::<Vec<_>>() };
    let seen = events(&site.script(watch));
    assert!(seen.last().unwrap()["state"] == "done" && seen.last().unwrap()["id"] == second["id"], "{seen:?}");
    fs::write(site.world.at("etc/one"), "other than it was").unwrap();
    let seen = site.script(&[watch, restore, watch_restore].map(String::as_str).join("\n"));
    let last = events(&seen).pop().unwrap();
    assert!(last["kind"] == "restore" && last["state"] == "done", "{seen}");
    assert_eq!(last["snapshot"], site.wait(second["id"].as_str().unwrap(), "done")["snapshot"]);
    assert_eq!(fs::read_to_string(site.world.at("etc/one")).unwrap(), "1");
    assert_eq!(last["next_steps"][0], "look at the shop of pg1", "{last}");
    // No set of this host has a schedule: it is known, and nothing of it is expected.
    until(|| read(&site.script(overdue))["hosts"][0]["host"] == "pg1");
    assert_eq!(read(&site.script(cancel))["state"], "cancelled");
    assert_eq!(read(&site.script(document))["openapi"], "3.1.0");
    assert_eq!(read(&site.script(state))["restores"].as_array().unwrap().len(), 1);
}

#[test]
fn the_program_asks_lists_follows_and_cancels() {
    let mut site = Site::new(&format!("{SET}keep = {{ last = 1 }}\n"), &[]);
    let queued = site.one(&["run", "ingest", "--host", "pg1", "--set", "a9s-pg", "--idempotency-key", "x"]);
    let id = queued["id"].as_str().unwrap();
    assert_eq!(site.one(&["run", "ingest", "--host", "pg1", "--set", "a9s-pg", "--idempotency-key", "x"])["id"], id);
    site.job(&["run", "check", "--host", "pg1", "--idempotency-key", "x"]).fails(1, &["Idempotency-Key", "another job"]);
    site.job(&["run", "check", "--host", "pg1", "--set", "a9s-pg"]).fails(2, &["leave set out"]);
    site.job(&["show", "0000000000000000"]).fails(1, &["there is no job 0000000000000000"]);
    assert!(site.job(&["list"]).ok().text().contains("queued"));
    site.start_agent();
    let followed = site.job(&["watch", &id[..6], "--json"]).ok().json();
    assert_eq!(followed.last().unwrap()["state"], "done");
    for kind in ["check", "prune"] {
        site.job(&["run", kind, "--host", "pg1", "--wait"]).ok();
    }
    site.job(&["run", "ingest", "--host", "pg1", "--set", "a9s-pg", "--wait"]).ok();
    site.job(&["run", "forget", "--host", "pg1", "--set", "a9s-pg", "--wait"]).ok();
    // What was asked for comes as an archive, for who has the key; and nothing is asked for if it cannot.
    let root = shown(&site.world.at("root"));
    let reader = site.world.run(&["serve", "token", "create", "pg", "-q", "--root", &root, "--can", "jobs,get,list"]);
    let reader = reader.ok().text().trim().to_owned();
    let with_file = |file: &str, more: &[&str]| {
        let args = ["job", "run", "ingest", "--host", "pg1", "--set", "a9s-pg", "--filename", file];
        finish(site.world.command(&[&args, more].concat()).env("YESTER_TOKEN", &reader))
    };
    with_file("all.zip", &[]).ok();
    assert!(fs::read(site.world.at("all.zip")).unwrap().starts_with(b"PK"));
    let count = site.job(&["list", "--json"]).ok().json().len();
    with_file("all.zip", &[]).fails(1, &["all.zip is there already"]);
    with_file("other.tar", &["--no-download"]).fails(2, &["--no-download"]);
    site.job(&["run", "check", "--host", "pg1", "--filename", "x.tar"]).fails(2, &["makes none"]);
    assert_eq!(site.job(&["list", "--json"]).ok().json().len(), count);
    // One was forgotten, and the job that made it says so.
    assert_eq!(site.one(&["show", id])["state"], "deleted");
    let deleted = site.job(&["list", "--state", "deleted", "--json"]).ok().json();
    assert!(deleted.len() == 1 && deleted[0]["id"] == id, "{deleted:?}");
    assert_eq!(site.job(&["list", "--json", "--latest", "2"]).ok().json().len(), 2);
    // What the host does not know or take fails there, and says why.
    site.job(&["run", "ingest", "--host", "pg1", "--set", "../x", "--wait"]).fails(1, &["the host has no set ../x"]);
    let later = site.one(&["run", "ingest", "--host", "elsewhere", "--set", "a9s-pg"]);
    assert!(site.job(&["cancel", later["id"].as_str().unwrap()]).ok().text().contains("is cancelled"));
    site.job(&["cancel", id]).fails(1, &["nothing to cancel"]);
    site.kill_agent(Signal::TERM);
    let said = site.said("agent.log");
    assert!(said.contains("the agent has ended"), "{said}");
}
