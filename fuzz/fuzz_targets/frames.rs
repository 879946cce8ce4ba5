//! libFuzzer on `portcullis_fuzz::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis_fuzz::frames::check(data);
});
