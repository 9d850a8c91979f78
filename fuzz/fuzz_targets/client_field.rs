//! Any bytes as the lines of a field that names the client.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mantrid::http::properties::client_field(bytes));
