//! The server, its texts, and what lies beside a repository, under bytes that are anything: what the fuzzers run for long,
//! for a moment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use crate::common::beside;
use crate::common::requests;
use crate::common::texts;

use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Roles, quotas, sessions and their outcomes, in any order: each answer and each object is what the model says.
    #[test]
    fn sequences_of_requests_do_what_the_model_says(bytes in vec(any::<u8>(), 0..180)) {
        requests::sequence(&bytes);
    }

    #[test]
    fn requests_of_any_kind_change_nothing_that_they_may_not(
        flags in any::<u8>(),
        path in "[/a-z0-9%.]{0,70}",
        headers in vec("[0-9a-z][ -~]{0,40}", 0..6),
    ) {
        let mut bytes = vec![flags, b'\n'];
        bytes.extend(path.bytes());
        headers.iter().for_each(|line| bytes.extend([b"\n", line.as_bytes()].concat()));
        requests::single(&bytes);
    }

    #[test]
    fn texts_are_read_as_they_are_written(kind in any::<u8>(), text in "[ -~\n]{0,200}", bytes in vec(any::<u8>(), 0..200)) {
        texts::texts(&[&[kind], text.as_bytes()].concat());
        texts::texts(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn what_lies_beside_a_repository_may_be_anything(bytes in vec(any::<u8>(), 0..600)) {
        beside::beside(&bytes);
    }
}
