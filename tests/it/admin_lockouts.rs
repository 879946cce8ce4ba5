//! What is locked, seen and lifted by administrators: over the API and from the command line.

use serde_json::{Value, json};

use crate::{
    admin_api::administrator,
    harness::{
        client::{Client, PASSWORD},
        gateways::{Deployment, Gateways},
        upstream::Upstream,
    },
};

on_every_deployment!(
    what_is_locked_is_listed_and_lifted_one_by_one,
    an_account_and_an_address_are_lifted_whole,
    the_command_line_shows_and_lifts_the_same,
);

const LOCKOUTS: &str = "/admin/v1/lockouts";
const WRONG: &str = "not the password of anybody here";

async fn fail(client: &Client, email: &str) {
    let body = json!({"email": email, "password": WRONG});
    client.post("/auth/login").json(&body).send().await.refused(401, "login_failed");
}

async fn listed(client: &Client, token: &str, query: &str) -> Vec<Value> {
    let answer = client.get(&format!("{LOCKOUTS}?{query}")).bearer(token).send().await.expect(200);
    answer.json()["lockouts"].as_array().unwrap().clone()
}

/// Ann and an unknown name are locked out from here.
async fn locked(gateways: &Gateways) -> String {
    let client = gateways.client();
    let ann = client.register("ann@example.org").await;
    for _ in 0..5 {
        fail(&client, "ann@example.org").await;
        fail(&client, "nobody@example.org").await;
    }
    fail(&client, "ann@example.org").await;
    ann.user["id"].as_str().unwrap().to_owned()
}

async fn what_is_locked_is_listed_and_lifted_one_by_one(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::standard(deployment, &upstream).await;
    let root = administrator(&gateways).await;
    let ann = locked(&gateways).await;
    let client = gateways.all[0].admin_client();
    let all = listed(&client, &root.access, "").await;
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all.iter().all(|one| one["kind"] == "pair" && one["failures"] == 5 && one["counted"] == "failures"));
    assert!(all.iter().all(|one| one["address"] == "127.0.0.1" && one["until"] == "2026-03-01T12:01:00Z"), "{all:?}");
    let unknown = all.iter().find(|one| one["account"].is_null()).unwrap();
    assert_eq!(unknown["name"].as_str().unwrap().len(), 64, "a digest and no name");
    for query in [format!("account={ann}"), format!("account={ann}&kind=pair"), "kind=pair&limit=1".to_owned()] {
        assert_eq!(listed(&client, &root.access, &query).await.len(), 1, "{query}");
    }
    assert_eq!(listed(&client, &root.access, "kind=account").await, Vec::<Value>::new());
    assert_eq!(listed(&client, &root.access, "address=127.0.0.9").await, Vec::<Value>::new());
    let page = client.get("/admin/v1/lockouts?limit=1").bearer(&root.access).send().await.expect(200).json();
    let next = listed(&client, &root.access, &format!("limit=1&cursor={}", page["next"].as_str().unwrap())).await;
    assert_eq!([page["lockouts"][0].clone(), next[0].clone()].as_slice(), all.as_slice());

    let own = all.iter().find(|one| one["account"] == *ann).unwrap();
    let path = format!("{LOCKOUTS}/{}", own["id"].as_str().unwrap());
    client.call("DELETE", &path).bearer(&root.access).send().await.expect(204);
    client.call("DELETE", &path).bearer(&root.access).send().await.refused(404, "lockout_unknown");
    client.call("DELETE", "/admin/v1/lockouts/x").bearer(&root.access).send().await.refused(404, "lockout_unknown");
    assert_eq!(listed(&client, &root.access, "").await.len(), 1);
    gateways.client().login("ann@example.org").await;
    let rows = client.get("/admin/v1/audit?event=lockout_lifted").bearer(&root.access).send().await.json();
    let rows = rows["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["actor"], format!("user:{}", root.user["id"].as_str().unwrap()));
    assert_eq!(
        (&rows[0]["user"], &rows[0]["detail"]),
        (&json!(ann), &json!({"counter": "pair", "prefix": "127.0.0.1"}))
    );
}

async fn an_account_and_an_address_are_lifted_whole(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::standard(deployment, &upstream).await;
    let root = administrator(&gateways).await;
    let ann = locked(&gateways).await;
    for number in 0..5 {
        fail(&gateways.client(), &format!("other-{number}@example.org")).await;
    }
    let refused =
        gateways.client().post("/auth/login").json(&json!({"email": "bob@example.org", "password": PASSWORD}));
    refused.send().await.refused(429, "address_locked");
    let client = gateways.all[0].admin_client();
    let found = listed(&client, &root.access, "kind=address").await;
    assert_eq!((found.len(), &found[0]["counted"], &found[0]["failures"]), (1, &json!("accounts"), &json!(7)));
    let lift =
        async |query: &str| client.call("DELETE", &format!("{LOCKOUTS}{query}")).bearer(&root.access).send().await;
    lift("?address=127.0.0.1").await.expect(204);
    lift("?address=127.0.0.1").await.refused(404, "lockout_unknown");
    lift(&format!("?account={ann}")).await.expect(204);
    lift(&format!("?account={ann}")).await.refused(404, "lockout_unknown");
    gateways.client().login("ann@example.org").await;
    for (query, field) in [
        ("", "account"),
        ("?account=ann@example.org", "account"),
        ("?address=here", "address"),
        (&*format!("?account={ann}&address=127.0.0.1"), "address"),
        ("?kind=pair", "kind"),
    ] {
        let answer = lift(query).await;
        answer.refused(422, "validation");
        assert!(answer.json()["errors"].as_array().unwrap().iter().any(|fault| fault["field"] == field), "{query}");
    }
}

async fn the_command_line_shows_and_lifts_the_same(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::standard(deployment, &upstream).await;
    let ann = locked(&gateways).await;
    for _ in 0..2 {
        fail(&gateways.client(), "ann@example.org").await;
    }
    let run = |arguments: &[&str]| {
        let output = gateways.all[0].portcullis(&[&["lockouts"], arguments].concat());
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    // The program goes by the machine's own clock, by which the test's pairs wait no longer; what it lifts it finds all
    // the same.
    let (well, told, _) = run(&["list", "--json"]);
    assert!(well && serde_json::from_str::<Value>(&told).unwrap().is_array(), "{told}");
    let (well, told, _) = run(&["list"]);
    assert!(well && told.starts_with("kind "), "{told}");
    assert_eq!(run(&["lift", "--account", &ann]), (true, "lifted\n".to_owned(), String::new()));
    let (well, _, fault) = run(&["lift", "--account", "ann@example.org"]);
    assert!(!well && fault.contains("nothing is locked that goes by ann@example.org"), "{fault}");
    gateways.client().login("ann@example.org").await;
    let (well, _, fault) = run(&["lift"]);
    assert!(!well && fault.contains("required"), "{fault}");
    let output = gateways.all[0].portcullis(&["audit", "query", "--json", "--event", "lockout_lifted"]);
    let row: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&row["actor"], &row["user"]), (&json!("cli"), &json!(ann)));
}
