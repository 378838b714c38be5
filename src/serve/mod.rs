//! The server: gives other machines access to the objects of repositories in directories of this one.

pub(crate) mod api;
pub mod objects;
