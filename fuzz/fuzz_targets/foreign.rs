//! libFuzzer on `portcullis_fuzz::foreign`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis_fuzz::foreign::check(data);
});
