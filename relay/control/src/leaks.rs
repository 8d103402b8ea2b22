//! Who may report that a client key was found in the open, and what is done about it.
//!
//! A report comes from outside and without a token, so its signature is all there is: that of a scanner whose public keys are configured (ECDSA on
//! P-256 with SHA-256, the form of GitHub's secret scanning), or one made with a secret that is shared with scanners of one's own (HMAC-SHA-256).
//! This node asks nobody for keys: the operator puts the list that the scanner publishes into a file, which is read again when a report names a
//! key that it did not have.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemas::key::LeakAction;
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// Reports that are read and worked on at once; each may hold a body.
const REPORTS_AT_ONCE: usize = 16;
/// The least time between two looks at the file of keys, so that made-up key ids do not become a load.
const READ_AGAIN: Duration = Duration::from_secs(30);
/// The most bytes of the file of keys, the most keys in it, and the most characters of a key's id.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
const KEYS_MAX: usize = 64;
const KEY_ID_LENGTH_MAX: usize = 128;
/// The fewest characters of a shared secret.
const SECRET_LENGTH_MIN: usize = 32;
/// What scanners that sign with the shared secret are called.
const OWN_SCANNER: &str = "own";

/// What a node is told about leaks.
#[derive(Debug, Clone)]
pub struct LeakConfig {
    pub action: LeakAction,
    /// The public keys of a scanner, as GitHub lists its own under `/meta/public_keys/secret_scanning`.
    pub keys_file: Option<PathBuf>,
    /// What scanners of one's own sign with.
    pub secret: Option<Zeroizing<String>>,
}

/// Checks who reports, for one node.
pub struct LeakIntake {
    pub(crate) action: LeakAction,
    /// A permit for each report under way.
    pub(crate) turns: Semaphore,
    published: Option<PublishedKeys>,
    secret: Option<hmac::Key>,
}

/// The keys of a file, by the id that a report names.
struct PublishedKeys {
    path: PathBuf,
    /// Swapped whole; the last good ones stay where the file cannot be read.
    keys: ArcSwap<BTreeMap<String, ParsedPublicKey>>,
    /// When the file was last looked at; written by whoever looks.
    read_at: Mutex<Instant>,
}

/// A signature as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signature {
    /// By a published key.
    Published { key_id: String, signature: Vec<u8> },
    /// By the shared secret.
    Shared { tag: Vec<u8> },
}

/// Why a node cannot take reports as it is told to.
#[derive(Debug, Error)]
pub enum LeakIntakeError {
    #[error("the scanner's keys in {path} cannot be read")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} has more than {FILE_BYTES_MAX} bytes")]
    TooLarge { path: PathBuf },
    #[error("{path} is not a list of public keys")]
    Shape { path: PathBuf, source: serde_json::Error },
    #[error("{path} has no key, or more than {KEYS_MAX}")]
    Count { path: PathBuf },
    #[error("key {id:?} in {path} is not a public key on P-256 in PEM under an id of at most {KEY_ID_LENGTH_MAX} visible characters")]
    Key { path: PathBuf, id: String },
    #[error("the secret of own scanners has fewer than {SECRET_LENGTH_MIN} characters")]
    ShortSecret,
}

impl LeakIntake {
    /// The intake that is configured; none where nobody could sign a report.
    pub fn open(config: LeakConfig) -> Result<Option<Self>, LeakIntakeError> {
        let secret = match &config.secret {
            Some(secret) if secret.len() < SECRET_LENGTH_MIN => return Err(LeakIntakeError::ShortSecret),
            secret => secret.as_ref().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())),
        };
        let published = config.keys_file.map(PublishedKeys::open).transpose()?;
        let is_open = published.is_some() || secret.is_some();
        Ok(is_open.then(|| Self { action: config.action, turns: Semaphore::new(REPORTS_AT_ONCE), published, secret }))
    }

    /// The name of the scanner that signed these bytes; none if nobody did whom this node knows.
    pub(crate) async fn scanner(self: &Arc<Self>, signature: Signature, body: &[u8]) -> Option<String> {
        match signature {
            Signature::Shared { tag } => {
                hmac::verify(self.secret.as_ref()?, body, &tag).ok()?;
                Some(OWN_SCANNER.to_owned())
            }
            Signature::Published { key_id, signature } => {
                let published = self.published.as_ref()?;
                if !published.keys.load().contains_key(&key_id) && published.is_due() {
                    let intake = Arc::clone(self);
                    // A reader that panics leaves the keys as they are.
                    tokio::task::spawn_blocking(move || intake.published.as_ref().map(PublishedKeys::read_again)).await.ok();
                }
                let keys = published.keys.load();
                keys.get(&key_id)?.verify_sig(body, &signature).ok()?;
                Some(format!("github/{key_id}"))
            }
        }
    }
}

impl PublishedKeys {
    fn open(path: PathBuf) -> Result<Self, LeakIntakeError> {
        let keys = ArcSwap::from_pointee(read(&path)?);
        Ok(Self { path, keys, read_at: Mutex::new(Instant::now()) })
    }

    /// Whether the file may be looked at again; then this counts as the look.
    fn is_due(&self) -> bool {
        let Ok(mut read_at) = self.read_at.lock() else { return false };
        let is_due = read_at.elapsed() >= READ_AGAIN;
        if is_due {
            *read_at = Instant::now();
        }
        is_due
    }

    fn read_again(&self) {
        match read(&self.path) {
            Ok(keys) => self.keys.store(Arc::new(keys)),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the scanner's keys stay what they were"),
        }
    }
}

#[derive(Deserialize)]
struct KeyList {
    public_keys: Vec<ListedKey>,
}

/// One key of the list; members that are not named here, such as `is_current`, say nothing about who signed.
#[derive(Deserialize)]
struct ListedKey {
    key_identifier: String,
    key: String,
}

fn read(path: &Path) -> Result<BTreeMap<String, ParsedPublicKey>, LeakIntakeError> {
    let owned = || path.to_owned();
    let failed = |source| LeakIntakeError::Read { path: owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(LeakIntakeError::TooLarge { path: owned() });
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    let list: KeyList = serde_json::from_slice(&bytes).map_err(|source| LeakIntakeError::Shape { path: owned(), source })?;
    if !(1..=KEYS_MAX).contains(&list.public_keys.len()) {
        return Err(LeakIntakeError::Count { path: owned() });
    }
    let keys = list.public_keys.into_iter().map(|ListedKey { key_identifier: id, key }| match (is_key_id(&id), parse(&key)) {
        (true, Some(key)) => Ok((id, key)),
        _ => Err(LeakIntakeError::Key { path: owned(), id }),
    });
    keys.collect()
}

fn is_key_id(id: &str) -> bool {
    (1..=KEY_ID_LENGTH_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A `SubjectPublicKeyInfo` in PEM.
fn parse(pem: &str) -> Option<ParsedPublicKey> {
    let body = pem.trim().strip_prefix("-----BEGIN PUBLIC KEY-----")?.strip_suffix("-----END PUBLIC KEY-----")?;
    let text: String = body.split_ascii_whitespace().collect();
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, STANDARD.decode(text).ok()?).ok()
}
