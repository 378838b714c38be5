//! What a decoder asks memory for is bounded by its input, whatever lengths the input claims. One test in a process of
//! its own: it watches the whole process' address space.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::decoders;

use std::path::Path;

/// The most that the process' address space ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn claimed_lengths_are_not_believed() {
    let claims: [&[u8]; 5] = [
        &[0xff, 0xff, 0x03],
        &[0xff, 0xff, 0xff, 0x07],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    ];
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    // The first call makes what is made once a thread; the longest plain frame is the most that one call may ask for.
    decoders::frame(&[0; 100]);
    let before = peak();
    for (name, target) in decoders::TARGETS {
        for entry in std::fs::read_dir(seeds.join(name)).unwrap() {
            let seed = std::fs::read(entry.unwrap().path()).unwrap();
            for claim in claims {
                for at in 0..seed.len().min(300) {
                    let mut bytes = seed.clone();
                    bytes.splice(at..at + 1, claim.iter().copied());
                    target(&bytes);
                }
            }
        }
    }
    let grown = peak() - before;
    assert!(grown < 64 << 10, "the address space grew by {grown} KiB");
}
