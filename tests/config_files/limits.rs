//! `limits:` and `shared_state.redis.sentinel`: what they mean, and what they cannot be.

use crate::support::{Variables, errors_with, parse_text};

const REST: &str = "tokens: {issuer: 'https://a.example'}\nclusters: {rag: {endpoints: ['http://a']}}\n";

/// Mistakes of one limit.
fn told(limit: &str) -> String {
    let routes = "routes: [{name: c, match: {path: /c}, auth: none, cluster: rag}]\n";
    errors_with(&format!("{REST}{routes}limits:\n  a: {{{limit}}}\n"), &Variables::new())
}

#[test]
fn what_is_counted_by_is_a_word_or_two() {
    const WORDS: [(&str, &str); 10] = [
        ("address", "address"),
        ("subject", "subject"),
        ("session", "session"),
        ("client", "client"),
        ("org", "org"),
        ("route", "route"),
        ("header:X-Tenant", "header:x-tenant"),
        ("[route, subject]", "subject and route"),
        ("[address, header:x-tenant]", "address and header:x-tenant"),
        ("[org]", "org"),
    ];
    for (by, key) in WORDS {
        let routes = "routes: [{name: c, match: {path: /c}, cluster: rag, limits: [a]}]\n";
        let text = format!("{REST}{routes}limits:\n  a: {{by: {by}, rate: 5/s}}\n");
        let settings = parse_text(&text, &Variables::new()).unwrap_or_else(|errors| panic!("{by}: {errors}"));
        assert_eq!(settings.routes[0].limits.rates[0].key.to_string(), key);
    }
}

#[test]
fn what_cannot_be_counted_by_is_refused_with_its_place() {
    let some = "expected address, subject, session, api_key, client, org, route, header:NAME or a list of two of them";
    for (by, message) in [
        ("adress", "limits.a.by: expected"),
        ("adress", "did you mean \"address\"?"),
        ("[]", some),
        ("[address, subject, route]", some),
        ("{address: 1}", "limits.a.by: "),
        ("[address, adress]", "limits.a.by[1]: "),
        ("[route, route]", "limits.a.by[1]: \"route\" stands in this list twice"),
        ("[subject, session]", "limits.a.by: session is one subject's: session alone counts the same"),
        ("'header:'", "the name of a header after header:"),
        ("header:x_tenant", "the name of a header after header:, without _"),
        ("header:x-user-id", "taken off every request before limits are looked at"),
        ("header:authorization", "a new token would be a new bucket"),
    ] {
        let told = told(&format!("by: {by}, rate: 5/s"));
        assert!(told.contains(message), "{by}: {told}");
    }
}

#[test]
fn a_cap_is_no_rate() {
    for (limit, message) in [
        ("by: address", "limits.a.rate: missing; e.g. 20/s or 100/1m, or concurrent: 20 or streams: 4 instead"),
        ("by: address, concurrent: 5, rate: 5/s", "limits.a.rate: contradicts concurrent; rate is of a rate"),
        ("by: address, concurrent: 5, burst: 5", "limits.a.burst: contradicts concurrent"),
        ("by: address, concurrent: 5, lease: 5", "limits.a.lease: contradicts concurrent"),
        ("by: address, concurrent: 5, max_keys: 500", "limits.a.max_keys: contradicts concurrent"),
        ("by: address, concurrent: 5, scope: shared", "limits.a.scope: contradicts concurrent"),
        (
            "by: address, concurrent: 5, streams: 5",
            "limits.a.streams: contradicts concurrent; requests and streams are",
        ),
        ("by: address, streams: 5, rate: 5/s", "limits.a.rate: contradicts streams; rate is of a rate"),
        ("by: address, streams: 5, scope: shared", "limits.a.scope: contradicts streams; what is under way is counted"),
        ("by: address, streams: 0", "limits.a.streams: expected a whole number from 1 to 1000000"),
        ("by: address, concurrent: 0", "limits.a.concurrent: expected a whole number from 1 to 1000000"),
        ("by: address, rate: 5/s, max_keys: 63", "limits.a.max_keys: expected a whole number from 64 to 10000000"),
        ("by: address, rate: 5/s, shadow: maybe", "limits.a.shadow: expected true or false"),
    ] {
        let told = told(limit);
        assert!(told.contains(message), "{limit}: {told}");
    }
}

#[test]
fn the_portal_which_answers_no_streams_has_no_cap_on_them() {
    let rest = "routes: [{name: c, match: {path: /c}, auth: none, cluster: rag}]\nportal: {limits: [a]}\n";
    let told = errors_with(&format!("{REST}{rest}limits: {{a: {{by: address, streams: 4}}}}\n"), &Variables::new());
    assert!(told.contains("portal.limits[0]: \"a\" counts streams, and no answer of the portal is one"), "{told}");
}

#[test]
fn a_route_that_looks_at_no_caller_counts_by_none_and_no_route_has_nine_limits() {
    for by in ["subject", "session", "client", "org", "[address, subject]", "[org, route]"] {
        for what in ["rate: 5/s", "concurrent: 5", "streams: 5"] {
            let routes = "routes: [{name: c, match: {path: /c}, auth: none, cluster: rag, limits: [a]}]\n";
            let told = errors_with(&format!("{REST}{routes}limits:\n  a: {{by: {by}, {what}}}\n"), &Variables::new());
            assert!(told.contains("routes[0].limits[0]: contradicts auth: none; \"a\" counts by "), "{by}: {told}");
        }
    }
    let limits: Vec<_> = (0..9).map(|number| format!("  l{number}: {{by: address, rate: 5/s}}\n")).collect();
    let limits = limits.concat();
    let routes = "routes: [{name: c, match: {path: /c}, cluster: rag, limits: [l0, l1, l2, l3, l4, l5, l6, l7, l8]}]\n";
    let told = errors_with(&format!("{REST}{routes}limits:\n{limits}"), &Variables::new());
    assert!(told.contains("routes[0].limits: more than 8 limits"), "{told}");
}

#[test]
fn sentinels_know_a_service_and_are_no_cluster() {
    let redis = |redis: &str| {
        let routes = "routes: [{name: c, match: {path: /c}, auth: none, cluster: rag}]\n";
        format!("{REST}{routes}shared_state: {{redis: {{{redis}}}}}\n")
    };
    let good = "url: 'redis://:pw@mymaster', sentinel: {service: mymaster, servers: ['a:26379', 'b:26379'], \
                username: gw, password: '${SECRET}'}";
    let variables = Variables::from([("SECRET".to_owned(), "hunter2".to_owned())]);
    let settings = parse_text(&redis(good), &variables).unwrap();
    let sentinel = settings.shared_state.redis.unwrap().sentinel.unwrap();
    assert_eq!((&*sentinel.service, sentinel.servers.len(), sentinel.username.as_deref()), ("mymaster", 2, Some("gw")));
    assert!(!format!("{sentinel:?}").contains("hunter2"));
    for (wrong, message) in [
        (
            "sentinel: {servers: ['a:1']}",
            "shared_state.redis.sentinel.service: missing; what sentinels call the master",
        ),
        ("sentinel: {service: s}", "shared_state.redis.sentinel.servers: missing; host and port of each sentinel"),
        ("sentinel: {service: s, servers: []}", "shared_state.redis.sentinel.servers: empty"),
        ("sentinel: {service: s, servers: [a]}", "shared_state.redis.sentinel.servers[0]: expected host:port"),
        ("sentinel: {service: s, servers: ['a:1', 'a:1']}", "stands in this list twice"),
        ("sentinel: {service: s, servers: ['a:1'], password: open}", "a secret may not stand in the file itself"),
        ("cluster: true, sentinel: {service: s, servers: ['a:1']}", "contradicts cluster: true"),
    ] {
        let told = errors_with(&redis(&format!("url: 'redis://x', {wrong}")), &Variables::new());
        assert!(told.contains(message), "{wrong}: {told}");
    }
    let unix = redis("url: 'redis+unix:///x', sentinel: {service: s, servers: ['a:1']}");
    let told = errors_with(&unix, &Variables::new());
    assert!(told.contains("contradicts url: the servers that sentinels name are reached over TCP"), "{told}");
}
