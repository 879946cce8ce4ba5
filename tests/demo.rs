//! `make demo` as a person runs it: the script's own commands against both real programs, twice over one store.

use std::{path::Path, process::Command};

#[test]
fn every_command_the_demo_prints_does_what_it_says() {
    let programs = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().unwrap();
    assert!(programs.join("rag-demo").exists(), "rag-demo is not built: run with --workspace, as make test does");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/demo");
    let demo = Command::new(script).arg("--check").env("PORTCULLIS_DEMO_BIN", programs).output().unwrap();
    let said = String::from_utf8_lossy(&demo.stdout);
    let complained = String::from_utf8_lossy(&demo.stderr);
    assert!(demo.status.success(), "{said}\n{complained}");
    // Not only that nothing failed, but that something was looked at.
    assert!(said.contains("demo: 12 checks passed"), "{said}");
}
