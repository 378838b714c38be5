#![no_main]

#[path = "../../tests/common/texts.rs"]
#[allow(dead_code)]
mod texts;

libfuzzer_sys::fuzz_target!(|data: &[u8]| texts::texts(data));
