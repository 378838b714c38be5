//! Repositories on other machines: one suite over every storage, a proxy that breaks connections in every way, hostile
//! clients and servers by row, and whole runs of the program over a server and over ssh.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod account;
#[path = "../oracle/attributes.rs"]
#[allow(dead_code)]
mod attributes;
#[path = "../oracle/capture.rs"]
#[allow(dead_code)]
mod capture;
mod child;
mod conformance;
mod crowd;
mod crowding;
mod cuts;
#[path = "../oracle/exits.rs"]
#[allow(dead_code)]
mod exits;
mod faults;
mod fixture;
mod floods;
mod frames;
#[path = "../oracle/generate.rs"]
#[allow(dead_code)]
mod generate;
mod hostile;
mod liars;
mod limits;
mod oracle;
mod owners;
mod pipeline;
mod program;
#[path = "../program/mod.rs"]
mod program_run;
mod proxy;
mod rows;
#[path = "../common/s3/mod.rs"]
mod s3_server;
mod shapes;
mod store;
mod store_runs;
mod support;
