//! libFuzzer on `portcullis_fuzz::form`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis_fuzz::form::check(data);
});
