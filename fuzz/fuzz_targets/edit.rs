//! Any edits and lookups.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mantrid::table::properties::edits(bytes));
