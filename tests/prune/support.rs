//! A repository in memory, made by real ingests of a small directory, and what each snapshot of it must hold.

pub use crate::common::build::noise;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use crate::common::record::Operation;
use yester::chunk::codec::Compression;
use yester::chunk::keys::Credential;
use yester::chunk::seal;
use yester::error::Result;
use yester::format::config::{ChunkerParameters, Derivation};
use yester::format::envelope::ObjectType;
use yester::format::snapshot::Session;
use yester::ingest::{IngestOptions, IngestReport, Source, ingest};
use yester::maintain::check::{CheckOptions, check};
use yester::maintain::forget::{self, ForgetOptions};
use yester::maintain::prune::{Prune, PruneOptions, PrunePlan, Report, Unused};
use yester::model::{Directory, Kind, PackId, SnapshotId, Timestamp};
use yester::repo::index::Index;
use yester::repo::reader::ChunkReader;
use yester::repo::tree::TreeReader;
use yester::repo::{InitOptions, Repository, session, snapshots};
use yester::storage::memory::MemoryStorage;
use yester::storage::{Class, Name, Storage};
use yester::task::Task;

use crate::common::faults::{self, Faults};

/// Path and content of every file.
pub type Tree = BTreeMap<Vec<u8>, Vec<u8>>;

const KEY: Credential = Credential::KeyFile([9; 32]);

/// Chunks of about 4 KiB: small files have several.
const CHUNKER: ChunkerParameters = ChunkerParameters { min: 2048, avg: 4096, max: 16384 };

pub fn now() -> Timestamp {
    yester::sys::clock::now()
}

/// A repository, and the snapshots that it must have.
pub struct World {
    pub storage: Arc<Faults>,
    pub repo: Arc<Repository>,
    pub source: tempfile::TempDir,
    pub history: BTreeMap<SnapshotId, Tree>,
}

impl World {
    pub fn new() -> World {
        let storage = Faults::over(Arc::new(MemoryStorage::default()));
        let options =
            InitOptions { chunker: CHUNKER, derivation: Derivation::KeyFile, now: Timestamp::default(), label: Vec::new() };
        let repo = Repository::init(storage.clone(), &KEY, &options).unwrap();
        World { storage, repo: Arc::new(repo), source: tempfile::tempdir().unwrap(), history: BTreeMap::new() }
    }

    /// The same repository, as it is now, on a storage of its own.
    pub fn copy(&self) -> World {
        self.on(Faults::over(faults::copy(&*self.storage.inner)))
    }

    /// The same history and source on another storage.
    pub fn on(&self, storage: Arc<Faults>) -> World {
        let repo = Arc::new(Repository::open(storage.clone(), &KEY).unwrap());
        let source = tempfile::tempdir().unwrap();
        for (name, content) in read_directory(self.source.path()) {
            write(&source.path().join(std::str::from_utf8(&name).unwrap()), &content);
        }
        World { storage, repo, source, history: self.history.clone() }
    }

    /// Writes a file of the source; its time is long past and its own, so that it counts as unchanged from now on.
    pub fn write(&self, name: &str, content: &[u8]) {
        write(&self.source.path().join(name), content);
    }

    /// Gives a file an attribute; the file system of the test's directory must have them.
    pub fn set_xattr(&self, name: &str, attribute: &str, value: &[u8]) {
        let path = self.source.path().join(name).into_os_string().into_encoded_bytes();
        let (path, attribute) = (CString::new(path).unwrap(), CString::new(attribute).unwrap());
        // SAFETY: both strings and the value live during the call, and the length is the value's.
        #[allow(unsafe_code)]
        let set = unsafe { libc::lsetxattr(path.as_ptr(), attribute.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
        assert_eq!(set, 0, "an attribute is set");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.source.path().join(name)).unwrap();
    }

    pub fn options(&self) -> IngestOptions {
        let compression = Compression::Level(1);
        IngestOptions { ignore_ctime: true, compression, readers: 2, ..IngestOptions::default() }
    }

    pub fn try_ingest(&self, options: &IngestOptions) -> Result<IngestReport> {
        let sources = [Source { path: self.source.path().to_owned(), stored: b"/live".to_vec() }];
        ingest(&self.repo, &sources, options, &Task::default())
    }

    /// Takes a snapshot, which from now on must be there.
    pub fn ingest(&mut self) -> IngestReport {
        let report = self.try_ingest(&self.options()).unwrap();
        assert!(report.committed && report.is_complete(), "{report:?}");
        self.history.insert(report.snapshot.id, read_directory(self.source.path()));
        report
    }

    pub fn forget(&mut self, id: SnapshotId) {
        assert_eq!(forget::forget(&self.repo, &[id], &ForgetOptions::default(), &Task::default()).unwrap(), [id]);
        self.history.remove(&id);
    }

    pub fn prune_options(&self) -> PruneOptions {
        PruneOptions { memory: 8 << 20, ..PruneOptions::default() }
    }

    pub fn try_prune(&self, options: &PruneOptions) -> Result<(PrunePlan, Report)> {
        prune(&self.repo, options)
    }

    /// Prunes without repacking.
    pub fn sweep(&self) -> (PrunePlan, Report) {
        self.try_prune(&PruneOptions { max_unused: Unused::Unlimited, ..self.prune_options() }).unwrap()
    }

    /// Prunes and leaves nothing unused.
    pub fn prune(&self) -> (PrunePlan, Report) {
        self.try_prune(&PruneOptions { max_unused: Unused::Bytes(0), ..self.prune_options() }).unwrap()
    }

    pub fn names(&self, class: Class) -> Vec<Name> {
        faults::names(&*self.storage.inner, class)
    }

    pub fn size(&self) -> u64 {
        faults::size(&*self.storage.inner)
    }

    /// Every snapshot is there, and every byte of it can be read; no others are there.
    #[track_caller]
    pub fn verify(&self) {
        let repo = Arc::new(Repository::open(self.storage.inner.clone(), &KEY).unwrap());
        verify(&repo, &self.history);
    }

    /// A check finds no damage, whatever was left half done.
    #[track_caller]
    pub fn is_undamaged(&self, case: &str) {
        let repo = Arc::new(Repository::open(self.storage.inner.clone(), &KEY).unwrap());
        let report = check(&repo, &CheckOptions::default(), &Task::default(), &mut |_, _| ()).unwrap();
        assert!(report.is_sound(), "{case}: {report:?}");
    }
}

/// Plans a prune and does it.
pub fn prune(repo: &Arc<Repository>, options: &PruneOptions) -> Result<(PrunePlan, Report)> {
    let prune = Prune::prepare(repo, options, &Task::default())?;
    let plan = prune.plan().clone();
    Ok((plan, prune.carry_out()?))
}

/// Every snapshot of `history` is there and reads as it must; no others are there.
#[track_caller]
pub fn verify(repo: &Arc<Repository>, history: &BTreeMap<SnapshotId, Tree>) {
    Reader::open(repo).verify(history);
}

/// A reader of a repository, as it was when this was opened.
pub struct Reader {
    repo: Arc<Repository>,
    pub trees: TreeReader,
}

impl Reader {
    pub fn open(repo: &Arc<Repository>) -> Reader {
        let index = Arc::new(Index::load(repo).unwrap());
        let chunks = Arc::new(ChunkReader::new(repo.clone(), index, 8 << 20).unwrap());
        Reader { repo: repo.clone(), trees: TreeReader::new(chunks, 8 << 20).unwrap() }
    }

    /// Every snapshot of `history` is there and reads as it must; no others are there.
    #[track_caller]
    pub fn verify(&self, history: &BTreeMap<SnapshotId, Tree>) {
        let listed = snapshots::list(&self.repo).unwrap();
        let ids: Vec<SnapshotId> = listed.iter().map(|s| s.id).collect();
        assert!(ids.len() == history.len() && ids.iter().all(|id| history.contains_key(id)), "other snapshots are there");
        for snapshot in &listed {
            let (live, _) = self.trees.walk_to(&snapshot.root, &[b"live"]).unwrap();
            let mut found = Tree::new();
            collect(&self.trees, live.directory().unwrap(), b"", &mut found);
            assert!(found == history[&snapshot.id], "snapshot {} has other content", snapshot.id.short());
            // What change detection needs is there as well.
            if let Some(scan) = &snapshot.scan {
                let (first, records) = self.trees.scan_page(scan, snapshot.nodes() - 1).unwrap();
                assert_eq!(first + records.len() as u64, snapshot.nodes());
            }
        }
    }
}

impl Reader {
    /// A snapshot holds these files.
    #[track_caller]
    pub fn holds(&self, id: SnapshotId, files: &Tree, case: &str) {
        let snapshot = snapshots::load(&self.repo, id).unwrap().unwrap();
        let (live, _) = self.trees.walk_to(&snapshot.root, &[b"live"]).unwrap_or_else(|e| panic!("{case}: {e}"));
        let mut found = Tree::new();
        collect(&self.trees, live.directory().unwrap(), b"", &mut found);
        assert!(found == *files, "{case}: snapshot {} has other content", id.short());
    }
}

fn collect(trees: &TreeReader, directory: &Directory, path: &[u8], out: &mut Tree) {
    for entry in trees.entries(directory) {
        let entry = entry.unwrap();
        let node = entry.node();
        let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
        let path = [path, slash, &node.name].concat();
        match &node.kind {
            Kind::Directory(below) => collect(trees, below, &path, out),
            Kind::File(content) => {
                let mut bytes = Vec::new();
                trees.read(content, 0, content.size() as usize, &mut bytes).unwrap();
                trees.xattrs(node).unwrap();
                out.insert(path, bytes);
            }
            _ => {}
        }
    }
}

pub fn read_directory(root: &Path) -> Tree {
    let mut out = Tree::new();
    let mut below: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = below.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().as_bytes().to_vec();
                out.insert(name, fs::read(path).unwrap());
            }
        }
    }
    out
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    static WRITES: AtomicU64 = AtomicU64::new(1_000_000_000);
    let time = UNIX_EPOCH + Duration::from_secs(WRITES.fetch_add(1, Ordering::Relaxed));
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// How many frames are differences.
pub fn deltas(repo: &Arc<Repository>) -> usize {
    let index = Index::load(repo).unwrap();
    let mut count = 0;
    for segment in 0..index.segments().len() {
        let mut visit = |_: &_, _, frame: &yester::format::pack::FrameInfo| {
            count += usize::from(!frame.bases.is_empty());
            Ok(())
        };
        index.scan_frames(segment, &mut visit).unwrap();
    }
    count
}

impl World {
    /// A session of a process of this host that is gone.
    pub fn dead_session(&self) -> SnapshotId {
        let id = session::begin(&self.repo, now()).unwrap();
        self.bury(|_| true);
        id
    }

    /// Lets the writers of sessions be gone: this process plays them, and lives.
    pub fn bury(&self, which: impl Fn(SnapshotId) -> bool) {
        for name in self.names(Class::Sessions) {
            let Name::Session(id) = name else { continue };
            if which(id) {
                let found = session::read(&self.repo, id).unwrap();
                self.put_session(id, &Session { started: 1, ..found });
            }
        }
    }

    /// Puts a session in the place of one.
    pub fn put_session(&self, id: SnapshotId, session: &Session) {
        let plain = yester::format::snapshot::encode_session(session).unwrap();
        let keys = &self.repo.keys().snapshot;
        let object = seal::seal_object(ObjectType::Session, self.repo.id(), &id.0, keys, &plain).unwrap();
        self.storage.inner.delete(&Name::Session(id)).unwrap();
        self.storage.inner.create(&Name::Session(id), &[&object]).unwrap();
    }

    /// Lists packs, as another prune would.
    pub fn condemn(&self, packs: &[PackId]) -> SnapshotId {
        let id = SnapshotId::random().unwrap();
        let plain: Vec<u8> = packs.iter().flat_map(|pack| pack.0).collect();
        let keys = &self.repo.keys().snapshot;
        let object = seal::seal_object(ObjectType::Condemned, self.repo.id(), &id.0, keys, &plain).unwrap();
        self.storage.inner.create(&Name::Condemned(id), &[&object]).unwrap();
        id
    }

    /// The same repository past the faults: for what others do meanwhile.
    pub fn copy_of_repo(&self) -> Arc<Repository> {
        Arc::new(Repository::open(self.storage.inner.clone(), &KEY).unwrap())
    }

    /// What the source holds.
    pub fn expected(&self) -> Tree {
        read_directory(self.source.path())
    }

    pub fn packs(&self) -> Vec<PackId> {
        let packs = self.names(Class::Packs).into_iter();
        packs.filter_map(|name| if let Name::Pack(id) = name { Some(id) } else { None }).collect()
    }

    /// Something of everything that a prune can meet: forgotten snapshots, packs that are needed in part, differences,
    /// packs without a segment, a dead session, the list of a prune that was killed, replaced segments.
    pub fn eventful() -> World {
        let mut world = World::new();
        let text = |version: u64| {
            let mut text = noise(7, 280_000);
            (0..6).for_each(|at| text[at * 45_000..][..8].copy_from_slice(&version.to_le_bytes()));
            text
        };
        let mut forgotten = Vec::new();
        for version in 0..6 {
            world.write("text", &text(version));
            world.write(&format!("some/file{version}"), &noise(100 + version, 30_000));
            world.write(&format!("more/file{version}"), &noise(200 + version, 20_000));
            if version > 1 {
                world.remove(&format!("some/file{}", version - 2));
            }
            forgotten.push(world.ingest().snapshot.id);
        }
        assert!(deltas(&world.repo) > 0);
        for at in [0, 1, 3] {
            world.forget(forgotten[at]);
        }
        // An ingest was killed after its packs and before its segment.
        world.write("unfinished", &noise(300, 50_000));
        world.storage.before(|operation| match operation {
            Operation::Create(Name::Segment(_), _) => Err(faults::full()),
            _ => Ok(()),
        });
        world.try_ingest(&world.options()).unwrap_err();
        world.storage.before(|_| Ok(()));
        world.remove("unfinished");
        world.dead_session();
        // A prune was killed in the middle of its deletions.
        let stopped = world.copy();
        let deletes = |operation: &Operation| matches!(operation, Operation::Delete(Name::Pack(_)));
        let mut left = 1;
        stopped.storage.before(move |operation| match deletes(operation) && std::mem::replace(&mut left, 0) == 0 {
            true => Err(faults::full()),
            false => Ok(()),
        });
        let unlimited = PruneOptions { max_unused: Unused::Unlimited, ..stopped.prune_options() };
        stopped.try_prune(&unlimited).unwrap_err();
        world = stopped.on(Faults::over(faults::copy(&*stopped.storage.inner)));
        assert_eq!(world.names(Class::Condemned).len(), 1);
        world.dead_session();
        world.forget(forgotten[4]);
        // A merge: nobody has deleted yet what it replaced.
        let index = Index::load(&world.repo).unwrap();
        index.rewrite(&world.repo, &[0, 1], &[], &|_| true).unwrap();
        world
    }

    /// Whatever happened: everything is there, the next prune needs no help and leaves no garbage, and the next ingest
    /// works.
    #[track_caller]
    pub fn recovers(mut self) {
        self.verify();
        self.bury(|_| true);
        self.prune();
        self.verify();
        assert!(self.names(Class::Condemned).is_empty() && self.names(Class::Sessions).is_empty());
        let mut size = self.size();
        let (plan, report) = self.prune();
        if self.size() != size {
            // What is left of a difference may be better off without bases: then what they were copied for is gone, and
            // they are garbage in a pack of copies. Nothing else may be, and that ends it.
            let others = [plan.marked, plan.dead, plan.snapshots, plan.leftovers];
            let found = others.iter().map(|tally| tally.count).sum::<u64>();
            assert!(found == 0 && plan.repack.count == 1, "it left garbage: {plan:?} {report:?}");
            size = self.size();
            let (plan, report) = self.prune();
            assert!(self.size() == size, "it leaves garbage each time: {plan:?} {report:?}");
        }
        self.write("later", &noise(999, 20_000));
        let report = self.ingest();
        assert!(report.snapshot.parent.is_some());
        self.verify();
    }
}
