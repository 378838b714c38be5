//! What a run of any command begins with: where a repository is, what unlocks it, and opening it. A program that runs
//! without a terminal needs it as much as the command line.

pub mod agent;
pub mod back;
pub mod buckets;
pub mod config;
pub mod credential;
pub mod foreign;
pub mod guards;
pub mod hooks;
pub mod location;
pub mod open;
pub mod paths;
pub mod rewrites;
pub mod runs;
pub mod schedule;
pub mod standing;
pub mod units;
pub mod variables;
