//! Caps on streams: as many event streams and WebSockets together as may be open, short requests beside them untouched,
//! and a place given back however a stream ends. (Caps on requests: [`crate::limit_caps`].)

use crate::harness::{
    client::{Answer, Call, Client, Streamed, Tokens},
    gateway::{Engine, Gateway},
    soon,
    upstream::{Held, Reply, Upstream},
    websocket::{Echo, Socket, bearer},
};

const EVENTS: (&str, &str) = ("content-type", "text/event-stream");

/// Four streams for each user, on two routes.
fn yaml(upstream: &Upstream, echo: &Echo) -> String {
    format!(
        r#"
clusters:
  rag: {{endpoints: ["{}"]}}
  echo: {{endpoints: ["{}"]}}
limits:
  streams: {{by: subject, streams: 4}}
  rate: {{by: subject, rate: 1000000/1d}}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, upgrades: [websocket], limits: [rate, streams], cluster: rag}}
  - {{name: live, match: {{path: "/live/{{*rest}}"}}, upgrades: [websocket], limits: [streams], cluster: echo}}
"#,
        upstream.url(),
        echo.url()
    )
}

struct House {
    gateway: Gateway,
    upstream: Upstream,
    echo: Echo,
    client: Client,
    ann: Tokens,
}

impl House {
    async fn new(change: impl FnOnce(String) -> String) -> Self {
        let (upstream, echo) = (Upstream::start().await, Echo::start().await);
        let gateway = Gateway::start(Engine::Sqlite, &change(yaml(&upstream, &echo))).await;
        let client = gateway.client();
        let ann = client.register("ann@example.org").await;
        Self { gateway, upstream, echo, client, ann }
    }

    fn get(&self, path: &str) -> Call {
        self.client.get(path).bearer(&self.ann.access)
    }

    /// The answer to a call whose service begins to answer with this type.
    async fn begun(&self, path: &str, call: Call, kind: &str) -> (Streamed, Held) {
        self.upstream.hold(path);
        let begin = async {
            let mut held = self.upstream.held().await;
            assert!(held.read_body().await);
            held.begin(200, &[("content-type", kind)]).await;
            held
        };
        tokio::join!(call.open(), begin)
    }

    /// An event stream that is open.
    async fn stream(&self, path: &str) -> (Streamed, Held) {
        let (streamed, held) = self.begun(path, self.get(path), EVENTS.1).await;
        assert_eq!(streamed.status(), 200);
        (streamed, held)
    }

    async fn socket(&self) -> Result<Socket, u16> {
        let (name, value) = bearer(&self.ann.access);
        Socket::ask(self.gateway.address(), &[(name, &value)], "/live/socket").await
    }

    /// A fifth stream is refused, and its service let go of.
    async fn is_full(&self) {
        let (refused, held) = self.begun("/ask/full", self.get("/ask/full"), EVENTS.1).await;
        assert_eq!(refused.status(), 429);
        held.given_up().await;
    }

    /// Waits until this many places are free: whoever sees the end of a stream may see it before the gateway.
    async fn until_free(&self, places: u32) {
        self.upstream.hold("/ask/probe");
        let expected = format!("\"streams\";r={},", places - 1);
        let free = async {
            loop {
                let mut answer = Box::pin(self.get("/ask/probe").header("accept", EVENTS.1).open());
                let mut held = tokio::select! {
                    held = self.upstream.held() => held,
                    refused = &mut answer => {
                        assert_eq!(refused.status(), 429);
                        continue;
                    }
                };
                held.begin(200, &[EVENTS]).await;
                let mut streamed = answer.await;
                let is_free = streamed.header("ratelimit").unwrap().starts_with(&expected);
                held.end(&[]).await;
                held.serve_on();
                assert_eq!(streamed.chunk().await, Ok(None));
                if is_free {
                    return;
                }
            }
        };
        soon("places to be given back", free).await;
    }
}

#[track_caller]
fn refused(answer: &Answer) {
    answer.refused(429, "quota_exceeded");
    assert_eq!(answer.json()["violated-policies"], serde_json::json!(["streams"]));
    assert_eq!(answer.header("retry-after"), None, "nobody knows when one of them ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_streams_are_open_at_once_and_short_requests_go_on() {
    let house = House::new(|yaml| yaml).await;
    let (mut first, mut held) = house.stream("/ask/one").await;
    assert!(first.header("ratelimit").unwrap().starts_with("\"streams\";r=3, \"rate\";r=999999;t="));
    let policy = "\"streams\";q=4;qu=\"concurrent-streams\", \"rate\";q=1000000;w=86400";
    assert_eq!(first.header("ratelimit-policy"), Some(policy));
    let (lines, _held_lines) = house.begun("/ask/two", house.get("/ask/two"), "application/x-ndjson").await;
    assert!(lines.header("ratelimit").unwrap().starts_with("\"streams\";r=2, "));
    let mut sockets = [house.socket().await.unwrap(), house.socket().await.unwrap()];

    // The fifth, whichever it is, is refused: when its head comes, since nothing told before.
    house.upstream.hold("/ask/five");
    let begin = async {
        let mut held = house.upstream.held().await;
        held.begin(200, &[EVENTS]).await;
        held
    };
    let (answer, given_up) = tokio::join!(house.get("/ask/five").send(), begin);
    refused(&answer);
    assert_eq!(answer.header("x-test-upstream"), None, "nothing of the service's answer is left");
    assert!(answer.header("ratelimit").unwrap().starts_with("\"streams\";r=0, \"rate\";r="));
    given_up.given_up().await;
    let line = "portcullis_requests_total{route=\"ask\",reason=\"streams_limited\",method=\"GET\",status=\"4xx\"}";
    assert!(house.gateway.metric(line).await > 0.5);

    // Nobody is asked for what can be nothing else.
    let (asked, shaken) = (house.upstream.received().len(), house.echo.heads().len());
    let answer = house.get("/ask/six").header("accept", "text/event-stream").send().await;
    refused(&answer);
    assert_eq!(answer.header("ratelimit"), Some("\"streams\";r=0"), "what it would have used of the rate stays");
    assert_eq!(house.socket().await.err(), Some(429));
    assert_eq!((house.upstream.received().len(), house.echo.heads().len()), (asked, shaken));

    // Short requests go on, whatever they would take; and others have their own.
    for accept in ["*/*", "application/json, text/event-stream"] {
        let answer = house.get("/ask/short").header("accept", accept).send().await.expect(200);
        assert!(answer.header("ratelimit").unwrap().starts_with("\"rate\";r="), "it has met no cap");
        assert_eq!(answer.header("ratelimit-policy"), Some("\"rate\";q=1000000;w=86400"));
    }
    let bob = house.client.register("bob@example.org").await;
    let call = house.client.get("/ask/bob").bearer(&bob.access);
    let (streamed, _held_bob) = house.begun("/ask/bob", call, EVENTS.1).await;
    assert_eq!(streamed.status(), 200);

    // All four still flow; one that ends makes room for one.
    for socket in &mut sockets {
        socket.echoed("still here").await;
    }
    held.chunk("data: 1\n\n").await;
    assert_eq!(first.chunk().await, Ok(Some("data: 1\n\n".to_owned())));
    held.end(&[]).await;
    held.serve_on();
    assert_eq!(first.chunk().await, Ok(None));
    house.until_free(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_ends_a_stream_gives_its_place_back() {
    let house = House::new(|yaml| yaml).await;
    let (gone, held_gone) = house.stream("/ask/gone").await;
    let (mut cut, held_cut) = house.stream("/ask/cut").await;
    let (mut closed, left) = (house.socket().await.unwrap(), house.socket().await.unwrap());
    house.is_full().await;

    // The client goes, the service breaks off, a tunnel is closed, and one is simply gone.
    drop(gone);
    held_gone.given_up().await;
    house.until_free(1).await;
    drop(held_cut);
    while let Ok(Some(_)) = cut.chunk().await {}
    house.until_free(2).await;
    closed.close().await;
    drop(closed);
    house.until_free(3).await;
    drop(left);
    house.until_free(4).await;

    // The service dies with a tunnel.
    let mut socket = house.socket().await.unwrap();
    house.echo.kill();
    socket.closed().await;
    house.until_free(4).await;

    // The client goes before its stream has a head, with a place or without.
    for accept in ["text/event-stream", "*/*"] {
        for path in ["/ask/a", "/ask/b", "/ask/c", "/ask/d"] {
            house.upstream.hold(path);
            let other = house.gateway.client();
            let call = tokio::spawn(other.get(path).bearer(&house.ann.access).header("accept", accept).send());
            let held = house.upstream.held().await;
            call.abort();
            let _ = call.await;
            drop(other);
            held.given_up().await;
        }
        house.until_free(4).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_asks_for_a_stream_holds_its_place_until_it_is_told_otherwise() {
    let house = House::new(|yaml| yaml.replace("streams: 4", "streams: 1")).await;
    let call = || house.get("/ask/error").header("accept", "text/event-stream");
    house.upstream.hold("/ask/error");
    let asking = tokio::spawn(call().send());
    let mut held = house.upstream.held().await;
    refused(&call().send().await);
    held.answer(&Reply::new(404, "no such thing")).await;
    held.serve_on();
    asking.await.unwrap().expect(404);
    // Neither an error nor a whole answer nor none at all is a stream, nor a handshake that the service refuses.
    let answers = [
        Reply::new(500, "data: no\n\n").with("content-type", "text/event-stream"),
        Reply::new(200, "data: all\n\n").with("content-type", "text/event-stream"),
        Reply::new(200, "{}").with("content-type", "application/json"),
    ];
    for (at, reply) in answers.into_iter().enumerate() {
        let path = format!("/ask/whole-{at}");
        let status = reply.status;
        house.upstream.reply(&path, reply);
        for _ in 0..3 {
            let answer = house.get(&path).header("accept", "text/event-stream").send().await.expect(status);
            assert!(answer.header("ratelimit").unwrap().starts_with("\"rate\";"));
        }
    }
    for _ in 0..3 {
        house.client.call("HEAD", "/ask/head").bearer(&house.ann.access).send().await.expect(200);
        let (name, value) = bearer(&house.ann.access);
        let socket = Socket::ask(house.gateway.address(), &[(name, &value)], "/live/refused").await;
        assert_eq!(socket.err(), Some(403));
    }
    let (_stream, _held) = house.stream("/ask/stream").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_streams_at_once_gets_no_more_than_the_cap() {
    let house = House::new(|yaml| yaml).await;
    house.upstream.hold("/ask/crowd");
    let crowd = futures_util::future::join_all((0..30).map(|_| house.get("/ask/crowd").open()));
    let serve = async {
        let mut all = Vec::new();
        for _ in 0..30 {
            all.push(house.upstream.held().await);
        }
        futures_util::future::join_all(all.iter_mut().map(|held| held.begin(200, &[EVENTS]))).await;
        all
    };
    let (answers, all) = soon("the crowd", async { tokio::join!(crowd, serve) }).await;
    assert_eq!(answers.iter().filter(|answer| answer.status() == 200).count(), 4);
    assert_eq!(answers.iter().filter(|answer| answer.status() == 429).count(), 26);
    drop((answers, all));
    house.until_free(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_caps_the_narrow_one_refuses_first_and_the_wide_one_keeps_its_places() {
    let house = House::new(|yaml| {
        let wide = yaml.replace("limits: [rate, streams]", "limits: [all, rate, at-once, streams]");
        wide.replace(
            "streams: 4}",
            "streams: 2}\n  all: {by: route, streams: 3}\n  at-once: {by: subject, concurrent: 3}",
        )
    })
    .await;
    let (first, _held_first) = house.stream("/ask/one").await;
    let told = first.header("ratelimit").unwrap();
    assert!(told.starts_with("\"at-once\";r=2, \"streams\";r=1, \"all\";r=2, \"rate\";"), "{told}");
    let (_second, _held_second) = house.stream("/ask/two").await;
    let (answer, held) = house.begun("/ask/three", house.get("/ask/three"), EVENTS.1).await;
    assert_eq!((answer.status(), held.given_up().await), (429, 0));
    // Of three places for all, Ann has two: what refused her took none, of requests neither.
    let bob = house.client.register("bob@example.org").await;
    let call = |path| house.client.get(path).bearer(&bob.access);
    let (answer, _held_bob) = house.begun("/ask/bob", call("/ask/bob"), EVENTS.1).await;
    assert_eq!(answer.status(), 200);
    let (answer, held) = house.begun("/ask/bob-2", call("/ask/bob-2"), EVENTS.1).await;
    assert_eq!((answer.status(), held.given_up().await), (429, 0));
    house.get("/ask/short").send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_in_the_shadow_counts_streams_and_refuses_none() {
    let house = House::new(|yaml| yaml.replace("streams: 4}", "streams: 1, shadow: true}")).await;
    let (one, _held_one) = house.stream("/ask/one").await;
    let (_two, _held_two) = house.stream("/ask/two").await;
    let _socket = house.socket().await.unwrap();
    house.get("/ask/short").send().await.expect(200);
    assert!(one.header("ratelimit").unwrap().starts_with("\"rate\";"), "clients would obey");
    for (result, count) in [("admitted", 1.0), ("shadow_refused", 2.0), ("refused", 0.0)] {
        let line = format!("portcullis_limit_decisions_total{{limit=\"streams\",result=\"{result}\"}}");
        assert!((house.gateway.metric(&line).await - count).abs() < 0.5, "{result}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_that_changes_still_counts_what_is_open_unless_it_counts_something_else() {
    let mut house = House::new(|yaml| yaml).await;
    let (_one, _held_one) = house.stream("/ask/one").await;
    let text = yaml(&house.upstream, &house.echo);
    house.gateway.reload(&text.replace("streams: 4}", "streams: 1}")).await;
    house.is_full().await;
    house.gateway.reload(&text.replace("streams: 4}", "concurrent: 1}")).await;
    house.get("/ask/short").send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_refused_is_settled_as_one_that_its_client_left() {
    const BUDGETED: &str = "quotas: [budget], usage: {estimate: 40000}, limits: [streams]";
    let house = House::new(|yaml| {
        let metered = yaml.replace("upgrades: [websocket], limits: [rate, streams]", BUDGETED);
        format!(
            "quotas: {{budget: {{by: subject, per: day, tokens: 100000}}}}{}",
            metered.replace("streams: 4", "streams: 1")
        )
    })
    .await;
    let (_open, _held) = house.stream("/ask/open").await;
    for _ in 0..5 {
        let question = house.client.post("/ask/question").bearer(&house.ann.access).body("x".repeat(400));
        let (answer, held) = house.begun("/ask/question", question, EVENTS.1).await;
        assert_eq!(answer.status(), 429);
        held.given_up().await;
        // Had it kept what was set aside for it, the next would find the budget used up.
        house.get("/ask/short").send().await.expect(200);
    }
    let counted = "portcullis_tokens_total{route=\"ask\",kind=\"input\",source=\"counted\"}";
    assert!(house.gateway.metric(counted).await > 499.5, "the service has read each question");
}
