//! How a cluster begins, and how a node joins one.
//!
//! [`found_or_join`] runs before anything reads the log: on an empty log it founds, on a founded one it only checks. Secrets are written
//! and synced under temporary names, the founding record is appended, and only then do the files get their names: a crash at any step
//! leaves either no cluster or a whole one, and the next start goes on from there. [`furnish`] then appends what every cluster has.
//!
//! Of nodes that found at once one is first in the log. One that has the same root key joins it, any other is refused with the founder named;
//! either way nothing is left of what it would have founded. Where nodes share a key store, that is decided earlier still: the store's first
//! secret is sealed under the root key of whoever was there first, and others wait for what that one founds. A node that cannot reach the log
//! goes on [`from_local`] state, if it ever was in a cluster.

mod lineage;
mod root_keys;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use event_log::{AppendError, Appended, EventLog, Expect};
use futures_util::StreamExt as _;
use projector::ReadModels;
use schemas::cluster::{Cluster, ClusterFounded, FORMAT_LEVEL};
use schemas::pool::PoolCommand;
use schemas::record::{Header, Seen};
use schemas::tenant::{TenantChanged, TenantCommand};
use schemas::writer::{WriterCommand, WriterEnrolled};
use schemas::{
    Actor, Aggregate, ClusterId, Command, CommandId, Digest, Event, PublicKey, Sequence, Stream, TenantId, Version, WriterId, client_key,
    judge,
};
use thiserror::Error;
use tokio::task::JoinError;
use tokio::time::Instant;
use vault::{KeyStore, OpenError, RootKey, RootKeys, Sealing, StoreError, Vault, files};
use zeroize::Zeroizing;

pub use self::root_keys::NEXT_ROOT_KEY;
use self::root_keys::read_root_key;
use crate::commands::{Commands, ExecuteError, Request};
use crate::secrets::is_away;
use crate::secrets::random_bytes;
use crate::{Clock, Writer};

/// How long after a change it is looked at whether this node is retired.
const RETIREMENT_PAUSE: Duration = Duration::from_secs(1);
/// How long an unknown outcome of the founding is asked after, and how long another node's founding is waited for.
const FOUNDING_WAIT: Duration = Duration::from_secs(60);
/// The fewest characters of an owner token.
const OWNER_TOKEN_LENGTH_MIN: usize = 32;
/// The fewest different characters of an owner token.
const OWNER_TOKEN_VARIETY_MIN: usize = 10;

/// Where a node's own secrets lie, and what it was given from outside.
pub struct Sources {
    /// `DATA`: holds `root.key`, `owner.token` and `writer.key`.
    pub data: PathBuf,
    /// A root key from a file or the environment; without one `DATA/root.key` is read, or made at founding.
    pub root_key: Option<RootKey>,
    /// Further files that may hold a root key, now or later, beside `DATA/root.key.next`: one that is to follow, so that it is in place first.
    pub root_key_files: Vec<PathBuf>,
    /// An owner token for the founding; without one it is drawn and written to `DATA/owner.token`.
    pub owner_token: Option<Zeroizing<String>>,
}

/// A founded cluster, as this node knows it.
pub struct Foundation {
    pub cluster: Cluster,
    pub vault: Arc<Vault>,
    pub writer: Writer,
    /// Whether this start founded it.
    pub is_new: bool,
}

/// Why a node cannot start on this log with these secrets.
#[derive(Debug, Error)]
pub enum FoundingError {
    #[error("the log does not begin with the founding of a cluster")]
    NotFounded,
    #[error(
        "the log belongs to {founder}, and this node's root key is another one ({given}); to join, give it the founder's root key as {} or \
         vault.root_key_file; to found a cluster of its own, give it a log of its own",
        path.display()
    )]
    OtherRootKey { founder: Founder, given: Digest, path: PathBuf },
    #[error(
        "the log belongs to {founder}, and this node has no root key; to join, copy root.key of the founder to {}, or set vault.root_key_file",
        path.display()
    )]
    RootKeyMissing { founder: Founder, path: PathBuf },
    #[error(
        "{data_keys} data keys still lie under the older root key {missing}, and this node does not have it; give it as one of \
         vault.root_key_files until the change of the root key is over (`keyrelay root-key show`)"
    )]
    OlderRootKeyMissing { missing: Digest, data_keys: u64 },
    #[error("the log's records about the cluster cannot be read")]
    Newer(#[source] judge::StopReason),
    #[error(
        "the key store was begun under another root key, and no cluster was founded in the log since; start the node that has that root key, \
         or empty the key store if there is none"
    )]
    BegunUnderAnother,
    #[error("the log cannot be reached, and this node was in no cluster before; it needs the log for its first start")]
    NeverJoined,
    #[error(transparent)]
    Retired(#[from] Retired),
    #[error(
        "the owner token must have at least {OWNER_TOKEN_LENGTH_MIN} characters, at least {OWNER_TOKEN_VARIETY_MIN} of them different, and be no sample or word"
    )]
    WeakOwnerToken,
    #[error("a secret file cannot be read")]
    ReadSecret(#[from] files::ReadSecretError),
    #[error("a secret file cannot be written")]
    WriteSecret(#[from] files::WriteSecretError),
    #[error("the root key cannot be read")]
    RootKey(#[from] vault::ParseRootKeyError),
    #[error("the vault cannot be opened")]
    Vault(#[from] vault::OpenError),
    #[error("the cluster key cannot be sealed")]
    Seal(#[from] vault::SealError),
    #[error("the key store cannot be changed")]
    Store(#[from] StoreError),
    #[error("the system's random source fails")]
    NoRandomness(#[from] vault::NoRandomness),
    #[error("the log cannot be read")]
    Read(#[from] event_log::ReadError),
    #[error("the read models cannot be read")]
    Models(#[from] projector::ReadError),
    #[error("the founding cannot be appended")]
    Append(#[from] AppendError),
    #[error("a task ended early")]
    Task(#[from] JoinError),
    #[error("the founding record cannot be written")]
    Encode(#[from] schemas::record::EncodeError),
    #[error("whether the founding was appended is not known; start again to find out")]
    OutcomeUnknown,
    #[error("the writer key is not 32 bytes in hexadecimal; move {} away to enrol under a new one", path.display())]
    WriterKey { path: PathBuf },
}

/// Who founded the cluster that a log belongs to, as far as the log tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Founder {
    pub cluster: ClusterId,
    /// Who signed the founding: the cluster key.
    pub writer: WriterId,
    /// What the root key in use commits to: the founder's, or the one that followed on it.
    pub commitment: Digest,
}

impl Founder {
    fn of(cluster: &Cluster) -> Self {
        Self { cluster: cluster.id, writer: WriterId::of(&cluster.public_key), commitment: cluster.root_keys.active().commitment }
    }
}

impl fmt::Display for Founder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {}, founded by {}, whose root key is {}", self.cluster, self.writer, self.commitment)
    }
}

/// This node's signatures do not count any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("node {node} was retired and does not come back under this key; move DATA/writer.key away to enrol under a new one")]
pub struct Retired {
    pub node: WriterId,
}

impl FoundingError {
    /// Whether what the node needs is only away: it may start [`from_local`] state now, or try again.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Read(event_log::ReadError::Unavailable { .. }) | Self::Append(AppendError::Unavailable { .. }) => true,
            Self::Vault(OpenError::Store(error)) | Self::Seal(vault::SealError::Store(error)) | Self::Store(error) => is_away(error),
            _ => false,
        }
    }
}

/// Founds a cluster on an empty log, or checks that this node's secrets are those of the cluster it finds.
///
/// On a founded log nothing is generated but this node's own writer key.
pub async fn found_or_join(
    sources: &Sources,
    log: &dyn EventLog,
    store: Arc<dyn KeyStore>,
    clock: &Clock,
) -> Result<Foundation, FoundingError> {
    let is_new = match founded_cluster(log).await? {
        Some(_) => false,
        None => found(sources, log, store.clone(), clock).await?,
    };
    let founded = founded_cluster(log).await?.ok_or(FoundingError::NotFounded)?;
    let cluster = lineage::follow(log, founded).await?;
    let vault = open_vault(settle_files(sources, &cluster)?, &cluster, store).await?;
    Ok(Foundation { cluster, vault, writer: load_writer(&sources.data)?, is_new })
}

/// Opens the vault, and refuses to go on without an older root key that is still needed.
async fn open_vault(root_keys: RootKeys, cluster: &Cluster, store: Arc<dyn KeyStore>) -> Result<Arc<Vault>, FoundingError> {
    let older = root_keys::older(cluster);
    let opened = tokio::task::spawn_blocking(move || {
        let vault = Vault::open_existing(root_keys, store)?;
        match root_keys::lacking(&vault, &older)? {
            None => Ok(vault),
            Some((missing, data_keys)) => Err(FoundingError::OlderRootKeyMissing { missing, data_keys }),
        }
    });
    Ok(Arc::new(opened.await??))
}

/// The cluster as this node left it, for a start without the log: the read models tell the cluster, the key store's mirror its secrets.
pub async fn from_local(sources: &Sources, models: &ReadModels, store: Arc<dyn KeyStore>) -> Result<Foundation, FoundingError> {
    let Some(Aggregate::Cluster(cluster)) = models.load(&Stream::CLUSTER)?.0 else { return Err(FoundingError::NeverJoined) };
    let root_keys = settle_files(sources, &cluster)?;
    let writer = load_writer(&sources.data)?;
    refuse_retired(models, writer.id())??;
    let vault = open_vault(root_keys, &cluster, store).await?;
    Ok(Foundation { cluster, vault, writer, is_new: false })
}

/// Waits until the read models know that a node is retired, which for a node itself means that it must stop: what it signs is void.
pub async fn until_retired(models: &ReadModels, node: WriterId) -> Result<Retired, projector::ReadError> {
    let mut announced = models.subscribe();
    loop {
        if let Err(retired) = refuse_retired(models, node)? {
            return Ok(retired);
        }
        // The sender lives in the read models that are held here.
        announced.changed().await.ok();
        // Looked at only after a pause: a node that retires itself is stopping by then, and that is no failure.
        tokio::time::sleep(RETIREMENT_PAUSE).await;
    }
}

fn refuse_retired(models: &ReadModels, node: WriterId) -> Result<Result<(), Retired>, projector::ReadError> {
    let state = models.load(&Stream::writer(node))?.0;
    let is_retired = matches!(state, Some(Aggregate::Writer(writer)) if writer.retired);
    Ok(if is_retired { Err(Retired { node }) } else { Ok(()) })
}

/// The cluster that the log's first record founds; none on an empty log.
pub async fn founded_cluster(log: &dyn EventLog) -> Result<Option<Cluster>, FoundingError> {
    let Some(first) = log.read_range(Sequence(1), 1).await?.into_iter().next() else { return Ok(None) };
    let judge::Verdict::Valid(record) = judge::judge(&Unfounded, &first.subject, &first.bytes) else {
        return Err(FoundingError::NotFounded);
    };
    match schemas::aggregate::apply_record(None, &record) {
        Ok(Some(Aggregate::Cluster(cluster))) => Ok(Some(cluster)),
        _ => Err(FoundingError::NotFounded),
    }
}

/// Writes the secrets under temporary names, seals the cluster key, appends the founding. False where another node was first.
async fn found(sources: &Sources, log: &dyn EventLog, store: Arc<dyn KeyStore>, clock: &Clock) -> Result<bool, FoundingError> {
    let root_key = founding_root_key(sources)?;
    let owner_token = founding_owner_token(sources)?;
    let cluster_id = ClusterId::from_bytes(random_bytes());
    let seed = Zeroizing::new(random_bytes::<32>());
    let cluster_key = SigningKey::from_bytes(&seed);
    let (commitment, now) = (root_key.commitment(), clock());
    let opened = tokio::task::spawn_blocking(move || {
        let vault = Vault::open(root_key, store)?;
        // A fresh id has no key yet, so there is nothing else this could find.
        let _: Sealing = vault.seal_cluster_key(&cluster_id, &seed, now)?;
        Ok::<_, FoundingError>(vault)
    });
    let vault = match opened.await? {
        Err(FoundingError::Vault(OpenError::WrongRootKey { .. })) => return others_founding(log).await,
        opened => opened?,
    };

    let founded = ClusterFounded {
        cluster_id,
        format_level: FORMAT_LEVEL,
        cluster_public_key: PublicKey::from_bytes(cluster_key.verifying_key().to_bytes()),
        root_key_commitment: commitment,
        owner_token_hash: client_key::owner_token_hash(&owner_token),
    };
    let record = founding_record(founded, &cluster_key, clock)?;
    let expect = Expect { subject: Sequence::ZERO, log: Some(Sequence::ZERO) };
    let resolve_until = Instant::now() + FOUNDING_WAIT;
    match event_log::append_resolving(log, &Stream::CLUSTER.subject(), expect, record.into(), resolve_until).await {
        Ok(Appended::Appended(_) | Appended::AlreadyAppended(_)) => Ok(true),
        Ok(Appended::Conflict { .. }) => {
            tokio::task::spawn_blocking(move || vault.erase_cluster_key(&cluster_id)).await??;
            Ok(false)
        }
        // The record may be in the log, and then the key is needed.
        Ok(Appended::Unknown) => Err(FoundingError::OutcomeUnknown),
        Err(error) => {
            // The cluster is not founded; that its key stays behind where the key store is away too, harms nobody.
            let erased = tokio::task::spawn_blocking(move || vault.erase_cluster_key(&cluster_id)).await?;
            erased.inspect_err(|error| tracing::warn!(error = error as &dyn std::error::Error, "an unused cluster key stays behind")).ok();
            Err(error.into())
        }
    }
}

/// Waits for what the node founds that was at the key store first, under another root key. This node's founding is not to be.
async fn others_founding(log: &dyn EventLog) -> Result<bool, FoundingError> {
    let mut records = log.read(Sequence(1)).await?;
    match tokio::time::timeout(FOUNDING_WAIT, records.next()).await {
        Ok(Some(Ok(_))) => Ok(false),
        Ok(Some(Err(error))) => Err(error.into()),
        Ok(None) | Err(_) => Err(FoundingError::BegunUnderAnother),
    }
}

fn founding_record(founded: ClusterFounded, cluster_key: &SigningKey, clock: &Clock) -> Result<Vec<u8>, FoundingError> {
    let command_id = founded.cluster_id.founding_command("cluster");
    let (cluster, writer) = (founded.cluster_id, WriterId::of(&founded.cluster_public_key));
    let header = Header {
        writer,
        record_id: command_id.record_id(),
        command_id,
        request_digest: furniture_digest(),
        stream: Stream::CLUSTER,
        version: Version(1),
        actor: Actor::Node(writer),
        causation: None,
        correlation: command_id,
        time: clock(),
        seen: Seen::nothing(),
    };
    Ok(schemas::record::encode(cluster, &header, &[Event::ClusterFounded(founded)], cluster_key)?)
}

/// What every cluster has: this node's enrolment, the tenant `default` and its pool `default`, under ids that every node derives alike.
pub async fn furnish(commands: &Commands, models: &ReadModels, cluster: &Cluster, vault: &Arc<Vault>) -> Result<(), FurnishError> {
    let writer = commands.writer();
    let node = Actor::Node(writer.id());
    refuse_retired(models, writer.id())??;
    if models.load(&Stream::writer(writer.id()))?.0.is_none() {
        let (vault, id) = (vault.clone(), cluster.id);
        let cluster_key = tokio::task::spawn_blocking(move || vault.cluster_key(&id)).await??;
        let public_key = writer.public_key();
        let cluster_signature = judge::sign_enrolment(cluster.id, &public_key, &SigningKey::from_bytes(&cluster_key));
        let command = Command::Writer(WriterCommand::Enrol(WriterEnrolled { public_key, cluster_signature }));
        execute(commands, Stream::writer(writer.id()), command, node, cluster.id.founding_command(&writer.id().to_string())).await?;
    }
    let tenant = TenantId::default_tenant();
    if models.load(&Stream::tenant_of(tenant.clone()))?.0.is_none() {
        let command = Command::Tenant(TenantCommand::Create(TenantChanged::named(tenant.as_str())));
        execute(commands, Stream::tenant_of(tenant.clone()), command, node, cluster.id.founding_command("tenant")).await?;
    }
    let pool = Stream::pool(tenant, cluster.id.default_pool_id());
    if models.load(&pool)?.0.is_none() {
        let command = Command::Pool(PoolCommand::Create { name: "default".to_owned() });
        execute(commands, pool, command, node, cluster.id.founding_command("pool")).await?;
    }
    Ok(())
}

async fn execute(commands: &Commands, stream: Stream, command: Command, actor: Actor, command_id: CommandId) -> Result<(), FurnishError> {
    let request = Request {
        stream,
        command,
        actor,
        command_id,
        request_digest: furniture_digest(),
        if_version: None,
        deadline: Commands::deadline(),
    };
    commands.execute(request).await?;
    Ok(())
}

/// Why the furniture of a cluster is not all there.
#[derive(Debug, Error)]
pub enum FurnishError {
    #[error("a record of the cluster's furniture cannot be appended")]
    Execute(#[from] ExecuteError),
    #[error("the read models cannot be read")]
    Read(#[from] projector::ReadError),
    #[error("the cluster key cannot be unsealed, so this node cannot be enrolled")]
    ClusterKey(#[from] vault::UnsealError),
    #[error(transparent)]
    Retired(#[from] Retired),
    #[error("a task ended early")]
    Task(#[from] JoinError),
}

impl FurnishError {
    /// Whether what the node needs is only away, so that it may try again.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Execute(error) => error.is_log_away() || matches!(error, ExecuteError::OutcomeUnknown { .. }),
            Self::ClusterKey(vault::UnsealError::Store(error)) => is_away(error),
            Self::Read(_) | Self::ClusterKey(_) | Self::Retired(_) | Self::Task(_) => false,
        }
    }
}

/// One digest for all commands that come from the program itself and not from a request.
pub(crate) fn furniture_digest() -> Digest {
    Digest::blake3(b"keyrelay founding v1")
}

/// The prefix of an empty log.
struct Unfounded;

impl judge::Prefix for Unfounded {
    fn cluster(&self) -> Option<(ClusterId, ed25519_dalek::VerifyingKey)> {
        None
    }

    fn writer(&self, _: WriterId) -> Option<ed25519_dalek::VerifyingKey> {
        None
    }

    fn version(&self, _: &Stream) -> Version {
        Version(0)
    }
}

/// The files of `DATA` that hold secrets. Until the founding is in the log, each waits under [`files::temporary_path`].
struct SecretFiles {
    root_key: PathBuf,
    owner_token: PathBuf,
}

impl SecretFiles {
    fn of(data: &Path) -> Self {
        Self { root_key: data.join("root.key"), owner_token: data.join("owner.token") }
    }
}

/// A given root key, one that lies there, one of an interrupted founding, or a new one under its temporary name: the first there is.
fn founding_root_key(sources: &Sources) -> Result<RootKey, FoundingError> {
    let files = SecretFiles::of(&sources.data);
    if let Some(given) = &sources.root_key {
        return Ok(given.clone());
    }
    for path in [files.root_key.clone(), files::temporary_path(&files.root_key)] {
        if let Some(key) = read_root_key(&path)? {
            return Ok(key);
        }
    }
    let key = RootKey::generate()?;
    files::write_secret_temporary(&files.root_key, format!("{}\n", key.text().as_str()).as_bytes())?;
    Ok(key)
}

fn founding_owner_token(sources: &Sources) -> Result<Zeroizing<String>, FoundingError> {
    let files = SecretFiles::of(&sources.data);
    if let Some(given) = &sources.owner_token {
        return if is_strong_token(given) { Ok(given.clone()) } else { Err(FoundingError::WeakOwnerToken) };
    }
    for path in [files.owner_token.clone(), files::temporary_path(&files.owner_token)] {
        if let Some(token) = read_text(&path)? {
            return if is_strong_token(&token) { Ok(token) } else { Err(FoundingError::WeakOwnerToken) };
        }
    }
    let token = client_key::format_owner_token(&random_bytes::<32>());
    files::write_secret_temporary(&files.owner_token, format!("{}\n", token.as_str()).as_bytes())?;
    Ok(token)
}

/// Long enough, varied enough, and none of the values that examples are made of.
fn is_strong_token(token: &str) -> bool {
    let lower = token.to_ascii_lowercase();
    let mut characters: Vec<char> = token.chars().collect();
    characters.sort_unstable();
    characters.dedup();
    let is_sample =
        ["changeme", "change-me", "change_me", "password", "secret-token", "your-", "example", "0123456789", "abcdefgh", "test-token"]
            .iter()
            .any(|sample| lower.contains(sample));
    let is_printable = token.chars().all(|c| c.is_ascii_graphic());
    token.len() >= OWNER_TOKEN_LENGTH_MIN && characters.len() >= OWNER_TOKEN_VARIETY_MIN && is_printable && !is_sample
}

/// With the founding in the log, gives temporary files their names or removes them, and finds the root keys that the cluster wants.
fn settle_files(sources: &Sources, cluster: &Cluster) -> Result<RootKeys, FoundingError> {
    let files = SecretFiles::of(&sources.data);
    let fits = |key: &RootKey| cluster.root_keys.get(&key.commitment()).is_some();
    if let Some(key) = read_root_key(&files::temporary_path(&files.root_key))? {
        if fits(&key) && sources.root_key.is_none() {
            files::promote(&files.root_key)?;
        } else {
            files::discard_temporary(&files.root_key)?;
        }
    }
    if let Some(token) = read_text(&files::temporary_path(&files.owner_token))? {
        if client_key::owner_token_hash(&token) == cluster.owner_token_hash {
            files::promote(&files.owner_token)?;
        } else {
            files::discard_temporary(&files.owner_token)?;
        }
    }
    // Not used from here on; reading it refuses a file that others may read.
    read_text(&files.owner_token)?;
    root_keys::choose(sources, cluster)
}

/// A secret file's one line, without its line feed; none if there is no such file.
fn read_text(path: &Path) -> Result<Option<Zeroizing<String>>, FoundingError> {
    let bytes = match files::read_secret(path) {
        Err(files::ReadSecretError::Missing { .. }) => return Ok(None),
        read => read?,
    };
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    Ok(Some(Zeroizing::new(text.trim_end_matches('\n').to_owned())))
}

/// This node's signing key, made at its first start. It is not under the root key: a node proves who it is before it can unseal.
fn load_writer(data: &Path) -> Result<Writer, FoundingError> {
    let path = data.join("writer.key");
    if let Some(text) = read_text(&path)? {
        let seed = text.strip_prefix(WRITER_KEY_PREFIX).and_then(|hex| hex.parse::<Digest>().ok());
        return seed.map(|seed| Writer::new(seed.as_bytes())).ok_or(FoundingError::WriterKey { path });
    }
    let seed = Zeroizing::new(random_bytes::<32>());
    let text = Zeroizing::new(format!("{WRITER_KEY_PREFIX}{}\n", Digest::from_bytes(*seed)));
    files::write_secret(&path, text.as_bytes())?;
    Ok(Writer::new(&seed))
}

/// What a writer key's file begins with, so that a root key in its place is told.
const WRITER_KEY_PREFIX: &str = "kr-writer-1:";
