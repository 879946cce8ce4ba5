//! `policy::head`: a head that passes names one host, has one framing and nominates nothing but what is of one hop.

use http::{HeaderMap, Method, Uri, Version};
use portcullis::policy::head::{check as check_head, host_of};

use super::lines;

/// The bytes as `METHOD target 1.1` (or `1.0`, `2`) and header lines.
pub fn check(data: &[u8]) -> bool {
    let line = data.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let headers = lines::headers(&data[line.len()..]);
    let Ok(line) = std::str::from_utf8(line) else { return false };
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = words[..] else { return false };
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method.as_bytes()), target.parse::<Uri>()) else { return false };
    let version = match version {
        "1.0" => Version::HTTP_10,
        "2" => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    if check_head(&method, &uri, version, &headers).is_err() {
        return false;
    }
    assert!(uri.scheme_str().is_none_or(|scheme| ["http", "https"].contains(&&*scheme.to_ascii_lowercase())));
    assert!(method != Method::CONNECT && method != Method::TRACE);
    assert_one_host(&uri, version, &headers);
    assert!(headers.keys().all(|name| !name.as_str().contains('_')));
    for name in ["host", "authorization", "content-length", "content-type", "origin", "transfer-encoding"] {
        assert!(headers.get_all(name).iter().count() <= 1, "{name} twice");
    }
    if let Some(length) = headers.get("content-length").map(|length| length.to_str().expect("text")) {
        assert!(length == "0" || !length.starts_with(['0', '+', '-', ' ']) && !length.is_empty(), "{length}");
    }
    let coding = headers.get("transfer-encoding");
    assert!(coding.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")), "{coding:?}");
    for value in headers.get_all("connection") {
        for option in value.to_str().expect("text").split(',').map(str::trim) {
            // What would be removed on the way, if it were nominated, and is meant for the service.
            let lower = option.to_ascii_lowercase().replace('_', "-");
            let guards = ["authorization", "cookie", "host", "content-length", "transfer-encoding", "forwarded"];
            assert!(!guards.contains(&&*lower) && !lower.starts_with("x-"), "{option} is nominated");
        }
    }
    true
}

fn assert_one_host(uri: &Uri, version: Version, headers: &HeaderMap) {
    let header = headers.get("host").map(|host| host.to_str().expect("text").to_ascii_lowercase());
    let authority = uri.authority().map(|authority| authority.as_str().to_ascii_lowercase());
    assert!(header.is_some() || version == Version::HTTP_2, "HTTP/1 without Host");
    if let (Some(one), Some(other)) = (&header, &authority) {
        assert_eq!(one, other);
    }
    let asked = header.or(authority).expect("a host");
    let host = host_of(uri, headers).expect("a host to match routes by").to_ascii_lowercase();
    assert!(asked.starts_with(&host) && !host.is_empty() && !host.ends_with('.'), "{asked} is matched as {host}");
    let rest = &asked[host.len()..];
    let port = rest.strip_prefix('.').unwrap_or(rest);
    assert!(port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()), "{asked}");
    assert!(!asked.contains(['@', '/', '\\', '?', '#', '%', ',', ' ']), "{asked}");
}
