//! `identity.preset`: what it needs and what it keeps from routes.

use portcullis::policy::{keys::Algorithm, preset::Preset};

use crate::support::{Variables, errors_with, parse_text, variables};

fn text(tokens: &str, store: &str, preset: &str, path: &str) -> String {
    format!(
        "tokens: {{issuer: 'https://a.example'{tokens}}}\n{store}clusters: {{rag: {{endpoints: ['http://a'], identity: \
         {{preset: {preset}}}}}}}\nroutes: [{{name: c, match: {{path: {path}}}, auth: none, cluster: rag}}]\n"
    )
}

#[test]
fn each_preset_brings_the_algorithm_it_is_signed_with() {
    for (word, preset, others) in [
        ("none", None, vec![]),
        ("pomerium", Some(Preset::Pomerium), vec![Algorithm::Es256]),
        ("google_iap", Some(Preset::GoogleIap), vec![Algorithm::Es256]),
        ("cloudflare_access", Some(Preset::CloudflareAccess), vec![Algorithm::Rs256]),
        ("open_webui", Some(Preset::OpenWebui), vec![]),
    ] {
        let settings = parse_text(&text(", algorithm: EdDSA", "", word, "/c"), &Variables::new()).unwrap();
        assert_eq!(settings.clusters[0].identity.preset, preset);
        let needed = settings.signing_algorithms();
        assert_eq!((needed.own, needed.others), (Algorithm::EdDsa, others), "{word}");
    }
    let shared = parse_text(&text("", "", "pomerium", "/c"), &Variables::new()).unwrap().signing_algorithms();
    assert_eq!((shared.own, shared.others), (Algorithm::Es256, vec![]), "the key there is does for both");
    let told = errors_with(&text("", "", "pomerum", "/c"), &Variables::new());
    assert!(told.contains("clusters.rag.identity.preset: ") && told.contains("did you mean \"pomerium\"?"), "{told}");
}

#[test]
fn a_route_cannot_have_the_place_of_a_preset_s_keys() {
    for (word, path) in [
        ("pomerium", "/.well-known/pomerium/jwks.json"),
        ("google_iap", "/iap/verify/public_key"),
        ("google_iap", "/iap/verify/public_key-jwk"),
        ("cloudflare_access", "/cdn-cgi/access/certs"),
    ] {
        let told = errors_with(&text("", "", word, path), &Variables::new());
        assert!(
            told.ends_with("the gateway's own while a cluster has this identity.preset: its keys are there"),
            "{word}: {told}"
        );
        assert!(parse_text(&text("", "", "open_webui", path), &Variables::new()).is_ok(), "{path} is free without it");
    }
}

#[test]
fn given_keys_must_do_for_the_presets_too() {
    let store = "store: {url: none}\nportal: {enabled: false}\n";
    let es256 = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let key = variables(&[("KEY", &es256)]);
    let with = |preset: &str| text(", signing_key: {env: KEY}", store, preset, "/c");
    assert!(parse_text(&with("google_iap"), &key).is_ok());
    assert_eq!(
        errors_with(&with("cloudflare_access"), &key),
        "f.yaml:1:1: tokens.signing_key: no RS256 key in it, which an identity.preset asks for"
    );
}

#[test]
fn an_assertion_is_for_nobody_that_access_tokens_are_for() {
    let same = |preset: &str| text(", audience: rag", "", preset, "/c");
    for word in ["google_iap", "cloudflare_access"] {
        let told = errors_with(&same(word), &Variables::new());
        assert_eq!(
            told,
            "f.yaml:1:1: clusters.rag.identity.audience: the same as tokens.audience: readers of this identity.preset \
             that look at no typ would take access tokens for assertions",
            "{word}"
        );
        assert!(parse_text(&text("", "", word, "/c"), &Variables::new()).is_ok(), "{word}");
    }
    // Those say no audience of the cluster's, or nothing that is signed.
    for word in ["none", "pomerium", "open_webui"] {
        assert!(parse_text(&same(word), &Variables::new()).is_ok(), "{word}");
    }
}
