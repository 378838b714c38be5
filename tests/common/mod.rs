//! What several tests share: worlds to run the program in, trees, servers, faults.
//!
//! The fuzz targets use some of these files by their path.
#![allow(dead_code)] // Every test program uses its own part of this.

pub mod beside;
pub mod build;
pub mod decoders;
pub mod faults;
pub mod forge;
pub mod gateway;
pub mod golden;
pub mod golden_tree;
pub mod lying;
pub mod mounted;
pub mod ops;
pub mod passthrough;
pub mod program;
pub mod record;
pub mod requests;
pub mod s3;
pub mod sshd;
pub mod texts;
pub mod tiny;
pub mod trees;

/// The whole name of the test `name` in the module that gives its `module_path!()`: what `--exact` takes.
pub fn whole_name(module: &str, name: &str) -> String {
    let module = module.split_once("::").map_or("", |(_, module)| module);
    format!("{module}::{name}")
}
