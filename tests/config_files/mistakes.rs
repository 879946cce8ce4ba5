//! What a broken configuration is told: place, key path, what is expected, what was probably meant. All at once.

use std::path::Path;

use portcullis::config::load;

use crate::support::{BASE, Variables, errors, errors_with, parse_text, route_errors, variables};

#[test]
fn an_empty_file_says_what_is_needed() {
    let expected = "f.yaml:1:1: tokens.issuer: missing; it is iss of every token and of the identity sent upstream, \
                    e.g. https://auth.example.com";
    for text in ["", "{}", "# nothing\n", "---\n"] {
        assert_eq!(errors_with(text, &Variables::new()), expected, "{text:?}");
    }
}

#[test]
fn a_file_that_is_not_there_is_said_so() {
    let errors = load(Path::new("/nowhere/gateway.yaml"), &Variables::new()).unwrap_err();
    assert!(errors.to_string().starts_with("/nowhere/gateway.yaml: cannot be read: "), "{errors}");
}

#[test]
fn unknown_keys_are_named_with_the_nearest() {
    assert_eq!(
        errors("listeners:\n  pubic: {}\nrouts: []\n"),
        "f.yaml:8:3: listeners.pubic: unknown key; did you mean \"public\"?\n\
         f.yaml:9:1: routs: unknown key; did you mean \"routes\"?"
    );
    assert_eq!(
        errors("telemetry: {banana: 1}\n"),
        "f.yaml:7:13: telemetry.banana: unknown key; known here: log, access_log, slow_request, otlp, \
         request_id_header"
    );
}

#[test]
fn a_key_twice_is_refused() {
    assert_eq!(
        errors("portal:\n  registration: open\n  registration: closed\n"),
        "f.yaml:9:3: portal.registration: a second time; the first is on line 8"
    );
    assert_eq!(
        errors("tokens: {issuer: 'https://b.example'}\n"),
        "f.yaml:7:1: tokens: a second time; the first is on line 1"
    );
}

#[test]
fn wrong_types_and_ranges_say_what_is_expected() {
    assert_eq!(
        errors(
            "listeners:\n  public: {max_connections: many, h2c: yes, timeouts: {idle: 75}}\n  drain: [30s]\nstore: 7\n\
             portal: {registration: opne}\n"
        ),
        "f.yaml:8:12: listeners.public.max_connections: expected a whole number from 1 to 1000000, found \"many\"\n\
         f.yaml:8:35: listeners.public.h2c: expected true or false, found \"yes\"\n\
         f.yaml:8:56: listeners.public.timeouts.idle: expected a duration from 1s to 1h (ms, s, m, h, d), found \"75\"\n\
         f.yaml:9:3: listeners.drain: expected a duration from 0ms to 1h (ms, s, m, h, d), found a list\n\
         f.yaml:10:1: store: expected a mapping of url, master_key, pool, timeout, found \"7\"\n\
         f.yaml:11:10: portal.registration: expected open or closed, found \"opne\"; did you mean \"open\"?"
    );
}

#[test]
fn what_an_address_may_do_is_a_number_or_none() {
    assert_eq!(
        errors(
            "listeners:\n  public: {max_connections_per_address: 0, flood: {window: 10, connections: many, bad: 1}}\n"
        ),
        "f.yaml:8:12: listeners.public.max_connections_per_address: expected none or a whole number from 1 to 1000000, \
         found \"0\"\n\
         f.yaml:8:52: listeners.public.flood.window: expected a duration from 1s to 1h (ms, s, m, h, d), found \"10\"\n\
         f.yaml:8:64: listeners.public.flood.connections: expected none or a whole number from 1 to 1000000000, found \
         \"many\"\n\
         f.yaml:8:83: listeners.public.flood.bad: unknown key; known here: window, connections, bad_requests, \
         failed_tokens"
    );
}

#[test]
fn missing_keys_are_named_where_they_belong() {
    assert_eq!(
        errors_with(
            "tokens: {audience: x}\nclusters:\n  rag: {}\nlimits:\n  l: {}\nroutes:\n  - auth: none\n",
            &Variables::new()
        ),
        "f.yaml:1:1: tokens.issuer: missing; it is iss of every token and of the identity sent upstream, \
         e.g. https://auth.example.com\n\
         f.yaml:3:3: clusters.rag.endpoints: missing; a cluster needs at least one endpoint, \
         e.g. http://127.0.0.1:8000\n\
         f.yaml:5:3: limits.l.by: missing; say what is counted: address, subject, route, ...\n\
         f.yaml:5:3: limits.l.rate: missing; e.g. 20/s or 100/1m, or concurrent: 20 or streams: 4 instead\n\
         f.yaml:7:5: routes[0].name: missing; metrics and logs call the route by it\n\
         f.yaml:7:5: routes[0].match: missing; it needs at least a path\n\
         f.yaml:7:5: routes[0].cluster: missing; name the cluster it goes to"
    );
}

#[test]
fn dangling_names_are_refused_with_the_nearest() {
    assert_eq!(
        route_errors("    cluster: ragg\n    limits: [per-usr, nothing-like-it]\nportal: {limits: [per-adress]}\n"),
        "f.yaml:10:5: routes[0].cluster: no cluster is named \"ragg\"; did you mean \"rag\"?\n\
         f.yaml:11:14: routes[0].limits[0]: no limit is named \"per-usr\"; did you mean \"per-user\"?\n\
         f.yaml:11:23: routes[0].limits[1]: no limit is named \"nothing-like-it\"\n\
         f.yaml:12:19: portal.limits[0]: no limit is named \"per-adress\"; did you mean \"per-address\"?"
    );
}

#[test]
fn contradictions_in_a_route_are_refused() {
    let cases = [
        (
            "    auth: none\n    roles: [admin]\n    scopes: [a]\n    limits: [per-user]\n",
            "f.yaml:12:5: routes[0].roles: contradicts auth: none; roles need auth: required\n\
             f.yaml:13:5: routes[0].scopes: contradicts auth: none; scopes need auth: required\n\
             f.yaml:14:14: routes[0].limits[0]: contradicts auth: none; \"per-user\" counts by subject",
        ),
        (
            "    auth: optional\n    roles: [admin]\n",
            "f.yaml:12:5: routes[0].roles: contradicts auth: optional; roles need auth: required",
        ),
        (
            "    auth: none\n    audience: x\n",
            "f.yaml:12:5: routes[0].audience: contradicts auth: none; no token is looked at",
        ),
        (
            "    rewrite: {prefix: /y, to: /}\n",
            "f.yaml:11:15: routes[0].rewrite.prefix: not a leading part of match.path, in whole segments without \
             parameters",
        ),
        (
            "    timeouts: {first_byte: 10s, total: 5s}\n",
            "f.yaml:11:33: routes[0].timeouts.total: shorter than first_byte, which could never be reached",
        ),
        (
            "    upgrades: [websocket, websocket]\n",
            "f.yaml:11:27: routes[0].upgrades[1]: \"websocket\" stands in this list twice",
        ),
    ];
    for (rest, expected) in cases {
        assert_eq!(route_errors(&format!("    cluster: rag\n{rest}")), expected);
    }
}

#[test]
fn contradictions_between_keys_are_refused() {
    let cases = [
        (
            "passwords: {hash_queue: 8, hash_queue_per_address: 9}\n",
            "f.yaml:7:28: passwords.hash_queue_per_address: more than hash_queue, of which it is a share",
        ),
        (
            "listeners: {trusted_proxies: [10.0.0.0/8]}\nforward_auth: {trusted: [10.1.0.0/16, 10.1.0.0/16, 127.0.0.1]}\n",
            "f.yaml:8:39: forward_auth.trusted[1]: \"10.1.0.0/16\" stands in this list twice\n\
             f.yaml:8:52: forward_auth.trusted[2]: is not among listeners.trusted_proxies: its X-Forwarded-For would \
             not be believed, and all its clients share one address in limits and logs",
        ),
        (
            "listeners:\n  public: {bind: '127.0.0.1:9090'}\n",
            "f.yaml:8:12: listeners.public.bind: listeners.public and listeners.admin bind the same address and port",
        ),
        (
            "listeners:\n  public: {h2c: true, tls: {certificate: /none, key: /none}}\n",
            "f.yaml:8:12: listeners.public.h2c: contradicts tls: h2c is for plaintext; TLS chooses HTTP/2 by ALPN\n\
             f.yaml:8:29: listeners.public.tls.certificate: cannot read /none: No such file or directory (os error 2)\n\
             f.yaml:8:49: listeners.public.tls.key: cannot read /none: No such file or directory (os error 2)",
        ),
        ("portal: {enabled: false}\n", "f.yaml:1:1: routes: empty, and the portal is off: there is nothing to serve"),
        (
            "portal: {default_role: admin, base_paths: [/, /a, /A/b, /a]}\n",
            "f.yaml:7:10: portal.default_role: anybody who registers would be an administrator\n\
             f.yaml:7:44: portal.base_paths[0]: the portal would take every path; give it one of its own, e.g. /auth\n\
             f.yaml:7:51: portal.base_paths[2]: lies below \"/a\", where its cookies would come twice\n\
             f.yaml:7:57: portal.base_paths[3]: \"/a\" stands in this list twice",
        ),
        (
            "portal: {base_paths: []}\n",
            "f.yaml:7:10: portal.base_paths: empty; name at least one path, e.g. /auth (or switch the portal off: \
             enabled: false)",
        ),
        (
            "shared_state: {redis: {url: 'http://x', deadline: 0s}}\n",
            "f.yaml:7:24: shared_state.redis.url: expected redis://host:port, rediss://host:port (TLS) or \
             redis+unix:///path\nf.yaml:7:41: shared_state.redis.deadline: expected a duration from 1ms to 1m (ms, s, \
             m, h, d), found \"0s\"",
        ),
        ("shared_state: {redis: {}}\n", "f.yaml:7:16: shared_state.redis.url: missing; e.g. redis://127.0.0.1:6379"),
        (
            "shared_state: {redis: {url: 'redis://x', ca_file: ca.pem}}\n",
            "f.yaml:7:42: shared_state.redis.ca_file: contradicts url: it is not rediss://",
        ),
        (
            "shared_state: {redis: {url: 'redis://x', seeds: ['10.0.0.1:6379']}}\n",
            "f.yaml:7:42: shared_state.redis.seeds: only with cluster: true",
        ),
        (
            "shared_state: {redis: {url: 'redis://x', cluster: true, seeds: ['10.0.0.1']}}\n",
            "f.yaml:7:65: shared_state.redis.seeds[0]: expected host:port, found \"10.0.0.1\"",
        ),
        (
            "shared_state: {redis: {url: 'redis+unix:///x', cluster: true}}\n",
            "f.yaml:7:48: shared_state.redis.cluster: contradicts url: the servers of a cluster are reached over TCP",
        ),
        (
            "shared_state: {redis: {url: 'redis://x/3', cluster: true}}\n",
            "f.yaml:7:44: shared_state.redis.cluster: contradicts url: a cluster has no database but 0",
        ),
        (
            "telemetry: {otlp: {endpoint: 'http://x/v1/traces', ca_file: ca.pem}}\n",
            "f.yaml:7:52: telemetry.otlp.ca_file: contradicts endpoint: it is not https",
        ),
    ];
    for (rest, expected) in cases {
        assert_eq!(errors(rest), expected);
    }
}

#[test]
fn a_shared_limit_needs_a_redis_and_a_lease_a_shared_limit() {
    const LIMITS: &str = "\
tokens: {issuer: 'https://a.example'}
limits:
  a: {by: address, rate: 5/s, scope: shared}
  b: {by: address, rate: 5/s, lease: 2}
  c: {by: address, rate: 5/s, scope: global}
  d: {by: address, rate: 5/s, burst: 8, scope: shared, lease: 9}
";
    let local = "f.yaml:4:31: limits.b.lease: is for scope: shared; a limit that is counted here has nothing to take \
                 ahead\nf.yaml:5:31: limits.c.scope: expected local or shared, found \"global\"";
    let alone = "shared needs a Redis to count in: shared_state.redis.url";
    let without = errors_with(LIMITS, &Variables::new());
    for line in
        [&format!("f.yaml:3:31: limits.a.scope: {alone}"), local, &format!("f.yaml:6:41: limits.d.scope: {alone}")]
    {
        assert!(without.contains(line), "{line}\n{without}");
    }
    let with = errors_with(&format!("{LIMITS}shared_state: {{redis: {{url: 'redis://x'}}}}\n"), &Variables::new());
    assert!(with.contains(local) && !with.contains(alone), "{with}");
    assert!(with.contains("limits.d.lease: more than the burst (8), which is all there ever is"), "{with}");
}

#[test]
fn a_token_section_cannot_contradict_itself() {
    assert_eq!(
        errors_with(
            "tokens:\n  issuer: http://a.example\n  access_ttl: 1h\n  leeway: 121s\n  algorithm: RS255\n  \
             refresh: {idle: 40d, absolute: 30d}\n",
            &Variables::new()
        ),
        "f.yaml:2:3: tokens.issuer: expected https (http only on a loopback host), found \"http://a.example\"; did you \
         mean \"https://a.example\"?\n\
         f.yaml:4:3: tokens.leeway: expected a duration from 0ms to 2m (ms, s, m, h, d), found \"121s\"\n\
         f.yaml:5:3: tokens.algorithm: expected ES256 or EdDSA or RS256 or HS256, found \"RS255\"; did you mean \"RS256\"?\n\
         f.yaml:6:13: tokens.refresh.idle: longer than absolute: a session would end before it could be idle that long"
    );
}

#[test]
fn issuers_cannot_contradict_themselves_or_each_other() {
    let text = "\
tokens: {issuer: 'https://a.example'}
issuers:
  own: {issuer: 'https://b.example', audiences: [x]}
  us: {issuer: 'https://a.example', audiences: [x]}
  twin: {issuer: 'https://b.example', audiences: [x], max_lifetme: 1h}
  bare: {}
  none: {issuer: 'https://c.example', audiences: [], algorithms: [RS256, HS256, RS256], types: []}
  text: {issuer: me, audiences: [x], algorithms: [RS255]}
  plain: {issuer: 'https://d.example', audiences: [x], jwks_uri: 'http://d.example/jwks', hosts: [D.example]}
  paths: {issuer: 'https://e.example', audiences: [x], claims: {roles: [a..b], org: ''}, role_names: [{from: x}]}
";
    assert_eq!(
        errors_with(text, &Variables::new()),
        "f.yaml:3:3: issuers.own: own is what routes call the gateway itself; choose another name\n\
         f.yaml:4:8: issuers.us.issuer: is tokens.issuer: only the gateway's own keys verify its own tokens\n\
         f.yaml:5:10: issuers.twin.issuer: is the issuer of issuers.own already\n\
         f.yaml:5:55: issuers.twin.max_lifetme: unknown key; did you mean \"max_lifetime\"?\n\
         f.yaml:6:3: issuers.bare.issuer: missing; it is iss of the issuer's tokens, e.g. \
         https://sso.example.com/realms/acme\n\
         f.yaml:6:3: issuers.bare.audiences: missing; aud of tokens that are meant for us\n\
         f.yaml:7:39: issuers.none.audiences: empty: no token would be accepted\n\
         f.yaml:7:54: issuers.none.algorithms: HS256 needs a secret: a published key is none\n\
         f.yaml:7:81: issuers.none.algorithms[2]: \"RS256\" stands in this list twice\n\
         f.yaml:7:89: issuers.none.types: empty: no token would be accepted\n\
         f.yaml:8:3: issuers.text.issuer: no https URL with a discovery document; name its keys with jwks_uri or \
         secret\n\
         f.yaml:8:51: issuers.text.algorithms[0]: expected ES256 or ES384 or EdDSA or RS256 or PS256 or HS256, \
         found \"RS255\"; did you mean \"RS256\"?\n\
         f.yaml:9:56: issuers.plain.jwks_uri: expected an https URL without user and password (http only on a \
         loopback address), found \"http://d.example/jwks\"\n\
         f.yaml:9:99: issuers.plain.hosts[0]: expected an exact host name in lower case, without scheme or port, \
         found \"D.example\"; did you mean \"d.example\"?\n\
         f.yaml:10:73: issuers.paths.claims.roles[0]: expected the way to a claim such as realm_access.roles, \
         https://example.com/roles or /a/b, found \"a..b\"\n\
         f.yaml:10:80: issuers.paths.claims.org: expected the way to a claim such as realm_access.roles, \
         https://example.com/roles or /a/b, found \"\"\n\
         f.yaml:10:103: issuers.paths.role_names[0].to: missing; the role as it is called here"
    );
}

#[test]
fn a_secret_is_for_hs256_and_long_enough() {
    let text = "\
tokens: {issuer: 'https://a.example'}
issuers:
  short: {issuer: a, audiences: [x], secret: '${SHORT}'}
  public: {issuer: b, audiences: [x], secret: '${LONG}', algorithms: [HS256, RS256]}
  both: {issuer: c, audiences: [x], secret: '${LONG}', jwks_uri: 'https://c.example'}
  literal: {issuer: d, audiences: [x], secret: 0123456789012345678901234567890123}
";
    let variables = variables(&[("SHORT", &"x".repeat(31)), ("LONG", &"x".repeat(32))]);
    assert_eq!(
        errors_with(text, &variables),
        "f.yaml:3:38: issuers.short.secret: shorter than 32 bytes, which could be guessed (RFC 7518 §3.2)\n\
         f.yaml:4:58: issuers.public.algorithms: contradicts secret, which is for HS256 and nothing else\n\
         f.yaml:5:56: issuers.both.jwks_uri: contradicts secret: an issuer has published keys or a secret\n\
         f.yaml:6:40: issuers.literal.secret: a secret may not stand in the file itself; write {file: path}, \
         {env: NAME} or \"${NAME}\""
    );
}

#[test]
fn own_tokens_are_signed_with_a_secret_only_when_asked_to() {
    let told = |rest: &str| {
        let variables = variables(&[("SHORT", &"x".repeat(31)), ("LONG", &"x".repeat(32))]);
        errors_with(&format!("tokens: {{issuer: 'https://a.example', {rest}}}\n"), &variables)
    };
    assert_eq!(
        told("algorithm: HS256"),
        "f.yaml:1:1: tokens.secret: missing; algorithm HS256 signs with it: openssl rand -base64 32"
    );
    assert_eq!(told("secret: '${LONG}'"), "f.yaml:1:39: tokens.secret: only algorithm HS256 signs with a secret");
    assert_eq!(
        told("algorithm: HS256, secret: '${SHORT}'"),
        "f.yaml:1:57: tokens.secret: shorter than 32 bytes, which could be guessed (RFC 7518 §3.2)"
    );
}

#[test]
fn routes_name_issuers_that_there_are() {
    let text = "\
tokens: {issuer: 'https://a.example'}
issuers: {sso: {issuer: 'https://b.example', audiences: [x]}}
clusters: {rag: {endpoints: ['http://127.0.0.1:1']}}
routes:
  - {name: a, match: {path: /a}, cluster: rag, issuers: [soo, own, own]}
  - {name: b, match: {path: /b}, cluster: rag, issuers: []}
  - {name: c, match: {path: /c}, cluster: rag, issuers: [sso], auth: none}
";
    assert_eq!(
        errors_with(text, &Variables::new()),
        "f.yaml:5:58: routes[0].issuers[0]: no issuer is named \"soo\"; did you mean \"sso\"?\n\
         f.yaml:5:68: routes[0].issuers[2]: \"own\" stands in this list twice\n\
         f.yaml:6:48: routes[1].issuers: empty: no token would be accepted; auth: none is for routes that want \
         none\n\
         f.yaml:7:48: routes[2].issuers: contradicts auth: none; no token is looked at"
    );
}

#[test]
fn subjects_go_without_a_prefix_only_where_nobody_else_names_any() {
    let text = |portal: &str, more: &str| {
        format!(
            "tokens: {{issuer: 'https://a.example'}}\nissuers:\n  sso: {{issuer: 'https://b.example', audiences: [x], \
             subject: bare}}\n{more}clusters: {{rag: {{endpoints: ['http://127.0.0.1:1']}}}}\nroutes: [{{name: a, \
             match: {{path: /a}}, cluster: rag, issuers: [sso]}}]\nportal: {{enabled: {portal}}}\n"
        )
    };
    let other = "  two: {issuer: 'https://c.example', audiences: [x]}\n";
    assert!(parse_text(&text("false", ""), &Variables::new()).is_ok());
    assert_eq!(
        errors_with(&text("true", ""), &Variables::new()),
        "f.yaml:3:54: issuers.sso.subject: bare, and the portal is on: this issuer could name the portal's users"
    );
    assert_eq!(
        errors_with(&text("false", other), &Variables::new()),
        "f.yaml:3:54: issuers.sso.subject: bare, and it is not the only issuer: one could name the other's users"
    );
}

#[test]
fn clusters_cannot_mix_or_hide_encryption() {
    let text = "\
tokens: {issuer: 'https://a.example'}
clusters:
  a: {endpoints: ['http://a', 'https://b', 'http://a:80']}
  b: {endpoints: ['http://b'], tls: {server_name: b}}
  c: {endpoints: ['http://c/api'], health_check: {path: health, timeout: 9s}}
  d: {endpoints: []}
";
    assert_eq!(
        errors_with(text, &Variables::new()),
        "f.yaml:3:31: clusters.a.endpoints[1]: http and https endpoints in one cluster: a request could go out \
         unencrypted by chance\n\
         f.yaml:3:44: clusters.a.endpoints[2]: \"http://a:80\" stands in this list twice\n\
         f.yaml:4:32: clusters.b.tls: contradicts endpoints: they are http\n\
         f.yaml:5:19: clusters.c.endpoints[0]: expected an endpoint without a path (a route's rewrite changes paths), \
         found \"http://c/api\"; did you mean \"http://c\"?\n\
         f.yaml:5:51: clusters.c.health_check.path: expected a path such as /health, found \"health\"\n\
         f.yaml:5:65: clusters.c.health_check.timeout: the check's timeout is longer than its interval\n\
         f.yaml:6:7: clusters.d.endpoints: empty; a cluster needs at least one endpoint, e.g. http://127.0.0.1:8000"
    );
}

const CLAIMS: &str = "\
routes:
  - {name: a, match: {path: '/x/{id}'}, cluster: rag}
  - {name: b, match: {path: '/x/{id}', methods: [GET]}, cluster: rag}
  - {name: c, match: {path: '/y/{id}', methods: [POST]}, cluster: rag}
  - {name: d, match: {path: '/y/{name}', methods: [GET]}, cluster: rag}
  - {name: e, match: {path: '/auth/login'}, cluster: rag}
  - {name: f, match: {path: /.well-known/jwks.json}, cluster: rag}
  - {name: a, match: {path: '/authors'}, cluster: rag}
  - {name: g, match: {path: /.well-known/portcullis/claims}, cluster: rag}
";

#[test]
fn routes_cannot_take_the_same_requests_or_the_portals() {
    assert_eq!(
        errors(CLAIMS),
        "f.yaml:9:23: routes[1].match.path: routes[0] takes GET of this path already\n\
         f.yaml:11:23: routes[3].match.path: matches the same paths as routes[2]; name the parameters alike\n\
         f.yaml:12:23: routes[4].match.path: lies under one of portal.base_paths; it is the portal's while portal.enabled\n\
         f.yaml:13:23: routes[5].match.path: the gateway's own: services find the keys there that verify identities\n\
         f.yaml:14:6: routes[6].name: routes[0] has the name \"a\" already\n\
         f.yaml:15:23: routes[7].match.path: the gateway's own: services find the claims there that no header holds"
    );
}

#[test]
fn a_portal_on_its_own_host_or_switched_off_takes_no_paths() {
    let route = |hosts| format!("routes: [{{name: e, match: {{{hosts}path: /auth/login}}, cluster: rag}}]\n");
    let with = |rest: String| parse_text(&format!("{BASE}{rest}"), &Variables::new());
    assert!(with(route("hosts: [app.example.com], ") + "portal: {host: auth.example.com}\n").is_ok());
    assert!(with(route("") + "portal: {enabled: false}\n").is_ok());
    assert!(with(route("") + "portal: {host: auth.example.com}\n").is_err(), "a route of any host is on the portal's");
}

#[test]
fn trusting_everybody_is_refused() {
    assert_eq!(
        errors("listeners:\n  trusted_proxies: [0.0.0.0/0, 10.1.2.3/8, nginx]\n"),
        "f.yaml:8:21: listeners.trusted_proxies[0]: trusts every address, so any client could claim to be any other; \
         name your proxies\n\
         f.yaml:8:32: listeners.trusted_proxies[1]: expected a network whose host bits are zero, found \"10.1.2.3/8\"; \
         did you mean \"10.0.0.0/8\"?\n\
         f.yaml:8:44: listeners.trusted_proxies[2]: expected an IP address or network such as 10.0.0.0/8, found \
         \"nginx\""
    );
}

#[test]
fn a_broken_value_never_hides_another_mistake() {
    // One mistake in every section, of every kind.
    let text = "\
listeners: {public: {bind: here}}
runtime: {workers: some}
store: {url: 'mysql://x'}
shared_state: {redis: {url: nowhere}}
tokens: {issuer: nowhere}
passwords: {min_length: 7}
limits: {'a b': {by: adress, rate: fast}}
clusters: {rag: {endpoints: [rag]}}
routes: [{name: 'a b', match: {path: x}, cluster: rga}]
portal: {default_role: ADMIN, cookie_name: c}
telemetry: {log: {filter: '=='}}
extra: 1
";
    let told = errors_with(text, &Variables::new());
    let paths: Vec<_> = told.lines().map(|line| line.split(": ").nth(1).unwrap_or_default()).collect();
    let expected = [
        "listeners.public.bind",
        "runtime.workers",
        "store.url",
        "shared_state.redis.url",
        "tokens.issuer",
        "passwords.min_length",
        "limits.a b",
        "limits.a b.by",
        "limits.a b.rate",
        "clusters.rag.endpoints[0]",
        "routes[0].name",
        "routes[0].match.path",
        "routes[0].cluster",
        "portal.default_role",
        "portal.cookie_name",
        "telemetry.log.filter",
        "extra",
    ];
    assert_eq!(paths, expected, "{told}");
}
