//! The schema as editors use it: each file we ship names it by a path that leads there, and a validator that knows
//! nothing of us takes the file and refuses it with a key misspelt.

use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::{Map, Value};

use crate::support::config_dir;

/// Every YAML file below `config/`.
fn shipped() -> Vec<PathBuf> {
    let yaml = |folder: PathBuf| {
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
    };
    let mut files: Vec<_> = yaml(config_dir()).chain(yaml(config_dir().join("examples"))).collect();
    files.sort();
    assert!(files.len() >= 6, "{files:?}");
    files
}

/// The schema that the file's own comment leads an editor to.
fn schema_of(file: &Path, text: &str) -> Validator {
    let named: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# yaml-language-server: $schema=")).collect();
    let [named] = named[..] else { panic!("{} names {named:?}", file.display()) };
    let text = std::fs::read_to_string(file.parent().unwrap().join(named)).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    jsonschema::meta::validate(&schema).unwrap_or_else(|error| panic!("{error}"));
    jsonschema::validator_for(&schema).unwrap()
}

fn mistakes(validator: &Validator, tree: &Value) -> Vec<String> {
    validator.iter_errors(tree).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn every_file_we_ship_is_valid_by_the_schema_it_names() {
    for file in shipped() {
        let text = std::fs::read_to_string(&file).unwrap();
        let tree: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(mistakes(&schema_of(&file, &text), &tree), Vec::<String>::new(), "{}", file.display());
    }
}

/// Below these an operator names things: any key will do.
const NAMED_BY_OPERATORS: [&str; 5] = ["/clusters", "/issuers", "/limits", "/quotas", "/security_events/webhooks"];

/// Calls `check` with each tree in which one key, at the path it is given, is misspelt.
fn misspelt(root: &Value, at: &str, check: &mut dyn FnMut(&Value, &str)) {
    match root.pointer(at).unwrap() {
        Value::Object(entries) => {
            for key in entries.keys() {
                let path = format!("{at}/{key}");
                if !NAMED_BY_OPERATORS.contains(&at) {
                    let mut tree = root.clone();
                    let entries: &mut Map<_, _> = tree.pointer_mut(at).unwrap().as_object_mut().unwrap();
                    let value = entries.remove(key).unwrap();
                    entries.insert(format!("{key}x"), value);
                    check(&tree, &path);
                }
                misspelt(root, &path, check);
            }
        }
        Value::Array(items) => {
            for index in 0..items.len() {
                misspelt(root, &format!("{at}/{index}"), check);
            }
        }
        _ => {}
    }
}

#[test]
fn a_misspelt_key_is_marked_wherever_it_stands() {
    let mut tried = 0;
    for file in shipped() {
        let text = std::fs::read_to_string(&file).unwrap();
        let (validator, tree) = (schema_of(&file, &text), serde_saphyr::from_str(&text).unwrap());
        misspelt(&tree, "", &mut |tree, path| {
            assert!(!mistakes(&validator, tree).is_empty(), "{}: {path} may be misspelt", file.display());
            tried += 1;
        });
    }
    assert!(tried > 150, "{tried}");
}

#[test]
fn a_value_of_the_wrong_kind_is_marked() {
    let file = config_dir().join("examples/minimal.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let validator = schema_of(&file, &text);
    for wrong in [
        "telemetry: {access_log: perhaps}",
        "telemetry: {log: {format: xml}}",
        "runtime: {workers: many}",
        "routes: {name: rag}",
        "routes: [{name: rag, match: {path: '/a'}, cluster: rag, auth: sometimes}]",
    ] {
        let mut tree: Map<String, Value> = serde_saphyr::from_str(&text).unwrap();
        tree.extend(serde_saphyr::from_str::<Map<String, Value>>(wrong).unwrap());
        assert!(!mistakes(&validator, &tree.into()).is_empty(), "{wrong}");
    }
}
