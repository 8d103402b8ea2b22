//! The three kinds of policies.

use serde::de::DeserializeOwned;

use crate::{Fault, Manifest, expiry, quota, route};

/// Which upstreams, and in which order. Exported by [`export_route!`](crate::export_route).
pub trait RoutePolicy: 'static {
    /// What the policy says of itself.
    const MANIFEST: Manifest;
    /// A binding's settings. Deny unknown fields, so that a misspelt one is refused when it is bound.
    type Settings: DeserializeOwned;

    /// Checks what the type alone cannot say. All that is wrong at once.
    ///
    /// # Errors
    ///
    /// What is wrong with the settings; they are then not bound.
    fn configure(_settings: &Self::Settings) -> Result<(), Vec<Fault>> {
        Ok(())
    }

    /// Decides on one request. The picks are candidates of the input, and none twice.
    ///
    /// # Errors
    ///
    /// That it cannot decide: the binding's `on_fault` applies.
    fn decide(settings: &Self::Settings, input: &route::Input) -> Result<route::Output, Fault>;
}

/// How much may be used. Exported by [`export_quota!`](crate::export_quota).
pub trait QuotaPolicy: 'static {
    /// What the policy says of itself; it is given the meters that this lists.
    const MANIFEST: Manifest;
    /// A binding's settings. Deny unknown fields, so that a misspelt one is refused when it is bound.
    type Settings: DeserializeOwned;

    /// Checks what the type alone cannot say. All that is wrong at once.
    ///
    /// # Errors
    ///
    /// What is wrong with the settings; they are then not bound.
    fn configure(_settings: &Self::Settings) -> Result<(), Vec<Fault>> {
        Ok(())
    }

    /// Decides on one request. The host counts; a policy compares.
    ///
    /// # Errors
    ///
    /// That it cannot decide: the binding's `on_fault` applies.
    fn decide(settings: &Self::Settings, input: &quota::Input) -> Result<quota::Output, Fault>;
}

/// Until when a key is good. Exported by [`export_expiry!`](crate::export_expiry).
pub trait ExpiryPolicy: 'static {
    /// What the policy says of itself.
    const MANIFEST: Manifest;
    /// A binding's settings. Deny unknown fields, so that a misspelt one is refused when it is bound.
    type Settings: DeserializeOwned;

    /// Checks what the type alone cannot say. All that is wrong at once.
    ///
    /// # Errors
    ///
    /// What is wrong with the settings; they are then not bound.
    fn configure(_settings: &Self::Settings) -> Result<(), Vec<Fault>> {
        Ok(())
    }

    /// Decides whether a key is good now, and until when.
    ///
    /// # Errors
    ///
    /// That it cannot decide: the binding's `on_fault` applies.
    fn decide(settings: &Self::Settings, input: &expiry::Input) -> Result<expiry::Output, Fault>;
}
