//! Looking: what differs between snapshots, where something is, what became of a path.
//!
//! Everything stands on `sweep`: several trees gone through at once, each distinct page once.

pub mod content;
pub mod diff;
pub mod find;
pub mod history;
mod live;
pub(crate) mod set;
pub(crate) mod sweep;

pub use set::SnapshotSet;
pub use sweep::EntryVersion;
