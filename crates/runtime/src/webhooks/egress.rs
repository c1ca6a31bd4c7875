//! Where requests may go: names are resolved here, and only addresses that are allowed are connected to, so that a name that
//! leads elsewhere at the second look leads nowhere.

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A name leads to no address that may be connected to.
#[derive(Debug, thiserror::Error)]
#[error("{0} has no public address, and other addresses are not allowed (allow_private)")]
pub(super) struct NotPublic(String);

/// Resolves names to public addresses only.
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(NotPublic(name.as_str().to_owned()).into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Whether a URL's host, where it is an address and so is never resolved, may be connected to.
pub(super) fn host_may_be_asked(url: &reqwest::Url) -> bool {
    let address = match url.host() {
        Some(url::Host::Ipv4(address)) => IpAddr::V4(address),
        Some(url::Host::Ipv6(address)) => IpAddr::V6(address),
        Some(url::Host::Domain(_)) => return true,
        None => return false,
    };
    is_public(address)
}

/// Whether a URL can be seen to lead to an address that is not public: it names one, or this machine.
#[must_use]
pub fn names_private_address(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    match url.host() {
        Some(url::Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
        }
        _ => !host_may_be_asked(&url),
    }
}

/// Whether an address is one of the public internet, where a URL that a caller chose may lead.
///
/// Everything else could be a service that trusts its network: this machine, the private ranges, link-local addresses with the
/// metadata services of clouds, and what is reserved (the special-purpose registries of IANA, RFC 6890). An IPv6 address that
/// carries an IPv4 one is judged by that.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match carried(address) {
            Some(inner) => is_public_v4(inner),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match a {
        // "This network", private, this machine, multicast and reserved.
        0 | 10 | 127 | 224..=255 => true,
        // Shared by carriers.
        100 => (64..128).contains(&b),
        169 => b == 254,
        172 => (16..32).contains(&b),
        // Private, protocol assignments, documentation, the old 6to4 relays.
        192 => b == 168 || (b == 0 && (c == 0 || c == 2)) || (b == 88 && c == 99),
        // Benchmarks and documentation.
        198 => b == 18 || b == 19 || (b == 51 && c == 100),
        203 => b == 0 && c == 113,
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    // Only 2000::/3 is given out; in it, protocol assignments (Teredo too) and documentation are not public.
    let global = first & 0xe000 == 0x2000;
    let special = (first == 0x2001 && (second < 0x0200 || second == 0x0db8)) || first == 0x3fff;
    global && !special
}

/// The IPv4 address in a mapped, compatible, translated (RFC 6052) or 6to4 address.
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let of = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => Some(of(high, low)),
        [0x0064, 0xff9b, 0, 0, 0, 0, high, low] => Some(of(high, low)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_a_url_is_judged_however_it_is_written() {
        let may = |text: &str| host_may_be_asked(&reqwest::Url::parse(text).unwrap());
        for text in ["http://1.1.1.1/x", "https://example.com", "https://[2606:4700::1111]/"] {
            assert!(may(text), "{text}");
        }
        // The last ones are 127.0.0.1 to every parser of URLs.
        for text in [
            "http://127.0.0.1:9/",
            "http://[::1]/",
            "http://169.254.169.254/latest",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://127.1/",
        ] {
            assert!(!may(text), "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_machine_resolves_to_nothing() {
        let refused = PublicOnly.resolve("localhost".parse().unwrap()).await.err().unwrap().to_string();
        assert!(refused.starts_with("localhost has no public address"), "{refused}");
    }

    #[test]
    fn a_url_that_names_this_machine_or_network_is_seen() {
        for (url, private) in [
            ("http://localhost:9/x", true),
            ("http://LOCALHOST./x", true),
            ("http://a.localhost/", true),
            ("http://127.0.0.1/", true),
            ("http://[::1]:8/", true),
            ("http://10.1.2.3/", true),
            ("http://1.1.1.1/", false),
            ("http://localhost.example/", false),
            ("https://hooks.example/", false),
        ] {
            assert_eq!(names_private_address(url), private, "{url}");
        }
    }

    #[test]
    fn only_the_public_internet_is_public() {
        let public = [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.51.101.1",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2002:101:101::1",
            "2001:4860::1",
        ];
        let special = [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.9.9",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::7f00:1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "2002:7f00:1::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "3fff::1",
            "100::1",
        ];
        for text in public {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        for text in special {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }
}
