//! The configuration changes while requests flow: all of it or nothing, and nobody who is being served notices.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use portcullis::telemetry::metrics::ReloadResult;
use serde_json::{Value, json};

use crate::harness::{
    client::PASSWORD,
    gateway::{Engine, Gateway, Setup, standard},
    soon,
    tls::Authority,
    upstream::{Reply, Upstream},
};

fn cluster(name: &str, upstream: &Upstream, more: &str) -> String {
    format!("  {name}: {{endpoints: [\"{}\"]{more}}}\n", upstream.url())
}

fn route(name: &str, cluster: &str, more: &str) -> String {
    format!("  - {{name: {name}, match: {{path: \"/{name}/{{*rest}}\"}}, auth: none, cluster: {cluster}{more}}}\n")
}

fn yaml(clusters: &[String], routes: &[String]) -> String {
    format!("clusters:\n{}routes:\n{}", clusters.concat(), routes.concat())
}

/// What `/readyz` says of the configuration.
async fn configuration(gateway: &Gateway) -> String {
    let (status, text) = gateway.admin("/readyz").await;
    assert_eq!(status, 200, "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "configuration").unwrap();
    check["state"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_route_is_added_changed_and_removed() {
    let upstream = Upstream::start().await;
    let rag = [cluster("rag", &upstream, "")];
    let mut gateway = Gateway::start(Engine::Sqlite, &yaml(&rag, &[route("one", "rag", "")])).await;
    let client = gateway.client();
    client.get("/one/a").send().await.expect(200);
    client.get("/two/a").send().await.refused(404, "no_route");

    let more = yaml(&rag, &[route("one", "rag", ", body_limit: 3B"), route("two", "rag", "")]);
    assert_eq!(gateway.reload(&more).await, ReloadResult::Applied);
    client.get("/two/a").send().await.expect(200);
    client.post("/one/a").body("four").send().await.refused(413, "body_too_large");

    assert_eq!(gateway.reload(&yaml(&rag, &[route("two", "rag", "")])).await, ReloadResult::Applied);
    client.get("/one/a").send().await.refused(404, "no_route");
    client.get("/two/a").send().await.expect(200);
    assert!(gateway.metric("portcullis_config_reloads_total{result=\"applied\"}").await > 1.5);
}

#[tokio::test]
async fn a_broken_configuration_leaves_the_last_good_one_in_force() {
    let upstream = Upstream::start().await;
    let good = standard(&upstream);
    let mut gateway = Gateway::start(Engine::Sqlite, &good).await;
    assert_eq!(configuration(&gateway).await, "ok");
    let broken = format!("{good}  - {{name: two, match: {{path: /two}}, auth: none, cluster: rgg}}\n");
    assert_eq!(gateway.reload(&broken).await, ReloadResult::Broken);
    gateway.client().get("/open/a").send().await.expect(200);
    gateway.client().get("/two").send().await.refused(404, "no_route");
    assert_eq!(configuration(&gateway).await, "degraded");
    assert!(gateway.metric("portcullis_config_last_reload_successful").await < 0.5);

    assert_eq!(gateway.reload(&good).await, ReloadResult::Unchanged);
    assert_eq!(configuration(&gateway).await, "ok");
    assert!(gateway.metric("portcullis_config_last_reload_successful").await > 0.5);
}

#[tokio::test]
async fn what_needs_a_restart_is_refused_with_all_that_came_with_it() {
    let upstream = Upstream::start().await;
    let good = standard(&upstream);
    let mut gateway = Gateway::start(Engine::Sqlite, &good).await;
    let client = gateway.client();
    let more = format!("{good}{}", route("two", "rag", ""));
    for fixed in [
        r#"listeners: {public: {bind: "127.0.0.1:0", max_connections: 5}, admin: {bind: "127.0.0.1:0"}}"#,
        r#"listeners: {public: {bind: "127.0.0.1:1"}, admin: {bind: "127.0.0.1:0"}}"#,
        r#"store: {url: "sqlite://data/other.db", pool: 4}"#,
        "runtime: {workers: 3}",
        r#"tokens: {issuer: "https://other.test", audience: gw-test}"#,
        "passwords: {hash_threads: 2}",
    ] {
        assert_eq!(gateway.reload(&format!("{fixed}\n{more}")).await, ReloadResult::NeedsRestart, "{fixed}");
        client.get("/two/a").send().await.refused(404, "no_route");
        assert_eq!(configuration(&gateway).await, "degraded");
    }
    assert_eq!(gateway.reload(&more).await, ReloadResult::Applied);
    client.get("/two/a").send().await.expect(200);
}

#[tokio::test]
async fn a_limit_that_stays_keeps_its_counts_and_a_changed_one_begins_anew() {
    let upstream = Upstream::start().await;
    let with = |rate: &str, more: &str| {
        let routes = [route("open", "rag", ", limits: [few]"), more.to_owned()];
        format!("limits: {{few: {{by: address, rate: {rate}}}}}\n{}", yaml(&[cluster("rag", &upstream, "")], &routes))
    };
    let mut gateway = Gateway::start(Engine::Sqlite, &with("2/1m", "")).await;
    let client = gateway.client();
    for _ in 0..2 {
        client.get("/open/a").send().await.expect(200);
    }
    client.get("/open/a").send().await.expect(429);
    assert_eq!(gateway.reload(&with("2/1m", &route("two", "rag", ", limits: [few]"))).await, ReloadResult::Applied);
    client.get("/open/a").send().await.expect(429);
    client.get("/two/a").send().await.expect(429);
    assert_eq!(gateway.reload(&with("3/1m", "")).await, ReloadResult::Applied);
    for _ in 0..3 {
        client.get("/open/a").send().await.expect(200);
    }
    client.get("/open/a").send().await.expect(429);
}

#[tokio::test]
async fn a_request_ends_where_it_began_and_its_connection_with_it() {
    let (old, new) = (Upstream::start().await, Upstream::start().await);
    let to = |upstream: &Upstream| yaml(&[cluster("rag", upstream, "")], &[route("open", "rag", "")]);
    let mut gateway = Gateway::start(Engine::Sqlite, &to(&old)).await;
    let client = gateway.client();
    old.hold("/open/slow");
    let slow = tokio::spawn(client.get("/open/slow").send());
    let mut held = old.held().await;
    assert_eq!(gateway.reload(&to(&new)).await, ReloadResult::Applied);
    client.get("/open/a").send().await.expect(200);
    assert_eq!((old.received().len(), new.received().len()), (1, 1));
    held.answer(&Reply::new(200, "from the old one")).await;
    assert_eq!(slow.await.unwrap().expect(200).text(), "from the old one");
    assert_eq!(held.given_up().await, 0, "a cluster that is gone keeps no connection");
    let (_, text) = gateway.admin("/metrics").await;
    assert!(!text.contains(&old.address().to_string()), "{text}");
    assert!(text.contains(&new.address().to_string()), "{text}");
}

#[tokio::test]
async fn a_stream_goes_on_over_reloads() {
    let upstream = Upstream::start().await;
    let to = |routes: &[String]| yaml(&[cluster("rag", &upstream, "")], routes);
    let mut gateway = Gateway::start(Engine::Sqlite, &to(&[route("open", "rag", ""), route("one", "rag", "")])).await;
    upstream.hold("/open/stream");
    let client = gateway.client();
    let asking = tokio::spawn(async move { client.get("/open/stream").open().await });
    let mut held = upstream.held().await;
    held.begin(200, &[]).await;
    let mut answer = asking.await.unwrap();
    for name in ["two", "three"] {
        // Not even its route is left.
        assert_eq!(gateway.reload(&to(&[route(name, "rag", "")])).await, ReloadResult::Applied);
        held.chunk(name).await;
        assert_eq!(answer.chunk().await, Ok(Some(name.to_owned())));
    }
    held.end(&[]).await;
    assert_eq!(answer.chunk().await, Ok(None));
}

#[tokio::test]
async fn an_unchanged_cluster_keeps_its_connections_and_a_changed_one_closes_them() {
    let (kept, changed) = (Upstream::start().await, Upstream::start().await);
    let with = |more: &str| {
        let clusters = [cluster("kept", &kept, ""), cluster("changed", &changed, more)];
        yaml(&clusters, &[route("kept", "kept", ""), route("changed", "changed", "")])
    };
    let mut gateway = Gateway::start(Engine::Sqlite, &with("")).await;
    let client = gateway.client();
    client.get("/kept/a").send().await.expect(200);
    changed.hold("/changed/a");
    let asking = tokio::spawn(client.get("/changed/a").send());
    let mut idle = changed.held().await;
    idle.answer(&Reply::new(200, "")).await;
    asking.await.unwrap().expect(200);
    assert_eq!(gateway.reload(&with(", connect_timeout: 1s")).await, ReloadResult::Applied);
    idle.given_up().await;
    client.get("/kept/a").send().await.expect(200);
    let connections: Vec<_> = kept.received().into_iter().map(|one| one.connection).collect();
    assert_eq!(connections, [1, 1]);
}

#[tokio::test]
async fn an_unchanged_cluster_keeps_its_health_and_a_changed_one_is_checked_before_it_serves() {
    let upstream = Upstream::start().await;
    upstream.reply("/health", Reply::new(500, ""));
    let with = |timeout: &str, more: &str| {
        let check = format!(", health_check: {{path: /health, interval: 1h, timeout: {timeout}}}");
        yaml(&[cluster("rag", &upstream, &check)], &[route("open", "rag", ""), more.to_owned()])
    };
    let mut gateway = Gateway::start(Engine::Sqlite, &with("1s", "")).await;
    let client = gateway.client();
    client.get("/open/a").send().await.refused(503, "upstream_unhealthy");
    upstream.reply("/health", Reply::new(204, ""));
    assert_eq!(gateway.reload(&with("1s", &route("two", "rag", ""))).await, ReloadResult::Applied);
    client.get("/two/a").send().await.refused(503, "upstream_unhealthy");
    assert_eq!(gateway.reload(&with("2s", "")).await, ReloadResult::Applied);
    client.get("/open/a").send().await.expect(200);
}

#[tokio::test]
async fn the_portal_follows_and_sessions_live_on() {
    let upstream = Upstream::start().await;
    let mut gateway = Gateway::standard(Engine::Sqlite, &upstream).await;
    let client = gateway.client();
    let ann = client.register("ann@example.org").await;
    let closed = format!("portal: {{registration: closed}}\n{}", standard(&upstream));
    assert_eq!(gateway.reload(&closed).await, ReloadResult::Applied);
    let register = client.post("/auth/register").json(&json!({"email": "b@example.org", "password": PASSWORD}));
    register.send().await.refused(403, "registration_closed");
    assert_eq!(client.status("/ask/a", &ann.access).await, 200);
    client.refreshed(&ann.refresh).await;

    let moved = format!("portal: {{base_paths: [/account]}}\n{}", standard(&upstream));
    assert_eq!(gateway.reload(&moved).await, ReloadResult::Applied);
    client.post("/auth/login").json(&json!({})).send().await.refused(404, "no_route");
    client.post("/account/login").json(&json!({})).send().await.refused(422, "validation");
}

#[tokio::test]
async fn a_certificate_is_exchanged_and_connections_that_stand_stay() {
    let upstream = Upstream::start().await;
    let (first, second) = (Authority::new(), Authority::new());
    let yaml = format!(
        "listeners:\n  public: {{bind: \"127.0.0.1:0\", tls: {{certificate: chain.pem, key: key.pem}}}}\n  \
         admin: {{bind: \"127.0.0.1:0\"}}\n{}",
        standard(&upstream)
    );
    let (one, two) = (first.certify("localhost"), second.certify("localhost"));
    let setup = Setup::new(Engine::Sqlite, &yaml).file("chain.pem", &one.certificate).file("key.pem", &one.key);
    let mut gateway = setup.start().await;
    let before = gateway.tls_client(first.pem());
    before.get("/open/a").send().await.expect(200);

    gateway.write("chain.pem", &two.certificate);
    assert_eq!(gateway.reload_files().await, ReloadResult::Broken, "a key of another certificate");
    gateway.tls_client(first.pem()).get("/open/a").send().await.expect(200);
    gateway.write("key.pem", &two.key);
    assert_eq!(gateway.reload_files().await, ReloadResult::Applied);
    gateway.tls_client(second.pem()).get("/open/a").send().await.expect(200);
    // It trusts the first authority alone: had it had to connect again, it could not have.
    before.get("/open/a").send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_under_load_fail_no_request_and_leave_nothing_behind() {
    const RELOADS: usize = 100;
    let upstream = Upstream::start().await;
    // Each has a route, a cluster and a limit that no other has, and changes the cluster that everybody asks for.
    let nth = |n: usize| {
        let changed = format!(", connect_timeout: {}ms", 1_000 + n);
        let clusters = [
            cluster("stays", &upstream, ""),
            cluster("turns", &upstream, &changed),
            cluster(&format!("c{n}"), &upstream, ""),
        ];
        let own = route(&format!("r{n}"), &format!("c{n}"), &format!(", limits: [l{n}]"));
        let routes = [route("stays", "stays", ""), route("turns", "turns", ""), own];
        format!("limits: {{l{n}: {{by: address, rate: 1000/s}}}}\n{}", yaml(&clusters, &routes))
    };
    let mut gateway = Gateway::start(Engine::Sqlite, &nth(0)).await;
    let (over, answered) = (Arc::new(AtomicBool::default()), Arc::new(AtomicUsize::default()));
    let load: Vec<_> = ["/stays/a", "/turns/a", "/turns/b", "/turns/c"]
        .into_iter()
        .map(|path| {
            let (client, over, answered) = (gateway.client(), Arc::clone(&over), Arc::clone(&answered));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    client.get(path).send().await.expect(200);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let client = gateway.client();
    let mut baseline = (0, 0);
    // Of requests only what has been counted is told, and a request is counted a little after its answer.
    let told = |line: &&str| !line.starts_with("portcullis_requests_total");
    let series = async |gateway: &Gateway| gateway.admin("/metrics").await.1.lines().filter(told).count();
    for n in 1..=RELOADS {
        let before = answered.load(Ordering::Relaxed);
        assert_eq!(gateway.reload(&nth(n)).await, ReloadResult::Applied, "{n}");
        client.get(&format!("/r{n}/a")).send().await.expect(200);
        // Each configuration serves some of the load.
        let served = async {
            while answered.load(Ordering::Relaxed) < before + 4 {
                tokio::task::yield_now().await;
            }
        };
        soon("the load to go on", served).await;
        if n == 5 {
            baseline = (tasks(), series(&gateway).await);
        }
    }
    let (tasks_then, series_then) = baseline;
    assert_eq!(series(&gateway).await, series_then);
    let (_, text) = gateway.admin("/metrics").await;
    assert!(
        text.contains("\"r100\"")
            && !text.contains("\"r99\"")
            && !text.contains("\"c99\"")
            && !text.contains("\"l99\"")
    );
    let settled = async {
        // Not one more for each reload; the connections under load come and go.
        while tasks() > tasks_then + RELOADS / 4 {
            tokio::task::yield_now().await;
        }
    };
    soon("the tasks of old configurations to end", settled).await;
    over.store(true, Ordering::Relaxed);
    for one in load {
        one.await.unwrap();
    }
    let failed = text
        .lines()
        .filter(|line| line.starts_with("portcullis_upstream_requests_total") && !line.contains("answered"));
    for line in failed {
        assert!(line.ends_with(" 0"), "{line}");
    }
    gateway.stop().await;
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}
