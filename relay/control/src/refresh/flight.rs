//! One refresh, from the claim to its recorded end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use schemas::credential::Credential;
use schemas::credential::grant::{CredentialRefreshed, Grant, GrantCommand, LoginReason, Refresh, RefreshFailure};
use schemas::{Actor, Aggregate, Command, CommandId, Digest, Stream};
use vault::{GrantSecret, Lifetime, SealError, Sealing, SecretAddress, UnsealError, Vault};
use zeroize::Zeroizing;

use super::Shared;
use super::kept::Claim;
use super::provider::{Renewal, RenewalError};
use crate::commands::{Commands, ExecuteError, Receipt, Request};
use crate::secrets;

/// How long a secret that the key store does not show may be on its way to this node.
const SECRET_WAIT: Duration = Duration::from_secs(5);
/// How long the read models have to come level with the log before a refusal is believed.
const LEVEL_WAIT: Duration = Duration::from_secs(10);
/// How many numbers beyond the present one a secret is sealed under, or looked for: those between belong to others, or to what was given up.
const VERSIONS_MAX: u32 = 16;

/// How a flight ended, for the pace of the next.
pub(super) enum Landing {
    Done,
    /// The next attempt waits, for as long as so many failures in a row say, and as the provider asked.
    Failed {
        failures: u32,
        asked: Option<Duration>,
    },
}

impl Landing {
    const fn failed(failures: u32) -> Self {
        Self::Failed { failures, asked: None }
    }
}

/// What came of a command that must come to an end.
#[derive(PartialEq, Eq)]
enum Settled {
    Recorded,
    /// By the state that the whole log leads to.
    Refused,
    /// The node stops before the log takes it.
    Stopped,
}

/// A credential on its way to a newer secret.
pub(super) struct Flight {
    parts: Arc<Shared>,
    credential: Credential,
    stream: Stream,
}

impl Flight {
    pub(super) fn new(parts: Arc<Shared>, credential: Credential) -> Self {
        let stream = Stream::credential(credential.tenant.clone(), credential.id);
        Self { parts, credential, stream }
    }

    pub(super) async fn refresh(self) -> Landing {
        self.run(None).await
    }

    /// In the place of a claim that was never sent.
    pub(super) async fn refresh_after(self, generation: u32) -> Landing {
        self.run(Some(generation)).await
    }

    async fn run(self, takes_over: Option<u32>) -> Landing {
        let failures = self.failures();
        let secret = match self.secret().await {
            Ok(secret) => Some(secret),
            // It may be on its way, or the key store away.
            Err(UnsealError::Missing | UnsealError::Store(_) | UnsealError::WrongRootKey { .. }) => return Landing::failed(failures),
            Err(UnsealError::Erased | UnsealError::Tampered) => None,
        };
        // Counted from before the claim, so that it is never less than the time since.
        let claimed = Instant::now();
        let claim = GrantCommand::ClaimRefresh { node: self.parts.node(), takes_over };
        let (generation, secret_version) = match self.execute(claim).await {
            Ok(Receipt { aggregate: Aggregate::Credential(credential), .. }) => (credential.claims, credential.secret_version),
            Ok(_) => return Landing::Done,
            Err(error) => {
                tracing::debug!(credential.id = %self.credential.id, error = &error as &dyn std::error::Error, "a refresh was not claimed");
                return Landing::failed(failures);
            }
        };
        let release = |reason| GrantCommand::ReleaseRefresh { generation, reason };
        // Another secret was entered between the look and the claim.
        if secret_version != self.credential.secret_version {
            self.settle(&release(RefreshFailure::NotSent), "released").await;
            return Landing::failed(0);
        }
        let Some(secret) = secret.filter(|secret| secret.refresh_token.is_some()) else {
            tracing::error!(credential.id = %self.credential.id, "the refresh token cannot be had from the vault any more");
            return self.require_login(generation, LoginReason::SecretLost).await;
        };
        match self.execute(GrantCommand::MarkSent { generation }).await {
            Ok(_) => {}
            // Another node has taken over.
            Err(ExecuteError::Rejected(_)) => return Landing::failed(failures),
            // Whether the mark stands or not: nothing was sent.
            Err(_) => {
                self.settle(&release(RefreshFailure::NotSent), "released").await;
                return Landing::failed(failures + 1);
            }
        }
        let (within, provider) = (self.parts.times.send_within, self.grant().map(|grant| grant.provider.clone()).unwrap_or_default());
        let (kept, claim) = (self.parts.kept.clone(), self.claim(generation));
        // The mark waits for the disk for some milliseconds, a few times a second at the most; the clock is asked after it. It comes this late so that
        // a process which dies while it connects knows at its next start that it has not sent.
        let may_send = move || match kept.mark(&claim) {
            Ok(()) => claimed.elapsed() < within,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a refresh token is not sent: that could not be noted");
                false
            }
        };
        let exchange = self.parts.provider.renew(&provider, &secret, &may_send);
        let outcome = match tokio::time::timeout(self.parts.times.exchange_max, exchange).await {
            Ok(outcome) => outcome,
            Err(elapsed) => Err(RenewalError::NoAnswer(elapsed.into())),
        };
        self.conclude(generation, &secret, outcome).await
    }

    async fn conclude(self, generation: u32, secret: &GrantSecret, outcome: Result<Renewal, RenewalError>) -> Landing {
        let error = match outcome {
            Ok(renewal) => return self.keep(generation, secret, renewal).await,
            Err(error) => error,
        };
        let (id, failures) = (self.credential.id, self.failures() + 1);
        tracing::warn!(credential.id = %id, error = &error as &dyn std::error::Error, "a grant was not refreshed");
        let (reason, asked) = match error {
            RenewalError::InvalidGrant => return self.require_login(generation, LoginReason::InvalidGrant).await,
            RenewalError::NotSent(_) => (RefreshFailure::NotSent, None),
            RenewalError::NoAnswer(_) => (RefreshFailure::NoAnswer, None),
            RenewalError::RateLimited { retry_after } => (RefreshFailure::RateLimited, retry_after),
            RenewalError::Refused(_) => (RefreshFailure::Refused, None),
        };
        self.settle(&GrantCommand::ReleaseRefresh { generation, reason }, "released").await;
        Landing::Failed { failures, asked }
    }

    /// Keeps an answer, then records it.
    async fn keep(self, generation: u32, before: &GrantSecret, renewal: Renewal) -> Landing {
        let now = (self.parts.clock)();
        let is_rotated = renewal.refresh_token.as_ref().is_some_and(|token| Some(token.as_str()) != before.refresh_token.as_deref());
        let answer = GrantSecret {
            access_token: renewal.access_token.as_str().to_owned(),
            refresh_token: renewal.refresh_token.as_ref().map(|token| token.as_str().to_owned()).or_else(|| before.refresh_token.clone()),
            token_type: renewal.token_type.clone(),
            client_id: before.client_id.clone(),
            client_secret: before.client_secret.clone(),
            expires_at: renewal.expires_in.map(|life| now.plus_seconds(life.as_secs())),
            generation,
            is_rotated,
        };
        let claim = self.claim(generation);
        let (kept, of, sealed) = (self.parts.kept.clone(), claim.clone(), answer.clone());
        match tokio::task::spawn_blocking(move || kept.put(&of, &sealed, now)).await {
            Ok(Ok(())) => {}
            // The key store and the log may still take it.
            Ok(Err(error)) => tracing::error!(error = &error as &dyn std::error::Error, "a provider's answer could not be kept in a file"),
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "a provider's answer could not be kept in a file"),
        }
        record(&self.parts, &claim, answer, "refreshed").await
    }

    /// Ends a claim whose holder has sent and was not heard of again.
    pub(super) async fn resolve(self, generation: u32) -> Landing {
        if self.is_ours() {
            // An earlier process of this node held it.
            let (kept, claim) = (self.parts.kept.clone(), self.claim(generation));
            match tokio::task::spawn_blocking(move || kept.is_marked(&claim)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => {
                    self.settle(&GrantCommand::ReleaseRefresh { generation, reason: RefreshFailure::NotSent }, "released").await;
                    return Landing::Done;
                }
                Ok(Err(_)) | Err(_) => return Landing::failed(self.failures()),
            }
        }
        let (vault, credential) = (Arc::clone(&self.parts.vault), self.credential.clone());
        let found = tokio::task::spawn_blocking(move || sealed_answer(&vault, &credential, generation)).await;
        match found {
            Ok(Ok(Some(answer))) => record(&self.parts, &self.claim(generation), answer, "adopted").await,
            Ok(Ok(None)) if self.grant().and_then(|grant| grant.is_rotating) == Some(false) => {
                // Its refresh token is good more than once.
                let reason = RefreshFailure::NoAnswer;
                self.settle(&GrantCommand::ReleaseRefresh { generation, reason }, "released").await;
                Landing::failed(self.failures() + 1)
            }
            Ok(Ok(None)) => self.require_login(generation, LoginReason::OutcomeUnknown).await,
            // The key store is away: the answer may lie there.
            Ok(Err(_)) | Err(_) => Landing::failed(self.failures()),
        }
    }

    async fn require_login(&self, generation: u32, reason: LoginReason) -> Landing {
        tracing::error!(credential.id = %self.credential.id, ?reason, "a grant is at its end: a login at the provider is required");
        self.settle(&GrantCommand::RequireLogin { generation, reason }, "login_required").await;
        Landing::Done
    }

    /// Whether the refresh token can be shown is known only with the secret in hand.
    async fn secret(&self) -> Result<GrantSecret, UnsealError> {
        let (vault, address) = (Arc::clone(&self.parts.vault), secret_address(&self.credential, self.credential.secret_version));
        let opened = tokio::task::spawn_blocking(move || vault.unseal_within(&address, SECRET_WAIT)).await;
        let bytes: Zeroizing<Vec<u8>> = opened.map_err(|_| UnsealError::Missing)??;
        GrantSecret::from_bytes(&bytes).map_err(|_| UnsealError::Tampered)
    }

    fn claim(&self, generation: u32) -> Claim {
        Claim { stream: self.stream.clone(), generation }
    }

    /// Whether the claim that stands is this node's.
    fn is_ours(&self) -> bool {
        self.grant().is_some_and(|grant| matches!(grant.refresh, Refresh::Claimed { node, .. } if node == self.parts.node()))
    }

    fn grant(&self) -> Option<&Grant> {
        self.credential.grant.as_deref()
    }

    fn failures(&self) -> u32 {
        self.grant().map_or(0, |grant| grant.failures)
    }

    async fn execute(&self, command: GrantCommand) -> Result<Receipt, ExecuteError> {
        execute(&self.parts, &self.stream, command).await
    }

    async fn settle(&self, command: &GrantCommand, outcome: &'static str) {
        let settled = settle(&self.parts, &self.stream, command).await;
        if settled == Settled::Recorded {
            self.parts.metrics.count_refresh(outcome);
        }
        let (GrantCommand::ReleaseRefresh { generation, .. } | GrantCommand::RequireLogin { generation, .. }) = command else { return };
        if settled != Settled::Stopped {
            forget(&self.parts, &self.claim(*generation)).await;
        }
    }
}

/// Removes what this node has kept of a claim that has ended. What stays is looked at again, or of no harm.
async fn forget(parts: &Shared, claim: &Claim) {
    let (kept, claim) = (parts.kept.clone(), claim.clone());
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || kept.remove(&claim)).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "what was kept of a refresh was not removed");
    }
}

/// Goes on with an answer that a file of this node holds.
pub(super) async fn record_kept(parts: Arc<Shared>, claim: Claim) -> Landing {
    let (kept, of) = (parts.kept.clone(), claim.clone());
    match tokio::task::spawn_blocking(move || kept.get(&of)).await {
        Ok(Ok(answer)) => record(&parts, &claim, answer, "recovered").await,
        Ok(Err(error)) => {
            tracing::error!(stream = %claim.stream, error = &error as &dyn std::error::Error, "a kept answer cannot be read");
            Landing::failed(u32::MAX)
        }
        Err(_) => Landing::failed(u32::MAX),
    }
}

/// Seals an answer in the key store and records it, however long the one or the other is away. The file goes when it is of no more use.
async fn record(parts: &Arc<Shared>, claim: &Claim, answer: GrantSecret, outcome: &'static str) -> Landing {
    let since = Instant::now();
    loop {
        match record_once(parts, claim, &answer).await {
            Some(Settled::Stopped) => return Landing::Done,
            Some(settled) => {
                if settled == Settled::Recorded {
                    parts.metrics.count_refresh(outcome);
                    tracing::info!(stream = %claim.stream, generation = claim.generation, outcome, "a grant was refreshed");
                }
                forget(parts, claim).await;
                return Landing::Done;
            }
            None => {
                let waited_seconds = since.elapsed().as_secs();
                tracing::error!(stream = %claim.stream, waited_seconds, "a provider's answer waits: the key store or the log does not take it");
                if parts.stop.run_until_cancelled(tokio::time::sleep(parts.times.record_again)).await.is_none() {
                    return Landing::Done;
                }
            }
        }
    }
}

/// None where the key store or the log is away.
async fn record_once(parts: &Arc<Shared>, claim: &Claim, answer: &GrantSecret) -> Option<Settled> {
    let (state, _) = parts.models.load(&claim.stream).ok()?;
    let Some(credential) = awaiting(state, claim.generation) else {
        // It has ended, or what it goes on from is not here yet.
        if !parts.commands.catch_up(LEVEL_WAIT).await {
            return None;
        }
        let (state, _) = parts.models.load(&claim.stream).ok()?;
        return if awaiting(state, claim.generation).is_some() { None } else { Some(Settled::Refused) };
    };
    let (vault, of, secret, now) = (Arc::clone(&parts.vault), credential.clone(), answer.clone(), (parts.clock)());
    let sealed = tokio::task::spawn_blocking(move || {
        let fingerprint = vault.fingerprint(secret.access_token.as_bytes());
        seal_answer(&vault, &of, &secret, Lifetime::lasting(now)).map(|version| (version, fingerprint))
    });
    let (secret_version, fingerprint) = match sealed.await {
        Ok(Ok(sealed)) => sealed,
        Ok(Err(error)) => {
            tracing::warn!(stream = %claim.stream, error = &error as &dyn std::error::Error, "a provider's answer could not be sealed");
            return None;
        }
        Err(_) => return None,
    };
    let refreshed = CredentialRefreshed {
        generation: claim.generation,
        secret_version,
        fingerprint,
        expires_at: answer.expires_at,
        is_rotated: answer.is_rotated,
    };
    let settled = settle(parts, &claim.stream, &GrantCommand::Refresh(refreshed)).await;
    if settled == Settled::Recorded && credential.secret_version > 1 {
        // Nodes that have not heard of the newer one may still use the last, so it goes one refresh later. One that stays is swept.
        let (vault, address) = (Arc::clone(&parts.vault), secret_address(&credential, credential.secret_version - 1));
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || vault.erase(&address)).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a secret out of use is left to the sweep");
        }
    }
    Some(settled)
}

/// The credential, where it awaits the answer to this claim.
fn awaiting(state: Option<Aggregate>, generation: u32) -> Option<Credential> {
    let Some(Aggregate::Credential(credential)) = state else { return None };
    let awaits = !credential.revoked && credential.grant.as_ref().is_some_and(|grant| grant.awaits_answer(generation));
    awaits.then_some(credential)
}

/// Executes a command until it is in the log, or refused by all that is in the log.
async fn settle(parts: &Arc<Shared>, stream: &Stream, command: &GrantCommand) -> Settled {
    let mut is_level = false;
    loop {
        match execute(parts, stream, command.clone()).await {
            Ok(_) => return Settled::Recorded,
            Err(ExecuteError::Rejected(rejection)) if is_level => {
                tracing::info!(stream = %stream, reason = %rejection, "the end of a refresh is not recorded: others were first");
                return Settled::Refused;
            }
            // What refused it may be older than what this command goes on from.
            Err(ExecuteError::Rejected(_)) => {
                is_level = parts.commands.catch_up(LEVEL_WAIT).await;
                if is_level {
                    continue;
                }
            }
            Err(error) => {
                is_level = false;
                tracing::warn!(stream = %stream, error = &error as &dyn std::error::Error, "the end of a refresh waits: it could not be recorded");
            }
        }
        if parts.stop.run_until_cancelled(tokio::time::sleep(parts.times.record_again)).await.is_none() {
            return Settled::Stopped;
        }
    }
}

async fn execute(parts: &Arc<Shared>, stream: &Stream, command: GrantCommand) -> Result<Receipt, ExecuteError> {
    let request = Request {
        stream: stream.clone(),
        command: Command::Credential(schemas::credential::CredentialCommand::Grant(command)),
        actor: Actor::Scheduler,
        command_id: CommandId::from_bytes(secrets::random_bytes()),
        request_digest: Digest::blake3(b"keyrelay refresh"),
        if_version: None,
        deadline: Commands::deadline(),
    };
    parts.commands.execute(request).await
}

/// Seals an answer under the first number that is free, or finds it where an earlier attempt has sealed it. Blocks on the key store.
fn seal_answer(vault: &Vault, credential: &Credential, answer: &GrantSecret, lifetime: Lifetime) -> Result<u32, SealError> {
    let first = credential.next_secret_version();
    for version in first..first.saturating_add(VERSIONS_MAX) {
        let address = secret_address(credential, version);
        match vault.seal(&address, &answer.to_bytes(), lifetime) {
            Ok(Sealing::Sealed) => return Ok(version),
            Ok(Sealing::Exists) if vault.unseal(&address).is_ok_and(|bytes| is_answer(&bytes, answer.generation)) => return Ok(version),
            // Sealed by another, or erased in part.
            Ok(Sealing::Exists) | Err(SealError::Erased | SealError::Tampered) => {}
            Err(error) => return Err(error),
        }
    }
    Err(SealError::Contended)
}

/// The answer to a claim, where its holder had sealed it before it died. Blocks on the key store.
fn sealed_answer(vault: &Vault, credential: &Credential, generation: u32) -> Result<Option<GrantSecret>, UnsealError> {
    let first = credential.next_secret_version();
    for version in first..first.saturating_add(VERSIONS_MAX) {
        match vault.unseal(&secret_address(credential, version)) {
            Ok(bytes) => match GrantSecret::from_bytes(&bytes) {
                Ok(answer) if answer.generation == generation => return Ok(Some(answer)),
                _ => {}
            },
            Err(UnsealError::Missing | UnsealError::Erased | UnsealError::Tampered) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn is_answer(bytes: &[u8], generation: u32) -> bool {
    GrantSecret::from_bytes(bytes).is_ok_and(|answer| answer.generation == generation)
}

fn secret_address(credential: &Credential, version: u32) -> SecretAddress {
    crate::http::secret_address(&credential.tenant, credential.id, version, &credential.origin)
}
