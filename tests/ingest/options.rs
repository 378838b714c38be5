//! What the options of `ingest` do, one by one, and files that change while they are read.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::program;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use program::{World, shown, with};

fn shell(line: &str, at: &Path) -> bool {
    Command::new("sh").args(["-c", line]).current_dir(at).status().unwrap().success()
}

/// Files new, changed, and unmodified since `parent`, as a dry run counts them.
fn counts(world: &World, options: &[String], parent: &str, more: &[&str]) -> [u64; 3] {
    let args = [&["ingest", "-n", "--json", "--parent", parent, "src"], more].concat();
    let summary = world.run(&with(options, &args)).ok().json().pop().unwrap();
    ["files_new", "files_changed", "files_unmodified"].map(|key| summary[key].as_u64().unwrap())
}

fn ingest(world: &World, options: &[String], more: &[&str]) -> serde_json::Value {
    world.run(&with(options, &[&["ingest", "--json", "src"], more].concat())).ok().json().pop().unwrap()
}

#[test]
fn what_tells_that_a_file_changed() {
    let world = World::new();
    let options = world.repository();
    for name in ["same", "written", "replaced"] {
        world.file(&format!("src/{name}"), "before");
    }
    std::thread::sleep(Duration::from_millis(2200));
    let first = ingest(&world, &options, &[]);
    let parent = first["snapshot_id"].as_str().unwrap();
    assert_eq!(counts(&world, &options, parent, &[]), [0, 0, 3]);
    // The same length and time of content, in the same inode and in another.
    let line = "touch -r written t && printf edited >written && touch -r t written && touch -r replaced t \
                && printf edited >new && touch -r t new && mv new replaced && rm t";
    assert!(shell(line, &world.at("src")));
    assert_eq!(counts(&world, &options, parent, &[]), [0, 2, 1]);
    assert_eq!(counts(&world, &options, parent, &["--ignore-inode"]), [0, 2, 1]);
    assert_eq!(counts(&world, &options, parent, &["--ignore-ctime"]), [0, 1, 2]);
    assert_eq!(counts(&world, &options, parent, &["--ignore-ctime", "--ignore-inode"]), [0, 0, 3]);
    // Whoever reads everything is not fooled.
    let forced = ingest(&world, &options, &["--force", "--ignore-ctime", "--ignore-inode"]);
    assert_eq!((forced["files_new"].as_u64(), forced.get("parent")), (Some(3), None));
    assert_eq!(world.run(&with(&options, &["cat", "latest:src/written"])).ok().out, b"edited");
    // From the parent that is named, not from the newest.
    world.file("src/later", "x");
    ingest(&world, &options, &[]);
    assert_eq!(counts(&world, &options, "latest", &[])[0], 0);
    assert_eq!(counts(&world, &options, parent, &[])[0], 1);
}

#[test]
fn holes_are_kept_or_filled() {
    let world = World::new();
    let options = world.repository();
    world.file("src/x", "");
    for (name, len) in [("hollow", 1 << 20), ("short", 3000)] {
        File::create(world.at("src").join(name)).unwrap().set_len(len).unwrap();
    }
    // What its blocks do not tell of: attributes and preallocated blocks are among them.
    for name in ["attributed", "preallocated"] {
        let path = world.file(&format!("src/{name}"), [7; 8192]);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(20_000).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 7712], 12_288).unwrap();
        let more = match name {
            "attributed" => yester::sys::xattr::set(&file, b"user.long", &[b'v'; 3000]).is_ok(),
            _ => shell("fallocate -n -o 20480 -l 40960 preallocated", &world.at("src")),
        };
        // Not every file system does these; they have one meaning only where the holes show in other ways.
        let meta = fs::metadata(&path).unwrap();
        assert!(!more || meta.blocks() * 512 >= meta.len(), "{name} shows its holes");
    }
    let ranges = |path: &Path| {
        let (file, mut ranges, mut at) = (File::open(path).unwrap(), Vec::new(), 0);
        while let Some((start, end)) = yester::sys::dir::next_data(&file, at).unwrap() {
            ranges.push((start, end));
            at = end;
        }
        ranges
    };
    let blocks = |target: &str, more: &[&str]| {
        ingest(&world, &options, &[&["--force"], more].concat());
        world.run(&with(&options, &["restore", "latest:src", "--target", target])).ok();
        ["hollow", "short"].map(|name| {
            let path = world.at(target).join(name);
            assert!(fs::read(&path).unwrap() == fs::read(world.at("src").join(name)).unwrap());
            fs::metadata(&path).unwrap().blocks() * 512
        })
    };
    let kept = blocks("kept", &[]);
    for name in ["attributed", "preallocated"] {
        let [source, copy] = ["src", "kept"].map(|from| ranges(&world.at(from).join(name)));
        assert_eq!((&source, copy), (&vec![(0, 8192), (12_288, 20_000)], source.clone()), "{name}");
    }
    let filled = blocks("filled", &["--no-holes"]);
    assert_eq!(ranges(&world.at("filled/attributed")), [(0, 20_000)]);
    assert_eq!(kept, [0, 0]);
    assert!(filled[0] >= 1 << 20 && filled[1] > 0, "{filled:?}");
}

#[test]
fn patterns_lists_and_sizes_leave_out() {
    let world = World::new();
    let options = world.repository();
    for name in ["src/a/keep.o", "src/b/drop.o", "src/b/c/deep.o", "src/Upper.TMP", "src/d/one/x", "src/d/two/x"] {
        world.file(name, "x");
    }
    world.file("src/large", vec![1; 10_241]);
    world.file("src/limit", vec![1; 10_240]);
    let files = |more: &[&str]| {
        ingest(&world, &options, more);
        let all = world.run(&with(&options, &["ls", "-R", "latest:src"])).ok().text();
        let base = format!("{}/", shown(&world.at("src")));
        all.lines().map(|line| line.strip_prefix(&base).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let everything = files(&[]);
    let gone = |more: &[&str]| {
        let left = files(more);
        everything.iter().filter(|path| !left.contains(path)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(gone(&["-e", "b/*.o"]), ["b/drop.o"]);
    assert_eq!(gone(&["--exclude", "*.o"]), ["a/keep.o", "b/c/deep.o", "b/drop.o"]);
    assert_eq!(gone(&["--exclude", &shown(&world.at("src/b"))]), ["b", "b/c", "b/c/deep.o", "b/drop.o"]);
    assert_eq!(gone(&["--exclude", "*.tmp"]), Vec::<String>::new());
    assert_eq!(gone(&["--iexclude", "*.tmp"]), ["Upper.TMP"]);
    assert_eq!(gone(&["--exclude-larger-than", "10K"]), ["large"]);
    let left_out = |path: &str| {
        let parent = path.rsplit_once('/').map_or(".", |(parent, _)| parent);
        let nodes = world.run(&with(&options, &["ls", "--json", &format!("latest:{parent}")])).ok().json();
        let node = nodes.iter().find(|node| node["path"].as_str().unwrap().ends_with(path)).unwrap().clone();
        node["left_out"].clone()
    };
    assert_eq!((left_out("src"), left_out("src/b")), (serde_json::json!(["excluded"]), serde_json::Value::Null));
    world.file("src/d/one/.skip", "yes, all of it");
    world.file("src/d/two/.skip", "no");
    assert_eq!(gone(&["--exclude-if-present", ".skip:yes"]), ["d/one/x"]);
    assert_eq!((left_out("src/d/one"), left_out("src/d/two")), (serde_json::json!(["marked"]), serde_json::Value::Null));
    assert_eq!(gone(&["--exclude-if-present", ".skip"]), ["d/one/x", "d/two/x"]);
}

#[test]
fn other_file_systems_are_left_out() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    // In a mount table of its own, which ends with the shell.
    let world = World::new();
    let options = world.repository();
    world.file("src/here", "x");
    fs::create_dir(world.at("src/other")).unwrap();
    let program = format!("{} {}", env!("CARGO_BIN_EXE_yester"), options.join(" "));
    let line = format!(
        "mount -t tmpfs -o mode=751 none src/other && echo x >src/other/there \
         && {program} ingest -q -x src && {program} ingest -q --host all src"
    );
    let status = Command::new("unshare").args(["--mount", "sh", "-c", &line]).current_dir(world.home()).status().unwrap();
    assert!(status.success());
    let list = |what: &str, more: &[&str]| world.run(&with(&options, &[&["ls", "-R", what], more].concat())).ok().text();
    assert!(list("latest:src", &["--host", "all"]).contains("/src/other/there"));
    let left = world.run(&with(&options, &["ls", "-R", "--json", "latest~1:src"])).ok().json();
    assert_eq!(left.len(), 2, "{left:?}");
    // The mount point is there, as it was seen.
    assert_eq!(left[1]["permissions"], "drwxr-x--x");
    // It is known what is not, and why.
    assert_eq!(left[1]["left_out"], serde_json::json!(["mounted"]));
    assert!(list("latest~1:src", &["-l"]).contains("other  (a file system that is mounted here was left out)"));
    let rules: Vec<_> =
        world.run(&with(&options, &["snapshots", "--json"])).ok().json().iter().map(|s| s["rules"].clone()).collect();
    assert_eq!(rules, [serde_json::json!([{ "kind": "one_file_system" }]), serde_json::Value::Null]);
}

/// Runs `change` again and again while `body` runs.
pub fn meanwhile<T>(change: impl Fn(u64) + Send + Sync, body: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..).take_while(|_| !over.load(Ordering::Relaxed)).for_each(&change));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        over.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|e| std::panic::resume_unwind(e))
    })
}

#[test]
fn a_file_that_grows_is_stored_and_told() {
    let world = World::new();
    let options = world.repository();
    world.file("src/still", "still");
    // One is read in pieces, one whole.
    let big = world.file("src/growing", vec![7; 32 << 20]);
    let small = world.file("src/small", vec![7; 100_000]);
    let append = |_| {
        for path in [&big, &small] {
            let mut file = File::options().append(true).open(path).unwrap();
            if file.metadata().unwrap().len() < 48 << 20 {
                file.write_all(&[7; 10]).unwrap();
            }
        }
    };
    // A run may slip in between two changes, when the machine has much to do, or when it has grown enough before.
    let mut runs = std::iter::repeat_with(|| {
        world.file("src/growing", vec![7; 32 << 20]);
        meanwhile(append, || world.run(&with(&options, &["ingest", "src"])))
    });
    let run = runs.by_ref().take(20).find(|run| run.err.contains("/src/growing: it changed while it was read"));
    let run = run.expect("every change was missed");
    assert_eq!(run.code, Some(3), "{}", run.err);
    assert!(!run.err.contains("still"), "{}", run.err);
    let stored = world.run(&with(&options, &["cat", "latest:src/growing"])).ok().out;
    assert!(stored.len() >= 32 << 20 && stored.iter().all(|byte| *byte == 7));
    // The next run reads it again, though its size and times may be the same.
    world.run(&with(&options, &["ingest", "src"])).ok();
    assert!(world.run(&with(&options, &["cat", "latest:src/growing"])).ok().out == fs::read(&big).unwrap());
}

#[test]
fn a_file_that_shrinks_or_goes_is_no_reason_to_hang() {
    let world = World::new();
    let options = world.repository();
    let (shrinking, going) = (world.file("src/shrinking", ""), world.file("src/going", ""));
    let change = |n: u64| {
        fs::write(&shrinking, vec![5; (n % 5) as usize * 300_000]).unwrap();
        fs::write(&going, "there").unwrap();
        fs::remove_file(&going).unwrap();
    };
    meanwhile(change, || {
        for _ in 0..8 {
            let run = world.run(&with(&options, &["ingest", "--force", "src"]));
            assert!(matches!(run.code, Some(0 | 3)), "{:?} {}", run.code, run.err);
        }
    });
    for snapshot in world.run(&with(&options, &["snapshots", "--json"])).ok().json() {
        let id = snapshot["id"].as_str().unwrap();
        for node in world.run(&with(&options, &["ls", "--json", &format!("{id}:src")])).ok().json() {
            let path = node["path"].as_str().unwrap();
            let content = world.run(&with(&options, &["cat", &format!("{id}:{path}")])).ok().out;
            assert_eq!(content.len() as u64, node["size"].as_u64().unwrap());
            assert!(content.iter().all(|byte| b"there\x05".contains(byte)));
        }
    }
}

#[test]
fn a_file_that_becomes_a_link_or_a_fifo_is_not_followed() {
    let world = World::new();
    let options = world.repository();
    world.file("secret", "secret");
    let (one, other) = (world.at("src/swapped"), world.at("other"));
    world.file("src/swapped", "plain");
    let swap = |n: u64| {
        match n % 3 {
            0 => fs::write(&other, "plain").unwrap(),
            1 => symlink(world.at("secret"), &other).unwrap(),
            _ => assert!(
                yester::sys::Dir::open(world.home()).unwrap().make_node(b"other", yester::sys::FileKind::Fifo, (0, 0)).is_ok()
            ),
        }
        fs::rename(&other, &one).unwrap();
    };
    meanwhile(swap, || {
        for _ in 0..20 {
            let run = world.run(&with(&options, &["ingest", "--force", "src"]));
            assert!(matches!(run.code, Some(0 | 3)), "{:?} {}", run.code, run.err);
        }
    });
    for snapshot in world.run(&with(&options, &["snapshots", "--json"])).ok().json() {
        let what = format!("{}:src/swapped", snapshot["id"].as_str().unwrap());
        let run = world.run(&with(&options, &["cat", &what]));
        // Nothing, when it was swapped after it had been listed; a link and a fifo cannot be printed.
        assert!(run.code != Some(0) || run.out == b"plain", "{:?}", run.out);
    }
}

/// How often `path` is opened for reading while `body` runs.
fn opens(path: &Path, body: impl FnOnce()) -> usize {
    let name = std::ffi::CString::new(shown(path)).unwrap();
    // Events that are the same one after the other become one: those of closing keep those of opening apart.
    let wanted = libc::IN_OPEN | libc::IN_CLOSE_NOWRITE;
    // SAFETY: the name is a C string that lives during the call; the descriptor is new, and belongs to `events` alone.
    #[allow(unsafe_code)]
    let mut events = unsafe {
        let fd = libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC);
        assert!(fd >= 0 && libc::inotify_add_watch(fd, name.as_ptr(), wanted) >= 0);
        <File as std::os::fd::FromRawFd>::from_raw_fd(fd)
    };
    body();
    let (mut count, mut buffer) = (0, [0; 4096]);
    while let Ok(read) = std::io::Read::read(&mut events, &mut buffer) {
        // Without a name each event has 16 bytes: the watch, what happened, two more numbers.
        let opened = |event: &&[u8]| event[4..8] == libc::IN_OPEN.to_ne_bytes();
        count += buffer[..read].chunks(16).filter(opened).count();
    }
    count
}

#[test]
fn a_file_that_changes_is_read_three_times() {
    let world = World::new();
    let options = world.repository();
    for (name, size) in [("small", 200_000), ("big", 4 << 20)] {
        let path = world.file(&format!("src/{name}"), vec![7; size]);
        let file = File::options().write(true).open(&path).unwrap();
        let ingest = || world.run(&with(&options, &["ingest", "--force", "src"]));
        let change = |n: u64| std::os::unix::fs::FileExt::write_all_at(&file, &[n as u8], 100).unwrap();
        // A run may slip in between two changes, when the machine has much to do.
        let mut codes = Vec::new();
        while !codes.contains(&Some(3)) && codes.len() < 100 {
            let opened = opens(&path, || codes.push(meanwhile(change, ingest).code));
            assert!(opened == 3 || opened < 3 && codes.last() == Some(&Some(0)), "{name}: {opened} {codes:?}");
        }
        assert_eq!(codes.last(), Some(&Some(3)), "{name}");
        let node = world.run(&with(&options, &["ls", "--json", &format!("latest:src/{name}")])).ok().json().pop().unwrap();
        assert_eq!(node["changed_while_read"], true);
        assert_eq!(opens(&path, || assert_eq!(ingest().code, Some(0))), 1, "{name}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_name_that_goes_takes_no_other_name_with_it() {
    let world = World::new();
    let options = world.repository();
    let (first, other, kept) = (world.at("src/a"), world.file("other", "other"), world.file("src/b", "linked"));
    fs::hard_link(&kept, world.at("src/c")).unwrap();
    let change = |n: u64| {
        let from = if n.is_multiple_of(2) { &kept } else { &other };
        fs::hard_link(from, &first).unwrap();
        std::thread::sleep(Duration::from_micros(n % 7 * 100));
        fs::remove_file(&first).unwrap();
    };
    meanwhile(change, || {
        for _ in 0..30 {
            let run = world.run(&with(&options, &["ingest", "--force", "src"]));
            assert!(matches!(run.code, Some(0 | 3)), "{:?} {}", run.code, run.err);
            assert!(!run.err.contains("src/b") && !run.err.contains("src/c"), "{}", run.err);
        }
    });
    for snapshot in world.run(&with(&options, &["snapshots", "--json"])).ok().json() {
        let id = snapshot["id"].as_str().unwrap();
        for name in ["b", "c"] {
            assert_eq!(world.run(&with(&options, &["cat", &format!("{id}:src/{name}")])).ok().text(), "linked");
        }
    }
}

#[test]
fn attributes_that_cannot_be_read_cost_nothing_else() {
    let world = World::new();
    let options = world.repository();
    // Where files can have more of them than the kernel lists at once.
    let Ok(place) = tempfile::tempdir_in("/dev/shm") else { return };
    let src = shown(place.path());
    fs::write(place.path().join("file"), "content").unwrap();
    fs::create_dir(place.path().join("dir")).unwrap();
    fs::write(place.path().join("dir/inside"), "inside").unwrap();
    symlink("to", place.path().join("link")).unwrap();
    let dir = yester::sys::Dir::open(place.path()).unwrap();
    let kind = |name: &str| if name == "link" { "trusted" } else { "user" };
    let set = |name: &str, n: u32| {
        let attribute = format!("{}.{}{n:03}", kind(name), "n".repeat(230));
        yester::sys::xattr::set_at(&dir, name.as_bytes(), attribute.as_bytes(), b"v").is_ok()
    };
    let names: Vec<&str> = ["file", "dir", "link"].into_iter().filter(|name| (0..300).all(|n| set(name, n))).collect();
    if names.is_empty() {
        return;
    }
    let check = || {
        let run = world.run(&with(&options, &["ingest", &src]));
        assert_eq!(run.code, Some(3), "{}", run.err);
        for name in &names {
            let told = format!("{src}/{name}: its extended attributes cannot be read: ");
            assert_eq!(run.err.matches(&told).count(), 1, "{}", run.err);
        }
        assert!(run.err.contains(&format!("{} entries could not be read as", names.len())), "{}", run.err);
        let content = world.run(&with(&options, &["cat", &format!("latest:{src}/file")])).ok();
        assert_eq!(content.text(), "content");
        let all = world.run(&with(&options, &["ls", "-R", &format!("latest:{src}")])).ok().text();
        assert!(all.contains("/dir/inside\n") && all.contains("/link\n"), "{all}");
    };
    check();
    // Not taken over as unchanged: they may be read the next time.
    std::thread::sleep(Duration::from_millis(2200));
    check();
    check();
    // They are not in the snapshot, so a restore in place does not take those away that are there.
    let left = |name: &str| yester::sys::xattr::list_at(&dir, name.as_bytes()).unwrap().len();
    for name in &names {
        (5..300).for_each(|n| {
            let attribute = format!("{}.{}{n:03}", kind(name), "n".repeat(230));
            yester::sys::xattr::remove_at(&dir, name.as_bytes(), attribute.as_bytes()).unwrap();
        });
    }
    let nodes = world.run(&with(&options, &["ls", "--json", &format!("latest:{src}")])).ok().json();
    let noted = nodes.iter().filter(|node| node["left_out"] == serde_json::json!(["attributes"])).count();
    assert_eq!(noted, names.len(), "{nodes:?}");
    fs::write(place.path().join("file"), "another").unwrap();
    world.run(&with(&options, &["restore", &format!("latest:{src}"), "--target", &src])).ok();
    names.iter().for_each(|name| assert_eq!(left(name), 5, "{name}"));
    assert_eq!(fs::read(place.path().join("file")).unwrap(), b"content");
    world
        .run(&with(&options, &["restore", &format!("latest:{src}"), "--target", &src, "--delete", "--delete-also", "unread"]))
        .ok();
    names.iter().for_each(|name| assert_eq!(left(name), 0, "{name}"));
}

#[test]
fn a_process_with_few_descriptors_reads_and_restores_what_is_deep() {
    let world = World::new();
    let options = world.repository();
    // 4,096 directories, each with files before and after the next one; some names are long: paths far beyond PATH_MAX.
    let make = "import os, sys
os.mkdir('src'); os.chdir('src')
for n in range(4096):
    name = 'd' * (200 if n % 64 == 0 else 1)
    for file in 'a', 'z': open(file, 'w').write(f'{file} {n}' * (n % 50))
    os.mkdir(name); os.chdir(name)
open('bottom', 'w').write('bottom')";
    let look = "import hashlib, os, sys
os.chdir(sys.argv[1]); told = hashlib.sha256()
while True:
    for name in sorted(os.listdir()):
        s = os.lstat(name); told.update(repr((name, s.st_mode, s.st_mtime_ns, s.st_uid)).encode())
        if name[0] != 'd': told.update(open(name, 'rb').read())
    below = [name for name in os.listdir() if name[0] == 'd']
    if not below: break
    os.chdir(below[0])
print(told.hexdigest())";
    let python = |args: &[&str]| {
        let output = Command::new("python3").arg("-c").args(args).current_dir(world.home()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let few = |args: &[&str]| {
        let mut command = Command::new("prlimit");
        command.args(["--nofile=64:64", env!("CARGO_BIN_EXE_yester")]).args(with(&options, args));
        program::finish(command.current_dir(world.home()).env_clear().env("HOME", world.home())).ok()
    };
    python(&[make]);
    few(&["ingest", "src"]);
    few(&["restore", "latest:src", "--target", "out"]);
    assert_eq!(python(&[look, "src"]), python(&[look, "out"]));
    // And what is there is compared, and what is superfluous goes.
    let again = few(&["restore", "--json", "--delete", "latest:src", "--target", "out"]).json().pop().unwrap();
    assert_eq!(
        (&again["entries_unchanged"], &again["files_restored"], &again["entries_deleted"]),
        (&8193.into(), &0.into(), &0.into())
    );
    world.file("empty/x", "");
    few(&["ingest", "empty"]);
    let gone = ["restore", "--json", "--delete", "--unsafe-delete", "12289", "latest:empty", "--target", "out"];
    let gone = few(&gone).json().pop().unwrap();
    assert_eq!(gone["entries_deleted"], 4096 + 8193);
    // Many files, few steps ahead: this once waited for ever.
    for n in 0..400 {
        world.file(&format!("many/{n}"), "x");
    }
    few(&["ingest", "many"]);
    assert!(shell("rm -rf src", world.home()));
}
