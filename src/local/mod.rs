//! What this machine remembers of a repository from one command to the next. All of it may be lost at any time: then a
//! command does more work, or waits longer, and its result is the same.

pub(crate) mod at_work;
pub mod state;
pub(crate) mod watch;
