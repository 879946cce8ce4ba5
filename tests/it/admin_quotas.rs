//! What is used of quotas, seen and set to nothing by administrators: over the API and from the command line; and what a
//! reset does to units that gateways hold ahead.

use serde_json::{Value, json};

use crate::{
    admin_api::administrator,
    harness::{
        client::{Answer, Client, Tokens},
        gateways::{Deployment, Gateways},
        upstream::Upstream,
    },
};

on_every_deployment!(
    what_is_used_is_listed_and_set_to_nothing,
    a_reset_reaches_units_that_gateways_hold_ahead,
    the_command_line_shows_and_resets_the_same,
);

const QUOTAS: &str = "/admin/v1/quotas";

fn yaml(upstream: &Upstream) -> String {
    format!(
        r#"
quotas:
  few: {{by: subject, per: day, requests: 3}}
  many: {{by: [subject, route], per: month, requests: 1600}}
clusters:
  rag: {{endpoints: ["{}"]}}
routes:
  - {{name: few, match: {{path: "/few/{{*rest}}"}}, quotas: [few], cluster: rag}}
  - {{name: many, match: {{path: "/many/{{*rest}}"}}, quotas: [many], cluster: rag}}
"#,
        upstream.url()
    )
}

async fn listed(client: &Client, token: &str, query: &str) -> Vec<Value> {
    let answer = client.get(&format!("{QUOTAS}?{query}")).bearer(token).send().await.expect(200);
    answer.json()["quotas"].as_array().unwrap().clone()
}

async fn ask(client: &Client, path: &str, who: &Tokens) -> Answer {
    client.get(path).bearer(&who.access).send().await
}

fn id(who: &Tokens) -> &str {
    who.user["id"].as_str().unwrap()
}

async fn what_is_used_is_listed_and_set_to_nothing(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::start(deployment, &yaml(&upstream)).await;
    let root = administrator(&gateways).await;
    let (admin, client) = (gateways.all[0].admin_client(), gateways.client());
    let (ann, bob) = (client.register("ann@example.org").await, client.register("bob@example.org").await);
    assert_eq!(listed(&admin, &root.access, "").await, Vec::<Value>::new());
    for _ in 0..3 {
        ask(&client, "/few/a", &ann).await.expect(200);
    }
    ask(&client, "/few/a", &ann).await.refused(429, "quota_exceeded");
    ask(&client, "/few/a", &bob).await.expect(200);
    let all = listed(&admin, &root.access, "quota=few").await;
    let key = all[0]["key"].as_str().unwrap().to_owned();
    let expected = json!({"quota": "few", "counts": "requests", "per": "day", "by": "subject", "key": key, "used": 3,
        "limit": 3, "since": "2026-03-01T00:00:00Z", "until": "2026-03-02T00:00:00Z"});
    assert_eq!((all.len(), &all[0], &all[1]["used"]), (2, &expected, &json!(1)));
    for query in [format!("quota=few&user={}", id(&ann)), format!("key={key}"), "limit=1".to_owned()] {
        assert_eq!(listed(&admin, &root.access, &query).await, std::slice::from_ref(&expected), "{query}");
    }
    let page = admin.get("/admin/v1/quotas?limit=1").bearer(&root.access).send().await.expect(200).json();
    let next = listed(&admin, &root.access, &format!("limit=1&cursor={}", page["next"].as_str().unwrap())).await;
    assert_eq!(next, [all[1].clone()]);

    let reset =
        async |query: &str| admin.call("DELETE", &format!("{QUOTAS}?{query}")).bearer(&root.access).send().await;
    reset(&format!("quota=few&user={}", id(&ann))).await.expect(204);
    reset("quota=few&address=127.0.0.1").await.refused(422, "validation");
    reset("quota=many&all=true").await.refused(404, "quota_unknown");
    for (query, field) in [
        ("", "quota"),
        ("quota=few", "key"),
        ("quota=few&key=x", "key"),
        ("quota=none&user=01900000-0000-7000-8000-000000000000", "quota"),
        (&*format!("quota=few&key={key}&all=true"), "all"),
        (&*format!("quota=few&key={key}&route=few"), "key"),
        ("quota=few&all=false", "all"),
    ] {
        let answer = reset(query).await;
        answer.refused(422, "validation");
        assert!(answer.json()["errors"].as_array().unwrap().iter().any(|fault| fault["field"] == field), "{query}");
    }
    for (query, field) in [("quota=a%00", "quota"), ("quota=a%20b", "quota"), ("cursor=e30", "cursor")] {
        let answer = admin.get(&format!("{QUOTAS}?{query}")).bearer(&root.access).send().await;
        answer.refused(422, "validation");
        assert!(answer.json()["errors"].as_array().unwrap().iter().any(|fault| fault["field"] == field), "{query}");
    }
    gateways.know_what_was_told().await;
    ask(&client, "/few/a", &ann).await.expect(200);
    let again = listed(&admin, &root.access, "quota=few").await;
    assert!(again.iter().all(|one| one["used"] == 1), "{again:?}");
    let rows = admin.get("/admin/v1/audit?event=quota_reset").bearer(&root.access).send().await.json();
    let rows = rows["rows"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["actor"]), (1, &json!(format!("user:{}", id(&root)))));
    assert_eq!(rows[0]["detail"], json!({"quota": "few", "quota_key": key, "rows": 1}));
}

/// A hundred lie at each gateway. After the reset none of them is spent, and none comes back.
async fn a_reset_reaches_units_that_gateways_hold_ahead(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let mut gateways = Gateways::start(deployment, &yaml(&upstream)).await;
    let root = administrator(&gateways).await;
    let ann = gateways.client().register("ann@example.org").await;
    let left = |answer: &Answer| {
        let told = answer.header("ratelimit").unwrap();
        told.split([';', '=']).nth(2).unwrap().parse::<u64>().unwrap()
    };
    for gateway in &gateways.all {
        for _ in 0..5 {
            ask(&gateway.client(), "/many/a", &ann).await.expect(200);
        }
    }
    let last = gateways.all.last().unwrap().admin_client();
    let path = format!("{QUOTAS}?quota=many&user={}&route=many", id(&ann));
    last.call("DELETE", &path).bearer(&root.access).send().await.expect(204);
    gateways.know_what_was_told().await;
    let first = ask(&gateways.all[0].client(), "/many/a", &ann).await.expect(200);
    assert_eq!(left(&first), 1_599, "none of what was used before counts");
    for gateway in &gateways.all[1..] {
        let answer = ask(&gateway.client(), "/many/a", &ann).await.expect(200);
        assert_eq!(left(&answer), 1_499, "a hundred are the first one's now");
    }
    gateways.restart().await;
    let usage = gateways.store().await.quota_usage(Some("many"), None, crate::harness::clock::BEGIN, 10).await.unwrap();
    let used: u64 = usage.iter().map(|usage| usage.used).sum();
    assert_eq!(used, gateways.all.len() as u64, "what is used since");
}

async fn the_command_line_shows_and_resets_the_same(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::start(deployment, &yaml(&upstream)).await;
    let (gateway, client) = (&gateways.all[0], gateways.all[0].client());
    let ann = client.register("ann@example.org").await;
    for _ in 0..3 {
        ask(&client, "/few/a", &ann).await.expect(200);
    }
    ask(&client, "/few/a", &ann).await.refused(429, "quota_exceeded");
    let told = gateway.beside(&["quotas", "list", "--json"]).await.unwrap();
    let all: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&all[0]["quota"], &all[0]["used"], &all[0]["by"]), (&json!("few"), &json!(3), &json!("subject")));
    let shown = gateway.beside(&["quotas", "show", "few", "--user", "ann@example.org", "--json"]).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), all);
    let table = gateway.beside(&["quotas", "list", "--quota", "few"]).await.unwrap();
    assert!(table.starts_with("quota ") && table.contains(all[0]["key"].as_str().unwrap()), "{table}");
    for (arguments, fault) in [
        (&["quotas", "reset", "few"][..], "the quota few counts by subject"),
        (&["quotas", "reset", "few", "--user", "nobody@example.org"], "there is no user"),
        (&["quotas", "reset", "none", "--user", id(&ann)], "no quota is named none"),
        (&["quotas", "reset", "few", "--key", "x"], "x is no key of an account"),
        (&["quotas", "reset", "many", "--all"], "nothing of the quota many is used there"),
        (&["quotas", "reset", "few", "--all", "--user", id(&ann)], "cannot be used with"),
    ] {
        let told = gateway.beside(arguments).await.unwrap_err();
        assert!(told.contains(fault), "{arguments:?}: {told}");
    }
    assert_eq!(gateway.beside(&["quotas", "reset", "few", "--user", id(&ann)]).await.unwrap(), "reset\n");
    gateways.know_what_was_told().await;
    ask(&client, "/few/a", &ann).await.expect(200);
    let output = gateway.portcullis(&["audit", "query", "--json", "--event", "quota_reset"]);
    let row: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&row["actor"], &row["detail"]["quota"]), (&json!("cli"), &json!("few")));
}
