//! URLs as the file writes them: the issuer, endpoints, origins. None may hold a user or password.

use std::{borrow::Cow, net::IpAddr, str::FromStr};

use http::{Uri, uri::Authority};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    errors::Fault,
    paths::is_canonical,
    scalar::{Scalar, scalar},
    settings::Endpoint,
    words::{kept, word},
};
use crate::policy::foreign::ClaimPath;

/// An `http` or `https` URL, split; without user, password, query and fragment.
struct HttpUrl {
    https: bool,
    authority: Authority,
    path: String,
}

fn http_url(text: &str) -> Option<HttpUrl> {
    let uri = Uri::from_str(text).ok()?;
    let https = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let authority = uri.authority()?.clone();
    let clean = !text.contains(['@', '?', '#']) && !authority.host().is_empty();
    // `Authority` takes a port it cannot parse.
    let port_ok = authority.as_str() == authority.host() || authority.port_u16().is_some_and(|port| port > 0);
    (clean && port_ok).then(|| HttpUrl { https, path: uri.path().to_owned(), authority })
}

/// A host that never leaves this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

word! {
    /// An issuer: an https URL (http on loopback) that is compared byte for byte.
    Issuer(String), "^https?://|\\$\\{", |value| value.clone(), |text| issuer(text)
}

fn issuer(text: &str) -> Result<Issuer, Fault> {
    let expected = "a URL such as https://auth.example.com, without query, fragment, user or password";
    let url = http_url(text).ok_or_else(|| Fault::expected(expected))?;
    if let Some(bare) = text.strip_suffix('/') {
        return Err(Fault::expected("an issuer without a trailing slash").suggest(bare));
    }
    if !url.https && !is_loopback(url.authority.host()) {
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        return Err(Fault::expected("https (http only on a loopback host)").suggest(format!("https://{rest}")));
    }
    if url.path != "/" && !is_canonical(&url.path) {
        return Err(Fault::expected(expected));
    }
    Ok(Issuer(text.to_owned()))
}

word! {
    /// One endpoint of a cluster.
    EndpointUrl(Endpoint), "^https?://|\\$\\{",
    |value| format!("{}://{}", if value.https { "https" } else { "http" }, value.authority),
    |text| endpoint(text)
}

fn endpoint(text: &str) -> Result<EndpointUrl, Fault> {
    let fault = || Fault::expected("a URL such as http://10.0.0.5:8000: scheme, host and port, nothing else");
    let url = http_url(text).ok_or_else(fault)?;
    if url.path != "/" {
        let bare = format!("{}://{}", if url.https { "https" } else { "http" }, url.authority);
        return Err(Fault::expected("an endpoint without a path (a route's rewrite changes paths)").suggest(bare));
    }
    let port = url.authority.port_u16().unwrap_or(if url.https { 443 } else { 80 });
    let authority = Authority::from_str(&format!("{}:{port}", url.authority.host())).map_err(|_| fault())?;
    Ok(EndpointUrl(Endpoint { https: url.https, authority }))
}

word! {
    /// A web origin as browsers serialize it (RFC 6454 §6.1).
    Origin(String), "^https?://[^/]+$|\\$\\{", |value| value.clone(), |text| origin(text)
}

fn origin(text: &str) -> Result<Origin, Fault> {
    let fault = Fault::expected("an origin such as https://app.example.com: scheme and host in lower case, no path");
    let Some(url) = http_url(text) else { return Err(fault) };
    let default_port = if url.https { 443 } else { 80 };
    let host = url.authority.host().to_ascii_lowercase();
    let scheme = if url.https { "https" } else { "http" };
    let serialized = match url.authority.port_u16() {
        Some(port) if port != default_port => format!("{scheme}://{host}:{port}"),
        _ => format!("{scheme}://{host}"),
    };
    if serialized == text { Ok(Origin(serialized)) } else { Err(fault.suggest(serialized)) }
}

word! {
    /// Where an issuer publishes its keys.
    KeysUrl(Uri), "^https?://|\\$\\{", |value| value.to_string(),
    |text| keys_url(text).map(KeysUrl).ok_or_else(|| {
        Fault::expected("an https URL without user and password (http only on a loopback address)")
    })
}

/// A URL that keys may be fetched from: https, or http where nobody can be in between (a loopback address, not a name).
pub(super) fn keys_url(text: &str) -> Option<Uri> {
    let uri = Uri::from_str(text).ok()?;
    let url = http_url(text.split('?').next()?)?;
    let literal = url.authority.host().trim_matches(['[', ']']).parse::<IpAddr>();
    let safe = url.https || literal.is_ok_and(|address| address.is_loopback());
    (safe && !text.contains(['@', '#'])).then_some(uri)
}

word! {
    /// Where a collector takes traces.
    CollectorUrl(Uri), "^https?://|\\$\\{", |value| value.to_string(),
    |text| {
        let url = http_url(text).and_then(|_| Uri::from_str(text).ok());
        url.map(Self).ok_or_else(|| {
            Fault::expected("a URL such as http://collector:4318/v1/traces, without user, password and query")
        })
    }
}

word! {
    /// The way to a claim; see [`ClaimPath`].
    ClaimName(String), "\\S", |value| value.clone(),
    |text| {
        let ok = text.len() <= 256 && !text.contains(char::is_control) && ClaimPath::parse(text).is_some();
        kept(ok, text, "the way to a claim such as realm_access.roles, https://example.com/roles or /a/b").map(Self)
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
    fn an_issuer_is_https_unless_it_stays_here() {
        for text in [
            "https://auth.example.com",
            "http://127.0.0.1:8080",
            "http://localhost:80",
            "http://[::1]:1",
            "https://a.example/t",
        ] {
            assert!(Issuer::read(text).is_ok(), "{text}");
        }
        assert_eq!(suggestion::<Issuer>("http://auth.example.com").as_deref(), Some("https://auth.example.com"));
        assert_eq!(suggestion::<Issuer>("https://a.example/").as_deref(), Some("https://a.example"));
        for text in [
            "",
            "a.example",
            "ftp://a.example",
            "https://u:p@a.example",
            "https://a.example?x",
            "https://a#b",
            "https://",
        ] {
            assert!(Issuer::read(text).is_err(), "{text}");
        }
        assert!(Issuer::read("http://localhost.evil.example").is_err());
    }

    #[test]
    fn an_endpoint_always_has_a_port() {
        assert_eq!(EndpointUrl::read("http://rag").unwrap().write(), "http://rag:80");
        assert_eq!(EndpointUrl::read("https://rag").unwrap().write(), "https://rag:443");
        assert_eq!(EndpointUrl::read("http://[::1]:8000").unwrap().write(), "http://[::1]:8000");
        assert_eq!(suggestion::<EndpointUrl>("http://rag:8000/api").as_deref(), Some("http://rag:8000"));
        for text in ["rag:8000", "http://", "http://rag:0", "http://rag:99999", "http://u:p@rag", "unix:/x"] {
            assert!(EndpointUrl::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_origin_is_what_browsers_send() {
        assert!(Origin::read("https://app.example.com").is_ok());
        assert!(Origin::read("http://localhost:3000").is_ok());
        assert_eq!(suggestion::<Origin>("https://App.example.com/").as_deref(), Some("https://app.example.com"));
        assert_eq!(suggestion::<Origin>("https://a.example:443").as_deref(), Some("https://a.example"));
        for text in ["*", "null", "app.example.com"] {
            assert!(Origin::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_fetched_over_https_unless_from_a_loopback_address() {
        for text in ["https://a.example/jwks?x=1", "http://127.0.0.1:1/jwks", "http://[::1]:8080/", "https://10.0.0.1/"]
        {
            assert!(KeysUrl::read(text).is_ok(), "{text}");
        }
        for text in
            ["http://a.example", "http://localhost:1/", "http://10.0.0.1/", "https://u:p@a/", "/jwks", "ftp://a", ""]
        {
            assert!(KeysUrl::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn loopback_is_only_loopback() {
        for host in ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "app.localhost"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["127.0.0.1.example", "localhost.example", "10.0.0.1", "[::2]", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    proptest! {
        #[test]
        fn reading_a_url_never_panics(text in "(https?://)?\\PC{0,32}") {
            let _ = (Issuer::read(&text), EndpointUrl::read(&text), Origin::read(&text));
        }

        #[test]
        fn no_url_holds_a_password(text in "https?://[a-z:@]{1,12}/?") {
            if text.contains('@') {
                prop_assert!(Issuer::read(&text).is_err());
                prop_assert!(EndpointUrl::read(&text).is_err());
                prop_assert!(Origin::read(&text).is_err());
            }
        }
    }
}
