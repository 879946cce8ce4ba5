//! What is refused, and that nothing of it reaches a service: ambiguous heads and paths, smuggling, spoofed identities,
//! bodies that do not fit.
//!
//! What hyper's parser refuses by itself keeps its bare status (no body, no request id); the tests say which those are.

use serde_json::json;

use crate::harness::{
    client::PASSWORD,
    gateway::{Engine, Gateway},
    raw::RawAnswer,
    tokens::with,
    upstream::Upstream,
};

/// A gateway on SQLite and the service behind it.
async fn gateway() -> (Gateway, Upstream) {
    let upstream = Upstream::start().await;
    (Gateway::standard(Engine::Sqlite, &upstream).await, upstream)
}

/// Sends raw bytes on a connection of their own; the answer, if there is one.
async fn ask(gateway: &Gateway, bytes: &[u8]) -> Option<RawAnswer> {
    let mut raw = gateway.raw().await;
    // A refusal may come before the last byte is taken.
    let _ = raw.try_send(bytes).await;
    raw.answer().await
}

/// A GET with these header lines after the `Host`.
fn get(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n")
}

#[tokio::test]
async fn an_ordinary_raw_request_is_served() {
    let (gateway, upstream) = gateway().await;
    let answer = ask(&gateway, get("/open/a?b=c", "").as_bytes()).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "from the upstream"));
    assert_eq!(upstream.last().target(), "/open/a?b=c");
}

#[tokio::test]
async fn an_ambiguous_path_is_400_and_reaches_nobody() {
    let (gateway, upstream) = gateway().await;
    for path in [
        "/open/../ask/a",
        "/open/./a",
        "/open/%2e%2e/ask",
        "/open/%2E%2e/ask",
        "/open/a%2fb",
        "/open/a%2Fb",
        "/open/a\\b",
        "/open/a%5cb",
        "/open//a",
        "//open/a",
        "/open/a;b",
        "/open/a%3bb",
        "/open/%00",
        "/open/a%0d%0a",
        "/open/%",
        "/open/%4",
        "/open/%zz",
        "/open/%c0%af",
        "/open/%252e%252e/a",
        "/open/%252f",
        "/open/..",
    ] {
        let answer = ask(&gateway, get(path, "").as_bytes()).await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (400, "path_invalid"), "{path}: {}", answer.text());
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn one_resource_has_one_spelling_when_matched_and_forwarded() {
    let (gateway, upstream) = gateway().await;
    for (sent, forwarded) in [
        ("/open/%61b", "/open/ab"),
        ("/%6fpen/a", "/open/a"),
        ("/open/%e4%bd%a0", "/open/%E4%BD%A0"),
        ("/open/a%20b?x=%2f..", "/open/a%20b?x=%2f.."),
        ("/open/", "/open/"),
        ("/open/%7Eme", "/open/~me"),
    ] {
        let answer = ask(&gateway, get(sent, "").as_bytes()).await.unwrap();
        assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
        assert_eq!(upstream.last().target(), forwarded);
    }
    let before = upstream.received().len();
    // Spelled differently it is the same protected route.
    let answer = ask(&gateway, get("/%61sk/a", "").as_bytes()).await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (401, "credentials_missing"));
    assert_eq!(upstream.received().len(), before);
}

#[tokio::test]
async fn a_host_that_could_mean_two_things_is_400() {
    let (gateway, upstream) = gateway().await;
    for head in [
        "GET /open/a HTTP/1.1\r\n\r\n",
        "GET /open/a HTTP/1.0\r\n\r\n",
        "GET /open/a HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        "GET /open/a HTTP/1.1\r\nHost: a.test\r\nhost: a.test\r\n\r\n",
        "GET /open/a HTTP/1.1\r\nHost:\r\n\r\n",
        "GET /open/a HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n",
        "GET /open/a HTTP/1.1\r\nHost: a.test/x\r\n\r\n",
        "GET /open/a HTTP/1.1\r\nHost: user@a.test\r\n\r\n",
        "GET /open/a HTTP/1.1\r\nHost: a.test:x\r\n\r\n",
        "GET http://b.test/open/a HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "GET http://a.test/open/a HTTP/1.1\r\n\r\n",
        "GET http://a.test:81/open/a HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ] {
        let answer = ask(&gateway, head.as_bytes()).await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (400, "host_invalid"), "{head:?}: {}", answer.text());
    }
    upstream.assert_untouched();
    let absolute = "GET http://A.test/open/a HTTP/1.1\r\nHost: a.test\r\n\r\n";
    assert_eq!(ask(&gateway, absolute.as_bytes()).await.unwrap().status, 200, "the same host twice is one host");
    assert_eq!(upstream.last().target(), "/open/a");
}

#[tokio::test]
async fn a_header_that_could_mean_two_things_is_400() {
    let (gateway, upstream) = gateway().await;
    for (lines, code) in [
        ("X_User_Id: eve\r\n", "header_invalid"),
        ("X-User_Id: eve\r\n", "header_invalid"),
        ("Content-Type: a/b\r\nContent-Type: c/d\r\n", "header_invalid"),
        ("Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", "header_invalid"),
        ("Connection: close, X-Gateway-Identity\r\n", "header_invalid"),
        ("Connection: authorization\r\n", "header_invalid"),
        ("Connection: transfer-encoding\r\n", "header_invalid"),
        ("Transfer-Encoding: gzip, chunked\r\n", "transfer_encoding_invalid"),
        ("Transfer-Encoding: chunked, chunked\r\n", "transfer_encoding_invalid"),
    ] {
        let answer = ask(&gateway, get("/open/a", lines).as_bytes()).await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (400, code), "{lines:?}: {}", answer.text());
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn what_the_parser_refuses_is_a_bare_400_and_reaches_nobody() {
    let (gateway, upstream) = gateway().await;
    let post = |lines: &str, body: &str| format!("POST /open/a HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n{body}");
    for bytes in [
        get("/open/a", "X-Folded: a\r\n b\r\n"),
        get("/open/a", "X-Bare: a\rb\r\n"),
        get("/open/a", "X-Nul: a\0b\r\n"),
        get("/open/a", "X-Space : a\r\n"),
        post("Content-Length: 1\r\nContent-Length: 2\r\n", "ab"),
        post("Content-Length: 1, 2\r\n", "ab"),
        post("Content-Length: +1\r\n", "a"),
        post("Content-Length: -1\r\n", "a"),
        post("Transfer-Encoding: x\r\n", "1\r\na\r\n0\r\n\r\n"),
        "POST /open/a HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET /open/a HTTP/9.9\r\nHost: a.test\r\n\r\n".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
    ] {
        let mut raw = gateway.raw().await;
        let _ = raw.try_send(bytes.as_bytes()).await;
        let answer = raw.answer().await;
        assert_eq!(answer.as_ref().map(|answer| answer.status), Some(400), "{bytes:?}: {answer:?}");
        raw.closed().await;
    }
    upstream.assert_untouched();
    assert!(gateway.metric("portcullis_connection_errors_total{kind=\"parse\"}").await >= 12.0);
}

#[tokio::test]
async fn two_framings_have_one_meaning_upstream() {
    let (gateway, upstream) = gateway().await;
    let mut raw = gateway.raw().await;
    // What a smuggler would have us see as the second request is part of a chunked body, or never read at all.
    let smuggled = "0\r\n\r\nGET /open/smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let lines = format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", smuggled.len());
    raw.send(&format!("POST /open/a HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n{smuggled}")).await;
    let answer = raw.answer().await.unwrap();
    raw.closed().await;
    let received = upstream.received();
    assert!(received.iter().all(|one| one.target() == "/open/a"), "{received:#?}");
    assert_eq!((answer.status, received.len()), (200, 1));
    assert_eq!((received[0].body.whole, received[0].body.len), (true, 0));
    let framings = received[0].head.all("content-length").len() + received[0].head.all("transfer-encoding").len();
    assert_eq!(framings, 1, "{:#?}", received[0].head);
}

/// CL.TE, TE.CL and TE.TE: each pair of framings that two servers have been seen to read differently, on a connection
/// whose next bytes a smuggler would have taken for a request.
#[tokio::test]
async fn no_pair_of_framings_smuggles_a_request() {
    let (gateway, upstream) = gateway().await;
    let smuggled = "GET /open/smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let chunks = "1\r\na\r\n0\r\n\r\n";
    for lines in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 6\r\nTransfer-Encoding: Chunked\r\n",
        "Content-Length: 6\r\nTransfer-Encoding: identity\r\n",
        "Content-Length: 6\r\nTransfer-Encoding:\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunkedx\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked;x=y\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n",
        "Transfer_Encoding: chunked\r\nContent-Length: 6\r\n",
        "Content-Length: 6\r\nContent_Length: 0\r\n",
        "Content-Length: 0x6\r\n",
        "Content-Length: 6;\r\n",
        "Content-Length: 6 6\r\n",
        "Content-Length: 99999999999999999999\r\n",
    ] {
        let before = upstream.received().len();
        let mut raw = gateway.raw().await;
        let request = format!("POST /open/a HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n{chunks}{smuggled}");
        let _ = raw.try_send(request.as_bytes()).await;
        let status = raw.answer().await.map(|answer| answer.status);
        raw.closed().await;
        let through = upstream.received().split_off(before);
        assert!(through.iter().all(|one| one.target() == "/open/a"), "{lines:?}: {through:#?}");
        match (status, through.as_slice()) {
            // hyper goes by the chunks, says so upstream, and closes.
            (Some(200), [one]) => assert_eq!(one.body.bytes, b"a", "{lines:?}"),
            (Some(400), []) => {}
            other => panic!("{lines:?}: {other:#?}"),
        }
    }
}

/// Chunks that two servers have been seen to measure differently.
#[tokio::test]
async fn a_chunk_of_doubtful_size_is_never_part_of_a_whole_body() {
    let (gateway, upstream) = gateway().await;
    for chunks in [
        "0x1\r\na\r\n0\r\n\r\n",
        "+1\r\na\r\n0\r\n\r\n",
        "-1\r\na\r\n0\r\n\r\n",
        "1_0\r\na\r\n0\r\n\r\n",
        "g\r\na\r\n0\r\n\r\n",
        "\r\na\r\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\rXa\r\n0\r\n\r\n",
        "10000000000000001\r\na\r\n0\r\n\r\n",
        "1\r\na0\r\n\r\n",
    ] {
        let request = format!("POST /open/a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let answer = ask(&gateway, request.as_bytes()).await;
        let status = answer.map(|answer| answer.status);
        assert!(matches!(status, None | Some(400)), "{chunks:?}: {status:?}");
        assert!(upstream.received().iter().all(|one| !one.body.whole), "{chunks:?}");
    }
}

#[tokio::test]
async fn equal_lengths_are_one_length_upstream() {
    let (gateway, upstream) = gateway().await;
    let head = "POST /open/a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab";
    let answer = ask(&gateway, head.as_bytes()).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.last().head.all("content-length"), ["2"]);
}

#[tokio::test]
async fn tunnels_and_echoes_are_refused() {
    let (gateway, upstream) = gateway().await;
    for head in
        ["TRACE /open/a HTTP/1.1\r\nHost: a.test\r\n\r\n", "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n"]
    {
        let answer = ask(&gateway, head.as_bytes()).await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (405, "method_refused"), "{head:?}: {}", answer.text());
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn an_oversized_head_is_431() {
    let (gateway, upstream) = gateway().await;
    let large = get("/open/a", &format!("X-Large: {}\r\n", "x".repeat(40 << 10)));
    let many = get("/open/a", &"X-Many: y\r\n".repeat(120));
    let long = get(&format!("/open/{}", "x".repeat(70 << 10)), "");
    for (what, bytes, allowed) in [("large", large, [431, 431]), ("many", many, [431, 431]), ("long", long, [414, 431])]
    {
        let status = ask(&gateway, bytes.as_bytes()).await.unwrap().status;
        assert!(allowed.contains(&status), "{what}: {status}");
    }
    upstream.assert_untouched();
}

/// Everything a client might try to be taken for somebody else by.
const SPOOFED: &str = "X-Gateway-Identity: e30.e30.x\r\nX-User-Id: eve\r\nX-User-Email: eve@example.org\r\n\
    X-User-Roles: admin\r\nX-Org-Id: acme\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n\
    X-Forwarded-Host: evil.example\r\nX-Forwarded-User: eve\r\nX-Auth-Request-Email: eve@example.org\r\n\
    Forwarded: for=9.9.9.9\r\nX-Real-IP: 9.9.9.9\r\nRemote-User: eve\r\nX-Remote-User: eve\r\nX-Original-URL: /ask/a\r\n\
    X-Rewrite-URL: /ask/a\r\nX-HTTP-Method-Override: DELETE\r\nX-Request-Id: chosen-by-the-client\r\nProxy: evil\r\n";

#[tokio::test]
async fn spoofed_identity_headers_reach_nobody_on_any_route() {
    let (gateway, upstream) = gateway().await;
    let session = gateway.client().register("ann@example.org").await;
    let bearer = format!("Authorization: Bearer {}\r\n", session.access);
    for (path, lines, user) in
        [("/open/a", "", None), ("/maybe/a", "", None), ("/ask/a", bearer.as_str(), session.user["id"].as_str())]
    {
        let answer = ask(&gateway, get(path, &format!("{SPOOFED}{lines}")).as_bytes()).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let head = upstream.last().head;
        let everything = format!("{head:?}");
        for trace in ["eve", "9.9.9.9", "evil", "admin", "acme", "e30.", "DELETE", "chosen-by-the-client"] {
            assert!(!everything.contains(trace), "{path}: {trace} in {head:#?}");
        }
        assert_eq!(head.header("x-user-id"), user);
        assert_eq!(head.header("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(head.header("x-forwarded-proto"), Some("http"));
        assert_eq!(head.header("x-forwarded-host"), Some("a.test"));
        assert_eq!(head.header("x-request-id"), answer.head.header("x-request-id"));
        assert!(head.header("x-gateway-identity").is_some());
    }
}

#[tokio::test]
async fn a_registration_says_nothing_it_is_not_asked() {
    let (gateway, _upstream) = gateway().await;
    let client = gateway.client();
    let good = json!({"email": "ann@example.org", "password": PASSWORD});
    for (field, value) in [
        ("role", json!("admin")),
        ("roles", json!(["admin"])),
        ("is_active", json!(true)),
        ("org", json!("acme")),
        ("id", json!("1")),
        ("Email", json!("x")),
        ("email_verified", json!(true)),
        ("", json!("")),
    ] {
        let body = with(good.clone(), &json!({field: value}));
        let answer = client.post("/auth/register").json(&body).send().await;
        answer.refused(422, "validation");
        assert_eq!(answer.json()["errors"][0]["field"], field, "{}", answer.text());
    }
    for (field, value) in [
        ("email", json!("not an address")),
        ("email", json!("a@b@c")),
        ("email", json!(7)),
        ("email", json!(null)),
        ("email", json!("a\u{0}@example.org")),
        ("email", json!("ann@example.org%00")),
        ("email", json!("ann@exam_ple.org")),
        ("email", json!("ann@10.0.0.1")),
        ("email", json!(format!("{}@example.org", "a".repeat(400)))),
        ("password", json!("short")),
        ("password", json!("x".repeat(129))),
        ("password", json!("aaaaaaaaaaaaaaaaaaaa")),
        ("password", json!("ann@example.org-1")),
        ("password", json!(["a"])),
        ("username", json!("a b")),
        ("delivery", json!("carrier pigeon")),
    ] {
        let body = with(good.clone(), &json!({field: value}));
        let answer = client.post("/auth/register").json(&body).send().await;
        answer.refused(422, "validation");
        assert_eq!(answer.json()["errors"][0]["field"], field, "{body}: {}", answer.text());
    }
    let doubled = r#"{"email":"ann@example.org","email":"eve@example.org","password":"x"}"#;
    let call = client.post("/auth/register").header("content-type", "application/json").body(doubled);
    call.send().await.refused(422, "validation");
    client.register("ann@example.org").await;
}

#[tokio::test]
async fn a_body_of_the_wrong_kind_is_told_so() {
    let (gateway, _upstream) = gateway().await;
    let client = gateway.client();
    let post = |path| client.post(path).header("content-type", "application/json");
    for path in ["/auth/register", "/auth/login", "/auth/refresh"] {
        post(path).body("{").send().await.refused(400, "body_broken");
        post(path).body("[]").send().await.refused(422, "validation");
        client.post(path).header("content-type", "text/plain").body("{}").send().await.refused(415, "media_type");
        let form =
            client.post(path).header("content-type", "application/x-www-form-urlencoded").body("email=a&password=b");
        form.send().await.refused(415, "media_type");
        let large = json!({"password": "x".repeat(20 << 10)});
        client.post(path).json(&large).send().await.refused(413, "body_too_large");
        let answer = client.get(path).send().await;
        answer.refused(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some("POST"));
    }
}
