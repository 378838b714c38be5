//! The mail server of `docs/sets.md`, with a live Dovecot and its accounts in PostgreSQL (needs root, `dovecot-imapd`,
//! `dovecot-pgsql`, `postgresql`). Postfix does not run: its configuration is a file like others.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::postgres::{Server, on};
use crate::common::mounted::until;
use crate::common::program::{World, shown};

const DOVECOT: &str = r#"
base_dir = HOME/run
state_dir = HOME/state
log_path = HOME/dovecot.log
protocols = imap
listen = 127.0.0.1
login_trusted_networks = 10.5.0.64/32
ssl = no
first_valid_uid = 8
mail_location = maildir:~/Maildir
service imap-login {
  inet_listener imap {
    port = PORT
  }
  inet_listener imaps {
    port = 0
  }
}
passdb {
  driver = sql
  args = HOME/etc/dovecot/sql.conf.ext
}
userdb {
  driver = sql
  args = HOME/etc/dovecot/sql.conf.ext
}
"#;

const ACCOUNTS: &str = "driver = pgsql
connect = host=HOME/pg dbname=mail user=postgres
password_query = SELECT name AS user, password FROM accounts WHERE name = '%u'
user_query = SELECT 'HOME/vmail/%d/%n' AS home, 8 AS uid, 8 AS gid FROM accounts WHERE name = '%u'
iterate_query = SELECT name AS user FROM accounts
";

const ANN: &str = "ann@example.org";
const BOB: &str = "bob@example.org";

/// The set of the page, for another root directory and without systemd.
fn set() -> String {
    let page = include_str!("../../docs/sets.md");
    let example = page.split("## Example: a mail server").nth(1).unwrap();
    let mut text = example.split("```toml\n").nth(1).unwrap().split("```").next().unwrap().to_owned();
    for (from, to) in [
        ("/etc/", "HOME/etc/"),
        ("/var/vmail", "HOME/vmail"),
        ("127.0.0.1:143", "127.0.0.1:PORT"),
        ("\"unit:postfix.service\", \"unit:dovecot.service\", ", ""),
        ("\"-U\", \"postgres\"", "\"-h\", \"HOME/pg\", \"-U\", \"postgres\""),
        ("\"systemctl\", \"start\", \"dovecot\"", "\"HOME/start\""),
        ("\"systemctl\", \"start\", \"postfix\"", "\"touch\", \"HOME/started\""),
        ("\"doveadm\", ", "\"doveadm\", \"-c\", \"HOME/etc/dovecot/dovecot.conf\", "),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    text
}

/// A host with mail.
struct Host {
    world: World,
    accounts: Option<Server>,
}

impl Host {
    fn new() -> Host {
        let world = World::new();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let home = shown(world.home());
        let filled = |text: &str| text.replace("HOME", &home).replace("PORT", &port.to_string());
        fs::set_permissions(world.home(), fs::Permissions::from_mode(0o755)).unwrap();
        let repository = "[repository]\nlocation = \"HOME/main\"\nkey-file = \"HOME/main.key\"\n";
        world.file(".config/yester/config.toml", filled(&format!("{repository}{}", set())));
        world.file("etc/dovecot/dovecot.conf", filled(DOVECOT));
        world.file("etc/dovecot/sql.conf.ext", filled(ACCOUNTS));
        world.file("etc/postfix/main.cf", "myhostname = mail-old.example.org\ninet_interfaces = 10.5.0.64, 127.0.0.1\n");
        let start = world
            .file("start", filled("#!/bin/sh\nexec dovecot -c HOME/etc/dovecot/dovecot.conf < /dev/null > /dev/null 2>&1\n"));
        fs::set_permissions(start, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(world.at("vmail")).unwrap();
        assert!(Command::new("chown").arg("mail:mail").arg(world.at("vmail")).status().unwrap().success());
        world.run(&["init"]).ok();
        let mut host = Host { world, accounts: None };
        host.begin_accounts();
        host
    }

    /// A server of the database, without tables.
    fn begin_accounts(&mut self) {
        let server = Server::start(&self.world.at("pg"));
        server.ask("create database mail");
        self.accounts = Some(server);
    }

    fn accounts(&self, sql: &str) -> String {
        let output = self.accounts.as_ref().unwrap().psql(&["-d", "mail", "-c", sql]);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn doveadm(&self, args: &[&str]) -> Command {
        let mut command = Command::new("doveadm");
        command.arg("-c").arg(self.world.at("etc/dovecot/dovecot.conf")).args(args).stdin(Stdio::null());
        command
    }

    fn ask(&self, args: &[&str]) -> String {
        let output = self.doveadm(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A message comes in. Its last line says that it is whole.
    fn deliver(&self, user: &str, subject: &str) {
        let file = self.world.file("message", message(subject));
        self.ask(&["save", "-u", user, &shown(&file)]);
    }

    /// Messages for Bob, one after the other, until this is dropped.
    fn mail_comes_in(&self) -> Incoming {
        let file = self.world.file("incoming", message("incoming"));
        let conf = shown(&self.world.at("etc/dovecot/dovecot.conf"));
        let script = format!("while :; do doveadm -c {conf} save -u {BOB} {}; done", shown(&file));
        Incoming(Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).spawn().unwrap())
    }

    /// All mail of a user: where it is, by which number clients know it, how it is marked, and what it says.
    fn mail(&self, user: &str) -> String {
        let fields = "mailbox uid flags hdr.subject body";
        self.ask(&["-f", "flow", "fetch", "-u", user, fields, "all"]).replace(" \\Recent", "").replace("\\Recent", "")
    }

    fn stop(&self) {
        let pid = fs::read_to_string(self.world.at("run/master.pid")).unwrap_or_default();
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
            until(|| yester::sys::process::start_time(pid.as_raw_nonzero().get() as u32).is_none());
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}

fn message(subject: &str) -> String {
    let lines: String = (0..500).map(|n| format!("line {n} of {subject}\n")).collect();
    format!("From: a@example.net\nTo: b@example.org\nSubject: {subject}\n\n{lines}the end\n")
}

struct Incoming(Child);

impl Drop for Incoming {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_mail_server_moves_to_another_host() {
    let mut host = Host::new();
    host.accounts("create table accounts (name text primary key, password text)");
    host.accounts(&format!("insert into accounts values ('{ANN}', '{{PLAIN}}a'), ('{BOB}', '{{PLAIN}}b')"));
    assert!(Command::new(host.world.at("start")).status().unwrap().success());
    for subject in ["one", "two", "three"] {
        host.deliver(ANN, subject);
    }
    host.ask(&["mailbox", "create", "-u", ANN, "-s", "Archive"]);
    host.ask(&["flags", "add", "-u", ANN, "\\Seen \\Flagged", "mailbox", "INBOX", "subject", "one"]);
    host.ask(&["move", "-u", ANN, "Archive", "mailbox", "INBOX", "subject", "two"]);
    let vmail = shown(&host.world.at("vmail"));
    let ann = format!("{vmail}/example.org/ann");
    host.world.file("vmail/example.org/ann/.dovecot.sieve", "require \"fileinto\";\nkeep;\n");
    host.deliver(BOB, "first");
    let before = host.mail(ANN);
    assert!(before.contains("subject=one") && before.contains("\\Seen") && before.contains("mailbox=Archive"), "{before}");

    // Nothing is stopped: mail comes in while the snapshot is taken.
    let incoming = host.mail_comes_in();
    until(|| host.mail(BOB).matches("subject=incoming").count() > 3);
    let run = on(&host.world, "mail-old", "10.5.0.64", &["ingest", "--set", "mail"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    drop(incoming);
    let listed = host.world.run(&["ls", "-R", "latest"]).ok().text();
    assert!(listed.contains("dovecot-uidlist") && !listed.contains("dovecot.index"), "{listed}");

    // While the old one lives, nothing is restored over it.
    host.world.run(&["restore", "--set", "mail", "--staged"]).fails(13, &["127.0.0.1", "nothing was touched"]);

    // Another host, which has Dovecot's programs, an empty database, and the repository's key.
    host.stop();
    host.accounts = None;
    for lost in ["etc/dovecot", "etc/postfix", "vmail", "pg", "run", "state"] {
        let _ = fs::remove_dir_all(host.world.at(lost));
    }
    host.begin_accounts();
    let restore = |host: &Host, more: &[&str]| {
        let run = on(&host.world, "mail-new", "10.6.0.1", &[&["restore", "--set", "mail"], more].concat());
        assert_eq!(run.code, Some(0), "{more:?}: {}", run.err);
        run.text()
    };
    let dry = restore(&host, &["--dry-run"]);
    assert!(dry.contains("+myhostname = mail-new.example.org") && dry.contains("index all mailboxes"), "{dry}");
    let left = restore(&host, &["--next-steps"]);
    assert!(left.contains("MX and SPF records: mail-new (10.6.0.1) takes the place of mail-old (10.5.0.64)"), "{left}");
    assert!(!host.world.at("vmail").exists() && !host.world.at("started").exists());
    restore(&host, &["--staged"]);
    assert!(host.world.at("started").exists());
    let main = fs::read_to_string(host.world.at("etc/postfix/main.cf")).unwrap();
    assert_eq!(main, "myhostname = mail-new.example.org\ninet_interfaces = 10.6.0.1, 127.0.0.1\n");
    let conf = fs::read_to_string(host.world.at("etc/dovecot/dovecot.conf")).unwrap();
    assert!(conf.contains("login_trusted_networks = 10.6.0.1/32"), "{conf}");
    assert_eq!(host.accounts("select name, password from accounts order by name"), format!("{ANN}|{{PLAIN}}a\n{BOB}|{{PLAIN}}b"));

    // The same mail under the same numbers; of what came in meanwhile every message is whole.
    assert_eq!(host.mail(ANN), before);
    assert!(fs::read_to_string(format!("{ann}/.dovecot.sieve")).unwrap().contains("fileinto"));
    let bob = host.mail(BOB);
    let count = bob.matches("subject=incoming").count();
    assert!(count > 3 && bob.matches("subject=first").count() == 1, "{count}");
    assert_eq!(bob.matches("the end").count(), count + 1);
    host.deliver(BOB, "later");
    assert_eq!(host.mail(BOB).matches("subject=later").count(), 1);

    // One mailbox: what was deleted comes back, and mail of today stays.
    host.ask(&["expunge", "-u", ANN, "mailbox", "INBOX", "subject", "one"]);
    host.deliver(ANN, "today");
    host.world.run(&["restore", &format!("latest:{ann}"), "-t", &ann]).ok();
    host.ask(&["force-resync", "-u", ANN, "*"]);
    let after = host.mail(ANN);
    for subject in ["one", "two", "three", "today"] {
        assert_eq!(after.matches(&format!("subject={subject}")).count(), 1, "{subject}: {after}");
    }
}
