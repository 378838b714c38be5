//! Repositories that borg made.

use super::{Place, became, counts};
use crate::cli::export::everything;
use crate::common::program::{shown, with};

#[test]
fn every_archive_is_here_as_borg_puts_it_back() {
    let place = Place::new();
    everything(&place.world);
    // What borg's tar cannot say.
    place.sh("setfattr -x user.a=b%c src/plain; setfacl -b src/large; find src -exec touch -h -d @1234567890 {} +");
    place
        .sh("borg init -e repokey borg; borg create --comment 'before the move' --timestamp 2021-02-03T04:05:06 borg::first src");
    place.sh("echo more >> src/plain; touch -d @1234567891 src/plain src; borg create borg::second src");
    let run = place.import(&["borg:borg"]).ok();
    assert_eq!(counts(&run), [2, 0, 0, 0]);
    for (name, id) in became(&run) {
        place.sh(&format!("rm -rf theirs ours; mkdir theirs; cd theirs; borg extract ../borg::{name}"));
        place.restore(&id, "/src", "ours");
        super::same(place.world.home(), "theirs/src", "ours");
    }
    let here = place.snapshots();
    assert_eq!((&here[0]["note"], &here[0]["paths"]), (&"before the move".into(), &serde_json::json!(["/src"])));
    assert!(here[0]["time"].as_str().unwrap().starts_with("2021-02-03T04:05:06"), "{here:?}");
    assert_eq!(counts(&place.import(&["borg:borg"]).ok()), [0, 2, 0, 0]);
    assert_eq!(counts(&place.import(&["borg:borg::second"]).ok()), [0, 1, 0, 0]);
    place.check();
}

#[test]
fn what_borg_says_of_a_failure_is_said() {
    let place = Place::new();
    place.world.file("src/a", "a");
    place.sh("borg init -e repokey borg; borg create borg::first src");
    place.refused(&["borg:borg::third"], 1, &["no archive third"]);
    let import = |variables: &[(&str, &str)]| place.world.run_with(variables, &with(&place.options, &["import", "borg:borg"]));
    let wrong = import(&[("YESTER_FROM_PASSWORD", "wrong")]);
    assert!(wrong.code == Some(1) && wrong.err.contains("borg could not list the archives"), "{}", wrong.err);
    let nowhere = shown(&place.world.at("src"));
    import(&[("PATH", &nowhere)]).fails(2, &["borg is not installed", "borgbackup"]);
    assert_eq!(place.snapshots().len(), 0);
}
