//! The table "What each command does with a bad object" of docs/durability.md: every row is made, every cell is run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::{World, with};

const PAGE: &str = include_str!("../../docs/durability.md");
const COMMANDS: [&[&str]; 6] = [
    &["snapshots"],
    &["ls", "latest"],
    &["restore", "latest", "--target", "out"],
    &["ingest", "src"],
    &["check", "--read-data"],
    &["prune"],
];
/// A name that nobody has given.
const ID: &str = "abababababababababababababababababababababababababababababababab";

/// A row of the table: an object, what is wrong with it, the exit code of each command, and what mends it.
struct Row {
    object: String,
    state: String,
    codes: Vec<String>,
    remedy: String,
}

/// The rows behind the mark in the page.
fn rows() -> Vec<Row> {
    let table = PAGE.split("<!-- bad objects -->").nth(1).expect("the mark of the table");
    let lines = table.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    lines
        .skip(2)
        .map(cells)
        .map(|cells| Row {
            object: cells[0].clone(),
            state: cells[1].clone(),
            codes: cells[2..8].to_vec(),
            remedy: cells[8].clone(),
        })
        .collect()
}

/// A repository with four snapshots, of which the third is forgotten.
fn prepare() -> (World, [String; 4]) {
    let world = World::new();
    let options = world.repository();
    for n in 0..4 {
        world.file("src/file", noise(n));
        world.run(&with(&options, &["ingest", "src"])).ok();
    }
    world.run(&with(&options, &["forget", "latest~1"])).ok();
    world.run(&with(&options, &["tag", "latest", "--add", "x"])).ok();
    world.run(&with(&options, &["group", "create", "--set", "store", "--members", "a,b"])).ok();
    world.run(&with(&options, &["parity", "add"])).ok();
    // Writes down what became of it.
    world.run(&with(&options, &["check"])).ok();
    (world, options)
}

/// Bytes that do not compress, other ones for each `n`.
fn noise(n: u8) -> Vec<u8> {
    let mut out = vec![0; 100_000];
    blake3::Hasher::new().update(&[n]).finalize_xof().fill(&mut out);
    out
}

/// The files of a class, sorted by how new they are.
fn files(repo: &Path, class: &str) -> Vec<PathBuf> {
    let list = |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let mut found = match class {
        "packs" => list(&repo.join("packs")).iter().flat_map(|shard| list(shard)).collect(),
        _ => list(&repo.join(class)),
    };
    // Files that were written in the same tick of the clock: by name, so that the first copy comes first.
    found.sort_by_key(|path| (fs::metadata(path).unwrap().modified().unwrap(), path.clone()));
    found
}

/// The files that a row is about.
fn chosen(repo: &Path, object: &str) -> Vec<PathBuf> {
    let kind_of = |path: &PathBuf| fs::read(path).unwrap()[108];
    let pack = |kind: u8| files(repo, "packs").into_iter().rev().find(|path| kind_of(path) == kind).into_iter().collect();
    let forgotten = files(repo, "forgotten");
    match object {
        "a copy of the configuration" => vec![repo.join("config/00000001.1")],
        "every copy of the configuration" => files(repo, "config"),
        "a copy of a key slot" => files(repo, "keys").into_iter().take(1).collect(),
        "every copy of a key slot" => files(repo, "keys"),
        "the newest data pack" => pack(1),
        "the newest tree pack" => pack(2),
        "an index segment" => files(repo, "index").into_iter().rev().take(1).collect(),
        "an older snapshot" => {
            let all = files(repo, "snapshots");
            all.into_iter().filter(|path| forgotten.iter().all(|mark| mark.file_name() != path.file_name())).take(1).collect()
        }
        "the mark of a forgotten snapshot" => forgotten,
        "an annotation" => files(repo, "annotations"),
        "a step of a group" => files(repo, "groups"),
        "a run" => files(repo, "runs"),
        "a row of parity" => files(repo, "parity").into_iter().take(1).collect(),
        other => panic!("no such object: {other}"),
    }
}

/// The id of the snapshot that rows spoil.
fn chosen_id(repo: &Path) -> String {
    chosen(repo, "an older snapshot")[0].file_name().unwrap().to_str().unwrap().to_owned()
}

/// Where something that nobody with the key made is put.
fn made_up(repo: &Path, object: &str) -> PathBuf {
    match object {
        "a copy of the configuration" => repo.join("config/00000002.0"),
        "a copy of a key slot" => repo.join(format!("keys/{}.0", &ID[..32])),
        "a data pack" => repo.join(format!("packs/ab/{ID}")),
        "an index segment" => repo.join(format!("index/{ID}")),
        "a snapshot" => repo.join(format!("snapshots/{ID}")),
        "a session" => repo.join(format!("sessions/{ID}")),
        "a list of packs marked for deletion" => repo.join(format!("condemned/{ID}")),
        "a record of damage" => repo.join(format!("damaged/{ID}")),
        "an annotation" => repo.join(format!("annotations/{ID}")),
        "a step of a group" => repo.join(format!("groups/{ID}.0001.done")),
        "a run" => repo.join(format!("runs/{ID}")),
        "a row of parity" => repo.join(format!("parity/{ID}.0")),
        "the mark of a snapshot" => repo.join("forgotten").join(files(repo, "snapshots")[0].file_name().unwrap()),
        other => panic!("no such object: {other}"),
    }
}

/// What somebody without the key makes of objects that are there: it says that it is of a newer version, and its checksum
/// is right.
fn claimed(repo: &Path, object: &str) -> Vec<u8> {
    let (class, kind) = match object {
        "a copy of the configuration" => ("config", 1),
        "a copy of a key slot" => ("keys", 2),
        "a data pack" => ("packs", 3),
        "an index segment" => ("index", 4),
        "a session" => ("snapshots", 5),
        "a snapshot" => ("snapshots", 6),
        "the mark of a snapshot" => ("forgotten", 8),
        "a list of packs marked for deletion" => ("snapshots", 9),
        "a record of damage" => ("snapshots", 10),
        "a run" => ("snapshots", 13),
        "an annotation" => ("snapshots", 14),
        "a step of a group" => ("snapshots", 15),
        "a row of parity" => ("parity", 16),
        other => panic!("no such object: {other}"),
    };
    let mut out = fs::read(&files(repo, class)[0]).unwrap();
    out.truncate(out.len() - 32);
    (out[8], out[10]) = (kind, 2);
    let sum = blake3::hash(&out);
    out.extend_from_slice(sum.as_bytes());
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn spoil(repo: &Path, row: &Row) {
    match row.state.as_str() {
        "made up" => {
            let path = made_up(repo, &row.object);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"garbage ".repeat(64)).unwrap();
        }
        "made up, newer" => {
            let object = claimed(repo, &row.object);
            let sum = ["a data pack", "an index segment"].contains(&row.object.as_str());
            let name = hex(&object[object.len() - 32..]);
            let path = match made_up(repo, &row.object) {
                _ if sum && row.object == "a data pack" => repo.join("packs").join(&name[..2]).join(&name),
                path if sum => path.with_file_name(&name),
                path => path,
            };
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, object).unwrap();
        }
        "missing" => chosen(repo, &row.object).iter().for_each(|path| fs::remove_file(path).unwrap()),
        "damaged" => {
            for path in chosen(repo, &row.object) {
                let mut bytes = fs::read(&path).unwrap();
                // In the first frame of a pack, in the first page of a segment, behind the commitment of a small object.
                let at = if bytes[8] == 3 || bytes.len() > 1000 { 150 } else { 80 };
                bytes[at] ^= 0x11;
                fs::write(path, bytes).unwrap();
            }
        }
        other => panic!("no such state: {other}"),
    }
}

/// Runs one command on a copy of the repository that was spoilt as the row says.
fn outcome(world: &World, options: &[String], row: &Row, commands: &[Vec<&str>]) -> Vec<(String, String)> {
    let repo = world.at("repo");
    fs::remove_dir_all(&repo).unwrap();
    let copied = Command::new("cp").args(["-a"]).arg(world.at("whole")).arg(&repo).status().unwrap();
    assert!(copied.success());
    fs::remove_dir_all(world.at("out")).unwrap_or_default();
    fs::remove_dir_all(world.at(".local")).unwrap_or_default();
    spoil(&repo, row);
    let run = |command: &Vec<&str>| {
        let run = world.run(&with(options, command));
        (run.code.map_or_else(|| "killed".to_owned(), |code| code.to_string()), run.err)
    };
    commands.iter().map(run).collect()
}

#[test]
fn every_cell_of_the_table_is_what_happens() {
    let (world, options) = prepare();
    fs::rename(world.at("repo"), world.at("whole")).unwrap();
    fs::create_dir(world.at("repo")).unwrap();
    let rows = rows();
    assert!(rows.len() > 15, "the table has {} rows", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        let mut found = Vec::new();
        for command in COMMANDS {
            let (code, err) = outcome(&world, &options, row, &[command.to_vec()]).pop().unwrap();
            assert!(!err.contains("panicked") && !err.contains("backtrace"), "{} {}: {err}", row.object, row.state);
            found.push(code);
        }
        // What mends it, and then there is no damage.
        let id = chosen_id(&world.at("whole"));
        let remedy = row.remedy.replace("ID", &id);
        let remedy: Vec<Vec<&str>> = remedy.split(';').map(|c| c.trim().trim_matches('`').split(' ').collect()).collect();
        let mended = match row.remedy.as_str() {
            "none needed" | "another copy of the repository" => vec![],
            _ => outcome(&world, &options, row, &[&remedy[..], &[vec!["check", "--read-data"]]].concat()),
        };
        if found != row.codes || mended.last().is_some_and(|(code, _)| code != "0") {
            wrong.push(format!("| {} | {} | {} | {} | {mended:?}", row.object, row.state, found.join(" | "), row.remedy));
        }
    }
    assert!(wrong.is_empty(), "these rows are not so:\n{}", wrong.join("\n"));
}
