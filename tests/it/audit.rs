//! The audit, seen by the program that operators have for it: each journey's rows, the seal on them, and what a hand in
//! the database leaves behind.

use std::{collections::HashMap, process::Output, time::Duration};

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::{
    harness::{
        binary::Binary,
        client::{Answer, PASSWORD},
        gateway::{Engine, Gateway, MASTER_KEY, standard},
        gateways::{Deployment, Gateways},
        soon,
        tokens::claims_of,
        upstream::Upstream,
    },
    support::postgres,
};

on_every_deployment!(
    each_journey_leaves_rows_that_tell_who_what_whom_from_where_and_how_it_ended,
    who_may_not_is_audited_once_a_minute,
    the_chain_verifies_and_the_first_row_that_was_touched_is_named,
    an_erased_person_is_gone_and_the_chain_is_whole,
);

fn with_admins(upstream: &Upstream) -> String {
    standard(upstream) + "  - {name: admins, match: {path: /admins}, roles: [admin], cluster: rag}\n"
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap() + std::str::from_utf8(&output.stderr).unwrap()
}

/// What `portcullis audit query --json` prints, oldest first.
fn rows(gateways: &Gateways, arguments: &[&str]) -> Vec<Value> {
    let output = gateways.all[0].portcullis(&[&["audit", "query", "--json"], arguments].concat());
    assert!(output.status.success(), "{}", text(&output));
    let text = text(&output);
    let mut rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    rows.reverse();
    rows
}

fn events(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["event"].as_str().unwrap()).collect()
}

/// Waits until no row is left to be sealed.
async fn sealed(gateways: &Gateways) {
    let store = gateways.store().await;
    let sealed = async {
        while !store.unsealed_audit(0, 1).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon("every row to be sealed", sealed).await;
}

fn request_id(answer: &Answer) -> String {
    answer.header("x-request-id").unwrap().to_owned()
}

async fn each_journey_leaves_rows_that_tell_who_what_whom_from_where_and_how_it_ended(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::start(deployment, &with_admins(&upstream)).await;
    let client = gateways.client();
    client.plant(PASSWORD);
    let credentials = json!({"email": "ann@example.org", "password": PASSWORD});
    let wrong = json!({"email": "ann@example.org", "password": "planted-wrong-password"});

    let registered = client.post("/auth/register").json(&credentials).send().await.expect(201);
    let first = client.tokens(&registered);
    let failed = client.post("/auth/login").json(&wrong).send().await.expect(401);
    let known = client.post("/auth/login").json(&credentials).send().await.expect(200);
    let other = client.post("/auth/login").header("user-agent", "Another/1.0").json(&credentials).send().await;
    let other = (client.tokens(&other.clone().expect(200)), other);
    let refreshed = client.refresh(&first.refresh).await.expect(200);
    let second = client.tokens(&refreshed);
    client.refreshed(&second.refresh).await;
    gateways.clock.advance(Duration::from_secs(11));
    let reused = client.refresh(&first.refresh).await.expect(400);
    let left = client.post("/auth/logout").bearer(&other.0.access).json(&json!({})).send().await.expect(204);

    let user = first.user["id"].as_str().unwrap();
    let of = |tokens: &str| claims_of(tokens)["sid"].as_str().unwrap().to_owned();
    let (one, two) = (of(&first.access), of(&other.0.access));
    let three = of(client.tokens(&known).access.as_str());
    let rows = rows(&gateways, &["--user", user]);
    let actor = format!("user:{user}");
    let told: Vec<_> = rows
        .iter()
        .map(|row| {
            let field = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
            (field("event"), field("outcome"), field("actor"), field("session"), field("request_id"))
        })
        .collect();
    let row = |event: &str, outcome: &str, actor: &str, session: &str, answer: &Answer| {
        (event.to_owned(), outcome.to_owned(), actor.to_owned(), session.to_owned(), request_id(answer))
    };
    let expected = [
        row("registered", "succeeded", &actor, &one, &registered),
        row("login_succeeded", "succeeded", &actor, &one, &registered),
        row("login_failed", "refused", "-", "-", &failed),
        row("login_succeeded", "succeeded", &actor, &three, &known),
        row("login_succeeded", "succeeded", &actor, &two, &other.1),
        row("new_device", "succeeded", &actor, &two, &other.1),
        row("refreshed", "succeeded", &actor, &one, &refreshed),
    ];
    assert_eq!(told[..7], expected);
    assert_eq!(told[8], row("refresh_reuse_detected", "refused", &actor, &one, &reused));
    assert_eq!(told[9], row("logged_out", "succeeded", &actor, &two, &left));
    assert_eq!(told.len(), 10);
    assert!(rows.iter().all(|row| row["address"] == "127.0.0.1" && row["user"] == user), "{rows:#?}");
    assert_eq!(rows[5]["detail"], json!({"user_agent": "Another/1.0"}));

    // Nothing in any row is a secret, whoever sent it.
    let everything = text(&gateways.all[0].portcullis(&["audit", "query"]));
    for secret in [PASSWORD, "planted-wrong-password", &first.access, &first.refresh, &other.0.refresh] {
        assert!(!everything.contains(secret), "{everything}");
    }
    let counted = |event: &str| format!("portcullis_security_events_total{{event=\"{event}\"}}");
    for event in ["new_device", "refresh_reuse_detected"] {
        assert!((gateways.metric(&counted(event)).await - 1.0).abs() < 0.1, "{event}");
    }

    // Each option narrows.
    assert_eq!(
        events(&self::rows(&gateways, &["--request-id", &request_id(&other.1)])),
        ["login_succeeded", "new_device"]
    );
    assert_eq!(events(&self::rows(&gateways, &["--session", &two, "--event", "logged_out"])), ["logged_out"]);
    assert_eq!(events(&self::rows(&gateways, &["--outcome", "refused", "--limit", "1"])), ["refresh_reuse_detected"]);
    assert_eq!(events(&self::rows(&gateways, &["--since", "2026-03-01T12:00:11Z"])).len(), 2);
    assert_eq!(events(&self::rows(&gateways, &["--until", "2026-03-01T12:00:00Z"])).len(), 0);
    let unknown = gateways.all[0].portcullis(&["audit", "query", "--event", "logged-out"]);
    assert!(unknown.status.code() == Some(1) && text(&unknown).contains("logged_out"), "{}", text(&unknown));
}

async fn who_may_not_is_audited_once_a_minute(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::start(deployment, &with_admins(&upstream)).await;
    // One of them, so that what it sees in a minute is one row.
    let client = gateways.all[0].client();
    let session = client.register("ann@example.org").await;
    let first = client.get("/admins").bearer(&session.access).send().await;
    first.refused(403, "role_missing");
    for _ in 0..20 {
        client.get("/admins").bearer(&session.access).send().await.refused(403, "role_missing");
    }
    client.get("/admins").send().await.expect(401);
    let store = gateways.store().await;
    let user = session.user["id"].as_str().unwrap();
    let denials = async || {
        let rows = store.audit_of(user.parse().unwrap(), 100).await.unwrap();
        rows.into_iter().filter(|row| row.event == "permission_denied").collect::<Vec<_>>()
    };
    let told = soon("the first refusal to be audited", async {
        loop {
            let rows = denials().await;
            if !rows.is_empty() {
                return rows;
            }
        }
    });
    let told = told.await;
    assert_eq!(told.len(), 1);
    let row = &told[0];
    assert_eq!(row.request_id.as_deref(), first.header("x-request-id"));
    assert_eq!(
        (row.actor.as_deref(), row.outcome.as_deref()),
        (Some(format!("user:{user}").as_str()), Some("refused"))
    );
    assert_eq!(row.address.as_deref(), Some("127.0.0.1"));
    assert_eq!(row.session.unwrap().to_string(), claims_of(&session.access)["sid"]);
    assert_eq!(row.detail.as_deref(), Some(r#"{"count":1,"reason":"role_missing","route":"admins"}"#));

    gateways.clock.advance(Duration::from_secs(61));
    let told = soon("the others to be audited", async {
        loop {
            let rows = denials().await;
            if rows.len() > 1 {
                return rows;
            }
        }
    });
    assert_eq!(told.await[1].detail.as_deref(), Some(r#"{"count":20,"reason":"role_missing","route":"admins"}"#));
}

async fn the_chain_verifies_and_the_first_row_that_was_touched_is_named(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::start(deployment, &with_admins(&upstream)).await;
    let client = gateways.client();
    for name in ["ann", "bob", "eve"] {
        client.register(&format!("{name}@example.org")).await;
    }
    sealed(&gateways).await;
    client.login("ann@example.org").await;
    sealed(&gateways).await;
    let whole = gateways.all[0].portcullis(&["audit", "verify"]);
    assert!(whole.status.success(), "{}", text(&whole));
    assert!(text(&whole).contains("verified rows: 9 in ") && text(&whole).ends_with("whole\n"), "{}", text(&whole));
    assert!((gateways.metric("portcullis_audit_rows_sealed_total").await - 9.0).abs() < 0.1);
    let seqs: Vec<_> = rows(&gateways, &[]).iter().map(|row| row["position"].as_u64().unwrap()).collect();
    let mut positions = seqs;
    positions.sort_unstable();
    assert_eq!(positions, (1..=9).collect::<Vec<_>>(), "no gap, whoever sealed");

    // Whoever has the database's rights can do it, and it shows.
    for (sql, named) in [
        ("UPDATE audit SET event = 'logged_out' WHERE position = 8", "BROKEN at position 8 (seq "),
        ("UPDATE audit SET address = '203.0.113.66' WHERE position = 4", "BROKEN at position 4 (seq "),
        ("DELETE FROM audit WHERE position = 2", "BROKEN at position 2: the row is missing"),
    ] {
        gateways.all[0].tamper_with_audit(sql).await;
        let broken = gateways.all[0].portcullis(&["audit", "verify"]);
        assert_eq!(broken.status.code(), Some(1), "{}", text(&broken));
        assert!(text(&broken).contains(named), "{sql}: {}", text(&broken));
    }
}

async fn an_erased_person_is_gone_and_the_chain_is_whole(deployment: Deployment) {
    let upstream = Upstream::start().await;
    let gateways = Gateways::start(deployment, &with_admins(&upstream)).await;
    let client = gateways.client();
    let ann = client.register("ann@example.org").await;
    client.register("bob@example.org").await;
    sealed(&gateways).await;
    client.login("ann@example.org").await;
    let user = ann.user["id"].as_str().unwrap();
    let erased = gateways.all[0].portcullis(&["audit", "erase", "--user", user]);
    assert_eq!(text(&erased), "erased rows: 3\n");
    sealed(&gateways).await;
    let whole = gateways.all[0].portcullis(&["audit", "verify"]);
    assert!(text(&whole).contains("erased rows: 3, recorded by erasures: 3"), "{}", text(&whole));
    assert!(whole.status.success() && text(&whole).ends_with("whole\n"), "{}", text(&whole));
    let everything = text(&gateways.all[0].portcullis(&["audit", "query"]));
    assert!(!everything.contains(user), "{everything}");
    assert_eq!(everything.lines().count(), 8, "{everything}");

    // Another row that only looks erased.
    gateways.all[0]
        .tamper_with_audit(
            "UPDATE audit SET erased_at = at, user_id = NULL, session_id = NULL, actor = NULL, address = NULL, \
             request_id = NULL, detail = NULL, salt = NULL WHERE position = 5",
        )
        .await;
    let broken = gateways.all[0].portcullis(&["audit", "verify"]);
    assert_eq!(broken.status.code(), Some(1), "{}", text(&broken));
    assert!(text(&broken).contains("more rows are erased than"), "{}", text(&broken));
}

/// kill -9 after an answer and before the seal: the row is there, and whoever comes next seals it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_between_cause_and_seal_leaves_its_rows_to_the_next() {
    let upstream = Upstream::start().await;
    let database = postgres::cluster().create_database();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("portcullis.yaml");
    let yaml = format!(
        "store: {{url: \"${{STORE_URL}}\", master_key: \"${{MASTER_KEY}}\", pool: 4}}\n\
         listeners: {{public: {{bind: \"127.0.0.1:0\"}}, admin: {{bind: \"127.0.0.1:0\"}}}}\n\
         tokens: {{issuer: \"https://gw.test\", audience: gw-test}}\npasswords: {{hash_threads: 1}}\n{}",
        standard(&upstream)
    );
    std::fs::write(&file, yaml).unwrap();
    let environment = HashMap::from(
        [("STORE_URL", database.url.as_str()), ("MASTER_KEY", MASTER_KEY)].map(|(a, b)| (a.to_owned(), b.to_owned())),
    );
    let verify = || {
        let output =
            crate::harness::binary::run(&["audit", "verify", "--config", file.to_str().unwrap()], &environment);
        (output.status.success(), text(&output))
    };
    let gateway = Binary::serve(&file, &environment).await;
    let first = async { while !verify().1.contains("verified rows: 2 in 1 seals, unsealed: 0") {} };
    soon("the first signing key to be sealed", first).await;
    // Nobody can seal while the test holds the lock.
    let mut rival = PgConnection::connect(&database.url).await.unwrap();
    sqlx::raw_sql("SELECT pg_advisory_lock(8101820098839667817)").execute(&mut rival).await.unwrap();
    let answered = gateway.client().register("ann@example.org").await;
    assert!(!answered.access.is_empty());
    drop(gateway);
    let (whole, told) = verify();
    assert!(whole && told.contains("verified rows: 2 in 1 seals, unsealed: 2"), "{told}");
    drop(rival);

    let gateway = Binary::serve(&file, &environment).await;
    let told = soon("the rows to be sealed", async {
        loop {
            let (whole, told) = verify();
            assert!(whole, "{told}");
            if told.contains("verified rows: 4") {
                return told;
            }
        }
    });
    assert!(told.await.contains("unsealed: 0"));
    drop(gateway);
}

/// The manual's commands, as they stand there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_manual_work() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::standard(Engine::Sqlite, &upstream).await;
    let user = gateway.client().register("ann@example.org").await.user["id"].as_str().unwrap().to_owned();
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/audit.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    let blocks = manual.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut done = Vec::new();
    for line in blocks.flat_map(str::lines) {
        let line = line.replace("0195d0c4-0000-7000-8000-000000000001", &user).replace(" --config gateway.yaml", "");
        let arguments: Vec<_> = line.strip_prefix("portcullis ").unwrap().split(' ').collect();
        let output = gateway.portcullis(&arguments);
        assert!(output.status.success(), "{line}: {}", text(&output));
        done.push(text(&output));
    }
    assert_eq!(done.len(), 6);
    assert!(done[0].lines().count() == 4 && done[0].contains("registered succeeded actor=user:"), "{}", done[0]);
    assert_eq!(done[4], "erased rows: 2\n");
}

/// A mistyped path is told, not made into a new database; without a store there is nothing to verify.
#[test]
fn commands_say_what_they_cannot_do() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("portcullis.yaml");
    for (store, told) in [("sqlite://elsewhere.db", "there is no"), ("none", "nothing is audited")] {
        let portal = if store == "none" { "portal: {enabled: false}\n" } else { "" };
        std::fs::write(
            &file,
            format!(
                "store: {{url: \"{store}\"}}\ntokens: {{issuer: \"https://gw.test\", audience: gw-test}}\n{portal}\
                 clusters: {{rag: {{endpoints: [\"http://127.0.0.1:9\"]}}}}\n\
                 routes: [{{name: open, match: {{path: /}}, auth: none, cluster: rag}}]\n"
            ),
        )
        .unwrap();
        let arguments = ["audit", "verify", "--config", file.to_str().unwrap()];
        let output = crate::harness::binary::run(&arguments, &HashMap::new());
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(told), "{}", text(&output));
    }
    assert!(!folder.path().join("elsewhere.db").exists());
}
