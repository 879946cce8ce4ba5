//! libFuzzer on `portcullis_fuzz::usage`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis_fuzz::usage::check(data);
});
