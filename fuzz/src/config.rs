//! `config::parse`: any text is a configuration or a list of mistakes, each with its place, none with a secret in it.

use std::{collections::HashMap, path::Path};

use portcullis::config::{Source, parse};

/// What `${SECRET}` is, and must never be printed.
const SECRET: &str = "hunter2-hunter2-hunter2-hunter2-hunter2";

/// The bytes as `gateway.yaml`. Files that it names are looked for in a folder that is not there.
pub fn check(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    // Devices and pipes of the machine this runs on are no part of the promise.
    if text.contains("/dev") || text.contains("/proc") {
        return false;
    }
    let environment: HashMap<String, String> = [("SECRET".to_owned(), SECRET.to_owned())].into();
    let source = Source { name: "gateway.yaml", text, base_dir: Path::new("/nowhere/at/all") };
    let first = parse(&source, &environment);
    match (&first, parse(&source, &environment)) {
        (Ok(_), Ok(_)) => true,
        (Err(errors), Err(again)) => {
            assert_eq!(errors.errors(), again.errors(), "another answer the second time");
            assert!(!errors.errors().is_empty());
            let lines =
                u32::try_from(text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count()).expect("lines");
            for error in errors.errors() {
                assert!(!error.message.is_empty());
                assert!(error.column >= 1 && (1..=lines + 1).contains(&error.line), "{error:?} of {lines} lines");
            }
            let told = errors.to_string();
            assert!(!told.contains(SECRET), "{told}");
            assert!(told.lines().all(|line| line.len() < 16_384), "a mistake nobody can read");
            false
        }
        (one, other) => panic!("once {}, then {}", one.is_ok(), other.is_ok()),
    }
}
