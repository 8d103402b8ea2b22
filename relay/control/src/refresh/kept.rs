//! Answers of providers that are not recorded yet, as files of this node: sealed, and durable before anything else happens to them.
//!
//! A refresh token that came in such an answer exists nowhere else, and the one before it is spent. So the file goes only when the log has the
//! answer, or has no use for it any more.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use schemas::{Stream, StreamKind, Timestamp};
use thiserror::Error;
use vault::files::{self, PrivateDirError, WriteSecretError};
use vault::{GrantSecret, NoGrantSecret, NoRandomness, SecretAddress, UnsealError, Vault};

/// Why an answer is not kept, or not read again.
#[derive(Debug, Error)]
pub enum KeptError {
    #[error(transparent)]
    Directory(#[from] PrivateDirError),
    #[error(transparent)]
    Write(#[from] WriteSecretError),
    #[error(transparent)]
    Seal(#[from] NoRandomness),
    #[error("a kept answer does not open")]
    Unseal(#[from] UnsealError),
    #[error(transparent)]
    NoGrant(#[from] NoGrantSecret),
    #[error("the folder of kept answers cannot be read")]
    Io(#[from] io::Error),
}

/// The claim that an answer is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// The credential's.
    pub(super) stream: Stream,
    pub(super) generation: u32,
}

impl Claim {
    fn file_name(&self) -> String {
        format!("{}.{}", self.stream.subject(), self.generation)
    }

    fn of_file_name(name: &str) -> Option<Self> {
        let (subject, generation) = name.rsplit_once('.')?;
        let stream = Stream::from_subject(subject).filter(|stream| stream.kind() == StreamKind::Credential)?;
        let claim = Self { stream, generation: generation.parse().ok()? };
        (claim.file_name() == name).then_some(claim)
    }

    fn address(&self) -> SecretAddress {
        SecretAddress {
            tenant: self.stream.tenant().clone(),
            owner_kind: "credential",
            owner_id: *self.stream.id(),
            field: "answer",
            version: self.generation,
            origin: String::new(),
        }
    }
}

/// The folder of kept answers. All calls block on the disk.
#[derive(Clone)]
pub(super) struct Kept {
    folder: PathBuf,
    vault: Arc<Vault>,
}

impl Kept {
    pub(super) fn open(folder: PathBuf, vault: Arc<Vault>) -> Result<Self, KeptError> {
        files::private_dir(&folder)?;
        Ok(Self { folder, vault })
    }

    /// Keeps an answer. It survives a crash of process and machine once this returns.
    pub(super) fn put(&self, claim: &Claim, answer: &GrantSecret, now: Timestamp) -> Result<(), KeptError> {
        let sealed = self.vault.seal_apart(&claim.address(), &answer.to_bytes(), now)?;
        Ok(files::write_sealed(&self.folder.join(claim.file_name()), &sealed)?)
    }

    pub(super) fn get(&self, claim: &Claim) -> Result<GrantSecret, KeptError> {
        let sealed = fs::read(self.folder.join(claim.file_name()))?;
        Ok(GrantSecret::from_bytes(&self.vault.unseal_apart(&claim.address(), &sealed)?)?)
    }

    /// The claims whose answers are kept. What is no such file is left alone.
    pub(super) fn claims(&self) -> Result<Vec<Claim>, KeptError> {
        let mut claims = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            claims.extend(entry?.file_name().to_str().and_then(Claim::of_file_name));
        }
        claims.sort_by_key(Claim::file_name);
        Ok(claims)
    }

    /// Notes, durably, that the claim's token goes out next.
    pub(super) fn mark(&self, claim: &Claim) -> Result<(), KeptError> {
        Ok(files::write_sealed(&self.mark_path(claim), b"")?)
    }

    /// Whether a token may have gone out for this claim of this node. Where it says no, none has.
    pub(super) fn is_marked(&self, claim: &Claim) -> Result<bool, KeptError> {
        Ok(self.mark_path(claim).try_exists()?)
    }

    /// Forgets a claim that has ended.
    pub(super) fn remove(&self, claim: &Claim) -> Result<(), KeptError> {
        for path in [self.folder.join(claim.file_name()), self.mark_path(claim)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    fn mark_path(&self, claim: &Claim) -> PathBuf {
        self.folder.join(format!("{}.sending", claim.file_name()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use schemas::{CredentialId, TenantId};
    use vault::{MemoryKeyStore, RootKey};

    use super::*;

    #[test]
    fn an_answer_is_found_again_and_its_file_shows_nothing_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let vault = Arc::new(Vault::open(RootKey::generate().unwrap(), Arc::new(MemoryKeyStore::default())).unwrap());
        let kept = Kept::open(folder.path().join("refresh"), vault).unwrap();
        let stream = Stream::credential(TenantId::default_tenant(), CredentialId::from_bytes([9; 16]));
        let claim = Claim { stream, generation: 4 };
        let mut answer = GrantSecret::default();
        answer.generation = 4;
        answer.access_token = "at-canary".repeat(2000);
        assert_eq!(kept.claims().unwrap(), []);
        kept.put(&claim, &answer, Timestamp::from_micros(1)).unwrap();
        fs::write(folder.path().join("refresh/notes.txt"), "left alone").unwrap();
        assert_eq!(kept.claims().unwrap(), std::slice::from_ref(&claim));
        assert_eq!(kept.get(&claim).unwrap(), answer);
        let bytes = fs::read(folder.path().join("refresh").join(claim.file_name())).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"canary"));
        assert!(!kept.is_marked(&claim).unwrap());
        kept.mark(&claim).unwrap();
        assert!(kept.is_marked(&claim).unwrap());
        assert_eq!(kept.claims().unwrap(), std::slice::from_ref(&claim));
        kept.remove(&claim).unwrap();
        kept.remove(&claim).unwrap();
        assert!(!kept.is_marked(&claim).unwrap());
        assert_eq!(kept.claims().unwrap(), []);
    }
}
