//! The client's address: whom to count and log, found through proxies that are trusted.
//!
//! `X-Forwarded-For` is a list to which each proxy appends the peer it saw. Read from the right, an entry can be
//! believed as long as everything right of it, the peer first, is a trusted proxy; the first address that is not one
//! is the client. What stands left of it is whatever the client liked to write and is never looked at.

use std::net::{IpAddr, Ipv6Addr};

use http::HeaderValue;
use ipnet::IpNet;

use crate::policy::reason::Reason;

/// A trusted proxy sent an entry that is no address.
///
/// Refused (400) rather than skipped: skipping would let a client choose what we see (the next entry is its own), and
/// falling back to the proxy's address would let one client use up the limit of everyone behind that proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the X-Forwarded-For header holds an entry that is no address")]
pub struct ForwardedFault;

impl ForwardedFault {
    /// The label for body, log and metrics.
    #[must_use]
    pub const fn reason(self) -> Reason {
        Reason::HeaderInvalid
    }
}

/// The client's address. `forwarded_for` are the values of `X-Forwarded-For` in the order they came.
///
/// An untrusted peer is the client, whatever it sent. When every entry is a trusted proxy, the leftmost is the
/// client. Ports and brackets are tolerated, empty entries skipped (RFC 9110 §5.6.1.2), IPv4-mapped addresses are
/// their IPv4 selves.
pub fn client_address<'a, V>(
    peer: IpAddr,
    forwarded_for: impl DoubleEndedIterator<Item = &'a V>,
    trusted: &[IpNet],
) -> Result<IpAddr, ForwardedFault>
where
    V: AsRef<[u8]> + ?Sized + 'a,
{
    let mut client = peer.to_canonical();
    let entries = forwarded_for.rev().flat_map(|value| value.as_ref().rsplit(|byte| *byte == b','));
    for entry in entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()) {
        if !is_trusted(client, trusted) {
            break;
        }
        client = parse(entry).ok_or(ForwardedFault)?;
    }
    Ok(client)
}

/// Whether an address lies in one of these networks, whichever way either is written.
#[must_use]
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| {
        let mapped = |address: std::net::Ipv4Addr| net.contains(&IpAddr::V6(address.to_ipv6_mapped()));
        net.contains(&address) || matches!(address, IpAddr::V4(address) if mapped(address))
    })
}

/// `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]`, `[::1]:5`.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?;
    let (address, port) = if let Some(rest) = entry.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        (IpAddr::V6(address.parse().ok()?), port)
    } else if let Ok(address) = entry.parse::<IpAddr>() {
        (address, "")
    } else {
        let (address, port) = entry.split_at(entry.find(':')?);
        (IpAddr::V4(address.parse().ok()?), port)
    };
    let port_ok = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok(),
    };
    port_ok.then(|| address.to_canonical())
}

/// The address as a header value. An IPv4 address is written digit by digit: it is made for every request.
#[must_use]
pub fn header_value(address: IpAddr) -> Option<HeaderValue> {
    let IpAddr::V4(address) = address else { return HeaderValue::try_from(address.to_string()).ok() };
    let (mut text, mut len) = ([0; 15], 0);
    for (place, octet) in address.octets().into_iter().enumerate() {
        let digits = [b'0' + octet / 100, b'0' + octet / 10 % 10, b'0' + octet % 10];
        let leading = usize::from(octet < 100) + usize::from(octet < 10);
        for byte in (place > 0).then_some(b'.').into_iter().chain(digits.into_iter().skip(leading)) {
            text[len] = byte;
            len += 1;
        }
    }
    HeaderValue::from_bytes(&text[..len]).ok()
}

/// The address limits count by: an IPv4 address itself, of an IPv6 address the /64, which is what one customer gets
/// (RFC 6177): counting single addresses would count nothing.
#[must_use]
pub fn limit_prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (!0 << 64))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn client(peer: &str, values: &[&str]) -> Result<IpAddr, ForwardedFault> {
        client_address(ip(peer), values.iter().copied(), &nets(&["10.0.0.0/8", "fd00::/8"]))
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_claims() {
        assert_eq!(client("203.0.113.9", &["1.1.1.1"]), Ok(ip("203.0.113.9")));
        assert_eq!(client("203.0.113.9", &["garbage"]), Ok(ip("203.0.113.9")));
    }

    #[test]
    fn an_address_is_written_as_rust_writes_it() {
        for v6 in ["::1", "2001:db8::7"] {
            assert_eq!(header_value(ip(v6)).unwrap(), v6);
        }
        for octet in 0..=u8::MAX {
            let address = IpAddr::from([octet, 255 - octet, 7, octet]);
            assert_eq!(header_value(address).unwrap(), address.to_string());
        }
    }

    #[test]
    fn nobody_is_trusted_by_default() {
        assert_eq!(client_address(ip("10.0.0.1"), ["1.1.1.1"].into_iter(), &[]), Ok(ip("10.0.0.1")));
    }

    #[test]
    fn the_first_untrusted_address_from_the_right_is_the_client() {
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 198.51.100.7, 10.0.0.2"]), Ok(ip("198.51.100.7")));
        assert_eq!(client("10.0.0.1", &["6.6.6.6", "198.51.100.7", "10.0.0.2"]), Ok(ip("198.51.100.7")));
        assert_eq!(client("fd00::1", &["2001:db8::7"]), Ok(ip("2001:db8::7")));
    }

    #[test]
    fn what_a_client_prepends_is_never_believed() {
        assert_eq!(client("10.0.0.1", &["10.0.0.9, 198.51.100.7"]), Ok(ip("198.51.100.7")));
        assert_eq!(client("10.0.0.1", &["garbage, \u{7f}, 198.51.100.7"]), Ok(ip("198.51.100.7")));
    }

    #[test]
    fn proxies_all_the_way_make_the_leftmost_the_client() {
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), Ok(ip("10.0.0.3")));
    }

    #[test]
    fn a_trusted_peer_without_the_header_is_the_client() {
        assert_eq!(client("10.0.0.1", &[]), Ok(ip("10.0.0.1")));
        assert_eq!(client("10.0.0.1", &["", " , "]), Ok(ip("10.0.0.1")));
    }

    #[test]
    fn garbage_from_a_trusted_proxy_is_refused() {
        for odd in [
            "unknown",
            "_hidden",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.4:",
            "1.2.3.4:x",
            "1.2.3.4:70000",
            "[::1",
            "[1.2.3.4]",
            "[::1]x",
            "fe80::1%eth0",
            "::1:99999",
            "\"1.2.3.4\"",
            "for=1.2.3.4",
            "1.2.3.4 5.6.7.8",
            "01.2.3.4",
        ] {
            assert_eq!(client("10.0.0.1", &[odd]), Err(ForwardedFault), "{odd}");
        }
    }

    #[test]
    fn ports_and_brackets_are_tolerated() {
        for (entry, expected) in [
            ("198.51.100.7:1234", "198.51.100.7"),
            ("[2001:db8::7]:1234", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            (" 2001:db8::7\t", "2001:db8::7"),
        ] {
            assert_eq!(client("10.0.0.1", &[entry]), Ok(ip(expected)), "{entry}");
        }
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_self() {
        assert_eq!(client("::ffff:10.0.0.1", &["::ffff:198.51.100.7"]), Ok(ip("198.51.100.7")));
        let mapped = nets(&["::ffff:10.0.0.0/104"]);
        assert_eq!(client_address(ip("10.0.0.1"), ["1.1.1.1"].into_iter(), &mapped), Ok(ip("1.1.1.1")));
    }

    #[test]
    fn limits_count_a_64_of_ipv6_as_one() {
        assert_eq!(limit_prefix(ip("2001:db8:1:2:3:4:5:6")), ip("2001:db8:1:2::"));
        assert_eq!(limit_prefix(ip("198.51.100.7")), ip("198.51.100.7"));
        assert_eq!(limit_prefix(ip("::ffff:198.51.100.7")), ip("198.51.100.7"));
    }

    proptest! {
        #[test]
        fn no_header_ever_panics(values in prop::collection::vec("[0-9a-f.:, \\[\\]x]{0,30}", 0..4)) {
            let _ = client_address(ip("10.0.0.1"), values.iter().map(String::as_str), &nets(&["0.0.0.0/0", "::/0"]));
        }

        #[test]
        fn nothing_a_client_sends_changes_what_an_honest_proxy_saw(forged in "[0-9a-f.:, x]{0,30}", seen in any::<[u8; 4]>()) {
            let seen = IpAddr::from(seen);
            prop_assume!(!is_trusted(seen, &nets(&["10.0.0.0/8"])));
            let value = format!("{forged}, {seen}");
            prop_assert_eq!(client("10.0.0.1", &[&value]), Ok(seen));
        }
    }
}
