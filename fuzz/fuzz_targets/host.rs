//! Any bytes as a host, and as the name of a rule.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mantrid::table::properties::host(bytes));
