//! Any bytes as an entry of a fleet's log, as edits, and as a folded table.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mantrid::fuzz::fleet(bytes));
