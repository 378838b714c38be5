//! Trees of generations that share files by hard links.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use super::{Place, became, counts};
use crate::cli::export::everything;

#[test]
fn generations_are_snapshots_and_shared_files_are_read_once() {
    let place = Place::new();
    everything(&place.world);
    place.sh("mkdir -p rs/daily.2; cp -a src rs/daily.2/; touch -d 2025-01-01T10:00:00 rs/daily.2
         cp -al rs/daily.2 rs/daily.1; echo new > rs/daily.1/src/new; rm rs/daily.1/src/large
         head -c 400000 /dev/urandom > rs/daily.1/src/large; touch -d 2025-01-02T10:00:00 rs/daily.1
         cp -al rs/daily.1 rs/daily.0; touch -d 2025-01-03T10:00:00.5 rs/daily.0
         mkdir rs/_delete.17 rs/other; ln -s daily.0 rs/daily.9");
    let run = place.import(&["tree:rs", "--new-host", "web"]).ok();
    assert_eq!(counts(&run), [3, 0, 0, 0]);
    let here = place.snapshots();
    for (name, id) in became(&run) {
        // A copy has the links that a generation has by itself.
        place.sh(&format!("rm -rf alone ours; cp -a rs/{name} alone"));
        place.restore(&id, "/", "ours");
        super::same(place.world.home(), "alone", "ours");
        let again = fs::metadata(place.world.at("ours/src/zz-again")).unwrap();
        assert_eq!(again.nlink(), 2);
    }
    let of = |one: &Value, name: &str| one["summary"][name].as_u64().unwrap();
    assert_eq!((of(&here[1], "files_new"), of(&here[2], "files_new")), (2, 0), "{here:?}");
    assert!(here[2]["time"].as_str().unwrap().starts_with("2025-01-03T10:00:00.5"));
    // They move on, and are the same.
    place.sh("cd rs; mv daily.2 daily.3; mv daily.1 daily.2; mv daily.0 daily.1; cp -al daily.1 daily.0; touch -d 2025-01-04T10:00:00 daily.0");
    assert_eq!(counts(&place.import(&["tree:rs"]).ok()), [1, 3, 0, 0]);
    assert_eq!(place.snapshots().len(), 4);
    place.check();
}

#[test]
fn dates_in_names_are_the_times() {
    let place = Place::new();
    place.sh("mkdir -p tm/2024-05-06-070809/Disk tm/back-20240507T080910Z/Disk tm/Latest; echo x > tm/2024-05-06-070809/Disk/a");
    let run = place.import(&["tree:tm", "--as", "/old/disk"]).ok();
    assert_eq!(counts(&run), [2, 0, 0, 0]);
    let here = place.snapshots();
    let times: Vec<&str> = here.iter().map(|one| &one["time"].as_str().unwrap()[..19]).collect();
    assert_eq!(times[1], "2024-05-07T08:09:10");
    assert!(times[0].starts_with("2024-05-0"), "{times:?}");
    assert_eq!(place.run(&["cat", &format!("{}:/old/disk/Disk/a", here[0]["id"].as_str().unwrap())]).ok().text(), "x\n");
    assert_eq!(counts(&place.import(&["tree:tm", "--as", "/old/disk"]).ok()), [0, 2, 0, 0]);
    place.refused(&["tree:tm/Latest"], 1, &["daily.0", "yester ingest"]);
    place.refused(&["tree:nowhere"], 1, &["nowhere"]);
}
