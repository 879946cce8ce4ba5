//! `open-webui-headers.yaml`: a backend of Open WebUI reads who asks as it would from Open WebUI itself. Open WebUI is
//! no part of it: what reads the headers is written to its documentation (`examples/identity-presets`).

use portcullis::{
    app::Rim,
    clock::{Clock, SystemClock},
};
use serde_json::{Value, json};

use super::{Example, User, sent};
use crate::{
    harness::{
        issuer::Issuer,
        upstream::{Received, Upstream},
    },
    presets::{headers, verify},
};

async fn read(received: &Received) -> Value {
    verify(vec![json!({"format": "open_webui", "headers": headers(received)})]).await.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_of_open_webui_reads_who_asks() {
    let (backend, issuer) = (Upstream::start().await, Issuer::start().await);
    let variables = [("ISSUER_URL", issuer.url()), ("BACKEND_URL", backend.url())];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let gateway = Example::start("open-webui-headers.yaml", &[], &variables, Rim::system()).await;
    let ann = User::registered(&gateway).await;

    let spoofed = |request: reqwest::RequestBuilder| {
        request.header("x-openwebui-user-email", "eve@example.org").header("x-openwebui-user-role", "admin")
    };
    assert_eq!(sent(spoofed(ann.call("POST", "/v1/chat/completions"))).await.status(), 200);
    let own = read(&backend.last()).await["claims"].clone();
    assert_eq!((&own["email"], &own["role"]), (&Value::Null, &json!("user")));
    assert_eq!(own["name"], own["id"]);

    let now = SystemClock::new().now().seconds();
    let theirs = |roles: &[&str]| User {
        token: issuer.token(&json!({
            "iat": now, "exp": now + 600, "email": "ann@example.org", "email_verified": true,
            "realm_access": {"roles": roles},
        })),
        client: ann.client.clone(),
        base: ann.base.clone(),
    };
    for (roles, role) in [(&["reader", "admin"][..], "user"), (&["rag-admins"], "admin")] {
        let user = theirs(roles);
        assert_eq!(sent(spoofed(user.call("GET", "/v1/models"))).await.status(), 200);
        let told = read(&backend.last()).await["claims"].clone();
        let expected = json!({"name": "ann@example.org", "id": "sso:ann", "email": "ann@example.org", "role": role});
        assert_eq!(told, expected, "{roles:?}");
    }
    let stranger = ann.client.get(format!("{}/v1/models", ann.base));
    assert_eq!(sent(spoofed(stranger)).await.status(), 401);
}
