//! Questions about snapshots: what differs between them, where an entry is, how a path changed.
//!
//! All of it uses `sweep`, which goes through several trees at once and reads each distinct page once.

pub mod content;
pub mod diff;
pub mod find;
pub mod history;
mod live;
pub(crate) mod set;
pub(crate) mod sweep;

pub use set::SnapshotSet;
pub use sweep::EntryVersion;
