//! A gateway whose shared limits are counted by the master that sentinels name, from outside: none of its requests
//! notices that the master dies.

use crate::{
    harness::{
        gateway::{Engine, Setup},
        soon,
        upstream::Upstream,
    },
    support::redis_sentinel::{RedisSentinel, SENTINEL_PASSWORD, SERVICE},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_dies_costs_no_request_and_its_successor_goes_on_counting() {
    let (upstream, mut servers) = (Upstream::start().await, RedisSentinel::private());
    let sentinels: Vec<_> = servers.sentinels().iter().map(|(host, port)| format!("\"{host}:{port}\"")).collect();
    let yaml = format!(
        r#"
shared_state:
  redis:
    url: {{env: REDIS_URL}}
    sentinel: {{service: {SERVICE}, servers: [{}], password: {{env: SENTINEL_PASSWORD}}}}
    deadline: 5s
    retry: 50ms
clusters:
  rag: {{endpoints: ["{}"]}}
limits:
  wide: {{by: address, rate: 100000/1d, scope: shared, lease: 0}}
routes:
  - {{name: open, match: {{path: "/open/{{*rest}}"}}, auth: none, limits: [wide], cluster: rag}}
"#,
        sentinels.join(", "),
        upstream.url()
    );
    let setup = Setup::new(Engine::Sqlite, &yaml).variable("REDIS_URL", &RedisSentinel::url());
    let gateway = setup.variable("SENTINEL_PASSWORD", SENTINEL_PASSWORD).start().await;
    let client = gateway.client();
    let (lost, alone) = ("portcullis_shared_state_lost", "portcullis_shared_state_fallbacks_total");
    // One of the three is silent all the time.
    servers.pause(2);
    client.get("/open/a").send().await.expect(200);
    assert!(gateway.metric(lost).await < 0.5 && gateway.metric(alone).await < 0.5);

    servers.stop(0);
    let counted_alone = async {
        while gateway.metric(alone).await < 0.5 {
            client.get("/open/a").send().await.expect(200);
        }
    };
    soon("the loss to be noticed", counted_alone).await;
    assert!(gateway.metric(lost).await > 0.5);
    let found = async {
        while gateway.metric(lost).await > 0.5 {
            client.get("/open/a").send().await.expect(200);
        }
    };
    soon("the successor to be found", found).await;
    let before = gateway.metric(alone).await;
    for _ in 0..10 {
        client.get("/open/a").send().await.expect(200);
    }
    assert!((gateway.metric(alone).await - before).abs() < 0.1, "it is Redis that counts again");
    servers.resume(2);
    servers.await_master(1);
}
