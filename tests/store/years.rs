//! Histories of a repository, many and random; the same that the fuzzer makes (see `common/ops.rs`).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use crate::common::ops;

use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_history_loses_a_snapshot(bytes in vec(any::<u8>(), 0..120)) {
        ops::run(&bytes);
    }
}
