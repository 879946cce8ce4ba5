//! `policy::forwarded`: the client's address is never one that stands left of an address we do not trust.

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis::policy::forwarded::{client_address, header_value, limit_prefix};

/// The bytes as a peer's address and, line by line, values of `X-Forwarded-For`.
pub fn check(data: &[u8]) -> bool {
    let mut all = data.split(|byte| *byte == b'\n').take(50);
    let peer = all.next().and_then(|peer| std::str::from_utf8(peer).ok()?.trim().parse::<IpAddr>().ok());
    let Some(peer) = peer else { return false };
    let values: Vec<&[u8]> = all.collect();
    let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"].map(|net| net.parse().expect("a net")).into();
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address.to_canonical()));

    let found = client_address(peer, values.iter().copied(), &trusted);
    if !is_trusted(peer) {
        assert_eq!(found, Ok(peer.to_canonical()), "a stranger chose its address");
    }
    let Ok(client) = found else { return false };
    assert_eq!(limit_prefix(limit_prefix(client)), limit_prefix(client));
    let written = header_value(client).expect("an address is a header value");
    assert_eq!(written.to_str().expect("text").parse::<IpAddr>(), Ok(client));

    // From the right: all that was passed over is trusted, and the answer is what stands there.
    let mut seen = peer.to_canonical();
    let entries = values.iter().rev().flat_map(|value| value.rsplit(|byte| *byte == b','));
    for entry in entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()) {
        if !is_trusted(seen) {
            break;
        }
        seen = address(entry).expect("an entry that was believed is an address");
    }
    assert_eq!(client, seen);

    // Whatever stands further left changes nothing once somebody untrusted was met.
    if !is_trusted(client) {
        for forged in [&b"6.6.6.6, 10.0.0.1"[..], b"nonsense", b"\xff", b",,,", b"10.9.9.9"] {
            let more: Vec<&[u8]> = [&[forged], &values[..]].concat();
            assert_eq!(client_address(peer, more.iter().copied(), &trusted), Ok(client));
        }
    }
    true
}

/// An address with or without brackets and port, read the plain way.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.split(']').next()).unwrap_or(text);
    let without_port = || text.rsplit_once(':').map_or(text, |(address, _)| address);
    let parsed = bare.parse::<IpAddr>().or_else(|_| without_port().parse::<IpAddr>());
    parsed.ok().map(|address| address.to_canonical())
}
