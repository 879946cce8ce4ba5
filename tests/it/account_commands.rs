//! `portcullis users …`, `portcullis revoke …` and `portcullis api-keys …` with the built program, beside a gateway
//! that runs.

use std::fs;

use serde_json::{Value, json};

use crate::{
    harness::{
        binary::Binary,
        issuer::{AUDIENCE, Issuer, ready},
        soon,
        tokens::claims_of,
        upstream::Upstream,
    },
    key_commands::{Site, on_postgres},
};

/// The commands of this family that the operations page shows, in their order.
fn shown() -> Vec<String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let commands = page.lines().filter_map(|line| line.trim_start().strip_prefix("portcullis "));
    let family = |command: &&str| command.starts_with("users ") || command.starts_with("revoke ");
    commands.filter(family).map(|command| command.split(" #").next().unwrap().trim_end().to_owned()).collect()
}

async fn the_page_holds(store: &str) {
    let upstream = Upstream::start().await;
    let site = Site::new(store, &upstream.url());
    let gateway = Binary::serve(&site.file(), &site.environment).await;
    let client = gateway.client();
    let (first, second) = (client.register("ann@example.org").await, client.login("ann@example.org").await);
    let (kept, bob) = (client.login("ann@example.org").await, client.register("bob@example.org").await);
    let sid = claims_of(&first.access)["sid"].as_str().unwrap().to_owned();
    let jti = claims_of(&second.access)["jti"].as_str().unwrap().to_owned();
    let becomes = async |access: &str, status: u16| {
        let asked = async { while client.status("/ask/a", access).await != status {} };
        soon("the gateway to read of it", asked).await;
    };
    let roles = async |wanted: Value| {
        let told = async {
            loop {
                assert_eq!(client.status("/ask/a", &kept.access).await, 200, "never a 401");
                let head = upstream.last().head;
                if claims_of(head.header("x-gateway-identity").unwrap())["roles"] == wanted {
                    break;
                }
            }
        };
        soon("the roles to count", told).await;
    };

    let commands = shown();
    assert_eq!(commands.len(), 6, "{commands:?}");
    for command in commands {
        let typed = command.replace("SID", &sid).replace("JTI", &jti);
        let (code, told, fault) = site.run(&typed);
        assert_eq!((code, fault.as_str()), (Some(0), ""), "{typed}");
        match command.split(" --").next().unwrap() {
            "users show ann@example.org" => {
                assert!(told.contains("roles: user\n") && told.contains(&sid), "{told}");
            }
            "users roles ann@example.org admin user" => roles(json!(["admin", "user"])).await,
            "users roles ann@example.org user" => roles(json!(["user"])).await,
            "revoke session SID" => becomes(&first.access, 401).await,
            "revoke user ann@example.org" => {
                becomes(&kept.access, 401).await;
                client.refresh(&second.refresh).await.refused(400, "invalid_grant");
            }
            "revoke token JTI" => becomes(&second.access, 401).await,
            other => panic!("what does {other} do?"),
        }
    }
    assert_eq!(client.status("/ask/a", &bob.access).await, 200);
    let (code, told, _) = site.run("audit query --config gateway.yaml --event authorization_changed --json");
    assert_eq!(code, Some(0));
    assert_eq!(told.matches("\"cli\"").count(), 2, "{told}");
    let (code, ..) = site.run("audit verify --config gateway.yaml");
    assert_eq!(code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_holds_on_sqlite() {
    the_page_holds("store: {url: \"sqlite://data/test.db\"}").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_holds_on_postgres() {
    the_page_holds(&on_postgres()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_issuer_s_user_is_shut_out_up_to_now() {
    let (upstream, issuer) = (Upstream::start().await, Issuer::start().await);
    let site = Site::new("store: {url: \"sqlite://data/test.db\"}", &upstream.url());
    let yaml = fs::read_to_string(site.file()).unwrap().replace("cluster: rag}\n", "cluster: rag, issuers: [sso]}\n")
        + &format!("issuers: {{sso: {{issuer: \"{}\", audiences: [{AUDIENCE}]}}}}\n", issuer.url());
    fs::write(site.file(), yaml).unwrap();
    let gateway = Binary::serve(&site.file(), &site.environment).await;
    let client = gateway.client();
    let now = i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    let token = |subject: &str, iat: i64| issuer.token(&json!({"sub": subject, "iat": iat, "exp": now + 900}));
    let (anns, bobs, later) = (token("ann", now - 1), token("bob", now - 1), token("ann", now + 3_600));
    ready(&client, "/ask/a", &anns).await;
    let (code, told, fault) = site.run("revoke subject ann --issuer sso --config gateway.yaml");
    assert_eq!((code, told.as_str(), fault.as_str()), (Some(0), "revoked: what sso:ann was given up to now\n", ""));
    soon("the gateway to read of it", async { while client.status("/ask/a", &anns).await != 401 {} }).await;
    assert_eq!(client.status("/ask/a", &bobs).await, 200);
    assert_eq!(client.status("/ask/a", &later).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_said_and_changes_nothing() {
    let upstream = Upstream::start().await;
    let site = Site::new("store: {url: \"sqlite://data/test.db\"}", &upstream.url());
    let gateway = Binary::serve(&site.file(), &site.environment).await;
    let ann = gateway.client().register("ann@example.org").await;
    for (command, said) in [
        ("users show eve@example.org", "there is no user eve@example.org"),
        ("users roles ann@example.org a,b", "can be no role"),
        ("users roles ann@example.org user user", "the role user twice"),
        ("revoke session 0190a1b2-0000-7000-8000-00000000000a", "there is no session"),
        ("revoke user eve@example.org", "there is no user"),
        ("revoke subject ann --issuer nobody", "no issuer is named nobody"),
    ] {
        let (code, told, fault) = site.run(&format!("{command} --config gateway.yaml"));
        assert_eq!((code, told.as_str()), (Some(1), ""), "{command}");
        assert!(fault.contains(said), "{command}: {fault}");
    }
    let (_, told, _) = site.run("users show ann@example.org --config gateway.yaml --json");
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["roles"], &told["authorization_version"]), (&json!(["user"]), &json!(1)));
    assert_eq!(told["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(gateway.client().status("/ask/a", &ann.access).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_s_api_keys_are_listed_and_revoked_beside_a_running_gateway() {
    let upstream = Upstream::start().await;
    let site = Site::new("store: {url: \"sqlite://data/test.db\"}", &upstream.url());
    let yaml = fs::read_to_string(site.file()).unwrap();
    let yaml = yaml.replace("cluster: rag}\n", "cluster: rag, credentials: [bearer, api_key]}\n");
    fs::write(site.file(), yaml).unwrap();
    let gateway = Binary::serve(&site.file(), &site.environment).await;
    let client = gateway.client();
    let (ann, _bob) = (client.register("ann@example.org").await, client.register("bob@example.org").await);
    let body = json!({"name": "nightly"});
    let made = client.post("/auth/api-keys").bearer(&ann.access).json(&body).send().await.expect(201).json();
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert_eq!(client.status("/ask/a", key).await, 200);
    let list = "api-keys list --user ann@example.org --config gateway.yaml";
    let (code, told, _) = site.run(list);
    assert!(code == Some(0) && told.contains(id) && told.contains("nightly") && !told.contains(&key[36..]), "{told}");
    let revoke = |user: &str| format!("api-keys revoke --user {user} {id} --config gateway.yaml --json");
    let (code, _, fault) = site.run(&revoke("bob@example.org"));
    assert!(code == Some(1) && fault.contains("the user has no API key"), "{fault}");
    assert_eq!(client.status("/ask/a", key).await, 200);
    let (code, told, _) = site.run(&revoke("ann@example.org"));
    assert_eq!((code, serde_json::from_str::<Value>(&told).unwrap()), (Some(0), json!({"api_keys": []})));
    soon("the gateway to read of it", async { while client.status("/ask/a", key).await != 401 {} }).await;
}
