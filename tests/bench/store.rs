//! The S3 server of the tests as a program: one bucket, `bucket`, in memory, for any keys. Prints its port.
//!
//! ```sh
//! cargo build --locked --release --bench store      # target/release/deps/store-…
//! ```
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/s3/mod.rs"]
mod s3;

fn main() {
    // What `cargo bench` and `cargo test` ask of every program.
    if std::env::args().any(|arg| arg == "--bench" || arg == "--list") {
        return;
    }
    let server = s3::S3Server::start();
    println!("{}", server.port);
    loop {
        std::thread::park();
    }
}
