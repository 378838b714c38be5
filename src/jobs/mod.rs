//! What a command needs around the work itself: finding and opening a repository, credentials, the configuration file with
//! its sets and hooks, and the agent that runs sets on a schedule. Only `credential` may ask at a terminal.

pub mod agent;
pub mod back;
pub mod buckets;
pub mod config;
pub mod credential;
pub mod foreign;
pub mod groups;
pub mod guards;
pub mod hooks;
pub mod location;
pub mod open;
pub mod paths;
pub mod rewrites;
pub mod runs;
pub mod schedule;
pub mod standing;
pub mod under_way;
pub mod units;
pub mod variables;
pub mod volumes;
mod watcher;
