//! The vault: the only place that sees plaintext credentials at rest.
//!
//! From the root key only a wrapping key and a commitment are derived. Every secret has its own random data key; the data key is
//! wrapped under the root's wrapping key and kept beside, not in, the sealed bytes. So changing the root key touches no secret ([`rewrap`]), and
//! destroying a data key erases one secret wherever its sealed bytes were copied.
//!
//! Where to look first: [`vault`] for what callers do, [`seal`] and [`wrap`] for the bytes, [`key_store`] for the contract of the store,
//! [`files`] for secrets that are files, [`passphrase`] and [`age`] for those that travel in one.
//!
//! The vault knows no clock, no log and no network: times are arguments, and what may be swept is the caller's judgement. Every call
//! blocks on the store; asynchronous callers run it off their executor. What a cluster's key store needs of NATS stays in [`nats_store`].

pub mod address;
mod aead;
pub mod age;
mod apart;
pub mod cluster_secrets;
pub mod field;
pub mod file_key;
pub mod files;
pub mod grant;
pub mod key_store;
mod keyring;
pub mod memory_store;
pub mod nats_store;
pub mod passphrase;
pub mod rewrap;
pub mod rocks_store;
pub mod root_key;
pub mod salts;
pub mod seal;
pub mod sweep;
pub mod vault;
pub mod wrap;

pub use address::{SecretAddress, Slot};
pub use aead::NoRandomness;
pub use age::{Identity, OpenAgeError, ParseKeyError, Recipient, SealAgeError};
pub use field::{SealFieldError, UnsealFieldError};
pub use file_key::{Altered, FileKey};
pub use grant::{GrantSecret, NoGrantSecret};
pub use key_store::{Entry, KeyStore, Put, StoreError, Swap, Swapping};
pub use keyring::{NotHeld, RootKeys};
pub use memory_store::MemoryKeyStore;
pub use nats_store::{Mirrored, NatsKeyStore, OpenNatsStoreError};
pub use passphrase::{StretchError, Stretching};
pub use rewrap::{Rewrap, RewrapError};
pub use rocks_store::{OpenStoreError, RocksKeyStore};
pub use root_key::{ParseRootKeyError, RootKey, RootKeyVersion};
pub use salts::{SALTS_MAX, SealSaltError, salt_address};
pub use vault::{Lifetime, OpenError, SealError, Sealing, UnsealError, Vault};
