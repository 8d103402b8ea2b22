//! Which addresses the public internet routes to a single host: what may be dialled where an operator does not allow more.
//!
//! Whoever opens connections checks the very address that is dialled, so a name that resolves differently a moment later (DNS rebinding)
//! gains nothing. Literal addresses never pass a resolver and are checked on their own, see [`forbids_literal`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Azure answers its metadata on a public address.
const AZURE_METADATA: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Whether the address is one that the public internet routes to a single host.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let reserved = match (a, b, c) {
        // This network, loopback, multicast, reserved and broadcast.
        (0 | 127 | 224.., ..) => true,
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => true,
        // Carrier-grade NAT (also Alibaba's metadata), link-local (metadata of most clouds).
        (100, 64..=127, _) | (169, 254, _) => true,
        // Protocol assignments (Oracle's metadata), documentation, 6to4 relays, benchmarks.
        (192, 0, 0 | 2) | (192, 88, 99) | (198, 18..=19, _) | (198, 51, 100) | (203, 0, 113) => true,
        _ => false,
    };
    !reserved && address != AZURE_METADATA
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    match segments {
        // Addresses that carry an IPv4 one: mapped, NAT64, 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
        }
        // Protocol assignments with Teredo, documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Of the rest only global unicast is routed.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// Whether the host of a URL is an address literal that may not be dialled. A name, or a spelling that only a resolver reads as an
/// address (`0x7f.1`, `2130706433`), is left to the resolver.
pub fn forbids_literal(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let without_zone = bare.split('%').next().unwrap_or(bare);
    without_zone.parse::<IpAddr>().is_ok_and(|address| !is_public(address))
}
