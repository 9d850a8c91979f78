//! Any bytes as a journal, and any damage to a good one.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mantrid::state::properties::journal(bytes));
