//! Any bytes as a header of the PROXY protocol: one that is taken is never longer than what is
//! there.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let mantrid::proxy_protocol::Seen::Header(header) = mantrid::proxy_protocol::header(bytes) {
        assert!(header.length <= bytes.len());
    }
});
