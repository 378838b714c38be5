//! Archives: our own, GNU tar's, and bad ones.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::{Place, counts};
use crate::cli::export::everything;
use crate::common::program::{shown, with};

#[test]
fn what_export_wrote_comes_back_equal() {
    let place = Place::new();
    everything(&place.world);
    place.run(&["-q", "ingest", "src"]).ok();
    let src = shown(&place.world.at("src"));
    for name in ["out.tar", "out.tar.zst"] {
        place.run(&["-q", "export", "-o", name, &format!("latest:{src}")]).ok();
        let run = place.import(&[&format!("tar:{name}"), "--as", "/back", "--new-host", name]).ok();
        let id = super::became(&run).pop().unwrap().1;
        place.sh("rm -rf ours");
        place.restore(&id, "/back", "ours");
        super::same(place.world.home(), "src", "ours");
        assert!(fs::metadata(place.world.at("ours/sparse")).unwrap().blocks() < 1000, "holes were filled");
        assert_eq!(run.json().pop().unwrap()["data_added"], 0, "the same file has other chunks");
        let again = place.import(&[&format!("tar:{name}"), "--as", "/back"]).ok();
        assert_eq!(counts(&again), [0, 1, 0, 0]);
    }
    place.check();
}

#[test]
fn archives_of_gnu_tar_are_read() {
    let place = Place::new();
    everything(&place.world);
    let pax = "tar --format=pax --xattrs --xattrs-include='*' --acls -S";
    for (number, version) in ["0.0", "0.1", "1.0"].into_iter().enumerate() {
        place.sh(&format!("{pax} --sparse-version={version} -cf {number}.tar src"));
        place.import(&[&format!("tar:{number}.tar"), "--new-host", version]).ok();
        place.sh("rm -rf ours");
        place.restore(&format!("latest@{version}"), "/src", "ours");
        super::same(place.world.home(), "src", "ours");
        assert!(fs::metadata(place.world.at("ours/sparse")).unwrap().blocks() < 1000, "holes were filled");
    }
    // The old format has whole seconds and no attributes; from a pipe, compressed.
    place.sh("setfattr -x user.a=b%c src/plain; setfacl -b src/large; find src -exec touch -h -d @1234567890 {} +");
    place.sh("tar --format=gnu -S -czf old.tgz src");
    let archive = fs::read(place.world.at("old.tgz")).unwrap();
    place.world.run_fed(&archive, &with(&place.options, &["import", "tar:-", "--new-host", "old"])).ok();
    place.sh("rm -rf ours");
    place.restore("latest@old", "/src", "ours");
    super::same(place.world.home(), "src", "ours");
    let here = place.snapshots();
    assert!(here.iter().all(|one| one["paths"] == serde_json::json!(["/src"])), "{here:?}");
}

#[test]
fn names_never_lead_out_and_what_cannot_be_is_named() {
    let place = Place::new();
    place.sh(r#"python3 - <<'PYTHON'
import io, tarfile
t = tarfile.open("bad.tar", "w", format=tarfile.PAX_FORMAT)
def add(name, kind=tarfile.REGTYPE, data=b"x", link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    t.addfile(info, io.BytesIO(data))
add("../../etc/passwd"); add("/abs/file"); add("a/../b"); add("f"); add("f/below"); add("dup", data=b"1")
add("early", tarfile.LNKTYPE, link="dup"); add("dup", data=b"22"); add("late", tarfile.LNKTYPE, link="dup")
add("lost", tarfile.LNKTYPE, link="nowhere"); add("s", tarfile.SYMTYPE, link="../../.."); add("x" * 300)
t.close()
PYTHON"#);
    let run = place.import(&["tar:bad.tar", "--as", "/in"]);
    assert_eq!((run.code, counts(&run)), (Some(3), [1, 0, 0, 5]), "{}", run.err);
    for (name, why) in [("etc/passwd", "upwards"), ("a/../b", "upwards"), ("f/below", "no directory"), ("lost", "nowhere")] {
        assert!(run.err.lines().any(|line| line.contains(name) && line.contains(why)), "{name}: {}", run.err);
    }
    place.restore("latest", "/in", "ours");
    assert_eq!(
        place.sh("cd ours; ls; cat early dup late abs/file; readlink s").replace('\n', " "),
        "abs dup early f late s 12222x../../.. "
    );
    let links = |name: &str| fs::metadata(place.world.at("ours").join(name)).unwrap().nlink();
    assert_eq!([links("early"), links("dup"), links("late"), links("f")], [1, 2, 2, 1]);
}

#[test]
fn an_archive_that_is_cut_short_makes_no_snapshot() {
    let place = Place::new();
    everything(&place.world);
    place.sh("tar --format=pax --xattrs -S -cf whole.tar src");
    let whole = fs::read(place.world.at("whole.tar")).unwrap();
    // Also at the ends of entries, and right before the blocks of zeros.
    let end = whole.len() - whole.iter().rev().take_while(|byte| **byte == 0).count();
    for cut in [0, 1, 511, 512, 1024, 5000, whole.len() / 3, whole.len() / 2, end.next_multiple_of(512)] {
        fs::write(place.world.at("cut.tar"), &whole[..cut]).unwrap();
        let run = place.import(&["tar:cut.tar"]);
        assert_eq!(run.code, Some(1), "cut at {cut}: {}", run.err);
    }
    let mut bad = whole.clone();
    bad[3] ^= 1;
    fs::write(place.world.at("cut.tar"), &bad).unwrap();
    let run = place.import(&["tar:cut.tar"]);
    assert!(run.code == Some(1) && run.err.contains("no tar archive"), "{}", run.err);
    place.sh("xz -k whole.tar 2> /dev/null || printf '\\xfd7zXZ\\0 and so on' > whole.tar.xz");
    place.refused(&["tar:whole.tar.xz"], 2, &["xz -dc"]);
    place.refused(&["tar:nowhere.tar"], 1, &["nowhere.tar"]);
    assert_eq!(place.snapshots().len(), 0);
    place.check();
}
