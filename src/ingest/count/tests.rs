//! The count is what the ingest comes to.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::chunk::keys::Credential;
use crate::format::config::{ChunkerParameters, Derivation};
use crate::ingest::{Exclude, IngestOptions, Source, ingest};
use crate::model::Timestamp;
use crate::observe::{Event, Observer};
use crate::repo::{InitOptions, Repository};
use crate::storage::memory::MemoryStorage;

/// Holds the first progress back until the count is over; keeps the last.
#[derive(Default)]
struct Last(Mutex<Option<[u64; 4]>>);

impl Observer for Last {
    fn event(&self, event: &Event<'_>) {
        let Event::Progress { entries, bytes, total_entries, total_bytes, .. } = event else { return };
        let mut last = self.0.lock();
        while last.is_none() && counts() {
            std::thread::yield_now();
        }
        *last = Some([*entries, *bytes, *total_entries, *total_bytes]);
    }
}

fn counts() -> bool {
    let tasks = fs::read_dir("/proc/self/task").expect("threads").flatten();
    tasks.into_iter().any(|task| fs::read(task.path().join("comm")).is_ok_and(|name| name == b"count\n"))
}

fn write(path: &Path, len: usize) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    fs::write(path, vec![7; len]).expect("a file");
}

#[test]
fn the_count_is_what_the_ingest_comes_to() {
    let place = tempfile::tempdir().expect("a directory");
    let root = fs::canonicalize(place.path()).expect("its path");
    for (name, len) in [
        ("a/small", 10),
        ("a/big", 3 << 20),
        ("a/skipped.tmp", 100),
        ("a/too-large", 9 << 20),
        ("a/cache/CACHEDIR.TAG", 0),
        ("a/cache/content", 500),
        ("a/none/.nobackup", 0),
        ("a/none/content", 500),
        ("a/none/given/file", 50),
        ("a/deep/er/still", 70_000),
        ("b/one", 40),
    ] {
        write(&root.join(name), len);
    }
    fs::write(root.join("a/cache/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55\n").expect("a tag");
    symlink("somewhere/else", root.join("a/link")).expect("a link");
    fs::hard_link(root.join("a/small"), root.join("a/same")).expect("a link");
    let exclude = Exclude {
        patterns: vec!["*.tmp".to_owned()],
        caches: true,
        if_present: vec![".nobackup".to_owned()],
        larger_than: Some(8 << 20),
        one_file_system: true,
        ..Exclude::default()
    };
    let (chunker, derivation) = (ChunkerParameters::DEFAULT, Derivation::KeyFile);
    let init = InitOptions { chunker, derivation, now: Timestamp::default(), label: Vec::new() };
    let repo = Repository::init(Arc::new(MemoryStorage::default()), &Credential::KeyFile([1; 32]), &init).expect("a repository");
    let repo = Arc::new(repo);
    let sources = ["a", "a/none/given", "a/skipped.tmp", "b/one", "gone"].map(|name| {
        let path = root.join(name);
        Source { stored: path.as_os_str().as_bytes().to_vec(), path }
    });
    for count_ahead in [true, false] {
        let parent = crate::ingest::Parent::None;
        let options = IngestOptions { exclude: exclude.clone(), count_ahead, parent, ..IngestOptions::default() };
        let once = || {
            let last = Last::default();
            let report = ingest(&repo, &sources, &options, &crate::task::Task::new(&last)).expect("a snapshot");
            assert!(report.committed);
            let progress = last.0.lock().expect("progress");
            (progress, report)
        };
        // A count that has not even begun is not seen: an ingest that is quicker than it has no total.
        let complete = |(progress, _): &([u64; 4], _)| !count_ahead || progress[2] > 0;
        let (progress, report) = std::iter::repeat_with(once).take(100).find(complete).expect("a count");
        let [entries, bytes, total_entries, total_bytes] = progress;
        assert!(entries > 15 && bytes > 3 << 20, "{entries} entries, {bytes} bytes");
        let expected = if count_ahead { (entries, bytes) } else { (0, 0) };
        assert_eq!((total_entries, total_bytes), expected, "{:?}", report.snapshot.statistics);
    }
}
