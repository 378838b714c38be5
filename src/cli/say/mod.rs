//! What commands print, and how they end: text and JSON, units, paths, progress, the log, exit codes.

pub mod exit;
pub mod log;
pub mod output;
pub mod parts;
pub mod paths;
pub mod progress;
pub mod requests;
pub mod status;
pub mod units;
