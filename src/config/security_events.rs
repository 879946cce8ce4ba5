//! `security_events:` who is told when something looks like an attack.

use std::sync::Arc;

use schemars::JsonSchema;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::{
    checks::{Checks, values},
    item::{Item, Named},
    secret::Secret,
    settings::Webhook,
    tls,
    urls::KeysUrl,
    words::{self, FilePath},
};
use crate::policy::webhook::{SecurityEvent, secret};

/// Events that may mean an attack. They are audited and counted; webhooks are told of them besides.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "SecurityEvents")]
pub(super) struct RawSecurityEvents {
    /// Webhooks by name. Each message is signed after Standard Webhooks and sent until it is answered 2xx, for three days.
    webhooks: Item<Named<RawWebhook>>,
}

/// Who is told.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Webhook")]
pub(super) struct RawWebhook {
    /// Where messages are sent: https, or http on a loopback address. No redirect is followed.
    url: Item<KeysUrl>,
    /// What messages are signed with: whsec_ and 24 to 64 bytes in base64. From the environment or a file.
    secret: Item<Secret>,
    /// What it is told: `refresh_reuse_detected`, `refresh_ahead`, `new_device`, `permission_denied`, `credential_stuffing_detected`, `account_locked`,
    /// `address_locked`, `device_voided`.
    #[serde(default = "events")]
    events: Item<Vec<Item<SecurityEvent>>>,
    /// Send even to addresses that are not on the public internet, for a receiver in your own network.
    #[serde(default)]
    allow_private: Item<bool>,
    /// PEM file with the only roots to trust. A relative path starts at this file's folder.
    #[serde(default)]
    ca_file: Option<Item<FilePath>>,
}

fn events() -> Item<Vec<Item<SecurityEvent>>> {
    Item::of(SecurityEvent::ALL.iter().copied().map(Item::of).collect())
}

pub(super) fn check(item: Item<RawSecurityEvents>, no_store: bool, checks: &mut Checks) -> Option<Vec<Arc<Webhook>>> {
    let webhooks = item.value?.webhooks;
    let at = webhooks.at;
    let named = webhooks.value?.0;
    if no_store && !named.is_empty() {
        checks.error(&at, "needs a store: messages wait there, and store.url is none");
    }
    let checked: Vec<_> = named.into_iter().map(|(name, item)| check_one(&name, item, checks)).collect();
    checked.into_iter().map(|webhook| webhook.map(Arc::new)).collect()
}

fn check_one(name: &str, item: Item<RawWebhook>, checks: &mut Checks) -> Option<Webhook> {
    let at = item.at;
    if !words::is_name(name) {
        checks.error(&at, "expected a name (letters, digits, _ . -, at most 64)");
    }
    let raw = item.value?;
    let url = checks.required(raw.url, &at, "url", "where messages are sent");
    let secret_at = raw.secret.at.or(&at, "secret");
    let text = checks.required(raw.secret, &at, "secret", "messages are signed with it");
    let key = text.and_then(|text| {
        let key = secret(text.0.expose_secret());
        if key.is_none() {
            let message = "expected whsec_ and 24 to 64 bytes in base64: echo whsec_$(openssl rand -base64 32)";
            checks.error(&secret_at, message);
        }
        key
    });
    let events_at = raw.events.at.or(&at, "events");
    let events = raw.events.value.and_then(|items| {
        if items.is_empty() {
            checks.error(&events_at, "empty: it would be told nothing");
        }
        checks.no_repeats(&items);
        values(items)
    });
    let (roots, place) = match raw.ca_file {
        None => (tls::system_roots(), at),
        Some(file) => (checks.pem(&file.at, &file.value?.0).and_then(|pem| tls::roots_of_file(&pem)), file.at),
    };
    let tls = roots.and_then(|roots| tls::client(roots, None)).map_err(|message| checks.error(&place, message));
    Some(Webhook {
        name: name.into(),
        url: url?.0,
        secret: key?,
        events: events?,
        allow_private: raw.allow_private.value?,
        tls: tls.ok()?.config,
    })
}
