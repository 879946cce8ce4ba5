//! The configuration files we ship, and what a broken one is told.
//!
//! `config/gateway.yaml` names every key of the schema and equals the defaults; every example parses; the schema file is
//! current (`BLESS=1` writes it); each mistake is named with line, column, key path and what was probably meant; a
//! secret never prints.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use portcullis::config::{
    ConfigErrors, Source, load, parse, schema,
    settings::{AuthMode, Engine, LimitKey, Settings},
};
use proptest::prelude::*;
use secrecy::ExposeSecret;
use serde_json::Value;

type Variables = HashMap<String, String>;

/// 32 bytes nobody uses.
const MASTER_KEY: &str = "8f1d2c3b4a59687786a5b4c3d2e1f00f9e8d7c6b5a4938271605f4e3d2c1b0a9";

fn config_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn parse_text(text: &str, variables: &Variables) -> Result<Settings, ConfigErrors> {
    parse(&Source { name: "f.yaml", text, base_dir: Path::new("/etc/portcullis") }, variables)
}

fn errors_with(text: &str, variables: &Variables) -> String {
    parse_text(text, variables).expect_err("the configuration is broken").to_string()
}

/// A valid beginning: six lines, so that what follows starts on line 7.
const BASE: &str = "\
tokens: {issuer: \"https://a.example\"}
clusters:
  rag: {endpoints: [\"http://127.0.0.1:8000\"]}
  chroma: {endpoints: [\"http://127.0.0.1:8001\"]}
limits: {per-address: {by: address, rate: 20/s}, per-user: {by: subject, rate: 5/s}}
#
";

/// What `BASE` and `rest` are told.
fn errors(rest: &str) -> String {
    errors_with(&format!("{BASE}{rest}"), &Variables::new())
}

/// The same with one valid route before `rest`, whose keys continue that route from line 10.
fn route_errors(rest: &str) -> String {
    errors(&format!("routes:\n  - name: r\n    match: {{path: /x}}\n{rest}"))
}

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
    let switched_on: Vec<String> = text
        .lines()
        .map(|line| {
            let hash = line.find('#').filter(|&hash| line[..hash].trim().is_empty());
            match hash.map(|hash| line.split_at(hash)) {
                Some((indent, rest)) if rest != "#" && (!rest.starts_with("# ") || rest.starts_with("#  ")) => {
                    format!("{indent}{}", &rest[1..])
                }
                _ => line.to_owned(),
            }
        })
        .collect();
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
                let key = if matches!(path, "clusters" | "limits") { "*" } else { key };
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
    assert!(expected.len() > 80, "the schema walk sees the keys: {expected:?}");
    assert_eq!(found, expected);
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
    assert_eq!(names, ["behind-nginx.yaml", "minimal.yaml", "postgres.yaml", "tls.yaml"].map(str::to_owned).into());
}

#[test]
fn the_minimal_example_is_embedded_and_closed_but_for_health() {
    let settings = example("minimal.yaml", &[]);
    let Engine::Sqlite { path } = &settings.store.engine else { panic!("embedded") };
    assert!(path.ends_with("config/examples/data/portcullis.db"), "{}", path.display());
    let modes: Vec<_> = settings.routes.iter().map(|route| (&*route.name, route.auth)).collect();
    assert_eq!(modes, [("health", AuthMode::None), ("rag", AuthMode::Required)]);
    assert!(settings.portal.enabled);
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
    assert_eq!(settings.store.master_key.as_ref().unwrap().expose_secret().len(), 32);
    assert_eq!(&*settings.tokens.issuer, "https://rag.example.com");
    let shown = format!("{settings:?}");
    assert!(!shown.contains("t0p-s3cr3t") && !shown.contains("8f1d"), "{shown}");
}

#[test]
fn limits_are_narrow_before_wide_whatever_the_order_of_the_file() {
    let text =
        format!("{BASE}routes: [{{name: r, match: {{path: /x}}, cluster: rag, limits: [per-address, per-user]}}]\n");
    let settings = parse_text(&text, &Variables::new()).unwrap();
    let keys: Vec<_> = settings.routes[0].limits.iter().map(|limit| limit.key).collect();
    assert_eq!(keys, [LimitKey::Subject, LimitKey::Address]);
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

#[test]
fn an_empty_file_says_what_is_needed() {
    let expected = "f.yaml:1:1: tokens.issuer: missing; it is iss of every token and of the identity sent upstream, \
                    e.g. https://auth.example.com";
    for text in ["", "{}", "# nothing\n", "---\n"] {
        assert_eq!(errors_with(text, &Variables::new()), expected, "{text:?}");
    }
}

#[test]
fn a_file_that_is_not_there_is_said_so() {
    let errors = load(Path::new("/nowhere/gateway.yaml"), &Variables::new()).unwrap_err();
    assert!(errors.to_string().starts_with("/nowhere/gateway.yaml: cannot be read: "), "{errors}");
}

#[test]
fn unknown_keys_are_named_with_the_nearest() {
    assert_eq!(
        errors("listeners:\n  pubic: {}\nrouts: []\n"),
        "f.yaml:8:3: listeners.pubic: unknown key; did you mean \"public\"?\n\
         f.yaml:9:1: routs: unknown key; did you mean \"routes\"?"
    );
    assert_eq!(
        errors("telemetry: {banana: 1}\n"),
        "f.yaml:7:13: telemetry.banana: unknown key; known here: log, access_log, request_id_header"
    );
}

#[test]
fn a_key_twice_is_refused() {
    assert_eq!(
        errors("portal:\n  registration: open\n  registration: closed\n"),
        "f.yaml:9:3: portal.registration: a second time; the first is on line 8"
    );
    assert_eq!(
        errors("tokens: {issuer: 'https://b.example'}\n"),
        "f.yaml:7:1: tokens: a second time; the first is on line 1"
    );
}

#[test]
fn wrong_types_and_ranges_say_what_is_expected() {
    assert_eq!(
        errors(
            "listeners:\n  public: {max_connections: many, h2c: yes, timeouts: {idle: 75}}\n  drain: [30s]\nstore: 7\n\
             portal: {registration: opne}\n"
        ),
        "f.yaml:8:12: listeners.public.max_connections: expected a whole number from 1 to 1000000, found \"many\"\n\
         f.yaml:8:35: listeners.public.h2c: expected true or false, found \"yes\"\n\
         f.yaml:8:56: listeners.public.timeouts.idle: expected a duration from 1s to 1h (ms, s, m, h, d), found \"75\"\n\
         f.yaml:9:3: listeners.drain: expected a duration from 0ms to 1h (ms, s, m, h, d), found a list\n\
         f.yaml:10:1: store: expected a mapping of url, master_key, pool, timeout, found \"7\"\n\
         f.yaml:11:10: portal.registration: expected open or closed, found \"opne\"; did you mean \"open\"?"
    );
}

#[test]
fn missing_keys_are_named_where_they_belong() {
    assert_eq!(
        errors_with(
            "tokens: {audience: x}\nclusters:\n  rag: {}\nlimits:\n  l: {}\nroutes:\n  - auth: none\n",
            &Variables::new()
        ),
        "f.yaml:1:1: tokens.issuer: missing; it is iss of every token and of the identity sent upstream, \
         e.g. https://auth.example.com\n\
         f.yaml:3:3: clusters.rag.endpoints: missing; a cluster needs at least one endpoint, \
         e.g. http://127.0.0.1:8000\n\
         f.yaml:5:3: limits.l.by: missing; say what is counted: address or subject\n\
         f.yaml:5:3: limits.l.rate: missing; e.g. 20/s or 100/1m\n\
         f.yaml:7:5: routes[0].name: missing; metrics and logs call the route by it\n\
         f.yaml:7:5: routes[0].match: missing; it needs at least a path\n\
         f.yaml:7:5: routes[0].cluster: missing; name the cluster it goes to"
    );
}

#[test]
fn dangling_names_are_refused_with_the_nearest() {
    assert_eq!(
        route_errors("    cluster: ragg\n    limits: [per-usr, nothing-like-it]\nportal: {limits: [per-adress]}\n"),
        "f.yaml:10:5: routes[0].cluster: no cluster is named \"ragg\"; did you mean \"rag\"?\n\
         f.yaml:11:14: routes[0].limits[0]: no limit is named \"per-usr\"; did you mean \"per-user\"?\n\
         f.yaml:11:23: routes[0].limits[1]: no limit is named \"nothing-like-it\"\n\
         f.yaml:12:19: portal.limits[0]: no limit is named \"per-adress\"; did you mean \"per-address\"?"
    );
}

#[test]
fn contradictions_in_a_route_are_refused() {
    let cases = [
        (
            "    auth: none\n    roles: [admin]\n    scopes: [a]\n    limits: [per-user]\n",
            "f.yaml:12:5: routes[0].roles: contradicts auth: none; roles need auth: required\n\
             f.yaml:13:5: routes[0].scopes: contradicts auth: none; scopes need auth: required\n\
             f.yaml:14:14: routes[0].limits[0]: contradicts auth: none; \"per-user\" counts by subject",
        ),
        (
            "    auth: optional\n    roles: [admin]\n",
            "f.yaml:12:5: routes[0].roles: contradicts auth: optional; roles need auth: required",
        ),
        (
            "    auth: none\n    audience: x\n",
            "f.yaml:12:5: routes[0].audience: contradicts auth: none; no token is looked at",
        ),
        (
            "    rewrite: {prefix: /y, to: /}\n",
            "f.yaml:11:15: routes[0].rewrite.prefix: not a leading part of match.path, in whole segments without \
             parameters",
        ),
        (
            "    timeouts: {first_byte: 10s, total: 5s}\n",
            "f.yaml:11:33: routes[0].timeouts.total: shorter than first_byte, which could never be reached",
        ),
    ];
    for (rest, expected) in cases {
        assert_eq!(route_errors(&format!("    cluster: rag\n{rest}")), expected);
    }
}

#[test]
fn contradictions_between_keys_are_refused() {
    let cases = [
        (
            "listeners:\n  public: {bind: '127.0.0.1:9090'}\n",
            "f.yaml:8:12: listeners.public.bind: listeners.public and listeners.admin bind the same address and port",
        ),
        (
            "listeners:\n  public: {h2c: true, tls: {certificate: /none, key: /none}}\n",
            "f.yaml:8:12: listeners.public.h2c: contradicts tls: h2c is for plaintext; TLS chooses HTTP/2 by ALPN\n\
             f.yaml:8:29: listeners.public.tls.certificate: cannot read /none: No such file or directory (os error 2)\n\
             f.yaml:8:49: listeners.public.tls.key: cannot read /none: No such file or directory (os error 2)",
        ),
        ("portal: {enabled: false}\n", "f.yaml:1:1: routes: empty, and the portal is off: there is nothing to serve"),
        (
            "portal: {default_role: admin, base_path: /}\n",
            "f.yaml:7:10: portal.default_role: anybody who registers would be an administrator\n\
             f.yaml:7:31: portal.base_path: the portal would take every path; give it one of its own, e.g. /auth",
        ),
        (
            "shared_state: {backend: redis}\n",
            "f.yaml:7:16: shared_state.backend: expected process (no other backend is available in this version), \
             found \"redis\"",
        ),
    ];
    for (rest, expected) in cases {
        assert_eq!(errors(rest), expected);
    }
}

#[test]
fn a_token_section_cannot_contradict_itself() {
    assert_eq!(
        errors_with(
            "tokens:\n  issuer: http://a.example\n  access_ttl: 1h\n  leeway: 121s\n  algorithm: HS256\n  \
             refresh: {idle: 40d, absolute: 30d}\n",
            &Variables::new()
        ),
        "f.yaml:2:3: tokens.issuer: expected https (http only on a loopback host), found \"http://a.example\"; did you \
         mean \"https://a.example\"?\n\
         f.yaml:4:3: tokens.leeway: expected a duration from 0ms to 2m (ms, s, m, h, d), found \"121s\"\n\
         f.yaml:5:3: tokens.algorithm: expected ES256 or EdDSA, found \"HS256\"; did you mean \"ES256\"?\n\
         f.yaml:6:13: tokens.refresh.idle: longer than absolute: a session would end before it could be idle that long"
    );
}

#[test]
fn clusters_cannot_mix_or_hide_encryption() {
    let text = "\
tokens: {issuer: 'https://a.example'}
clusters:
  a: {endpoints: ['http://a', 'https://b', 'http://a:80']}
  b: {endpoints: ['http://b'], tls: {server_name: b}}
  c: {endpoints: ['http://c/api'], health_check: {path: health, timeout: 9s}}
  d: {endpoints: []}
";
    assert_eq!(
        errors_with(text, &Variables::new()),
        "f.yaml:3:31: clusters.a.endpoints[1]: http and https endpoints in one cluster: a request could go out \
         unencrypted by chance\n\
         f.yaml:3:44: clusters.a.endpoints[2]: \"http://a:80\" stands in this list twice\n\
         f.yaml:4:32: clusters.b.tls: contradicts endpoints: they are http\n\
         f.yaml:5:19: clusters.c.endpoints[0]: expected an endpoint without a path (a route's rewrite changes paths), \
         found \"http://c/api\"; did you mean \"http://c\"?\n\
         f.yaml:5:51: clusters.c.health_check.path: expected a path such as /health, found \"health\"\n\
         f.yaml:5:65: clusters.c.health_check.timeout: the check's timeout is longer than its interval\n\
         f.yaml:6:7: clusters.d.endpoints: empty; a cluster needs at least one endpoint, e.g. http://127.0.0.1:8000"
    );
}

const CLAIMS: &str = "\
routes:
  - {name: a, match: {path: '/x/{id}'}, cluster: rag}
  - {name: b, match: {path: '/x/{id}', methods: [GET]}, cluster: rag}
  - {name: c, match: {path: '/y/{id}', methods: [POST]}, cluster: rag}
  - {name: d, match: {path: '/y/{name}', methods: [GET]}, cluster: rag}
  - {name: e, match: {path: '/auth/login'}, cluster: rag}
  - {name: f, match: {path: /.well-known/jwks.json}, cluster: rag}
  - {name: a, match: {path: '/authors'}, cluster: rag}
";

#[test]
fn routes_cannot_take_the_same_requests_or_the_portals() {
    assert_eq!(
        errors(CLAIMS),
        "f.yaml:9:23: routes[1].match.path: routes[0] takes GET of this path already\n\
         f.yaml:11:23: routes[3].match.path: matches the same paths as routes[2]; name the parameters alike\n\
         f.yaml:12:23: routes[4].match.path: lies under portal.base_path; it is the portal's while portal.enabled\n\
         f.yaml:13:23: routes[5].match.path: is a path of the portal; it is the portal's while portal.enabled\n\
         f.yaml:14:6: routes[6].name: routes[0] has the name \"a\" already"
    );
}

#[test]
fn a_portal_on_its_own_host_or_switched_off_takes_no_paths() {
    let route = |hosts| format!("routes: [{{name: e, match: {{{hosts}path: /auth/login}}, cluster: rag}}]\n");
    let with = |rest: String| parse_text(&format!("{BASE}{rest}"), &Variables::new());
    assert!(with(route("hosts: [app.example.com], ") + "portal: {host: auth.example.com}\n").is_ok());
    assert!(with(route("") + "portal: {enabled: false}\n").is_ok());
    assert!(with(route("") + "portal: {host: auth.example.com}\n").is_err(), "a route of any host is on the portal's");
}

#[test]
fn trusting_everybody_is_refused() {
    assert_eq!(
        errors("listeners:\n  trusted_proxies: [0.0.0.0/0, 10.1.2.3/8, nginx]\n"),
        "f.yaml:8:21: listeners.trusted_proxies[0]: trusts every address, so any client could claim to be any other; \
         name your proxies\n\
         f.yaml:8:32: listeners.trusted_proxies[1]: expected a network whose host bits are zero, found \"10.1.2.3/8\"; \
         did you mean \"10.0.0.0/8\"?\n\
         f.yaml:8:44: listeners.trusted_proxies[2]: expected an IP address or network such as 10.0.0.0/8, found \
         \"nginx\""
    );
}

const NO_LITERAL: &str = "a secret may not stand in the file itself; write {file: path}, {env: NAME} or \"${NAME}\"";

#[test]
fn weak_and_literal_secrets_are_refused() {
    assert_eq!(
        errors(&format!("store:\n  url: postgres://app:changeme@db/x\n  master_key: {MASTER_KEY}\n")),
        format!(
            "f.yaml:8:3: store.url: the password is one that attackers try first; make one: openssl rand -base64 24\n\
             f.yaml:9:3: store.master_key: {NO_LITERAL}"
        )
    );
    assert_eq!(
        errors("store:\n  url: postgres://app@db/x\n"),
        "f.yaml:7:1: store.master_key: missing; PostgreSQL needs it from the environment or a file, the same for every \
         gateway: openssl rand -base64 32"
    );
    let weak = variables(&[("KEY", &"ab".repeat(32))]);
    assert_eq!(
        errors_with(&format!("{BASE}store: {{master_key: '${{KEY}}'}}\n"), &weak),
        "f.yaml:7:9: store.master_key: the key is not random; make one: openssl rand -base64 32"
    );
    assert_eq!(errors("store: {master_key: '${KEY:-0123}'}\n"), format!("f.yaml:7:9: store.master_key: {NO_LITERAL}"));
}

#[test]
fn secrets_come_from_files_and_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), format!("{MASTER_KEY}\n")).unwrap();
    let environment = variables(&[("KEY", MASTER_KEY)]);
    for source in ["{file: key}", "{env: KEY}", "\"${KEY}\"", "${KEY}"] {
        let text = format!("{BASE}store:\n  master_key: {source}\n");
        let source = Source { name: "f.yaml", text: &text, base_dir: folder.path() };
        let settings = parse(&source, &environment).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(settings.store.master_key.unwrap().expose_secret()[..2], [0x8f, 0x1d]);
    }
}

#[test]
fn a_secret_source_that_gives_nothing_says_why() {
    for (source, told) in [
        ("{file: none}", "cannot read /etc/portcullis/none: No such file or directory (os error 2)"),
        ("{env: NONE}", "the environment variable NONE is not set"),
        ("{fil: key}", "expected exactly one of the keys file and env"),
        ("{file: key, env: KEY}", "expected exactly one of the keys file and env"),
        ("[x]", "expected {file: path}, {env: NAME} or \"${NAME}\", found a list"),
    ] {
        let told_now = errors(&format!("store:\n  master_key: {source}\n"));
        let expected = format!("f.yaml:8:3: store.master_key: {told}");
        assert!(told_now.lines().any(|line| line == expected), "{told_now}");
    }
}

#[test]
fn a_secret_never_shows_in_an_error() {
    let environment = variables(&[("S", "pl4nted-s3cret")]);
    for rest in [
        "store:\n  master_key: pl4nted-s3cret\n",
        "store:\n  master_key: ${S}\n",
        "store:\n  master_key: {env: S}\n",
        "store:\n  url: ${S}\n",
        "store:\n  url: pl4nted-s3cret\n",
        "store:\n  url: postgres://u:pl4nted-s3cret@db\n",
        "listeners:\n  drain: ${S}\n  trusted_proxies: ['${S}', 'x${S}']\n",
        "listeners:\n  public: {bind: '${S}', h2c: '${S}', max_connections: '${S}'}\n",
        "routes:\n  - {name: r, match: {path: '${S}'}, cluster: '${S}', limits: ['${S}'], auth: '${S}'}\n",
        "routes:\n  - {name: r, match: {path: /x}, cluster: rag, roles: ['${S}', '${S}'], auth: none}\n",
        "portal: {allowed_origins: ['${S}', 'https://u:pl4nted-s3cret@x']}\n",
        "telemetry: {log: {format: '${S}', filter: '${S}=='}}\n",
        "runtime: ${S}\n",
        "clusters: {c: {endpoints: ['http://u:pl4nted-s3cret@x']}}\n",
    ] {
        let told = errors_with(&format!("{BASE}{rest}"), &environment);
        assert!(!told.contains("pl4nted"), "{rest}: {told}");
    }
    for text in [
        "tokens: {issuer: 'https://u:pl4nted-s3cret@a.example'}\n",
        "tokens: {issuer: 'http://${S}.example'}\n",
        "tokens: {issuer: 'https://${S}.example/'}\n",
        "tokens: {issuer: 'https://a'}\nclusters: {c: {endpoints: ['http://${S}/x', 'http://u:pl4nted-s3cret@x/y']}}\n",
        "tokens: {issuer: 'https://a'}\nportal: {host: 'X-${S}', allowed_origins: ['https://${S}/']}\n",
        "tokens: {issuer: 'https://a'}\nroutes: [{name: r, match: {hosts: ['${S}:1'], path: '/${S}/*', methods: ['${S}']}}]\n",
    ] {
        let told = errors_with(text, &environment);
        assert!(!told.to_lowercase().contains("pl4nted"), "{text}: {told}");
    }
}

#[test]
fn values_come_from_the_environment() {
    let environment = variables(&[("PORT", "8443"), ("HOST", "auth.example.com"), ("MAX", "77")]);
    let text = "
tokens: {issuer: \"https://${HOST}:${PORT}\", audience: \"$${HOST}\"}
listeners:
  public: {bind: \"127.0.0.1:${PORT}\", max_connections: \"${MAX}\", h2c: \"${H2C:-true}\"}
  drain: ${DRAIN:-5s}
";
    let settings = parse_text(text, &environment).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(&*settings.tokens.issuer, "https://auth.example.com:8443");
    assert_eq!(&*settings.tokens.audience, "${HOST}");
    assert_eq!(settings.listeners.public.bind.port(), 8443);
    assert_eq!(settings.listeners.public.max_connections, 77);
    assert!(settings.listeners.public.h2c);
    assert_eq!(settings.listeners.drain.as_secs(), 5);
}

#[test]
fn a_broken_value_never_hides_another_mistake() {
    // One mistake in every section, of every kind.
    let text = "\
listeners: {public: {bind: here}}
runtime: {workers: some}
store: {url: 'mysql://x'}
shared_state: {backend: redis}
tokens: {issuer: nowhere}
passwords: {min_length: 7}
limits: {'a b': {by: adress, rate: fast}}
clusters: {rag: {endpoints: [rag]}}
routes: [{name: 'a b', match: {path: x}, cluster: rga}]
portal: {default_role: ADMIN, cookie_name: c}
telemetry: {log: {filter: '=='}}
extra: 1
";
    let told = errors_with(text, &Variables::new());
    let paths: Vec<_> = told.lines().map(|line| line.split(": ").nth(1).unwrap_or_default()).collect();
    let expected = [
        "listeners.public.bind",
        "runtime.workers",
        "store.url",
        "shared_state.backend",
        "tokens.issuer",
        "passwords.min_length",
        "limits.a b",
        "limits.a b.by",
        "limits.a b.rate",
        "clusters.rag.endpoints[0]",
        "routes[0].name",
        "routes[0].match.path",
        "routes[0].cluster",
        "portal.default_role",
        "portal.cookie_name",
        "telemetry.log.filter",
        "extra",
    ];
    assert_eq!(paths, expected, "{told}");
}

#[test]
fn ten_thousand_routes_are_read() {
    let mut text = format!("{BASE}routes:\n");
    for index in 0..10_000 {
        let route = format!("  - {{name: r{index}, match: {{path: '/r{index}/{{id}}'}}, cluster: rag}}\n");
        text.push_str(&route);
    }
    assert_eq!(parse_text(&text, &Variables::new()).unwrap().routes.len(), 10_000);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        let _ = parse_text(&text, &Variables::new());
    }

    #[test]
    fn no_yaml_soup_makes_it_panic(
        text in "([ \\n:\\-\\[\\]{},&*!|>'\"#?%$]|tokens|routes|clusters|limits|match|path|a|1){0,60}"
    ) {
        let _ = parse_text(&text, &Variables::new());
    }

    #[test]
    fn no_change_to_a_good_file_makes_it_panic(at in 0_usize..8_000, length in 0_usize..8, insert in "\\PC{0,6}") {
        let good = std::fs::read_to_string(config_dir().join("gateway.yaml")).unwrap();
        let mut characters: Vec<char> = good.chars().collect();
        let at = at.min(characters.len());
        let end = (at + length).min(characters.len());
        characters.splice(at..end, insert.chars());
        let text: String = characters.into_iter().collect();
        if let Err(errors) = parse_text(&text, &Variables::new()) {
            prop_assert!(!errors.errors().is_empty());
        }
    }
}
