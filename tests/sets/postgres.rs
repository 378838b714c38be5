//! A set with a live PostgreSQL: dumped as a stream while it is written to, refused while it must not be alive, and restored
//! through psql (needs root and `postgresql`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::buckets::Growing;
use crate::common::mounted::until;
use crate::common::program;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use program::{World, shown};
use rustix::process::{Pid, Signal, kill_process};

/// The directory of the server's programs.
pub(super) fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("postgresql is installed");
    let mut all: Vec<PathBuf> = versions.map(|version| version.unwrap().path().join("bin")).collect();
    all.retain(|dir| dir.join("initdb").exists());
    all.sort();
    all.pop().expect("a server of postgresql is installed")
}

/// A server in a directory of its own, which nobody else can reach.
pub(super) struct Server {
    pub(super) dir: PathBuf,
    child: Child,
}

impl Server {
    pub(super) fn start(dir: &Path) -> Server {
        fs::create_dir(dir).unwrap();
        let run = |command: &mut Command| assert!(command.output().unwrap().status.success(), "{command:?}");
        run(Command::new("chown").arg("postgres").arg(dir));
        let as_user = |program: &str| {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(programs().join(program)).current_dir("/").stdin(Stdio::null());
            command
        };
        let data = dir.join("data");
        run(as_user("initdb").args(["-A", "trust", "-N", "-E", "UTF8", "--locale=C", "-D"]).arg(&data));
        let mut server = as_user("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(dir).args(["-c", "listen_addresses=", "-c", "fsync=off"]);
        let child = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Server { dir: dir.to_owned(), child };
        until(|| server.psql(&["-c", "select 1"]).status.success());
        server
    }

    pub(super) fn psql(&self, args: &[&str]) -> std::process::Output {
        let mut command = Command::new("psql");
        command.arg("-h").arg(&self.dir).args(["-U", "postgres", "-qAtX", "-v", "ON_ERROR_STOP=1"]).args(args);
        command.stdin(Stdio::null()).output().unwrap()
    }

    pub(super) fn ask(&self, sql: &str) -> String {
        let output = self.psql(&["-c", sql]);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// Transactions of pgbench, until this is dropped.
pub(super) struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Begins to write to the database `postgres`, in transactions that change several tables.
    pub(super) fn load(&self) -> Load {
        let bench = |args: &[&str]| {
            let mut command = Command::new(programs().join("pgbench"));
            command.arg("-h").arg(&self.dir).args(["-U", "postgres"]).args(args).arg("postgres");
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        assert!(bench(&["-i", "-q"]).status().unwrap().success());
        let load = Load(bench(&["-T", "100000", "-c", "2"]).spawn().unwrap());
        until(|| self.ask("select count(*) from pgbench_history") != "0");
        load
    }

    /// Every transaction is in all of the tables, or in none.
    pub(super) fn is_of_one_moment(&self) {
        let sums = "select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches), \
                    (select sum(delta) from pgbench_history)";
        let sums = self.ask(sums);
        let sums: Vec<&str> = sums.split('|').collect();
        assert!(sums.windows(2).all(|two| two[0] == two[1]) && !sums[0].is_empty(), "{sums:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // runuser stands between; it passes SIGTERM on, which is a smart shutdown. SIGINT to the server itself is a fast one.
        let pid = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap_or_default();
        if let Some(pid) = pid.lines().next().and_then(|line| line.parse().ok()).and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.child.wait();
    }
}

#[test]
fn a_database_is_dumped_while_it_lives_and_comes_back() {
    let world = World::new();
    fs::set_permissions(world.home(), fs::Permissions::from_mode(0o755)).unwrap();
    world.file("etc/one", "1");
    let server = Server::start(&world.at("pg"));
    let text = r#"
[repository]
location = "HOME/main"
key-file = "HOME/main.key"
[sets.db]
paths = ["HOME/etc"]
[[sets.db.streams]]
at = "/dumps/all.sql"
command = ["pg_dump", "-h", "HOME/pg", "-U", "postgres", "--clean", "--if-exists", "postgres"]
restore = ["psql", "-h", "HOME/pg", "-U", "postgres", "-qX", "-v", "ON_ERROR_STOP=1", "-1", "-f", "-", "postgres"]
[[sets.db.restore.steps]]
name = "count"
command = ["psql", "-h", "HOME/pg", "-U", "postgres", "-qX", "-c", "create table restored as select count(*) from t"]
"#;
    world.file(".config/yester/config.toml", text.replace("HOME", &shown(world.home())));
    world.run(&["init"]).ok();
    server.ask("create table t as select n, md5(n::text) as text from generate_series(1, 20000) n");
    let counted = "select count(*), md5(string_agg(text, ',' order by n)) from t";
    let before = server.ask(counted);
    let ingest = || world.run(&["ingest", "--set", "db", "--json"]).ok().json().pop().unwrap();
    let first = ingest();
    // The next dump is stored as a difference: newer versions of pg_dump write a random word at its begin and end.
    let packed = |summary: &serde_json::Value| summary["data_added_packed"].as_u64().unwrap();
    let second = ingest();
    server.ask("insert into t values (0, 'new')");
    let third = ingest();
    assert!(packed(&second) + packed(&third) < packed(&first) / 10, "{first} {second} {third}");

    // A database that is alive is not restored over.
    let id = first["snapshot_id"].as_str().unwrap();
    let socket = format!("unix:{}", shown(&world.at("pg/.s.PGSQL.5432")));
    server.ask("delete from t where n > 100");
    let damaged = server.ask(counted);
    world.run(&["restore", "--set", "db", id, "--refuse-while", &socket]).fails(13, &["something answers"]);
    assert_eq!(server.ask(counted), damaged);

    fs::write(world.at("etc/one"), "changed").unwrap();
    let run = world.run(&["restore", "--set", "db", id]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert_eq!(server.ask(counted), before);
    assert_eq!(server.ask("select count from restored"), "20000");
    assert_eq!(fs::read_to_string(world.at("etc/one")).unwrap(), "1");

    // A dump that fails is no part of the snapshot, and the set is not restored from that.
    drop(server);
    let run = world.run(&["ingest", "--set", "db"]);
    assert!(run.code == Some(3) && run.err.contains("/dumps/all.sql"), "{}", run.err);
    world.run(&["restore", "--set", "db"]).fails(1, &["nothing was touched: /dumps/all.sql failed", "--part"]);
}

/// Runs the program on a host of this name and address: in network and host name spaces of their own.
pub(super) fn on(world: &World, host: &str, address: &str, args: &[&str]) -> program::Run {
    let become_host = "import fcntl, os, socket, struct, sys
socket.sethostname(sys.argv[1])
s, flags = socket.socket(), struct.pack('16sh22x', b'lo', 0x1)
fcntl.ioctl(s, 0x8916, struct.pack('16sH2x4s16x', b'lo', socket.AF_INET, socket.inet_aton(sys.argv[2])))
fcntl.ioctl(s, 0x8914, flags)
os.execvp(sys.argv[3], sys.argv[3:])";
    let mut command = Command::new("unshare");
    command.args(["--net", "--uts", "python3", "-c", become_host, host, address, env!("CARGO_BIN_EXE_yester")]).args(args);
    command.current_dir(world.home()).stdin(Stdio::null()).env_clear().env("HOME", world.home());
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TZ", "UTC");
    program::finish(&mut command)
}

/// The set of `docs/sets.md`.
const CONTROLLER: &str = r#"
[repository]
location = "HOME/main"
key-file = "HOME/main.key"
[sets.controller]
paths = ["HOME/juju", "HOME/log", "HOME/ssh"]
changed-is-ok = ["*.log"]
[[sets.controller.streams]]
at = "/dumps/juju.sql"
command = ["pg_dump", "-h", "HOME/pg", "-U", "postgres", "--clean", "--if-exists", "postgres"]
restore = ["psql", "-h", "HOME/pg2", "-U", "postgres", "-qX", "-v", "ON_ERROR_STOP=1", "-1", "-f", "-", "postgres"]
[sets.controller.restore]
refuse-while = ["unix:HOME/pg/.s.PGSQL.5432"]
rewrite = [
    { files = ["HOME/juju/agents/*/agent.conf"], replace = "{from.address}", with = "{address}" },
    { files = ["HOME/juju/agents/*/agent.conf"], regex = '\b{from.host}\b', with = "{host}" },
    { files = ["HOME/juju/current"], replace = "{from.host}", with = "{host}" },
]
next-steps = ["juju ensure-availability -n 3: the other controllers, which this one on {host} does not know any more"]
[[sets.controller.restore.steps]]
name = "rename in the database"
command = ["HOME/rename-host"]
when = "host-changed"
"#;

#[test]
fn a_controller_moves_to_another_host() {
    let world = World::new();
    fs::set_permissions(world.home(), fs::Permissions::from_mode(0o755)).unwrap();
    world.file("juju/agents/machine-0/agent.conf", "tag: machine-0\napiaddresses: 10.5.0.64:17070\nhost: juju-old\n");
    std::os::unix::fs::symlink("/srv/juju-old/tools", world.at("juju/current")).unwrap();
    let log = world.file("log/machine-0.log", "begun\n");
    world.file("ssh/authorized_keys", "ssh-ed25519 AAAA juju@juju-old\n");
    let text = CONTROLLER.replace("HOME", &shown(world.home()));
    world.file(".config/yester/config.toml", text);
    let rename = "#!/bin/sh\nexec psql -h HOME/pg2 -U postgres -qX -v ON_ERROR_STOP=1 -v host=\"$YESTER_HOST\" -v address=\"$YESTER_ADDRESS\" \\
    -v from=\"$YESTER_FROM_HOST\" -f - postgres <<E\nupdate machines set name = :'host', address = :'address' where name = :'from'\nE\n";
    let script = world.file("rename-host", rename.replace("HOME", &shown(world.home())));
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
    world.run(&["init"]).ok();
    let server = Server::start(&world.at("pg"));
    server.ask("create table machines as select 'juju-old' as name, '10.5.0.64' as address");
    // It is written to, and so is the log, while the snapshot is taken: nothing stands still for it.
    let load = (server.load(), Growing::start(&log));
    until(|| fs::metadata(&log).unwrap().len() > 1000);
    let ingested = on(&world, "juju-old", "10.5.0.64", &["ingest", "--set", "controller"]).ok();
    drop(load);
    let snapshot = world.run(&["snapshots", "--json"]).ok().json().pop().unwrap();
    assert!(snapshot["hostname"] == "juju-old" && snapshot.get("frozen").is_none(), "{snapshot} {}", ingested.err);

    // While the first database lives, nothing is touched.
    world.file("juju/agents/machine-0/agent.conf", "of the new host");
    let restore = |more: &[&str]| on(&world, "juju-new", "10.6.0.1", &[&["restore", "--set", "controller"], more].concat());
    restore(&["--staged"]).fails(13, &["something answers at", "nothing was touched"]);
    assert_eq!(fs::read_to_string(world.at("juju/agents/machine-0/agent.conf")).unwrap(), "of the new host");
    drop(server);

    // What would be done, and what is left to do.
    let dry = restore(&["-n", "--staged"]).ok().text();
    let diff = "-apiaddresses: 10.5.0.64:17070\n-host: juju-old\n+apiaddresses: 10.6.0.1:17070\n+host: juju-new\n";
    assert!(dry.contains(diff) && dry.contains("would run for step rename in the database"), "{dry}");
    let left = restore(&["--next-steps"]).ok().text();
    assert!(left.contains("juju ensure-availability -n 3") && left.contains("on juju-new"), "{left}");

    let server = Server::start(&world.at("pg2"));
    let run = restore(&["--staged"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    let conf = fs::read_to_string(world.at("juju/agents/machine-0/agent.conf")).unwrap();
    assert_eq!(conf, "tag: machine-0\napiaddresses: 10.6.0.1:17070\nhost: juju-new\n");
    let logged = fs::read_to_string(&log).unwrap();
    assert!(logged.starts_with("begun\nanother line"), "{} bytes", logged.len());
    assert_eq!(fs::read_link(world.at("juju/current")).unwrap(), Path::new("/srv/juju-new/tools"));
    assert_eq!(fs::read_to_string(world.at("ssh/authorized_keys")).unwrap(), "ssh-ed25519 AAAA juju@juju-old\n");
    assert_eq!(server.ask("select name, address from machines"), "juju-new|10.6.0.1");
    // The dump is of one moment: every transaction is in all of its tables, or in none.
    server.is_of_one_moment();
    let run = world.run(&["runs", "show", "latest", "--json"]).ok().json().pop().unwrap();
    let rewrites = run["rewrites"].as_array().unwrap();
    assert!(rewrites.len() == 3 && rewrites.iter().any(|it| it["kind"] == "link" && it["is"] == "juju-new"), "{run}");
    assert_eq!(run["steps"].as_array().unwrap().len(), 2, "{run}");
}
