//! Repositories on other machines: one suite over every storage, a proxy that breaks connections in every way, hostile
//! clients and servers by row, and whole runs of the program over a server and over ssh.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod account;
mod child;
mod conformance;
mod crowd;
mod crowding;
mod cuts;
mod distance;
mod faults;
mod floods;
mod frames;
mod hostile;
mod job_hosts;
mod job_kills;
mod jobs;
mod jobs_crowd;
mod jobs_page;
mod liars;
mod limits;
mod link;
mod oracle;
mod owners;
mod parity;
mod pipeline;
mod program;
mod proxy;
mod rows;
mod shapes;
mod store;
mod store_azure;
mod store_cost;
mod store_cuts;
mod store_google;
mod store_runs;
mod store_served;
mod support;
mod write_only;
