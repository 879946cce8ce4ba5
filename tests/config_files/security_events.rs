//! Who is told of security events: where, with which secret, of what.

use portcullis::policy::webhook::SecurityEvent;

use crate::support::{BASE, errors_with, parse_text, variables};

const SECRET: &str = "whsec_cGxhbnRlZC13ZWJob29rLXNlY3JldC0wMTIz";

#[test]
fn a_webhook_is_told_everything_unless_it_names_what() {
    let text = format!(
        "{BASE}security_events:\n  webhooks:\n    a: {{url: \"https://hooks.example/x?y=z\", secret: {{env: SECRET}}}}\n    \
         b: {{url: \"http://127.0.0.1:9/x\", secret: \"${{SECRET}}\", events: [new_device], allow_private: true}}\n"
    );
    let settings = parse_text(&text, &variables(&[("SECRET", SECRET)])).unwrap();
    let [a, b] = &settings.webhooks[..] else { panic!("{:?}", settings.webhooks) };
    assert_eq!((&*a.name, a.url.to_string().as_str()), ("a", "https://hooks.example/x?y=z"));
    assert_eq!((a.events.as_slice(), a.allow_private), (SecurityEvent::ALL, false));
    assert_eq!((b.events.as_slice(), b.allow_private), (&[SecurityEvent::NewDevice][..], true));
    let shown = format!("{settings:?}");
    assert!(!shown.contains("cGxhbnRlZC13ZWJob29r") && !shown.contains("planted-webhook"), "{shown}");
}

#[test]
fn each_mistake_is_named_at_its_key_and_no_secret_is_quoted() {
    let text = format!(
        "{BASE}security_events:\n  webhooks:\n    plain: {{url: \"http://hooks.example/\", secret: {{env: SECRET}}}}\n    \
         weak: {{url: \"https://hooks.example/\", secret: {{env: WEAK}}, events: []}}\n    \
         twice: {{url: \"https://hooks.example/\", secret: {{env: SECRET}}, events: [new_device, new_device]}}\n    \
         unknown: {{url: \"https://hooks.example/\", secret: {{env: SECRET}}, events: [new_devices]}}\n    none: {{}}\n"
    );
    let told = errors_with(&text, &variables(&[("SECRET", SECRET), ("WEAK", "whsec_d2Vhaw==")]));
    for expected in [
        "security_events.webhooks.plain.url: expected an https URL",
        "security_events.webhooks.weak.secret: expected whsec_ and 24 to 64 bytes in base64",
        "security_events.webhooks.weak.events: empty: it would be told nothing",
        "security_events.webhooks.twice.events[1]: ",
        "security_events.webhooks.unknown.events[0]: ",
        "security_events.webhooks.none.url: missing",
        "security_events.webhooks.none.secret: missing",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
    assert!(!told.contains("d2Vhaw"), "{told}");
}

#[test]
fn messages_need_a_store_to_wait_in() {
    let text = format!(
        "store: {{url: none}}\nportal: {{enabled: false}}\n{BASE}security_events: {{webhooks: {{a: {{url: \
         \"https://hooks.example/\", secret: {{env: SECRET}}}}}}}}\n"
    );
    let told = errors_with(&text, &variables(&[("SECRET", SECRET)]));
    assert!(told.contains("security_events.webhooks: needs a store"), "{told}");
}
