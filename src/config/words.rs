//! Words as the file writes them: names, hosts, addresses (and see [`super::paths`],
//! [`super::urls`]). Each type is a word that was checked.
//!
//! Closed character sets throughout: these words end up in metric labels, headers, log lines and route tables, where
//! a stray quote, space or control character is somebody's injection.

use std::{borrow::Cow, net::IpAddr, str::FromStr};

use http::{HeaderName, Method};
use ipnet::IpNet;
use rustls::pki_types::ServerName;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    errors::Fault,
    scalar::{Scalar, scalar},
};

/// A type of one word: its pattern in the schema, how it is written, how it is read.
macro_rules! word {
    ($(#[$doc:meta])* $name:ident($inner:ty), $pattern:literal, |$value:ident| $write:expr, |$text:ident| $read:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(super) struct $name(pub(super) $inner);

        impl Scalar for $name {
            fn read($text: &str) -> Result<Self, Fault> {
                $read
            }

            fn write(&self) -> String {
                let $value = &self.0;
                $write
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({ "type": "string", "pattern": $pattern })
            }
        }
        scalar!($name);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.write())
            }
        }
    };
}

pub(super) use word;

pub(super) fn kept(ok: bool, text: &str, expected: &str) -> Result<String, Fault> {
    if ok { Ok(text.to_owned()) } else { Err(Fault::expected(expected)) }
}

/// Whether a word is a name: 1 to 64 letters, digits, `_`, `.`, `-`, a letter or digit first.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

word! {
    /// A name the operator chose: of a route, limit, cluster, role.
    Name(String), "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$|\\$\\{", |value| value.clone(),
    |text| kept(is_name(text), text, "a name (letters, digits, _ . -, at most 64)").map(Self)
}

word! {
    /// What keys in a shared database begin with: 1 to 64 letters, digits, `_`, `.`, `-`, `:`.
    KeyPrefix(String), "^[A-Za-z0-9_.:-]{1,64}$|\\$\\{", |value| value.clone(),
    |text| {
        let ok = (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte));
        kept(ok, text, "a prefix (letters, digits, _ . : -, at most 64)").map(Self)
    }
}

word! {
    /// Host and port, as in `10.0.0.2:6379` or `[::1]:6379`.
    HostPort((String, u16)), "^.+:[0-9]{1,5}$|\\$\\{", |value| written(value),
    |text| host_port(text).map(Self).ok_or_else(|| Fault::expected("host:port"))
}

fn written((host, port): &(String, u16)) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
        None => host.to_owned(),
    };
    let is_named = !host.is_empty() && host.len() <= 253;
    let ok = is_named && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte));
    (ok && (!host.contains(':') || text.starts_with('['))).then_some((host, port))
}

word! {
    /// Any text of visible characters and inner spaces, at most 256 bytes.
    Text(String), "\\S", |value| value.clone(),
    |text| {
        let ok = !text.is_empty() && text.len() <= 256 && text.trim() == text && !text.contains(char::is_control);
        kept(ok, text, "a line of text (at most 256 bytes)").map(Self)
    }
}

word! {
    /// A scope-token (RFC 6749 §3.3).
    Scope(String), "^[!#-\\[\\]-~]+$|\\$\\{", |value| value.clone(),
    |text| {
        let ok = !text.is_empty()
            && text.len() <= 128
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte));
        kept(ok, text, "a scope (visible ASCII without quotes and backslashes)").map(Self)
    }
}

word! {
    /// A path of a file.
    FilePath(String), "\\S", |value| value.clone(),
    |text| kept(!text.is_empty() && !text.contains('\0'), text, "the path of a file").map(Self)
}

word! {
    /// An address to listen on.
    Bind(std::net::SocketAddr), ":[0-9]+$|\\$\\{", |value| value.to_string(),
    |text| text.parse().map(Self).map_err(|_| Fault::expected("an IP address and port such as 127.0.0.1:8080 or [::]:8080"))
}

word! {
    /// Addresses of one network; a bare address is a network of one.
    Network(IpNet), "^[0-9a-fA-F:.]+(/[0-9]+)?$|\\$\\{", |value| value.to_string(), |text| network(text)
}

fn network(text: &str) -> Result<Network, Fault> {
    if let Ok(address) = IpAddr::from_str(text) {
        return Ok(Network(address.into()));
    }
    let net = IpNet::from_str(text).map_err(|_| Fault::expected("an IP address or network such as 10.0.0.0/8"))?;
    if net.prefix_len() == 0 {
        return Err(Fault::new("trusts every address, so any client could claim to be any other; name your proxies"));
    }
    if net.trunc() != net {
        return Err(Fault::expected("a network whose host bits are zero").suggest(net.trunc().to_string()));
    }
    Ok(Network(net))
}

/// A host name (RFC 1123) or IP address, lower case, without a port.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok() && text.to_ascii_lowercase() == text,
        None => text.len() <= 253 && text.split('.').all(label),
    }
}

word! {
    /// A host as `Host` carries it, without a port, lower case.
    Host(String), "^[a-z0-9.\\[\\]:-]+$|\\$\\{", |value| value.clone(), |text| host(text)
}

fn host(text: &str) -> Result<Host, Fault> {
    const EXPECTED: &str = "an exact host name in lower case, without scheme or port";
    if is_host(text) {
        return Ok(Host(text.to_owned()));
    }
    let lower = text.to_ascii_lowercase();
    let bare = lower.split_once("://").map_or(lower.as_str(), |(_, rest)| rest);
    let bare = bare.split(['/', ':']).next().unwrap_or_default();
    let fault = Fault::expected(EXPECTED);
    Err(if is_host(bare) && bare != text { fault.suggest(bare) } else { fault })
}

word! {
    /// A method; any token in capitals but those no proxy of ours forwards.
    HttpMethod(Method), "^[A-Z][A-Z_-]*$|\\$\\{", |value| value.to_string(), |text| method(text)
}

fn method(text: &str) -> Result<HttpMethod, Fault> {
    let capitals = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_uppercase())
            && text.bytes().all(|byte| byte.is_ascii_uppercase() || b"-_".contains(&byte))
    };
    match text {
        "CONNECT" | "TRACE" => Err(Fault::expected("a method that is forwarded, which CONNECT and TRACE never are")),
        _ if capitals(text) => Method::from_str(text).map(HttpMethod).map_err(|_| Fault::expected("an HTTP method")),
        _ => {
            let fault = Fault::expected("an HTTP method in capitals");
            let upper = text.to_ascii_uppercase();
            Err(if capitals(&upper) { fault.suggest(upper) } else { fault })
        }
    }
}

word! {
    /// A cookie name whose prefix makes browsers enforce `Secure` (RFC 6265bis §4.1.3).
    CookieName(String), "^__(Secure|Host)-[A-Za-z0-9_-]+$|\\$\\{", |value| value.clone(),
    |text| {
        let rest = text.strip_prefix("__Secure-").or_else(|| text.strip_prefix("__Host-")).unwrap_or_default();
        let ok = !rest.is_empty()
            && text.len() <= 64
            && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        kept(ok, text, "a cookie name that starts with __Secure- or __Host-").map(Self)
    }
}

word! {
    /// A cookie name that browsers take from this very host alone, over TLS (RFC 6265bis §4.1.3.2).
    HostCookieName(String), "^__Host-[A-Za-z0-9_-]+$|\\$\\{", |value| value.clone(),
    |text| match CookieName::read(text) {
        Ok(name) if text.starts_with("__Host-") => Ok(Self(name.0)),
        _ => Err(Fault::expected("a cookie name that starts with __Host-")),
    }
}

word! {
    /// A header sent to a collector.
    CollectorHeader(HeaderName), "^[A-Za-z0-9-]+$|\\$\\{", |value| value.to_string(),
    |text| {
        let name = HeaderName::from_str(text).ok();
        let name = name.filter(|name| !["host", "connection", "content-length", "content-type", "transfer-encoding"].contains(&name.as_str()));
        name.map(Self).ok_or_else(|| Fault::expected("a header name such as authorization, not one of the request's own framing"))
    }
}

/// Which traces that begin here are recorded: so many of a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample(pub(super) u32);

impl Scalar for Sample {
    fn read(text: &str) -> Result<Self, Fault> {
        const WHOLE: u32 = 1_000_000;
        let ratio = |text: &str| {
            let (whole, digits) = text.split_once('.').unwrap_or((text, "0"));
            let ok = matches!(whole, "0" | "1")
                && (1..=6).contains(&digits.len())
                && digits.bytes().all(|byte| byte.is_ascii_digit());
            let of_million = if ok { format!("{whole}{digits:0<6}").parse().ok() } else { None };
            of_million.filter(|many| *many <= WHOLE)
        };
        let many = if text == "parent" { Some(0) } else { ratio(text) };
        many.map(Self).ok_or_else(|| Fault::expected("parent, or a ratio from 0 to 1 such as 0.05"))
    }

    fn write(&self) -> String {
        if self.0 == 0 { "parent".to_owned() } else { format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000) }
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "anyOf": [
            { "type": "number", "minimum": 0, "maximum": 1 },
            { "type": "string", "pattern": "^parent$|\\$\\{" },
        ] })
    }
}
scalar!(Sample);

word! {
    /// A header that carries the request id.
    RequestIdHeader(HeaderName), "^[A-Za-z0-9-]+$|\\$\\{", |value| value.to_string(), |text| request_id_header(text)
}

/// Headers that mean something else.
const TAKEN: [&str; 12] = [
    "authorization",
    "cookie",
    "set-cookie",
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "traceparent",
    "tracestate",
    "location",
    "retry-after",
];

fn request_id_header(text: &str) -> Result<RequestIdHeader, Fault> {
    let name = HeaderName::from_str(text).ok().filter(|_| !text.contains('_'));
    let name = name.ok_or_else(|| Fault::expected("a header name such as x-request-id"))?;
    let lower = name.as_str();
    if TAKEN.contains(&lower) || lower.starts_with("x-gateway-") || lower.starts_with("x-forwarded-") {
        return Err(Fault::expected("a header without another meaning"));
    }
    Ok(RequestIdHeader(name))
}

word! {
    /// A header that says who calls.
    IdentityHeader(HeaderName), "^([Xx]-|[Rr]emote-)[A-Za-z0-9-]+$|\\$\\{", |value| value.to_string(), |text| identity_header(text)
}

fn identity_header(text: &str) -> Result<IdentityHeader, Fault> {
    // Set or read by the gateway itself, or read by services as something else than who calls.
    const OTHERS: [&str; 14] = [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-by",
        "x-forwarded-prefix",
        "x-forwarded-server",
        "x-forwarded-scheme",
        "x-forwarded-ssl",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-request-id",
        "x-http-method",
    ];
    const STARTS: [&str; 3] = ["x-gateway-", "x-original-", "x-http-method-"];
    let name = HeaderName::from_str(text).ok().filter(|_| !text.contains('_'));
    let name = name.filter(|name| name.as_str().starts_with("x-") || name.as_str().starts_with("remote-"));
    let name = name.ok_or_else(|| Fault::expected("a header name that starts with X- or Remote-"))?;
    let lower = name.as_str();
    if OTHERS.contains(&lower) || STARTS.iter().any(|start| lower.starts_with(start)) {
        return Err(Fault::expected("a header without another meaning"));
    }
    Ok(IdentityHeader(name))
}

word! {
    /// A name in a certificate.
    TlsName(ServerName<'static>), "\\S", |value| value.to_str().into_owned(),
    |text| ServerName::try_from(text.to_owned()).map(Self).map_err(|_| Fault::expected("a DNS name or IP address"))
}

word! {
    /// A filter in `tracing`'s words.
    LogFilter(String), "\\S", |value| value.clone(),
    |text| {
        // tracing-subscriber's parser panics on some text that is not ASCII.
        let ok = !text.is_empty() && text.is_ascii() && tracing_subscriber::EnvFilter::builder().parse(text).is_ok();
        kept(ok, text, "a log filter such as info or info,portcullis=debug").map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn suggestion<T: Scalar>(text: &str) -> Option<String> {
        T::read(text).err().expect("refused").suggestion
    }

    #[test]
    fn a_name_cannot_break_out_of_a_label_or_header() {
        for text in ["", "a b", "a\"b", "a\nb", "é", "-a", ".a", "a/b", &"x".repeat(65)] {
            assert!(Name::read(text).is_err(), "{text:?}");
        }
        for text in ["a", "rag-api", "v1.docs_read", "0"] {
            assert!(Name::read(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn trusting_everybody_is_refused() {
        for text in ["0.0.0.0/0", "::/0"] {
            assert!(Network::read(text).unwrap_err().message.starts_with("trusts every address"), "{text}");
        }
        assert_eq!(Network::read("10.0.0.1").unwrap().write(), "10.0.0.1/32");
        assert_eq!(Network::read("fd00::/8").unwrap().write(), "fd00::/8");
        assert_eq!(suggestion::<Network>("10.1.2.3/8").as_deref(), Some("10.0.0.0/8"));
        assert!(Network::read("10.0.0.0/33").is_err());
        assert!(Network::read("nginx").is_err());
    }

    #[test]
    fn hosts_are_exact_and_lower_case() {
        for text in ["example.com", "a-b.example", "127.0.0.1", "[::1]", "localhost"] {
            assert!(Host::read(text).is_ok(), "{text}");
        }
        assert_eq!(suggestion::<Host>("Example.com").as_deref(), Some("example.com"));
        assert_eq!(suggestion::<Host>("example.com:443").as_deref(), Some("example.com"));
        assert_eq!(suggestion::<Host>("https://example.com/x").as_deref(), Some("example.com"));
        for text in ["*.example.com", "", "a..b", "-a.b", "a_b", "a b"] {
            assert!(Host::read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn methods_are_capitals() {
        assert!(HttpMethod::read("GET").is_ok());
        assert!(HttpMethod::read("PROPFIND").is_ok());
        assert_eq!(suggestion::<HttpMethod>("get").as_deref(), Some("GET"));
        for text in ["CONNECT", "TRACE", "", "GE T", "GET,POST"] {
            assert!(HttpMethod::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_cookie_name_forces_secure() {
        assert!(CookieName::read("__Secure-x").is_ok());
        assert!(CookieName::read("__Host-x").is_ok());
        for text in ["session", "__Secure-", "__secure-x", "__Host-a b", "__Host-a;b"] {
            assert!(CookieName::read(text).is_err(), "{text}");
        }
        assert!(HostCookieName::read("__Host-x").is_ok());
        for text in ["x", "__Secure-x", "__host-x", "__Host-", "__Host-a b"] {
            assert!(HostCookieName::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_request_id_header_takes_no_other_meaning() {
        assert!(RequestIdHeader::read("X-Request-Id").is_ok());
        for text in ["authorization", "x-gateway-identity", "x_request_id", "x-forwarded-for", "a b", ""] {
            assert!(RequestIdHeader::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_identity_header_takes_no_other_meaning() {
        for text in ["X-User-Id", "X-Forwarded-User", "Remote-User", "X-WEBAUTH-USER"] {
            assert!(IdentityHeader::read(text).is_ok(), "{text}");
        }
        for text in ["authorization", "host", "X-Gateway-Identity", "x_user", "X-Forwarded-For", "X-Real-IP", ""] {
            assert!(IdentityHeader::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_log_filter_parses() {
        for text in ["info", "info,portcullis=debug", "off"] {
            assert!(LogFilter::read(text).is_ok(), "{text}");
        }
        for text in ["", "portcullis=loud", "a=b=c", "\u{a0}\u{d85}="] {
            assert!(LogFilter::read(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn reading_a_word_never_panics(text in "\\PC{0,32}") {
            let _ = (Name::read(&text), Network::read(&text), Host::read(&text));
            let _ = LogFilter::read(&text);
            let _ = (TlsName::read(&text), HttpMethod::read(&text), Bind::read(&text));
        }
    }
}
