//! Any bytes as the beginning of a TLS connection.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = mantrid::tls::client_hello(bytes, 16 * 1024);
});
