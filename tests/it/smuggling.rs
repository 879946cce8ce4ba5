//! The shapes by which one request has been passed off as two, or as another than it was, one by one: each is refused,
//! or reaches the service with one meaning. That is shown on the bytes as they came there, by a reader who admits
//! nothing two servers could read differently ([`crate::harness::strict`]).
//!
//! | shape | over HTTP/1.1, plain and TLS | over HTTP/2 |
//! |---|---|---|
//! | CL.TE, TE.CL, TE.TE, CL.CL | [`framings`] | `transfer-encoding` is no header there: `what_is_no_request_is_reset` |
//! | CL.0 | [`a_body_that_nobody_reads_is_no_request`] | frames say whose a body is |
//! | H2.CL, H2.TE | – | `a_body_that_is_not_as_long_as_it_says_is_never_a_whole_one`, [`what_http_2_carries_is_framed_once`] |
//! | obs-fold, bare CR, bare LF, NUL, spaces about names | [`lines`] | in names and values: `what_is_no_request_is_reset` |
//! | chunk sizes and extensions, trailers | [`chunks`] | trailers: `trailers_do_not_smuggle` |
//! | request lines, absolute form, another scheme | [`request_lines`] | `what_could_mean_two_things_is_400` |
//! | duplicate and mismatched Host | [`request_lines`], `a_host_that_could_mean_two_things_is_400` | `what_could_mean_two_things_is_400` |
//! | HTTP/1.0 with Transfer-Encoding | [`framings`] | – |
//! | upgrade with pipelined bytes | [`what_follows_an_upgrade_is_the_next_request`] | `upgrade` is no header there: `what_is_no_request_is_reset` |
//! | identity headers that `Connection` nominates | [`nominations`] | `connection` is no header there: `what_is_no_request_is_reset` |

use crate::harness::{
    gateway::{Engine, Gateway, Setup, standard},
    h2::{Fate, H2},
    raw::Raw,
    strict::{self, Plain},
    tls::Authority,
    upstream::Upstream,
};

/// A gateway, how it is reached, and the service behind it.
struct Reached {
    gateway: Gateway,
    authority: Option<Authority>,
    upstream: Upstream,
}

impl Reached {
    async fn plainly() -> Self {
        let upstream = Upstream::start().await;
        Self { gateway: Gateway::standard(Engine::Sqlite, &upstream).await, authority: None, upstream }
    }

    async fn by_tls() -> Self {
        let upstream = Upstream::start().await;
        let authority = Authority::new();
        let ours = authority.certify("localhost");
        let listener = "listeners: {public: {bind: \"127.0.0.1:0\", tls: {certificate: cert.pem, key: key.pem}}, \
                        admin: {bind: \"127.0.0.1:0\"}}";
        let setup = Setup::new(Engine::Sqlite, &format!("{listener}\n{}", standard(&upstream)));
        let setup = setup.file("cert.pem", &ours.certificate).file("key.pem", &ours.key);
        Self { gateway: setup.start().await, authority: Some(authority), upstream }
    }

    async fn raw(&self) -> Raw {
        match &self.authority {
            None => self.gateway.raw().await,
            Some(authority) => Raw::over(authority.connect_h1(self.gateway.address()).await, &self.gateway.invariants),
        }
    }

    /// What has reached the service: every byte of it is part of a request that has one meaning.
    fn arrived(&self) -> Vec<Plain> {
        let connections = self.upstream.bytes();
        let read = |bytes: &Vec<u8>| strict::requests(bytes).unwrap_or_else(|why| panic!("{why}"));
        connections.iter().flat_map(read).collect()
    }

    /// Sends `bytes` on a connection of their own and reads until it is closed: the statuses of the answers, and what
    /// has reached the service meanwhile.
    async fn send(&self, bytes: &str) -> (Vec<u16>, Vec<Plain>) {
        let before = self.arrived().len();
        let mut raw = self.raw().await;
        let _ = raw.try_send(bytes.as_bytes()).await;
        let mut statuses = Vec::new();
        while let Some(answer) = raw.answer().await {
            statuses.push(answer.status);
        }
        (statuses, self.arrived().split_off(before))
    }
}

/// What a smuggler would have taken for a request of its own, behind the shape; closes the connection where it is one.
const SMUGGLED: &str = "GET /open/smuggled HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

/// What becomes of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fits {
    /// 400, nothing reaches the service, and what follows is not read as a request.
    Refused,
    /// It reaches the service with this body, alone: the connection is closed behind it.
    Alone(&'static str),
    /// It reaches the service with this body, and what follows is the next request.
    Followed(&'static str),
    /// A body that breaks off: 400 or no answer, and never a whole request at the service.
    Broken,
}

async fn assert_fits(reached: &Reached, shape: &str, fits: Fits) {
    // A broken body's head has come through, and that connection is never read strictly.
    let whole = |upstream: &Upstream| upstream.received().iter().filter(|one| one.body.whole).count();
    let before = whole(&reached.upstream);
    if fits == Fits::Broken {
        let mut raw = reached.raw().await;
        let _ = raw.try_send(format!("{shape}{SMUGGLED}").as_bytes()).await;
        let status = raw.answer().await.map(|answer| answer.status);
        raw.closed().await;
        assert!(matches!(status, None | Some(400)), "{shape:?}: {status:?}");
        assert_eq!(whole(&reached.upstream), before, "{shape:?}: {:#?}", reached.upstream.received());
        return;
    }
    let (statuses, arrived) = reached.send(&format!("{shape}{SMUGGLED}")).await;
    let seen: Vec<_> = arrived.iter().map(|one| (one.target.as_str(), one.body.as_slice())).collect();
    match fits {
        Fits::Alone(body) => {
            assert_eq!((&statuses[..], &seen[..]), (&[200][..], &[("/open/a", body.as_bytes())][..]), "{shape:?}");
        }
        Fits::Followed(body) => {
            let both = [("/open/a", body.as_bytes()), ("/open/smuggled", &b""[..])];
            assert_eq!((&statuses[..], &seen[..]), (&[200, 200][..], &both[..]), "{shape:?}");
        }
        Fits::Refused | Fits::Broken => assert_eq!((&statuses[..], &seen[..]), (&[400][..], &[][..]), "{shape:?}"),
    }
    for name in ["x-user-id", "x-gateway-identity", "x-hidden"] {
        let values: Vec<_> =
            arrived.iter().flat_map(|one| one.all(name)).filter(|value| value.contains("eve")).collect();
        assert!(values.is_empty(), "{shape:?}: {name} {values:?}");
    }
}

fn post(lines: &str, body: &str) -> String {
    format!("POST /open/a HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n{body}")
}

const ONE_CHUNK: &str = "1\r\na\r\n0\r\n\r\n";

async fn framings(reached: Reached) {
    assert_fits(&reached, &post("Content-Length: 1\r\n", "a"), Fits::Followed("a")).await;
    assert_fits(&reached, &post("Transfer-Encoding: chunked\r\n", ONE_CHUNK), Fits::Followed("a")).await;
    for (lines, fits) in [
        // CL.TE and TE.CL: the chunks count, the length is gone, and nothing is read behind it.
        ("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", Fits::Alone("a")),
        ("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", Fits::Alone("a")),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", Fits::Alone("a")),
        ("Transfer-Encoding: chunked\r\nContent-Length: 999\r\n", Fits::Alone("a")),
        ("Content-Length: 6\r\nTransfer-Encoding: cHuNkEd\r\n", Fits::Alone("a")),
        ("Content-Length: 6\r\ntransfer-encoding:\tchunked \t\r\n", Fits::Alone("a")),
        ("Content-Length: 6\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n", Fits::Alone("a")),
        // TE.TE: whatever one of two servers might overlook.
        ("Transfer-Encoding: identity\r\n", Fits::Refused),
        ("Transfer-Encoding: chunked, identity\r\n", Fits::Refused),
        ("Transfer-Encoding: identity, chunked\r\n", Fits::Refused),
        ("Transfer-Encoding: gzip, chunked\r\n", Fits::Refused),
        ("Transfer-Encoding: chunked, chunked\r\n", Fits::Refused),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Fits::Refused),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Fits::Refused),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", Fits::Refused),
        ("Transfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n", Fits::Refused),
        ("Transfer-Encoding: x\r\n", Fits::Refused),
        ("Transfer-Encoding:\r\n", Fits::Refused),
        ("Transfer-Encoding: xchunked\r\n", Fits::Refused),
        ("Transfer-Encoding: chunkedx\r\n", Fits::Refused),
        ("Transfer-Encoding: chunked,\r\n", Fits::Refused),
        ("Transfer-Encoding: ,chunked\r\n", Fits::Refused),
        ("Transfer-Encoding: \"chunked\"\r\n", Fits::Refused),
        ("Transfer-Encoding: chunked;q=1\r\n", Fits::Refused),
        ("Transfer-Encoding: \x0bchunked\r\n", Fits::Refused),
        ("Transfer-Encoding: chunked\0\r\n", Fits::Refused),
        ("Transfer_Encoding: chunked\r\nContent-Length: 11\r\n", Fits::Refused),
        // CL.CL: lengths that differ, or are no plain number.
        ("Content-Length: 11\r\nContent-Length: 1\r\n", Fits::Refused),
        ("Content-Length: 11, 11\r\n", Fits::Refused),
        ("Content-Length: +11\r\n", Fits::Refused),
        ("Content-Length: -11\r\n", Fits::Refused),
        ("Content-Length: 0xb\r\n", Fits::Refused),
        ("Content-Length: 1 1\r\n", Fits::Refused),
        ("Content-Length: 11;\r\n", Fits::Refused),
        ("Content-Length:\r\n", Fits::Refused),
        ("Content-Length: 18446744073709551627\r\n", Fits::Refused),
        ("Content-Length: 11\r\nContent_Length: 0\r\n", Fits::Refused),
        // Some read zeros before a number as octal.
        ("Content-Length: 0011\r\n", Fits::Refused),
        ("Content-Length: 011\r\nContent-Length: 011\r\n", Fits::Refused),
        // Equal lengths are one length; the eleven bytes are the body.
        ("Content-Length: 11\r\nContent-Length: 11\r\n", Fits::Followed(ONE_CHUNK)),
        ("Content-Length: 11\r\nContent-Length: 011\r\n", Fits::Followed(ONE_CHUNK)),
    ] {
        assert_fits(&reached, &post(lines, ONE_CHUNK), fits).await;
    }
    let old = |lines: &str| format!("POST /open/a HTTP/1.0\r\nHost: a.test\r\n{lines}\r\n{ONE_CHUNK}");
    for lines in ["Transfer-Encoding: chunked\r\n", "Content-Length: 11\r\nTransfer-Encoding: chunked\r\n"] {
        assert_fits(&reached, &old(lines), Fits::Refused).await;
    }
    assert_fits(&reached, &old("Content-Length: 11\r\n"), Fits::Alone(ONE_CHUNK)).await;
}

async fn lines(reached: Reached) {
    for (lines, fits) in [
        // obs-fold (RFC 9112 §5.2).
        ("X-Folded: a\r\n b\r\n", Fits::Refused),
        ("X-Folded: a\r\n\tX-User-Id: eve\r\n", Fits::Refused),
        ("X-Folded:\r\n eve\r\n", Fits::Refused),
        ("X: y\r\n Transfer-Encoding: chunked\r\n", Fits::Refused),
        (" X-First: a\r\n", Fits::Refused),
        // A CR that ends no line (§2.2).
        ("X-Bare: a\rb\r\n", Fits::Refused),
        ("X-Bare: a\rX-User-Id: eve\r\n", Fits::Refused),
        ("X-Ba\rre: a\r\n", Fits::Refused),
        ("X-Bare: a\r\r\n", Fits::Refused),
        ("\rX-User-Id: eve\r\n", Fits::Refused),
        // NUL and other controls; spaces about a name (§5.1).
        ("X-Nul: a\0b\r\n", Fits::Refused),
        ("X-N\0ul: a\r\n", Fits::Refused),
        ("X-Escape: a\x1b[2J\r\n", Fits::Refused),
        ("X-Delete: a\x7f\r\n", Fits::Refused),
        ("X-User-Id : eve\r\n", Fits::Refused),
        ("X-User-Id\t: eve\r\n", Fits::Refused),
        ("Transfer-Encoding : chunked\r\n", Fits::Refused),
        ("X User Id: eve\r\n", Fits::Refused),
        ("X(y): eve\r\n", Fits::Refused),
        (": eve\r\n", Fits::Refused),
        ("no colon\r\n", Fits::Refused),
        ("X_User_Id: eve\r\n", Fits::Refused),
        // A bare LF ends a line, as RFC 9112 §2.2 allows: what follows is a header, and is treated as one.
        ("X: y\nX-User-Id: eve\r\n", Fits::Followed("")),
        ("X: y\nX-Gateway-Identity: eve\n", Fits::Followed("")),
        ("X: y\nX_User_Id: eve\r\n", Fits::Refused),
        ("X: y\nHost: b.test\r\n", Fits::Refused),
        ("X: y\nTransfer-Encoding: identity\r\n", Fits::Refused),
    ] {
        let bodiless = format!("GET /open/a HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n");
        assert_fits(&reached, &bodiless, fits).await;
    }
    let hidden = post("X: y\nTransfer-Encoding: chunked\r\nContent-Length: 11\r\n", ONE_CHUNK);
    assert_fits(&reached, &hidden, Fits::Alone("a")).await;
    assert_fits(&reached, "GET /open/a HTTP/1.1\nHost: a.test\n\n", Fits::Followed("")).await;
}

async fn chunks(reached: Reached) {
    for (body, fits) in [
        // Extensions and trailers stay here, whatever they say.
        ("1;x=y\r\na\r\n0;z\r\n\r\n", Fits::Followed("a")),
        ("01\r\na\r\n000\r\n\r\n", Fits::Followed("a")),
        (
            "1\r\na\r\n0\r\nX-User-Id: eve\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            Fits::Followed("a"),
        ),
        ("1;\nx\r\na\r\n0\r\n\r\n", Fits::Broken),
        ("1;\rx\r\na\r\n0\r\n\r\n", Fits::Broken),
        ("0x1\r\na\r\n0\r\n\r\n", Fits::Broken),
        ("+1\r\na\r\n0\r\n\r\n", Fits::Broken),
        ("-1\r\na\r\n0\r\n\r\n", Fits::Broken),
        ("1_0\r\na\r\n0\r\n\r\n", Fits::Broken),
        ("\r\na\r\n0\r\n\r\n", Fits::Broken),
        ("1\na\n0\n\n", Fits::Broken),
        ("1\ra\r\n0\r\n\r\n", Fits::Broken),
        ("1\r\nab\r\n0\r\n\r\n", Fits::Broken),
        ("1\r\na0\r\n\r\n", Fits::Broken),
        ("10000000000000001\r\na\r\n0\r\n\r\n", Fits::Broken),
    ] {
        // What is broken is last: its connection at the service is not read strictly any more.
        assert_fits(&reached, &post("Transfer-Encoding: chunked\r\nTrailer: X-User-Id\r\n", body), fits).await;
    }
}

async fn request_lines(reached: Reached) {
    for (line, fits) in [
        ("GET http://a.test/open/a HTTP/1.1", Fits::Followed("")),
        ("GET HTTP://A.TEST/open/a HTTP/1.1", Fits::Followed("")),
        // Which scheme it is the connection says; the service is told that and gets the path.
        ("GET https://a.test/open/a HTTP/1.1", Fits::Followed("")),
        ("GET http://b.test/open/a HTTP/1.1", Fits::Refused),
        ("GET http://a.test:81/open/a HTTP/1.1", Fits::Refused),
        ("GET http://user@a.test/open/a HTTP/1.1", Fits::Refused),
        ("GET http://a.test@b.test/open/a HTTP/1.1", Fits::Refused),
        ("GET http://b.test\\@a.test/open/a HTTP/1.1", Fits::Refused),
        ("GET ftp://a.test/open/a HTTP/1.1", Fits::Refused),
        ("GET a.test/open/a HTTP/1.1", Fits::Refused),
        ("GET //a.test/open/a HTTP/1.1", Fits::Refused),
        ("GET * HTTP/1.1", Fits::Refused),
        ("GET open/a HTTP/1.1", Fits::Refused),
        ("GET  /open/a HTTP/1.1", Fits::Refused),
        ("GET /open/a  HTTP/1.1", Fits::Refused),
        ("GET /open/a HTTP/1.1 ", Fits::Refused),
        ("GET\t/open/a HTTP/1.1", Fits::Refused),
        ("GET /open/a\tHTTP/1.1", Fits::Refused),
        ("GET /open/a\rX HTTP/1.1", Fits::Refused),
        ("GET /open/a HTTP/1.1 HTTP/1.1", Fits::Refused),
        ("GET /open/a b HTTP/1.1", Fits::Refused),
        ("GET /open/a http/1.1", Fits::Refused),
        ("GET /open/a HTTP/1.2", Fits::Refused),
        ("GET /open/a HTTP/2.0", Fits::Refused),
        ("GET /open/a HTTP/01.1", Fits::Refused),
        ("GET /open/a", Fits::Refused),
        ("G@T /open/a HTTP/1.1", Fits::Refused),
        (" GET /open/a HTTP/1.1", Fits::Refused),
        // Empty lines before a request (RFC 9112 §2.2).
        ("\r\n\r\nGET /open/a HTTP/1.1", Fits::Followed("")),
    ] {
        assert_fits(&reached, &format!("{line}\r\nHost: a.test\r\n\r\n"), fits).await;
    }
    for hosts in
        ["Host: a.test\r\nHost: a.test\r\n", "Host: a.test\r\nhost: b.test\r\n", "Host: a.test, b.test\r\n", ""]
    {
        assert_fits(&reached, &format!("GET /open/a HTTP/1.1\r\n{hosts}\r\n"), Fits::Refused).await;
    }
}

async fn nominations(reached: Reached) {
    for names in [
        "X-Gateway-Identity",
        "x-gateway-identity",
        "close, X-User-Id",
        "keep-alive,X-USER-ROLES",
        "TE,\tx-user-id\t",
        ",x-user-email,",
        "x_user_id",
        "X-Forwarded-For",
        "x-real-ip",
        "Authorization",
        "Cookie",
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "X-Request-Id",
        "\"X-User-Id\"",
        "close;X-User-Id",
    ] {
        let one = format!("GET /open/a HTTP/1.1\r\nHost: a.test\r\nConnection: {names}\r\nX-User-Id: eve\r\n\r\n");
        assert_fits(&reached, &one, Fits::Refused).await;
        let second =
            format!("GET /open/a HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive\r\nConnection: {names}\r\n\r\n");
        assert_fits(&reached, &second, Fits::Refused).await;
    }
    // Unnominated it reaches nobody either, and what the gateway says stands.
    let spoofed = "GET /open/a HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, TE\r\nX-User-Id: eve\r\nX-Gateway-Identity: eve\r\n\r\n";
    assert_fits(&reached, spoofed, Fits::Followed("")).await;
    let arrived = reached.arrived();
    assert!(arrived.iter().all(|one| one.all("x-gateway-identity").len() == 1), "{arrived:#?}");
}

/// CL.0: an answer that comes without anybody having read the body, and the body looks like a request.
async fn a_body_that_nobody_reads_is_no_request(reached: Reached) {
    for (line, status) in [
        ("POST /nowhere HTTP/1.1", 404),
        ("POST /ask/a HTTP/1.1", 401),
        ("GET /ask/a HTTP/1.1", 401),
        ("POST /open/../a HTTP/1.1", 400),
        ("TRACE /open/a HTTP/1.1", 405),
        ("GET /auth/me HTTP/1.1", 401),
        ("DELETE /auth/login HTTP/1.1", 405),
        ("PUT /auth/me HTTP/1.1", 405),
        ("HEAD /nowhere HTTP/1.1", 404),
    ] {
        let framed = [
            format!("Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len()),
        ];
        for body in framed {
            let mut raw = reached.raw().await;
            let next = "GET /open/next HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
            let _ = raw.try_send(format!("{line}\r\nHost: a.test\r\n{body}{next}").as_bytes()).await;
            let method = line.split(' ').next().unwrap_or_default();
            assert_eq!(raw.answer_to(method).await.map(|answer| answer.status), Some(status), "{line}");
            // The next request is the next request, or there is none: the connection has ended.
            let after = raw.answer().await.map(|answer| answer.status);
            assert!(matches!(after, None | Some(200)), "{line}: {after:?}");
            raw.closed().await;
        }
    }
    let arrived = reached.arrived();
    assert!(arrived.iter().all(|one| one.target == "/open/next" && one.body.is_empty()), "{arrived:#?}");
}

async fn what_follows_an_upgrade_is_the_next_request(reached: Reached) {
    for (lines, behind) in [
        ("Connection: Upgrade\r\nUpgrade: websocket\r\n", SMUGGLED),
        (
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
            SMUGGLED,
        ),
        (
            "Connection: Upgrade\r\nUpgrade: TLS/1.2, websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            SMUGGLED,
        ),
        ("Connection: keep-alive\r\nUpgrade: h2c\r\n", SMUGGLED),
    ] {
        let (statuses, arrived) =
            reached.send(&format!("GET /open/a HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n{behind}")).await;
        let targets: Vec<_> = arrived.iter().map(|one| one.target.as_str()).collect();
        assert_eq!((&statuses[..], &targets[..]), (&[200, 200][..], &["/open/a", "/open/smuggled"][..]), "{lines:?}");
    }
    // Nobody has agreed to another protocol: its first bytes are a bad request, and frames in it reach nobody.
    let upgrade = "GET /open/a HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    for behind in
        ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0", "\u{1}\u{5}GET /open/smuggled HTTP/1.1\r\n\r\n"]
    {
        let (statuses, arrived) = reached.send(&format!("{upgrade}{behind}")).await;
        // (hyper knows the beginning of HTTP/2 and says nothing to it.)
        let refused = statuses[0] == 200 && statuses[1..].iter().all(|status| *status == 400);
        assert!(refused && arrived.len() == 1, "{behind:?}: {statuses:?} {arrived:#?}");
    }
}

macro_rules! both_ways {
    ($($name:ident),* $(,)?) => {
        mod plainly {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name(super::Reached::plainly().await).await;
                }
            )*
        }
        mod by_tls {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name(super::Reached::by_tls().await).await;
                }
            )*
        }
    };
}

both_ways!(
    framings,
    lines,
    chunks,
    request_lines,
    nominations,
    a_body_that_nobody_reads_is_no_request,
    what_follows_an_upgrade_is_the_next_request,
);

/// H2.CL and H2.TE: however a body comes in frames, the service gets one framing of it, and one of each header.
#[tokio::test]
async fn what_http_2_carries_is_framed_once() {
    let reached = Reached::by_tls().await;
    let authority = reached.authority.as_ref().expect("it is by TLS");
    let head = [(":method", "POST"), (":scheme", "https"), (":authority", "a.test"), (":path", "/open/a")];
    for (more, body, framing) in [
        (&[][..], None, (None, None)),
        (&[("content-length", "0")][..], None, (Some("0"), None)),
        (&[("content-length", "4")][..], Some("body"), (Some("4"), None)),
        (&[("content-length", "4"), ("te", "trailers"), ("trailer", "x-user-id")][..], Some("body"), (Some("4"), None)),
        (
            &[("cookie", "a=1"), ("cookie", "b=2")][..],
            Some("0\r\n\r\nGET /open/x HTTP/1.1\r\n\r\n"),
            (None, Some("chunked")),
        ),
        (&[("host", "a.test"), ("expect", "100-continue")][..], Some(""), (None, Some("chunked"))),
    ] {
        let before = reached.arrived().len();
        let mut h2 = H2::begin(authority.connect_h2(reached.gateway.address()).await).await;
        h2.headers(&[&head[..], more].concat(), body.is_none()).await;
        if let Some(body) = body {
            h2.data(body, false).await;
            h2.trailers(&[("x-user-id", "eve"), ("content-length", "9")], true).await;
        }
        assert_eq!(h2.fate().await, Fate::Answered(200, String::new()), "{more:?}");
        let arrived = reached.arrived().split_off(before);
        let [one] = &arrived[..] else { panic!("{more:?}: {arrived:#?}") };
        assert_eq!((one.method.as_str(), one.target.as_str()), ("POST", "/open/a"));
        assert_eq!(one.body, body.unwrap_or_default().as_bytes());
        let (length, coding) = (one.all("content-length"), one.all("transfer-encoding"));
        assert_eq!((length.first().copied(), coding.first().copied()), framing, "{more:?}");
        assert!(one.all("cookie").len() <= 1 && one.all("x-user-id").is_empty(), "{one:#?}");
    }
}
