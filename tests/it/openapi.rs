//! The portal's description, held against the portal: every endpoint is described and every description is served,
//! whatever an endpoint answers is described, and what a body may and must hold is what the handler takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use portcullis::portal::endpoints::ENDPOINTS;
use serde_json::{Value, json};

use crate::harness::{
    client::{Answer, Client, PASSWORD},
    gateway::{Engine, Gateway, Setup, standard},
    tokens::{claims_of, good_header, signed, with},
    upstream::Upstream,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Those that services call take forms of another kind, with a client's secret in them.
fn is_of_clients(id: &str) -> bool {
    matches!(id, "portal_revoke" | "portal_introspect")
}

async fn gateway(portal: &str) -> Gateway {
    let upstream = Upstream::start().await;
    let yaml = format!(
        "portal: {{admin_api: public, {portal}}}\noauth: {{clients: [{{id: docs, secret: {{env: DOCS_SECRET}}}}]}}\nclusters: {{rag: {{endpoints: [\"{}\"]}}}}\nroutes:\n  \
         - {{name: page, match: {{path: /page}}, credentials: [bearer, cookie], quotas: [daily], cluster: rag}}\n\
         quotas: {{daily: {{by: route, per: day, requests: 1000000}}}}\n",
        upstream.url()
    );
    Setup::new(Engine::Sqlite, &yaml).variable("DOCS_SECRET", SECRET).start().await
}

async fn described(client: &Client) -> Value {
    client.get("/auth/openapi.json").send().await.expect(200).json()
}

/// Every operation by its id, with method and path.
fn operations(document: &Value) -> BTreeMap<String, (String, String, Value)> {
    let mut found = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let server = item["servers"][0]["url"].as_str().unwrap_or("/auth").trim_end_matches('/');
        for (method, operation) in
            item.as_object().unwrap().iter().filter(|(key, _)| !matches!(key.as_str(), "servers" | "parameters"))
        {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            let known = found.insert(id, (method.to_uppercase(), format!("{server}{path}"), operation.clone()));
            assert!(known.is_none(), "two operations of one id");
        }
    }
    found
}

#[tokio::test]
async fn every_endpoint_is_described_and_every_description_is_served() {
    let gateway = gateway("base_paths: [/auth, /api/auth]").await;
    let client = gateway.client();
    let document = described(&client).await;
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["servers"], json!([{"url": "/auth"}, {"url": "/api/auth"}]));
    assert_eq!(client.get("/api/auth/openapi.json").send().await.expect(200).json(), document);

    let described: BTreeSet<_> =
        operations(&document).into_iter().map(|(id, (method, path, _))| (id, method, path)).collect();
    let served: BTreeSet<_> = ENDPOINTS
        .iter()
        .map(|one| (one.name.to_owned(), one.method.to_string(), one.full_paths(&["/auth".into()])[0].clone()))
        .collect();
    assert_eq!(described, served);
    for (_, method, path) in described {
        let status = client.call(&method, &path).send().await.status;
        assert!(!matches!(status, 404 | 405), "{method} {path}: {status}");
    }
}

#[tokio::test]
async fn every_reference_in_the_description_leads_somewhere() {
    fn walk(document: &Value, node: &Value, references: &mut usize) {
        if let Some(reference) = node.get("$ref").and_then(Value::as_str) {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
            *references += 1;
        }
        match node {
            Value::Object(entries) => entries.values().for_each(|value| walk(document, value, references)),
            Value::Array(items) => items.iter().for_each(|item| walk(document, item, references)),
            _ => {}
        }
    }
    let document = described(&gateway("enabled: true").await.client()).await;
    let mut references = 0;
    walk(&document, &document, &mut references);
    assert!(references > 20, "{references}");
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    for (id, (.., operation)) in operations(&document) {
        for way in operation["security"].as_array().unwrap().iter().flat_map(|way| way.as_object().unwrap().keys()) {
            assert!(schemes.contains_key(way), "{id}: {way}");
        }
    }
}

/// Whether a value is what the schema says, as far as our schemas say it: stricter than JSON Schema in that a described
/// object holds nothing that is not described.
fn fits(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return fits(document, document.pointer(reference.trim_start_matches('#')).unwrap(), value);
    }
    if let Some(any) = schema.get("anyOf").and_then(Value::as_array) {
        let faults: Vec<_> = any.iter().filter_map(|one| fits(document, one, value).err()).collect();
        return if faults.len() < any.len() { Ok(()) } else { Err(faults.join(", ")) };
    }
    let is = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("a kind the test does not know: {other}"),
    };
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().map(|kind| kind.as_str().unwrap()).collect(),
        other => return Err(format!("no type but {other} for {value}")),
    };
    if !kinds.iter().any(|kind| is(kind)) {
        return Err(format!("{value} is none of {kinds:?}"));
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        values.iter().try_for_each(|value| fits(document, items, value))?;
    }
    let (Some(members), Some(properties)) = (value.as_object(), schema.get("properties").and_then(Value::as_object))
    else {
        return Ok(());
    };
    for (name, value) in members {
        let described = properties.get(name).ok_or_else(|| format!("{name} is not described"))?;
        fits(document, described, value).map_err(|fault| format!("{name}: {fault}"))?;
    }
    let required = schema["required"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap());
    let mut missing = required.filter(|name| !members.contains_key(*name));
    missing.next().map_or(Ok(()), |name| Err(format!("{name} is missing")))
}

/// Notes what an operation answered and fails unless it is described so.
#[track_caller]
fn described_so(document: &Value, id: &str, answer: &Answer, seen: &mut BTreeSet<(String, u16)>) {
    let operation = &operations(document)[id].2;
    let Some(response) = operation["responses"].get(answer.status.to_string()) else {
        panic!("{id} answered {}, which is not described: {}", answer.status, answer.text());
    };
    match response["content"].as_object().and_then(|content| content.iter().next()) {
        None => assert_eq!(answer.text(), "", "{id}"),
        Some((media_type, content)) => {
            assert_eq!(answer.header("content-type"), Some(media_type.as_str()), "{id}");
            if id != "portal_openapi" && id != "portal_jwks" {
                let fault = fits(document, &content["schema"], &answer.json());
                assert_eq!(fault, Ok(()), "{id} {}: {}", answer.status, answer.text());
            }
        }
    }
    if answer.status >= 400 {
        let said = response["description"].as_str().unwrap();
        let code = answer.json()["error"].as_str().map_or_else(|| answer.code(), str::to_owned);
        assert!(said.contains(&format!("`{code}`")), "{id} {}: {code} not in {said}", answer.status);
    }
    seen.insert((id.to_owned(), answer.status));
}

/// What the admin API answers to an administrator, to a user and to nobody.
async fn of_administrators(
    gateway: &Gateway,
    operations: &BTreeMap<String, (String, String, Value)>,
    token: &str,
) -> Vec<(String, Answer)> {
    let client = gateway.client();
    let key = gateway.signing_key().await;
    let admin = signed(&key, &good_header(&key), &with(claims_of(token), &json!({"roles": ["admin"]})));
    for _ in 0..5 {
        let wrong = json!({"email": "nobody@example.org", "password": "wrong"});
        client.post("/auth/login").json(&wrong).send().await.refused(401, "login_failed");
    }
    client.get("/page").bearer(token).send().await;
    let locked = client.get("/admin/v1/lockouts").bearer(&admin).send().await;
    let one = format!("/admin/v1/lockouts/{}", locked.json()["lockouts"][0]["id"].as_str().unwrap());
    let mut answers = vec![("admin_lockouts".to_owned(), locked)];
    for (id, path) in [
        ("admin_lockout_lift", one.as_str()),
        ("admin_lockouts_lift", "/admin/v1/lockouts?address=127.0.0.1"),
        ("admin_quotas_reset", "/admin/v1/quotas?quota=daily&all=true"),
        ("admin_quotas_reset", "/admin/v1/quotas?quota=none&all=true"),
    ] {
        answers.push((id.to_owned(), client.call("DELETE", path).bearer(&admin).send().await));
    }
    for (id, (method, path, _)) in operations.iter().filter(|(id, _)| id.starts_with("admin_")) {
        for path in [path.clone(), format!("{path}?unknown=1")] {
            answers.push((id.clone(), client.call(method, &path).bearer(&admin).send().await));
            answers.push((id.clone(), client.call(method, &path).bearer(token).send().await));
            answers.push((id.clone(), client.call(method, &path).send().await));
        }
    }
    answers
}

/// One call of every kind of each endpoint.
async fn whatever_is_answered_is_described(portal: &str) {
    let gateway = gateway(portal).await;
    let client = gateway.client();
    let document = described(&client).await;
    let mut seen = BTreeSet::new();
    let mut check = |id: &str, answer: &Answer| described_so(&document, id, answer, &mut seen);
    let operations = operations(&document);

    let full = json!({"email": "ann@example.org", "password": PASSWORD, "username": "ann", "full_name": "Ann", "delivery": "body"});
    let registered = client.post("/auth/register").json(&full).send().await;
    check("portal_register", &registered);
    check("portal_register", &client.post("/auth/register").json(&full).send().await);
    let lean = json!({"email": "bob@example.org", "password": PASSWORD, "username": null, "delivery": "cookie"});
    check("portal_signup", &client.post("/auth/signup").json(&lean).send().await);
    let tokens = client.tokens(&registered);
    for body in [
        json!({"email": "ann@example.org", "password": PASSWORD}),
        json!({"username": "ann", "password": PASSWORD, "delivery": "cookie"}),
        json!({"username": "ann", "password": "wrong"}),
    ] {
        check("portal_login", &client.post("/auth/login").json(&body).send().await);
    }
    let refreshed = client.refresh(&tokens.refresh).await;
    check("portal_refresh", &refreshed);
    check("portal_refresh", &client.refresh("garbage").await);
    let foreign = client.post("/auth/refresh").header("cookie", "__Secure-portcullis-refresh=x");
    check("portal_refresh", &foreign.send().await);
    for (id, method, path) in [("portal_me", "GET", "/auth/me"), ("portal_verify", "POST", "/auth/verify")] {
        check(id, &client.call(method, path).bearer(&tokens.access).send().await);
        check(id, &client.call(method, path).bearer("garbage").send().await);
        check(id, &client.call(method, path).send().await);
    }
    for body in
        [json!({"full_name": "Ann Lee", "username": null}), json!({"full_name": null}), json!({"username": "a"})]
    {
        let change = client.call("PATCH", "/auth/me").bearer(&tokens.access).json(&body);
        check("portal_me_change", &change.send().await);
    }
    check(
        "portal_logout",
        &client.post("/auth/logout").bearer(&tokens.access).json(&json!({"all": true})).send().await,
    );
    check("portal_logout", &client.post("/auth/logout").send().await);
    for (id, path) in [
        ("portal_jwks", "/.well-known/jwks.json"),
        ("portal_discovery", "/.well-known/openid-configuration"),
        ("portal_openapi", "/auth/openapi.json"),
        ("portal_claims", "/.well-known/portcullis/claims"),
    ] {
        check(id, &client.get(path).send().await);
    }
    check("portal_claims", &client.get("/.well-known/portcullis/claims").bearer("unknown").send().await);
    let again = client.login("ann@example.org").await.access;
    answers_about_api_keys(&client, &again, &mut check).await;
    let own = claims_of(&again)["sid"].as_str().unwrap().to_owned();
    for (id, method, path) in [
        ("portal_sessions", "GET", "/auth/sessions"),
        ("portal_session", "GET", &*format!("/auth/sessions/{own}")),
        ("portal_session", "GET", "/auth/sessions/x"),
        ("portal_sessions_end", "DELETE", "/auth/sessions"),
        ("portal_session_end", "DELETE", "/auth/sessions/x"),
        ("portal_session_end", "DELETE", &*format!("/auth/sessions/{own}")),
    ] {
        check(id, &client.call(method, path).bearer(&again).send().await);
        check(id, &client.call(method, path).bearer("garbage").send().await);
    }
    let again = client.login("ann@example.org").await.access;
    for (id, path) in [("portal_introspect", "/oauth/introspect"), ("portal_revoke", "/oauth/revoke")] {
        let good = format!("client_id=docs&client_secret={SECRET}&token=");
        for body in [format!("{good}{again}"), format!("{good}x"), good, "token=x".to_owned()] {
            let call = client.post(path).header("content-type", "application/x-www-form-urlencoded");
            check(id, &call.body(body).send().await);
        }
        check(id, &client.post(path).json(&json!({})).send().await);
    }
    let again = client.login("ann@example.org").await.access;
    for (id, (method, path, operation)) in &operations {
        if operation.get("requestBody").is_none() || is_of_clients(id) {
            continue;
        }
        let call = || client.call(method, path).bearer(&again);
        let json = || call().header("content-type", "application/json");
        check(id, &json().body("{").send().await);
        check(id, &json().body(format!("\"{}\"", "x".repeat(9_000))).send().await);
        check(id, &json().body("[]").send().await);
        check(id, &call().header("content-type", "text/plain").body("{}").send().await);
    }
    for (id, answer) in of_administrators(&gateway, &operations, &again).await {
        check(&id, &answer);
    }
    for (id, (.., operation)) in &operations {
        let succeeds = operation["responses"].as_object().unwrap().keys().find(|status| status.starts_with('2'));
        let status: u16 = succeeds.unwrap().parse().unwrap();
        // What a reference reads, services get one for: `identities` shows it.
        assert!(id == "portal_claims" || seen.contains(&(id.clone(), status)), "{id} never answered {status}");
    }
}

/// What is answered about API keys.
async fn answers_about_api_keys(client: &Client, access: &str, check: &mut impl FnMut(&str, &Answer)) {
    let full = json!({"name": "k", "roles": ["user"], "scopes": [], "expires_at": "2100-01-01T00:00:00Z"});
    let mut keys = Vec::new();
    for body in [full, json!({"name": "k", "roles": null, "expires_in": 60}), json!({"name": ""})] {
        let answer = client.post("/auth/api-keys").bearer(access).json(&body).send().await;
        check("portal_api_key_create", &answer);
        keys.push(answer.json()["id"].as_str().unwrap_or("x").to_owned());
    }
    let (first, of_it) = (format!("/auth/api-keys/{}", keys[0]), ["pk_x", access]);
    for (id, method, path) in [
        ("portal_api_keys", "GET", "/auth/api-keys"),
        ("portal_api_key_revoke", "DELETE", &*first),
        ("portal_api_key_revoke", "DELETE", "/auth/api-keys/x"),
    ] {
        for token in of_it {
            check(id, &client.call(method, path).bearer(token).send().await);
        }
    }
}

/// Too much of everything, from an address each.
#[tokio::test]
async fn whatever_is_too_much_is_described() {
    let upstream = Upstream::start().await;
    let yaml = "\
listeners:
  public: {bind: \"127.0.0.1:0\", flood: {window: 30s, bad_requests: 6, failed_tokens: 3}}
  admin: {bind: \"127.0.0.1:0\"}
portal: {api_keys: {made_per_user: 1/1h}}
lockout: {registration: {per_address: 1/1h}}
credential_stuffing: {pairs: 20}
";
    let gateway = Gateway::start(Engine::Sqlite, &format!("{yaml}{}", standard(&upstream))).await;
    let client = gateway.client();
    let document = described(&client).await;
    let check = |id: &str, answer: &Answer, code: &str| {
        answer.refused(429, code);
        described_so(&document, id, answer, &mut BTreeSet::new());
    };
    let ann = client.register("ann@example.org").await;
    let bob = json!({"email": "bob@example.org", "password": PASSWORD});
    check("portal_register", &client.post("/auth/register").json(&bob).send().await, "calls_paced");
    let key = || client.post("/auth/api-keys").bearer(&ann.access).json(&json!({"name": "k"})).send();
    key().await.expect(201);
    check("portal_api_key_create", &key().await, "calls_paced");

    let robber = gateway.client_at("127.0.0.2");
    for number in 0..60 {
        let pair = json!({"email": format!("{number}@example.org"), "password": format!("of number {number}")});
        robber.post("/auth/login").json(&pair).send().await;
    }
    let pair = json!({"email": "ann@example.org", "password": PASSWORD});
    check("portal_login", &robber.post("/auth/login").json(&pair).send().await, "logins_refused");

    let forger = gateway.client_at("127.0.0.3");
    let cut = ann.access.len() - 20;
    let altered = |letter: &str| format!("{}{}{}", &ann.access[..cut], letter.repeat(4), &ann.access[cut + 4..]);
    for letter in ["a", "b", "c"] {
        forger.get("/auth/me").bearer(&altered(letter)).send().await.refused(401, "invalid_token");
    }
    check("portal_me", &forger.get("/auth/me").bearer(&altered("d")).send().await, "tokens_unchecked");

    let flooder = gateway.client_at("127.0.0.4");
    for _ in 0..7 {
        flooder.get("/nowhere").send().await;
    }
    for (id, path) in [("portal_me", "/auth/me"), ("portal_jwks", "/.well-known/jwks.json")] {
        check(id, &flooder.get(path).send().await, "address_flooding");
    }
    // What takes a full machine to see.
    let login = operations(&document)["portal_login"].2["responses"]["503"]["description"].as_str().unwrap().to_owned();
    for code in ["hash_queue_full", "logins_under_way", "overloaded", "store_unavailable"] {
        assert!(login.contains(&format!("`{code}`")), "{code} not in {login}");
    }
}

/// The members that a refusal says nobody asked for.
fn unknown(answer: &Answer) -> BTreeSet<String> {
    let faults = answer.json()["errors"].as_array().unwrap().clone();
    let unknown = faults.iter().filter(|fault| fault["message"] == "is not a field of this request");
    unknown.map(|fault| fault["field"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_form_is_described_where_it_is_taken_and_may_and_must_hold_what_is_described() {
    const FORM: &str = "application/x-www-form-urlencoded";
    let plain = gateway("enabled: true").await;
    for (id, (.., operation)) in operations(&described(&plain.client()).await) {
        if is_of_clients(&id) {
            continue;
        }
        assert!(operation["requestBody"]["content"].get(FORM).is_none(), "{operation}");
    }
    let gateway = gateway("compat: fastapi").await;
    let client = gateway.client();
    let document = described(&client).await;
    let mut taken = Vec::new();
    for (id, (method, path, operation)) in operations(&document) {
        let Some(body) = operation.get("requestBody").filter(|_| !is_of_clients(&id)) else { continue };
        let send =
            async |form: String| client.call(&method, &path).header("content-type", FORM).body(form).send().await;
        let Some(form) = body["content"].get(FORM) else {
            let answer = send("username=x&password=y".into()).await;
            assert!(answer.status == 415 || answer.code() == "credentials_missing", "{id}: {}", answer.text());
            continue;
        };
        let described: BTreeSet<_> = form["schema"]["properties"].as_object().unwrap().keys().cloned().collect();
        let mut anything = taken_anywhere();
        anything.extend(described.iter().cloned());
        anything.insert("remember_me".into());
        let all: Vec<_> = anything.iter().map(|name| format!("{name}=x")).collect();
        let answer = send(all.join("&")).await;
        answer.refused(422, "validation");
        assert_eq!(&anything - &unknown(&answer), described, "{id}");
        let required: BTreeSet<_> = ["email".to_owned(), "password".to_owned()].into();
        assert_eq!(faults(&send("username=&password=".into()).await), required, "what is empty is missing");
        let crossed = client.call(&method, &path).header("content-type", FORM).header("origin", "https://evil.test");
        described_so(&document, &id, &crossed.body("username=x&password=y").send().await, &mut BTreeSet::new());
        taken.push(id);
    }
    assert_eq!(taken, ["portal_login"]);
}

#[tokio::test]
async fn whatever_the_portal_answers_is_described() {
    whatever_is_answered_is_described("enabled: true").await;
}

#[tokio::test]
async fn whatever_the_portal_answers_a_fastapi_front_end_is_described() {
    whatever_is_answered_is_described("compat: fastapi").await;
}

/// The members a refusal names.
fn faults(answer: &Answer) -> BTreeSet<String> {
    answer.refused(422, "validation");
    answer.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault["field"].as_str().unwrap().to_owned())
        .collect()
}

/// Every member that any handler takes from a body, as its source says.
fn taken_anywhere() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/portal");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let sources = files.filter(|path| path.is_file()).map(|path| std::fs::read_to_string(path).unwrap());
    let names_in = |source: String| -> Vec<String> {
        let calls = ["fields.required(\"", "fields.optional(\"", "fields.nullable(\""];
        let after = calls.iter().flat_map(|call| source.split(call).skip(1));
        after.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    };
    sources.flat_map(names_in).collect()
}

#[tokio::test]
async fn a_body_may_and_must_hold_what_is_described() {
    let gateway = gateway("enabled: true").await;
    let client = gateway.client();
    let document = described(&client).await;
    let token = client.register("ann@example.org").await.access;
    let anything = taken_anywhere();
    assert!(anything.contains("all") && anything.len() >= 7, "{anything:?}");
    let mut looked_at = 0;
    for (id, (method, path, operation)) in operations(&document) {
        let Some(body) = operation.get("requestBody").filter(|_| !is_of_clients(&id)) else { continue };
        let schema = &body["content"]["application/json"]["schema"];
        let members: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().cloned().collect();
        let send = async |body: &Value| client.call(&method, &path).bearer(&token).json(body).send().await;

        // Every member there is anywhere, of a kind that none is: those described here are known, and no other.
        let answer = send(&anything.iter().map(|name| (name.clone(), json!([1]))).collect()).await;
        assert_eq!(faults(&answer), anything, "{id}: each is of a kind");
        assert_eq!(&anything - &unknown(&answer), members, "{id}");

        // What must be there is named when it is not.
        let required: BTreeSet<_> =
            schema["required"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect();
        if !required.is_empty() {
            let missing = faults(&send(&json!({})).await);
            let expected =
                if schema.get("oneOf").is_some() { &missing - &["email".to_owned()].into() } else { missing };
            assert_eq!(expected, required, "{id}");
        }
        assert_eq!(body["required"], !required.is_empty(), "{id}");
        looked_at += 1;
    }
    assert_eq!(looked_at, 7);
}
