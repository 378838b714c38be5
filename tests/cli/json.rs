//! `docs/json.md` has every field that `--json` prints: the fields of the sources, and of lines that are really printed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::program;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use program::{World, with};
use serde_json::Value;

/// What stands in backquotes on the page.
fn page() -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md")).unwrap();
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// The fields of everything that is serialized, and the message types.
fn fields(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for part in text.split("Serialize").skip(1) {
        let head = part.split('{').next().unwrap();
        // What is read again too is what processes of yester say to each other.
        if !head.contains("struct ") || head.contains(';') || head.starts_with(", Deserialize") {
            continue;
        }
        let body = part.split('{').nth(1).unwrap().split('}').next().unwrap();
        for line in body.lines().map(str::trim).filter(|line| !line.starts_with('#') && !line.starts_with("//")) {
            let name = line.split_once(':').map_or("", |(name, _)| name);
            let name = name.trim_start_matches("pub ").trim_start_matches("r#");
            // What is flattened has fields of its own.
            let flat = body.split(line).next().unwrap().trim_end().ends_with("#[serde(flatten)]");
            if !name.is_empty() && !flat {
                out.push(name.to_owned());
            }
        }
    }
    for part in text.split("message_type: \"").skip(1) {
        out.push(part.split('"').next().unwrap().to_owned());
    }
    out
}

#[test]
fn every_field_of_the_sources_is_on_the_page() {
    let page = page();
    let files = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli"));
    let mut count = 0;
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
        for field in fields(&fs::read_to_string(file).unwrap()) {
            assert!(page.contains(&field), "{field} of {} is not in docs/json.md", file.display());
            count += 1;
        }
    }
    assert!(count > 150, "only {count} fields were found");
}

/// The names of all fields of a value.
fn keys(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            out.insert(name.clone());
            keys(value, out);
        }),
        Value::Array(list) => list.iter().for_each(|value| keys(value, out)),
        _ => {}
    }
}

#[test]
fn every_line_that_is_printed_is_on_the_page() {
    let world = World::new();
    let options = world.repository();
    world.file("src/a", "x");
    world.file("src/b", "y");
    let (page, mut types) = (page(), BTreeSet::new());
    let mut look = |args: &[&str]| {
        let run = world.run(&with(&options, &[args, &["--json"]].concat()));
        let err = run.err.lines().filter(|line| line.starts_with('{'));
        for line in run.text().lines().chain(err) {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{args:?}: {line}: {e}"));
            types.insert(value["message_type"].as_str().unwrap_or_else(|| panic!("{args:?}: {line}")).to_owned());
            let mut found = BTreeSet::new();
            keys(&value, &mut found);
            for name in found {
                assert!(page.contains(&name), "{args:?}: {name} is not in docs/json.md: {line}");
            }
        }
    };
    for args in [
        &["ingest", "-v", "src", "gone"][..],
        &["ingest", "src"],
        &["snapshots"],
        &["ls", "-R", "latest"],
        &["stats"],
        &["du", "latest"],
        &["du", "--if-forgotten", "latest"],
        &["check", "--read-data"],
        &["restore", "-v", "latest:src", "--target", "out"],
        &["key", "list"],
        &["key", "export"],
        &["forget", "latest"],
        &["prune", "-v"],
        &["repair", "index"],
        &["repair", "keys"],
        &["unlock"],
        &["version"],
        &["cat", "latest:nowhere"],
        &["export", "--erofs", "image", "latest"],
        &["diff", "latest:src", "."],
        &["rewrite", "-n", "-e", "a"],
        &["find", "a"],
        &["history", "src/a"],
        &["man", "man1"],
    ] {
        look(args);
    }
    for name in
        ["summary", "entry", "error", "exit_error", "snapshot", "node", "stats", "series", "forgotten", "plan", "key_slot"]
    {
        assert!(types.contains(name), "{name} was not printed: {types:?}");
    }
    assert!(types.iter().all(|name| page.contains(name)), "{types:?}");
}
