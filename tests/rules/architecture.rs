//! Holds the map in `src/lib.rs`: which room may use which, and what belongs to one room alone.
//!
//! It reads the sources as text. That is enough, since every use of another room or crate names it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;

/// Rooms, and the rooms each may use besides itself, `error`, and `observe`.
const ROOMS: [(&str, &[&str]); 25] = [
    ("error", &[]),
    ("observe", &[]),
    ("model", &[]),
    ("format", &["model"]),
    ("chunk", &["sys", "format", "model"]),
    ("sys", &["model"]),
    ("task", &["model", "sys"]),
    ("storage", &["model", "sys"]),
    ("keys", &["storage", "format", "chunk", "model"]),
    ("repo", &["keys", "storage", "format", "chunk", "model", "sys"]),
    ("local", &["repo", "storage", "model", "sys"]),
    ("parity", &["task", "repo", "storage", "format", "model", "sys"]),
    ("maintain", &["task", "parity", "local", "repo", "keys", "storage", "format", "chunk", "model", "sys"]),
    ("ingest", &["task", "local", "repo", "storage", "format", "chunk", "model", "sys"]),
    ("copy", &["task", "ingest", "local", "repo", "storage", "format", "chunk", "model", "sys"]),
    ("import", &["task", "copy", "ingest", "local", "repo", "storage", "format", "chunk", "model", "sys"]),
    (
        "doctor",
        &["task", "copy", "ingest", "maintain", "parity", "local", "repo", "keys", "storage", "format", "chunk", "model", "sys"],
    ),
    ("restore", &["task", "repo", "storage", "format", "chunk", "model", "sys"]),
    ("vfs", &["task", "query", "repo", "storage", "format", "chunk", "model", "sys"]),
    ("archive", &["task", "vfs", "repo", "storage", "format", "chunk", "model", "sys"]),
    ("mount", &["vfs", "repo", "model", "sys"]),
    ("query", &["task", "repo", "storage", "format", "chunk", "model", "sys"]),
    ("remote", &["storage", "format", "model", "sys"]),
    (
        "jobs",
        &[
            "task", "ingest", "restore", "maintain", "local", "remote", "repo", "keys", "storage", "format", "chunk", "model",
            "sys",
        ],
    ),
    ("serve", &["remote", "storage", "format", "model", "sys"]),
];

/// Words and signs, parted by spaces, that only some files may hold one after another, and the beginnings of the paths
/// of these files below `src/`.
const RESERVED: [(&str, &[&str]); 32] = [
    ("fuser", &["mount/fuse.rs", "mount/kernel.rs", "mount/session.rs"]),
    ("tokio", &["remote/", "serve/"]),
    ("tokio_rustls", &["remote/", "serve/"]),
    ("rustls", &["remote/", "serve/"]),
    ("hyper", &["remote/", "serve/"]),
    ("object_store", &["remote/s3/"]),
    ("axum", &["remote/", "serve/"]),
    ("rcgen", &["remote/", "serve/"]),
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/"]),
    ("clap_mangen", &["cli/"]),
    ("indicatif", &["cli/"]),
    ("comfy_table", &["cli/"]),
    ("signal_hook", &["cli/"]),
    ("libc", &["sys/"]),
    ("memmap2", &["sys/"]),
    ("rustix", &["sys/"]),
    ("unsafe", &["sys/"]),
    ("unsafe_code", &["sys/"]),
    ("println !", &["cli/"]),
    ("eprintln !", &["cli/"]),
    ("print !", &["cli/"]),
    ("eprint !", &["cli/"]),
    // A server that ssh starts speaks there.
    ("stdout ( )", &["cli/", "serve/objects/connections.rs"]),
    ("stderr ( )", &["cli/"]),
    ("dbg !", &[]),
    // The library reports to an observer. Besides the program, only the server and the mount write a log of requests.
    ("tracing", &["cli/", "serve/", "mount/"]),
    ("tracing : : error", &["cli/", "serve/"]),
    ("tracing : : warn", &["cli/", "serve/"]),
    ("tracing : : info", &["cli/", "serve/"]),
    // These report to nobody; the program says who is told.
    ("Repository : : open (", &[]),
    ("KeyRing : : open (", &[]),
];

/// Paths that some rooms must not name: the rooms, and the words one after another.
const FORBIDDEN: [(&[&str], &[&str]); 4] = [
    (&["format", "chunk", "model"], &["std", "fs"]),
    (&["format", "chunk", "model"], &["std", "net"]),
    (&["format", "chunk", "model"], &["std", "process"]),
    // The library never reads the environment.
    (
        &[
            "error", "observe", "model", "format", "chunk", "sys", "storage", "keys", "repo", "local", "maintain", "ingest",
            "copy", "import", "doctor", "restore", "vfs", "mount", "query", "remote", "jobs", "serve", "task", "parity",
        ],
        &["std", "env"],
    ),
];

const LONGEST: usize = 600;

/// A source file: its path below `src/`, and its words and signs without comments and texts. A room's own tests may use
/// what they like: `mod tests` at the end of a file does not count.
struct Source {
    path: String,
    lines: usize,
    words: Vec<String>,
}

impl Source {
    /// Whether these words and signs, parted by spaces, follow one another somewhere.
    fn holds(&self, sequence: &str) -> bool {
        let sequence: Vec<&str> = sequence.split(' ').collect();
        self.words.windows(sequence.len()).any(|words| words == sequence)
    }
}

fn sources() -> Vec<Source> {
    let source = |(path, text): (String, String)| {
        let (lines, words) = (text.lines().count(), words(super::without_tests(&text)));
        Source { path, lines, words }
    };
    super::sources().into_iter().map(source).collect()
}

/// The identifiers and single signs of Rust code; comments, strings, characters and what follows `'` are left out.
fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(len) = raw_string(rest) {
            len
        } else if c == '"' {
            quoted(rest, '"')
        } else if c == '\'' {
            character(rest)
        } else if c.is_alphanumeric() || c == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            out.push(rest[..end].to_owned());
            end
        } else {
            if !c.is_whitespace() {
                out.push(c.to_string());
            }
            c.len_utf8()
        };
        rest = &rest[skip..];
    }
    out
}

fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - body.len();
    Some(body.find(&end).map_or(rest.len(), |at| start + at + end.len()))
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// A character literal, or just the `'` of a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), _) => quoted(rest, '\''),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// The names that `start::` leads to: `start::a::b` and `start::{a::b, c}` give a, and a and c.
fn first_names(words: &[String], start: &str) -> Vec<String> {
    let mut out = Vec::new();
    for at in 0..words.len() {
        let path_begins = at == 0 || words[at - 1] != ":";
        if words[at] != start
            || !path_begins
            || words.get(at + 1).is_none_or(|w| w != ":")
            || words.get(at + 2).is_none_or(|w| w != ":")
        {
            continue;
        }
        match words.get(at + 3).map(String::as_str) {
            Some("{") => out.extend(group(&words[at + 4..])),
            Some(name) => out.push(name.to_owned()),
            None => {}
        }
    }
    out
}

/// The first name of each part of a group of imports.
fn group(words: &[String]) -> Vec<String> {
    let (mut out, mut depth, mut first) = (Vec::new(), 0, true);
    for word in words {
        match word.as_str() {
            "{" => depth += 1,
            "}" if depth == 0 => break,
            "}" => depth -= 1,
            "," if depth == 0 => first = true,
            name if first && depth == 0 => {
                out.push(name.to_owned());
                first = false;
            }
            _ => {}
        }
    }
    out
}

fn room(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap_or_default()
}

/// Every breach of the rules, as sentences.
fn breaches(sources: &[Source]) -> Vec<String> {
    let mut out = Vec::new();
    for source in sources {
        let path = &source.path;
        if source.lines > LONGEST {
            out.push(format!("src/{path} has {} lines, more than {LONGEST}", source.lines));
        }
        for (word, places) in RESERVED {
            if source.holds(word) && !places.iter().any(|place| path.starts_with(place)) {
                out.push(format!("src/{path} uses {word}, which belongs to {places:?}"));
            }
        }
        for lock in std_locks(&source.words) {
            out.push(format!("src/{path} uses std::sync::{lock}: locks are parking_lot's"));
        }
        rooms(source, &mut out);
    }
    let sled: Vec<&str> = sources.iter().filter(|s| s.holds("sled")).map(|s| s.path.as_str()).collect();
    if sled.len() > 1 {
        out.push(format!("sled belongs to one file, but {sled:?} use it"));
    }
    out
}

/// The locks of the standard library that are named by `std::sync::`.
fn std_locks(words: &[String]) -> Vec<String> {
    let start = ["std", ":", ":", "sync", ":", ":"];
    let mut out = Vec::new();
    for at in (0..words.len()).filter(|at| words[*at..].iter().take(start.len()).eq(start.iter())) {
        let named = &words[at + start.len()..];
        match named.first().map(String::as_str) {
            Some("{") => out.extend(group(&named[1..])),
            Some(name) => out.push(name.to_owned()),
            None => {}
        }
    }
    out.retain(|name| ["Mutex", "RwLock", "Condvar", "PoisonError"].contains(&name.as_str()));
    out
}

fn rooms(source: &Source, out: &mut Vec<String>) {
    let (path, here) = (&source.path, room(&source.path));
    for (rooms, [start, name]) in FORBIDDEN.map(|(rooms, path)| (rooms, [path[0], path[1]])) {
        if rooms.contains(&here) && first_names(&source.words, start).iter().any(|n| n == name) {
            out.push(format!("src/{path} uses {start}::{name}, which {here} must not"));
        }
    }
    match here {
        // These two only name the rooms.
        "lib" | "main" => return,
        "cli" => {
            if first_names(&source.words, "crate").iter().any(|name| name != "cli") {
                out.push(format!("src/{path} names a room by the binary's root: the rooms are reached by yester::"));
            }
            return;
        }
        _ => {}
    }
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == here) else {
        out.push(format!("src/{path} is in no room of the map"));
        return;
    };
    // `super` leads out of a room only from its first level: src/a/mod.rs and src/a.rs.
    let top = path.ends_with("/mod.rs") && path.matches('/').count() == 1 || !path.contains('/');
    if outside_of_modules(&source.words).iter().any(|name| name == "super") {
        out.push(format!("src/{path} leaves its room by super::super: name the room by crate::"));
    }
    let mut used = first_names(&source.words, "crate");
    used.extend(if top { outside_of_modules(&source.words) } else { Vec::new() });
    for name in used {
        let known = ROOMS.iter().any(|(room, _)| *room == name);
        let free = [here, "error", "observe"].contains(&name.as_str()) || allowed.contains(&name.as_str());
        if known && !free {
            out.push(format!("src/{path} uses the room {name}, which {here} must not"));
        }
        // The root gives out the leaf `error` under three names; anything else there would be a way around the map.
        if !known && !["self", "Error", "ErrorKind", "Result"].contains(&name.as_str()) {
            out.push(format!("src/{path} uses crate::{name}: name the room it is from"));
        }
    }
}

/// Names that `super::` leads to outside of a `mod tests { … }`, whose `super` is the file itself.
fn outside_of_modules(words: &[String]) -> Vec<String> {
    let end = words.windows(3).position(|w| w[0] == "mod" && w[2] == "{").unwrap_or(words.len());
    first_names(&words[..end], "super")
}

#[test]
fn every_room_keeps_to_the_map() {
    let sources = sources();
    assert!(sources.len() > 30, "the sources were not found");
    let breaches = breaches(&sources);
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn the_map_is_the_one_in_lib_rs() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let declared: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    for room in &declared {
        assert!(ROOMS.iter().any(|(name, _)| name == room), "{room} is not in the map of this test");
        assert!(
            text.lines().any(|l| l.starts_with("//! |") && l.contains(&format!("`{room}`"))),
            "{room} is not in lib.rs's map"
        );
    }
}

#[test]
fn a_breach_is_seen() {
    let breach = |path: &str, text: &str| {
        breaches(&[Source { path: path.to_owned(), lines: text.lines().count(), words: words(text) }]).join("; ")
    };
    let bad = [
        ("model/id.rs", "use crate::repo::Repository;", "room repo"),
        ("chunk/codec.rs", "use crate::{error::Result, storage::{Name, Class}};", "room storage"),
        ("storage/memory.rs", "fn f() { crate::repo::open() }", "room repo"),
        ("repo/mod.rs", "use super::ingest::ingest;", "room ingest"),
        ("restore/plan.rs", "use crate::vfs::View;", "room vfs"),
        ("repo/tree.rs", "use crate::helper;", "name the room"),
        ("format/page.rs", "use std::{io, fs::File};", "std::fs"),
        ("model/node.rs", "fn f() { std::fs::read(p) }", "std::fs"),
        ("repo/mod.rs", "let v = std::env::var(\"X\");", "std::env"),
        ("vfs/view.rs", "use fuser::ReplyAttr;", "fuser"),
        ("repo/mod.rs", "use super::super::ingest::ingest;", "super::super"),
        ("storage/far.rs", "use tokio::runtime;", "tokio"),
        ("ingest/mod.rs", "use clap::Args;", "clap"),
        ("cli/context.rs", "use std::sync::{Arc, Mutex};", "parking_lot"),
        ("vfs/below.rs", "let lock = std::sync::RwLock::new(0);", "parking_lot"),
        ("repo/small.rs", "tracing::warn!(\"x\");", "tracing"),
        ("mount/session.rs", "tracing::warn!(\"x\");", "warn"),
        ("cli/ls.rs", "let repo = Repository::open(storage, &key)?;", "open"),
        ("ingest/mod.rs", "println!(\"x\");", "println"),
        ("ingest/mod.rs", "std::io::stderr().write(b)", "stderr"),
        ("ingest/read.rs", "let x = unsafe { f() };", "unsafe"),
        ("ingest/read.rs", "use rustix::fs;", "rustix"),
        ("cli/ls.rs", "use crate::ingest::x;", "yester::"),
        ("cli/ls.rs", "use crate::{cli::say, repo::x};", "yester::"),
        ("attic/mod.rs", "", "no room"),
        ("repo/long.rs", &"\n".repeat(LONGEST + 1), "lines"),
    ];
    for (path, text, said) in bad {
        assert!(breach(path, text).contains(said), "{path}: {text:?} passed: {:?}", breach(path, text));
    }
    let sled = |path: &str| Source { path: path.to_owned(), lines: 1, words: words("use sled::Db;") };
    assert!(breaches(&[sled("repo/state.rs"), sled("repo/index.rs")]).concat().contains("one file"));
    let good = [
        ("repo/state.rs", "use sled::Db;"),
        ("mount/session.rs", "tracing::debug!(\"x\");"),
        ("serve/objects/hosted.rs", "tracing::warn!(\"x\");"),
        ("mount/session.rs", "let child = Command::new(p).stdout(Stdio::null()).output(); child.stderr.len();"),
        (
            "repo/mod.rs",
            "// unsafe fuser\n/* sled */ let s = \"println! \\\" unsafe\"; let r = r#\"libc \" unsafe\"#; let c = '\"'; /// stdout",
        ),
        (
            "repo/tree.rs",
            "use crate::error::{Error, Result}; use super::reader::Chunk; fn f<'a>(x: &'a str) -> std::io::Result<()> {}",
        ),
        ("repo/mod.rs", "use std::fs; #[cfg(test)] mod tests { use super::storage; }"),
        ("cli/ls.rs", "use clap::Args; use yester::repo::Repository; use super::output;"),
        ("sys/dir.rs", "use rustix::fs; #![allow(unsafe_code)] unsafe { libc::read() }"),
    ];
    for (path, text) in good {
        assert_eq!(breach(path, text), "", "{path}: {text:?}");
    }
}
