//! Repositories on other machines: a server, its client, and ssh. The only room with tokio.
//!
//! One protocol (docs/protocol.md) over HTTP, two transports: TLS, and the standard input and output of a process that
//! ssh starts on the far side. [`client::RemoteStorage`] is a [`Storage`](crate::storage::Storage): nothing above it
//! knows that there is a network. [`server`] keeps objects in directories like any other repository.

pub mod address;
pub mod client;
pub mod list;
pub mod protocol;
pub mod rate;
pub mod server;
pub mod tls;
pub mod tokens;
