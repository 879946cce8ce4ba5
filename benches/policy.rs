//! What one decision costs: the rules every request meets, and the signatures most requests are spared.
//!
//! `cargo bench --bench policy`. Compare numbers within one run on one machine only.
#![expect(clippy::unwrap_used, reason = "a bench that cannot set itself up has nothing to measure")]

use std::{hint::black_box, net::IpAddr, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use portcullis::{
    clock::Timestamp,
    policy::{
        access, bearer,
        claims::Claims,
        forwarded, head, headers,
        keys::{Algorithm, KeySet, SigningKey},
        mint, path, refresh_token, token,
    },
};
use secrecy::ExposeSecret;

fn claims() -> Claims {
    Claims {
        issuer: "https://gateway.test".into(),
        subject: "0190a1b2-0000-7000-8000-000000000001".into(),
        audience: vec!["api".into()],
        expires: 1_900,
        not_before: None,
        issued: 1_000,
        token_id: "0190a1b2-0000-7000-8000-000000000002".into(),
        session: Some("0190a1b2-0000-7000-8000-00000000000a".parse().unwrap()),
        client_id: Some("portal".into()),
        roles: vec!["analyst".into(), "user".into()],
        scopes: vec!["docs:read".into(), "docs:write".into()],
        org: Some("acme".into()),
        authorization_version: 3,
        generation: 7,
        email: Some("ann@example.org".into()),
        email_verified: true,
        methods: vec!["pwd".into()],
        auth_time: Some(990),
    }
}

fn key(algorithm: Algorithm) -> SigningKey {
    SigningKey::from_pkcs8(algorithm, SigningKey::generate_pkcs8(algorithm).unwrap().expose_secret()).unwrap()
}

fn signatures(c: &mut Criterion) {
    let claims = claims();
    for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
        let (name, key) = (algorithm.name(), key(algorithm));
        let keys = KeySet::new([key.verifying()]);
        let access = mint::access_token(&key, &claims).unwrap();
        c.bench_function(&format!("token/verify/{name}"), |b| {
            b.iter(|| token::verify(black_box(access.expose_secret()), &keys));
        });
        let signing_input = vec![b'x'; 700];
        let signature = key.sign(&signing_input).unwrap();
        let verifying = key.verifying();
        c.bench_function(&format!("signature/verify/{name}"), |b| {
            b.iter(|| verifying.verify(black_box(&signing_input), &signature));
        });
        let identity = mint::IdentityClaims {
            issuer: "https://gateway.test",
            audience: "rag",
            issued: 1_000,
            expires: 1_060,
            request: None,
            claims: Some(&claims),
            reference: None,
        };
        c.bench_function(&format!("identity/sign/{name}"), |b| {
            b.iter(|| mint::identity_token(&key, black_box(&identity)));
        });
    }
    let sid = claims.session.unwrap();
    let refresh = refresh_token::issue(&[7; 32], sid, 3);
    c.bench_function("refresh_token/parse+authentic", |b| {
        b.iter(|| {
            refresh_token::parse(black_box(refresh.expose_secret())).is_some_and(|token| token.authentic(&[7; 32]))
        });
    });
}

/// A request of an ordinary browser.
fn request_headers() -> HeaderMap {
    [
        ("host", "rag.example.org"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("accept", "application/json"),
        ("accept-language", "en"),
        ("accept-encoding", "gzip, br"),
        ("authorization", "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ1In0.c2lnbmF0dXJl"),
        ("content-type", "application/json"),
        ("content-length", "128"),
        ("connection", "keep-alive"),
        ("sec-fetch-site", "same-origin"),
        ("x-forwarded-for", "203.0.113.9, 10.0.0.2"),
    ]
    .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
    .into_iter()
    .collect()
}

fn every_request(c: &mut Criterion) {
    let (claims, headers) = (claims(), request_headers());
    let expect = token::Expectations {
        issuer: "https://gateway.test",
        audiences: &["api".into()],
        leeway: Duration::from_secs(30),
    };
    let now = Timestamp::from_seconds(1_500);
    c.bench_function("token/admit", |b| b.iter(|| token::admit(black_box(&claims), &expect, now)));
    let roles = ["admin".into(), "user".into()];
    c.bench_function("access/authorise", |b| b.iter(|| access::authorise(&roles, &[], Some(black_box(&claims)))));
    for (name, raw) in
        [("canonical", "/api/rag/collections/42/query"), ("respelled", "/api/rag/coll%65ctions/caf%c3%a9")]
    {
        c.bench_function(&format!("path/{name}"), |b| {
            b.iter(|| path::canonical(black_box(raw)).map(|path| path.len()));
        });
    }
    let uri = Uri::from_static("/api/rag/query?top_k=5");
    c.bench_function("head/check", |b| {
        b.iter(|| head::check(&Method::POST, black_box(&uri), Version::HTTP_11, &headers));
    });
    c.bench_function("bearer", |b| b.iter(|| bearer::bearer(black_box(&headers)).is_ok()));
    let trusted = ["10.0.0.0/8".parse().unwrap()];
    let peer = IpAddr::from([10, 0, 0, 1]);
    c.bench_function("forwarded/client_address", |b| {
        b.iter(|| forwarded::client_address(peer, black_box(&headers).get_all("x-forwarded-for").iter(), &trusted));
    });
    c.bench_function("headers/strip", |b| {
        b.iter_batched_ref(
            || headers.clone(),
            |headers| {
                headers::strip_hop_by_hop(headers);
                headers::strip_reserved(headers);
            },
            criterion::BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, signatures, every_request);
criterion_main!(benches);
