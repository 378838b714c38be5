//! Repositories on other machines: the protocol, and a [`Storage`](crate::storage::Storage) that speaks it.
//!
//! One protocol (docs/protocol.md) over HTTP, two transports: TLS, and the standard input and output of a process that
//! ssh starts on the far side. Nothing above [`client::RemoteStorage`] knows that there is a network. Object stores are
//! spoken to in their own protocol ([`s3::S3Storage`]).

pub mod address;
pub mod client;
pub mod control;
pub mod list;
pub mod protocol;
pub mod rate;
pub mod s3;
pub mod tls;
pub mod tokens;
pub(crate) mod webhook;
