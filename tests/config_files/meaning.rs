//! What valid files become: values resolved, references followed, names normalised.

use std::time::Duration;

use http::Method;
use portcullis::config::settings::{AuthMode, Settings};

use crate::support::{BASE, Variables, parse_text, variables};

fn with(rest: &str) -> Settings {
    let parsed = parse_text(&format!("{BASE}{rest}"), &Variables::new());
    parsed.unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn limits_are_narrow_before_wide_whatever_the_order_of_the_file() {
    let text =
        format!("{BASE}routes: [{{name: r, match: {{path: /x}}, cluster: rag, limits: [per-address, per-user]}}]\n");
    let settings = parse_text(&text, &Variables::new()).unwrap();
    let keys: Vec<_> = settings.routes[0].limits.rates.iter().map(|limit| limit.key.to_string()).collect();
    assert_eq!(keys, ["subject", "address"]);
}

#[test]
fn values_come_from_the_environment() {
    let environment = variables(&[("PORT", "8443"), ("HOST", "auth.example.com"), ("MAX", "77")]);
    let text = "
tokens: {issuer: \"https://${HOST}:${PORT}\", audience: \"$${HOST}\"}
listeners:
  public: {bind: \"127.0.0.1:${PORT}\", max_connections: \"${MAX}\", h2c: \"${H2C:-true}\"}
  drain: ${DRAIN:-5s}
";
    let settings = parse_text(text, &environment).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(&*settings.tokens.issuer, "https://auth.example.com:8443");
    assert_eq!(&*settings.tokens.audience, "${HOST}");
    assert_eq!(settings.listeners.public.bind.port(), 8443);
    assert_eq!(settings.listeners.public.max_connections, 77);
    assert!(settings.listeners.public.h2c);
    assert_eq!(settings.listeners.drain.as_secs(), 5);
}

#[test]
fn what_an_address_may_do_has_generous_defaults_and_each_may_be_none() {
    let numbers = |text: &str| {
        let public = parse_text(text, &Variables::new()).unwrap_or_else(|errors| panic!("{errors}")).listeners.public;
        let flood = public.flood;
        let of = |number: Option<std::num::NonZeroU32>| number.map(std::num::NonZeroU32::get);
        let all = [public.max_connections_per_address, flood.connections, flood.bad_requests, flood.failed_tokens];
        (all.map(of), flood.window.as_secs())
    };
    assert_eq!(numbers(BASE), ([Some(1_000), Some(5_000), Some(1_000), Some(300)], 10));
    let flood = "{window: 1m, connections: none, bad_requests: none, failed_tokens: none}";
    let none = format!("{BASE}listeners: {{public: {{max_connections_per_address: none, flood: {flood}}}}}\n");
    assert_eq!(numbers(&none), ([None; 4], 60));
}

#[test]
fn a_route_inherits_and_overrides() {
    let settings = with(
        "routes:
  - name: ask
    match: {hosts: [rag.example.com], path: '/v1/{*rest}', methods: [POST]}
    roles: [editor]
    audience: rag
    cluster: rag
    rewrite: {prefix: /v1, to: /api}
    timeouts: {idle: 2m, total: 10m}
    body_limit: none
    forward_authorization: true
",
    );
    let route = &settings.routes[0];
    assert_eq!((&*route.hosts[0], &*route.path), ("rag.example.com", "/v1/{*rest}"));
    assert_eq!(route.methods, [Method::POST]);
    assert_eq!((route.auth, &*route.roles[0]), (AuthMode::Required, "editor"));
    assert_eq!(route.audience.as_deref(), Some("rag"));
    let rewrite = route.rewrite.as_ref().unwrap();
    assert_eq!((&*rewrite.prefix, &*rewrite.to), ("/v1", "/api"));
    assert_eq!(route.timeouts.first_byte, Duration::from_mins(1));
    assert_eq!((route.timeouts.idle, route.timeouts.total), (Duration::from_mins(2), Some(Duration::from_mins(10))));
    assert_eq!((route.body_limit, route.forward_authorization), (None, true));
}

#[test]
fn a_limit_bursts_by_its_rate_unless_it_says_otherwise() {
    let settings = parse_text(
        "tokens: {issuer: 'https://a.example'}\nlimits:\n  a: {by: address, rate: 100/1m}\n  \
         b: {by: subject, rate: 20/s, burst: 5}\n",
        &Variables::new(),
    )
    .unwrap();
    let limits: Vec<_> =
        settings.limits.iter().map(|l| (&*l.name, l.requests.get(), l.period.as_secs(), l.burst.get())).collect();
    assert_eq!(limits, [("a", 100, 60, 100), ("b", 20, 1, 5)]);
}

#[test]
fn an_identity_is_for_its_cluster_unless_it_says_otherwise() {
    let settings = parse_text(
        "tokens: {issuer: 'https://a.example'}\nclusters:\n  a: {endpoints: ['http://a']}\n  \
         b: {endpoints: ['http://b:81'], identity: {audience: beta}}\n",
        &Variables::new(),
    )
    .unwrap();
    let clusters: Vec<_> =
        settings.clusters.iter().map(|c| (c.endpoints[0].authority.as_str(), &*c.identity.audience)).collect();
    assert_eq!(clusters, [("a:80", "a"), ("b:81", "beta")]);
}

#[test]
fn keys_without_a_value_are_as_if_absent() {
    let settings = with("listeners:\n  public:\n    tls:\n  trusted_proxies:\nroutes:\n");
    assert!(settings.listeners.public.tls.is_none());
    assert!(settings.listeners.trusted_proxies.is_empty());
    assert!(settings.routes.is_empty());
}

#[test]
fn anchors_stand_for_what_they_name() {
    let settings = with(
        "routes:
  - {name: a, match: {path: /a}, cluster: rag, timeouts: &slow {first_byte: 5m}}
  - {name: b, match: {path: /b}, cluster: rag, timeouts: *slow}
",
    );
    assert_eq!(settings.routes[1].timeouts.first_byte, Duration::from_mins(5));
}
