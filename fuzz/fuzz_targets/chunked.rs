//! Any bytes as a chunked body.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mantrid::http::properties::chunked(bytes));
