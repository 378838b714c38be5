//! The README is true: its tour runs as it stands, and its commands are the program's. So is what `docs/mount.md` says of
//! tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::program;

use std::fs;
use std::path::{Path, PathBuf};

use program::{World, finish};

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The lines of the fenced block that begins with "```" and `info`.
fn block(text: &str, info: &str) -> Vec<String> {
    let begin = format!("```{info}");
    let lines = text.lines().skip_while(|line| *line != begin).skip(1);
    lines.take_while(|line| *line != "```").map(str::to_owned).collect()
}

#[test]
fn the_tour_runs() {
    let tour = block(&readme(), "sh tour");
    assert_eq!(tour.len(), 10, "a tour of ten lines");
    let world = World::new();
    let program = Path::new(env!("CARGO_BIN_EXE_yester")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let script = format!("set -euo pipefail\n{}\n", tour.join("\n"));
    // A mount that a broken tour leaves would keep the home directory from being removed.
    let script = format!("trap 'yester umount past 2>/dev/null || true' EXIT\n{script}");
    let mut command = std::process::Command::new("bash");
    command.arg("-c").arg(script).current_dir(world.home()).env_clear();
    let run = finish(command.env("HOME", world.home()).env("PATH", path)).ok();
    let text = run.text();
    for said in ["snapshot ", "2 snapshots in 1 series", "buy bread", "mounted at ", "latest", "restored 1 file"] {
        assert!(text.contains(said), "{said:?} is not in what the tour printed:\n{text}\n{}", run.err);
    }
    assert!(run.err.contains("safe place"), "{}", run.err);
}

#[test]
fn there_are_two_commands_and_the_tests_are_those_of_ci() {
    let text = readme();
    let commands = [block(&text, "sh"), block(text.split("This runs all tests").nth(1).unwrap(), "sh")];
    for command in &commands {
        assert!(command.len() == 1 && command[0].contains("apt-get install -y "), "{command:?}");
    }
    assert!(commands[0][0].contains("yester ingest") && commands[0][0].contains("yester mount"));
    assert_eq!(text.lines().filter(|l| *l == "```sh").count(), 2);
    assert!(commands[1][0].contains(" && cargo test"), ".ci/run takes the test command from there");
    for package in packages(&commands[1][0]) {
        let ci = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run")).unwrap();
        assert!(ci.split_whitespace().any(|word| word == package), "{package} is not in .ci/run");
    }
}

#[test]
fn the_table_is_what_the_program_knows() {
    let text = readme();
    let listed: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("| `yester ")?.split([' ', '`']).next()).collect();
    let help = World::new().run(&["--help"]).ok().text();
    let commands = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let known: Vec<&str> = commands
        .lines()
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert_eq!(listed, known);
}

/// The packages that a command installs.
fn packages(command: &str) -> impl Iterator<Item = &str> {
    let list = command.split("apt-get install -y ").nth(1).unwrap().split('"').next().unwrap();
    list.split(' ')
}

/// What a page links to below the repository, without the part after `#`.
fn links(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|t| !t.contains("://")).map(|t| t.split('#').next().unwrap().to_owned()).filter(|t| !t.is_empty()).collect()
}

#[test]
fn every_page_is_on_the_map_and_every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [docs, decisions] = [root.join("docs"), root.join("docs/decisions")].map(|dir| pages(&dir));
    for page in docs.iter().chain(&decisions).chain([&root.join("README.md")]) {
        for link in links(page) {
            assert!(page.parent().unwrap().join(&link).exists(), "{}: {link} is not there", page.display());
        }
    }
    for pages in [&docs, &decisions] {
        let map = pages.iter().find(|page| page.ends_with("README.md")).expect("a map of the pages");
        let map_links = links(map);
        for page in pages.iter().filter(|page| *page != map) {
            let name = page.file_name().unwrap().to_str().unwrap();
            assert!(map_links.iter().any(|link| link == name), "{} does not lead to {name}", map.display());
        }
    }
    assert!(links(&root.join("docs/README.md")).iter().any(|link| link == "decisions/README.md"));
}

/// The pages in a directory, without those in directories of it.
fn pages(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The tests in a file, or in the files of a directory.
fn tests_in(path: &Path) -> Vec<String> {
    if path.is_dir() {
        return fs::read_dir(path).unwrap().flat_map(|entry| tests_in(&entry.unwrap().path())).collect();
    }
    let text = fs::read_to_string(path).unwrap();
    let names = text.split("#[test]").skip(1).map(|rest| rest.split("fn ").nth(1).unwrap().split('(').next().unwrap());
    names.map(str::to_owned).collect()
}

/// The words of a paragraph, and whether they are in backquotes; punctuation is left out.
fn words(paragraph: &str) -> Vec<(&str, bool)> {
    let parts = paragraph.split('`').enumerate().map(|(n, part)| (part, n % 2 == 1));
    let plain = |text: &str| !text.is_empty() && !text.chars().all(|c| c.is_ascii_punctuation());
    parts
        .flat_map(|(part, quoted)| {
            if quoted { vec![part] } else { part.split([' ', '\n', ',', ';', '.']).filter(|w| plain(w)).collect() }
                .into_iter()
                .map(move |word| (word, quoted))
        })
        .collect()
}

/// What comes after `Tests:` names a file by the word for it and tests of that file, or a source file with tests.
#[test]
fn the_semantics_of_the_mount_name_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/mount.md")).unwrap();
    let (head, sections) = text.split_once("\n## ").unwrap();
    let told = words(head);
    let files: Vec<(&str, Vec<String>)> = told
        .windows(3)
        .filter(|w| w[0].1 && w[1].0 == "is" && w[2].0.starts_with("tests/"))
        .map(|w| (w[0].0, tests_in(&root.join(w[2].0))))
        .collect();
    assert!(files.len() >= 6, "{files:?}");
    for section in sections.split("\n## ") {
        let title = section.lines().next().unwrap();
        let lists: Vec<&str> = section.split("Tests:").skip(1).map(|rest| rest.split("\n\n").next().unwrap()).collect();
        assert!(!lists.is_empty(), "{title}: no tests are named");
        for list in lists {
            let mut of = None;
            for (word, quoted) in words(list) {
                let file = files.iter().find(|(name, _)| *name == word);
                if let Some((_, tests)) = file {
                    assert!(!tests.is_empty(), "{title}: there are no tests in {word}");
                    of = file;
                } else if word.starts_with("src/") {
                    assert!(!tests_in(&root.join(word)).is_empty(), "{title}: there are no tests in {word}");
                } else {
                    let (name, tests) = of.unwrap_or_else(|| panic!("{title}: whose test is {word}?"));
                    assert!(quoted && tests.iter().any(|test| test == word), "{title}: there is no test {word} in {name}");
                }
            }
        }
    }
}

/// The tables of what was tried name tests that exist: a file of `tests/` or `src/` without its ending, and tests of it.
#[test]
fn what_was_tried_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in ["docs/durability.md", "docs/security.md"] {
        let text = fs::read_to_string(root.join(page)).unwrap();
        let table = text.split("<!-- tried -->").nth(1).and_then(|rest| rest.trim().split("\n\n").next()).unwrap();
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert!(rows.len() >= 15, "{page}: {} rows", rows.len());
        for row in rows {
            let (mut of, mut named) = (None, 0);
            let holds = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
            for word in holds.split('`').skip(1).step_by(2) {
                if word.contains('/') {
                    let path = if word.starts_with("src/") { format!("{word}.rs") } else { format!("tests/{word}.rs") };
                    of = Some((word, tests_in(&root.join(path))));
                } else {
                    let (file, tests) = of.as_ref().unwrap_or_else(|| panic!("{page}: whose test is {word}?"));
                    assert!(tests.iter().any(|test| test == word), "{page}: there is no test {word} in {file}");
                    named += 1;
                }
            }
            assert!(named > 0, "{page}: no test is named in {row}");
        }
    }
}
