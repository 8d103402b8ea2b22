//! New secrets, and how a retry gets the same one.

use std::time::Duration;

use schemas::{KeyId, RecordId, Stream, TenantId, Timestamp, client_key};
use vault::{Lifetime, SealError, Sealing, SecretAddress, StoreError, UnsealError, Vault};
use zeroize::Zeroizing;

/// How long a secret stays sealed for a retry under its idempotency key, in seconds: 24 hours.
const REPEAT_SECONDS: u64 = 24 * 3600;

/// How long a secret that waits, and that the key store does not show, may be on its way to this node.
const SUCCESSOR_WAIT: Duration = Duration::from_secs(5);

/// What is sealed for a retry: one client key, or what those of a batch come from.
const CLIENT_KEY: &str = "client_key";
const BATCH_SEED: &str = "batch_seed";

/// The owner of secrets that wait for whoever a key belongs to: the key, by its id. The version is the secret's number.
pub const SUCCESSOR_OWNER: &str = "key";

/// Whether the key store may answer later.
pub(crate) fn is_away(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { .. })
}

/// Bytes from the system's random source.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system's random source is there on every supported platform");
    bytes
}

/// A new client key's text.
pub(crate) fn new_client_key(id: KeyId) -> Zeroizing<String> {
    let secret = Zeroizing::new(random_bytes::<32>());
    client_key::format(id, &secret)
}

/// Where a secret waits for a retry: bound to the record that its command appends.
fn address(tenant: &TenantId, record: RecordId, field: &'static str) -> SecretAddress {
    SecretAddress { tenant: tenant.clone(), owner_kind: "record", owner_id: *record.as_bytes(), field, version: 1, origin: String::new() }
}

/// The client key that the command of this record gives out, the same for every retry within 24 hours. It is durable before the
/// record is appended; two retries at once agree on the one that was sealed first.
pub(crate) fn repeatable_client_key(
    vault: &Vault,
    tenant: &TenantId,
    record: RecordId,
    id: KeyId,
    now: Timestamp,
) -> Result<Zeroizing<String>, RepeatError> {
    let address = address(tenant, record, CLIENT_KEY);
    let text = new_client_key(id);
    match vault.seal(&address, text.as_bytes(), Lifetime::of_seconds(now, REPEAT_SECONDS))? {
        Sealing::Sealed => Ok(text),
        Sealing::Exists => sealed_client_key(vault, tenant, record)?.ok_or(RepeatError::Unseal(UnsealError::Missing)),
    }
}

/// The client key that was given out by the command of this record; none once its 24 hours are over.
pub(crate) fn sealed_client_key(vault: &Vault, tenant: &TenantId, record: RecordId) -> Result<Option<Zeroizing<String>>, RepeatError> {
    match vault.unseal(&address(tenant, record, CLIENT_KEY)) {
        Ok(bytes) => client_key_of(&bytes).map(Some),
        Err(UnsealError::Missing | UnsealError::Erased) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Where the secret of a rotation by schedule waits to be collected. Its number is the version, so that no two are ever at one place.
pub fn successor_address(tenant: &TenantId, id: KeyId, number: u32) -> SecretAddress {
    SecretAddress {
        tenant: tenant.clone(),
        owner_kind: SUCCESSOR_OWNER,
        owner_id: *id.as_bytes(),
        field: "successor",
        version: number,
        origin: String::new(),
    }
}

/// The secret of this number that a schedule gives a key, the same however often it is asked for. Durable before the key is rotated to it.
pub(crate) fn sealed_successor(
    vault: &Vault,
    tenant: &TenantId,
    id: KeyId,
    number: u32,
    now: Timestamp,
) -> Result<Zeroizing<String>, RepeatError> {
    let (address, text) = (successor_address(tenant, id, number), new_client_key(id));
    match vault.seal(&address, text.as_bytes(), Lifetime::lasting(now))? {
        Sealing::Sealed => Ok(text),
        Sealing::Exists => client_key_of(&vault.unseal(&address)?),
    }
}

/// The secret that waits, sealed once more for the retries of the command that collects it, where there may be any. None where it is
/// not there: it was collected in the meantime, or the key store has lost it.
pub(crate) fn waiting_successor(
    vault: &Vault,
    tenant: &TenantId,
    id: KeyId,
    number: u32,
    record: Option<RecordId>,
    now: Timestamp,
) -> Result<Option<Zeroizing<String>>, RepeatError> {
    let text = match vault.unseal_within(&successor_address(tenant, id, number), SUCCESSOR_WAIT) {
        Ok(bytes) => client_key_of(&bytes)?,
        Err(UnsealError::Missing | UnsealError::Erased) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if let Some(record) = record {
        // One that is there already is the same secret, from an attempt that went no further.
        let _ = vault.seal(&address(tenant, record, CLIENT_KEY), text.as_bytes(), Lifetime::of_seconds(now, REPEAT_SECONDS))?;
    }
    Ok(Some(text))
}

/// Destroys a secret that was collected. Doing it again is safe.
pub(crate) fn erase_successor(vault: &Vault, tenant: &TenantId, id: KeyId, number: u32) -> Result<(), StoreError> {
    vault.erase(&successor_address(tenant, id, number))
}

/// Destroys whatever secrets wait for a key that is gone. Doing it again is safe.
pub(crate) fn erase_successors(vault: &Vault, key: &Stream) -> Result<(), StoreError> {
    vault.erase_owner(key.tenant(), SUCCESSOR_OWNER, key.id())
}

fn client_key_of(bytes: &[u8]) -> Result<Zeroizing<String>, RepeatError> {
    let text = std::str::from_utf8(bytes).map_err(|_| RepeatError::Unseal(UnsealError::Tampered))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// What the client keys of a batch come from: 256 random bits, the same for every retry within 24 hours. One seal does for ten thousand keys.
pub(crate) struct BatchSeed(Zeroizing<[u8; 32]>);

impl BatchSeed {
    /// The seed of the batch that has this record id, under which no record stands. Durable before any of its keys is created.
    pub(crate) fn of(vault: &Vault, tenant: &TenantId, batch: RecordId, now: Timestamp) -> Result<Self, RepeatError> {
        let address = address(tenant, batch, BATCH_SEED);
        let seed = Zeroizing::new(random_bytes::<32>());
        match vault.seal(&address, &seed[..], Lifetime::of_seconds(now, REPEAT_SECONDS))? {
            Sealing::Sealed => Ok(Self(seed)),
            Sealing::Exists => {
                let sealed = vault.unseal(&address)?;
                let seed = <[u8; 32]>::try_from(&sealed[..]).map_err(|_| RepeatError::Unseal(UnsealError::Tampered))?;
                Ok(Self(Zeroizing::new(seed)))
            }
        }
    }

    /// The client key of one of the batch's keys. Whoever knows some of them knows nothing of the others.
    pub(crate) fn client_key(&self, id: KeyId) -> Zeroizing<String> {
        let secret = Zeroizing::new(*blake3::keyed_hash(&self.0, id.as_bytes()).as_bytes());
        client_key::format(id, &secret)
    }
}

/// Why a secret cannot be kept for a retry, or found again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RepeatError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Unseal(#[from] UnsealError),
}

impl RepeatError {
    /// Whether the key store may answer later, and nothing is wrong with what it holds.
    pub(crate) fn is_store_away(&self) -> bool {
        match self {
            Self::Seal(SealError::Store(error)) | Self::Unseal(UnsealError::Store(error)) => is_away(error),
            Self::Seal(_) | Self::Unseal(_) => false,
        }
    }
}
