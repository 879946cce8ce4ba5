//! libFuzzer on `portcullis_fuzz::websocket`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis_fuzz::websocket::check(data);
});
