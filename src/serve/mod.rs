//! What listens: today the server that keeps repositories in directories and serves their objects.

pub mod objects;
