//! libFuzzer on `portcullis_fuzz::bearer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis_fuzz::bearer::check(data);
});
