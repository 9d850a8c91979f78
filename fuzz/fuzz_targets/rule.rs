//! Any JSON as a rule.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mantrid::table::properties::rule(bytes));
