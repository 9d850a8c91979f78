//! Must fail: shows that the fuzzing works.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mantrid::http::properties::canary(bytes));
