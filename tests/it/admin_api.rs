//! The admin API: where it is served, to whom, and that no call of it goes unseen.

use serde_json::{Value, json};

use crate::{
    harness::{
        client::{Answer, Client, Tokens},
        gateway::standard,
        gateways::{Deployment, Gateways},
        upstream::Upstream,
    },
    revocations::give,
};

on_every_deployment!(
    administrators_reach_it_at_the_admin_listener_alone_unless_said_otherwise,
    nobody_else_is_let_in_and_a_role_taken_away_bites_at_once,
    every_call_leaves_a_row_that_names_its_actor,
    a_list_is_given_in_pages_without_a_gap,
    what_a_call_does_not_know_is_refused,
);

const AUDIT: &str = "/admin/v1/audit";

/// Somebody with the role admin.
pub(crate) async fn administrator(gateways: &Gateways) -> Tokens {
    let client = gateways.client();
    let root = client.register("root@example.org").await;
    give(gateways, &root.user, &["admin"], None).await;
    client.login("root@example.org").await
}

fn with(upstream: &Upstream, portal: &str) -> String {
    format!("{}portal: {{{portal}}}\n", standard(upstream))
}

fn events(answer: &Answer) -> Vec<String> {
    let rows = answer.json()["rows"].as_array().unwrap().clone();
    rows.iter().map(|row| row["event"].as_str().unwrap().to_owned()).collect()
}

async fn administrators_reach_it_at_the_admin_listener_alone_unless_said_otherwise(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let mut gateways = Gateways::start(deployment, &standard(&upstream)).await;
    let root = administrator(&gateways).await;
    let asks = async |client: Client| client.get(AUDIT).bearer(&root.access).send().await;
    for gateway in &gateways.all {
        asks(gateway.admin_client()).await.expect(200);
        asks(gateway.client()).await.refused(404, "no_route");
        // Health is there as ever, for everybody; what is not the API's is not the pipeline's.
        assert_eq!(gateway.admin("/livez").await.0, 200);
        assert_eq!(gateway.admin("/auth/login").await, (404, "not found\n".to_owned()));
    }
    gateways.restart_with(&with(&upstream, "admin_api: public")).await;
    for gateway in &gateways.all {
        asks(gateway.client()).await.expect(200);
        asks(gateway.admin_client()).await.expect(200);
        // What is not there is nobody else's at the public listener either.
        gateway.client().get("/admin/v1/nothing").bearer(&root.access).send().await.refused(404, "no_route");
    }
    gateways.restart_with(&with(&upstream, "admin_api: none")).await;
    for gateway in &gateways.all {
        asks(gateway.client()).await.refused(404, "no_route");
        asks(gateway.admin_client()).await.refused(404, "no_route");
    }
}

async fn nobody_else_is_let_in_and_a_role_taken_away_bites_at_once(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::start(deployment, &with(&upstream, "admin_api: public")).await;
    let root = administrator(&gateways).await;
    let ann = gateways.client().register("ann@example.org").await;
    let clients = || gateways.all.iter().flat_map(|gateway| [gateway.client(), gateway.admin_client()]);
    for client in clients() {
        client.get(AUDIT).send().await.refused(401, "credentials_missing");
        client.get(AUDIT).bearer("garbage").send().await.refused(401, "invalid_token");
        client.get(AUDIT).bearer(&ann.access).send().await.refused(403, "role_missing");
        client.get(AUDIT).bearer(&root.access).send().await.expect(200);
        client.call("DELETE", AUDIT).bearer(&root.access).send().await.refused(405, "method_not_allowed");
    }
    give(&gateways, &root.user, &["user"], None).await;
    for client in clients() {
        client.get(AUDIT).bearer(&root.access).send().await.refused(403, "role_missing");
    }
    give(&gateways, &root.user, &["admin"], None).await;
    gateways.client().post("/auth/logout").bearer(&root.access).send().await.expect(204);
    gateways.know_what_was_told().await;
    for client in clients() {
        client.get(AUDIT).bearer(&root.access).send().await.refused(401, "invalid_token");
    }
}

async fn every_call_leaves_a_row_that_names_its_actor(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::start(deployment, &standard(&upstream)).await;
    let root = administrator(&gateways).await;
    let id = root.user["id"].as_str().unwrap();
    let client = gateways.all[0].admin_client();
    let answer = client.get("/admin/v1/audit?limit=3").bearer(&root.access).send().await.expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let page = answer.json();
    let row = &page["rows"][0];
    assert_eq!((&row["event"], &row["outcome"]), (&json!("admin_read"), &json!("succeeded")));
    assert_eq!(row["actor"], format!("user:{id}"));
    assert_eq!((&row["user"], &row["address"]), (&Value::Null, &json!("127.0.0.1")));
    assert_eq!(row["detail"], json!({"route": "admin_audit"}));
    assert_eq!(row["request_id"], answer.header("x-request-id").unwrap());
    // Those who are not let in leave one too.
    let ann = gateways.client().register("ann@example.org").await;
    client.get(AUDIT).bearer(&ann.access).send().await.refused(403, "role_missing");
    let denied = async {
        loop {
            let page = client.get("/admin/v1/audit?event=permission_denied").bearer(&root.access).send().await;
            if let Some(row) = page.json()["rows"].as_array().unwrap().first() {
                break row.clone();
            }
        }
    };
    let denied = crate::harness::soon("the denial to be written down", denied).await;
    assert_eq!(denied["actor"], format!("user:{}", ann.user["id"].as_str().unwrap()));
}

async fn a_list_is_given_in_pages_without_a_gap(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::start(deployment, &standard(&upstream)).await;
    let root = administrator(&gateways).await;
    for _ in 0..4 {
        gateways.client().login("root@example.org").await;
    }
    let client = gateways.all[0].admin_client();
    let id = root.user["id"].as_str().unwrap();
    let (mut seen, mut next, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let path = format!("/admin/v1/audit?user={id}&limit=2{next}");
        let page = client.get(&path).bearer(&root.access).send().await.expect(200);
        assert!(events(&page).len() <= 2);
        seen.extend(events(&page));
        pages += 1;
        match page.json()["next"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => break,
        }
    }
    let whole = client.get(&format!("/admin/v1/audit?user={id}&limit=200")).bearer(&root.access).send().await;
    assert_eq!(seen, events(&whole.expect(200)));
    assert!(seen.len() >= 7 && pages > 3, "{seen:?} in {pages}");
    let logins = client.get("/admin/v1/audit?event=login_succeeded&limit=200").bearer(&root.access).send().await;
    assert_eq!(events(&logins), ["login_succeeded"; 6]);
}

async fn what_a_call_does_not_know_is_refused(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::start(deployment, &standard(&upstream)).await;
    let root = administrator(&gateways).await;
    let client = gateways.all[0].admin_client();
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=1&limit=2", "limit"),
        ("user=ann", "user"),
        ("event=nonsense", "event"),
        ("cursor=x", "cursor"),
        ("role=admin", "role"),
    ] {
        let answer = client.get(&format!("/admin/v1/audit?{query}")).bearer(&root.access).send().await;
        answer.refused(422, "validation");
        assert_eq!(answer.json()["errors"][0]["field"], field, "{query}");
    }
    // Whoever has looked at nothing is not said to have.
    let rows = client.get(AUDIT).bearer(&root.access).send().await;
    assert_eq!(events(&rows).iter().filter(|event| *event == "admin_read").count(), 1);
}
