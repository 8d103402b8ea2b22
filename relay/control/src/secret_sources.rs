//! Where operators keep the secrets of upstreams: HashiCorp Vault and OpenBao (KV version 2), and AWS Secrets Manager.
//!
//! A secret is read, never written. Whoever reads takes it into the vault of the relay, which goes on working when the source is away: what is here is
//! not on the path of a request, and does not know what an upstream is.

mod aws;
mod exchange;
mod kv;
mod reference;
mod signature;

use schemas::Timestamp;
use thiserror::Error;
use zeroize::Zeroizing;

pub use aws::{AwsKeys, SecretsManager};
pub use exchange::{Exchange, Unsafe};
pub use kv::{KvLogin, KvStore};
pub use reference::{ParseReferenceError, Reference};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A secret as it stands at its source.
#[derive(Clone)]
pub struct SourceSecret {
    pub value: Zeroizing<String>,
    /// What the source calls this state of it: a number of KV, the version id of Secrets Manager.
    pub version: String,
}

/// Why a source gave no secret.
#[derive(Debug, Error)]
pub enum SourceError {
    #[error("the secret source could not be reached")]
    Away(#[source] BoxError),
    #[error("the address of the secret source cannot be used")]
    Address(#[source] Unsafe),
    /// The source answers, and not to us.
    #[error("the secret source refuses us: {0}")]
    Denied(String),
    #[error("the secret source has no such secret, or its newest version is deleted")]
    Missing,
    #[error("the secret has no text field {0:?}")]
    Field(String),
    #[error("the secret has more than one field; say which one behind a '#'")]
    FieldNeeded,
    #[error("the secret is empty")]
    Empty,
    #[error("the secret source answered with status {status}{}", code.as_deref().map(|code| format!(" ({code})")).unwrap_or_default())]
    Status { status: u16, code: Option<String> },
    #[error("the answer of the secret source is not what it should be")]
    Answer,
}

/// A place that holds secrets, with what is needed to log in.
pub enum SecretSource {
    Kv(KvStore),
    Aws(SecretsManager),
}

impl SecretSource {
    /// Reads a secret. `now` goes into signatures; AWS takes five minutes of difference.
    pub async fn read(&self, reference: &Reference, now: Timestamp) -> Result<SourceSecret, SourceError> {
        let secret = match (self, reference) {
            (Self::Kv(store), Reference::Kv { mount, path, field }) => store.read(mount, path, field.as_deref()).await?,
            (Self::Aws(store), Reference::Aws { id, field, stage }) => store.read(id, field.as_deref(), stage, now).await?,
            (Self::Kv(_), Reference::Aws { .. }) | (Self::Aws(_), Reference::Kv { .. }) => return Err(SourceError::Missing),
        };
        if secret.value.is_empty() { Err(SourceError::Empty) } else { Ok(secret) }
    }
}

/// The field that is meant of an object of texts: the named one, or the only one.
fn pick(object: &serde_json::Map<String, serde_json::Value>, field: Option<&str>) -> Result<Zeroizing<String>, SourceError> {
    let value = match field {
        Some(name) => object.get(name),
        None if object.len() > 1 => return Err(SourceError::FieldNeeded),
        None => object.values().next(),
    };
    let text = value.and_then(serde_json::Value::as_str);
    // Files and consoles leave a newline behind the secret, which no header could carry.
    text.map(|text| Zeroizing::new(text.trim().to_owned())).ok_or_else(|| SourceError::Field(field.unwrap_or_default().to_owned()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a fixture may panic")]
#[path = "secret_sources/tests.rs"]
mod tests;
