//! Keys of objects as paths, and back: whatever the keys of a bucket are.

use std::collections::HashSet;

use proptest::prelude::*;
use yester::model::Timestamp;
use yester::model::bucket::{BucketEntry, key_of_names, names_of_key, place};
use yester::model::node::check_name;
use yester::model::versions::ObjectVersion;

/// Keys with all that no path may have.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => "[ab.%]{0,3}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
        1 => Just(b"%object".to_vec()),
        1 => Just(b"%empty".to_vec()),
        1 => Just(b"%2E".to_vec()),
        1 => (250..262usize, "[ab.%ä]{0,3}").prop_map(|(length, end)| [b"x".repeat(length), end.into_bytes()].concat()),
        1 => (80..200usize).prop_map(|length| "ä%\0".repeat(length).into_bytes()),
    ];
    proptest::collection::vec(part, 1..5)
        .prop_map(|parts| parts.join(&b'/'))
        .prop_filter("a key has bytes", |key| !key.is_empty())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_key_comes_back_from_its_names(key in key(), prefix in any::<bool>()) {
        let names = names_of_key(&key, prefix);
        for name in &names {
            prop_assert!(check_name(name).is_ok(), "{:?}", name);
        }
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(key_of_names(&names), Some(key));
    }

    #[test]
    fn all_keys_of_a_bucket_have_places_in_one_tree(keys in proptest::collection::vec(key(), 0..30), more in any::<u8>()) {
        // Some keys are what others begin with.
        let below = keys.iter().take(usize::from(more % 8)).map(|key| [&key[..], b"/below"].concat());
        let all: HashSet<Vec<u8>> = below.chain(keys.iter().cloned()).collect();
        let entry = |key: &Vec<u8>| BucketEntry { key: key.clone(), size: 0, modified: Timestamp::default(), etag: Vec::new(), version: None };
        let placed = place(all.iter().map(entry).collect());
        let back: HashSet<Vec<u8>> = placed.iter().filter_map(|object| key_of_names(&object.names())).collect();
        prop_assert_eq!(&back, &all);
        prop_assert_eq!(placed.len(), all.len());
        // No path is another's, or a directory of another's; the order is a tree's.
        for two in placed.windows(2) {
            let (one, other) = (two[0].names(), two[1].names());
            prop_assert!(one < other && !other.starts_with(&one), "{:?} {:?}", one, other);
        }
    }

    #[test]
    fn all_versions_of_a_bucket_have_places_in_one_tree(
        keys in proptest::collection::hash_set(key(), 0..20),
        ids in proptest::collection::vec("[a-z/%.]{1,6}|[a-z]{200,300}", 1..5),
        times in proptest::collection::vec((0i64..4_000_000_000, 0u32..3), 5),
        last in any::<u8>(),
    ) {
        let ids: HashSet<String> = ids.into_iter().collect();
        let below: Vec<Vec<u8>> = keys.iter().take(3).map(|key| [&key[..], b"/below"].concat()).collect();
        let keys: HashSet<Vec<u8>> = below.into_iter().chain(keys).collect();
        let mut listed = Vec::new();
        for key in &keys {
            for (number, id) in ids.iter().enumerate() {
                let (secs, nanos) = times[number % 5];
                let version = ObjectVersion {
                    id: id.clone().into_bytes(),
                    latest: number == 0,
                    marker: (usize::from(last) + number) % 3 == 0,
                    tie: 0,
                };
                let modified = Timestamp { secs, nanos: nanos * 1_000_001 };
                listed.push(BucketEntry { key: key.clone(), size: 0, modified, etag: Vec::new(), version: Some(version) });
            }
        }
        let placed = place(listed);
        prop_assert_eq!(placed.len(), keys.len() * ids.len());
        prop_assert!(placed.iter().all(|object| object.key().is_some_and(|key| keys.contains(&key))));
        for two in placed.windows(2) {
            let (one, other) = (two[0].names(), two[1].names());
            prop_assert!(one < other && !other.starts_with(&one), "{:?} {:?}", one, other);
            prop_assert!(one.iter().all(|name| check_name(name).is_ok()));
        }
    }

    #[test]
    fn names_of_no_key_are_refused_or_their_own(names in proptest::collection::vec("[a%+.2E]{1,4}|%empty|%object", 1..4)) {
        let names: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        if let Some(key) = key_of_names(&names) {
            let prefix = names.last() == Some(&&b"%object"[..]);
            let own = names_of_key(&key, prefix);
            prop_assert_eq!(own.iter().map(Vec::as_slice).collect::<Vec<_>>(), names);
        }
    }
}
