//! The built program with its repository in a directory, on a server over TLS, and over ssh to an sshd of our own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::common::mounted::taken_away;
use crate::common::program::{Run, World, finish, shown};
use crate::common::sshd;
use crate::net::support::{FULL, Server};

/// Where the repository is, as the environment says it.
pub type Variables = Vec<(String, String)>;

pub fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub fn run(world: &World, variables: &Variables, args: &[&str]) -> Run {
    finish(world.command(args).envs(variables.iter().cloned()))
}

#[track_caller]
fn same(a: &Path, b: &Path) {
    let output = Command::new("diff").args(["-r", "--no-dereference"]).args([a, b]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn source(world: &World) -> PathBuf {
    for n in 0..200 {
        world.file(&format!("src/{}/{n}", n % 7), format!("file {n} ").repeat(n * 10));
    }
    world.file("src/big", crate::net::support::noise(1, 5 << 20));
    std::os::unix::fs::symlink("big", world.at("src/link")).unwrap();
    world.at("src")
}

/// Every command once, with what it must show.
pub fn every_command(world: &World, variables: &Variables) {
    let source = source(world);
    let text = shown(&source);
    let run = |args: &[&str]| self::run(world, variables, args);
    run(&["ingest", &text]).fails(10, &["no repository"]);
    run(&["init"]).ok();
    run(&["init"]).fails(1, &["already"]);
    run(&["ingest", "-q", &text]).ok();
    std::fs::write(source.join("big"), crate::net::support::noise(2, 5 << 20)).unwrap();
    run(&["ingest", "-q", &text]).ok();
    assert_eq!(run(&["snapshots", "--json"]).ok().json().len(), 2);
    assert!(run(&["ls", &format!("latest:{text}")]).ok().text().contains("link"));
    assert!(run(&["cat", &format!("latest~1:{text}/big")]).ok().out == crate::net::support::noise(1, 5 << 20));
    let past = world.at("past");
    std::fs::create_dir(&past).unwrap();
    run(&["mount", &shown(&past)]).ok();
    same(&source, &past.join(format!("latest{text}")));
    taken_away(|| run(&["umount", &shown(&past)]));
    run(&["restore", "-q", &format!("latest:{text}"), "--target", &shown(&world.at("back"))]).ok();
    same(&source, &world.at("back"));
    run(&["check", "--read-data"]).ok();
    run(&["key", "add", "--new-key-file", &shown(&world.at("key2"))]).ok();
    assert!(run(&["key", "list", "--json"]).ok().json().len() >= 2);
    let recovery = run(&["key", "export"]).ok().text();
    let recovery = world.file("recovery", recovery);
    let recovered = finish(
        world
            .command(&["key", "recover", &shown(&recovery), "--new-key-file", &shown(&world.at("key3"))])
            .envs(variables.iter().filter(|(name, _)| name != "YESTER_KEY_FILE").cloned()),
    );
    recovered.ok();
    run(&["forget", "--keep-last", "1", "--prune"]).ok();
    assert_eq!(run(&["snapshots", "--json"]).ok().json().len(), 1);
    run(&["repair", "index"]).ok();
    run(&["stats"]).ok();
    run(&["prune"]).ok();
    run(&["check", "--read-data"]).ok();
    run(&["ingest", "-q", &text]).ok();
}

#[test]
fn every_command_on_a_directory() {
    let world = World::new();
    let repo = shown(&world.at("repo"));
    every_command(&world, &variables(&[("YESTER_REPO", &repo), ("YESTER_KEY_FILE", &shown(&world.at("key")))]));
}

/// A server for the program, and what the program needs to know of it.
pub fn served(world: &World) -> (Server, Variables) {
    let server = Server::start(&world.at("root"));
    let token = server.token(server.grant("web", &FULL));
    let repo = server.address("web").to_string();
    let fingerprint = server.fingerprint.unwrap().to_string();
    let key = shown(&world.at("key"));
    let pairs =
        [("YESTER_REPO", &*repo), ("YESTER_KEY_FILE", &key), ("YESTER_TOKEN", &token), ("YESTER_TLS_FINGERPRINT", &fingerprint)];
    (server, variables(&pairs))
}

#[test]
fn every_command_on_a_server() {
    let world = World::new();
    let (_server, variables) = served(&world);
    every_command(&world, &variables);
    // The index was read from copies on this disk.
    assert!(std::fs::read_dir(world.at(".cache/yester")).unwrap().count() == 1);
}

#[test]
fn a_time_that_the_server_does_not_believe_is_shown() {
    let world = World::new();
    let (_server, variables) = served(&world);
    let file = shown(&world.file("a", "content"));
    run(&world, &variables, &["init"]).ok();
    run(&world, &variables, &["ingest", "-q", &file]).ok();
    assert!(!run(&world, &variables, &["snapshots"]).ok().text().contains("received"));
    run(&world, &variables, &["ingest", "-q", "--time", "2031-01-01", &file]).ok();
    run(&world, &variables, &["ingest", "-q", "--time", "2001-01-01", &file]).ok();
    let text = run(&world, &variables, &["snapshots"]).ok().text();
    assert_eq!(text.matches("(received 20").count(), 2, "{text}");
    let listed = run(&world, &variables, &["snapshots", "--json"]).ok().json();
    assert!(listed.iter().all(|snapshot| snapshot["received"].is_string()), "{listed:?}");
}

#[test]
fn trees_are_read_from_copies_that_may_be_anything() {
    let world = World::new();
    let (_server, variables) = served(&world);
    let source = shown(&source(&world));
    run(&world, &variables, &["init"]).ok();
    run(&world, &variables, &["ingest", "-q", &source]).ok();
    let list = || run(&world, &variables, &["ls", "-R", "-l", "latest"]).ok().text();
    let first = list();
    let cache = std::fs::read_dir(world.at(".cache/yester")).unwrap().next().unwrap().unwrap().path();
    let copies = || -> Vec<PathBuf> {
        ["trees", "index"].iter().flat_map(|d| std::fs::read_dir(cache.join(d)).unwrap().map(|e| e.unwrap().path())).collect()
    };
    assert!(copies().len() >= 2, "nothing was kept");
    for change in [|bytes: &mut Vec<u8>| bytes.iter_mut().for_each(|b| *b ^= 1), |bytes: &mut Vec<u8>| bytes.truncate(100)] {
        for path in copies() {
            let mut bytes = std::fs::read(&path).unwrap();
            change(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
        }
        assert_eq!(list(), first);
    }
    run(&world, &variables, &["check"]).ok();
}

#[test]
fn a_mount_hands_its_token_on_and_shows_it_to_nobody() {
    let world = World::new();
    let (_server, variables) = served(&world);
    let file = world.file("a", "content");
    run(&world, &variables, &["init"]).ok();
    run(&world, &variables, &["ingest", "-q", &shown(&file)]).ok();
    let past = world.at("past");
    std::fs::create_dir(&past).unwrap();
    let mounted = run(&world, &variables, &["mount", "--json", &shown(&past)]).ok().json();
    let pid = mounted[0]["pid"].as_u64().unwrap();
    let token = &variables.iter().find(|(name, _)| name == "YESTER_TOKEN").unwrap().1;
    for place in ["cmdline", "environ"] {
        let seen = std::fs::read(format!("/proc/{pid}/{place}")).unwrap();
        assert!(!seen.windows(token.len()).any(|part| part == token.as_bytes()), "the token is in /proc/{pid}/{place}");
    }
    assert_eq!(std::fs::read(past.join(format!("latest{}", file.display()))).unwrap(), b"content");
    taken_away(|| run(&world, &variables, &["umount", &shown(&past)]));
}

#[test]
fn a_token_comes_from_a_file_or_a_command_and_never_from_the_name() {
    let world = World::new();
    let (_server, variables) = served(&world);
    run(&world, &variables, &["init"]).ok();
    let token = variables.iter().find(|(name, _)| name == "YESTER_TOKEN").unwrap().1.clone();
    let without: Variables = variables.iter().filter(|(name, _)| name != "YESTER_TOKEN").cloned().collect();
    let with = |name: &str, value: &str| {
        let mut all = without.clone();
        all.push((name.to_owned(), value.to_owned()));
        run(&world, &all, &["snapshots"])
    };
    let file = world.file("token", format!("{token}\n"));
    with("YESTER_TOKEN_FILE", &shown(&file)).ok();
    with("YESTER_TOKEN_COMMAND", &format!("cat {}", file.display())).ok();
    with("YESTER_TOKEN_COMMAND", "exit 3").fails(12, &["token command failed"]);
    with("YESTER_TOKEN", "geheim").fails(12, &["no token"]);
    run(&world, &without, &["snapshots"]).fails(12, &["YESTER_TOKEN"]);
    let name = format!("https://{token}@127.0.0.1:1/web");
    let said = run(&world, &without, &["--repo", &name, "snapshots"]).fails(2, &["YESTER_TOKEN"]);
    assert!(!said.err.contains(&token));
}

/// An sshd on loopback for the user who runs this; ended when it goes.
pub struct Sshd {
    child: Child,
    directory: PathBuf,
    port: u16,
}

fn tool(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Sshd {
    pub fn start(directory: &Path) -> Sshd {
        std::fs::create_dir_all(directory).unwrap();
        let at = |name: &str| shown(&directory.join(name));
        for key in ["host", "user", "forced"] {
            tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &at(key)]);
        }
        std::fs::copy(directory.join("user.pub"), directory.join("authorized")).unwrap();
        let (child, port) = sshd::start(directory, |port| {
            format!(
                "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
                 PidFile none\nPasswordAuthentication no\nPermitRootLogin yes\n",
                at("host"),
                at("authorized")
            )
        });
        for key in ["user", "forced"] {
            let config = format!(
                "Host there\nHostName 127.0.0.1\nPort {port}\nIdentityFile {}\nIdentitiesOnly yes\nUserKnownHostsFile /dev/null\n\
                 StrictHostKeyChecking no\nLogLevel ERROR\nBatchMode yes\n",
                at(key)
            );
            std::fs::write(directory.join(format!("config-{key}")), config).unwrap();
        }
        Sshd { child, directory: directory.to_owned(), port }
    }

    /// Lets the second key run this command and nothing else.
    fn force(&self, command: &str) {
        let read = |name: &str| std::fs::read_to_string(self.directory.join(name)).unwrap();
        let lines = format!("{}restrict,command=\"{command}\" {}", read("user.pub"), read("forced.pub"));
        std::fs::write(self.directory.join("authorized"), lines).unwrap();
    }

    fn variables(&self, repo: &Path, key: &str, repository_key: &Path) -> Variables {
        let ssh = format!("ssh -F {}", self.directory.join(format!("config-{key}")).display());
        variables(&[
            ("YESTER_REPO", &format!("ssh://there{}", repo.display())),
            ("YESTER_KEY_FILE", &shown(repository_key)),
            ("YESTER_SSH_COMMAND", &ssh),
            ("YESTER_REMOTE_PROGRAM", env!("CARGO_BIN_EXE_yester")),
        ])
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

#[test]
fn every_command_over_ssh() {
    let world = World::new();
    let sshd = Sshd::start(&world.at("sshd"));
    assert!(sshd.port > 0);
    every_command(&world, &sshd.variables(&world.at("repo"), "user", &world.at("key")));
}

#[test]
fn a_forced_command_appends_in_its_place_and_nothing_else() {
    let world = World::new();
    let sshd = Sshd::start(&world.at("sshd"));
    let (mine, other) = (world.at("backups/mine"), world.at("other"));
    std::fs::create_dir(world.at("backups")).unwrap();
    let program = env!("CARGO_BIN_EXE_yester");
    sshd.force(&format!("{program} serve --stdio --restrict-to {} --append-only", world.at("backups").display()));
    let key = world.at("key");
    let forced = sshd.variables(&mine, "forced", &key);
    let file = world.file("a", "content");
    run(&world, &forced, &["init"]).ok();
    run(&world, &forced, &["ingest", "-q", &shown(&file)]).ok();
    run(&world, &forced, &["ingest", "-q", &shown(&file)]).ok();
    let kept = run(&world, &forced, &["forget", "--keep-last", "1"]);
    assert!(kept.code == Some(3) && kept.err.contains("may not create forgotten/"), "{kept:?}");
    let outside = sshd.variables(&other, "forced", &key);
    run(&world, &outside, &["init"]).fails(1, &["--restrict-to"]);
    // Whoever has the whole account sees both snapshots.
    let whole = sshd.variables(&mine, "user", &key);
    assert_eq!(run(&world, &whole, &["snapshots", "--json"]).ok().json().len(), 2);
    run(&world, &whole, &["forget", "--keep-last", "1", "--prune"]).ok();
}

#[test]
fn what_a_client_needs_is_printed() {
    let world = World::new();
    let (server, mut variables) = served(&world);
    let root = shown(&world.at("root"));
    let pin = server.fingerprint.unwrap().to_string();
    assert_eq!(world.run(&["serve", "fingerprint", "--root", &root]).ok().text(), format!("{pin}\n"));
    let given = shown(&world.at("root/.server/certificate.pem"));
    assert_eq!(world.run(&["serve", "fingerprint", "--tls-cert", &given]).ok().text(), format!("{pin}\n"));
    world.run(&["serve", "fingerprint", "--root", &shown(&world.home().join("new"))]).fails(1, &["first starts"]);
    // The token alone is on standard output; the rest can be pasted.
    let made = world.run(&["serve", "token", "create", "web", "--root", &root]).ok();
    assert!(yester::remote::tokens::is_token(made.text().trim_end()), "{}", made.text());
    for line in ["YESTER_REPO=https://", ":7070/web", "YESTER_TOKEN_FILE=", &format!("YESTER_TLS_FINGERPRINT={pin}")] {
        assert!(made.err.contains(line), "{}", made.err);
    }
    let quiet = world.run(&["serve", "token", "create", "web", "--append-only", "--root", &root, "-q"]).ok();
    assert_eq!(quiet.err, "");
    // Without a pin, the error shows what there was to be pinned, and with that it works.
    variables.retain(|(name, _)| name != "YESTER_TLS_FINGERPRINT");
    let said = run(&world, &variables, &["init"]).fails(1, &["cannot be trusted", "yester serve fingerprint", &pin]);
    let from = said.err.find("--tls-fingerprint ").unwrap() + "--tls-fingerprint ".len();
    let offered = &said.err[from..from + 64];
    run(&world, &variables, &["init", "--tls-fingerprint", offered]).ok();
}

#[test]
fn an_ssh_that_is_refused_is_tried_once() {
    let world = World::new();
    let count = world.at("count");
    let script = world.file("ssh.sh", format!("echo once >> {}\nexit 255\n", count.display()));
    let variables = variables(&[
        ("YESTER_REPO", "ssh://nobody@nowhere/repo"),
        ("YESTER_KEY_FILE", &shown(&world.at("key"))),
        ("YESTER_SSH_COMMAND", &format!("sh {}", script.display())),
    ]);
    run(&world, &variables, &["snapshots"]).fails(1, &["did not get in"]);
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "once\n");
}

#[test]
fn a_host_is_a_host_for_forget_too() {
    let world = World::new();
    let options = world.repository();
    let file = shown(&world.file("a", "content"));
    let run = |args: &[&str]| world.run(&[options.iter().map(String::as_str).collect::<Vec<_>>(), args.to_vec()].concat());
    for host in ["one", "two", "one"] {
        run(&["ingest", "-q", "--host", host, &file]).ok();
    }
    let kept = run(&["forget", "--json", "-H", "one", "--keep-last", "1"]).ok().json();
    let summary = kept.last().unwrap();
    assert_eq!(summary["snapshots_forgotten"].as_array().unwrap().len(), 1, "{summary}");
    assert_eq!(run(&["snapshots", "--json"]).ok().json().len(), 2);
    assert_eq!(run(&["forget", "--keep-hourly", "1"]).ok().code, Some(0));
}
