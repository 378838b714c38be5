//! What is stored of what an ingest is given: options, strange sources, streams.

mod options;
mod owners;
mod sources;
mod streams;
