//! Webhooks: what happened is told to a real receiver, signed, at least once, whatever the receiver does, and nobody
//! else waits for it.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::harness::{
    client::{Client, PASSWORD},
    gateway::standard,
    gateways::{Deployment, Gateways},
    soon,
    upstream::{Received, Reply, Upstream},
};

on_every_deployment!(
    an_event_is_told_once_signed_and_whole,
    a_receiver_that_fails_or_sends_us_elsewhere_is_told_again_after_a_restart_too,
    a_receiver_that_dawdles_holds_up_neither_requests_nor_another_receiver,
    a_message_is_given_up_after_three_days_and_that_is_audited,
);

const SECRET: &str = "whsec_cGxhbnRlZC13ZWJob29rLXNlY3JldC0wMTIz";

fn config(upstream: &Upstream, receivers: &[(&str, &Upstream)]) -> String {
    let one = |(name, receiver): &(&str, &Upstream)| {
        format!("    {name}: {{url: \"{}/hook/{name}\", secret: \"${{WEBHOOK_SECRET}}\"}}\n", receiver.url())
    };
    let webhooks: String = receivers.iter().map(one).collect();
    format!("{}security_events:\n  webhooks:\n{webhooks}", standard(upstream))
}

async fn start(deployment: Deployment, yaml: &str) -> Gateways {
    Gateways::start_with(deployment, yaml, |setup| setup.variable("WEBHOOK_SECRET", SECRET)).await
}

/// A login from a device that the user has not had.
async fn new_device(client: &Client, agent: &str) {
    let credentials = json!({"email": "ann@example.org", "password": PASSWORD});
    client.post("/auth/login").header("user-agent", agent).json(&credentials).send().await.expect(200);
}

/// What was told, its signature checked as the specification says, by a second implementation of it.
fn told(received: &Received) -> Value {
    let header = |name: &str| received.head.header(name).unwrap_or_else(|| panic!("no {name}")).to_owned();
    let body = String::from_utf8(received.body.bytes.clone()).unwrap();
    let key = BASE64_STANDARD.decode(SECRET.strip_prefix("whsec_").unwrap()).unwrap();
    let signed = format!("{}.{}.{body}", header("webhook-id"), header("webhook-timestamp"));
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes());
    assert_eq!(header("webhook-signature"), format!("v1,{}", BASE64_STANDARD.encode(mac)));
    let message: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(message["id"], header("webhook-id"));
    message
}

async fn until(what: &str, gateways: &Gateways, result: &str, enough: f64) {
    let line = format!("portcullis_webhook_deliveries_total{{webhook=\"a\",result=\"{result}\"}}");
    let reached = async { while gateways.metric(&line).await < enough - 0.5 {} };
    soon(what, reached).await;
}

async fn an_event_is_told_once_signed_and_whole(deployment: Deployment) {
    let (upstream, receiver) = (Upstream::start().await, Upstream::start().await);
    let gateways = start(deployment, &config(&upstream, &[("a", &receiver)])).await;
    let client = gateways.client();
    let ann = client.register("ann@example.org").await;
    new_device(&client, "Another/1.0").await;
    until("the delivery", &gateways, "delivered", 1.0).await;
    let arrived = receiver.received();
    assert_eq!(arrived.len(), 1);
    assert_eq!((arrived[0].method(), arrived[0].target()), ("POST", "/hook/a"));
    let message = told(&arrived[0]);
    assert_eq!(message["event"], "new_device");
    assert_eq!(message["user"], ann.user["id"]);
    assert_eq!((&message["address"], &message["at"]), (&json!("127.0.0.1"), &json!("2026-03-01T12:00:00Z")));
    assert_eq!(message["detail"], json!({"user_agent": "Another/1.0"}));
    let rows = gateways.store().await.audit_of(ann.user["id"].as_str().unwrap().parse().unwrap(), 10).await.unwrap();
    let row = rows.iter().find(|row| row.event == "new_device").unwrap();
    assert_eq!(message["request_id"], row.request_id.as_deref().unwrap());
    assert_eq!(message["session"], row.session.unwrap().to_string());
}

async fn a_receiver_that_fails_or_sends_us_elsewhere_is_told_again_after_a_restart_too(deployment: Deployment) {
    let (upstream, receiver, elsewhere) = (Upstream::start().await, Upstream::start().await, Upstream::start().await);
    let mut gateways = start(deployment, &config(&upstream, &[("a", &receiver)])).await;
    receiver.reply("/hook/a", Reply::new(500, "no"));
    gateways.client().register("ann@example.org").await;
    new_device(&gateways.client(), "Another/1.0").await;
    until("the first attempt", &gateways, "failed", 1.0).await;
    receiver.reply("/hook/a", Reply::new(307, "").with("location", &format!("{}/hook/a", elsewhere.url())));
    gateways.clock.advance(Duration::from_secs(6));
    until("the second attempt", &gateways, "failed", 2.0).await;
    elsewhere.assert_untouched();

    receiver.reply("/hook/a", Reply::new(204, ""));
    gateways.restart().await;
    gateways.clock.advance(Duration::from_secs(11));
    until("the third attempt", &gateways, "delivered", 1.0).await;
    let ids: Vec<_> = receiver.received().iter().map(|received| told(received)["id"].clone()).collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| *id == ids[0]), "one message by its id: {ids:?}");
}

async fn a_receiver_that_dawdles_holds_up_neither_requests_nor_another_receiver(deployment: Deployment) {
    let (upstream, slow, quick) = (Upstream::start().await, Upstream::start().await, Upstream::start().await);
    slow.hold("/hook/b");
    let gateways = start(deployment, &config(&upstream, &[("a", &quick), ("b", &slow)])).await;
    let client = gateways.client();
    let ann = client.register("ann@example.org").await;
    new_device(&client, "Another/1.0").await;
    let held = soon("the slow one to be told", slow.held()).await;
    new_device(&client, "Another/2.0").await;
    until("the quick one to be told of both", &gateways, "delivered", 2.0).await;
    assert_eq!(client.status("/ask/a", &ann.access).await, 200);
    drop(held);
}

async fn a_message_is_given_up_after_three_days_and_that_is_audited(deployment: Deployment) {
    let (upstream, receiver) = (Upstream::start().await, Upstream::start().await);
    receiver.reply("/hook/a", Reply::new(503, "no"));
    let gateways = start(deployment, &config(&upstream, &[("a", &receiver)])).await;
    gateways.client().register("ann@example.org").await;
    new_device(&gateways.client(), "Another/1.0").await;
    until("the first attempt", &gateways, "failed", 1.0).await;
    gateways.clock.advance(Duration::from_hours(73));
    until("the last attempt", &gateways, "given_up", 1.0).await;
    let wanted = portcullis::store::audit::AuditQuery { event: Some("webhook_given_up".into()), ..Default::default() };
    let rows = gateways.store().await.audit_rows(&wanted, 10).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].outcome.as_deref(), rows[0].actor.as_deref()), (Some("failed"), Some("system")));
    assert_eq!(rows[0].detail.as_deref(), Some(r#"{"attempts":2,"webhook":"a"}"#));
}
