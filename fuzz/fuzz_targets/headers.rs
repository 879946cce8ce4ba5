//! libFuzzer on `portcullis_fuzz::headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis_fuzz::headers::check(data);
});
