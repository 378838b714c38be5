//! The configuration file, sets with their parts and hooks, and the runs that are written of them.

mod config;
mod parts;
mod postgres;
mod runs;
mod staged;
