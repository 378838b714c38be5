#![no_main]

#[path = "../../tests/common/beside.rs"]
#[allow(dead_code)]
mod beside;

libfuzzer_sys::fuzz_target!(|data: &[u8]| beside::beside(data));
