//! Who may call what: every route there is, the portal's and the file's, with every kind of credentials, against the
//! table below. A route that the table does not name fails the test, and so does a line no route answers to.

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _, time::Duration};

use portcullis::gate::snapshot::RouteEntry;
use serde_json::json;

use crate::harness::{
    client::{Answer, Call, Client, Tokens},
    clock::BEGIN,
    gateway::{Engine, Gateway, Setup},
    question::{PROXIES, PROXY, ask, question},
    tokens::{claims_of, good_header, signed, with},
    upstream::Upstream,
};

/// What a caller brings, in the order of the columns: bearer tokens, then access cookies: a good one and an expired one
/// that a page of ours sends, and a good one that another site's page sends; then an API key in either header.
const CREDENTIALS: [&str; 13] = [
    "nothing",
    "garbage",
    "expired",
    "other aud",
    "user",
    "user+scope",
    "curator",
    "ended",
    "cookie",
    "~expired",
    "foreign",
    "key",
    "x-key",
];

/// What may come of a call, as one word.
const IN: &str = "in"; // Let through: to the handler or the service, whatever they then say.
const WHO: &str = "who?"; // 401: credentials are needed.
const BAD: &str = "bad"; // 401: these are no good.
const ROLE: &str = "role"; // 403: a role is missing.
const SCOPE: &str = "scope"; // 403: a scope is missing.
const SITE: &str = "site"; // 403: a cookie from another site.
const KEY: &str = "key"; // 403: no API keys here.
const CLIENT: &str = "client"; // 401: no client has proven who it is.

/// The promise. A column for each of [`CREDENTIALS`].
const EXPECTED: [(&str, &str, [&str; 13]); 39] = [
    ("portal_register", "POST /auth/register", [IN; 13]),
    ("portal_signup", "POST /auth/signup", [IN; 13]),
    ("portal_login", "POST /auth/login", [IN; 13]),
    ("portal_refresh", "POST /auth/refresh", [IN; 13]),
    // With a bad token leaving still goes by the refresh token, which no column brings.
    ("portal_logout", "POST /auth/logout", [WHO, BAD, BAD, BAD, IN, IN, IN, BAD, IN, WHO, WHO, KEY, KEY]),
    ("portal_me", "GET /auth/me", [WHO, BAD, BAD, BAD, IN, IN, IN, BAD, IN, BAD, IN, KEY, KEY]),
    ("portal_me_change", "PATCH /auth/me", [WHO, BAD, BAD, BAD, IN, IN, IN, BAD, IN, BAD, SITE, KEY, KEY]),
    ("portal_sessions", "GET /auth/sessions", [WHO, BAD, BAD, BAD, IN, IN, IN, BAD, IN, BAD, IN, KEY, KEY]),
    ("portal_sessions_end", "DELETE /auth/sessions", [WHO, BAD, BAD, BAD, IN, IN, IN, BAD, IN, BAD, SITE, KEY, KEY]),
    ("portal_session", "GET /auth/sessions/x", [WHO, BAD, BAD, BAD, IN, IN, IN, BAD, IN, BAD, IN, KEY, KEY]),
    ("portal_session_end", "DELETE /auth/sessions/x", [WHO, BAD, BAD, BAD, IN, IN, IN, BAD, IN, BAD, SITE, KEY, KEY]),
    ("portal_api_keys", "GET /auth/api-keys", [WHO, BAD, BAD, BAD, IN, IN, IN, BAD, IN, BAD, IN, KEY, KEY]),
    ("portal_api_key_create", "POST /auth/api-keys", [WHO, BAD, BAD, BAD, IN, IN, IN, BAD, IN, BAD, SITE, KEY, KEY]),
    (
        "portal_api_key_revoke",
        "DELETE /auth/api-keys/x",
        [WHO, BAD, BAD, BAD, IN, IN, IN, BAD, IN, BAD, SITE, KEY, KEY],
    ),
    ("portal_verify", "POST /auth/verify", [WHO, BAD, BAD, BAD, IN, IN, IN, BAD, IN, BAD, SITE, KEY, KEY]),
    // What they want is a client's secret, which no column brings; no access token is looked at.
    ("portal_revoke", "POST /oauth/revoke", [CLIENT; 13]),
    ("portal_introspect", "POST /oauth/introspect", [CLIENT; 13]),
    ("portal_jwks", "GET /.well-known/jwks.json", [IN; 13]),
    ("portal_discovery", "GET /.well-known/openid-configuration", [IN; 13]),
    // What it wants is a reference, which no column brings; no access token is looked at.
    (
        "portal_claims",
        "GET /.well-known/portcullis/claims",
        [WHO, BAD, BAD, BAD, BAD, BAD, BAD, BAD, WHO, WHO, WHO, BAD, WHO],
    ),
    ("portal_openapi", "GET /auth/openapi.json", [IN; 13]),
    ("admin_audit", "GET /admin/v1/audit", [WHO, BAD, BAD, BAD, ROLE, ROLE, ROLE, BAD, ROLE, BAD, ROLE, KEY, KEY]),
    (
        "admin_lockouts",
        "GET /admin/v1/lockouts",
        [WHO, BAD, BAD, BAD, ROLE, ROLE, ROLE, BAD, ROLE, BAD, ROLE, KEY, KEY],
    ),
    (
        "admin_lockouts_lift",
        "DELETE /admin/v1/lockouts",
        [WHO, BAD, BAD, BAD, ROLE, ROLE, ROLE, BAD, ROLE, BAD, SITE, KEY, KEY],
    ),
    (
        "admin_lockout_lift",
        "DELETE /admin/v1/lockouts/x",
        [WHO, BAD, BAD, BAD, ROLE, ROLE, ROLE, BAD, ROLE, BAD, SITE, KEY, KEY],
    ),
    ("admin_quotas", "GET /admin/v1/quotas", [WHO, BAD, BAD, BAD, ROLE, ROLE, ROLE, BAD, ROLE, BAD, ROLE, KEY, KEY]),
    (
        "admin_quotas_reset",
        "DELETE /admin/v1/quotas",
        [WHO, BAD, BAD, BAD, ROLE, ROLE, ROLE, BAD, ROLE, BAD, SITE, KEY, KEY],
    ),
    ("required", "GET /required/a", [WHO, BAD, BAD, BAD, IN, IN, IN, BAD, WHO, WHO, WHO, KEY, WHO]),
    ("optional", "GET /optional/a", [IN, BAD, BAD, BAD, IN, IN, IN, BAD, IN, IN, IN, KEY, IN]),
    ("public", "GET /public/a", [IN; 13]),
    ("by_role", "GET /by-role/a", [WHO, BAD, BAD, BAD, ROLE, ROLE, IN, BAD, WHO, WHO, WHO, KEY, WHO]),
    ("by_scope", "GET /by-scope/a", [WHO, BAD, BAD, BAD, SCOPE, IN, SCOPE, BAD, WHO, WHO, WHO, KEY, WHO]),
    ("by_both", "GET /by-both/a", [WHO, BAD, BAD, BAD, ROLE, ROLE, SCOPE, BAD, WHO, WHO, WHO, KEY, WHO]),
    ("other_audience", "GET /other-audience/a", [WHO, BAD, BAD, IN, BAD, BAD, BAD, BAD, WHO, WHO, WHO, KEY, WHO]),
    ("by_key", "GET /by-key/a", [WHO, BAD, BAD, BAD, BAD, BAD, BAD, BAD, WHO, WHO, WHO, IN, IN]),
    ("writes_only", "DELETE /writes-only", [WHO, BAD, BAD, BAD, IN, IN, IN, BAD, WHO, WHO, WHO, KEY, WHO]),
    ("by_cookie", "GET /by-cookie/a", [WHO, BAD, BAD, BAD, IN, IN, IN, BAD, IN, BAD, IN, KEY, WHO]),
    ("cookie_writes", "POST /by-cookie/a", [WHO, BAD, BAD, BAD, IN, IN, IN, BAD, IN, BAD, SITE, KEY, WHO]),
    ("cookie_only", "PUT /cookie-only/a", [IN, IN, IN, IN, IN, IN, IN, IN, IN, BAD, SITE, IN, IN]),
];

fn yaml(upstream: &Upstream, default_role: &str) -> String {
    format!(
        r#"
listeners: {{public: {{bind: "127.0.0.1:0"}}, admin: {{bind: "127.0.0.1:0"}}, trusted_proxies: [{PROXY}]}}
forward_auth: {{trusted: [{PROXY}]}}
clusters:
  rag: {{endpoints: ["{}"]}}
portal: {{default_role: {default_role}, api_keys: {{max_per_user: 1000, made_per_user: 1000/1s}}, admin_api: public}}
oauth: {{clients: [{{id: docs, secret: {{env: DOCS_SECRET}}}}]}}
routes:
  - {{name: required, match: {{path: "/required/{{*rest}}"}}, cluster: rag}}
  - {{name: optional, match: {{path: "/optional/{{*rest}}"}}, auth: optional, cluster: rag}}
  - {{name: public, match: {{path: "/public/{{*rest}}"}}, auth: none, cluster: rag}}
  - {{name: by_role, match: {{path: "/by-role/{{*rest}}"}}, roles: [curator, admin], cluster: rag}}
  - {{name: by_scope, match: {{path: "/by-scope/{{*rest}}"}}, scopes: ["docs:read"], cluster: rag}}
  - {{name: by_both, match: {{path: "/by-both/{{*rest}}"}}, roles: [curator], scopes: ["docs:read"], cluster: rag}}
  - {{name: other_audience, match: {{path: "/other-audience/{{*rest}}"}}, audience: other, cluster: rag}}
  - {{name: by_cookie, match: {{path: "/by-cookie/{{*rest}}", methods: [GET]}}, credentials: [bearer, cookie], cluster: rag}}
  - {{name: cookie_writes, match: {{path: "/by-cookie/{{*rest}}", methods: [POST]}}, credentials: [bearer, cookie], cluster: rag}}
  - {{name: cookie_only, match: {{path: "/cookie-only/{{*rest}}"}}, auth: optional, credentials: [cookie], cluster: rag}}
  - {{name: by_key, match: {{path: "/by-key/{{*rest}}"}}, credentials: [api_key], cluster: rag}}
  - {{name: writes_only, match: {{path: /writes-only, methods: [DELETE]}}, cluster: rag}}
"#,
        upstream.url()
    )
}

fn setup(upstream: &Upstream, default_role: &str) -> Setup {
    Setup::new(Engine::Sqlite, &yaml(upstream, default_role)).variable("DOCS_SECRET", &"s".repeat(32))
}

/// One token for each column; logging out spends its session, so each route gets fresh ones.
struct Columns {
    user: Tokens,
    scoped: Tokens,
    curator: Tokens,
    ended: Tokens,
    browser: Tokens,
    key: String,
}

impl Columns {
    async fn fresh(client: &Client) -> Self {
        let (user, scoped) = (client.login("user@example.org").await, client.login("scoped@example.org").await);
        let curator = client.login("curator@example.org").await;
        let ended = client.login("ended@example.org").await;
        client.post("/auth/logout").bearer(&ended.access).send().await.expect(204);
        let browser = client.login("browser@example.org").await;
        let asked = client.post("/auth/api-keys").bearer(&user.access).json(&json!({"name": "matrix"})).send().await;
        let key = asked.expect(201).json()["key"].as_str().unwrap().to_owned();
        Self { user, scoped, curator, ended, browser, key }
    }

    /// The call with what the column brings.
    async fn call(&self, gateway: &Gateway, column: &str, call: Call) -> Call {
        let fields = self.fields(gateway, column).await;
        fields.iter().fold(call, |call, (name, value)| call.header(name, value))
    }

    /// What the column brings.
    async fn fields(&self, gateway: &Gateway, column: &str) -> Vec<(&'static str, String)> {
        let Some(token) = self.token(gateway, column).await else { return Vec::new() };
        let site = match column {
            "cookie" | "~expired" => "same-origin",
            "foreign" => "cross-site",
            "x-key" => return vec![("x-api-key", token)],
            _ => return vec![("authorization", format!("Bearer {token}"))],
        };
        vec![("cookie", format!("__Host-portcullis-access={token}")), ("sec-fetch-site", site.to_owned())]
    }

    /// The token of a column; tokens the portal would not make are signed here with its key.
    async fn token(&self, gateway: &Gateway, column: &str) -> Option<String> {
        let made = async |changes| {
            let key = gateway.signing_key().await;
            signed(&key, &good_header(&key), &with(claims_of(&self.scoped.access), &changes))
        };
        Some(match column {
            "nothing" => return None,
            "garbage" => "garbage".to_owned(),
            "expired" | "~expired" => made(json!({"exp": BEGIN.seconds() - 60})).await,
            "other aud" => made(json!({"aud": "other"})).await,
            "user" => self.user.access.clone(),
            "user+scope" => made(json!({"scope": "docs:read docs:write"})).await,
            "curator" => self.curator.access.clone(),
            "ended" => self.ended.access.clone(),
            "cookie" | "foreign" => self.browser.access.clone(),
            "key" | "x-key" => self.key.clone(),
            other => panic!("no such column: {other}"),
        })
    }
}

/// Whether the gateway answers itself.
fn is_ours(name: &str) -> bool {
    name.starts_with("portal_") || name.starts_with("admin_")
}

fn outcome(answer: &Answer) -> String {
    let code = if answer.status >= 400 { answer.code() } else { String::new() };
    if answer.status == 401 && answer.json()["error"] == "invalid_client" {
        return CLIENT.to_owned();
    }
    word(answer.status, &code)
}

fn word(status: u16, code: &str) -> String {
    match (status, code) {
        (401, "credentials_missing") => WHO.to_owned(),
        (401, "invalid_token") => BAD.to_owned(),
        (403, "role_missing") => ROLE.to_owned(),
        (403, "scope_missing") => SCOPE.to_owned(),
        (403, "cross_site") => SITE.to_owned(),
        (403, "api_key_not_accepted") => KEY.to_owned(),
        // The handler's own answers to a call without a body.
        (200..300, _) | (422, "validation") | (400, "invalid_grant") | (404, "session_unknown" | "api_key_unknown") => {
            IN.to_owned()
        }
        (status, code) => format!("{status} {code}"),
    }
}

/// A gateway with all users. Each has a column of its own: some calls end all sessions of a user.
async fn populated(upstream: &Upstream) -> Gateway {
    // The only role anyone can register with is the default one, so the curator registers first.
    let mut gateway = setup(upstream, "curator").start().await;
    gateway.client().register("curator@example.org").await;
    gateway.restart_with(&yaml(upstream, "user")).await;
    for name in ["user", "scoped", "ended", "browser"] {
        gateway.client().register(&format!("{name}@example.org")).await;
    }
    gateway.clock.advance(Duration::from_secs(1));
    gateway
}

/// Asked by another proxy that forwards itself, the gateway decides as it does where it forwards.
#[tokio::test]
async fn a_decision_for_another_proxy_is_what_the_table_says() {
    let upstream = Upstream::start().await;
    let gateway = populated(&upstream).await;
    let client = gateway.client();
    let mut wrong = Vec::new();
    for (name, request, expected) in EXPECTED {
        let (method, path) = request.split_once(' ').unwrap();
        let columns = Columns::fresh(&client).await;
        for (column, expected) in CREDENTIALS.into_iter().zip(expected) {
            // What the gateway answers itself is no service's.
            let expected = if is_ours(name) { "404 no_route" } else { expected };
            let fields = columns.fields(&gateway, column).await;
            let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, &**value)).collect();
            for proxy in PROXIES {
                let decided = ask(gateway.address(), PROXY, &question(proxy, method, path), &fields).await;
                let got = word(decided.true_status(), &decided.code());
                if got != expected || (decided.status == 200) != (expected == IN) {
                    wrong.push(format!("{name} with {column}, asked by {proxy}: {got}, not {expected}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    upstream.assert_untouched();
}

#[tokio::test]
async fn every_route_admits_exactly_whom_the_table_says() {
    let upstream = Upstream::start().await;
    let gateway = populated(&upstream).await;
    let client = gateway.client();

    let snapshot = gateway.running().snapshot();
    let mut routes: BTreeMap<&str, &RouteEntry> =
        snapshot.routes.all().iter().map(|route| (&*route.name, &**route)).collect();
    let mut table = format!("{:<17}", "route");
    for column in CREDENTIALS {
        write!(table, "{column:<11}").unwrap();
    }
    let mut wrong = Vec::new();
    for (name, request, expected) in EXPECTED {
        let route = routes.remove(name).unwrap_or_else(|| panic!("no route is called {name}"));
        let (method, path) = request.split_once(' ').unwrap();
        let takes = route.methods.is_empty() || route.methods.iter().any(|one| one.as_str() == method);
        assert!(takes, "{name} does not take {method}: {:?}", route.methods);
        write!(table, "\n{name:<17}").unwrap();
        let columns = Columns::fresh(&client).await;
        for (column, expected) in CREDENTIALS.into_iter().zip(expected) {
            let before = upstream.received().len();
            let call = client.call(method, path);
            let form = name == "portal_revoke" || name == "portal_introspect";
            let call = if form { call.header("content-type", "application/x-www-form-urlencoded") } else { call };
            let got = outcome(&columns.call(&gateway, column, call).await.send().await);
            write!(table, "{got:<11}").unwrap();
            let reached = upstream.received().len() - before;
            let leads_upstream = !is_ours(name);
            if got != expected || reached != usize::from(got == IN && leads_upstream) {
                wrong.push(format!("{name} with {column}: {got}, not {expected}; {reached} reached the service"));
            }
        }
    }
    writeln!(std::io::stdout(), "{table}").unwrap();
    assert!(wrong.is_empty(), "{}\n{table}", wrong.join("\n"));
    assert!(routes.is_empty(), "routes the table does not name: {:?}", routes.keys());
}

#[tokio::test]
async fn what_no_route_names_is_refused_for_everybody() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "user").start().await;
    let client = gateway.client();
    let session = client.register("ann@example.org").await;
    for path in ["/", "/required", "/requiredx/a", "/auth", "/auth/", "/auth/admin", "/admin/v1/users", "/metrics"] {
        client.get(path).send().await.refused(404, "no_route");
        client.get(path).bearer(&session.access).send().await.refused(404, "no_route");
    }
    for (method, path, allow) in [("GET", "/writes-only", "DELETE"), ("PUT", "/auth/me", "GET, PATCH")] {
        let answer = client.call(method, path).bearer(&session.access).send().await;
        answer.refused(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some(allow));
    }
    upstream.assert_untouched();
}
