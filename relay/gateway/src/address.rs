//! Which addresses an upstream may stand on: public unicast, unless an operator allows private ones; and what is told of a client's.
//!
//! The check is made where a connection is opened, see [`schemas::address`].

use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};
use std::vec;

use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
pub(crate) use schemas::address::{forbids_literal, is_public};
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
