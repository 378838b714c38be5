//! Objects, the index, this machine's memory, file systems below a repository, copies.

mod chain;
mod copy;
mod file_systems;
mod forget;
mod index;
mod key_slots;
mod local_state;
mod long_history;
mod objects;
mod requests;
mod years;
