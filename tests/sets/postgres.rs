//! A set with a live PostgreSQL: dumped as a stream while it is written to, refused while it must not be alive, and restored
//! through psql (needs root and `postgresql`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::program;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use program::{World, shown};
use rustix::process::{Pid, Signal, kill_process};

/// The directory of the server's programs.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("postgresql is installed");
    let mut all: Vec<PathBuf> = versions.map(|version| version.unwrap().path().join("bin")).collect();
    all.retain(|dir| dir.join("initdb").exists());
    all.sort();
    all.pop().expect("a server of postgresql is installed")
}

/// A server in a directory of its own, which nobody else can reach.
struct Server {
    dir: PathBuf,
    child: Child,
}

impl Server {
    fn start(dir: &Path) -> Server {
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
        while !server.psql(&["-c", "select 1"]).status.success() {
            std::thread::yield_now();
        }
        server
    }

    fn psql(&self, args: &[&str]) -> std::process::Output {
        let mut command = Command::new("psql");
        command.arg("-h").arg(&self.dir).args(["-U", "postgres", "-qAtX", "-v", "ON_ERROR_STOP=1"]).args(args);
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn ask(&self, sql: &str) -> String {
        let output = self.psql(&["-c", sql]);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
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
