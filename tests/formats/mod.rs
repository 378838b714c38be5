//! What is on disk: the golden repository, properties of encodings, and the tables of docs/format.md.

mod doc;
mod golden;
mod one_way;
mod properties;
