#![no_main]

#[path = "../../tests/common/record.rs"]
mod record;
#[path = "../../tests/common/ops.rs"]
#[allow(dead_code)]
mod ops;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ops::run(data));
