//! Signs that something turned a source over: told by `ingest` and `snapshots`, and `forget` holds back what was before.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::Value;

use crate::common::program::{Run, World, with};

struct Fixture {
    world: World,
    options: [String; 4],
}

impl Fixture {
    /// A repository, and `src` with nine files of a mebibyte each, of content `seed`.
    fn new() -> Fixture {
        let world = World::new();
        let options = world.repository();
        let fixture = Fixture { world, options };
        fixture.fill(1);
        fixture
    }

    fn fill(&self, seed: u8) {
        for file in 0..9u8 {
            let mut content = vec![0; 1 << 20];
            blake3::Hasher::new_keyed(&[seed; 32]).update(&[file]).finalize_xof().fill(&mut content);
            self.world.file(&format!("src/{file}"), content);
        }
    }

    fn run(&self, args: &[&str]) -> Run {
        self.world.run(&with(&self.options, args))
    }

    /// The last line of an ingest, and what it warns of.
    fn ingest(&self) -> (Value, String) {
        let run = self.run(&["ingest", "--json", "src"]).ok();
        (run.json().pop().unwrap(), run.err)
    }

    fn snapshots(&self) -> Vec<Value> {
        self.run(&["snapshots", "--json"]).ok().json()
    }
}

#[test]
fn what_was_before_a_source_was_turned_over_stays_until_somebody_says_so() {
    let fixture = Fixture::new();
    let (first, said) = fixture.ingest();
    assert!(first.get("signs").is_none() && said.is_empty(), "{first} {said}");
    fixture.world.file("src/more", "a day's work");
    let (second, said) = fixture.ingest();
    assert!(second.get("signs").is_none() && said.is_empty(), "{second} {said}");
    // All of it is other content now.
    fixture.fill(2);
    let (third, said) = fixture.ingest();
    assert_eq!(third["signs"][0], "bytes_new", "{third}");
    let id = third["snapshot_id"].as_str().unwrap().to_owned();
    assert!(said.contains("ransomware") && said.contains(&format!("{} --add as-expected", &id[..8])), "{said}");
    fixture.world.file("src/more", "another day's work");
    let (fourth, _) = fixture.ingest();
    assert!(fourth.get("signs").is_none(), "{fourth}");

    let signs: Vec<bool> = fixture.snapshots().iter().map(|one| one.get("signs").is_some()).collect();
    assert_eq!(signs, [false, false, true, false]);
    assert!(fixture.run(&["snapshots"]).ok().text().contains("(much changed: nearly all its bytes are new)"));
    // A rule takes nothing of what was before, nor what tells of it, however often it is applied.
    let run = fixture.run(&["forget", "--keep-last", "1"]).ok();
    assert!(run.err.contains("--add as-expected") && run.text().contains("much changed"), "{} {}", run.err, run.text());
    assert_eq!(fixture.snapshots().len(), 4);
    // It goes on with what came after.
    fixture.world.file("src/more", "the next day's work");
    fixture.ingest();
    fixture.run(&["forget", "--keep-last", "1"]).ok();
    let left: Vec<Value> = fixture.snapshots().iter().map(|one| one["id"].clone()).collect();
    assert!(left.len() == 4 && !left.contains(&fourth["snapshot_id"]), "{left:?}");
    // By its name it goes.
    fixture.run(&["forget", &id[..8]]).ok();
    assert_eq!(fixture.snapshots().len(), 3);
}

#[test]
fn whoever_says_that_it_is_as_it_should_be_has_rules_go_on() {
    let fixture = Fixture::new();
    fixture.ingest();
    for file in 0..7 {
        std::fs::remove_file(fixture.world.at(&format!("src/{file}"))).unwrap();
    }
    // Whoever turned the source over may make snapshots, too, with any tags.
    let run = fixture.run(&["ingest", "--json", "--tag", "as-expected", "src"]).ok();
    let made = run.json().pop().unwrap();
    assert_eq!(made["signs"][0], "shrunk", "{made}");
    let id = made["snapshot_id"].as_str().unwrap().to_owned();
    fixture.run(&["forget", "--keep-last", "1"]).ok();
    assert_eq!(fixture.snapshots().len(), 2);
    fixture.run(&["tag", &id, "--remove", "as-expected"]).ok();
    fixture.run(&["tag", &id, "--add", "as-expected"]).ok();
    assert!(fixture.snapshots().iter().all(|one| one.get("signs").is_none()));
    let run = fixture.run(&["forget", "--keep-last", "1"]).ok();
    assert!(!run.err.contains("much changed"), "{}", run.err);
    assert_eq!(fixture.snapshots().len(), 1);
}

#[test]
fn each_that_is_much_changed_holds_what_was_before_it_of_its_own_paths() {
    let fixture = Fixture::new();
    fixture.world.file("other/file", "of another series");
    let ids: Vec<String> = (2..6)
        .map(|seed| {
            let id = fixture.ingest().0["snapshot_id"].as_str().unwrap().to_owned();
            fixture.run(&["ingest", "other"]).ok();
            // After the second and the fourth all of it is other content.
            if seed % 2 == 1 {
                fixture.fill(seed);
            }
            fixture.world.file("src/more", seed.to_string());
            id
        })
        .collect();
    let last = fixture.ingest().0;
    assert_eq!(last["signs"][0], "bytes_new", "{last}");
    let signs = fixture.snapshots().iter().filter(|one| one.get("signs").is_some()).count();
    assert_eq!(signs, 2);
    // Nobody has looked at the first of both. What came between them stays all the same; other paths go their way.
    let run = fixture.run(&["forget", "--group-by", "host", "--keep-last", "1"]).ok();
    let third = &ids[2][..8];
    let is_named = |id: &str| run.err.contains(&format!("{id} --add as-expected"));
    assert!(is_named(third) && is_named(&last["snapshot_id"].as_str().unwrap()[..8]), "{}", run.err);
    let left: Vec<String> = fixture.snapshots().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.iter().all(|id| left.contains(id)), "{left:?}");
    assert_eq!(left.len(), 5);
}
