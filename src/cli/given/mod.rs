//! What users give: places and credentials, filters and names of snapshots, patterns, options from the configuration.

pub mod carry;
pub mod configured;
pub mod from_repo;
pub mod naming;
pub mod patterns;
pub mod place;
pub mod remote;
pub mod select;
pub mod variables;
