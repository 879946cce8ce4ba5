//! What is told of names of cookies and secrets of clients that protect nothing.

use crate::support::{BASE, Variables, errors, errors_with, parse_text};

#[test]
fn a_refresh_cookie_that_browsers_would_take_in_the_clear_is_refused() {
    for (name, quoted) in [("session", "\"session\""), ("__Secure-", "\"__Secure-\""), ("__secure-x", "\"__secure-x\"")]
    {
        assert_eq!(
            errors(&format!("portal: {{cookie_name: {name}}}\n")),
            format!(
                "f.yaml:7:10: portal.cookie_name: expected a cookie name that starts with __Secure- or __Host-, found \
                 {quoted}"
            )
        );
    }
    assert_eq!(
        errors("portal: {access_cookie_name: __Secure-x}\n"),
        "f.yaml:7:10: portal.access_cookie_name: expected a cookie name that starts with __Host-, found \"__Secure-x\""
    );
}

#[test]
fn a_client_without_a_secret_that_nobody_guesses_is_refused() {
    let variables = Variables::from([("SHORT".to_owned(), "x".repeat(31)), ("LONG".to_owned(), "x".repeat(32))]);
    let told = |oauth: &str| errors_with(&format!("{BASE}{oauth}"), &variables);
    assert_eq!(
        told("oauth: {clients: [{id: docs, secret: {env: SHORT}}, {id: docs, secret: {env: LONG}}, {id: \"a b\"}]}\n"),
        "f.yaml:7:30: oauth.clients[0].secret: shorter than 32 bytes, which could be guessed; make one with openssl rand \
         -hex 32\n\
         f.yaml:7:54: oauth.clients[1].id: another client is called docs too\n\
         f.yaml:7:86: oauth.clients[2].secret: missing; a client without one is anybody\n\
         f.yaml:7:87: oauth.clients[2].id: expected a name (letters, digits, _ . -, at most 64), found \"a b\""
    );
    assert_eq!(
        told("oauth: {clients: [{id: docs, secret: plain-text-secret-of-thirty-two-bytes}]}\n"),
        "f.yaml:7:30: oauth.clients[0].secret: a secret may not stand in the file itself; write {file: path}, {env: NAME} \
         or \"${NAME}\""
    );
    assert_eq!(
        told("oauth: {clients: [{id: docs, secret: {env: LONG}}]}\nportal: {enabled: false}\n"),
        "f.yaml:1:1: routes: empty, and the portal is off: there is nothing to serve\n\
         f.yaml:7:9: oauth.clients: contradicts portal.enabled: false; there are no tokens of its own to ask about"
    );
    assert!(
        parse_text(&format!("{BASE}oauth: {{clients: [{{id: docs, secret: {{env: LONG}}}}]}}\n"), &variables).is_ok()
    );
}

#[test]
fn a_cookie_that_can_never_come_is_refused() {
    let route = |rest: &str| {
        format!("routes:\n  - {{name: a, match: {{path: /a, hosts: [app.example.com]}}, cluster: rag, {rest}}}\n")
    };
    let cases = [
        ("credentials: []", "", "routes[0].credentials: empty; name bearer, cookie, api_key or several"),
        (
            "auth: none, credentials: [cookie]",
            "",
            "routes[0].credentials: contradicts auth: none; no credentials are looked at",
        ),
        (
            "credentials: [bearer, cookie]",
            "portal: {enabled: false}\n",
            "routes[0].credentials[1]: contradicts portal.enabled: false; nobody sets the cookie",
        ),
        (
            "credentials: [cookie]",
            "portal: {host: auth.example.com}\n",
            "routes[0].credentials[0]: contradicts portal.host: browsers send the cookie to auth.example.com alone",
        ),
        (
            "credentials: [cookie, cookie]",
            "portal: {host: app.example.com}\n",
            "routes[0].credentials[1]: \"cookie\" stands in this list twice",
        ),
        (
            "credentials: [cookie]",
            "portal: {cookie_name: __Host-t, access_cookie_name: __Host-T}\n",
            "portal.access_cookie_name: the name of portal.cookie_name too; each token needs its own",
        ),
    ];
    for (rest, portal, expected) in cases {
        let told = errors(&format!("{}{portal}", route(rest)));
        assert_eq!(told.splitn(4, ':').nth(3).unwrap().trim(), expected, "{told}");
    }
}
