//! The service over real sockets: a key server that counts its visits, tokens signed with keys of our own, and what
//! the service makes of good, bad and missing ones.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use axum::{Json, Router, extract::State, routing::get};
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp, jwk::Jwk};
use rag_demo::{
    documents,
    identity::Expected,
    jwks::{Jwks, Options},
    search::Library,
    service::{Service, router},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const ISSUER: &str = "http://gateway.test";

/// A signing key of a gateway that exists only here.
struct Signer {
    kid: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    fn new(kid: &'static str, algorithm: Algorithm) -> Self {
        let key = if algorithm == Algorithm::EdDSA {
            EncodingKey::from_ed_der(Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap().as_ref())
        } else {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
            EncodingKey::from_ec_der(pkcs8.unwrap().as_ref())
        };
        Self { kid, algorithm, key }
    }

    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.kid.to_owned());
        serde_json::to_value(jwk).unwrap()
    }

    fn header(&self) -> Header {
        let mut header = Header::new(self.algorithm);
        header.typ = Some("gw-id+jwt".to_owned());
        header.kid = Some(self.kid.to_owned());
        header
    }

    fn sign(&self, claims: &Value) -> String {
        jsonwebtoken::encode(&self.header(), claims, &self.key).unwrap()
    }
}

fn claims(more: &Value) -> Value {
    let mut claims =
        json!({"iss": ISSUER, "aud": "rag", "exp": get_current_timestamp() + 60, "iat": get_current_timestamp()});
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn alice() -> Value {
    claims(&json!({"sub": "u-alice", "email": "alice@example.com", "email_verified": true, "roles": ["user"]}))
}

/// The key server: what it publishes, how often it was asked.
#[derive(Clone, Default)]
struct KeyServer {
    keys: Arc<Mutex<Vec<Value>>>,
    visits: Arc<AtomicUsize>,
}

impl KeyServer {
    fn publish(&self, signers: &[&Signer]) {
        *self.keys.lock().unwrap() = signers.iter().map(|signer| signer.jwk()).collect();
    }

    async fn serve(&self) -> SocketAddr {
        async fn keys(State(server): State<KeyServer>) -> Json<Value> {
            server.visits.fetch_add(1, Ordering::SeqCst);
            Json(json!({"keys": *server.keys.lock().unwrap()}))
        }
        serve(Router::new().route("/jwks.json", get(keys)).with_state(self.clone())).await
    }
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

struct World {
    server: KeyServer,
    signer: Signer,
    base: String,
}

const ONCE: Options = Options {
    min_interval: Duration::from_hours(1),
    max_age: Duration::from_hours(1),
    timeout: Duration::from_secs(5),
};

async fn world_with(options: Options, accept_unverified_email: bool) -> World {
    world_at_pace(options, accept_unverified_email, Duration::ZERO).await
}

async fn world_at_pace(options: Options, accept_unverified_email: bool, pace: Duration) -> World {
    let (server, signer) = (KeyServer::default(), Signer::new("k1", Algorithm::ES256));
    server.publish(&[&signer]);
    let keys = server.serve().await;
    let service = Service {
        library: Library::new(documents::parse(documents::shipped()).unwrap()),
        jwks: Arc::new(Jwks::new(format!("http://{keys}/jwks.json"), options).unwrap()),
        expected: Expected { issuer: ISSUER.to_owned(), audience: "rag".to_owned(), accept_unverified_email },
        pace,
    };
    let base = format!("http://{}", serve(router(Arc::new(service))).await);
    World { server, signer, base }
}

async fn world() -> World {
    world_with(ONCE, false).await
}

impl World {
    async fn documents(&self, token: Option<&str>) -> (u16, Value) {
        let mut request = reqwest::Client::new().get(format!("{}/documents", self.base));
        if let Some(token) = token {
            request = request.header("x-gateway-identity", token);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn status(&self, token: &str) -> u16 {
        self.documents(Some(token)).await.0
    }

    async fn ids(&self, claims: &Value) -> Vec<String> {
        let (status, body) = self.documents(Some(&self.signer.sign(claims))).await;
        assert_eq!(status, 200, "{body}");
        body["documents"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    }

    async fn ask(&self, claims: &Value, question: &str) -> (u16, String) {
        let token = self.signer.sign(claims);
        let request = reqwest::Client::new().post(format!("{}/ask", self.base)).header("x-gateway-identity", token);
        let answer = request.json(&json!({"question": question})).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

/// `(event, data)` of a server-sent event stream.
fn events(text: &str) -> Vec<(String, Value)> {
    let field = |block: &str, name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name).map(|rest| rest.trim().to_owned())).unwrap_or_default()
    };
    let blocks = text.split("\n\n").filter(|block| block.contains("event:"));
    blocks.map(|block| (field(block, "event:"), serde_json::from_str(&field(block, "data:")).unwrap())).collect()
}

#[tokio::test]
async fn a_user_sees_own_and_public_documents() {
    let ids = world().await.ids(&alice()).await;
    assert!(ids.contains(&"alice-salary".to_owned()) && ids.contains(&"handbook-leave".to_owned()), "{ids:?}");
    assert!(!ids.iter().any(|id| id.starts_with("bob") || id.starts_with("board")), "{ids:?}");
}

#[tokio::test]
async fn an_anonymous_identity_sees_public_documents_only() {
    let ids = world().await.ids(&claims(&json!({"anonymous": true}))).await;
    assert!(!ids.is_empty() && ids.iter().all(|id| id.starts_with("handbook") || id.starts_with("product")), "{ids:?}");
}

#[tokio::test]
async fn an_unverified_address_opens_nothing_unless_the_operator_says_so() {
    let claims = claims(&json!({"sub": "u-x", "email": "alice@example.com", "email_verified": false}));
    assert!(!world().await.ids(&claims).await.contains(&"alice-salary".to_owned()));
    assert!(world_with(ONCE, true).await.ids(&claims).await.contains(&"alice-salary".to_owned()));
}

#[tokio::test]
async fn an_eddsa_key_is_as_good() {
    let world = world().await;
    let signer = Signer::new("ed", Algorithm::EdDSA);
    world.server.publish(&[&signer]);
    assert_eq!(world.status(&signer.sign(&alice())).await, 200);
}

#[tokio::test]
async fn without_an_identity_there_is_no_answer() {
    let world = world().await;
    assert_eq!(world.documents(None).await.0, 401);
    let plain = reqwest::Client::new().get(format!("{}/documents", world.base));
    let answer = plain.header("x-user-id", "u-alice").header("x-user-email", "alice@example.com").send().await;
    assert_eq!(answer.unwrap().status(), 401, "a plain header was trusted");
}

#[tokio::test]
async fn two_identity_headers_are_none() {
    let world = world().await;
    let token = world.signer.sign(&alice());
    let request = reqwest::Client::new().get(format!("{}/documents", world.base));
    let answer = request.header("x-gateway-identity", &token).header("x-gateway-identity", &token).send().await;
    assert_eq!(answer.unwrap().status(), 401);
}

#[tokio::test]
async fn claims_that_are_not_for_us_or_not_for_now_are_refused() {
    let world = world().await;
    let now = get_current_timestamp();
    let mut missing_exp = alice();
    missing_exp.as_object_mut().unwrap().remove("exp");
    let cases = [
        ("expired", claims(&json!({"sub": "u", "exp": now - 60}))),
        ("not yet", claims(&json!({"sub": "u", "nbf": now + 60}))),
        ("issuer", claims(&json!({"sub": "u", "iss": "http://other.test"}))),
        ("audience", claims(&json!({"sub": "u", "aud": "other"}))),
        ("no exp", missing_exp),
        ("string exp", claims(&json!({"sub": "u", "exp": "9999999999"}))),
        ("nobody", claims(&json!({}))),
        ("empty subject", claims(&json!({"sub": ""}))),
        ("both", claims(&json!({"sub": "u", "anonymous": true}))),
    ];
    for (name, claims) in cases {
        assert_eq!(world.status(&world.signer.sign(&claims)).await, 401, "{name}");
    }
    assert_eq!(world.status(&world.signer.sign(&alice())).await, 200);
}

#[tokio::test]
async fn tokens_of_another_kind_or_key_are_refused() {
    let world = world().await;
    let sign = |change: &dyn Fn(&mut Header)| {
        let mut header = world.signer.header();
        change(&mut header);
        jsonwebtoken::encode(&header, &alice(), &world.signer.key).unwrap()
    };
    let good = world.signer.sign(&alice());
    let (head, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let other_body = world.signer.sign(&claims(&json!({"sub": "u-bob"})));
    let other_body = other_body.split('.').nth(1).unwrap();
    let hmac = jsonwebtoken::encode(
        &Header { typ: Some("gw-id+jwt".to_owned()), kid: Some("k1".to_owned()), ..Header::new(Algorithm::HS256) },
        &alice(),
        &EncodingKey::from_secret(world.signer.jwk()["x"].as_str().unwrap().as_bytes()),
    );
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiZ3ctaWQrand0Iiwia2lkIjoiazEifQ";
    let cases = [
        ("an access token", sign(&|header| header.typ = Some("at+jwt".to_owned()))),
        ("no typ", sign(&|header| header.typ = None)),
        ("no kid", sign(&|header| header.kid = None)),
        ("crit", sign(&|header| header.crit = Some(vec!["exp".to_owned()]))),
        ("jku", sign(&|header| header.jku = Some("http://evil.test/jwks".to_owned()))),
        ("another key of the same name", Signer::new("k1", Algorithm::ES256).sign(&alice())),
        ("another algorithm under that name", Signer::new("k1", Algorithm::EdDSA).sign(&alice())),
        ("hmac with public bytes", hmac.unwrap()),
        ("alg none", format!("{none}.{body}.")),
        ("changed claims", format!("{head}.{other_body}.{signature}")),
        ("no signature", format!("{head}.{body}.")),
        ("garbage", "not.a.token".to_owned()),
        ("too long", format!("{good}{}", "A".repeat(9_000))),
    ];
    for (name, token) in cases {
        assert_eq!(world.status(&token).await, 401, "{name}");
    }
    assert_eq!(world.status(&good).await, 200);
}

#[tokio::test]
async fn keys_are_fetched_once_for_many_requests() {
    let world = world().await;
    for _ in 0..5 {
        assert_eq!(world.status(&world.signer.sign(&alice())).await, 200);
    }
    assert_eq!(world.server.visits.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn unknown_key_names_cannot_make_it_hammer_the_gateway() {
    let world = world().await;
    assert_eq!(world.status(&world.signer.sign(&alice())).await, 200);
    for _ in 0..5 {
        assert_eq!(world.status(&Signer::new("k9", Algorithm::ES256).sign(&alice())).await, 401);
    }
    assert_eq!(world.server.visits.load(Ordering::SeqCst), 1, "within the interval");
}

#[tokio::test]
async fn a_rotated_key_is_found() {
    let world = world_with(Options { min_interval: Duration::ZERO, ..ONCE }, false).await;
    assert_eq!(world.status(&world.signer.sign(&alice())).await, 200);
    let next = Signer::new("k2", Algorithm::ES256);
    world.server.publish(&[&next]);
    assert_eq!(world.status(&next.sign(&alice())).await, 200);
    assert_eq!(world.status(&world.signer.sign(&alice())).await, 401, "the withdrawn key is forgotten");
}

#[tokio::test]
async fn a_key_past_its_age_is_looked_for_again() {
    let world = world_with(Options { min_interval: Duration::ZERO, max_age: Duration::ZERO, ..ONCE }, false).await;
    assert_eq!(world.status(&world.signer.sign(&alice())).await, 200);
    world.server.publish(&[]);
    assert_eq!(world.status(&world.signer.sign(&alice())).await, 401);
}

#[tokio::test]
async fn before_the_first_keys_nobody_is_judged() {
    let no_keys = serve(Router::new()).await;
    let service = Service {
        library: Library::new(Vec::new()),
        jwks: Arc::new(Jwks::new(format!("http://{no_keys}/jwks.json"), ONCE).unwrap()),
        expected: Expected { issuer: ISSUER.to_owned(), audience: "rag".to_owned(), accept_unverified_email: false },
        pace: Duration::ZERO,
    };
    let base = format!("http://{}", serve(router(Arc::new(service))).await);
    let world = World { server: KeyServer::default(), signer: Signer::new("k1", Algorithm::ES256), base };
    assert_eq!(world.status(&world.signer.sign(&alice())).await, 503);
    assert_eq!(reqwest::get(format!("{}/ready", world.base)).await.unwrap().status(), 503);
    assert_eq!(reqwest::get(format!("{}/health", world.base)).await.unwrap().status(), 200, "alive all the same");
}

#[tokio::test]
async fn it_is_ready_once_it_has_keys() {
    let world = world().await;
    assert_eq!(world.status(&world.signer.sign(&alice())).await, 200);
    assert_eq!(reqwest::get(format!("{}/ready", world.base)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_answer_streams_sources_then_tokens_then_done() {
    let (status, text) = world().await.ask(&alice(), "What is the yearly salary?").await;
    assert_eq!(status, 200);
    let events = events(&text);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names[0], names[names.len() - 1]), ("sources", "done"), "{text}");
    assert!(names[1..names.len() - 1].iter().all(|name| *name == "token") && names.len() > 4, "{text}");
    assert_eq!(events[0].1[0]["id"], "alice-salary");
    let answer: String = events.iter().filter_map(|(_, data)| data["text"].as_str()).collect();
    assert!(answer.contains("71,500 euros") && answer.contains("[alice-salary]"), "{answer}");
    assert!(!text.contains("bob"), "{text}");
    assert_eq!(events[names.len() - 1].1["asked_by"], "alice@example.com");
}

#[tokio::test]
async fn the_sources_are_sent_long_before_the_answer_is_whole() {
    // At this pace the first word comes in an hour: what arrives now was not held back for it.
    let world = world_at_pace(ONCE, false, Duration::from_hours(1)).await;
    let request = reqwest::Client::new().post(format!("{}/ask", world.base)).json(&json!({"question": "paid leave"}));
    let mut answer = request.header("x-gateway-identity", world.signer.sign(&alice())).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let first = answer.chunk().await.unwrap().unwrap();
    assert!(first.starts_with(b"event: sources"), "{first:?}");
}

#[tokio::test]
async fn a_question_that_is_none_is_refused() {
    let world = world().await;
    assert_eq!(world.ask(&alice(), "  ").await.0, 422);
    assert_eq!(world.ask(&alice(), &"x".repeat(2_001)).await.0, 422);
}
