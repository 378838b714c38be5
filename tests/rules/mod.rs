//! Rules that the sources and the README keep.

use std::fs;
use std::path::{Path, PathBuf};

mod architecture;
mod functions;
mod glossary;
mod readme;

/// Every source file: its path below `src/`, and its text.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut out = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let short = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                out.push((short, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    out
}

/// The text without the tests at its end.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}
