//! Properties that hold for every input: proptest runs them in `cargo test`, fuzzers in `fuzz/`.
