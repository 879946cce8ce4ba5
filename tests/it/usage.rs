//! What a language model is asked for, and for how many tokens: answers are metered as they flow, and pass unchanged.

use crate::harness::{
    client::{Answer, Client, Tokens},
    gateway::{Engine, Gateway},
    model::{Model, PATH, PROMPT, events, question},
    soon,
    upstream::{Received, Reply, Upstream},
};

/// One metered route, and one that is not.
fn yaml(model: &str) -> String {
    format!(
        r#"
clusters:
  model: {{endpoints: ["{model}"]}}
routes:
  - {{name: chat, match: {{path: "/v1/{{*rest}}"}}, cluster: model, usage: {{estimate: 40}}}}
  - {{name: plain, match: {{path: "/plain/{{*rest}}"}}, rewrite: {{prefix: /plain, to: /}}, cluster: model}}
"#
    )
}

/// A gateway before a model, and a user of it.
pub(crate) struct Scene {
    model: Model,
    pub(crate) gateway: Gateway,
    pub(crate) client: Client,
    pub(crate) ann: Tokens,
}

impl Scene {
    pub(crate) async fn new(yaml: impl FnOnce(&str) -> String) -> Self {
        let model = Model::start().await;
        let gateway = Gateway::start(Engine::Sqlite, &yaml(&model.url())).await;
        let client = gateway.client();
        let ann = client.register("ann@example.org").await;
        Self { model, gateway, client, ann }
    }

    /// Tokens metered so far: reported and counted, in and out.
    pub(crate) async fn metered(&self) -> [u64; 4] {
        let mut all = [0; 4];
        for (at, (kind, source)) in
            [("input", "reported"), ("input", "counted"), ("output", "reported"), ("output", "counted")]
                .into_iter()
                .enumerate()
        {
            let line = format!("portcullis_tokens_total{{route=\"chat\",kind=\"{kind}\",source=\"{source}\"}}");
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small whole numbers")]
            let value = self.gateway.metric(&line).await as u64;
            all[at] = value;
        }
        all
    }

    /// Waits until as many are metered: an answer that was given up is settled a moment later.
    async fn meters(&self, expected: [u64; 4]) {
        soon("the tokens to be counted", async { while self.metered().await != expected {} }).await;
    }

    pub(crate) async fn ask(&self, model: &str, tokens: u64, stream: bool) -> Answer {
        self.client.post(PATH).bearer(&self.ann.access).json(&question(model, tokens, stream)).send().await
    }
}

/// What a request's bytes count for.
fn counted_input(model: &str, tokens: u64, stream: bool) -> u64 {
    (question(model, tokens, stream).to_string().len() as u64).div_ceil(4)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_passes_unchanged_and_what_it_reports_is_counted() {
    let scene = Scene::new(yaml).await;
    let answer = scene.ask("m-1", 7, false).await.expect(200);
    assert_eq!(answer.json()["usage"]["completion_tokens"], 7);
    assert_eq!(scene.metered().await, [PROMPT, 0, 7, 0]);
    let answer = scene.ask("m-1", 300, true).await.expect(200);
    assert_eq!(answer.text(), events("m-1", 300));
    assert_eq!(scene.metered().await, [2 * PROMPT, 0, 307, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_reported_or_is_nonsense_is_counted() {
    let scene = Scene::new(yaml).await;
    let (mut input, mut output) = (0, 0);
    for (model, tokens, stream) in [("quiet", 9, false), ("quiet", 30, true), ("liar", 8, false), ("liar", 50, true)] {
        scene.ask(model, tokens, stream).await.expect(200);
        input += counted_input(model, tokens, stream);
        output += tokens;
        assert_eq!(scene.metered().await, [0, input, 0, output], "{model}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_broke_off_has_used_what_came_and_what_was_refused_nothing() {
    let scene = Scene::new(yaml).await;
    scene.ask("refuses", 100, true).await.expect(400);
    assert_eq!(scene.metered().await, [0; 4]);
    let mut broken = scene.client.post(PATH).bearer(&scene.ann.access).json(&question("dies", 20, true)).open().await;
    while let Ok(Some(_)) = broken.chunk().await {}
    let input = counted_input("dies", 20, true);
    scene.meters([0, input, 0, 20]).await;
    // The client goes once it has all that came.
    let mut left = scene.client.post(PATH).bearer(&scene.ann.access).json(&question("thinks", 30, true)).open().await;
    let mut all = String::new();
    while all.matches("tok ").count() < 30 {
        all += &left.chunk().await.unwrap().expect("it goes on");
    }
    drop(left);
    scene.meters([0, input + counted_input("thinks", 30, true), 0, 50]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_before_the_answer_began_has_sent_what_was_sent() {
    let scene = Scene::new(yaml).await;
    let asked = question("ponders", 5, false);
    let call = scene.client.post(PATH).bearer(&scene.ann.access).json(&asked).open();
    let call = tokio::spawn(async move { drop(call.await) });
    let asks = |one: &Received| one.target() == PATH && one.body.whole;
    scene.model.upstream.wait_for("the question", 1, asks).await;
    call.abort();
    scene.meters([0, counted_input("ponders", 5, false), 0, 0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_metered_route_asks_for_answers_it_can_read() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Engine::Sqlite, &yaml(&upstream.url())).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    for (path, asked) in [("/v1/a", "identity"), ("/plain/a", "br, gzip")] {
        client.get(path).bearer(&ann.access).header("accept-encoding", "br, gzip").send().await.expect(200);
        assert_eq!(upstream.last().head.header("accept-encoding"), Some(asked), "{path}");
    }
    // What is compressed all the same counts by its bytes.
    upstream.reply("/v1/b", Reply::new(200, "0123456789").with("content-encoding", "br"));
    client.get("/v1/b").bearer(&ann.access).send().await.expect(200);
    let counted = "portcullis_tokens_total{route=\"chat\",kind=\"output\",source=\"counted\"}";
    // "from the upstream" and this.
    assert!((gateway.metric(counted).await - f64::from(17_u32.div_ceil(4) + 3)).abs() < 0.5);
    let (_, metrics) = gateway.admin("/metrics").await;
    assert!(!metrics.contains("portcullis_tokens_total{route=\"plain\""), "{metrics}");
}
