//! The clock of this machine.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::Timestamp;

/// The time now; 1970 on a machine whose clock is before that.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}
