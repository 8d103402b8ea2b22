//! What the exported functions call: it parses settings, asks the policy, and turns what is wrong into faults.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use crate::bindings::expiry::exports::keyrelay::policy::expiry_policy::Guest as ExpiryGuest;
use crate::bindings::quota::exports::keyrelay::policy::quota_policy::Guest as QuotaGuest;
use crate::bindings::route::exports::keyrelay::policy::route_policy::Guest as RouteGuest;
use crate::bindings::setup::exports::keyrelay::policy::setup::Guest as SetupGuest;
use crate::{ExpiryPolicy, Fault, Kind, QuotaPolicy, RoutePolicy, expiry, quota, route};

/// The code of a fault over settings that do not parse. The host keeps such settings from being bound, so `decide` never sees them.
const SETTINGS: &str = "settings.invalid";

/// A route policy, as the contract sees it.
pub struct Route<P>(PhantomData<P>);

/// A quota policy, as the contract sees it.
pub struct Quota<P>(PhantomData<P>);

/// An expiry policy, as the contract sees it.
pub struct Expiry<P>(PhantomData<P>);

/// Does nothing but to ask for the implementation, so that a native build checks it.
pub const fn is_exported<T: SetupGuest>() {}

fn parse<S: DeserializeOwned>(settings: &str) -> Result<S, Fault> {
    serde_json::from_str(settings).map_err(|error| Fault { code: SETTINGS.to_owned(), detail: error.to_string() })
}

macro_rules! guest {
    ($guest:ident, $exports:ident, $policy:ident, $module:ident, $kind:expr) => {
        impl<P: $policy> SetupGuest for $guest<P> {
            fn describe() -> String {
                const { assert!(P::MANIFEST.kind.is($kind), "the manifest is for another kind of policy") };
                P::MANIFEST.to_json()
            }

            fn configure(settings: String) -> Result<(), Vec<Fault>> {
                let settings = parse(&settings).map_err(|fault| vec![fault])?;
                P::configure(&settings)
            }
        }

        impl<P: $policy> $exports for $guest<P> {
            fn decide(input: $module::Input) -> Result<$module::Output, Fault> {
                P::decide(&parse(&input.settings)?, &input)
            }
        }
    };
}

guest!(Route, RouteGuest, RoutePolicy, route, Kind::Route);
guest!(Quota, QuotaGuest, QuotaPolicy, quota, Kind::Quota);
guest!(Expiry, ExpiryGuest, ExpiryPolicy, expiry, Kind::Expiry);
