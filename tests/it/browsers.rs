//! The portal as front ends find it that were written for something else: other paths, one box for the name,
//! on one gateway and on two.

use serde_json::json;

use crate::harness::{
    client::{Answer, PASSWORD},
    gateway::standard,
    gateways::{Deployment, Gateways},
    upstream::Upstream,
};

on_every_deployment!(
    every_base_path_is_the_same_portal,
    either_box_takes_a_username_or_an_address,
    a_front_end_written_against_fastapi_finds_its_statuses_and_words,
    what_the_file_says_goes_before_a_profile_s_defaults,
);

const COOKIE: &str = "__Secure-portcullis-refresh";

/// The refresh cookie as it is set for a path.
fn cookie_for(answer: &Answer, path: &str) -> String {
    let lines = answer.all("set-cookie");
    let of_path =
        |line: &&&str| line.starts_with(COOKIE) && line.split("; ").any(|part| part == format!("Path={path}"));
    let found: Vec<_> = lines.iter().filter(of_path).collect();
    assert_eq!(found.len(), 1, "{path}: {lines:?}");
    found[0].split(';').next().unwrap().to_owned()
}

async fn every_base_path_is_the_same_portal(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let yaml = format!("portal: {{base_paths: [/auth, /api/auth]}}\n{}", standard(&upstream));
    let gateway = Gateways::start(deployment, &yaml).await;
    let client = gateway.client();
    let body = json!({"email": "ann@example.org", "password": PASSWORD, "delivery": "cookie"});
    let signed_up = client.post("/api/auth/signup").json(&body).send().await.expect(201);
    let access = client.tokens(&signed_up).access;
    assert_eq!(client.status("/ask/a", &access).await, 200);

    // A browser sends each path its own copy of the cookie; both are the one session's.
    let copies = ["/auth", "/api/auth"].map(|path| cookie_for(&signed_up, path));
    assert_eq!(copies[0], copies[1]);
    let refresh = async |path: &str, cookie: &str| {
        let call = client.post(&format!("{path}/refresh")).header("cookie", cookie);
        call.header("sec-fetch-site", "same-origin").send().await.expect(200)
    };
    let refreshed = refresh("/auth", &copies[0]).await;
    let next = cookie_for(&refreshed, "/api/auth");
    assert_eq!(next, cookie_for(&refreshed, "/auth"));
    let access = client.tokens(&refresh("/api/auth", &next).await).access;

    let me = client.get("/api/auth/me").bearer(&access).send().await.expect(200).json();
    assert_eq!(me["email"], "ann@example.org");
    let left = client.post("/auth/logout").bearer(&access).send().await.expect(204);
    for path in ["/auth", "/api/auth"] {
        assert_eq!(cookie_for(&left, path), format!("{COOKIE}="));
    }
    gateway.know_what_ended().await;
    client.get("/api/auth/me").bearer(&access).send().await.refused(401, "invalid_token");
    client.post("/api/auth/logon").json(&body).send().await.refused(404, "no_route");
    client.post("/api/register").json(&body).send().await.refused(404, "no_route");
}

async fn either_box_takes_a_username_or_an_address(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::standard(deployment, &upstream).await;
    let client = gateway.client();
    let body = json!({"email": "ann@example.org", "password": PASSWORD, "username": "Ann.Lee"});
    let registered = client.post("/auth/register").json(&body).send().await.expect(201).json();
    client
        .post("/auth/register")
        .json(&json!({"email": "ann.lee@example.org", "password": PASSWORD}))
        .send()
        .await
        .expect(201);
    for name in ["ann@example.org", "Ann@EXAMPLE.org", "Ann.Lee", "ann.lee"] {
        for member in ["email", "username"] {
            let login = client.post("/auth/login").json(&json!({member: name, "password": PASSWORD}));
            let user = login.send().await.expect(200).json()["user"]["id"].clone();
            assert_eq!(user, registered["user"]["id"], "{name} as {member}");
        }
    }
    for name in ["ann", "lee@example.org", "Ann.Lee@", "@ann.lee", ""] {
        for member in ["email", "username"] {
            let login = client.post("/auth/login").json(&json!({member: name, "password": PASSWORD}));
            login.send().await.refused(401, "login_failed");
        }
    }
}

fn fastapi(upstream: &Upstream) -> String {
    format!("portal: {{compat: fastapi}}\n{}", standard(upstream))
}

async fn a_front_end_written_against_fastapi_finds_its_statuses_and_words(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::start(deployment, &fastapi(&upstream)).await;
    let client = gateway.client();
    let detail = |answer: &Answer| answer.json()["detail"].as_str().unwrap().to_owned();

    // Eight characters, and as common as a password can be.
    let body = json!({"email": "ann@example.org", "username": "ann", "password": "password"});
    let registered = client.post("/auth/signup").json(&body).send().await.expect(201);
    assert!(registered.json().get("refresh_token").is_none());
    let cookie = cookie_for(&registered, "/auth");
    let short = json!({"email": "eve@example.org", "password": "passwor"});
    client.post("/auth/signup").json(&short).send().await.refused(422, "validation");

    for (taken, said) in [
        (json!({"email": "Ann@example.org", "password": "password"}), "Email already registered"),
        (json!({"email": "eve@example.org", "username": "Ann", "password": "password"}), "Username already registered"),
    ] {
        let answer = client.post("/auth/register").json(&taken).send().await;
        answer.refused(400, "account_exists");
        assert_eq!(detail(&answer), said);
    }
    for (method, path, token, status, code, said) in [
        ("GET", "/auth/me", None, 403, "credentials_missing", "Not authenticated"),
        ("GET", "/ask/a", None, 403, "credentials_missing", "Not authenticated"),
        ("GET", "/auth/me", Some("garbage"), 401, "invalid_token", "Could not validate credentials"),
        ("GET", "/ask/a", Some("garbage"), 401, "invalid_token", "Could not validate credentials"),
        ("GET", "/auth/nowhere", None, 404, "no_route", "Not Found"),
        ("GET", "/auth/login", None, 405, "method_not_allowed", "Method Not Allowed"),
    ] {
        let call = client.call(method, path);
        let answer = match token {
            None => call,
            Some(token) => call.bearer(token),
        };
        let answer = answer.send().await;
        answer.refused(status, code);
        assert_eq!(detail(&answer), said, "{path}");
    }
    let wrong = client.post("/auth/login").json(&json!({"username": "ann", "password": "wrong-password"})).send().await;
    wrong.refused(401, "login_failed");
    assert_eq!(detail(&wrong), "Incorrect username or password");

    // Whatever access token is sent along, a refresh goes by the refresh token, and by nothing else.
    let access = client.tokens(&registered).access;
    client.post("/auth/refresh").bearer(&access).send().await.refused(400, "invalid_grant");
    let refresh = client.post("/auth/refresh").header("cookie", &cookie).header("sec-fetch-site", "same-origin");
    let refreshed = refresh.bearer("garbage").send().await.expect(200);
    assert_ne!(cookie_for(&refreshed, "/auth"), cookie);
    assert_eq!(client.status("/ask/a", &client.tokens(&refreshed).access).await, 200);
}

async fn what_the_file_says_goes_before_a_profile_s_defaults(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let yaml = format!(
        "passwords: {{hash_threads: 1, min_length: 12, blocklist: true}}\n\
         tokens: {{issuer: \"https://gw.test\", delivery: body}}\n{}",
        fastapi(&upstream)
    );
    let gateway = Gateways::start(deployment, &yaml).await;
    let client = gateway.client();
    let register =
        |password| client.post("/auth/register").json(&json!({"email": "a@example.org", "password": password}));
    register("password").send().await.refused(422, "validation");
    register("password1234").send().await.refused(422, "validation");
    let registered = register("tin-owl-58-vex").send().await.expect(201);
    assert!(registered.json()["refresh_token"].is_string());
}
