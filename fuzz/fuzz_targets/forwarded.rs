//! libFuzzer on `portcullis_fuzz::forwarded`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis_fuzz::forwarded::check(data);
});
