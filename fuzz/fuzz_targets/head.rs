//! Any bytes as a request head.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mantrid::http::properties::head(bytes));
