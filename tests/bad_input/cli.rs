//! Rows 54 to 68: the command line, and the disks and processes around it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use yester::storage::Class;

use crate::bad_input::{Nobody, Place, Small, is_root};
use crate::common::forge::{Forge, inline};
use crate::common::program::{Run, World, finish, shown, with};

/// Runs the program through a shell that prepares something first (limits, closed descriptors, mounts).
fn through(place: &Place, shell: &str, script: &str, args: &[&str]) -> Run {
    let mut command = Command::new("sh");
    let run = place.world.command(&with(&place.options, args));
    let script = script.to_owned();
    match shell {
        "" => command.args(["-c", &script]),
        wrapper => {
            let mut words = wrapper.split(' ');
            command = Command::new(words.next().unwrap());
            command.args(words).args(["sh", "-c", &script])
        }
    };
    command.arg(run.get_program()).args(run.get_args()).current_dir(place.world.home()).env_clear().stdin(Stdio::null());
    for (name, value) in run.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    finish(&mut command)
}

#[test]
fn row_54_names_of_snapshots_that_are_none_or_several() {
    let place = Place::new();
    for id in [[0xab; 32], {
        let mut id = [0xab; 32];
        id[5] = 0;
        id
    }] {
        let mut forge = Forge::new(&place.repo);
        forge.id = yester::model::SnapshotId(id);
        let root = forge.dir("", &[inline("f", "f")]);
        forge.commit(root, |_| {});
    }
    for command in ["ls", "restore", "stats"] {
        let run = |name: &str| match command {
            "restore" => place.run(&["restore", name, "--target", "out"]),
            _ => place.run(&[command, name]),
        };
        run("c0ffee").fails(1, &["c0ffee", "yester snapshots"]);
        run("abababab").fails(2, &["abababab", "2 snapshot ids", "more digits"]);
        run("aba").fails(2, &["aba", "at least 4"]);
        run("latest~7").fails(1, &["latest~7", "2 snapshots"]);
    }
    place.run(&["ls", "ababababab00"]).ok();
    assert!(!place.world.at("out").exists());
}

#[test]
fn row_55_malformed_patterns() {
    let place = Place::with_files();
    for pattern in ["[", "a{b", "[z-a]", "x[!"] {
        place.run(&["restore", "latest", "--target", "out", "--include", pattern]).fails(2, &[pattern]);
        place.run(&["restore", "latest", "--target", "out", "--exclude", pattern]).fails(2, &[pattern]);
        place.run(&["ingest", "--exclude", pattern, "src"]).fails(2, &[pattern]);
    }
    assert!(!place.world.at("out").exists());
    assert_eq!(place.files(Class::Snapshots).len(), 1);
}

#[test]
fn row_56_targets_that_will_not_do() {
    let place = Place::with_files();
    let restore = |target: &str| place.run(&["restore", "latest", "--target", target]);
    place.world.file("file", "mine");
    symlink("src", place.world.at("link")).unwrap();
    restore("file").fails(2, &["file", "name a directory"]);
    restore("link").fails(2, &["link", "symbolic link"]);
    restore("repo").fails(2, &["repo", "repository"]);
    restore("repo/packs/new").fails(2, &["repository"]);
    assert_eq!(fs::read(place.world.at("file")).unwrap(), b"mine");
    assert!(!place.world.at("repo/packs/new").exists());
    // One that is not empty is merged into; the source itself is one like others, and is as it was.
    place.world.file("full/mine", "mine");
    restore("full").ok();
    assert_eq!(fs::read(place.world.at("full/mine")).unwrap(), b"mine");
    let run = place.run(&["restore", "latest", "--target", "/"]).ok();
    assert!(run.text().contains("restored nothing"), "{}", run.text());
    place.run(&["check", "--read-data"]).ok();
}

#[test]
fn row_57_sources_in_the_repository_or_around_it() {
    let place = Place::with_files();
    for source in ["repo", "repo/packs"] {
        let run = place.run(&["ingest", source]);
        let said = format!("{}: it cannot be ingested: it belongs to a repository", shown(&place.world.at(source)));
        assert!(run.code == Some(1) && run.err.contains(&said), "{}", run.err);
    }
    assert_eq!(place.files(Class::Snapshots).iter().filter(|path| fs::metadata(path).unwrap().len() > 200).count(), 1);
    // Around it: it is left out, which is said and is no error.
    let run = place.run(&["ingest", "."]).ok();
    let said = format!("warning: {}: it belongs to a repository and is left out", shown(&place.world.at("repo")));
    assert!(run.err.contains(&said), "{}", run.err);
    let all = place.run(&["ls", "-R", "latest"]).ok().text();
    assert!(all.contains("/src/a") && !all.contains("/repo/packs"), "{all}");
}

#[test]
fn row_58_sources_that_cannot_be_read_or_are_no_files() {
    let place = Place::with_files();
    place.run(&["ingest", "gone"]).fails(1, &[&shown(&place.world.at("gone")), "No such file"]);
    let run = place.run(&["ingest", "gone", "src"]);
    assert!(run.code == Some(3) && run.err.contains(&shown(&place.world.at("gone"))), "{}", run.err);
    // What is no file is stored as what it is, without being opened.
    assert!(Command::new("mkfifo").arg(place.world.at("pipe")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(place.world.at("socket")).unwrap();
    place.run(&["ingest", "pipe", "socket", "/dev/null"]).ok();
    let listed = place.run(&["ls", "-l", &place.stored("")]).ok().text();
    assert!(listed.lines().any(|l| l.starts_with('p') && l.ends_with(" pipe")), "{listed}");
    assert!(listed.lines().any(|l| l.starts_with('s') && l.ends_with(" socket")), "{listed}");
    if !is_root() {
        return;
    }
    // Unreadable for somebody who is not root: named, 3, and the rest is stored.
    place.world.file("src/closed", "secret");
    place.world.file("src/shut/x", "x");
    let nobody = Nobody::new(&place);
    for name in ["src/closed", "src/shut"] {
        std::os::unix::fs::chown(place.world.at(name), Some(0), Some(0)).unwrap();
        fs::set_permissions(place.world.at(name), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let run = nobody.run(&place, &["ingest", &shown(&place.world.at("src"))]);
    assert_eq!(run.code, Some(3), "{}", run.err);
    for name in ["src/closed", "src/shut"] {
        let named = run.err.lines().filter(|line| line.contains(&shown(&place.world.at(name)))).count();
        assert!(named == 1 && run.err.contains("Permission denied"), "{}", run.err);
    }
    let run = nobody.run(&place, &["ingest", &shown(&place.world.at("src/closed"))]);
    assert!(run.code == Some(1) && run.err.contains("Permission denied"), "{:?}", run);
}

#[test]
fn row_59_names_that_speak_to_terminals() {
    let place = Place::with_files();
    let names: [&[u8]; 4] = [b"\x1b]0;evil\x07", b"two\nlines", "\u{202e}gnp.exe".as_bytes(), b"\xff\x9b2J"];
    for name in names {
        fs::write(place.world.at("src").join(OsStr::from_bytes(name)), "x").unwrap();
    }
    place.run(&["ingest", "src"]).ok();
    // Wherever a name is part of a message it is escaped.
    for name in names {
        let path = [place.world.at("src").as_os_str().as_bytes(), b"/", name, b"/none"].concat();
        let spec = [b"latest:", &path[..]].concat();
        let mut args: Vec<&OsStr> = place.options.iter().map(OsStr::new).collect();
        args.extend([OsStr::new("cat"), OsStr::from_bytes(&spec)]);
        let run = place.world.run(&args).fails(1, &["/none is not in snapshot"]);
        assert!(is_plain(&run.err), "{:?}", run.err);
    }
    // On a terminal, listings are too (a pipe gets the bytes).
    let typed = format!("{} {} ls -R latest", env!("CARGO_BIN_EXE_yester"), place.options.join(" "));
    let mut script = Command::new("script");
    script.args(["-qec", &typed, "/dev/null"]).current_dir(place.world.home()).env("HOME", place.world.home());
    let run = finish(script.stdin(Stdio::null()));
    let shown = String::from_utf8(run.out).expect("the listing is text").replace("\r\n", "\n");
    assert!(shown.contains("evil") && shown.contains("gnp.exe") && is_plain(&shown), "{shown:?}");
    // And of a damaged repository.
    place.spoil(Class::Packs, |bytes| bytes.truncate(100));
    let run = place.run(&["check"]);
    assert!(run.code == Some(1) && is_plain(&run.err), "{:?}", run.err);
}

/// No character that does something else than to be seen, and no direction of writing.
fn is_plain(text: &str) -> bool {
    let odd =
        |c: char| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c);
    !text.chars().any(odd)
}

#[test]
fn row_60_mount_points_that_will_not_do() {
    let place = Place::with_files();
    place.run(&["mount", "missing"]).fails(1, &[&shown(&place.world.at("missing")), "mkdir"]);
    place.world.file("full/mine", "mine");
    place.run(&["mount", "full"]).fails(2, &["full", "not empty"]);
    place.run(&["mount", "src/a"]).fails(2, &["src/a", "not a directory"]);
    place.run(&["mount", "repo"]).fails(2, &["repo"]);
    if !is_root() {
        return;
    }
    fs::create_dir(place.world.at("m")).unwrap();
    place.run(&["mount", "m"]).ok();
    place.run(&["mount", "m"]).fails(1, &["already", "yester umount"]);
    place.run(&["umount", "m"]).ok();
    place.run(&["umount", "m"]).fails(1, &["nothing is mounted", &shown(&place.world.at("m"))]);
    // One that a killed process left: umount clears it, and so does the next mount.
    for clear in ["umount", "mount"] {
        let said = place.run(&["mount", "m", "--json"]).ok().json();
        let pid = said[0]["pid"].as_u64().unwrap().to_string();
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        while fs::read_dir(place.world.at("m")).is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        place.run(&[clear, "m"]).ok();
    }
    place.run(&["umount", "m"]).ok();
}

#[test]
fn row_61_no_fuse() {
    if !is_root() {
        return;
    }
    let place = Place::with_files();
    fs::create_dir(place.world.at("m")).unwrap();
    // A name space of its own, where /dev is empty.
    let run = through(&place, "unshare -m", "mount -t tmpfs none /dev && exec \"$0\" \"$@\"", &["mount", "-f", "m"]);
    run.fails(1, &["no /dev/fuse", "modprobe fuse"]);
    // Without the program that mounts for those who are not root.
    let nobody = Nobody::new(&place);
    fs::set_permissions(place.world.at("m"), fs::Permissions::from_mode(0o777)).unwrap();
    let run = nobody.run(&place, &["mount", "-f", &shown(&place.world.at("m"))]);
    run.fails(1, &["fuse"]);
}

#[test]
fn row_62_repository_on_a_read_only_file_system() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let Some(small) = Small::mount(&world.at("small"), "size=16m") else { return };
    world.file("src/a", "a");
    let options = ["-r", "small/repo", "--key-file", "key"];
    let run = |args: &[&str]| world.run(&[&options[..], args].concat());
    run(&["init"]).ok();
    run(&["ingest", "src"]).ok();
    small.remount("ro");
    run(&["ingest", "src"]).fails(1, &[&shown(&world.at("small/repo")), "Read-only file system"]);
    world.run(&["-r", "small/new", "--key-file", "new", "init"]).fails(1, &["small/new", "Read-only file system"]);
    // What only reads works.
    run(&["snapshots"]).ok();
    run(&["check", "--read-data"]).ok();
    run(&["restore", "latest", "--target", "out"]).ok();
    run(&["restore", "latest", "--target", "small/out"]).fails(1, &["small/out", "Read-only file system"]);
}

#[test]
fn row_63_disk_that_is_full() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let Some(_small) = Small::mount(&world.at("small"), "size=3m") else { return };
    let options = ["-r", "small/repo", "--key-file", "key"];
    let run = |args: &[&str]| world.run(&[&options[..], args].concat());
    run(&["init"]).ok();
    world.file("src/a", "a");
    run(&["ingest", "src"]).ok();
    let filler = world.at("small/filler");
    let fill = || {
        let mut file = fs::File::create(&filler).unwrap();
        while std::io::Write::write(&mut file, &[0; 4096]).is_ok_and(|n| n > 0) {}
    };
    fill();
    world.file("src/b", vec![b'b'; 100_000]);
    run(&["ingest", "src"]).fails(1, &[&shown(&world.at("small/repo")), "No space left"]);
    world.run(&["-r", "small/new", "--key-file", "new", "init"]).fails(1, &["small/new", "No space left"]);
    // What was there is whole; with room again, everything goes on.
    assert_eq!(run(&["snapshots", "--json"]).ok().json().len(), 1);
    run(&["check", "--read-data"]).ok();
    fs::remove_file(&filler).unwrap();
    run(&["ingest", "src"]).ok();
    run(&["check", "--read-data"]).ok();
    // Full in the middle of an ingest: no snapshot either.
    let mut noise = vec![0; 4 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    world.file("src/noise", noise);
    run(&["ingest", "src"]).fails(1, &["No space left"]);
    assert_eq!(run(&["snapshots", "--json"]).ok().json().len(), 2);
    run(&["check", "--read-data"]).ok();
}

#[test]
fn row_64_cache_that_cannot_be_used() {
    let place = Place::with_files();
    place.world.file("file", "no directory");
    let file = shown(&place.world.at("file"));
    for cache in [&file[..], "/proc/none", "/dev/null/x"] {
        for args in [&["ls", "latest"][..], &["ingest", "src"], &["check"]] {
            let run = place.run(&[&["--cache-dir", cache], args].concat()).ok();
            assert!(run.err.is_empty(), "{}", run.err);
        }
    }
    assert_eq!(fs::read(place.world.at("file")).unwrap(), b"no directory");
    // Nor need there be a place for state.
    place
        .world
        .run_with(&[("XDG_STATE_HOME", "/proc/none"), ("XDG_CACHE_HOME", "/proc/none")], &with(&place.options, &["check"]))
        .ok();
}

#[test]
fn row_65_two_ingests_at_once() {
    let place = Place::with_files();
    let ingest = |name: &str| {
        place.world.file(&format!("{name}/same"), vec![7; 300_000]);
        place.world.file(&format!("{name}/own"), name.repeat(50_000));
        let mut command = place.world.command(&with(&place.options, &["ingest", name]));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let running: Vec<_> = ["one", "two", "three"].iter().map(|name| ingest(name)).collect();
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(place.run(&["snapshots", "--json"]).ok().json().len(), 4);
    assert!(place.files(Class::Sessions).is_empty());
    place.run(&["check", "--read-data"]).ok();
}

#[test]
fn row_66_few_open_files() {
    let place = Place::with_files();
    for n in 0..300 {
        place.world.file(&format!("src/d{}/f{n}", n % 40), format!("content {n}").repeat(40));
    }
    let run = |args: &[&str]| through(&place, "", "ulimit -n 64; exec \"$0\" \"$@\"", args);
    run(&["ingest", "src"]).ok();
    run(&["restore", "latest", "--target", "out"]).ok();
    run(&["check", "--read-data"]).ok();
    run(&["stats"]).ok();
    assert_eq!(crate::bad_input::names(&place.world.at("out")).len(), 302);
}

#[test]
fn row_67_no_home() {
    let place = Place::with_files();
    let homeless = |args: &[String]| finish(place.world.command(args).env_remove("HOME"));
    homeless(&with(&[], &["snapshots"])).fails(2, &["HOME", "--repo"]);
    homeless(&with(&[], &["ingest", "src"])).fails(2, &["HOME", "--repo"]);
    for args in
        [&["snapshots"][..], &["ingest", "src"], &["check", "--read-data"], &["stats"], &["restore", "latest", "--target", "out"]]
    {
        homeless(&with(&place.options, args)).ok();
    }
}

#[test]
fn row_68_streams_that_are_closed() {
    let place = Place::with_files();
    let all = [&["snapshots"][..], &["ls", "-R", "latest"], &["check"], &["stats"], &["ingest", "src"]];
    for args in all {
        through(&place, "", "exec <&-; exec \"$0\" \"$@\"", args).ok();
        // Without a place for messages the exit code still tells.
        let run = through(&place, "", "exec 2>&-; exec \"$0\" \"$@\"", args);
        assert_eq!(run.code, Some(0), "{args:?}");
        let run = through(&place, "", "exec >&-; exec \"$0\" \"$@\"", args);
        assert!(matches!(run.code, Some(0 | 1)) && !run.err.contains("panicked"), "{args:?}: {:?}", run);
        // A reader who goes away ends the program quietly.
        let run = through(&place, "", "\"$0\" \"$@\" | true", args);
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{args:?}");
    }
    // A passphrase cannot be asked for where nobody sits.
    let run = place.world.run(&["-r", "repo", "snapshots"]);
    run.fails(12, &["no terminal", "--password-file"]);
    // What was written while streams were closed is whole.
    place.run(&["check", "--read-data"]).ok();
}
