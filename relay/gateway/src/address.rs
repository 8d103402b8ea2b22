//! Which addresses an upstream may stand on: public unicast, unless an operator allows private ones; and what is told of a client's.
//!
//! The check is made where a connection is opened, on the very address that is dialled, so a name that resolves differently a
//! moment later (DNS rebinding) gains nothing. Literal addresses never pass a resolver and are checked on their own, see
//! [`forbids_literal`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};
use std::vec;

use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use schemas::usage::AddressClass;
use thiserror::Error;
use tower::Service;

/// Where a connection to the relay comes from; the listener puts it among a request's extensions. Nothing but its class leaves the request.
#[derive(Clone, Copy)]
pub struct ClientAddress(pub IpAddr);

impl ClientAddress {
    pub(crate) fn class(&self) -> AddressClass {
        let address = self.0.to_canonical();
        if address.is_loopback() {
            AddressClass::Loopback
        } else if is_public(address) {
            AddressClass::Public
        } else {
            AddressClass::Private
        }
    }
}

/// Azure answers its metadata on a public address.
const AZURE_METADATA: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Whether the address is one that the public internet routes to a single host.
pub(crate) fn is_public(address: IpAddr) -> bool {
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
pub(crate) fn forbids_literal(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let without_zone = bare.split('%').next().unwrap_or(bare);
    without_zone.parse::<IpAddr>().is_ok_and(|address| !is_public(address))
}

#[derive(Debug, Error)]
pub(crate) enum ResolveError {
    #[error("the name could not be resolved")]
    Resolve(#[source] std::io::Error),
    #[error("the name resolves to private addresses only, which relay.allow_private_upstreams would allow")]
    Private,
}

/// The system's resolver, whose answers pass the check.
#[derive(Clone)]
pub(crate) struct Resolver {
    system: GaiResolver,
    allow_private: bool,
}

impl Resolver {
    pub(crate) fn new(allow_private: bool) -> Self {
        Self { system: GaiResolver::new(), allow_private }
    }
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = BoxFuture<'static, Result<Self::Response, ResolveError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ResolveError>> {
        self.system.poll_ready(context).map_err(ResolveError::Resolve)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (addresses, allow_private) = (self.system.call(name), self.allow_private);
        Box::pin(async move {
            let found = addresses.await.map_err(ResolveError::Resolve)?;
            let allowed: Vec<_> = found.filter(|address| allow_private || is_public(address.ip())).collect();
            if allowed.is_empty() { Err(ResolveError::Private) } else { Ok(allowed.into_iter()) }
        })
    }
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
