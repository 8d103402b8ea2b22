//! The secrets that the records of a log refer to: where each must lie in the key store, and what is lost without it.

use std::collections::BTreeMap;

use control::successor_address;
use schemas::Aggregate;
use schemas::key::SecretScheme;
use vault::{SecretAddress, salt_address};

use crate::audit::Fold;

/// A secret that records refer to.
pub(super) struct Referred {
    pub(super) address: SecretAddress,
    /// What findings call it.
    pub(super) name: String,
    /// What to do where it is missing, if a node can go on without it. None where it cannot.
    pub(super) cure: Option<&'static str>,
}

/// The secrets of all credentials that are in use; the salts that keys of other systems are still known by, and the secrets that wait to be
/// collected.
pub(super) fn referred(fold: &Fold) -> Vec<Referred> {
    let (mut referred, mut salts) = (Vec::new(), BTreeMap::new());
    for row in fold.streams().values() {
        match &row.aggregate {
            Some(Aggregate::Credential(credential)) if !credential.revoked => {
                referred.extend(credential.secret_versions().into_iter().map(|version| Referred {
                    address: SecretAddress {
                        tenant: credential.tenant.clone(),
                        owner_kind: super::CREDENTIAL,
                        owner_id: *credential.id.as_bytes(),
                        field: "secret",
                        version,
                        origin: credential.origin.clone(),
                    },
                    name: format!("credential {} of tenant {}, version {version}", credential.id, credential.tenant),
                    cure: (version != credential.secret_version).then_some(ROTATION_CURE),
                }));
            }
            // What was revoked or purged is never presented again.
            Some(Aggregate::Key(key)) if key.revoked.is_none() && !key.is_purged() => {
                for secret in &key.secrets {
                    if let SecretScheme::ClaudeRelayService { salt: salt @ 1.. } = secret.scheme {
                        *salts.entry(salt).or_insert(0_u64) += 1;
                    }
                }
                if let Some(number) = key.successor {
                    referred.push(Referred {
                        address: successor_address(&key.tenant, key.id, number),
                        name: format!("key {} of tenant {}, number {number} (it waits to be collected)", key.id, key.tenant),
                        cure: Some(SUCCESSOR_CURE),
                    });
                }
            }
            _ => {}
        }
    }
    referred.extend(salts.into_iter().map(|(salt, keys)| Referred {
        address: salt_address(salt),
        name: format!("salt {salt} (secrets of keys from another system that are known by it: {keys})"),
        cure: Some(SALT_CURE),
    }));
    referred
}

const SALT_CURE: &str = "their clients are refused until these keys are imported again with the right ENCRYPTION_KEY";
const ROTATION_CURE: &str = "the credential in use is there. Its rotation may have ended while the backup was taken; else a new one that is not there cannot \
     come into use: abort the rotation; and to an old one that is not there nothing leads back: advance the rotation to its end";
const SUCCESSOR_CURE: &str =
    "it may have been collected while the backup was taken, else rotate the key again: the secret before it is good until its overlap ends";
