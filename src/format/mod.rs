//! The format on disk: writes values as bytes and reads them back. No input or output, no keys. Every byte is described in
//! docs/format.md.

pub mod annotation;
pub mod composition;
pub mod config;
pub mod cursor;
pub mod damage;
pub mod envelope;
pub mod filter;
pub mod group;
pub mod node;
pub mod pack;
pub mod page;
pub mod parity;
pub mod recovery;
pub mod run;
pub mod segment;
pub mod snapshot;
