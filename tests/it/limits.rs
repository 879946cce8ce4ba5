//! Who pays for whom: narrow before wide, so that a client over its own limit drains nobody else's; what fails or is
//! anonymous is the address's to pay for. Time passes only when the test says so.

use std::time::Duration;

use crate::{
    harness::{
        client::{Answer, Tokens},
        gateway::{Engine, Gateway, Setup},
        upstream::Upstream,
    },
    support::redis::Redis,
};

/// Three requests a minute for each user, ten for each address.
fn yaml(upstream: &Upstream) -> String {
    format!(
        r#"
clusters:
  rag: {{endpoints: ["{}"]}}
limits:
  wide: {{by: address, rate: 10/1m}}
  narrow: {{by: subject, rate: 3/1m}}
  door: {{by: address, rate: 5/1m}}
portal: {{limits: [door]}}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, limits: [wide, narrow], cluster: rag}}
  - {{name: open, match: {{path: "/open/{{*rest}}"}}, auth: none, limits: [wide], cluster: rag}}
  - {{name: free, match: {{path: "/free/{{*rest}}"}}, auth: none, cluster: rag}}
"#,
        upstream.url()
    )
}

async fn gateway() -> (Gateway, Upstream) {
    let upstream = Upstream::start().await;
    (Gateway::start(Engine::Sqlite, &yaml(&upstream)).await, upstream)
}

/// A refusal by this limit, with everything a client needs to behave.
#[track_caller]
fn assert_limited_by(answer: &Answer, policy: &str) {
    answer.refused(429, "quota_exceeded");
    let body = answer.json();
    assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(body["violated-policies"], serde_json::json!([policy]));
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let limit = answer.header("ratelimit").expect("RateLimit");
    assert!(limit.contains(&format!("\"{policy}\";r=0;t=")), "{limit}");
    let quota = answer.header("ratelimit-policy").expect("RateLimit-Policy");
    assert!(quota.contains(&format!("\"{policy}\";q=")), "{quota}");
}

#[tokio::test]
async fn a_client_over_its_own_limit_drains_nobody_elses() {
    let (gateway, upstream) = gateway().await;
    let client = gateway.client();
    let (ann, bob) = (client.register("ann@example.org").await, client.register("bob@example.org").await);
    for _ in 0..3 {
        assert_eq!(client.status("/ask/a", &ann.access).await, 200);
    }
    // Far more than the address could pay for, if it had to.
    for _ in 0..30 {
        assert_limited_by(&client.get("/ask/a").bearer(&ann.access).send().await, "narrow");
    }
    for _ in 0..3 {
        assert_eq!(client.status("/ask/a", &bob.access).await, 200, "Bob sits at the same address");
    }
    for _ in 0..4 {
        client.get("/open/a").send().await.expect(200);
    }
    assert_limited_by(&client.get("/open/a").send().await, "wide");
    assert_eq!(upstream.received().len(), 10, "what the address's limit admits, and no more");
}

#[tokio::test]
async fn failed_and_anonymous_requests_are_the_addresss_to_pay_for() {
    let (gateway, upstream) = gateway().await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    for _ in 0..9 {
        client.get("/ask/a").bearer("wrong").send().await.refused(401, "invalid_token");
    }
    client.get("/ask/a").send().await.refused(401, "credentials_missing");
    // The flood is refused before any look at the token, a good one included.
    assert_limited_by(&client.get("/ask/a").bearer("wrong").send().await, "wide");
    assert_limited_by(&client.get("/ask/a").bearer(&ann.access).send().await, "wide");
    upstream.assert_untouched();
    assert_eq!(gateway.client_at("127.0.0.2").status("/ask/a", &ann.access).await, 200, "another address pays itself");
    client.get("/free/a").send().await.expect(200);
}

#[tokio::test]
async fn time_gives_the_limit_back_as_retry_after_said() {
    let (gateway, _upstream) = gateway().await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    for _ in 0..3 {
        assert_eq!(client.status("/ask/a", &ann.access).await, 200);
    }
    let refused = client.get("/ask/a").bearer(&ann.access).send().await;
    assert_limited_by(&refused, "narrow");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    gateway.clock.advance(Duration::from_secs(wait - 1));
    assert_eq!(client.status("/ask/a", &ann.access).await, 429, "a second too soon");
    gateway.clock.advance(Duration::from_secs(1));
    assert_eq!(client.status("/ask/a", &ann.access).await, 200, "whoever obeys Retry-After is let in");
    assert_eq!(client.status("/ask/a", &ann.access).await, 429, "once");
    gateway.clock.advance(Duration::from_mins(1));
    for _ in 0..3 {
        assert_eq!(client.status("/ask/a", &ann.access).await, 200, "after a whole period all of it is back");
    }
}

#[tokio::test]
async fn an_admitted_request_is_told_what_is_left() {
    let (gateway, _upstream) = gateway().await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    for left in [2, 1, 0] {
        let answer = client.get("/ask/a").bearer(&ann.access).send().await.expect(200);
        let limit = answer.header("ratelimit").unwrap();
        assert!(limit.starts_with(&format!("\"narrow\";r={left};t=")), "{limit}");
        assert!(limit.contains("\"wide\";r="), "{limit}");
        assert_eq!(answer.header("ratelimit-policy"), Some("\"narrow\";q=3;w=60, \"wide\";q=10;w=60"));
    }
    let free = client.get("/free/a").send().await.expect(200);
    assert_eq!((free.header("ratelimit"), free.header("ratelimit-policy")), (None, None));
}

#[tokio::test]
async fn a_login_storm_costs_logins_and_no_request_in_hand() {
    let upstream = Upstream::start().await;
    let yaml =
        format!("passwords: {{hash_threads: 1, hash_queue: 1}}\n{}", crate::harness::gateway::standard(&upstream));
    let gateway = Gateway::start(Engine::Sqlite, &yaml).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let guess = || client.post("/auth/login").json(&serde_json::json!({"email": "a@b.example", "password": "x"}));
    let (storm, asked) = tokio::join!(
        futures_util::future::join_all((0..50).map(|_| guess().send())),
        futures_util::future::join_all((0..50).map(|_| client.status("/ask/a", &ann.access)))
    );
    let full = storm.iter().filter(|answer| answer.status == 503).count();
    assert!(full > 0, "fifty logins fit into one thread and a queue of one");
    for answer in storm {
        if answer.status == 503 {
            let code = answer.json()["code"].clone();
            assert!(code == "hash_queue_full" || code == "logins_under_way", "{code}");
        } else {
            answer.refused(401, "login_failed");
        }
    }
    assert_eq!(asked, [200; 50]);
}

#[tokio::test]
async fn guessing_passwords_is_limited_by_address() {
    let (gateway, _upstream) = gateway().await;
    let client = gateway.client();
    let guess = || client.post("/auth/login").json(&serde_json::json!({"email": "a@b.example", "password": "x"}));
    for _ in 0..5 {
        guess().send().await.refused(401, "login_failed");
    }
    assert_limited_by(&guess().send().await, "door");
    gateway.client_at("127.0.0.3").register("ann@example.org").await;
}

/// Three limits on one route: in the long run, at once, and for everybody at an address.
fn three(upstream: &Upstream) -> String {
    format!(
        r#"
shared_state: {{redis: {{url: {{env: REDIS_URL}}, deadline: 20s, retry: 60s}}}}
clusters:
  rag: {{endpoints: ["{}"]}}
limits:
  wide: {{by: address, rate: 12/1d}}
  burst: {{by: subject, rate: 3/1m}}
  daily: {{by: subject, rate: 5/1d, scope: shared, lease: 0}}
routes:
  - {{name: ask, match: {{path: "/ask/{{*rest}}"}}, limits: [wide, burst, daily], cluster: rag}}
  - {{name: burst, match: {{path: /burst}}, limits: [burst], cluster: rag}}
  - {{name: daily, match: {{path: /daily}}, limits: [daily], cluster: rag}}
  - {{name: wide, match: {{path: /wide}}, auth: none, limits: [wide], cluster: rag}}
"#,
        upstream.url()
    )
}

/// Requests left by each policy that an answer names, in its order.
fn left(answer: &Answer) -> Vec<(String, u32)> {
    let item = |item: &str| {
        let (name, rest) = item.split_once(";r=").unwrap();
        (name.trim_matches('"').to_owned(), rest.split(';').next().unwrap().parse().unwrap())
    };
    answer.header("ratelimit").unwrap().split(", ").map(item).collect()
}

/// The same in one's own words.
fn is(left: &[(&str, u32)]) -> Vec<(String, u32)> {
    left.iter().map(|(name, left)| ((*name).to_owned(), *left)).collect()
}

/// A refusal by this policy, which tells of no other.
#[track_caller]
fn assert_refused_by(answer: &Answer, policy: &str, quota: &str) {
    answer.refused(429, "quota_exceeded");
    assert_eq!(answer.json()["violated-policies"], serde_json::json!([policy]));
    assert_eq!(left(answer), is(&[(policy, 0)]));
    assert_eq!(answer.header("ratelimit-policy"), Some(quota));
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_three_limits_the_one_that_is_hit_is_named_and_the_others_lose_nothing() {
    let (upstream, redis) = (Upstream::start().await, Redis::private());
    let gateway = Setup::new(Engine::Sqlite, &three(&upstream)).variable("REDIS_URL", &redis.url()).start().await;
    let client = gateway.client();
    let (ann, bob) = (client.register("ann@example.org").await, client.register("bob@example.org").await);
    let get = async |path: &str, who: &Tokens| client.get(path).bearer(&who.access).send().await;

    for (daily, burst, wide) in [(4, 2, 11), (3, 1, 10), (2, 0, 9)] {
        let answer = get("/ask/a", &ann).await.expect(200);
        assert_eq!(left(&answer), is(&[("daily", daily), ("burst", burst), ("wide", wide)]));
        let policies = "\"daily\";q=5;w=86400, \"burst\";q=3;w=60, \"wide\";q=12;w=86400";
        assert_eq!(answer.header("ratelimit-policy"), Some(policies));
    }
    // Whoever asks on is charged for none of it.
    for _ in 0..10 {
        assert_refused_by(&get("/ask/a", &ann).await, "burst", "\"burst\";q=3;w=60");
    }
    assert_eq!(left(&get("/daily", &ann).await.expect(200)), is(&[("daily", 1)]));
    assert_eq!(left(&client.get("/wide").send().await.expect(200)), is(&[("wide", 8)]));

    gateway.clock.advance(Duration::from_mins(1));
    let last = get("/ask/a", &ann).await.expect(200);
    assert_eq!(left(&last), is(&[("daily", 0), ("burst", 2), ("wide", 7)]));
    for _ in 0..10 {
        assert_refused_by(&get("/ask/a", &ann).await, "daily", "\"daily\";q=5;w=86400");
    }
    assert_eq!(left(&get("/burst", &ann).await.expect(200)), is(&[("burst", 1)]));

    for wide in (0..7).rev() {
        assert_eq!(left(&client.get("/wide").send().await.expect(200)), is(&[("wide", wide)]));
    }
    for _ in 0..10 {
        assert_refused_by(&get("/ask/a", &bob).await, "wide", "\"wide\";q=12;w=86400");
    }
    assert_eq!(left(&get("/daily", &bob).await.expect(200)), is(&[("daily", 4)]));
    assert_eq!(left(&get("/burst", &bob).await.expect(200)), is(&[("burst", 2)]));
    assert_eq!(upstream.received().len(), 3 + 2 + 1 + 1 + 7 + 2, "what was refused went nowhere");
}
