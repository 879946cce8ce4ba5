//! Routes to language models: what is set aside, what tokens cost.

use portcullis::{
    config::settings::Usage,
    policy::usage::{Tokens, prices::Prices},
};

use crate::support::{BASE, Variables, errors, parse_text};

fn usage(rest: &str) -> Option<Usage> {
    let text = format!("{BASE}routes: [{{name: r, match: {{path: /x}}, cluster: rag{rest}}}]\n");
    let settings = parse_text(&text, &Variables::new()).unwrap_or_else(|errors| panic!("{errors}"));
    settings.routes[0].usage.clone()
}

fn told(usage: &str) -> String {
    errors(&format!("routes:\n  - {{name: r, match: {{path: /x}}, cluster: rag,\n     {usage}}}\n"))
}

#[test]
fn a_route_that_says_nothing_is_not_metered() {
    assert_eq!(usage(""), None);
    assert_eq!(usage(", usage: {}"), Some(Usage { estimate: 1_000, count_input: true, prices: None }));
}

#[test]
fn prices_are_exact_and_by_model() {
    let text = ", usage: {estimate: 500, count_input: false, prices: {\"gpt-4o-mini*\": {input: 0.15, output: \"0.60\"}, \
                \"meta/llama-3:8b\": {input: 0, output: 1.000001, per: 1K}, \"*\": {input: 5, output: 15, per: 1M}}}";
    let usage = usage(text).unwrap();
    assert_eq!((usage.estimate, usage.count_input), (500, false));
    let prices: Prices = usage.prices.unwrap();
    let cost = |model, input, output| prices.of(model).of(Tokens { input, output });
    assert_eq!(cost(Some("gpt-4o-mini-2024-07-18"), 1_000_000, 1_000_000), 750_000);
    assert_eq!(cost(Some("meta/llama-3:8b"), 7, 1_000), 1_000_001);
    assert_eq!(cost(Some("gpt-5"), 1_000_000, 1_000_000), 20_000_000);
    assert_eq!(cost(None, 1, 0), 5);
}

#[test]
fn what_makes_no_sense_is_said_so() {
    assert_eq!(
        told("usage: {estimate: 0, format: anthropic, prices: {\"*\": {input: -1, output: 0.0000001, per: 1B}}}"),
        "f.yaml:9:14: routes[0].usage.estimate: expected a whole number from 1 to 10000000, found \"0\"\n\
         f.yaml:9:27: routes[0].usage.format: expected openai, found \"anthropic\"\n\
         f.yaml:9:61: routes[0].usage.prices.*.input: expected money such as \"12.50\" (at most six decimals, from 0 to 1000000), \
         found \"-1\"\n\
         f.yaml:9:72: routes[0].usage.prices.*.output: expected money such as \"12.50\" (at most six decimals, from 0 to 1000000), \
         found \"0.0000001\"\n\
         f.yaml:9:91: routes[0].usage.prices.*.per: expected a number of tokens such as 1000, 1K or 1M, found \"1B\""
    );
    assert_eq!(
        told("usage: {prices: {\"gpt*\": {input: 1}}}"),
        "f.yaml:9:14: routes[0].usage.prices: no price of \"*\": what models cost that are not named here\n\
         f.yaml:9:23: routes[0].usage.prices.gpt*.output: missing; e.g. 0.15; 0 if it costs nothing"
    );
    assert_eq!(
        told("usage: {prices: {\"a *\": {input: 1, output: 1}, \"*\": {input: 1, output: 1}}}"),
        "f.yaml:9:23: routes[0].usage.prices.a *: expected the name of a model, or the beginning of one with a * after it"
    );
    assert_eq!(
        told("upgrades: [websocket], usage: {}"),
        "f.yaml:9:29: routes[0].usage: contradicts upgrades; what is tunnelled is not metered"
    );
}
