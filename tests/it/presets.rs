//! Identities in the formats of other products, each read by a client that was written to that product's published
//! rules (`examples/identity-presets/verify.py`): `PyJWT` as Pomerium's and Cloudflare's documentation show it,
//! Google's own library for IAP. Those read the system's clock, so the gateway does too, but for one whose time is
//! over.

use std::{
    collections::HashSet,
    fmt::Write as _,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use portcullis::{
    app::{App, Rim, Running},
    clock::{Clock, SystemClock},
    policy::preset::Preset,
    telemetry::metrics::ReloadResult,
};
use serde_json::{Map, Value, json};

use crate::harness::{
    client::Client,
    gateway::{Engine, Gateway, ISSUER, Setup},
    identity,
    invariants::Invariants,
    issuer::{AUDIENCE, Issuer, ready},
    soon,
    upstream::{Received, Reply, Upstream},
    wire::Head,
};

/// Formats by the word in the file, with the keys their readers are pointed to.
const FORMATS: [(&str, Preset, &str); 4] = [
    ("pomerium", Preset::Pomerium, "/.well-known/pomerium/jwks.json"),
    ("google_iap", Preset::GoogleIap, "/iap/verify/public_key"),
    ("cloudflare_access", Preset::CloudflareAccess, "/cdn-cgi/access/certs"),
    ("open_webui", Preset::OpenWebui, ""),
];

/// A cluster for each format and one without; `/NAME/…` leads there for those the issuer knows, `/open-NAME/…` for all.
fn yaml(upstream: &Upstream, issuer: &Issuer, more: &str) -> String {
    let mut clusters = format!("  plain: {{endpoints: [\"{}\"]}}\n", upstream.url());
    let mut routes = String::new();
    for name in FORMATS.map(|(name, ..)| name).iter().chain(&["plain"]) {
        if *name != "plain" {
            let identity = format!("{{preset: {name}, audience: aud-of-{name}{more}}}");
            writeln!(clusters, "  {name}: {{endpoints: [\"{}\"], identity: {identity}}}", upstream.url()).unwrap();
        }
        writeln!(
            routes,
            "  - {{name: {name}, match: {{path: \"/{name}/{{*rest}}\"}}, issuers: [sso], cluster: {name}}}\n  \
             - {{name: open_{name}, match: {{path: \"/open-{name}/{{*rest}}\"}}, auth: none, cluster: {name}}}"
        )
        .unwrap();
    }
    format!(
        "store: {{url: none}}\nportal: {{enabled: false}}\nissuers:\n  sso: {{issuer: \"{}\", audiences: [{AUDIENCE}], \
         claims: {{roles: [roles]}}}}\nclusters:\n{clusters}routes:\n{routes}  \
         - {{name: hosted, match: {{path: \"/hosted\", hosts: [rag.test, other.test]}}, issuers: [sso], cluster: pomerium}}\n",
        issuer.url()
    )
}

/// On the system's clock.
async fn now(yaml: &str) -> (Running, Client) {
    let setup = Setup::new(Engine::Sqlite, yaml);
    let running =
        soon("the gateway", App::start(setup.settings().unwrap(), Arc::default(), Rim::system())).await.unwrap();
    let client = Client::new(&format!("http://{}", running.public_addr()), &Arc::<Invariants>::default());
    (running, client)
}

/// A token of the issuer's for now.
fn token(issuer: &Issuer) -> String {
    let now = SystemClock::new().now().seconds();
    issuer.token(&json!({
        "iat": now, "exp": now + 600, "email": "ann@example.org", "email_verified": true, "roles": ["analyst", "reader"],
    }))
}

/// The headers of a request, lower-case.
pub(crate) fn headers(received: &Received) -> Value {
    let pair = |(name, value): &(String, String)| (name.to_ascii_lowercase(), Value::from(value.as_str()));
    Value::Object(received.head.headers.iter().map(pair).collect::<Map<_, _>>())
}

/// What the clients make of these cases.
pub(crate) async fn verify(cases: Vec<Value>) -> Vec<Value> {
    #[expect(clippy::disallowed_methods, reason = "a test's own environment")]
    let python = std::env::var_os("PORTCULLIS_TEST_PYTHON")
        .expect("PORTCULLIS_TEST_PYTHON names a Python with examples/rag-fastapi/requirements.txt: run `make test`");
    let run = move || {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/identity-presets/verify.py");
        let mut child = Command::new(python)
            .arg(script)
            .env("NO_PROXY", "*")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(Value::from(cases).to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// What a reader of this format expects from a gateway at `base`.
fn case(format: &str, base: &str, headers: &Value) -> Value {
    let (_, _, keys) = FORMATS.into_iter().find(|(name, ..)| *name == format).unwrap();
    let (issuer, audience) = match format {
        "pomerium" => ("gw.test", "gw.test".to_owned()),
        "google_iap" => ("https://cloud.google.com/iap", format!("aud-of-{format}")),
        _ => (ISSUER, format!("aud-of-{format}")),
    };
    json!({"format": format, "headers": headers, "keys": format!("{base}{keys}"), "issuer": issuer, "audience": audience})
}

fn changed(case: &Value, pointer: &str, value: impl Into<Value>) -> Value {
    let mut case = case.clone();
    *case.pointer_mut(pointer).unwrap() = value.into();
    case
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_format_is_verified_by_a_client_written_to_its_published_rules() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let (running, client) = now(&yaml(&upstream, &issuer, "")).await;
    let base = format!("http://{}", running.public_addr());
    let token = token(&issuer);
    ready(&client, "/plain/a", &token).await;
    let mut cases = Vec::new();
    for (format, ..) in FORMATS {
        client.get(&format!("/{format}/a")).bearer(&token).send().await.expect(200);
        let received = upstream.last();
        // Ours stands beside it.
        let ours = received.head.header("x-gateway-identity").expect("an identity");
        identity::verify(&client, ours, ISSUER, &format!("aud-of-{format}")).await.unwrap();
        cases.push(case(format, &base, &headers(&received)));
    }
    // The jwk form of Google's keys, for readers of that.
    let jwk = client.get("/iap/verify/public_key-jwk").send().await.expect(200).json();
    let pem = client.get("/iap/verify/public_key").send().await.expect(200).json();
    assert_eq!(jwk["keys"].as_array().map(Vec::len), Some(1));
    assert!(pem[jwk["keys"][0]["kid"].as_str().unwrap()].as_str().unwrap().starts_with("-----BEGIN PUBLIC KEY-----\n"));
    let rsa = client.get("/cdn-cgi/access/certs").send().await.expect(200).json();
    assert_eq!(rsa["keys"].as_array().unwrap().iter().map(|key| &key["alg"]).collect::<Vec<_>>(), ["RS256"]);

    let outcomes = verify(cases).await;
    let claims = |nth: usize| &outcomes[nth]["claims"];
    for (nth, (format, ..)) in FORMATS.iter().enumerate() {
        assert!(claims(nth).is_object(), "{format}: {}", outcomes[nth]);
        assert_eq!(claims(nth)["email"], "ann@example.org", "{format}");
    }
    assert_eq!((&claims(0)["sub"], &claims(0)["groups"]), (&json!("sso:ann"), &json!(["analyst", "reader"])));
    assert_eq!(claims(1)["sub"], "accounts.google.com:sso:ann");
    assert_eq!((&claims(2)["sub"], &claims(2)["aud"]), (&json!("sso:ann"), &json!(["aud-of-cloudflare_access"])));
    let user = json!({"name": "ann@example.org", "id": "sso:ann", "email": "ann@example.org", "role": "user"});
    assert_eq!(claims(3), &user);
    soon("the gateway to stop", running.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_clients_refuse_what_is_for_others_altered_or_over() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let (running, client) = now(&yaml(&upstream, &issuer, "")).await;
    let (stranger, _) = now(&yaml(&upstream, &issuer, "")).await;
    // On a clock that stands where the tests begin: what it signs ended long ago.
    let late = Gateway::start(Engine::Sqlite, &yaml(&upstream, &issuer, "")).await;
    let (base, elsewhere) = (format!("http://{}", running.public_addr()), format!("http://{}", stranger.public_addr()));
    let token = token(&issuer);
    ready(&client, "/plain/a", &token).await;
    ready(&late.client(), "/plain/a", &issuer.token(&json!({}))).await;
    let (mut cases, mut what) = (Vec::new(), Vec::new());
    for (format, preset, keys) in FORMATS.into_iter().filter(|(_, preset, _)| preset.algorithm().is_some()) {
        client.get(&format!("/{format}/a")).bearer(&token).send().await.expect(200);
        let good = case(format, &base, &headers(&upstream.last()));
        let assertion = format!("/headers/{}", preset.headers()[0]);
        let signed = good.pointer(&assertion).unwrap().as_str().unwrap().to_owned();
        let (input, signature) = signed.rsplit_once('.').unwrap();
        let (head, payload) = input.split_once('.').unwrap();
        let other = if payload.starts_with("eyJ") { payload.replacen("eyJ", "eyK", 1) } else { "e30".to_owned() };
        late.client().get(&format!("/{format}/a")).bearer(&issuer.token(&json!({}))).send().await.expect(200);
        let over = case(format, &format!("http://{}", late.address()), &headers(&upstream.last()));
        for (name, case) in [
            ("good", good.clone()),
            ("another audience", changed(&good, "/audience", "somebody-else")),
            ("another issuer", changed(&good, "/issuer", "https://elsewhere.test")),
            ("altered", changed(&good, &assertion, format!("{head}.{other}.{signature}"))),
            ("without a signature", changed(&good, &assertion, format!("{input}."))),
            ("another gateway's keys", changed(&good, "/keys", format!("{elsewhere}{keys}"))),
            ("over", over),
        ] {
            cases.push(case);
            what.push((format, name));
        }
    }
    for ((format, name), outcome) in what.into_iter().zip(verify(cases).await) {
        assert_eq!(outcome.get("claims").is_some(), name == "good", "{format}, {name}: {outcome}");
        if name == "over" {
            let told = outcome["refused"].as_str().unwrap().to_lowercase();
            assert!(told.contains("expired"), "{format}: {told}");
        }
    }
    soon("the gateway to stop", running.stop()).await;
    soon("the gateway to stop", stranger.stop()).await;
}

fn told(head: &Head) -> HashSet<&str> {
    let all = Preset::ALL.iter().flat_map(|preset| preset.headers());
    all.map(http::HeaderName::as_str).filter(|name| !head.all(name).is_empty()).collect()
}

#[tokio::test]
async fn nobody_is_told_of_by_absence_and_unverified_addresses_never() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream, &issuer, "")).await;
    let client = gateway.client();
    let unverified = issuer.token(&json!({"email": "ann@example.org", "email_verified": false}));
    ready(&client, "/plain/a", &unverified).await;
    assert_eq!(told(&upstream.last().head), HashSet::new(), "a cluster without a preset");
    for (format, preset, _) in FORMATS {
        client.get(&format!("/open-{format}/a")).send().await.expect(200);
        let received = upstream.last().head;
        assert_eq!(told(&received), HashSet::new(), "{format}");
        assert!(received.header("x-gateway-identity").is_some());
        client.get(&format!("/{format}/a")).bearer(&unverified).send().await.expect(200);
        let received = upstream.last().head;
        let expected = preset.headers().iter().map(http::HeaderName::as_str).filter(|name| !name.ends_with("-email"));
        assert_eq!(told(&received), expected.collect(), "{format}");
        assert!(!received.headers.iter().any(|(_, value)| value.contains("ann@example.org")), "{received:?}");
        // Nor is an assertion any good here.
        if preset.algorithm().is_some() {
            let assertion = received.header(preset.headers()[0].as_str()).unwrap();
            for path in ["/plain/a", &format!("/{format}/a")] {
                client.get(path).bearer(assertion).send().await.refused(401, "invalid_token");
            }
        }
    }
}

#[tokio::test]
async fn no_client_and_no_service_can_speak_in_any_spelling_of_these_headers() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream, &issuer, "")).await;
    let client = gateway.client();
    let token = issuer.token(&json!({"email": "ann@example.org", "email_verified": true}));
    ready(&client, "/plain/a", &token).await;
    let claim = http::HeaderName::from_static("x-pomerium-claim-email");
    let names: Vec<_> = Preset::ALL.iter().flat_map(|preset| preset.headers()).chain([&claim]).collect();
    let title =
        |name: &str| name.split('-').map(|part| part[..1].to_uppercase() + &part[1..]).collect::<Vec<_>>().join("-");
    let mut planted = String::new();
    for name in &names {
        for spelled in [name.as_str().to_owned(), name.as_str().to_uppercase(), title(name.as_str())] {
            write!(planted, "{spelled}: eve\r\n").unwrap();
        }
    }
    let authorization = format!("Authorization: Bearer {token}\r\n");
    for (format, ..) in FORMATS.iter().chain(&[("plain", Preset::OpenWebui, "")]) {
        for (path, sent) in [(format!("/{format}/a"), authorization.as_str()), (format!("/open-{format}/a"), "")] {
            let mut raw = gateway.raw().await;
            raw.send(&format!("GET {path} HTTP/1.1\r\nHost: gw.test\r\n{sent}{planted}\r\n")).await;
            assert_eq!(raw.answer().await.unwrap().status, 200, "{path}");
            let received = upstream.last().head;
            let eve: Vec<_> = received.headers.iter().filter(|(_, value)| value.contains("eve")).collect();
            assert_eq!(eve, Vec::<&(String, String)>::new(), "{path}");
        }
    }
    // With `_` for `-`, as servers of the CGI kind read it: refused altogether.
    for name in &names {
        let mut raw = gateway.raw().await;
        let spelled = name.as_str().replacen('-', "_", 1);
        raw.send(&format!("GET /open-plain/a HTTP/1.1\r\nHost: gw.test\r\n{spelled}: eve\r\n\r\n")).await;
        assert_eq!(raw.answer().await.unwrap().status, 400, "{spelled}");
    }
    // Nor does a service plant them in what clients read, trailers included.
    let reply = names.iter().fold(Reply::new(200, "said"), |reply, name| reply.with(name.as_str(), "eve"));
    upstream.reply("/open-plain/b", reply);
    let answer = client.get("/open-plain/b").send().await.expect(200);
    for name in &names {
        assert_eq!(answer.header(name.as_str()), None, "{name}");
    }
    upstream.hold("/open-plain/c");
    let mut raw = gateway.raw().await;
    raw.send("GET /open-plain/c HTTP/1.1\r\nHost: gw.test\r\nTE: trailers\r\nConnection: TE\r\n\r\n").await;
    let mut held = upstream.held().await;
    let announced: Vec<_> = names.iter().map(|name| ("trailer", name.as_str())).chain([("trailer", "x-sum")]).collect();
    held.begin(200, &announced).await;
    held.chunk("said").await;
    let trailers: Vec<_> = names.iter().map(|name| (name.as_str(), "eve")).chain([("x-sum", "4")]).collect();
    held.end(&trailers).await;
    assert_eq!(raw.answer().await.unwrap().body.trailers, [("x-sum".to_owned(), "4".to_owned())]);
}

#[tokio::test]
async fn what_a_caller_is_told_as_is_signed_once_in_half_a_minute_whatever_else_is_bound() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream, &issuer, ", bind: request")).await;
    let client = gateway.client();
    let token = issuer.token(&json!({}));
    ready(&client, "/plain/a", &token).await;
    for (format, preset, _) in FORMATS.into_iter().filter(|(_, preset, _)| preset.algorithm().is_some()) {
        let asked = async || {
            client.get(&format!("/{format}/a")).bearer(&token).send().await.expect(200);
            let head = upstream.last().head;
            let value = |name: &str| head.header(name).unwrap().to_owned();
            (value(preset.headers()[0].as_str()), value("x-gateway-identity"))
        };
        let (first, second) = (asked().await, asked().await);
        assert_eq!(first.0, second.0, "{format}");
        assert_ne!(first.1, second.1, "{format}: ours is bound to its request");
        gateway.clock.advance(Duration::from_secs(30));
        assert_ne!(asked().await.0, first.0, "{format}");
    }
}

#[tokio::test]
async fn groups_are_told_whole_however_many_a_token_holds() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream, &issuer, "")).await;
    let client = gateway.client();
    ready(&client, "/plain/a", &issuer.token(&json!({}))).await;
    let roles: Vec<_> = (0..390).map(|number| format!("reader-{number:04}")).collect();
    client.get("/pomerium/a").bearer(&issuer.token(&json!({"roles": roles}))).send().await.expect(200);
    let head = upstream.last().head;
    let assertion = head.header("x-pomerium-jwt-assertion").unwrap();
    assert_eq!(crate::harness::tokens::claims_of(assertion)["groups"], json!(roles));
    // Not much more than the token that said so.
    assert!((7 * 1_024..10 * 1_024).contains(&assertion.len()), "{}", assertion.len());
    assert_eq!(head.header("x-user-roles"), None);
}

#[tokio::test]
async fn a_clock_that_is_set_back_leaves_no_assertion_from_the_future() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream, &issuer, "")).await;
    let client = gateway.client();
    let token = issuer.token(&json!({}));
    ready(&client, "/plain/a", &token).await;
    gateway.clock.advance(Duration::from_secs(50));
    for (format, preset, _) in FORMATS.into_iter().filter(|(_, preset, _)| preset.algorithm().is_some()) {
        let dated = async || {
            client.get(&format!("/{format}/a")).bearer(&token).send().await.expect(200);
            let head = upstream.last().head;
            let claims = crate::harness::tokens::claims_of(head.header(preset.headers()[0].as_str()).unwrap());
            claims["iat"].as_i64().unwrap()
        };
        assert_eq!(dated().await, gateway.clock.now().seconds(), "{format}");
        // By so little that who calls is still known.
        gateway.clock.set_back(Duration::from_secs(10));
        assert_eq!(dated().await, gateway.clock.now().seconds(), "{format}, after the clock was set back");
    }
}

#[tokio::test]
async fn a_format_that_tells_no_host_is_signed_once_for_all_hosts() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    for (format, preset, _) in FORMATS.into_iter().filter(|(_, preset, _)| preset.algorithm().is_some()) {
        let yaml = yaml(&upstream, &issuer, "");
        // The last route is the one with hosts.
        let (others, end) = yaml.rsplit_once("cluster: pomerium").unwrap();
        let gateway = Gateway::start(Engine::Sqlite, &format!("{others}cluster: {format}{end}")).await;
        let token = issuer.token(&json!({}));
        ready(&gateway.client(), "/plain/a", &token).await;
        let told = async |host: &str| {
            let mut raw = gateway.raw().await;
            raw.send(&format!("GET /hosted HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n")).await;
            assert_eq!(raw.answer().await.unwrap().status, 200, "{host}");
            upstream.last().head.header(preset.headers()[0].as_str()).unwrap().to_owned()
        };
        let same = told("rag.test").await == told("other.test").await;
        assert_eq!(same, preset != Preset::Pomerium, "{format}");
    }
}

#[tokio::test]
async fn an_address_that_a_header_would_tell_as_somebody_else_s_is_told_in_none() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream, &issuer, "")).await;
    let client = gateway.client();
    ready(&client, "/plain/a", &issuer.token(&json!({}))).await;
    let long = format!("{}@example.org", "x".repeat(2_000));
    for email in ["ann@example.org ", "\tann@example.org", "ann@example.org\r\n", &long] {
        let token = issuer.token(&json!({"email": email, "email_verified": true}));
        for (format, ..) in FORMATS.iter().chain(&[("plain", Preset::OpenWebui, "")]) {
            client.get(&format!("/{format}/a")).bearer(&token).send().await.expect(200);
            let received = upstream.last().head;
            let told: Vec<_> = received.headers.iter().filter(|(_, value)| value.contains("example.org")).collect();
            assert_eq!(told, Vec::<&(String, String)>::new(), "{format}: {email:?}");
        }
    }
}

#[tokio::test]
async fn pomerium_s_readers_are_told_of_a_host_that_the_route_names_and_find_the_keys_there() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let yaml = yaml(&upstream, &issuer, "").replace("{enabled: false}", "{enabled: false, host: auth.test}");
    let gateway = Gateway::start(Engine::Sqlite, &yaml).await;
    let token = issuer.token(&json!({}));
    ready(&gateway.client(), "/plain/a", &token).await;
    let told = async |path: &str, host: &str| {
        let mut raw = gateway.raw().await;
        raw.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n")).await;
        assert_eq!(raw.answer().await.unwrap().status, 200, "{host}");
        let assertion = upstream.last().head.header("x-pomerium-jwt-assertion").unwrap().to_owned();
        let claims = crate::harness::tokens::claims_of(&assertion);
        assert_eq!(claims["iss"], claims["aud"]);
        claims["aud"].as_str().unwrap().to_owned()
    };
    assert_eq!(told("/hosted", "rag.test").await, "rag.test");
    assert_eq!(told("/hosted", "Other.Test:8443").await, "other.test");
    assert_eq!(told("/hosted", "RAG.test.").await, "rag.test");
    // No client chooses whom it is told to, not even one that another route names.
    for host in ["bank.test", "rag.test", "OTHER.test.:443"] {
        assert_eq!(told("/pomerium/a", host).await, "gw.test", "{host}");
    }
    // Where they look: at their own host, wherever the portal is. The others' are told where the gateway is.
    for (host, elsewhere) in [("rag.test", 404), ("gw.test", 404), ("anything.test", 404), ("auth.test", 200)] {
        for (path, status) in [("/.well-known/pomerium/jwks.json", 200), ("/cdn-cgi/access/certs", elsewhere)] {
            let mut raw = gateway.raw().await;
            raw.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            assert_eq!(raw.answer().await.unwrap().status, status, "{path} at {host}");
        }
    }
}

#[tokio::test]
async fn a_reload_that_brings_a_preset_makes_its_key_or_is_refused() {
    let upstream = Upstream::start().await;
    let yaml = |identity: &str| {
        format!(
            "store: {{url: \"sqlite://data/test.db\", pool: 2, timeout: 300ms}}\nclusters:\n  \
             rag: {{endpoints: [\"{}\"]{identity}}}\nroutes:\n  \
             - {{name: ask, match: {{path: \"/ask/{{*rest}}\"}}, cluster: rag}}\n  \
             - {{name: certs, match: {{path: \"/{{*rest}}\"}}, auth: none, cluster: rag}}\n",
            upstream.url()
        )
    };
    let mut gateway = Gateway::start(Engine::Sqlite, &yaml("")).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let keys =
        async || client.get("/.well-known/jwks.json").send().await.expect(200).json()["keys"].as_array().unwrap().len();
    client.get("/cdn-cgi/access/certs").send().await.expect(200);
    assert_eq!(upstream.last().target(), "/cdn-cgi/access/certs", "a service's own path while nobody has the preset");
    let with = yaml(", identity: {preset: cloudflare_access}");

    let in_the_way = gateway.in_the_way_of_writes().await;
    assert_eq!(gateway.reload(&with).await, ReloadResult::Broken);
    client.get("/ask/a").bearer(&ann.access).send().await.expect(200);
    assert_eq!((told(&upstream.last().head), keys().await), (HashSet::new(), 1));
    drop(in_the_way);
    assert_eq!(gateway.reload(&with).await, ReloadResult::Applied);
    client.get("/ask/a").bearer(&ann.access).send().await.expect(200);
    let assertion = upstream.last().head.header("cf-access-jwt-assertion").expect("an assertion").to_owned();
    let published = client.get("/cdn-cgi/access/certs").send().await.expect(200).json();
    let kid = jsonwebtoken::decode_header(&assertion).unwrap().kid.unwrap();
    assert_eq!((published["keys"][0]["kid"].as_str(), keys().await), (Some(&*kid), 2));
    client.get("/ask/a").bearer(&assertion).send().await.refused(401, "invalid_token");

    // Once made it is there for good.
    gateway.restart().await;
    let client = gateway.client();
    let again = client.get("/cdn-cgi/access/certs").send().await.expect(200).json();
    assert_eq!(again, published);
}
