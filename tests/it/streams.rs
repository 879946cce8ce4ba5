//! What flows for a caller ends with the caller's right to it: answers, uploads, tunnels. And with nothing else.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::StreamBody;
use portcullis::cli::keys::{Keys, Store};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    harness::{
        client::{Client, Streamed, Tokens},
        gateway::{Engine, Gateway, Setup},
        gateways::{Deployment, Gateways},
        issuer::{Issuer, ready},
        soon,
        upstream::{Held, Upstream},
        websocket::{Echo, Socket},
    },
    key_rotation::kid_of,
    revocations::give,
    support::postgres::Cluster,
};

on_every_deployment!(
    an_event_stream_of_a_session_that_ended_gets_a_last_event_and_a_proper_end,
    a_socket_of_a_session_that_ended_is_closed_for_policy,
    an_upload_of_a_session_that_ended_is_refused,
    a_download_of_a_session_that_ended_is_cut,
    a_replayed_refresh_token_ends_the_streams_of_its_family,
    what_an_expired_token_opened_ends_unless_the_session_was_refreshed,
    what_was_opened_with_a_role_ends_when_it_is_taken_away,
    a_retired_key_takes_what_its_tokens_opened_with_it,
);

const END: &str = "event: portcullis.end\ndata: {\"reason\":\"session_ended\"}\n\n";

fn yaml(service: &str) -> String {
    format!(
        r#"
clusters:
  rag: {{endpoints: ["{service}"]}}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, upgrades: [websocket], body_limit: none, cluster: rag}}
"#
    )
}

async fn gateways(deployment: Deployment, upstream: &Upstream) -> Gateways {
    Gateways::start(deployment, &yaml(&upstream.url())).await
}

/// An answer that flows: `path` asked with a token, its head on its way.
async fn flowing(
    (client, upstream): (&Client, &Upstream),
    path: &str,
    tokens: &Tokens,
    headers: &[(&str, &str)],
) -> (Streamed, Held) {
    upstream.hold(path);
    let call = client.get(path).bearer(&tokens.access);
    let begin = async {
        let mut held = upstream.held().await;
        held.begin(200, headers).await;
        held
    };
    tokio::join!(call.open(), begin)
}

const EVENTS: (&str, &str) = ("content-type", "text/event-stream; charset=utf-8");

/// Reads on until the answer's end: what came, or what came before it was cut.
async fn rest(mut streamed: Streamed) -> Result<String, String> {
    let mut all = String::new();
    loop {
        match streamed.chunk().await {
            Ok(Some(text)) => all += &text,
            Ok(None) => return Ok(all),
            Err(_) => return Err(all),
        }
    }
}

async fn heard(streamed: &mut Streamed, text: &str) {
    let mut all = String::new();
    while all.len() < text.len() {
        all += &streamed.chunk().await.unwrap().expect("it goes on");
    }
    assert_eq!(all, text);
}

async fn an_event_stream_of_a_session_that_ended_gets_a_last_event_and_a_proper_end(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = gateways(deployment, &upstream).await;
    let client = gateways.client();
    let (ann, bob) = (client.register("ann@example.org").await, client.register("bob@example.org").await);
    let phone = client.login("ann@example.org").await;
    for gateway in &gateways.all {
        let here = gateway.client();
        let (mut events, mut held) = flowing((&here, &upstream), "/ask/ann", &ann, &[EVENTS]).await;
        held.chunk("data: one\n\n").await;
        heard(&mut events, "data: one\n\n").await;
        let (mut bobs, mut held_by_bob) = flowing((&here, &upstream), "/ask/bob", &bob, &[EVENTS]).await;
        let (mut phones, mut held_by_phone) = flowing((&here, &upstream), "/ask/phone", &phone, &[EVENTS]).await;

        // Somebody else's logout first: it ends nothing here.
        let other = client.login("bob@example.org").await;
        client.post("/auth/logout").bearer(&other.access).send().await.expect(204);
        gateways.know_what_ended().await;
        for (streamed, held) in [(&mut events, &mut held), (&mut bobs, &mut held_by_bob)] {
            held.chunk("data: two\n\n").await;
            heard(streamed, "data: two\n\n").await;
        }
        let ann_again = client.login("ann@example.org").await;
        let (ends, held_by_ends) = flowing((&here, &upstream), "/ask/again", &ann_again, &[EVENTS]).await;
        client.post("/auth/logout").bearer(&ann_again.access).send().await.expect(204);
        assert_eq!(rest(ends).await, Ok(END.to_owned()));
        held_by_ends.given_up().await;
        for (streamed, held) in
            [(&mut events, &mut held), (&mut bobs, &mut held_by_bob), (&mut phones, &mut held_by_phone)]
        {
            held.chunk("data: three\n\n").await;
            heard(streamed, "data: three\n\n").await;
        }
        let line = "portcullis_requests_total{route=\"ask\",reason=\"session_ended\",method=\"GET\",status=\"2xx\"}";
        assert!(gateway.metric(line).await > 0.5, "{}", gateway.admin("/metrics").await.1);
        assert!(gateway.metric("portcullis_streams_cut_total{reason=\"session_ended\"}").await > 0.5);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_an_event_is_not_taken_for_one() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream.url())).await;
    let client = gateway.client();
    client.register("ann@example.org").await;
    for (sent, end) in [
        ("data: one\n\nid: 7\ndata: {\"tok", format!("\0\nevent: portcullis.cut\n\n{END}")),
        ("data: one\n\ndata: two\n", format!("event: portcullis.cut\n\n{END}")),
        ("data: one\r\n\r\n", END.to_owned()),
    ] {
        let ann = client.login("ann@example.org").await;
        let (mut events, mut held) = flowing((&client, &upstream), "/ask/a", &ann, &[EVENTS]).await;
        held.chunk(sent).await;
        heard(&mut events, sent).await;
        client.post("/auth/logout").bearer(&ann.access).send().await.expect(204);
        assert_eq!(rest(events).await, Ok(end), "{sent:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_cannot_be_followed_by_one_are_cut() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream.url())).await;
    let client = gateway.client();
    client.register("ann@example.org").await;
    let ann = client.login("ann@example.org").await;
    let compressed = [EVENTS, ("content-encoding", "br")];
    let (mut events, mut held) = flowing((&client, &upstream), "/ask/a", &ann, &compressed).await;
    held.chunk("whatever").await;
    heard(&mut events, "whatever").await;
    upstream.hold("/ask/b");
    let of_a_length = async {
        let mut held = upstream.held().await;
        held.write("HTTP/1.1 200 Fine\r\nx-test-upstream: yes\r\ncontent-type: text/event-stream\r\ncontent-length: 99\r\n\r\ndata: 1\n\n")
            .await;
        held
    };
    let (mut sized, held_sized) = tokio::join!(client.get("/ask/b").bearer(&ann.access).open(), of_a_length);
    heard(&mut sized, "data: 1\n\n").await;
    client.post("/auth/logout").bearer(&ann.access).send().await.expect(204);
    assert_eq!(rest(events).await, Err(String::new()));
    assert_eq!(rest(sized).await, Err(String::new()));
    held.given_up().await;
    held_sized.given_up().await;
}

async fn a_download_of_a_session_that_ended_is_cut(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = gateways(deployment, &upstream).await;
    let client = gateways.client();
    client.register("ann@example.org").await;
    for gateway in &gateways.all {
        let ann = client.login("ann@example.org").await;
        let (mut answer, mut held) = flowing((&gateway.client(), &upstream), "/ask/a", &ann, &[]).await;
        held.chunk("a piece").await;
        heard(&mut answer, "a piece").await;
        client.post("/auth/logout").bearer(&ann.access).send().await.expect(204);
        assert_eq!(rest(answer).await, Err(String::new()), "an answer that was cut must not look whole");
        held.given_up().await;
    }
}

async fn a_socket_of_a_session_that_ended_is_closed_for_policy(deployment: Deployment) {
    let echo = Echo::start().await;
    let gateways = Gateways::start(deployment, &yaml(&echo.url())).await;
    let client = gateways.client();
    let bob = client.register("bob@example.org").await;
    client.register("ann@example.org").await;
    for gateway in &gateways.all {
        let ann = client.login("ann@example.org").await;
        let mut theirs = Socket::open(gateway.address(), "/ask/bob", &bob.access).await;
        let mut socket = Socket::open(gateway.address(), "/ask/ann", &ann.access).await;
        for socket in [&mut theirs, &mut socket] {
            socket.echoed("hello").await;
        }
        client.post("/auth/logout").bearer(&ann.access).send().await.expect(204);
        assert_eq!(socket.closed().await, Some((1008, "session_ended".to_owned())));
        theirs.echoed("still here").await;
    }
}

/// A request body that the test feeds.
fn fed() -> (mpsc::UnboundedSender<&'static str>, reqwest::Body) {
    let (feed, mut pieces) = mpsc::unbounded_channel::<&'static str>();
    let stream = futures_util::stream::poll_fn(move |cx| {
        pieces
            .poll_recv(cx)
            .map(|piece| piece.map(|text| Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from(text)))))
    });
    (feed, reqwest::Body::wrap(StreamBody::new(stream)))
}

async fn an_upload_of_a_session_that_ended_is_refused(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = gateways(deployment, &upstream).await;
    let client = gateways.client();
    client.register("ann@example.org").await;
    for gateway in &gateways.all {
        let ann = client.login("ann@example.org").await;
        upstream.hold("/ask/upload");
        let (feed, body) = fed();
        feed.send("the beginning").unwrap();
        let call = gateway.client().post("/ask/upload").bearer(&ann.access).body(body).send();
        let ends = async {
            let mut held = upstream.held().await;
            held.piece().await;
            let uploads = async { while gateway.metric("portcullis_open_streams{kind=\"upload\"}").await < 0.5 {} };
            soon("the upload to be known", uploads).await;
            client.post("/auth/logout").bearer(&ann.access).send().await.expect(204);
            held.given_up().await;
        };
        let (answer, ()) = tokio::join!(call, ends);
        answer.refused(401, "invalid_token");
        drop(feed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_the_service_does_not_take_ends_too() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream.url())).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    upstream.hold("/ask/upload");
    let call = client.post("/ask/upload").bearer(&ann.access).body(vec![b'x'; 64 << 20]).send();
    let ends = async {
        // Not a byte of the body is read: sooner or later nobody asks for more of it.
        let held = upstream.held().await;
        let uploads = async { while gateway.metric("portcullis_open_streams{kind=\"upload\"}").await < 0.5 {} };
        soon("the upload to be known", uploads).await;
        client.post("/auth/logout").bearer(&ann.access).send().await.expect(204);
        held
    };
    let (answer, _held) = tokio::join!(call, ends);
    answer.refused(401, "invalid_token");
}

async fn a_replayed_refresh_token_ends_the_streams_of_its_family(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = gateways(deployment, &upstream).await;
    let client = gateways.client();
    let first = client.register("ann@example.org").await;
    let second = client.refreshed(&first.refresh).await;
    let third = client.refreshed(&second.refresh).await;
    let here = gateways.all[0].client();
    let (events, _held) = flowing((&here, &upstream), "/ask/a", &third, &[EVENTS]).await;
    gateways.clock.advance(Duration::from_secs(11));
    client.refresh(&first.refresh).await.refused(400, "invalid_grant");
    assert_eq!(rest(events).await, Ok(END.to_owned()));
}

/// A quarter of an hour, half a minute forgiven to clocks, and a minute to streams.
const LIFE: u64 = 900 + 30 + 60;

async fn what_an_expired_token_opened_ends_unless_the_session_was_refreshed(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = gateways(deployment, &upstream).await;
    let client = gateways.client();
    let (ann, bob) = (client.register("ann@example.org").await, client.register("bob@example.org").await);
    let here = gateways.all[0].client();
    let (events, _held) = flowing((&here, &upstream), "/ask/ann", &ann, &[EVENTS]).await;
    let (mut bobs, mut held_by_bob) = flowing((&here, &upstream), "/ask/bob", &bob, &[EVENTS]).await;
    gateways.clock.advance(Duration::from_secs(LIFE - 100));
    let bob = client.refreshed(&bob.refresh).await;
    gateways.clock.advance(Duration::from_secs(101));
    let end = END.replace("session_ended", "stream_expired");
    assert_eq!(rest(events).await, Ok(end.clone()));
    held_by_bob.chunk("data: goes on\n\n").await;
    heard(&mut bobs, "data: goes on\n\n").await;
    // Until the newest token has run out as well.
    gateways.clock.advance(Duration::from_secs(LIFE - 102));
    held_by_bob.chunk("data: still\n\n").await;
    heard(&mut bobs, "data: still\n\n").await;
    gateways.clock.advance(Duration::from_secs(2));
    assert_eq!(rest(bobs).await, Ok(end));
    client.refreshed(&bob.refresh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_issuer_s_token_opened_ends_with_it() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let yaml = format!(
        "issuers:\n  sso: {{issuer: {}, audiences: [{}]}}\nclusters:\n  rag: {{endpoints: [\"{}\"]}}\nroutes:\n  \
         - {{name: ask, match: {{path: \"/ask/{{*rest}}\"}}, issuers: [sso], cluster: rag}}\n",
        issuer.url(),
        crate::harness::issuer::AUDIENCE,
        upstream.url()
    );
    let gateway = Gateway::start(Engine::Sqlite, &yaml).await;
    let client = gateway.client();
    let token = issuer.token(&json!({}));
    ready(&client, "/ask/a", &token).await;
    let expires = crate::harness::tokens::claims_of(&token)["exp"].as_u64().unwrap();
    let left = Duration::from_secs(expires - u64::try_from(crate::harness::clock::BEGIN.seconds()).unwrap());
    let theirs = Tokens { access: token, refresh: String::new(), user: json!({}) };
    let (mut events, mut held) = flowing((&client, &upstream), "/ask/events", &theirs, &[EVENTS]).await;
    gateway.clock.advance(left + Duration::from_secs(29));
    held.chunk("data: within the leeway\n\n").await;
    heard(&mut events, "data: within the leeway\n\n").await;
    gateway.clock.advance(Duration::from_secs(1));
    assert_eq!(rest(events).await, Ok(END.replace("session_ended", "stream_expired")));
}

async fn what_was_opened_with_a_role_ends_when_it_is_taken_away(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = gateways(deployment, &upstream).await;
    let client = gateways.client();
    let ann = client.register("ann@example.org").await;
    for gateway in &gateways.all {
        let here = gateway.client();
        let (mut as_user, mut held_as_user) = flowing((&here, &upstream), "/ask/user", &ann, &[EVENTS]).await;
        held_as_user.chunk("data: one\n\n").await;
        heard(&mut as_user, "data: one\n\n").await;
        give(&gateways, &ann.user, &["analyst", "user"], None).await;
        let (mut as_both, mut held_as_both) = flowing((&here, &upstream), "/ask/both", &ann, &[EVENTS]).await;
        held_as_both.chunk("data: one\n\n").await;
        heard(&mut as_both, "data: one\n\n").await;
        give(&gateways, &ann.user, &["user"], None).await;
        assert_eq!(rest(as_both).await, Ok(END.replace("session_ended", "role_missing")));
        // It was opened with nothing more than is left.
        held_as_user.chunk("data: two\n\n").await;
        heard(&mut as_user, "data: two\n\n").await;
    }
}

async fn a_retired_key_takes_what_its_tokens_opened_with_it(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = gateways(deployment, &upstream).await;
    let ann = gateways.client().register("ann@example.org").await;
    let kid = kid_of(&ann.access);
    let mut opened = Vec::new();
    for gateway in &gateways.all {
        let (mut events, mut held) = flowing((&gateway.client(), &upstream), "/ask/a", &ann, &[EVENTS]).await;
        held.chunk("data: one\n\n").await;
        heard(&mut events, "data: one\n\n").await;
        opened.push((events, held));
    }
    let at = Store { config: PathBuf::new(), json: true };
    gateways.all[0].keys(&Keys::Retire { at, kid }).await.unwrap();
    for (events, _held) in opened {
        assert_eq!(rest(events).await, Ok(END.to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_store_ends_no_stream_and_is_asked_again() {
    let mut cluster = Cluster::private();
    let upstream = Upstream::start().await;
    let store = "store: {url: \"${STORE_URL}\", master_key: \"${MASTER_KEY}\", pool: 3, timeout: 500ms}\n";
    let setup = Setup::new(Engine::Sqlite, &(store.to_owned() + &yaml(&upstream.url())));
    let gateway = setup.on(&cluster.create_database().url).start().await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let (mut events, mut held) = flowing((&client, &upstream), "/ask/a", &ann, &[EVENTS]).await;
    cluster.stop();
    gateway.clock.advance(Duration::from_secs(LIFE + 1));
    let reads = "portcullis_revocation_reads_total{result=\"failed\"}";
    let before = gateway.metric(reads).await;
    // Twice a second's wait at the least: the question has been asked by then, and was not answered.
    soon("the store to be missed", async { while gateway.metric(reads).await < before + 2.5 {} }).await;
    held.chunk("data: goes on\n\n").await;
    heard(&mut events, "data: goes on\n\n").await;
    cluster.start();
    gateway.clock.advance(Duration::from_secs(6));
    assert_eq!(rest(events).await, Ok(END.replace("session_ended", "stream_expired")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_ended_is_counted_no_more() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream.url())).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let (mut events, mut held) = flowing((&client, &upstream), "/ask/a", &ann, &[EVENTS]).await;
    held.chunk("data: one\n\n").await;
    heard(&mut events, "data: one\n\n").await;
    let open = "portcullis_open_streams{kind=\"stream\"}";
    soon("the stream to be known", async { while gateway.metric(open).await < 0.5 {} }).await;
    held.end(&[]).await;
    assert_eq!(rest(events).await, Ok(String::new()));
    soon("the stream to be forgotten", async { while gateway.metric(open).await > 0.5 {} }).await;
}
