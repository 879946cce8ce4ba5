//! libFuzzer on `portcullis_fuzz::discovery`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis_fuzz::discovery::check(data);
});
