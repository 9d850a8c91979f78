//! Any bytes as a list of networks.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mantrid::fuzz::networks(bytes));
