//! The configuration file, sets with their parts and hooks, and the runs that are written of them.

mod agent;
mod buckets;
mod config;
mod groups;
mod keys;
mod mail;
mod parts;
mod postgres;
mod rewrites;
mod runs;
mod staged;
mod versions;
mod volumes;
