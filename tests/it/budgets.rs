//! Budgets in tokens and money before a language model: never overspent, however many ask at once; given back by
//! whoever hangs up; and a stream that runs into the end of one is told so.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    api_keys,
    harness::{
        client::{Answer, Call, Streamed},
        model::{PATH, events, question},
        soon,
    },
    limit_keys::token,
    usage::Scene,
};

/// One route to a model with this quota, of `usage` what is written here.
fn with(quota: &'static str, usage: &'static str) -> impl FnOnce(&str) -> String {
    of("subject", quota, usage)
}

/// The same, counted by something else.
fn of(by: &'static str, quota: &'static str, usage: &'static str) -> impl FnOnce(&str) -> String {
    move |model| {
        format!(
            r#"
quotas:
  budget: {{by: {by}, per: day, {quota}}}
clusters:
  model: {{endpoints: ["{model}"]}}
routes:
  - {{name: chat, match: {{path: "/v1/{{*rest}}"}}, credentials: [bearer, api_key], quotas: [budget], cluster: model, usage: {{estimate: 40, {usage}}}}}
"#
        )
    }
}

/// Tokens in an answer's text.
fn tokens(text: &str) -> usize {
    text.matches("tok ").count()
}

/// Units that a `RateLimit` header says are left.
fn left(answer: &Answer) -> u64 {
    let header = answer.header("ratelimit").expect("a RateLimit header");
    header.split(";r=").nth(1).and_then(|rest| rest.split(';').next()?.parse().ok()).expect("units left")
}

async fn read(mut streamed: Streamed) -> Result<String, String> {
    let mut all = String::new();
    loop {
        match streamed.chunk().await {
            Ok(Some(text)) => all += &text,
            Ok(None) => return Ok(all),
            Err(_) => return Err(all),
        }
    }
}

impl Scene {
    async fn open(&self, model: &str, tokens: u64, stream: bool) -> Streamed {
        self.client.post(PATH).bearer(&self.ann.access).json(&question(model, tokens, stream)).open().await
    }

    /// Units that the store counts as used, those that lie at the gateway included.
    async fn used(&self) -> u64 {
        let store = self.gateway.store().await;
        let now = portcullis::clock::Clock::now(&*self.gateway.clock);
        store.quota_usage(Some("budget"), None, now, 10).await.unwrap().iter().map(|usage| usage.used).sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_streams_at_once_as_many_are_answered_as_the_budget_is_for() {
    let scene = Scene::new(with("tokens: 2000, hard: true", "count_input: false")).await;
    let asked = (0..100).map(|_| async {
        let streamed = scene.open("m-1", 30, true).await;
        (streamed.status(), read(streamed).await.unwrap())
    });
    let answers = futures_util::future::join_all(asked).await;
    let whole = answers.iter().filter(|(status, text)| *status == 200 && *text == events("m-1", 30)).count();
    let refused = answers.iter().filter(|(status, _)| *status == 429).count();
    // Ten in and thirty out each.
    assert_eq!((whole, refused), (50, 50));
    assert_eq!(scene.metered().await, [500, 0, 1_500, 0]);
    assert_eq!(scene.used().await, 2_000);
    scene.ask("m-1", 1, true).await.refused(429, "quota_exceeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_go_on_together_never_overspend_and_each_that_ends_says_why() {
    let scene = Scene::new(with("tokens: 2000, hard: true", "count_input: false")).await;
    let asked = (0..40).map(|_| async {
        let streamed = scene.open("quiet", 100, true).await;
        (streamed.status(), read(streamed).await.unwrap())
    });
    let answers = futures_util::future::join_all(asked).await;
    let written: usize = answers.iter().map(|(_, text)| tokens(text)).sum();
    // Fewer than are set aside for one more may be left.
    assert!((1_961..=2_000).contains(&written), "{written}");
    let ended = answers.iter().filter(|(status, text)| *status == 200 && tokens(text) < 100).count();
    assert!(ended > 0, "none was ended on its way");
    for (_, text) in answers.iter().filter(|(status, _)| *status == 200) {
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        assert_eq!(text.contains("event: error\n"), tokens(text) < 100, "{text}");
    }
    assert_eq!(scene.metered().await, [0, 0, 0, written as u64]);
    assert!(scene.used().await <= 2_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_over_its_budget_ends_with_an_event_that_clients_of_the_format_understand() {
    let scene = Scene::new(with("tokens: 100, hard: true", "count_input: false")).await;
    let text = read(scene.open("quiet", 5_000, true).await).await.unwrap();
    let (before, last) = text.split_once("event: error\n").expect("a last event");
    assert_eq!(tokens(before), 100);
    // Whole events, each of them JSON.
    for event in before.strip_suffix("\n\n").unwrap().split("\n\n") {
        let _: Value = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
    }
    let data = last.strip_prefix("data: ").unwrap().strip_suffix("\n\ndata: [DONE]\n\n").unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(
        data["error"],
        json!({"message": "The budget is used up", "type": "insufficient_quota", "param": null, "code": "quota_exceeded"})
    );
    assert_eq!((&data["status"], &data["code"]), (&json!(429), &json!("quota_exceeded")));
    assert_eq!(data["violated-policies"], json!(["budget"]));
    let ended = "portcullis_budget_ends_total{route=\"chat\"}";
    assert!(scene.gateway.metric(ended).await > 0.5);
    let line = "portcullis_requests_total{route=\"chat\",reason=\"budget_used_up\",method=\"POST\",status=\"2xx\"}";
    soon("the request to be told", async { while scene.gateway.metric(line).await < 0.5 {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_other_answer_over_a_hard_budget_is_cut_and_over_a_soft_one_it_is_the_last() {
    let scene = Scene::new(with("tokens: 100, hard: true", "count_input: false")).await;
    let answer = scene.open("quiet", 5_000, false).await;
    assert_eq!(answer.status(), 200);
    assert!(read(answer).await.is_err(), "an answer that was cut must not look whole");
    let scene = Scene::new(with("tokens: 100", "count_input: false")).await;
    let text = read(scene.open("quiet", 500, true).await).await.unwrap();
    assert_eq!((tokens(&text), text.contains("event: error")), (500, false));
    scene.ask("m-1", 1, true).await.refused(429, "quota_exceeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_and_what_was_refused_give_the_budget_back() {
    let scene = Scene::new(with("tokens: 2000, hard: true", "count_input: false")).await;
    let opened = (0..50).map(|_| scene.open("thinks", 0, true));
    let open = futures_util::future::join_all(opened).await;
    assert_eq!(open.iter().map(Streamed::status).collect::<BTreeSet<_>>(), BTreeSet::from([200]));
    scene.ask("m-1", 30, true).await.refused(429, "quota_exceeded");
    drop(open);
    let back = async { while scene.ask("refuses", 30, true).await.status == 429 {} };
    soon("the budget to come back", back).await;
    let all = async { while left(&scene.ask("refuses", 30, true).await.expect(400)) < 1_960 {} };
    soon("all of it to come back", all).await;
    let answer = scene.ask("m-1", 30, true).await.expect(200);
    assert_eq!(left(&answer), 1_960);
    assert_eq!(left(&scene.ask("m-1", 30, true).await), 1_920, "what was used is used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_in_money_is_spent_by_what_the_model_costs() {
    let prices = "prices: {cheap: {input: 1, output: 2}, \"*\": {input: 10, output: 20, per: 1M}}";
    let scene = Scene::new(with("cost: \"0.002\", hard: true", prices)).await;
    // Set aside: forty tokens of the dearest, 800 millionths. Then 10 * 1 + 30 * 2, and 10 * 10 + 30 * 20.
    for (model, stream, rest) in [("cheap", true, 1_200), ("dearer", false, 1_130), ("dearer", true, 430)] {
        assert_eq!(left(&scene.ask(model, 30, stream).await.expect(200)), rest, "{model}");
    }
    scene.ask("cheap", 1, true).await.refused(429, "quota_exceeded");
}

/// Uses up a budget of a hundred tokens but for less than a request needs. `who` says who asks.
async fn uses_it_up(scene: &Scene, who: impl Fn(Call) -> Call) {
    let call = || who(scene.client.post(PATH));
    assert_eq!(left(&call().json(&question("m-1", 70, true)).send().await.expect(200)), 60, "set aside");
    call().json(&question("m-1", 1, true)).send().await.refused(429, "quota_exceeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_key_has_a_budget_of_its_own() {
    let scene = Scene::new(of("api_key", "tokens: 100, hard: true", "count_input: false")).await;
    for _ in 0..2 {
        let key = api_keys::key(&scene.client, &scene.ann).await;
        uses_it_up(&scene, |call| call.header("x-api-key", &key)).await;
    }
    assert_eq!(scene.ask("m-1", 200, true).await.expect(200).header("ratelimit"), None, "a token is no key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organisation_has_one_budget_for_all_of_it() {
    let scene = Scene::new(of("org", "tokens: 100, hard: true", "count_input: false")).await;
    let of = async |user: &str, org: &str| token(&scene.gateway, json!({"sub": user, "org": org})).await;
    let ann = of("ann", "acme").await;
    uses_it_up(&scene, |call| call.bearer(&ann)).await;
    let bob = scene.client.post(PATH).bearer(&of("bob", "acme").await).json(&question("m-1", 1, true));
    bob.send().await.refused(429, "quota_exceeded");
    let other = of("ann", "other").await;
    uses_it_up(&scene, |call| call.bearer(&other)).await;
}
