//! `quotas:` how much of what in which period, and which routes may name one.

use portcullis::policy::quota::{Period, Unit};

use crate::support::{BASE, Variables, errors, errors_with, parse_text};

#[test]
fn a_quota_is_one_amount_in_a_period() {
    let text = format!(
        "{BASE}quotas:\n  a: {{by: subject, per: day, requests: 1000}}\n  b: {{by: address, per: hour, tokens: 5, hard: \
         true}}\n  c: {{by: subject, per: month, cost: \"12.50\", shadow: true}}\nroutes:\n  - {{name: r, match: {{path: \
         /x}}, cluster: rag, quotas: [a, c], usage: {{prices: {{\"*\": {{input: 1, output: 2}}}}}}}}\n"
    );
    let settings = parse_text(&text, &Variables::new()).unwrap();
    let quotas = settings.quotas.iter().map(|q| (&*q.name, q.period, q.unit, q.limit, q.hard, q.shadow, q.kind()));
    let expected = [
        ("a", Period::Day, Unit::Requests, 1_000, false, false, "requests/day".to_owned()),
        ("b", Period::Hour, Unit::Tokens, 5, true, false, "tokens/hour".to_owned()),
        ("c", Period::Month, Unit::Cost, 12_500_000, false, true, "cost/month".to_owned()),
    ];
    assert_eq!(quotas.collect::<Vec<_>>(), expected);
    let named: Vec<_> = settings.routes[0].quotas.iter().map(|quota| &*quota.name).collect();
    assert_eq!(named, ["a", "c"]);
}

#[test]
fn mistakes_in_quotas_are_told() {
    let told = errors(
        "quotas:\n  a: {by: subject, per: day}\n  b: {by: subject, per: day, requests: 1, tokens: 2, cost: 3}\n  \
         c: {per: week, requests: 0}\n  d: {by: subject, per: day, requests: 1, hard: true}\n  \
         e: {by: subject, per: day, cost: \"1,50\"}\n  f: {by: subject, per: day, tokens: 1, hard: true, shadow: true}\n",
    );
    for line in [
        "quotas.a: missing; say how much: requests, tokens or cost",
        "quotas.b.tokens: contradicts requests; a quota counts one thing: name another for tokens",
        "quotas.b.cost: contradicts requests; a quota counts one thing: name another for cost",
        "quotas.c.by: missing; say whose requests are counted, e.g. subject or org",
        "quotas.c.per: expected hour or day or month, found \"week\"",
        "quotas.c.requests: expected",
        "quotas.d.hard: is for tokens or cost; a request is counted when it comes, and runs over nothing",
        "quotas.e.cost: expected money such as \"12.50\"",
        "quotas.f.hard: contradicts shadow: true, which ends nothing",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
}

#[test]
fn a_route_can_be_held_to_what_is_known_of_it_only() {
    let told = errors(
        "quotas:\n  a: {by: subject, per: day, requests: 1}\n  t: {by: address, per: day, tokens: 1}\n  \
         c: {by: address, per: day, cost: 1}\nroutes:\n  - {name: r, match: {path: /x}, auth: none, cluster: rag, \
         quotas: [a, t, dayly]}\n  - {name: s, match: {path: /y}, cluster: rag, quotas: [t, c, c], usage: {estimate: 5}}\n",
    );
    for line in [
        "routes[0].quotas[0]: contradicts auth: none; \"a\" counts by subject",
        "routes[0].quotas[2]: no quota is named \"dayly\"",
        "routes[1].quotas[2]: \"c\" stands in this list twice",
        "routes[1].quotas[1]: \"c\" counts cost: the route needs usage.prices",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    let told = errors(
        "quotas: {t: {by: address, per: day, tokens: 1}}\nroutes:\n  - {name: r, match: {path: /x}, cluster: rag, \
         quotas: [t]}\n",
    );
    assert!(told.contains("routes[0].quotas[0]: \"t\" counts tokens: the route needs usage"), "{told}");
    let storeless = "store: {url: none}\nportal: {enabled: false}\ntokens: {issuer: 'https://a.example'}\n\
                     quotas: {q: {by: address, per: day, requests: 1}}\n";
    let told = errors_with(storeless, &Variables::new());
    assert!(told.contains("quotas: contradicts store.url: none; what is used is kept in the store"), "{told}");
}
