//! `listeners:` where clients and operators connect, and what a connection may cost before anybody is known.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    checks::{Checks, values},
    floods,
    item::{At, Item},
    settings::{ConnectionTimeouts, Listener, Listeners},
    tls,
    units::{AtMost, Int, Size, Span},
    words::{Bind, FilePath, Network},
};

/// Where clients and operators connect.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Listeners")]
pub(super) struct RawListeners {
    /// The listener for clients.
    public: Item<RawPublic>,
    /// The listener for operators: /metrics, /livez, /readyz, /startupz, without authentication, and the admin API, with it
    /// (`portal.admin_api`). Plaintext, so keep it on loopback or a network only operators reach.
    admin: Item<RawAdmin>,
    /// Addresses or networks of proxies in front of the gateway. Only their X-Forwarded-For and request ids are
    /// believed, right to left. Naming too much lets clients choose the address they are limited and logged by; naming
    /// too little makes all clients of a proxy share its address.
    trusted_proxies: Item<Vec<Item<Network>>>,
    /// How long a shutdown waits for requests in flight before it cuts them. Longer protects streams; it delays every
    /// rollout.
    drain: Item<Span<0, 3_600_000>>,
}

/// The listener for clients.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Public")]
pub(super) struct RawPublic {
    /// IP address and port. Port 0 takes a free one.
    bind: Item<Bind>,
    /// Serve TLS (1.2 and 1.3; HTTP/2 and HTTP/1.1 by ALPN). Without it tokens and passwords cross the network in the
    /// clear: leave it out only on loopback or behind a proxy that speaks TLS.
    tls: Option<Item<RawServerTls>>,
    /// Serve HTTP/2 with prior knowledge on the plaintext port, instead of HTTP/1.1. For proxies that speak h2c.
    h2c: Item<bool>,
    /// Connections open at once. For a new one then the quietest is closed: one that has begun no request, or awaits
    /// none, for a second or more, first of the address that holds most. When all are busy, new ones wait in the kernel's
    /// queue. Bounds memory (about 14 KiB an idle connection) and file descriptors.
    max_connections: Item<Int<1, 1_000_000>>,
    /// Connections of one address (IPv4 /32, IPv6 /64) open at once, WebSockets included; more are closed before TLS.
    /// Proxies in `trusted_proxies` may have all. Too low hurts many clients behind one address.
    max_connections_per_address: Item<AtMost<1_000_000>>,
    /// Request line and headers together. More is refused with 431. Bounds memory a stranger can hold.
    max_header_bytes: Item<Size<8_192, 1_048_576>>,
    /// Header fields of one request. More is refused with 431.
    max_headers: Item<Int<16, 1_000>>,
    /// Concurrent streams of one HTTP/2 connection. Bounds what one connection may ask for at once.
    h2_max_streams: Item<Int<1, 10_000>>,
    /// How long a connection may stay in each phase. They free what slow or silent clients hold (slowloris).
    timeouts: Item<RawTimeouts>,
    /// What one address may do before anybody is known.
    flood: Item<floods::RawFlood>,
}

/// Certificate and key of the listener.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ServerTls")]
pub(super) struct RawServerTls {
    /// PEM file with the certificate chain, the server's own first. A relative path starts at this file's folder.
    certificate: Item<FilePath>,
    /// PEM file with the private key (PKCS#8, PKCS#1 or SEC1, unencrypted).
    key: Item<FilePath>,
}

/// How long a connection may stay in each phase.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Timeouts")]
pub(super) struct RawTimeouts {
    /// The TLS handshake, from accept.
    tls_handshake: Item<Span<100, 60_000>>,
    /// From accept (or the end of the handshake) to the first byte.
    first_byte: Item<Span<100, 60_000>>,
    /// From the first byte of a request's head to its last.
    header: Item<Span<100, 60_000>>,
    /// Between an answer and the next request on a connection. Longer saves handshakes; it holds idle connections.
    idle: Item<Span<1_000, 3_600_000>>,
}

/// The listener for operators.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Admin")]
pub(super) struct RawAdmin {
    /// IP address and port. Port 0 takes a free one.
    bind: Item<Bind>,
}

impl Default for RawListeners {
    fn default() -> Self {
        Self {
            public: Item::default(),
            admin: Item::default(),
            trusted_proxies: Item::default(),
            drain: Item::of(Span::secs(30)),
        }
    }
}

impl Default for RawPublic {
    fn default() -> Self {
        Self {
            bind: Item::of(Bind(([127, 0, 0, 1], 8080).into())),
            tls: None,
            h2c: Item::of(false),
            max_connections: Item::of(Int(10_000)),
            max_connections_per_address: Item::of(AtMost::of(1_000)),
            max_header_bytes: Item::of(Size(32 << 10)),
            max_headers: Item::of(Int(100)),
            h2_max_streams: Item::of(Int(128)),
            timeouts: Item::default(),
            flood: Item::default(),
        }
    }
}

impl Default for RawTimeouts {
    fn default() -> Self {
        Self {
            tls_handshake: Item::of(Span::secs(5)),
            first_byte: Item::of(Span::secs(10)),
            header: Item::of(Span::secs(10)),
            idle: Item::of(Span::secs(75)),
        }
    }
}

impl Default for RawAdmin {
    fn default() -> Self {
        Self { bind: Item::of(Bind(([127, 0, 0, 1], 9090).into())) }
    }
}

pub(super) fn check(item: Item<RawListeners>, checks: &mut Checks) -> Option<Listeners> {
    let raw = item.value?;
    let admin = raw.admin.value.map(|admin| admin.bind);
    let admin_bind = admin.as_ref().and_then(|bind| Some(bind.value.as_ref()?.0));
    let public = raw.public.value.and_then(|public| {
        if let (Some(bind), Some(admin)) = (&public.bind.value, &admin)
            && Some(bind.0) == admin_bind
            && bind.0.port() != 0
        {
            let written = if public.bind.is_written() { &public.bind } else { admin };
            checks.error(&written.at, "listeners.public and listeners.admin bind the same address and port");
        }
        check_public(public, checks)
    });
    checks.no_repeats(raw.trusted_proxies.value.as_deref().unwrap_or_default());
    let trusted_proxies = values(raw.trusted_proxies.value?)?.into_iter().map(|network| network.0).collect();
    Some(Listeners { public: public?, admin: admin_bind?, trusted_proxies, drain: raw.drain.value?.0 })
}

fn check_public(raw: RawPublic, checks: &mut Checks) -> Option<Listener> {
    if let (Some(_), Some(true)) = (&raw.tls, raw.h2c.value) {
        checks.error(&raw.h2c.at, "contradicts tls: h2c is for plaintext; TLS chooses HTTP/2 by ALPN");
    }
    let timeouts = raw.timeouts.value;
    let flood = raw.flood.value.and_then(|flood| floods::check(&flood));
    // Evaluated before any early return: a broken number must not hide a broken certificate.
    let tls = match raw.tls {
        None => Some(None),
        Some(tls) => tls.value.and_then(|files| check_tls(files, &tls.at, checks)).map(Some),
    };
    let timeouts = timeouts.and_then(|timeouts| {
        Some(ConnectionTimeouts {
            tls_handshake: timeouts.tls_handshake.value?.0,
            first_byte: timeouts.first_byte.value?.0,
            header: timeouts.header.value?.0,
            idle: timeouts.idle.value?.0,
        })
    });
    Some(Listener {
        bind: raw.bind.value?.0,
        tls: tls?,
        h2c: raw.h2c.value?,
        max_connections: raw.max_connections.value?.get()?,
        max_connections_per_address: raw.max_connections_per_address.value?.0,
        max_header_bytes: usize::try_from(raw.max_header_bytes.value?.0).ok()?,
        max_headers: raw.max_headers.value?.get()?,
        h2_max_streams: raw.h2_max_streams.value?.get()?,
        timeouts: timeouts?,
        flood: flood?,
    })
}

fn check_tls(raw: RawServerTls, parent: &At, checks: &mut Checks) -> Option<super::settings::ServerTls> {
    let (certificate_at, key_at) = (raw.certificate.at.clone(), raw.key.at.clone());
    let certificate = checks.required(raw.certificate, parent, "certificate", "TLS needs a certificate chain in PEM");
    let key = checks.required(raw.key, parent, "key", "TLS needs the certificate's private key in PEM");
    let certificates = certificate.and_then(|path| {
        let read = checks.pem(&certificate_at, &path.0).and_then(|pem| tls::certificates(&pem));
        read.map_err(|message| checks.error(&certificate_at, message)).ok()
    });
    let key = key.and_then(|path| {
        let read = checks.pem(&key_at, &path.0).and_then(|pem| tls::private_key(&pem));
        read.map_err(|message| checks.error(&key_at, message)).ok()
    });
    tls::server(certificates?, key?).map_err(|message| checks.error(&key_at, message)).ok()
}
