//! What keeps a restore from deleting or replacing what it should not, each by the program itself.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::program;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use program::{World, shown, with};

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// The names in a directory, sorted.
fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs a line of shell in a mount table of its own; what it and the program printed.
fn in_own_mounts(world: &World, line: &str) -> (Option<i32>, String) {
    let output = Command::new("unshare").args(["--mount", "bash", "-c", line]).current_dir(world.home()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// A repository with a snapshot of `src`, which holds these files.
fn world(files: &[&str]) -> (World, [String; 4]) {
    let world = World::new();
    let options = world.repository();
    files.iter().for_each(|name| drop(world.file(&format!("src/{name}"), *name)));
    world.run(&with(&options, &["ingest", "src"])).ok();
    (world, options)
}

#[test]
fn in_place_everything_goes_back_to_where_it_was() {
    let (world, options) = world(&["dir/a", "dir/b", "other/c"]);
    world.file("src/dir/more", "mine");
    world.file("src/other/more", "mine");
    fs::remove_file(world.at("src/dir/a")).unwrap();
    // First only what would be done: what goes wrong here would go wrong in the whole system.
    let args = ["restore", "latest:src/dir", "--target", "/", "--delete"];
    let planned = world.run(&with(&options, &[&args[..], &["-n", "--json"]].concat())).ok().json().pop().unwrap();
    assert_eq!((&planned["entries_deleted"], &planned["files_restored"]), (&1.into(), &1.into()), "{planned}");
    world.run(&with(&options, &args)).ok();
    assert_eq!(
        (names(&world.at("src/dir")), names(&world.at("src/other"))),
        (vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned(), "more".to_owned()])
    );
    // A single file, and by another name of the root.
    fs::remove_file(world.at("src/dir/b")).unwrap();
    world.run(&with(&options, &["restore", "latest:src/dir/b", "--target", "/"])).ok();
    assert!(world.at("src/dir/b").exists() && !Path::new("/b").exists());
}

#[test]
fn more_is_deleted_than_restored_only_when_that_is_said() {
    let (world, options) = world(&["a"]);
    for n in 0..5 {
        world.file(&format!("out/mine/{n}"), "mine");
    }
    let args = ["restore", "latest:src", "--target", "out", "--delete"];
    let run = |more: &[&str]| world.run(&with(&options, &[&args[..], more].concat()));
    let planned = run(&["-n"]).ok();
    assert!(planned.err.contains("6 entries would be deleted") && planned.err.contains("--unsafe-delete 6"), "{}", planned.err);
    let refused = run(&[]);
    let words = ["6 entries would be deleted and only 2 restored", "out/mine/0", "and others", "--unsafe-delete 6"];
    refused.fails(2, &words);
    run(&["--unsafe-delete", "5"]).fails(2, &["--unsafe-delete 6"]);
    assert!(names(&world.at("out")) == ["mine"] && names(&world.at("out/mine")).len() == 5);
    // A directory in the place of a file counts as well.
    world.file("over/a/x/y", "mine");
    world.file("over/a/x/z", "mine");
    let over = ["restore", "latest:src", "--target", "over", "--delete"];
    world.run(&with(&options, &over)).fails(2, &["--unsafe-delete 4", "over/a/x/y"]);
    let planned = world.run(&with(&options, &[&over[..], &["-n", "--json"]].concat())).ok().json().pop().unwrap();
    assert_eq!((&planned["entries_deleted"], &planned["files_restored"]), (&4.into(), &1.into()));
    world.run(&with(&options, &[&over[..], &["--unsafe-delete", "4"]].concat())).ok();
    run(&["--unsafe-delete", "6"]).ok();
    assert_eq!(names(&world.at("out")), ["a"]);
    // Little is deleted without a question.
    world.file("out/more", "mine");
    run(&[]).ok();
    assert_eq!(names(&world.at("out")), ["a"]);
}

#[test]
fn on_a_terminal_it_asks() {
    let (world, options) = world(&["a"]);
    let prepare = || (0..5).for_each(|n| drop(world.file(&format!("out/{n}"), "mine")));
    let command = format!("{} {} restore latest:src --target out --delete", env!("CARGO_BIN_EXE_yester"), options.join(" "));
    let answered = |answer: &str| {
        prepare();
        let mut script = Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).current_dir(world.home()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut child) = script.spawn() else { return None };
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Some((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    // Where there is no `script` there is no terminal.
    let Some((code, text)) = answered("n\n") else { return };
    assert!(code == Some(130) && text.contains("5 entries would be deleted") && text.contains("go on?"), "{code:?} {text}");
    assert_eq!(names(&world.at("out")).len(), 5);
    let (code, text) = answered("y\n").unwrap();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(names(&world.at("out")), ["a"]);
}

#[test]
fn what_only_leads_to_what_was_given_is_never_replaced() {
    let world = World::new();
    let options = world.repository();
    world.file("usr/lib/udev/rules.d/one", "1");
    symlink("usr/lib", world.at("lib")).unwrap();
    world.run(&with(&options, &["ingest", "lib/udev/rules.d"])).ok();
    let rules = shown(&world.at("lib/udev/rules.d"));
    fs::remove_file(world.at("usr/lib/udev/rules.d/one")).unwrap();
    for args in [&["latest"][..], &[&*format!("latest:{rules}")], &["latest", "--include", "one"]] {
        let restore = [&["restore", "--target", "/"], args].concat();
        let planned = world.run(&with(&options, &[&restore[..], &["-n"]].concat())).ok();
        assert!(planned.err.contains("/lib: it is a link and stays one"), "{}", planned.err);
        assert!(planned.text().contains("1 file"), "{}", planned.text());
        world.run(&with(&options, &restore)).ok();
        assert!(fs::symlink_metadata(world.at("lib")).unwrap().is_symlink(), "{args:?}");
        fs::remove_file(world.at("usr/lib/udev/rules.d/one")).unwrap();
    }
    // Elsewhere no link is followed, and what leads there is not replaced either.
    let elsewhere = world.at("elsewhere");
    let lead = Path::new(elsewhere.to_str().unwrap()).join(shown(&world.at("lib")).trim_start_matches('/'));
    fs::create_dir_all(lead.parent().unwrap()).unwrap();
    symlink(world.at("usr/lib"), &lead).unwrap();
    let run = world.run(&with(&options, &["restore", "latest", "--target", "elsewhere"]));
    assert!(run.code == Some(3) && run.err.contains("lib: a symbolic link is in the place"), "{:?} {}", run.code, run.err);
    assert!(names(&world.at("usr/lib/udev/rules.d")).is_empty());
    fs::remove_file(&lead).unwrap();
    world.run(&with(&options, &["restore", "latest", "--target", "elsewhere"])).ok();
    // A file or a link to nothing in such a place stays.
    fs::remove_file(world.at("lib")).unwrap();
    for make in [|path: &Path| fs::write(path, "a file").unwrap(), |path: &Path| symlink("nowhere", path).unwrap()] {
        make(&world.at("lib"));
        for more in [&["-n"][..], &[], &["--overwrite", "always"]] {
            let run = world.run(&with(&options, &[&["restore", "latest", "--target", "/"], more].concat()));
            assert!(run.code == Some(3) && run.err.contains("left alone"), "{:?} {}", run.code, run.err);
            assert!(!fs::symlink_metadata(world.at("lib")).unwrap().is_dir());
        }
        fs::remove_file(world.at("lib")).unwrap();
    }
}

#[test]
fn a_link_that_a_user_laid_is_not_followed_by_root() {
    if !is_root() {
        return;
    }
    let (world, options) = world(&["docs/f"]);
    world.run(&with(&options, &["ingest", "src/docs/f"])).ok();
    world.file("precious/f", "precious");
    fs::rename(world.at("src/docs"), world.at("src/own")).unwrap();
    fs::remove_file(world.at("src/own/f")).unwrap();
    symlink(world.at("precious"), world.at("src/docs")).unwrap();
    lchown(world.at("src/docs"), Some(12345), Some(12345)).unwrap();
    let restore = || world.run(&with(&options, &["restore", "latest", "--target", "/"]));
    let run = restore();
    assert!(run.code == Some(3) && run.err.contains("a link of user 12345"), "{:?} {}", run.code, run.err);
    assert_eq!(fs::read(world.at("precious/f")).unwrap(), b"precious");
    // One to what is the user's own is.
    fs::remove_file(world.at("src/docs")).unwrap();
    symlink(world.at("src/own"), world.at("src/docs")).unwrap();
    lchown(world.at("src/docs"), Some(12345), Some(12345)).unwrap();
    chown(world.at("src/own"), Some(12345), Some(12345)).unwrap();
    restore().ok();
    assert_eq!(fs::read(world.at("src/own/f")).unwrap(), b"docs/f");
}

#[test]
fn what_is_mounted_inside_is_not_deleted() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let options = world.repository();
    for name in ["src/here", "src/other/there", "src/bound/there"] {
        world.file(name, "x");
    }
    world.file("live/precious", "x");
    let program = format!("{} {}", env!("CARGO_BIN_EXE_yester"), options.join(" "));
    // Once taken with what was mounted left out, once before anything was mounted; and a mount of the same file system.
    let line = format!(
        "mount -t tmpfs none src/other && echo x >src/other/live && {program} ingest -q -x src && umount src/other || exit 1
         {program} ingest -q --host bare src || exit 2
         mount -t tmpfs none src/other && echo x >src/other/live && mount --bind live src/bound || exit 3
         mkdir src/new && mount -t tmpfs none src/new && echo x >src/new/live && mkdir src/gone && touch src/gone/f || exit 4
         for host in \"$(hostname)\" bare; do
             {program} restore -H $host latest --target / --delete -n || exit 5
             {program} restore -H $host latest --target / --delete || exit 6
             ls src/other/live src/bound/precious src/new/live || exit 7
         done
         test ! -e src/gone || exit 8
         {program} restore -H bare latest --target / --delete --delete-also mounted
         ls src/bound/precious src/other/live && exit 9
         exit 0"
    );
    let (code, text) = in_own_mounts(&world, &line);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("another file system is mounted there (--delete-also mounted)"), "{text}");
}

#[test]
fn what_was_excluded_is_not_deleted() {
    let world = World::new();
    let options = world.repository();
    for name in ["src/a", "src/cache/x", "src/sub/y.tmp", "src/marked/.skip", "src/marked/z", "src/sub/b"] {
        world.file(name, "x");
    }
    world.file("src/large", vec![1; 2000]);
    world.file("src/tagged/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55");
    world.file("src/tagged/w", "x");
    let ingest = ["ingest", "-e", "cache", "-e", "*.tmp", "--exclude-if-present", ".skip", "--exclude-larger-than", "1000"];
    world.run(&with(&options, &[&ingest[..], &["--exclude-caches", "src"]].concat())).ok();
    // Some that were there, and some that the rules would have left out.
    for name in ["src/new.tmp", "src/new/deep/q.tmp", "src/new/deep/r", "src/sub/cache/p", "src/newly/.skip", "src/newly/p"] {
        world.file(name, "x");
    }
    world.file("src/superfluous", "x");
    world.file("src/sub/superfluous", "x");
    let restore = ["restore", "latest", "--target", "/", "--delete"];
    let run = world.run(&with(&options, &restore)).ok();
    assert!(run.err.contains("by its rules (--delete-also excluded)"), "{}", run.err);
    let stays =
        ["a", "cache/x", "sub/y.tmp", "marked/z", "tagged/w", "large", "new.tmp", "new/deep/q.tmp", "sub/cache/p", "newly/p"];
    stays.iter().for_each(|name| assert!(world.at("src").join(name).exists(), "{name} is gone"));
    for name in ["superfluous", "sub/superfluous", "new/deep/r"] {
        assert!(!world.at("src").join(name).exists(), "{name} is there");
    }
    let all = [&restore[..], &["--delete-also", "excluded"]].concat();
    let planned = world.run(&with(&options, &[&all[..], &["-n", "--json"]].concat())).ok().json().pop().unwrap();
    let count = planned["entries_deleted"].to_string();
    world.run(&with(&options, &[&all[..], &["--unsafe-delete", &count]].concat())).ok();
    assert_eq!(names(&world.at("src")), ["a", "marked", "sub", "tagged"]);
    assert_eq!(names(&world.at("src/tagged")), ["CACHEDIR.TAG"]);
}

#[test]
fn a_repository_that_was_left_out_is_not_deleted() {
    let world = World::new();
    let options = world.repository();
    world.file("home/f", "x");
    fs::rename(world.at("repo"), world.at("home/repo")).unwrap();
    let moved: Vec<String> = options.iter().map(|o| o.replace("/repo", "/home/repo")).collect();
    world.run(&with(&moved, &["ingest", "home"])).ok();
    // Restored from a copy: nothing says that the other one is a repository.
    assert!(Command::new("cp").args(["-a", "home/repo", "copy"]).current_dir(world.home()).status().unwrap().success());
    let copied: Vec<String> = options.iter().map(|o| o.replace("/repo", "/copy")).collect();
    world.file("home/more", "x");
    world.run(&with(&copied, &["restore", "latest", "--target", "/", "--delete"])).ok();
    assert_eq!(names(&world.at("home")), ["f", "repo"]);
    assert!(world.at("home/repo/packs").exists());
}

#[test]
fn the_key_that_is_in_use_is_left_alone() {
    let world = World::new();
    let options = world.repository();
    world.file("home/key", "an older key");
    world.file("home/f", "x");
    world.run(&with(&options, &["ingest", "home"])).ok();
    for name in ["home/key", "home/newer"] {
        fs::copy(world.at("key"), world.at(name)).unwrap();
        let in_use: Vec<String> =
            options.iter().map(|option| option.replace(&shown(&world.at("key")), &shown(&world.at(name)))).collect();
        for more in [&["-n"][..], &[], &["--overwrite", "always"], &["--in-place"]] {
            let run = world.run(&with(&in_use, &[&["restore", "latest", "--target", "/", "--delete"], more].concat())).ok();
            assert!(run.err.contains(name), "{}", run.err);
            assert_eq!(fs::read(world.at(name)).unwrap(), fs::read(world.at("key")).unwrap(), "{name} {more:?}");
        }
    }
    assert_eq!(fs::read(world.at("home/key")).unwrap(), b"an older key");
}

#[test]
fn what_could_not_be_read_is_not_deleted() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let options = world.repository();
    for name in ["src/closed/in", "src/open/secret", "src/open/readable", "src/f"] {
        world.file(name, "x");
    }
    program::copy_program(env!("CARGO_BIN_EXE_yester"), world.at("yester"));
    let line = format!(
        "chown -R 65534:65534 . && chown root src/closed src/open/secret && chmod 700 src/closed && chmod 600 src/open/secret
         setpriv --reuid 65534 --regid 65534 --clear-groups ./yester {} ingest src",
        options.join(" ")
    );
    let status = Command::new("bash").args(["-c", &line]).current_dir(world.home()).output().unwrap();
    assert_eq!(status.status.code(), Some(3), "{}", String::from_utf8_lossy(&status.stderr));
    let listed = world.run(&with(&options, &["ls", "-l", "latest:src"])).ok().text();
    assert!(listed.contains("closed  (incomplete: not read whole)"), "{listed}");
    assert!(listed.contains("open  (incomplete: entries could not be stored)"), "{listed}");
    world.file("src/open/more", "x");
    world.file("src/more", "x");
    let restore = ["restore", "latest", "--target", "/", "--delete"];
    let run = world.run(&with(&options, &restore)).ok();
    assert!(run.err.contains("not read whole when the snapshot was taken (--delete-also unread)"), "{}", run.err);
    assert_eq!(names(&world.at("src")), ["closed", "f", "open"]);
    assert!(world.at("src/closed/in").exists() && world.at("src/open/secret").exists() && world.at("src/open/more").exists());
    world.run(&with(&options, &[&restore[..], &["--delete-also", "unread"]].concat())).ok();
    assert!(!world.at("src/closed/in").exists() && names(&world.at("src/open")) == ["readable"]);
}

#[test]
fn a_pattern_that_matches_nothing_is_named() {
    let (world, options) = world(&["dir/a", "b"]);
    let run = |more: &[&str]| world.run(&with(&options, &[&["restore", "latest:src", "--target", "out"], more].concat()));
    let nothing = run(&["-i", "nosuch"]);
    assert!(nothing.code == Some(3) && nothing.err.contains("nosuch: this pattern matches nothing"), "{}", nothing.err);
    assert!(nothing.err.contains("the restore is not complete: 1 pattern matched nothing\n"), "{}", nothing.err);
    let some = run(&["-i", "a", "-i", "/elsewhere"]);
    assert!(some.code == Some(3) && some.err.contains("/elsewhere: ") && !some.err.contains(": a:"), "{}", some.err);
    assert!(world.at("out/dir/a").exists());
    assert_eq!(run(&["-n", "-i", "nosuch"]).code, Some(3));
    // What is inside of what another pattern takes is there all the same.
    run(&["-i", "dir", "-i", "a", "-i", "*b"]).ok();
}

#[test]
fn a_user_who_is_not_root_gets_what_may_be_had() {
    if !is_root() {
        return;
    }
    let (world, options) = world(&["a", "b", "dir/c"]);
    program::copy_program(env!("CARGO_BIN_EXE_yester"), world.at("yester"));
    assert!(Command::new("chown").args(["-R", "65534:65534", "."]).current_dir(world.home()).status().unwrap().success());
    let nobody = |more: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "./yester"]).args(&options);
        command.args(["restore", "latest:src", "--target", "out"]).args(more).env_clear().env("HOME", world.home());
        program::finish(command.env("PATH", std::env::var_os("PATH").unwrap()).current_dir(world.home()))
    };
    let run = nobody(&[]).ok();
    assert!(run.err.contains("cannot set its owner (nor of 4 other entries)"), "{}", run.err);
    assert_eq!(run.err.lines().count(), 1, "{}", run.err);
    // Nothing is left to be done.
    let again = nobody(&["--json"]).ok().json().pop().unwrap();
    assert_eq!((&again["entries_unchanged"], &again["entries_metadata"]), (&3.into(), &0.into()), "{again}");
    let strict = nobody(&["--require-owners"]);
    assert!(strict.code == Some(3) && strict.err.contains("cannot set its owner"), "{}", strict.err);
}

#[test]
fn attributes_are_told_once_and_can_be_left_out() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let options = world.repository();
    for n in 0..30 {
        let file = fs::File::open(world.file(&format!("src/{n}"), "x")).unwrap();
        yester::sys::xattr::set(&file, b"user.one", b"1").unwrap();
        yester::sys::xattr::set(&file, b"user.two", b"2").unwrap();
    }
    world.run(&with(&options, &["ingest", "src"])).ok();
    let program = format!("{} {}", env!("CARGO_BIN_EXE_yester"), options.join(" "));
    // A file system without attributes.
    let line = format!(
        "mkdir m && mount -t ramfs none m && {program} restore latest:src --target m/a; echo code $?
         {program} restore --exclude-xattr 'user.t*' latest:src --target m/b; echo code $?
         {program} restore --exclude-xattr 'user.*' latest:src --target m/c; echo code $?"
    );
    let (_, text) = in_own_mounts(&world, &line);
    let codes: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("code ")).collect();
    assert_eq!(codes, ["3", "3", "0"], "{text}");
    assert_eq!(text.matches("attribute user.one (nor of 29 other entries)").count(), 2, "{text}");
    assert_eq!(text.matches("attribute user.two (nor of 29 other entries)").count(), 1, "{text}");
    // What is left out is not taken away either.
    world.run(&with(&options, &["restore", "latest:src", "--target", "out"])).ok();
    let at = |name: &str| fs::File::open(world.at("out").join(name)).unwrap();
    yester::sys::xattr::set(at("0"), b"user.three", b"3").unwrap();
    world.run(&with(&options, &["restore", "--exclude-xattr", "user.th*", "latest:src", "--target", "out"])).ok();
    assert_eq!(yester::sys::xattr::list(at("0")).unwrap().len(), 3);
    world.run(&with(&options, &["restore", "latest:src", "--target", "out"])).ok();
    assert_eq!(yester::sys::xattr::list(at("0")).unwrap().len(), 2);
}

#[test]
fn attributes_that_the_snapshot_could_not_have_are_not_taken_away() {
    let world = World::new();
    let options = world.repository();
    let file = fs::File::open(world.file("src/a", "x")).unwrap();
    if yester::sys::xattr::set(&file, b"user.label", b"1").is_err() {
        return;
    }
    world.run(&with(&options, &["ingest", "--exclude-xattr", "user.lab*", "src"])).ok();
    let names = || {
        let all = yester::sys::xattr::list(fs::File::open(world.at("src/a")).unwrap()).unwrap();
        all.into_iter().map(|(name, _)| name).filter(|name| name.starts_with(b"user.")).collect::<Vec<_>>()
    };
    let restore = |also: &[&str]| {
        let arguments = [&["restore", "latest:src", "--target", "src"], also].concat();
        world.run(&with(&options, &arguments)).ok();
    };
    yester::sys::xattr::set(&file, b"user.other", b"2").unwrap();
    restore(&[]);
    assert_eq!(names(), [b"user.label"], "what the rules left out stays, what came later goes");
    // A file whose content is another keeps them, too, written anew or in place.
    for how in [&[][..], &["--in-place"]] {
        fs::write(world.at("src/a"), "changed").unwrap();
        restore(how);
        assert_eq!((names(), fs::read(world.at("src/a")).unwrap()), (vec![b"user.label".to_vec()], b"x".to_vec()));
    }
    restore(&["--delete", "--delete-also", "excluded"]);
    assert!(names().is_empty());
}

#[test]
fn what_a_deletion_spares_is_listed_with_its_reason() {
    let world = World::new();
    let options = world.repository();
    world.file("src/kept", "k");
    world.run(&with(&options, &["ingest", "--exclude", "*.log", "src"])).ok();
    world.file("src/a.log", "new");
    world.file("src/sub/b.log", "new");
    for dry in [&["-n"][..], &[]] {
        let arguments = [&["restore", "-v", "--delete", "latest:src", "--target", "src"], dry].concat();
        let text = world.run(&with(&options, &arguments)).ok().text();
        for name in ["a.log", "sub/b.log"] {
            let line = text.lines().find(|line| line.contains(&format!("src/{name}"))).unwrap_or_else(|| panic!("{text}"));
            assert!(line.starts_with('=') && line.contains("excluded from the snapshot"), "{text}");
        }
    }
    let json = world.run(&with(&options, &["--json", "restore", "-v", "--delete", "latest:src", "--target", "src"])).ok().text();
    let spared = |line: &&str| line.contains("\"kept\"") && line.contains("excluded from the snapshot");
    assert_eq!(json.lines().filter(spared).count(), 2, "{json}");
}
