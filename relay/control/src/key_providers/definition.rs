//! Providers and schedules as the configuration defines them.

use std::path::PathBuf;

use schemas::credential::rotation::{GRACE_SECONDS_MAX, WINDOW_SECONDS_MAX};
use schemas::upstream::RiskClass;
use schemas::{DurationText, TenantId};
use serde::Deserialize;
use thiserror::Error;
use url::Url;
use vault::files::{self, ReadSecretError};
use zeroize::Zeroizing;

use super::KeyProvider;
use super::adapter::Adapter;
use super::schedule::{GRACE_SECONDS_DEFAULT, Schedule, Window, window_default};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyProviderKind {
    Openai,
    Anthropic,
    Webhook,
    Paste,
}

/// A table of `[rotation.providers]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyProviderDefinition {
    pub kind: KeyProviderKind,
    /// Patterns of the names of upstreams.
    pub upstreams: Vec<String>,
    pub tenant: Option<String>,
    /// Where it is asked: by default the provider's own address.
    pub url: Option<Url>,
    /// A file with the administrator's key, that nobody else can read.
    pub admin_key_file: Option<PathBuf>,
    /// The project in which service accounts are made.
    pub project: Option<String>,
    /// A file with the secret that requests are signed with, that nobody else can read.
    pub secret_file: Option<PathBuf>,
}

/// A table of `[rotation.schedules]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleDefinition {
    /// The age at which a secret is given up.
    pub every: DurationText,
    pub tenant: Option<String>,
    /// Patterns of the names of upstreams; all that is said here must hold.
    pub upstreams: Option<Vec<String>>,
    /// A pool, by name.
    pub pool: Option<String>,
    /// A provider of `[rotation.providers]`.
    pub provider: Option<String>,
    pub risk: Option<RiskClass>,
    /// How much earlier it may be, a different time for each secret.
    pub jitter: Option<DurationText>,
    /// The time of day, in UTC, in which a rotation may begin: `22:00-06:00`.
    pub between: Option<String>,
    /// And the days: `mon` to `sun`. A night belongs to the day on which it begins.
    pub days: Option<Vec<String>>,
    pub grace: Option<DurationText>,
    pub window: Option<DurationText>,
    pub unused_after: Option<DurationText>,
}

/// Why a definition makes no provider. Goes on from the provider's name.
#[derive(Debug, Error)]
pub enum KeyProviderError {
    #[error("has no {0}")]
    Missing(&'static str),
    #[error("has a {0}, which its kind does not take")]
    Superfluous(&'static str),
    #[error("has a url that is not https, or http on a private address")]
    Url,
    #[error("has a tenant that is no name of one")]
    Tenant,
    #[error("has a file that cannot be used")]
    Secret(#[source] ReadSecretError),
    #[error("has a file without a key of visible characters")]
    SecretText,
}

/// Why a definition makes no schedule. Goes on from the schedule's name.
#[derive(Debug, Error)]
pub enum ScheduleError {
    #[error("has an every of less than a minute")]
    Every,
    #[error("has a jitter that is not shorter than its every")]
    Jitter,
    #[error("has times that make no rotation: a window of 1 second to 7 days, not longer than the grace, which is 90 days at most")]
    Times,
    #[error("has a between that is not of the form 22:00-06:00")]
    Between,
    #[error("has days that are not mon, tue, wed, thu, fri, sat or sun")]
    Days,
    #[error("has a tenant that is no name of one")]
    Tenant,
}

impl KeyProviderDefinition {
    pub(super) fn provider(self, name: &str) -> Result<KeyProvider, KeyProviderError> {
        let Self { kind, upstreams, tenant, url, admin_key_file, project, secret_file } = self;
        if upstreams.is_empty() {
            return Err(KeyProviderError::Missing("upstreams"));
        }
        if url.as_ref().is_some_and(|url| !crate::oauth::is_safe(url, true) || url.cannot_be_a_base()) {
            return Err(KeyProviderError::Url);
        }
        let takes = |member: &'static str, is_there: bool, is_taken: bool| {
            if is_there && !is_taken { Err(KeyProviderError::Superfluous(member)) } else { Ok(()) }
        };
        let is_admin = matches!(kind, KeyProviderKind::Openai | KeyProviderKind::Anthropic);
        takes("admin_key_file", admin_key_file.is_some(), is_admin)?;
        takes("project", project.is_some(), kind == KeyProviderKind::Openai)?;
        takes("secret_file", secret_file.is_some(), kind == KeyProviderKind::Webhook)?;
        takes("url", url.is_some(), kind != KeyProviderKind::Paste)?;
        let own = |text: &'static str| Url::parse(text).map_err(|_| KeyProviderError::Url);
        let adapter = match kind {
            KeyProviderKind::Openai => Adapter::Openai {
                url: url.map_or_else(|| own("https://api.openai.com/v1"), Ok)?,
                admin_key: secret(admin_key_file, "admin_key_file")?,
                project: project.ok_or(KeyProviderError::Missing("project"))?,
            },
            KeyProviderKind::Anthropic => Adapter::Anthropic {
                url: url.map_or_else(|| own("https://api.anthropic.com/v1"), Ok)?,
                admin_key: secret(admin_key_file, "admin_key_file")?,
            },
            KeyProviderKind::Webhook => {
                Adapter::Webhook { url: url.ok_or(KeyProviderError::Missing("url"))?, secret: secret(secret_file, "secret_file")? }
            }
            KeyProviderKind::Paste => Adapter::Paste,
        };
        let tenant = tenant_of(tenant).ok_or(KeyProviderError::Tenant)?;
        Ok(KeyProvider { name: name.to_owned(), tenant, upstreams, adapter })
    }
}

impl ScheduleDefinition {
    pub(super) fn schedule(self, name: &str) -> Result<Schedule, ScheduleError> {
        let every_seconds = self.every.as_seconds();
        if every_seconds < 60 {
            return Err(ScheduleError::Every);
        }
        let jitter_seconds = self.jitter.map_or(every_seconds / 20, |jitter| jitter.as_seconds());
        if jitter_seconds >= every_seconds {
            return Err(ScheduleError::Jitter);
        }
        let grace_seconds = self.grace.map_or(GRACE_SECONDS_DEFAULT, |grace| grace.as_seconds());
        let window_seconds = self.window.map_or_else(|| window_default(grace_seconds), |window| window.as_seconds());
        let unused_seconds = self.unused_after.map(|unused| unused.as_seconds());
        let is_window = (1..=WINDOW_SECONDS_MAX).contains(&window_seconds) && window_seconds <= grace_seconds;
        if !is_window || grace_seconds > GRACE_SECONDS_MAX || unused_seconds == Some(0) {
            return Err(ScheduleError::Times);
        }
        Ok(Schedule {
            name: name.to_owned(),
            tenant: tenant_of(self.tenant).ok_or(ScheduleError::Tenant)?,
            upstreams: self.upstreams,
            pool: self.pool,
            provider: self.provider,
            risk: self.risk,
            every_seconds,
            jitter_seconds,
            may_begin: Window::parse(self.between.as_deref(), self.days.as_deref())?,
            grace_seconds,
            window_seconds,
            unused_seconds,
        })
    }
}

fn tenant_of(text: Option<String>) -> Option<TenantId> {
    text.map_or_else(|| Some(TenantId::default_tenant()), |text| text.parse().ok())
}

fn secret(file: Option<PathBuf>, member: &'static str) -> Result<Zeroizing<String>, KeyProviderError> {
    let bytes = files::read_secret(&file.ok_or(KeyProviderError::Missing(member))?).map_err(KeyProviderError::Secret)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| KeyProviderError::SecretText)?.trim();
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(Zeroizing::new(text.to_owned())) } else { Err(KeyProviderError::SecretText) }
}
