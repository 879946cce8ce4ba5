//! Where secrets may come from, which are refused, and that none ever shows in an error.

use portcullis::config::{Source, parse};
use secrecy::ExposeSecret;

use crate::support::{BASE, MASTER_KEY, errors, errors_with, parse_text, variables};

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
fn an_identity_s_secret_is_long_and_for_hs256_alone() {
    let cluster = |identity: &str| format!("clusters: {{a: {{endpoints: ['http://a'], identity: {identity}}}}}\n");
    let environment = variables(&[("SHORT", "thirty-one bytes are not enough"), ("LONG", &"ab".repeat(16))]);
    for (identity, told) in [
        ("{algorithm: HS256}", "secret: missing; algorithm HS256 signs with it: openssl rand -base64 32"),
        ("{secret: {env: LONG}}", "secret: only algorithm HS256 signs with a secret"),
        ("{algorithm: HS256, secret: plain}", NO_LITERAL),
        (
            "{algorithm: HS256, secret: {env: SHORT}}",
            "secret: shorter than 32 bytes, which could be guessed (RFC 7518 §3.2)",
        ),
        ("{headers: {user: X-User-Email}}", "headers.user: another plain header has this name"),
        ("{headers: {user: X-Correlation-Id}}", "telemetry.request_id_header: clusters.a.identity sends who calls"),
        ("{headers: {user: X-Forwarded-For}}", "headers.user: expected a header without another meaning"),
    ] {
        let found = errors_with(
            &format!(
                "{}{}",
                "tokens: {issuer: 'https://a.example'}\ntelemetry: {request_id_header: X-Correlation-Id}\n",
                cluster(identity)
            ),
            &environment,
        );
        assert!(found.contains(told), "{identity}: {found}");
    }
}

#[test]
fn one_secret_does_not_sign_for_two() {
    let own = "algorithm: HS256, secret: '${A}'";
    let told = |own: &str, master_key: &str, issuer: &str, service: &str| {
        let text = format!(
            "tokens: {{issuer: 'https://a.example', {own}}}\nstore: {{master_key: '{master_key}'}}\n\
             issuers: {{sso: {{issuer: b, audiences: [x], secret: '{issuer}'}}}}\n\
             clusters:\n  one: {{endpoints: ['http://a'], identity: {{algorithm: HS256, secret: '{service}'}}}}\n  \
             two: {{endpoints: ['http://a'], identity: {{algorithm: HS256, secret: '{service}'}}}}\n"
        );
        let letters = ["A", "B", "C"].map(|name| (name, name.repeat(32)));
        let mut all: Vec<_> = letters.iter().map(|(name, value)| (*name, value.as_str())).collect();
        all.push(("M", MASTER_KEY));
        parse_text(&text, &variables(&all)).err().map(|errors| errors.to_string()).unwrap_or_default()
    };
    assert_eq!(told(own, "${M}", "${B}", "${C}"), "", "clusters of one service may share its secret");
    for (own, issuer, service, places) in [
        (own, "${A}", "${C}", vec![("issuers.sso.secret", "tokens.secret")]),
        (
            own,
            "${B}",
            "${A}",
            vec![("clusters.one.identity.secret", "tokens.secret"), ("clusters.two.identity.secret", "tokens.secret")],
        ),
        (
            "algorithm: ES256",
            "${B}",
            "${B}",
            vec![
                ("clusters.one.identity.secret", "issuers.sso.secret"),
                ("clusters.two.identity.secret", "issuers.sso.secret"),
            ],
        ),
        ("algorithm: HS256, secret: '${M}'", "${B}", "${C}", vec![("tokens.secret", "store.master_key")]),
    ] {
        let told = told(own, "${M}", issuer, service);
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(lines.len(), places.len(), "{told}");
        for (line, (place, other)) in lines.iter().zip(places) {
            assert!(line.contains(&format!("{place}: is {other} too: whoever holds it")), "{told}");
        }
        assert!(!told.contains("AAAA") && !told.contains("BBBB") && !told.contains(MASTER_KEY), "{told}");
    }
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
        assert_eq!(settings.store.unwrap().master_key.unwrap().expose_secret()[..2], [0x8f, 0x1d]);
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
