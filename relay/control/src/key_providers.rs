//! The providers' side of rotations: where keys are made and taken away by request, and when that is due.
//!
//! A key that is made here is named after its rotation. So whoever asks again, after a crash in between, finds what was made and not delivered, and
//! takes it away before another one is made: no key stays there that nobody knows. The log makes sure that one node asks at a time.

mod adapter;
mod definition;
mod schedule;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemas::upstream::Upstream;
use schemas::{RotationId, TenantId, name};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::oauth::{TokenClient, TokenError};
use adapter::Adapter;

pub use definition::{KeyProviderDefinition, KeyProviderError, ScheduleDefinition, ScheduleError};
pub(crate) use schedule::{GRACE_SECONDS_DEFAULT, Schedule, window_default};

/// The providers and the schedules that the configuration names. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct KeyProviders {
    providers: BTreeMap<String, Arc<KeyProvider>>,
    schedules: Vec<Arc<Schedule>>,
}

/// One provider, and the upstreams whose keys it makes.
pub(crate) struct KeyProvider {
    pub(crate) name: String,
    tenant: TenantId,
    upstreams: Vec<String>,
    adapter: Adapter,
}

/// What a key is made for.
pub(crate) struct KeyRequest<'a> {
    pub(crate) rotation: RotationId,
    pub(crate) upstream: &'a Upstream,
    /// The present time, in seconds.
    pub(crate) now: u64,
}

/// What came of a request for a key.
pub(crate) enum Made {
    Key {
        secret: Zeroizing<String>,
        /// The provider's id of it.
        key: Option<String>,
    },
    /// It is brought later, by whoever was asked.
    Later,
}

/// Why a provider did not do what it was asked.
#[derive(Debug, Error)]
pub(crate) enum ProviderError {
    #[error("the provider could not be asked")]
    Call(#[from] TokenError),
    #[error("the provider answers {0}")]
    Status(u16),
    #[error("the provider's answer lacks {0}")]
    Lacks(&'static str),
    #[error("the address of the provider is none")]
    Address,
}

impl fmt::Debug for KeyProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyProvider").field("name", &self.name).finish_non_exhaustive()
    }
}

impl KeyProviders {
    /// Adds a provider.
    pub fn define(&mut self, name: &str, definition: KeyProviderDefinition) -> Result<(), KeyProviderError> {
        self.providers.insert(name.to_owned(), Arc::new(definition.provider(name)?));
        Ok(())
    }

    /// Adds a schedule.
    pub fn schedule(&mut self, name: &str, definition: ScheduleDefinition) -> Result<(), ScheduleError> {
        self.schedules.push(Arc::new(definition.schedule(name)?));
        Ok(())
    }

    /// The provider of an upstream's keys: the first by name that says so.
    pub(crate) fn of(&self, upstream: &Upstream) -> Option<&Arc<KeyProvider>> {
        self.providers.values().find(|provider| provider.makes_for(upstream))
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Arc<KeyProvider>> {
        self.providers.get(name)
    }

    /// The schedule that an upstream's secret is on: of several the shortest. A risk class counts by itself unless a schedule here is for it.
    pub(crate) fn schedule_of(&self, upstream: &Upstream, pool: Option<&str>) -> Option<Arc<Schedule>> {
        let provider = self.of(upstream).map(|provider| provider.name.as_str());
        let preset = upstream.risk().filter(|risk| self.schedules.iter().all(|schedule| !schedule.is_for(*risk))).map(Schedule::preset);
        let fitting = self.schedules.iter().filter(|schedule| schedule.fits(upstream, pool, provider)).cloned();
        fitting.chain(preset.map(Arc::new)).min_by_key(|schedule| schedule.every_seconds)
    }
}

impl KeyProvider {
    fn makes_for(&self, upstream: &Upstream) -> bool {
        self.tenant == upstream.tenant && self.upstreams.iter().any(|pattern| name::matches(pattern, &upstream.details.name))
    }

    /// Whether people bring the keys, so that there is nobody to ask.
    pub(crate) const fn is_by_hand(&self) -> bool {
        matches!(self.adapter, Adapter::Anthropic { .. } | Adapter::Paste)
    }

    /// Whether the provider can be asked which of its keys a secret belongs to.
    pub(crate) const fn identifies(&self) -> bool {
        matches!(self.adapter, Adapter::Anthropic { .. })
    }

    /// Asks for a key. Asking again for the same rotation is safe.
    pub(crate) async fn make(&self, client: &TokenClient, request: &KeyRequest<'_>) -> Result<Made, ProviderError> {
        self.adapter.make(client, request).await
    }

    /// Takes a key away. One that is gone already is fine.
    pub(crate) async fn retire(&self, client: &TokenClient, key: &str, request: &KeyRequest<'_>) -> Result<(), ProviderError> {
        self.adapter.retire(client, key, request).await
    }

    /// What the provider calls the key with a secret, if exactly one of its keys can be it.
    pub(crate) async fn identify(&self, client: &TokenClient, secret: &str) -> Result<Option<String>, ProviderError> {
        self.adapter.identify(client, secret).await
    }
}
