//! The agent: it runs sets when they are due. What it does by the clock is in `plan`, what it remembers in `memory`; runs
//! are processes of their own (`child`).

pub(crate) mod alarms;
pub(crate) mod child;
pub mod memory;
pub(crate) mod plan;
pub mod reports;
pub mod rounds;
pub mod wishes;
pub mod work;
