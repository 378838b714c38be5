//! `key`: slots, the copies of what everything depends on, the recovery text, and where secrets are seen.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::program;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::common::record::RecordingStorage;
use program::{Run, World, finish, shown, with};
use serde_json::Value;
use yester::chunk::keys::Credential;
use yester::format::config::Derivation;
use yester::keys::keyring::KeyRing;
use yester::keys::slots::SlotOptions;
use yester::model::Timestamp;
use yester::storage::directory::DirectoryStorage;

const SECRET: &str = "horse staple geheim";

/// A repository that the key file `key` opens, and the passphrase in the file `words`, with a snapshot of `src/file`.
struct Fixture {
    world: World,
}

impl Fixture {
    fn new() -> Fixture {
        let world = World::new();
        let options = world.repository();
        world.file("words", format!("{SECRET}\n"));
        world.file("src/file", "content");
        let fixture = Fixture { world };
        fixture.world.run(&with(&options, &["ingest", "src"])).ok();
        fixture.file(&["key", "add", "--new-password-file", "words", "--label", "paper \u{1b} bag"]).ok();
        fixture
    }

    /// With the key file.
    fn file(&self, args: &[&str]) -> Run {
        self.world.run(&[&["--repo", "repo", "--key-file", "key"], args].concat())
    }

    /// With the passphrase.
    fn words(&self, args: &[&str]) -> Run {
        self.world.run(&[&["--repo", "repo", "--password-file", "words"], args].concat())
    }

    /// The slots that `key list` shows, with what each is.
    fn slots(&self, credential: [&str; 2]) -> Vec<Value> {
        let args = [&["--repo", "repo"][..], &credential, &["key", "list", "--json"]].concat();
        let run = self.world.run(&args).ok();
        run.json().into_iter().filter(|line| line["message_type"] == "key_slot").collect()
    }

    /// The id of the slot of this kind.
    fn slot(&self, kind: &str) -> String {
        let slots = self.slots(["--key-file", "key"]);
        let found = slots.iter().find(|slot| slot["kind"] == kind).unwrap_or_else(|| panic!("no {kind} in {slots:?}"));
        found["id"].as_str().unwrap().to_owned()
    }

    /// Every file of `config/` and `keys/`.
    fn precious(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let all = ["config", "keys"].map(|class| fs::read_dir(self.world.at("repo").join(class)).unwrap());
        all.into_iter().flatten().map(|entry| entry.unwrap().path()).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    fn recovery_text(&self) -> String {
        self.file(&["key", "export"]).ok().text()
    }
}

/// The numbered lines of a recovery text.
fn numbered(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()) && line.contains(':')).collect()
}

#[test]
fn slots_of_both_kinds_are_listed() {
    let fixture = Fixture::new();
    let text = fixture.words(&["key", "list"]).ok().text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    for column in ["ID", "Kind", "Created", "Copies", "Label"] {
        assert!(lines[0].contains(column), "{text}");
    }
    let marked: Vec<&&str> = lines.iter().filter(|line| line.trim_start().starts_with('*')).collect();
    assert!(marked.len() == 1 && marked[0].contains("passphrase") && marked[0].contains("paper \\u{1b} bag"), "{text}");
    assert_eq!(text.matches("3 of 3 good").count(), 2);
    for (credential, kind) in [(["--key-file", "key"], "key file"), (["--password-file", "words"], "passphrase")] {
        let slots = fixture.slots(credential);
        assert_eq!(slots.len(), 2);
        let current: Vec<&Value> = slots.iter().filter(|slot| slot["current"] == true).collect();
        assert!(current.len() == 1 && current[0]["kind"] == kind, "{slots:?}");
        assert_eq!(current[0]["good_copies"], 3);
        assert_eq!(current[0]["copies"].as_array().unwrap().len(), 3);
    }
    let all = fixture.file(&["key", "list", "--json"]).ok().json();
    assert_eq!(all.last().unwrap()["message_type"], "configuration");
    fixture.world.run(&["--repo", "repo", "key", "list"]).fails(12, &["no terminal"]);
    fixture.world.run(&["key", "list"]).fails(10, &[]);
    fixture.file(&["key"]).fails(2, &["subcommand"]);
}

#[test]
fn new_keys_come_from_options_and_variables() {
    let fixture = Fixture::new();
    let world = &fixture.world;
    world.file("second", "second words\n");
    // A key file is made where there is none, and used where there is one.
    let said = fixture.file(&["key", "add", "--new-key-file", "keys/new"]).ok().text();
    assert!(said.contains(&shown(&world.at("keys/new"))) && said.contains("safe place"), "{said}");
    let made = fs::read(world.at("keys/new")).unwrap();
    let said = fixture.file(&["key", "add", "--new-key-file", "keys/new"]).ok().text();
    assert!(!said.contains("safe place") && fs::read(world.at("keys/new")).unwrap() == made, "{said}");
    world.run(&["--repo", "repo", "--key-file", "keys/new", "snapshots"]).ok();
    let add = |variables: &[(&str, &str)], args: &[&str]| {
        world.run_with(variables, &[&["--repo", "repo", "--key-file", "key", "key", "add"], args].concat())
    };
    let opens = |password: &str| world.run_with(&[("YESTER_PASSWORD", password)], &["--repo", "repo", "snapshots"]);
    add(&[("YESTER_NEW_PASSWORD", "first words")], &[]).ok();
    opens("first words").ok();
    // An option beats every variable, and the variables of the old key do not count.
    opens("second words").fails(12, &["wrong passphrase"]);
    add(&[("YESTER_NEW_PASSWORD", "not these"), ("YESTER_PASSWORD", "nor these")], &["--new-password-command", "cat second"])
        .ok();
    opens("second words").ok();
    opens("not these").fails(12, &[]);
    opens("nor these").fails(12, &[]);
    let json = add(&[("YESTER_NEW_KEY_FILE", "keys/third")], &["--json", "--label", "third"]).ok().json();
    assert_eq!((json[0]["message_type"].as_str(), json.len()), (Some("key_added"), 1));
    assert_eq!(json[0]["key_file"], shown(&world.at("keys/third")));
    let slots = fixture.slots(["--key-file", "keys/third"]);
    let third = slots.iter().find(|slot| slot["id"] == json[0]["id"]).unwrap();
    assert_eq!((third["label"].as_str(), third["current"].as_bool()), (Some("third"), Some(true)));
    let before = fixture.precious();
    fixture.file(&["key", "add"]).fails(12, &["--new-key-file", "no terminal"]);
    fixture.file(&["key", "add", "--new-password-file", "gone"]).fails(12, &["gone"]);
    add(&[("YESTER_NEW_PASSWORD", "")], &[]).fails(12, &["empty"]);
    fixture.file(&["key", "add", "--new-key-file", "a", "--new-password-file", "words"]).fails(2, &[]);
    fixture.file(&["key", "add", "--new-key-file", "repo/key"]).fails(2, &["inside the repository"]);
    fixture.file(&["key", "add", "--new-password-file", "words", "--label", &"x".repeat(2000)]).fails(2, &["label"]);
    assert_eq!(fixture.precious(), before);
}

#[test]
fn a_removed_slot_opens_nothing_and_one_always_stays() {
    let fixture = Fixture::new();
    let (file, words) = (fixture.slot("key file"), fixture.slot("passphrase"));
    fixture.file(&["key", "remove", &file[..8]]).fails(2, &["the given key opens", "key passwd"]);
    fixture.file(&["key", "remove", "abc"]).fails(2, &["at least 4"]);
    fixture.file(&["key", "remove", "../../x"]).fails(2, &[]);
    let absent = if file.starts_with("0000") || words.starts_with("0000") { "ffffff" } else { "0000" };
    fixture.file(&["key", "remove", absent]).fails(1, &[absent, "key list"]);
    assert_eq!(fixture.precious().len(), 9);
    let said = fixture.words(&["key", "remove", &file[..8]]).ok().text();
    assert!(said.contains(&file[..8]), "{said}");
    assert_eq!(fixture.precious().len(), 6);
    fixture.file(&["snapshots"]).fails(12, &["does not open"]);
    fixture.words(&["snapshots"]).ok();
    fixture.words(&["key", "remove", &words]).fails(2, &["last one", "key add"]);
    // A slot that nobody can read is no way in.
    let added =
        fixture.words(&["key", "add", "--new-key-file", "other", "--json"]).ok().json()[0]["id"].as_str().unwrap().to_owned();
    for copy in 0..3 {
        fs::write(fixture.world.at("repo/keys").join(format!("{added}.{copy}")), "rubbish").unwrap();
    }
    let run = fixture.words(&["key", "remove", &words]);
    assert!(run.code == Some(2) && run.err.contains("last one"), "{}", run.err);
    let run = fixture.words(&["key", "list"]);
    assert_eq!(run.code, Some(1));
    assert!(run.text().contains("unreadable") && run.err.contains("repair keys"), "{}{}", run.text(), run.err);
    fixture.words(&["key", "remove", &added, "--json"]).ok();
    fixture.words(&["key", "list"]).ok();
}

#[test]
fn a_changed_key_leaves_the_other_slots_alone() {
    let fixture = Fixture::new();
    let before = fixture.slot("passphrase");
    let file = fixture.slot("key file");
    fixture.world.file("better", "better words");
    fixture.words(&["key", "passwd", "--new-password-file", "words"]).fails(2, &["the old one"]);
    assert_eq!(fixture.slot("passphrase"), before);
    let json = fixture.words(&["key", "passwd", "--new-password-file", "better", "--json"]).ok().json();
    assert_eq!(json[0]["message_type"], "key_changed");
    assert_eq!(json[0]["replaced"], before.as_str());
    fixture.words(&["snapshots"]).fails(12, &["wrong passphrase"]);
    fixture.world.run(&["--repo", "repo", "--password-file", "better", "snapshots"]).ok();
    let slots = fixture.slots(["--key-file", "key"]);
    assert_eq!((slots.len(), fixture.slot("key file")), (2, file));
    let new = slots.iter().find(|slot| slot["kind"] == "passphrase").unwrap();
    assert!(new["id"] == json[0]["id"] && new["label"] == "paper \u{1b} bag", "{new}");
    // From a key file to a passphrase, under another label.
    fixture.file(&["key", "passwd", "--new-password-file", "words", "--label", "mine"]).ok();
    fixture.file(&["snapshots"]).fails(12, &[]);
    assert!(fixture.words(&["key", "list"]).ok().text().contains("mine"));
}

#[test]
fn the_default_key_file_can_be_changed() {
    let world = World::new();
    world.file("src/file", "x");
    world.run(&["ingest", "src"]).ok();
    let key = world.at(".config/yester/key");
    let said = world.run(&["key", "passwd", "--new-key-file", "new"]).ok().text();
    let advice = format!("mv {} {}", shown(&world.at("new")), shown(&key));
    assert!(said.contains(&advice), "{said}");
    world.run(&["snapshots"]).fails(12, &["does not open"]);
    fs::rename(world.at("new"), &key).unwrap();
    world.run(&["snapshots"]).ok();
    let said = world.run_with(&[("YESTER_NEW_PASSWORD", "words")], &["key", "passwd"]).ok().text();
    assert!(said.contains(&format!("rm {}", shown(&key))), "{said}");
    fs::remove_file(&key).unwrap();
    world.run_with(&[("YESTER_PASSWORD", "words")], &["snapshots"]).ok();
}

#[test]
fn every_command_works_with_one_good_copy_and_all_come_back() {
    let fixture = Fixture::new();
    let before = fixture.precious();
    assert_eq!(before.len(), 9);
    let copy = |path: &Path| path.extension().unwrap().to_str().unwrap().parse::<usize>().unwrap();
    for good in 0..3 {
        for path in before.keys() {
            match (copy(path) + 3 - good) % 3 {
                0 => {}
                1 => fs::remove_file(path).unwrap(),
                _ => fs::write(path, &before[path][..50]).unwrap(),
            }
        }
        for credential in [["--key-file", "key"], ["--password-file", "words"]] {
            for command in [&["snapshots"][..], &["ls", "latest"], &["ingest", "src"], &["key", "export"]] {
                let run = fixture.world.run(&[&["--repo", "repo"][..], &credential, command].concat());
                assert_eq!(run.code, Some(0), "{credential:?} {command:?}: {}", run.err);
                assert!(run.err.contains("config/00000001.") && run.err.contains("(see: yester key list)"), "{}", run.err);
            }
        }
        let run = fixture.file(&["key", "list"]);
        assert_eq!(run.code, Some(1));
        assert_eq!(run.text().matches("1 of 3 good").count(), 2, "{}", run.text());
        for (path, _) in before.iter().filter(|(path, _)| copy(path) != good) {
            let name = path.strip_prefix(fixture.world.at("repo")).unwrap().to_str().unwrap();
            let line = run.err.lines().find(|line| line.starts_with(&format!("yester: {name} is "))).expect(name);
            assert!(line.contains("yester repair keys"), "{line}");
        }
        assert_ne!(fixture.precious(), before);
        // Either by itself, or beside what was asked for.
        let said = match good {
            0 => {
                let dry = fixture.words(&["repair", "keys", "-n", "--json"]).ok().json();
                assert_eq!(dry[0]["copies"].as_array().unwrap().len(), 6, "{dry:?}");
                fixture.words(&["repair", "keys"]).ok().text()
            }
            _ => fixture.words(&["key", "add", "--new-key-file", "third"]).ok().err,
        };
        assert_eq!(said.matches(" again: it was missing").count(), 3, "{said}");
        assert_eq!(said.matches(" again: it was damaged").count(), 3, "{said}");
        if good > 0 {
            let third = fixture.slots(["--key-file", "third"]).iter().find(|slot| slot["current"] == true).unwrap()["id"].clone();
            fixture.words(&["key", "remove", third.as_str().unwrap()]).ok();
        }
        assert_eq!(fixture.precious(), before, "every copy has its old bytes");
    }
    fixture.file(&["key", "list"]).ok();
    assert!(fixture.file(&["repair", "keys"]).ok().text().contains("no copy"));
}

#[test]
fn the_recovery_text_opens_what_has_neither_keys_nor_configuration() {
    let fixture = Fixture::new();
    let world = &fixture.world;
    let text = fixture.recovery_text();
    world.file("paper", &text);
    assert!(text.lines().all(|line| line.len() <= 100), "it fits on paper: {text}");
    assert!(text.lines().count() < 40 && numbered(&text).len() == 5, "{text}");
    let before = fixture.precious();
    for lost in [&["config", "keys"][..], &["config"], &["keys"]] {
        lost.iter().for_each(|class| fs::remove_dir_all(world.at("repo").join(class)).unwrap());
        let run = fixture.file(&["snapshots"]).fails(1, &["lost", "key recover"]);
        assert!(run.err.contains(lost[0]), "{}", run.err);
        world.run(&["--repo", "repo", "--key-file", "key", "init"]).fails(1, &["not empty"]);
        let said = world.run(&["--repo", "repo", "key", "recover", "paper", "--new-key-file", "new"]).ok().text();
        assert_eq!(said.contains("wrote the configuration anew, as config/00000001"), lost[0] == "config", "{said}");
        world.run(&["--repo", "repo", "--key-file", "new", "restore", "latest", "--target", "out"]).ok();
        let restored = world.at("out").join(world.at("src/file").strip_prefix("/").unwrap());
        assert_eq!(fs::read(restored).unwrap(), b"content");
        world.run(&["--repo", "repo", "--key-file", "new", "key", "list"]).ok();
        // The old slots come back from the copy of somebody who has one, and open as ever.
        before.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        fixture.words(&["snapshots"]).ok();
    }
    // The chunker's secret is the same: what is there is known again.
    let json = fixture.file(&["ingest", "--force", "--json", "src"]).ok().json();
    assert_eq!(json.last().unwrap()["data_added"], 0, "{json:?}");
    // Typed by hand into a pipe: capitals, no spaces, and nothing but the lines.
    let typed = numbered(&text).join("\n").to_uppercase().replace(' ', "");
    let args = ["--repo", "repo", "--json", "key", "recover", "-", "--new-password-file", "words"];
    let json = world.run_fed(typed.as_bytes(), &args).ok().json();
    assert_eq!(json[0]["message_type"], "key_recovered");
    assert!(json[0]["id"].is_string() && json[0]["configuration"].is_null(), "{json:?}");
    let exported = fixture.file(&["key", "export", "--json"]).ok().json();
    assert_eq!(numbered(exported[0]["text"].as_str().unwrap()), numbered(&text));
}

#[test]
fn a_damaged_configuration_gets_a_new_number() {
    let fixture = Fixture::new();
    let world = &fixture.world;
    world.file("paper", fixture.recovery_text());
    for copy in 0..3 {
        let path = world.at(&format!("repo/config/00000001.{copy}"));
        let mut bytes = fs::read(&path).unwrap();
        bytes[33] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    fixture.file(&["snapshots"]).fails(1, &["configuration", "config/00000001", "checksum", "key recover"]);
    let said = world.run(&["--repo", "repo", "key", "recover", "paper", "--new-key-file", "new"]).ok().text();
    assert!(said.contains("config/00000002"), "{said}");
    for run in [fixture.file(&["key", "list"]), fixture.words(&["snapshots"])] {
        assert_eq!(run.ok().err, "", "what is superseded is of no interest");
    }
    assert_eq!(fs::read_dir(world.at("repo/config")).unwrap().count(), 6);
    fixture.file(&["check"]).ok();
    let said = fixture.file(&["repair", "keys"]).ok().text();
    assert!(said.contains("config/00000001.2 was removed"), "{said}");
    assert_eq!(fs::read_dir(world.at("repo/config")).unwrap().count(), 3);
}

#[test]
fn what_only_claims_to_be_a_newer_configuration_is_told_once_and_removed() {
    let fixture = Fixture::new();
    let world = &fixture.world;
    let mut bytes = fs::read(world.at("repo/config/00000001.0")).unwrap();
    let end = bytes.len() - 32;
    bytes[10] = 2;
    let sum = *blake3::hash(&bytes[..end]).as_bytes();
    bytes[end..].copy_from_slice(&sum);
    fs::write(world.at("repo/config/00000007.1"), bytes).unwrap();
    for command in [&["snapshots"][..], &["ingest", "src"], &["restore", "latest", "--target", "out"]] {
        let err = fixture.words(command).ok().err;
        assert_eq!(err.matches("config/00000007.1").count(), 1, "{err}");
        assert!(err.contains("not authentic") && err.contains("yester repair keys"), "{err}");
    }
    let listed = fixture.file(&["key", "list"]);
    assert!(listed.code == Some(1) && listed.err.contains("config/00000007.1 counts for nothing"), "{}", listed.err);
    fixture.file(&["repair", "keys", "-n"]).ok();
    assert!(world.at("repo/config/00000007.1").exists());
    fixture.file(&["repair", "keys"]).ok();
    assert!(!world.at("repo/config/00000007.1").exists());
    assert_eq!(fixture.words(&["check"]).ok().err, "");
}

#[test]
fn a_lost_configuration_comes_back_by_a_slot_too() {
    let fixture = Fixture::new();
    let before = fixture.precious();
    fixture.file(&["key", "recover"]).ok();
    assert_eq!(fixture.precious(), before, "a good one is left as it is");
    fs::remove_dir_all(fixture.world.at("repo/config")).unwrap();
    fixture.file(&["key", "recover", "--new-key-file", "x"]).fails(2, &["key add"]);
    let said = fixture.words(&["key", "recover"]).ok().text();
    assert!(said.contains("config/00000001"), "{said}");
    fixture.file(&["snapshots"]).ok();
    let json = fixture.file(&["ingest", "--force", "--json", "src"]).ok().json();
    assert_eq!(json.last().unwrap()["data_added"], 0, "{json:?}");
}

#[test]
fn a_wrong_recovery_text_changes_nothing_and_names_the_line() {
    let fixture = Fixture::new();
    let world = &fixture.world;
    let text = fixture.recovery_text();
    let before = fixture.precious();
    let recover = |text: &str| {
        world.file("paper", text);
        world.run(&["--repo", "repo", "key", "recover", "paper", "--new-key-file", "new"])
    };
    for line in numbered(&text) {
        let number = line.trim_start().split(':').next().unwrap();
        let place = text.lines().position(|other| other == line).unwrap() + 1;
        let digit = line.chars().rev().find(|c| c.is_ascii_hexdigit()).unwrap();
        let at = text.find(line).unwrap() + line.rfind(digit).unwrap();
        let mut bad = text.clone();
        bad.replace_range(at..=at, if digit == '7' { "8" } else { "7" });
        let run = recover(&bad).fails(12, &[&format!("line {number} of the recovery text (line {place} of the file)")]);
        for secret in numbered(&text).iter().flat_map(|line| line.split(' ')).filter(|group| group.len() == 4) {
            assert!(!run.err.contains(secret), "{secret} is in {}", run.err);
        }
        let run = recover(&text.replace(line, "")).fails(12, &[]);
        assert!(run.err.contains(&format!("line {number} of the recovery text is missing")), "{}", run.err);
    }
    recover("").fails(12, &["no numbered lines"]);
    world.file("binary", [0xff; 100]);
    world.run(&["--repo", "repo", "key", "recover", "binary", "--new-key-file", "new"]).fails(12, &["no recovery text"]);
    world.run(&["--repo", "repo", "key", "recover", "gone", "--new-key-file", "new"]).fails(12, &["gone"]);
    world.run(&["--repo", "nowhere", "key", "recover", "paper", "--new-key-file", "new"]).fails(12, &[]);
    world.file("paper", &text);
    world.run(&["--repo", "nowhere", "key", "recover", "paper", "--new-key-file", "new"]).fails(10, &["nowhere"]);
    fixture.file(&["key", "recover", "paper"]).fails(2, &["--new-key-file"]);
    world.run(&["--repo", "repo", "key", "recover", "paper"]).fails(12, &["no terminal"]);
    // Another repository's text, good in itself.
    let other = Fixture::new();
    recover(&other.recovery_text()).fails(12, &["does not fit", &shown(&world.at("repo"))]);
    fs::remove_dir_all(world.at("repo/config")).unwrap();
    recover(&other.recovery_text()).fails(12, &["does not fit"]);
    fs::remove_dir_all(world.at("repo/config")).unwrap();
    fs::create_dir(world.at("repo/config")).unwrap();
    before.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    assert_eq!(fixture.precious(), before);
    assert!(!world.at("new").exists(), "no key was made for nothing");
}

/// Runs the program on a terminal of its own, and answers each question that ends with a colon.
fn on_terminal(world: &World, args: &[&str], answers: &[&str]) -> Run {
    const SCRIPT: &str = r#"
import os, pty, sys
answers = sys.argv[1].split("|")
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
shown = b""
asked = 0
while True:
    try:
        more = os.read(fd, 4096)
    except OSError:
        break
    if not more:
        break
    shown += more
    while shown.count(b": ") > asked and asked < len(answers):
        os.write(fd, answers[asked].encode().decode("unicode_escape").encode("latin1"))
        asked += 1
sys.stdout.buffer.write(shown)
status = os.waitpid(pid, 0)[1]
sys.exit(os.waitstatus_to_exitcode(status) % 256)
"#;
    let command = world.command(args);
    let program = command.get_program().to_owned();
    let mut python = Command::new("python3");
    python.arg("-c").arg(SCRIPT).arg(answers.join("|")).arg(program).args(command.get_args());
    python.current_dir(world.home()).env_clear();
    for (name, value) in command.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        python.env(name, value);
    }
    finish(&mut python)
}

#[test]
fn passphrases_are_asked_for_on_a_terminal_and_not_shown() {
    let fixture = Fixture::new();
    let world = &fixture.world;
    // Mistakes are corrected; what is not UTF-8 stays as it is.
    let run = on_terminal(
        world,
        &["--repo", "repo", "key", "add"],
        &[&format!("{SECRET}\\n"), "nix\\x15ne\\xfcw\\x7fw\\r", "ne\\xfcw\\n"],
    );
    assert_eq!(run.code, Some(0), "{}", run.text());
    assert!(run.text().contains("new passphrase: ") && run.text().contains("once more"), "{}", run.text());
    assert!(
        !run.text().contains("geheim") && !run.text().contains("ne"[..].to_owned().as_str().repeat(2).as_str()),
        "{}",
        run.text()
    );
    world.file("typed", b"ne\xfcw\n");
    world.run(&["--repo", "repo", "--password-file", "typed", "snapshots"]).ok();
    let before = fixture.precious();
    let cases: [(&[&str], i32, &str); 4] = [
        (&["one\\n", "two\\n"], 12, "differ"),
        (&["\\n"], 12, "empty"),
        (&["one\\x03"], 130, "interrupted"),
        (&["\\x04"], 12, "no passphrase was given"),
    ];
    for (answers, code, said) in cases {
        let run = on_terminal(world, &["--repo", "repo", "--key-file", "key", "key", "add"], answers);
        assert!(run.code == Some(code) && run.text().contains(said), "{:?} {}", run.code, run.text());
    }
    assert_eq!(fixture.precious(), before);
}

/// Whether `bytes` hold `secret`, as it is or in another form.
fn holds(bytes: &[u8], secret: &str) -> bool {
    let text = String::from_utf8_lossy(bytes).to_lowercase().replace([' ', '\n'], "");
    text.contains(&secret.to_lowercase().replace(' ', ""))
}

#[test]
fn secrets_are_seen_nowhere() {
    let fixture = Fixture::new();
    let world = &fixture.world;
    let text = fixture.recovery_text();
    world.file("paper", &text);
    let key = fs::read_to_string(world.at("key")).unwrap().trim().to_owned();
    // The master key stands in the first three lines.
    let digits: String = numbered(&text).iter().map(|line| line.split(':').nth(1).unwrap().split('-').next().unwrap()).collect();
    let master: String = digits.replace(' ', "").chars().skip(36).take(64).collect();
    let secrets = [SECRET.to_owned(), key[..16].to_owned(), master[..16].to_owned(), master[48..].to_owned()];
    let words = [("YESTER_PASSWORD", SECRET)];
    world.file("wrong", format!("{SECRET}!"));
    let mut runs = Vec::new();
    let commands: [&[&str]; 12] = [
        &["snapshots"],
        &["ingest", "src"],
        &["key", "list"],
        &["key", "add", "--new-password-file", "words"],
        &["key", "passwd", "--new-password-file", "words"],
        &["key", "remove", "0000"],
        &["restore", "latest", "--target", "out"],
        &["ls", "-R", "latest"],
        &["--repo", "nowhere", "snapshots"],
        &["--key-file", "wrong", "snapshots"],
        &["--password-file", "wrong", "snapshots"],
        &["--json", "key", "recover", "paper", "--new-password-file", "words"],
    ];
    for command in commands {
        let verbose = ["-vv"];
        let repo: &[&str] = if command.contains(&"nowhere") { &[] } else { &["--repo", "repo"] };
        runs.push((format!("{command:?}"), world.run_with(&words, &[repo, &verbose, command].concat())));
    }
    for (command, run) in &runs {
        for secret in &secrets {
            assert!(!holds(&run.out, secret) && !holds(run.err.as_bytes(), secret), "{command} shows a secret: {}", run.err);
        }
    }
    // Nor does anything in the repository, the logs, or what is remembered of it.
    for file in files(world.home()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        if !["key", "words", "wrong", "paper"].contains(&name) {
            let bytes = fs::read(&file).unwrap();
            assert!(secrets.iter().all(|secret| !holds(&bytes, secret)), "{} holds a secret", file.display());
        }
    }
}

#[test]
fn a_process_with_a_key_shows_it_to_nobody() {
    let fixture = Fixture::new();
    let world = &fixture.world;
    fs::create_dir(world.at("m")).unwrap();
    let mounted = world.run_with(&[("YESTER_PASSWORD", SECRET)], &["--repo", "repo", "mount", "m", "--json"]).ok().json();
    let pid = mounted[0]["pid"].as_u64().unwrap();
    let of = |what: &str| fs::read(format!("/proc/{pid}/{what}")).unwrap();
    let seen = [of("cmdline"), of("environ")];
    world.run(&["umount", "m"]).ok();
    assert!(seen.iter().all(|bytes| !holds(bytes, SECRET)));
    assert!(holds(&seen[0], "--in-background"));
    // What a process may not dump, its own user may not look into. It waits for the passphrase in the pipe.
    if !is_root() {
        return;
    }
    let fifo = world.at("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    give_away(world);
    let program = world.at("yester");
    program::copy_program(env!("CARGO_BIN_EXE_yester"), &program);
    let nobody = |program: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program).current_dir(world.home());
        command.env_clear().env("HOME", world.home()).env("PATH", "/usr/bin:/bin");
        command
    };
    let mut child = nobody(&program)
        .args(["--repo", "repo", "--password-file", "fifo", "key", "list"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // Opening the pipe waits until the program has opened it too: from then on it is protected.
    let mut pipe = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    let look = |what: &str| nobody(Path::new("cat")).arg(format!("/proc/{}/{what}", child.id())).output().unwrap();
    let (environ, status) = (look("environ"), look("status"));
    std::io::Write::write_all(&mut pipe, SECRET.as_bytes()).unwrap();
    drop(pipe);
    assert!(child.wait().unwrap().success());
    assert!(status.status.success() && !environ.status.success(), "{environ:?}");
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

fn give_away(world: &World) {
    assert!(Command::new("chown").args(["-R", "65534:65534"]).arg(world.home()).status().unwrap().success());
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Does something with the keys, and is stopped after some changes.
fn stopped_after(fixture: &Fixture, changes: u64, change: impl FnOnce(&mut KeyRing) -> yester::Result<()>) {
    let recorder = Arc::new(RecordingStorage::new(Arc::new(DirectoryStorage::open(&fixture.world.at("repo")).unwrap())));
    let key = yester::model::id::from_hex::<32>(fs::read_to_string(fixture.world.at("key")).unwrap().trim()).unwrap();
    let mut ring = KeyRing::open(recorder.clone(), &Credential::KeyFile(key)).unwrap();
    recorder.fail_after(changes);
    change(&mut ring).unwrap_err();
}

#[test]
fn the_next_command_that_writes_ends_what_was_stopped() {
    let commands: [&[&str]; 6] = [
        &["ingest", "src"],
        &["forget", "--keep-last", "9"],
        &["prune"],
        &["repair", "index"],
        &["repair", "objects"],
        &["repair", "keys"],
    ];
    for (at, command) in commands.into_iter().enumerate() {
        let fixture = Fixture::new();
        let words = fixture.slot("passphrase");
        let unfinished = |number: u64| {
            let said = fixture.file(&["check"]).ok().text();
            assert_eq!(said.contains("the next command that writes ends it"), number > 0, "{command:?}: {said}");
            assert_eq!(fixture.file(&["check", "--json"]).ok().json().pop().unwrap()["unfinished_keys"], number, "{command:?}");
        };
        unfinished(0);
        // A removal: begun and durable, with all copies of the slot, or with one or two.
        stopped_after(&fixture, 2 + at as u64 % 3, |ring| {
            let slots = ring.slots()?;
            ring.remove(slots.iter().map(|slot| slot.id).find(|id| *id != ring.opened()).unwrap())
        });
        // An addition: with one copy or two.
        let third = Credential::KeyFile([3; 32]);
        let new = SlotOptions { derivation: Derivation::KeyFile, now: Timestamp::default(), label: Vec::new() };
        stopped_after(&fixture, 2 + at as u64 % 2 * 2, |ring| ring.add(&third, &new).map(drop));
        unfinished(2);
        fixture.words(&["snapshots"]).fails(12, &["was removed"]);
        fixture.file(&["snapshots"]).ok();
        fixture.file(&[command, &["-n"]].concat()).ok();
        unfinished(2);
        let run = fixture.file(command).ok();
        assert!(!run.err.contains("could not be ended"), "{}", run.err);
        unfinished(0);
        assert_eq!(fixture.precious().len(), 9, "{command:?}: configuration, the key file's slot, the new one");
        assert!(fixture.precious().keys().all(|path| !shown(path).contains(&words)));
        fixture.file(&["repair", "keys"]).ok();
        fixture.words(&["snapshots"]).fails(12, &["wrong passphrase"]);
        assert_eq!(fixture.slots(["--key-file", "key"]).len(), 2);
    }
}
