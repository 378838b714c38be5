#![no_main]

#[path = "../../tests/common/requests.rs"]
#[allow(dead_code)]
mod requests;

libfuzzer_sys::fuzz_target!(|data: &[u8]| requests::single(data));
