//! libFuzzer on `portcullis_fuzz::trace`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis_fuzz::trace::check(data);
});
