//! Any bytes as a response head.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mantrid::http::properties::response_head(bytes));
