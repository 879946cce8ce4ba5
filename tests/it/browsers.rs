//! The portal as front ends find it that were written for something else: other paths, one box for the name,
//! on one gateway and on two.

use serde_json::json;

use crate::harness::{
    client::{Answer, Call, Client, PASSWORD},
    gateway::{ISSUER, standard},
    gateways::{Deployment, Gateways},
    upstream::Upstream,
};

on_every_deployment!(
    every_base_path_is_the_same_portal,
    either_box_takes_a_username_or_an_address,
    a_front_end_written_against_fastapi_finds_its_statuses_and_words,
    what_the_file_says_goes_before_a_profile_s_defaults,
    a_login_form_of_fastapi_is_taken_and_means_what_it_says,
    a_form_on_another_site_logs_nobody_in,
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

/// `OAuth2PasswordRequestForm`, as a front end sends it.
fn form(client: &Client, body: &str) -> Call {
    let media_type = "application/x-www-form-urlencoded;charset=UTF-8";
    client.post("/auth/login").header("content-type", media_type).body(body.to_owned())
}

async fn a_login_form_of_fastapi_is_taken_and_means_what_it_says(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateway = Gateways::start(deployment, &fastapi(&upstream)).await;
    let client = gateway.client();
    let body = json!({"email": "ann+rag@example.org", "username": "ann", "password": "a b+c&d=é%41"});
    client.post("/auth/signup").json(&body).send().await.expect(201);

    let password = "a+b%2Bc%26d%3D%C3%A9%2541";
    let own = |body: &str| form(&client, body).header("sec-fetch-site", "same-origin");
    for sent in [
        format!("username=ann%2Brag%40example.org&password={password}"),
        format!("grant_type=password&username=ann&password={password}&scope=&client_id=&client_secret="),
        format!("grant_type=&username=Ann&password={password}&scope=items%3Aread+me&client_id=web"),
        format!("username=ann&password={password}&delivery=cookie"),
    ] {
        let answer = own(&sent).send().await.expect(200);
        assert_eq!(answer.json()["token_type"], "Bearer", "{sent}");
        assert!(answer.json().get("refresh_token").is_none(), "as a login by JSON: {sent}");
        cookie_for(&answer, "/auth");
        assert_eq!(client.status("/ask/a", &client.tokens(&answer).access).await, 200);
    }
    for wrong in ["a+b+c%26d%3D%C3%A9%2541", "a+b%2Bc", "a%2Bb%2Bc%26d%3D%C3%A9%2541", "a+b%2Bc%26d%3D%C3%A9A"] {
        own(&format!("username=ann&password={wrong}")).send().await.refused(401, "login_failed");
    }
    for (odd, status, code) in [
        (format!("username=ann&username=bob&password={password}"), 422, "validation"),
        (format!("username=ann&password=x&password={password}"), 422, "validation"),
        (format!("grant_type=refresh_token&username=ann&password={password}"), 422, "validation"),
        (format!("username=ann&password={password}&role=admin"), 422, "validation"),
        ("username=ann".to_owned(), 422, "validation"),
        ("username=ann&password=%ff".to_owned(), 400, "body_broken"),
        (format!("username=ann&password={}", "x".repeat(9_000)), 413, "body_too_large"),
        ("a=b&".repeat(1_000), 400, "body_broken"),
    ] {
        own(&odd).send().await.refused(status, code);
    }
    let json = form(&client, &json!({"username": "ann", "password": "x"}).to_string());
    json.send().await.refused(422, "validation");
    for media_type in ["application/x-www-form-urlencoded; charset=latin1", "text/plain", "multipart/form-data"] {
        let call = client.post("/auth/login").header("content-type", media_type);
        call.body(format!("username=ann&password={password}")).send().await.refused(415, "media_type");
    }
    // Of the portal's calls only a login.
    let signup = client.post("/auth/signup").header("content-type", "application/x-www-form-urlencoded");
    signup.body("email=eve@example.org&password=password").send().await.refused(415, "media_type");
}

async fn a_form_on_another_site_logs_nobody_in(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let listed = "https://app.gw.test";
    let yaml = format!(
        "portal: {{compat: fastapi, allowed_origins: [\"{listed}\"]}}\n{}",
        standard(&upstream).replace("auth: optional", "auth: optional, credentials: [bearer, cookie]")
    );
    let gateway = Gateways::start(deployment, &yaml).await;
    let client = gateway.client();
    let eve = json!({"email": "eve@example.org", "password": "password"});
    client.post("/auth/signup").json(&eve).send().await.expect(201);
    let sent = "username=eve%40example.org&password=password";
    for (name, value) in [
        ("origin", "https://evil.test"),
        ("origin", "null"),
        ("origin", "http://gw.test"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", ""),
    ] {
        let answer = form(&client, sent).header(name, value).send().await;
        answer.refused(403, "cross_site");
        assert_eq!(answer.all("set-cookie"), [""; 0], "{name}: {value}");
    }
    for (name, value) in [("origin", ISSUER), ("origin", listed), ("sec-fetch-site", "same-origin")] {
        let answer = form(&client, sent).header(name, value).send().await.expect(200);
        cookie_for(&answer, "/auth");
    }
    // A client that is no browser says nothing, and has no use for cookies; an old browser would keep none.
    let script = form(&client, sent).send().await.expect(200);
    assert_eq!(script.all("set-cookie"), [""; 0]);
    let tokens = client.tokens(&script);
    assert_eq!(client.refreshed(&tokens.refresh).await.user["email"], "eve@example.org");
    form(&client, &format!("{sent}&delivery=cookie")).send().await.refused(403, "cross_site");

    // Without the profile a form is no login at all.
    let plain = Gateways::standard(deployment, &upstream).await;
    let answer = form(&plain.client(), sent).header("sec-fetch-site", "same-origin").send().await;
    answer.refused(415, "media_type");
}
