//! Content that can be told from its name, and writers that make snapshots of it.

pub use crate::common::build::noise;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::common::program::{Run, World, shown, with};

/// How many files a source has.
pub const FILES: u64 = 24;

/// What the file `number` holds in its version `version`: some are small, some have several chunks.
pub fn content(number: u64, version: u64) -> Vec<u8> {
    let seed = number << 32 | version;
    let len = if number.is_multiple_of(6) { 150_000 } else { 200 + seed.wrapping_mul(7919) % 9_000 };
    noise(seed, len as usize)
}

/// Where a file is below the source.
pub fn place(number: u64) -> String {
    format!("d{}/f{number}", number % 5)
}

/// A snapshot that stays, with the version of each file in it.
#[derive(Debug, Clone)]
pub struct Kept {
    pub id: String,
    pub versions: BTreeMap<u64, u64>,
}

/// What a tree must hold.
pub fn compare(tree: &Path, kept: &Kept) -> Result<(), String> {
    for (number, version) in &kept.versions {
        let path = tree.join(place(*number));
        let read = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        if read != content(*number, *version) {
            return Err(format!("{} has other content", path.display()));
        }
    }
    Ok(())
}

/// When a test ends: after so many rounds, or after the time that the environment gives it.
pub struct End {
    until: Option<Instant>,
    rounds: u64,
}

impl End {
    pub fn after(rounds: u64) -> End {
        let seconds = std::env::var("YESTER_TEST_SECONDS").ok().and_then(|text| text.parse().ok());
        End { until: seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)), rounds }
    }

    /// Whether round `done` was the last.
    pub fn is_reached(&self, done: u64) -> bool {
        match self.until {
            Some(until) => Instant::now() >= until,
            None => done >= self.rounds,
        }
    }
}

/// What went wrong, by any thread.
#[derive(Default)]
pub struct Faults(Mutex<Vec<String>>);

impl Faults {
    pub fn add(&self, text: String) {
        eprintln!("fault: {text}");
        self.0.lock().unwrap().push(text);
    }

    /// Notes a run that did not end with any of these codes.
    pub fn judge(&self, what: &str, run: &Run, codes: &[i32]) {
        if !run.code.is_some_and(|code| codes.contains(&code)) {
            self.add(format!("{what} ended with {:?}: {} {}", run.code, run.text(), run.err));
        }
    }

    pub fn none(&self) {
        let found = self.0.lock().unwrap();
        assert!(found.is_empty(), "{} faults: {found:#?}", found.len());
    }
}

/// A source whose files change from round to round.
pub struct Source {
    name: String,
    versions: BTreeMap<u64, u64>,
}

impl Source {
    pub fn new(world: &World, name: &str) -> Source {
        let mut source = Source { name: name.to_owned(), versions: BTreeMap::new() };
        (0..FILES).for_each(|number| source.write(world, number, 0));
        source
    }

    fn write(&mut self, world: &World, number: u64, version: u64) {
        world.file(&format!("{}/{}", self.name, place(number)), content(number, version));
        self.versions.insert(number, version);
    }

    /// Changes a third of the files.
    pub fn change(&mut self, world: &World, version: u64) {
        (0..FILES).filter(|number| (number + version).is_multiple_of(3)).for_each(|number| self.write(world, number, version));
    }

    /// Takes a snapshot with this tag.
    pub fn ingest(&self, world: &World, options: &[String], tag: &str) -> Result<Kept, Run> {
        let run = world.run(&with(options, &["ingest", "--json", "--tag", tag, &shown(&world.at(&self.name))]));
        if run.code != Some(0) {
            return Err(run);
        }
        let id = run.json().pop().unwrap()["snapshot_id"].as_str().unwrap().to_owned();
        Ok(Kept { id, versions: self.versions.clone() })
    }
}
