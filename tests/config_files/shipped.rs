//! The files we ship: the sample with every key, the examples, the schema (`BLESS=1` writes it).

use std::collections::BTreeSet;

use portcullis::config::{
    Source,
    living::{TAKEN, Taken, taken},
    load, parse, schema,
    settings::{AuthMode, Engine, KeyPart, LimitKey, Settings},
};
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::support::{MASTER_KEY, Variables, config_dir, variables};

#[test]
fn the_sample_file_has_every_default() {
    let sample = load(&config_dir().join("gateway.yaml"), &Variables::new()).unwrap();
    let least = "
tokens: {issuer: \"http://127.0.0.1:8080\"}
limits: {per-address: {by: address, rate: 20/s}}
clusters: {rag: {endpoints: [\"http://127.0.0.1:8000\"]}}
routes: [{name: rag, match: {path: '/{*rest}'}, cluster: rag}]
";
    let least = parse(&Source { name: "least", text: least, base_dir: &config_dir() }, &Variables::new()).unwrap();
    assert_eq!(format!("{sample:#?}"), format!("{least:#?}"));
}

/// Key paths of the sample file with the switched-off keys switched on: `#key` and what lies deeper under a `#`.
fn keys_of_sample() -> BTreeSet<String> {
    let text = std::fs::read_to_string(config_dir().join("gateway.yaml")).unwrap();
    let switch_on = |line: String| {
        let hash = line.find('#').filter(|&hash| line[..hash].trim().is_empty());
        match hash.map(|hash| line.split_at(hash)) {
            Some((indent, rest)) if rest != "#" && (!rest.starts_with("# ") || rest.starts_with("#  ")) => {
                format!("{indent}{}", &rest[1..])
            }
            _ => line,
        }
    };
    // Twice: a key may be off in a section that is off.
    let switched_on: Vec<String> = text.lines().map(|line| switch_on(switch_on(line.to_owned()))).collect();
    let tree: Value = serde_saphyr::from_str(&switched_on.join("\n")).unwrap();
    let mut keys = BTreeSet::new();
    collect_keys(&tree, "", &mut keys);
    keys
}

/// Names the operator chose are `*`, list items `[]`.
fn collect_keys(tree: &Value, path: &str, keys: &mut BTreeSet<String>) {
    match tree {
        Value::Object(entries) => {
            for (key, value) in entries {
                let key = if matches!(
                    path,
                    "clusters" | "issuers" | "limits" | "quotas" | "security_events.webhooks" | "routes[].usage.prices"
                ) {
                    "*"
                } else {
                    key
                };
                let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                collect_keys(value, &path, keys);
                keys.insert(path);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_keys(item, &format!("{path}[]"), keys)),
        _ => {}
    }
}

/// Key paths of the schema. A secret's `{file}` and `{env}` are forms of one value, not keys.
fn keys_of_schema(node: &Value, root: &Value, path: &str, keys: &mut BTreeSet<String>) {
    if let Some(reference) = node.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(reference.trim_start_matches('#')).expect("the reference resolves");
        keys_of_schema(target, root, path, keys);
    }
    for alternative in node.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        if alternative.get("$ref").is_some() {
            keys_of_schema(alternative, root, path, keys);
        }
    }
    for (key, value) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        keys.insert(path.clone());
        keys_of_schema(value, root, &path, keys);
    }
    if let Some(items) = node.get("items") {
        keys_of_schema(items, root, &format!("{path}[]"), keys);
    }
    if let Some(values) = node.get("additionalProperties").filter(|values| values.is_object()) {
        keys.insert(format!("{path}.*"));
        keys_of_schema(values, root, &format!("{path}.*"), keys);
    }
}

#[test]
fn the_sample_file_names_every_key() {
    let schema = schema();
    let mut expected = BTreeSet::new();
    keys_of_schema(&schema, &schema, "", &mut expected);
    let mut found = keys_of_sample();
    found.remove("store.master_key.file");
    found.remove("issuers.*.secret.env");
    found.remove("security_events.webhooks.*.secret.env");
    found.remove("tokens.secret.env");
    found.remove("oauth.clients[].secret.env");
    found.remove("tokens.signing_key.file");
    found.remove("telemetry.otlp.headers[].value.env");
    assert!(expected.len() > 80, "the schema walk sees the keys: {expected:?}");
    assert_eq!(found, expected);
}

#[test]
fn every_key_is_known_to_be_taken_by_a_reload_or_at_start_and_operators_are_told() {
    let (root, mut keys) = (schema(), BTreeSet::new());
    keys_of_schema(&root, &root, "", &mut keys);
    let undecided: Vec<_> = keys.iter().filter(|key| taken(key).is_none()).collect();
    assert_eq!(undecided, Vec::<&String>::new(), "give them a row in config/living.rs and docs/operations.md");
    let operations = std::fs::read_to_string(config_dir().join("../docs/operations.md")).unwrap();
    let table = operations.split("| taken by a reload | needs a restart |").nth(1).unwrap();
    let rows: Vec<_> = table.lines().take_while(|line| line.is_empty() || line.starts_with('|')).collect();
    for (key, taken) in TAKEN {
        assert!(keys.contains(*key), "{key} is no key");
        let column = if *taken == Taken::Live { 1 } else { 2 };
        let told =
            rows.iter().filter_map(|row| row.split('|').nth(column)).any(|cell| cell.contains(&format!("`{key}`")));
        assert!(told, "docs/operations.md does not say so of {key}");
    }
}

#[test]
fn every_key_is_documented() {
    fn undocumented(node: &Value, path: &str, missing: &mut Vec<String>) {
        for (key, value) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if value.get("description").is_none() {
                missing.push(format!("{path}.{key}"));
            }
        }
        match node {
            Value::Object(entries) => entries.iter().for_each(|(key, value)| undocumented(value, key, missing)),
            Value::Array(items) => items.iter().for_each(|item| undocumented(item, path, missing)),
            _ => {}
        }
    }
    let mut missing = Vec::new();
    undocumented(&schema(), "", &mut missing);
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_schema_file_is_current() {
    let file = config_dir().join("schema.json");
    let current = format!("{:#}\n", schema());
    if std::env::vars().any(|(name, _)| name == "BLESS") {
        std::fs::write(&file, &current).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == current, "config/schema.json is not what the code says; run with BLESS=1");
}

fn example(name: &str, pairs: &[(&str, &str)]) -> Settings {
    let loaded = load(&config_dir().join("examples").join(name), &variables(pairs));
    loaded.unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn every_example_is_tested_here() {
    let names: BTreeSet<_> = std::fs::read_dir(config_dir().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let known = [
        "behind-nginx.conf",
        "behind-nginx.yaml",
        "budgets.yaml",
        "chroma.yaml",
        "fastapi-postgres-redis.yaml",
        "foreign-issuer-only.yaml",
        "forward-auth",
        "forward-auth.yaml",
        "lightrag.yaml",
        "minimal.yaml",
        "open-webui-headers.yaml",
        "postgres.yaml",
        "tls.yaml",
    ];
    assert_eq!(names, known.map(str::to_owned).into());
}

#[test]
fn the_minimal_example_is_embedded_and_closed_but_for_health() {
    let settings = example("minimal.yaml", &[]);
    let Engine::Sqlite { path } = &settings.store.as_ref().unwrap().engine else { panic!("embedded") };
    assert!(path.ends_with("config/examples/data/portcullis.db"), "{}", path.display());
    let modes: Vec<_> = settings.routes.iter().map(|route| (&*route.name, route.auth)).collect();
    assert_eq!(modes, [("health", AuthMode::None), ("rag", AuthMode::Required)]);
    assert!(settings.portal.enabled);
}

#[test]
fn the_example_of_budgets_holds_the_model_to_both_and_lists_models_for_nothing() {
    let settings = example("budgets.yaml", &[]);
    let [chat, models] = &*settings.routes else { panic!("two routes") };
    let quotas: Vec<_> = chat.quotas.iter().map(|quota| (&*quota.name, quota.limit, quota.hard)).collect();
    assert_eq!(quotas, [("tokens-a-day", 200_000, false), ("money-a-month", 20_000_000, true)]);
    let usage = chat.usage.as_ref().unwrap();
    // What is set aside: two thousand of the dearest tokens.
    assert_eq!((usage.estimated().tokens, usage.estimated().micros), (2_000, 30_000));
    assert!(models.quotas.is_empty() && models.usage.is_none());
}

#[test]
fn the_example_without_a_store_keeps_nothing_and_takes_no_token_of_its_own() {
    let settings = example("foreign-issuer-only.yaml", &[]);
    assert!(settings.store.is_none() && !settings.portal.enabled && settings.tokens.signing_keys.is_empty());
    assert!(settings.routes.iter().all(|route| !route.own_tokens && route.issuers.len() == 1));
}

#[test]
fn the_postgres_example_takes_its_secrets_from_the_environment() {
    let settings = example(
        "postgres.yaml",
        &[
            ("DATABASE_URL", "postgres://portcullis:t0p-s3cr3t@db.internal/portcullis"),
            ("PORTCULLIS_MASTER_KEY", MASTER_KEY),
            ("PUBLIC_URL", "https://rag.example.com"),
        ],
    );
    assert_eq!(settings.store.as_ref().unwrap().master_key.as_ref().unwrap().expose_secret().len(), 32);
    assert_eq!(&*settings.tokens.issuer, "https://rag.example.com");
    let shown = format!("{settings:?}");
    assert!(!shown.contains("t0p-s3cr3t") && !shown.contains("8f1d"), "{shown}");
}

#[test]
fn the_postgres_example_names_each_missing_variable() {
    let file = config_dir().join("examples/postgres.yaml");
    let errors = load(&file, &Variables::new()).unwrap_err();
    let told: Vec<_> = errors.errors().iter().map(|error| format!("{}: {}", error.key_path, error.message)).collect();
    assert_eq!(
        told,
        [
            "store.url: the environment variable DATABASE_URL is not set",
            "store.master_key: the environment variable PORTCULLIS_MASTER_KEY is not set",
            "tokens.issuer: the environment variable PUBLIC_URL is not set",
        ]
    );
}

#[test]
fn the_nginx_example_trusts_nginx_only() {
    let settings = example("behind-nginx.yaml", &[]);
    let trusted: Vec<_> = settings.listeners.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(trusted, ["127.0.0.1/32", "::1/128", "10.20.0.0/16"]);
}

#[test]
fn the_examples_for_services_are_closed_to_strangers_and_keep_the_token() {
    let variables = [
        ("PUBLIC_URL", "https://rag.example.com"),
        ("DATABASE_URL", "postgres://portcullis@db.internal/portcullis"),
        ("PORTCULLIS_MASTER_KEY", MASTER_KEY),
        ("REDIS_URL", "redis://redis.internal:6379/0"),
    ];
    for name in ["chroma.yaml", "fastapi-postgres-redis.yaml", "lightrag.yaml", "open-webui-headers.yaml"] {
        let settings = example(name, &variables);
        for route in &settings.routes {
            assert_eq!(route.auth, AuthMode::Required, "{name}: {}", route.name);
            assert!(!route.forward_authorization, "{name}: {}", route.name);
            assert!(!route.limits.rates.is_empty(), "{name}: {}", route.name);
        }
        assert!(!settings.portal.limits.rates.is_empty(), "{name}");
    }
}

/// A folder with a certificate, its key and a root, as the TLS example wants them.
fn tls_files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["rag.example.com".to_owned()]).unwrap();
    let root = rcgen::generate_simple_self_signed(["ca.internal".to_owned()]).unwrap();
    std::fs::write(folder.path().join("chain.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.path().join("ca.pem"), root.cert.pem()).unwrap();
    folder
}

#[test]
fn the_tls_example_loads_its_files() {
    let files = tls_files();
    let settings = example("tls.yaml", &[("TLS_DIR", files.path().to_str().unwrap())]);
    let tls = settings.listeners.public.tls.unwrap();
    assert_eq!(tls.config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert!(settings.clusters[0].tls.as_ref().unwrap().server_name.is_some());
    assert!(settings.clusters[0].endpoints.iter().all(|endpoint| endpoint.https));
}

#[test]
fn no_example_that_strangers_reach_lets_them_guess_passwords_without_end() {
    let files = tls_files();
    let variables = [
        ("TLS_DIR", files.path().to_str().unwrap()),
        ("PUBLIC_URL", "https://rag.example.com"),
        ("DATABASE_URL", "postgres://portcullis@db.internal/portcullis"),
        ("PORTCULLIS_MASTER_KEY", MASTER_KEY),
        ("REDIS_URL", "redis://redis.internal:6379/0"),
    ];
    let mut reached = 0;
    for entry in std::fs::read_dir(config_dir().join("examples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if ["behind-nginx.conf", "forward-auth"].contains(&&*name) {
            continue;
        }
        let settings = example(&name, &variables);
        let open = !settings.listeners.public.bind.ip().is_loopback() || !settings.listeners.trusted_proxies.is_empty();
        if open && settings.portal.enabled {
            let by_address = LimitKey::one(KeyPart::Address);
            assert!(settings.portal.limits.rates.iter().any(|limit| limit.key == by_address), "{name}");
            reached += 1;
        }
    }
    assert_eq!(reached, 5);
}

#[test]
fn tls_files_that_do_not_fit_are_named_at_their_keys() {
    let files = tls_files();
    let other = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    std::fs::write(files.path().join("key.pem"), other.signing_key.serialize_pem()).unwrap();
    std::fs::write(files.path().join("ca.pem"), "nothing").unwrap();
    let errors =
        load(&config_dir().join("examples/tls.yaml"), &variables(&[("TLS_DIR", files.path().to_str().unwrap())]))
            .unwrap_err();
    let told: Vec<_> = errors.errors().iter().map(|error| (error.line, &*error.key_path, &*error.message)).collect();
    let no_root = format!("{} holds no certificate", files.path().join("ca.pem").display());
    assert_eq!(
        told,
        [
            (9, "listeners.public.tls.key", "the private key does not belong to the certificate"),
            (20, "clusters.rag.tls.ca_file", &*no_root),
        ]
    );
}
