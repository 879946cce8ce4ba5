//! What is shipped besides the binary: the image's recipe, checked without an engine to build it, and the demo's
//! configuration.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use std::{collections::HashMap, fs, path::Path};

use portcullis::config;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Dockerfile's instructions, continued lines joined.
fn instructions() -> Vec<String> {
    let text = fs::read_to_string(root().join("Dockerfile")).unwrap().replace("\\\n", " ");
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// What is copied from the build context.
fn copied() -> Vec<String> {
    let copies = instructions().into_iter().filter_map(|line| line.strip_prefix("COPY ").map(str::to_owned));
    let from_context = copies.filter(|arguments| !arguments.contains("--from="));
    from_context
        .flat_map(|arguments| {
            let words: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
            words[..words.len() - 1].to_vec()
        })
        .collect()
}

#[test]
fn every_source_the_image_copies_exists_and_is_let_through() {
    let ignore = fs::read_to_string(root().join(".dockerignore")).unwrap();
    let let_through: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(copied().len() >= 5, "{:?}", copied());
    for source in copied() {
        assert!(root().join(&source).exists(), "{source} does not exist");
        assert!(let_through.contains(&source.as_str()), "{source} is not in .dockerignore");
    }
}

#[test]
fn every_folder_the_manifest_names_is_copied() {
    // What cargo must see to read the manifest: members and declared targets.
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let copied = copied();
    for (named, folder) in [("members = [\"examples/", "examples"), ("[[bench]]", "benches"), ("src/lib.rs", "src")] {
        assert!(!manifest.contains(named) || copied.iter().any(|source| source == folder), "{folder}");
    }
    assert!(copied.iter().any(|source| source == ".cargo/config.toml"), "the allocator's settings are compiled in");
}

#[test]
fn the_image_is_pinned_has_no_root_and_asks_itself_for_its_health() {
    let lines = instructions();
    for line in lines.iter().filter(|line| line.starts_with("FROM ")) {
        assert!(line.contains(':') && !line.contains(":latest"), "{line}");
    }
    let last_stage = lines.iter().rposition(|line| line.starts_with("FROM ")).unwrap();
    assert!(lines[last_stage].contains("distroless") && lines[last_stage].contains(":nonroot"));
    assert!(lines[last_stage..].iter().any(|line| line == "USER nonroot"));
    assert!(
        lines.iter().any(|line| line.starts_with("HEALTHCHECK") && line.ends_with("[\"/portcullis\", \"health\"]"))
    );
}

#[test]
fn the_image_is_built_with_the_rust_the_manifest_asks_for() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let wanted = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(instructions().iter().any(|line| line.starts_with(&format!("FROM rust:{wanted}"))), "{wanted}");
}

#[test]
fn the_demos_configuration_is_good_with_and_without_its_variables() {
    let file = root().join("config/demo.yaml");
    let plain = config::load(&file, &HashMap::new()).unwrap();
    assert_eq!(plain.listeners.public.bind.to_string(), "127.0.0.1:8080");
    let set = HashMap::from([("PORTCULLIS_DEMO_PORT".to_owned(), "18080".to_owned())]);
    let settings = config::load(&file, &set).unwrap();
    assert_eq!(settings.listeners.public.bind.to_string(), "127.0.0.1:18080");
    assert_eq!(&*settings.tokens.issuer, "http://127.0.0.1:18080");
}
