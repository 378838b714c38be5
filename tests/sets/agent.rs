//! The agent: what is due is run once, failures are told once, and a service is what its manager expects.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::mounted::until;
use crate::common::program;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use program::{Run, World, shown};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const HEAD: &str = "[repository]\nlocation = \"HOME/main\"\nkey-file = \"HOME/main.key\"\n";

fn configure(world: &World, text: &str) {
    world.file(".config/yester/config.toml", format!("{HEAD}{text}").replace("HOME", &shown(world.home())));
}

fn world(text: &str) -> World {
    let world = World::far_from_midnight();
    world.file("etc/one", "1");
    world.file("code", "0");
    configure(&world, text);
    world.run(&["init"]).ok();
    world
}

const DAILY: &str = r#"
[sets.a]
paths = ["HOME/etc"]
schedule = "daily"
splay = "0s"
hooks = { before = "exit $(cat HOME/code)" }
"#;

/// What a hook does until there is `go`, or nothing of the test is left.
const WAIT: &str = "until test -e HOME/go || ! test -e HOME/begun; do sleep 0.05; done";

fn snapshots(world: &World) -> Vec<Value> {
    world.run(&["snapshots", "--json"]).ok().json()
}

fn once(world: &World) -> Run {
    world.run(&["agent", "--once"])
}

fn lines(world: &World, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(world.at(name)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Makes the last run of a set one of long ago.
fn long_ago(world: &World) {
    let ids: Vec<String> = snapshots(world).iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    if !ids.is_empty() {
        world.run(&[&["forget", "--unsafe-allow-remove-all"], &ids[..]].concat()).ok();
    }
    world.run(&["ingest", "--set", "a", "--time", "2020-01-01"]).ok();
    for run in fs::read_dir(world.at("main/runs")).unwrap() {
        fs::remove_file(run.unwrap().path()).unwrap();
    }
    let _ = fs::remove_dir_all(world.at(".local/state/yester/agent"));
}

#[test]
fn what_is_due_is_run_once_and_the_repository_remembers() {
    let world = world(&format!("{DAILY}keep = {{ last = 2 }}\n"));
    world.run(&["overdue"]).fails(1, &["1 set is overdue: a"]);
    assert_eq!(world.run(&["agent", "--once", "-n"]).ok().text(), "set a is due\n");
    assert!(snapshots(&world).is_empty());
    once(&world).ok();
    assert_eq!(snapshots(&world).len(), 1);
    assert_eq!(world.run(&["agent", "--once", "-n"]).ok().text(), "");
    once(&world).ok();
    // What is remembered here may be lost.
    fs::remove_dir_all(world.at(".local/state/yester/agent")).unwrap();
    assert_eq!(world.run(&["agent", "--once", "--json"]).ok().json()[0]["state"], "already_done");
    assert_eq!(snapshots(&world).len(), 1);
    let set = world.run(&["sets", "--json"]).ok().json().pop().unwrap();
    assert_eq!((&set["name"], &set["overdue"], &set["last_state"]), (&"a".into(), &false.into(), &"complete".into()));
    assert!(set["next_due"].as_str().unwrap() > set["last_good"].as_str().unwrap(), "{set}");
    let metrics = world.run(&["sets", "--metrics"]).ok().text();
    assert!(
        metrics.contains("\",set=\"a\"} 0\n# HELP yester_set_bytes") && metrics.contains("# TYPE yester_set_overdue gauge"),
        "{metrics}"
    );
    assert!(world.run(&["overdue"]).ok().text().contains("nothing is overdue of 1 set"));

    long_ago(&world);
    world.file("etc/big", vec![b'x'; 100]);
    world.run(&["ingest", "--set", "a", "--time", "2019-01-01"]).ok();
    for run in fs::read_dir(world.at("main/runs")).unwrap() {
        fs::remove_file(run.unwrap().path()).unwrap();
    }
    fs::remove_file(world.at("etc/big")).unwrap();
    let text = world.run(&["sets"]).ok().text();
    assert!(
        text.contains("shrunk from 101 B to 1 B")
            && text.contains("2020-01-01 00:00:00")
            && text.contains("OVERDUE")
            && text.contains("now"),
        "{text}"
    );
    let run = world.run(&["overdue"]);
    assert_eq!(run.code, Some(1));
    assert!(run.text().contains("a of ") && run.text().contains("last good 2020-01-01"), "{}", run.text());
    world.run(&["ingest", "--set", "a", "--time", "2020-01-02"]).ok();
    for run in fs::read_dir(world.at("main/runs")).unwrap() {
        fs::remove_file(run.unwrap().path()).unwrap();
    }
    once(&world).ok();
    world.run(&["overdue"]).ok();
    // Two are kept.
    let times: Vec<String> = snapshots(&world).iter().map(|s| s["time"].as_str().unwrap()[..10].to_owned()).collect();
    assert!(times.len() == 2 && times[0] == "2020-01-02", "{times:?}");
}

#[test]
fn failures_are_told_once_when_they_begin_and_once_when_they_are_over() {
    let told = "[agent.notify]\ncommand = [\"sh\", \"-c\", \"cat >> HOME/told\"]\n";
    let world = world(&format!("{DAILY}{told}"));
    world.file("code", "3");
    once(&world).fails_somehow(1, &["exit status 3"]);
    once(&world).fails_somehow(1, &[]);
    let events = lines(&world, "told");
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((&events[0]["event"], &events[0]["phase"], &events[0]["set"]), (&"failed".into(), &"begin".into(), &"a".into()));
    assert!(events[0]["message"].as_str().unwrap().contains("the hook before failed: exit status 3"), "{events:?}");
    let run = world.run(&["sets", "--json"]).ok().json().pop().unwrap();
    assert_eq!(run["last_state"], "failed");
    world.file("code", "0");
    // The repository is away: that is said, and nothing is lost.
    fs::rename(world.at("main"), world.at("gone")).unwrap();
    once(&world).fails_somehow(10, &["there is no repository"]);
    assert_eq!(world.run(&["overdue"]).code, Some(10));
    fs::rename(world.at("gone"), world.at("main")).unwrap();
    once(&world).ok();
    let events = lines(&world, "told");
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!((&events[1]["event"], &events[1]["phase"]), (&"failed".into(), &"end".into()));
    assert!(events[1]["last_good"].is_string());

    // Not all of it is a failure, too; what is overdue as well, and both are over by one good run.
    long_ago(&world);
    fs::remove_file(world.at("told")).unwrap();
    configure(&world, &format!("{}{told}", DAILY.replace("HOME/etc\"", "HOME/etc\", \"HOME/nothing\"")));
    let run = once(&world);
    assert_eq!(run.code, Some(3), "{}", run.err);
    let events = |world: &World| -> Vec<String> {
        let event = |e: &Value| format!("{} {}", e["event"].as_str().unwrap(), e["phase"].as_str().unwrap());
        lines(world, "told").iter().map(event).collect()
    };
    assert_eq!(events(&world), ["failed begin", "overdue begin"]);
    world.file("nothing", "it is there again");
    let file = world.at(".local/state/yester/agent/a.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    state["done"] = 0.into();
    fs::write(&file, state.to_string()).unwrap();
    long_ago_runs(&world);
    once(&world).ok();
    assert_eq!(events(&world)[2..], ["failed end", "overdue end"]);
}

/// Makes the runs and snapshots of a set some of long ago, and leaves what the agent remembers.
fn long_ago_runs(world: &World) {
    let state = fs::read(world.at(".local/state/yester/agent/a.json")).unwrap();
    let _ = fs::remove_dir_all(world.at("main/runs"));
    fs::create_dir(world.at("main/runs")).unwrap();
    let newest = snapshots(world).pop().unwrap();
    world.run(&["forget", newest["id"].as_str().unwrap(), "--unsafe-allow-remove-all"]).ok();
    world.file(".local/state/yester/agent/a.json", state);
}

trait FailsSomehow {
    fn fails_somehow(self, code: i32, words: &[&str]);
}

impl FailsSomehow for Run {
    #[track_caller]
    fn fails_somehow(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}\n{}", self.text(), self.err);
        words.iter().for_each(|word| assert!(self.err.contains(word), "{word:?} is not in {:?}", self.err));
    }
}

#[test]
fn a_set_is_never_run_twice_at_once_and_the_worst_code_counts() {
    let more = r#"
[sets.b]
paths = ["HOME/etc"]
schedule = "every 6h"
hooks = { before = "touch HOME/begun; WAIT" }
[agent]
at-once = 2
"#;
    let world = world(&format!("{DAILY}{}", more.replace("WAIT", WAIT)));
    let first = world.command(&["agent", "--once"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until(|| world.at("begun").exists());
    // The snapshot of `a` is there before its run has ended: until then it is busy, too.
    let states = || -> Vec<[Value; 2]> {
        let run = world.run(&["agent", "--once", "--json"]).ok();
        run.json().iter().map(|line| [line["set"].clone(), line["state"].clone()]).collect()
    };
    until(|| snapshots(&world).len() == 1 && states().iter().all(|[set, _]| set != "a"));
    assert_eq!(states(), [["b".into(), Value::from("busy")]]);
    world.file("go", "");
    assert!(first.wait_with_output().unwrap().status.success());
    assert_eq!(snapshots(&world).len(), 2);

    long_ago(&world);
    configure(&world, &DAILY.replace("HOME/etc", "HOME/nothing"));
    let run = once(&world);
    assert!(run.code == Some(1) && run.err.contains("1 of 1 set that was due failed"), "{}", run.err);
}

#[test]
fn what_a_killed_agent_has_begun_is_not_begun_again() {
    let world = world(&DAILY.replace("exit $(cat HOME/code)", &format!("touch HOME/begun; {WAIT}")));
    let mut agent = world.command(&["agent", "--once"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until(|| world.at("begun").exists());
    agent.kill().unwrap();
    agent.wait().unwrap();
    let state = || world.run(&["agent", "--once", "--json"]).ok().json()[0]["state"].as_str().unwrap().to_owned();
    assert_eq!(state(), "busy");
    world.file("go", "");
    until(|| state() == "already_done");
    assert_eq!(snapshots(&world).len(), 1);
}

#[test]
fn sets_take_turns_and_a_clock_that_was_ahead_stops_nothing() {
    let set = |name: &str| {
        format!(
            "[sets.{name}]\npaths = [\"HOME/etc\"]\nschedule = \"daily\"\n[sets.{name}.hooks]\n\
             before = \"mkdir HOME/at-work || touch HOME/two\"\nalways = \"rmdir HOME/at-work\"\n"
        )
    };
    let world = world(&["a", "b", "c"].map(set).concat());
    once(&world).ok();
    assert!(snapshots(&world).len() == 3 && !world.at("two").exists());
    // What was done in the future was done before the clock was turned back.
    world.file(".local/state/yester/agent/a.json", "{\"done\": 4102444800}");
    assert_eq!(world.run(&["agent", "--once", "-n"]).ok().text(), "");
    let state: Value = serde_json::from_slice(&fs::read(world.at(".local/state/yester/agent/a.json")).unwrap()).unwrap();
    assert!(state["done"].as_i64().unwrap() < 4_102_444_800, "{state}");
    // What is no state is none.
    world.file(".local/state/yester/agent/a.json", "{\"done\": ");
    assert_eq!(world.run(&["agent", "--once", "--json"]).ok().json()[0]["state"], "already_done");
}

fn end(mut child: Child, signal: Signal) -> (Option<i32>, String) {
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (child.wait().unwrap().code(), err)
}

#[test]
fn a_service_tells_its_manager_reads_its_configuration_again_and_ends() {
    let world = world(DAILY);
    let manager = UnixDatagram::bind(world.at("notify")).unwrap();
    let heard = Arc::new(Mutex::new(Vec::<String>::new()));
    let hears = {
        let heard = heard.clone();
        move |what: &str, times: usize| {
            until(|| heard.lock().unwrap().iter().filter(|lines| lines.contains(what)).count() >= times)
        }
    };
    std::thread::spawn(move || {
        let mut bytes = [0; 1000];
        while let Ok(len) = manager.recv(&mut bytes) {
            heard.lock().unwrap().push(String::from_utf8_lossy(&bytes[..len]).into_owned());
        }
    });
    let mut command = world.command(&["agent"]);
    let child =
        command.env("NOTIFY_SOCKET", world.at("notify")).env("WATCHDOG_USEC", "20000000").stderr(Stdio::piped()).spawn().unwrap();
    let signal = |signal| kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
    hears("READY=1", 1);
    until(|| snapshots(&world).len() == 1);
    // A bad one is named, and the old one stays.
    configure(&world, &DAILY.replace("daily", "sometimes"));
    signal(Signal::HUP);
    hears("RELOADING=1", 1);
    hears("READY=1", 2);
    let wait = "[sets.b]\npaths = [\"HOME/etc\"]\nschedule = \"daily\"\nsplay = \"0s\"\n\
        hooks = { before = \"touch HOME/begun; while test -e HOME/begun; do sleep 0.05; done\" }\n";
    configure(&world, &format!("{DAILY}{wait}"));
    signal(Signal::HUP);
    until(|| world.at("begun").exists());
    hears("WATCHDOG=1", 1);
    // What runs is stopped as by Ctrl-C.
    let (code, err) = end(child, Signal::TERM);
    assert_eq!(code, Some(0), "{err}");
    for said in ["the configuration stays as it was", "\"sometimes\" is no schedule", "was read again", "set b: was stopped"] {
        assert!(err.contains(said), "{said:?} is not in {err}");
    }
    hears("STOPPING=1", 1);
    assert_eq!(snapshots(&world).len(), 1);
    assert_eq!(world.run(&["agent", "--once", "-n"]).ok().text(), "set b is due\n");
}

#[test]
fn a_webhook_gets_the_message() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hook = format!("[agent.notify]\nwebhook = \"http://{}/hook?token=x\"\n", listener.local_addr().unwrap());
    let world = world(&format!("{DAILY}{hook}"));
    world.file("code", "3");
    let serve = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut text, mut bytes) = (String::new(), [0; 4096]);
        while !text.ends_with('}') {
            let len = stream.read(&mut bytes).unwrap();
            assert!(len > 0, "it ends too early: {text}");
            text += &String::from_utf8_lossy(&bytes[..len]);
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
        (text, listener)
    });
    once(&world).fails_somehow(1, &[]);
    let (text, listener) = serve.join().unwrap();
    assert!(text.starts_with("POST /hook?token=x HTTP/1.1\r\n") && text.contains("\"event\":\"failed\""), "{text}");
    // Who cannot be told is told later.
    let address = listener.local_addr().unwrap();
    drop(listener);
    // A process that another test is starting has it until that runs a program of its own.
    until(|| TcpStream::connect(address).is_err());
    world.file("code", "0");
    let run = once(&world).ok();
    assert!(run.err.contains("nobody could be told: the webhook at 127.0.0.1 was not reached"), "{}", run.err);
}

#[test]
fn what_cannot_be_carried_out_is_an_error_and_other_hosts_are_seen() {
    let world = world(DAILY);
    for (good, bad, said) in [
        ("\"daily\"", "\"each day\"", "\"each day\" is no schedule"),
        ("\"daily\"", "\"0 0 * * * Atlantis\"", "no time zone"),
        ("\"0s\"", "\"soon\"", "no time to wait"),
    ] {
        configure(&world, &DAILY.replace(good, bad));
        world.run(&["config", "check"]).fails(2, &[said]);
    }
    for (more, said) in [
        ("[agent]\nat-once = 0\n", "1 at least"),
        ("[agent]\njobs = [\"check\"]\n", "jobs come from the server of [repository]"),
        ("[agent]\njobs = [\"drill\"]\n", "there are ingest, restore, check, forget, prune"),
        ("[agent.notify]\nwebhook = \"here\"\n", "as in https://host/path"),
        ("[agent.notify]\ncommand = [\"/nonexistent\"]\n", "there is no program"),
    ] {
        configure(&world, &format!("{DAILY}{more}"));
        world.run(&["config", "check"]).fails(2, &[said]);
    }
    configure(&world, "[sets.c]\npaths = [\"HOME/etc\"]\n");
    world.run(&["agent", "--once"]).fails(2, &["no set of the configuration has a schedule"]);
    world.run(&["overdue"]).fails(2, &["nothing can be overdue"]);
    world.run(&["sets", "x"]).fails(1, &["there is no set x"]);

    configure(&world, DAILY);
    let schedule = world.run(&["config", "check", "--json"]).ok().json().remove(0);
    assert_eq!((&schedule["name"], schedule["next_times"].as_array().unwrap().len()), (&"a".into(), 3), "{schedule}");
    assert!(world.run(&["config", "check"]).ok().text().contains("set a: 20"));
    world.run(&["ingest", "--set", "a", "--host", "far", "--time", "2020-01-01"]).ok();
    configure(&world, "[sets.c]\npaths = [\"HOME/etc\"]\n");
    let run = world.run(&["overdue", "--all", "--json"]);
    assert_eq!(run.code, Some(1), "{}", run.err);
    let line = run.json().remove(0);
    assert_eq!((&line["name"], &line["hostname"], &line["message_type"]), (&"a".into(), &"far".into(), &"overdue".into()));
    assert!(world.run(&["sets", "--all"]).ok().text().contains("far"));
}
