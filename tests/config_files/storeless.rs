//! What a configuration with `store.url: none` may not say, and the keys it may give.

use crate::support::{Variables, errors_with, parse_text, variables};

#[test]
fn without_a_store_nothing_may_need_one() {
    let text = "\
tokens: {issuer: 'https://a.example', algorithm: HS256, secret: '${LONG}'}
store: {url: none, master_key: '${OTHER}', pool: 3, timeout: 1s}
issuers: {sso: {issuer: 'https://b.example', audiences: [x]}}
clusters: {rag: {endpoints: ['http://127.0.0.1:8000']}}
routes:
  - {name: a, match: {path: /a}, cluster: rag}
  - {name: b, match: {path: /b}, issuers: [sso, own], cluster: rag}
  - {name: c, match: {path: /c}, auth: none, cluster: rag}
";
    let told = errors_with(text, &variables(&[("LONG", &"ab".repeat(16)), ("OTHER", &"cd".repeat(32))]));
    let expected = "\
f.yaml:2:20: store.master_key: contradicts store.url: none; there is nothing it could be for
f.yaml:2:44: store.pool: contradicts store.url: none; there is nothing it could be for
f.yaml:2:53: store.timeout: contradicts store.url: none; there is nothing it could be for
f.yaml:1:39: tokens.algorithm: HS256 contradicts store.url: none; it is for access tokens, and none are made
f.yaml:1:1: portal.enabled: contradicts store.url: none; accounts need a store, so say portal.enabled: false
f.yaml:6:5: routes[0].issuers: own contradicts store.url: none; without a store there are no tokens of the gateway's \
own: name other issuers
f.yaml:7:34: routes[1].issuers: own contradicts store.url: none; without a store there are no tokens of the gateway's \
own: name other issuers";
    assert_eq!(sorted(&told), sorted(expected));
    let good = "\
tokens: {issuer: 'https://a.example'}
store: {url: none}
portal: {enabled: false}
clusters: {rag: {endpoints: ['http://127.0.0.1:8000']}}
routes: [{name: c, match: {path: /c}, auth: none, cluster: rag}]
";
    assert!(parse_text(good, &Variables::new()).is_ok());
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_signing_key_is_for_a_gateway_without_a_store_and_fits_its_algorithm() {
    let told = |store: &str, tokens: &str, key: &str| {
        let text = format!(
            "tokens: {{issuer: 'https://a.example'{tokens}, signing_key: '${{KEY}}'}}\n{store}clusters: {{rag: \
             {{endpoints: ['http://a']}}}}\nroutes: [{{name: c, match: {{path: /c}}, auth: none, cluster: rag}}]\n"
        );
        parse_text(&text, &variables(&[("KEY", key)])).map(drop).map_err(|errors| errors.to_string())
    };
    let none = "store: {url: none}\nportal: {enabled: false}\n";
    let p256 = rcgen::KeyPair::generate().unwrap().serialize_pem();
    assert_eq!(told(none, "", &p256), Ok(()));
    assert_eq!(
        told("", "", &p256).unwrap_err(),
        "f.yaml:1:39: tokens.signing_key: only with store.url: none; a store makes its own keys and keeps them"
    );
    assert_eq!(
        told(none, ", algorithm: EdDSA", &p256).unwrap_err(),
        "f.yaml:1:1: tokens.signing_key: no EdDSA key in it, which tokens.algorithm asks for"
    );
    let refused = told(none, "", "hunter2-is-no-key").unwrap_err();
    assert!(refused.starts_with("f.yaml:1:39: tokens.signing_key: no private key in it"), "{refused}");
    assert!(!refused.contains("hunter2"), "{refused}");
}

#[test]
fn without_a_store_nothing_is_counted_by_what_only_a_store_gives() {
    let told = |limit: &str| {
        let text = format!(
            "\
tokens: {{issuer: 'https://a.example'}}
store: {{url: none}}
portal: {{enabled: false}}
clusters: {{rag: {{endpoints: ['http://127.0.0.1:8000']}}}}
issuers: {{sso: {{issuer: 'https://sso.example', audiences: [rag]}}}}
limits: {{a: {{{limit}}}}}
routes: [{{name: c, match: {{path: /c}}, issuers: [sso], limits: [a], cluster: rag}}]
"
        );
        parse_text(&text, &Variables::new()).map(drop).map_err(|errors| errors.to_string())
    };
    for (by, none) in [
        ("session", "sessions"),
        ("api_key", "API keys"),
        ("[route, session]", "sessions"),
        ("[api_key, address]", "API keys"),
    ] {
        for rest in ["rate: 5/s", "concurrent: 5"] {
            let expected = format!(
                "f.yaml:6:14: limits.a.by: contradicts store.url: none; without a store there are no {none}: nobody \
                 would be held to it"
            );
            assert_eq!(told(&format!("by: {by}, {rest}")).unwrap_err(), expected, "{by}, {rest}");
        }
    }
    for by in ["subject", "client", "org", "address", "route", "[subject, route]"] {
        assert_eq!(told(&format!("by: {by}, rate: 5/s")), Ok(()), "{by}");
    }
}

#[test]
fn without_a_store_no_route_takes_api_keys() {
    let text = "\
tokens: {issuer: 'https://a.example'}
store: {url: none}
portal: {enabled: false}
clusters: {rag: {endpoints: ['http://127.0.0.1:8000']}}
issuers: {sso: {issuer: 'https://sso.example', audiences: [rag]}}
routes: [{name: c, match: {path: /c}, issuers: [sso], credentials: [bearer, api_key], cluster: rag}]
";
    let told = parse_text(text, &Variables::new()).unwrap_err().to_string();
    let expected = "routes[0].credentials[1]: contradicts store.url: none; without a store there are no API keys";
    assert!(told.ends_with(expected) && told.lines().count() == 1, "{told}");
    assert!(parse_text(&text.replace(", api_key", ""), &Variables::new()).is_ok());
}
