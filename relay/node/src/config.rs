//! The configuration: one struct of sections with real types, parsed once.
//!
//! Sources, each over the one before: defaults, the TOML file, the environment (`KEYRELAY_<SECTION>_<NAME>`), flags. Every fault of every
//! source is reported at once; a name that is not a setting is a fault. An environment variable that is set to nothing counts as not set,
//! because that is how compose files and unit files spell "unset".

mod default;
mod source;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use control::key_providers::{KeyProviderDefinition, KeyProviders, ScheduleDefinition};
use control::notices::{Channel, ChannelDefinition};
use control::oauth::Providers;
use control::oauth::provider::Definition;
use control::{LeakConfig, LeakIntake, founding};
use event_log::NatsConfig;
use gateway::GatewayConfig;
use policy_host::host::SLOW_THREADS_DEFAULT;
use projector::Memory;
use vault::{RootKey, files};
use zeroize::Zeroizing;

pub use source::{Fault, Faults, Setting, Source, Sources};
pub use value::{ByteSize, LogFormat, LogLevel, MonitorUrls, NatsUrls, OnLeak, PartsPerMillion, Paths, Replicas, Secret, Threads};

use source::Reader;

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything is kept.
    pub data: PathBuf,
    pub relay: Relay,
    pub admin: Admin,
    pub log: Log,
    pub nats: Nats,
    pub vault: Vault,
    pub policy: Policy,
    pub control: Control,
    pub oauth: Oauth,
    pub rotation: Rotation,
    pub accounts: Accounts,
    pub notices: Notices,
    pub projector: Projector,
    /// The effective value of every setting and where it came from, secrets hidden.
    pub settings: Vec<Setting>,
}

/// The data plane's listener and its bounds.
#[derive(Debug, Clone)]
pub struct Relay {
    pub listen: SocketAddr,
    /// Whether upstreams may stand on loopback and private addresses.
    pub allow_private_upstreams: bool,
    /// For a connection to an upstream, TLS included.
    pub connect_timeout: Duration,
    /// From sending a request to an upstream to the head of its answer.
    pub first_byte_timeout: Duration,
    /// Between two chunks of an answer.
    pub idle_timeout: Duration,
    /// From a request's arrival to its last byte.
    pub total_timeout: Duration,
    /// The largest request body that is taken from a client.
    pub body_bytes_max: ByteSize,
    /// All request bodies that are held for a failover together.
    pub bodies_bytes_max: ByteSize,
    /// For requests that are under way when the node is told to stop.
    pub drain_timeout: Duration,
    /// How old what this node knows of the log may be before it refuses to serve.
    pub staleness_max: Duration,
}

/// The control plane's listener and the owner.
#[derive(Debug, Clone)]
pub struct Admin {
    pub listen: SocketAddr,
    /// The owner token for the founding, in a file or as it is; without either one is drawn and written to `DATA/owner.token`.
    pub owner_token_file: Option<PathBuf>,
    pub owner_token: Option<Secret>,
}

/// The process's own log, on stderr.
#[derive(Debug, Clone)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

/// The NATS deployment that the nodes of a cluster share; without `url` the log is embedded and the rest must not be set.
#[derive(Debug, Clone)]
pub struct Nats {
    pub url: Option<NatsUrls>,
    /// A credentials file: a JWT and its seed.
    pub credentials: Option<PathBuf>,
    /// A file with an nkey's seed.
    pub nkey: Option<PathBuf>,
    /// What the servers' certificates are checked against instead of the system's roots.
    pub tls_ca: Option<PathBuf>,
    /// This node's own certificate, for servers that ask for one, and its key.
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// None lets the servers decide: 3 in a cluster, else 1.
    pub replicas: Option<Replicas>,
    /// Where servers tell how they sync.
    pub monitor_url: Option<MonitorUrls>,
    /// Whether servers that were not seen to sync before they acknowledge are refused.
    pub require_verified_sync: bool,
}

/// The root key, in files or as it is; without either it is `DATA/root.key`.
#[derive(Debug, Clone)]
pub struct Vault {
    pub root_key_file: Option<PathBuf>,
    /// Further files: a root key that is to follow, and older ones while data keys may lie under them. They may come while the node runs.
    pub root_key_files: Option<Paths>,
    pub root_key: Option<Secret>,
}

/// How policies run on this node.
#[derive(Debug, Clone)]
pub struct Policy {
    /// For policies of the class `slow`, which never run on the threads that serve requests.
    pub slow_threads: Threads,
    /// How many permits are written down as decision records; denials and faults all are.
    pub decision_sample_ppm: PartsPerMillion,
    /// The most output tokens of a request whose quota policy failed under `on_fault` `baseline`; none leaves it at the key's own limits.
    pub baseline_output_tokens: Option<NonZeroU64>,
}

/// What the control plane does by itself.
#[derive(Debug, Clone)]
pub struct Control {
    /// Between two sweeps that record which keys have expired.
    pub expiry_interval: Duration,
    /// What is done about a key that a scanner found in the open.
    pub leak_action: OnLeak,
    /// The public keys of a scanner that may report such keys.
    pub leak_keys_file: Option<PathBuf>,
    /// A file with what scanners of one's own sign with.
    pub leak_secret_file: Option<PathBuf>,
}

/// Where upstream accounts can be opened by a login.
#[derive(Debug, Clone)]
pub struct Oauth {
    /// The compiled presets, completed and joined by what the file defines.
    pub providers: Providers,
}

/// Who makes the keys of upstreams, and when they are due.
#[derive(Debug, Clone)]
pub struct Rotation {
    pub providers: KeyProviders,
}

/// The upstreams' accounts.
#[derive(Debug, Clone)]
pub struct Accounts {
    /// How old the last test call of an upstream may be; none where nothing is tested by the clock.
    pub test_interval: Option<Duration>,
}

/// Where operators are told what they should hear of.
#[derive(Debug, Clone)]
pub struct Notices {
    /// By name, checked as far as that goes without their files.
    pub channels: BTreeMap<String, ChannelDefinition>,
}

/// The read models.
#[derive(Debug, Clone)]
pub struct Projector {
    /// Blocks, indexes and write buffers of all read models together.
    pub memory_bytes: usize,
}

impl Config {
    /// Reads all sources, or says everything that is wrong with them.
    pub fn load(sources: Sources) -> Result<Self, Faults> {
        let mut from = Reader::new(sources);
        let mut config = Self {
            data: from.setting("data", PathBuf::from(default::DATA)),
            relay: Relay::read(&mut from),
            admin: Admin::read(&mut from),
            log: Log::read(&mut from),
            nats: Nats::read(&mut from),
            vault: Vault::read(&mut from),
            policy: Policy::read(&mut from),
            control: Control::read(&mut from),
            oauth: Oauth::read(&mut from),
            rotation: Rotation::read(&mut from),
            accounts: Accounts { test_interval: from.optional("accounts.test_interval") },
            notices: Notices::read(&mut from),
            projector: Projector::read(&mut from),
            settings: Vec::new(),
        };
        config.check(&mut from);
        config.settings = from.finish()?;
        Ok(config)
    }

    /// What the data plane takes of it.
    pub fn gateway(&self) -> GatewayConfig {
        GatewayConfig {
            allow_private_upstreams: self.relay.allow_private_upstreams,
            connect_timeout: self.relay.connect_timeout,
            first_byte_timeout: self.relay.first_byte_timeout,
            idle_timeout: self.relay.idle_timeout,
            total_timeout: self.relay.total_timeout,
            body_bytes_max: self.relay.body_bytes_max.bytes(),
            bodies_bytes_max: self.relay.bodies_bytes_max.bytes(),
            baseline_output_tokens: self.policy.baseline_output_tokens.map(NonZeroU64::get),
            decision_sample_ppm: self.policy.decision_sample_ppm.get(),
            staleness_max: self.relay.staleness_max,
        }
    }

    /// The NATS deployment that holds the log; none where the log is embedded.
    pub fn nats(&self) -> Option<NatsConfig> {
        let nats = &self.nats;
        Some(NatsConfig {
            url: nats.url.as_ref()?.texts(),
            credentials: nats.credentials.clone(),
            nkey: nats.nkey.clone(),
            tls_ca: nats.tls_ca.clone(),
            tls_cert: nats.tls_cert.clone(),
            tls_key: nats.tls_key.clone(),
            replicas: nats.replicas.map(Replicas::get),
            monitor_url: nats.monitor_url.as_ref().map(MonitorUrls::texts).unwrap_or_default(),
            require_verified_sync: nats.require_verified_sync,
        })
    }

    /// The root key that was given, if one was.
    pub fn root_key(&self) -> anyhow::Result<Option<RootKey>> {
        let text = given(self.vault.root_key.as_ref(), self.vault.root_key_file.as_deref()).context("the root key that is set")?;
        text.map(|text| RootKey::parse(text.trim())).transpose().context("the root key that is set")
    }

    /// Where this node's own secrets lie, and what it was given.
    pub fn founding_sources(&self) -> anyhow::Result<founding::Sources> {
        let root_key_files = self.vault.root_key_files.as_ref().map(Paths::paths).unwrap_or_default();
        Ok(founding::Sources { data: self.data.clone(), root_key: self.root_key()?, root_key_files, owner_token: self.owner_token()? })
    }

    /// The owner token that was given, if one was.
    pub fn owner_token(&self) -> anyhow::Result<Option<Zeroizing<String>>> {
        given(self.admin.owner_token.as_ref(), self.admin.owner_token_file.as_deref()).context("the owner token that is set")
    }

    /// Who may report leaks, and what is done about them; none where nobody may.
    pub fn leak_intake(&self) -> anyhow::Result<Option<LeakIntake>> {
        let secret = given(None, self.control.leak_secret_file.as_deref()).context("the secret of own scanners")?;
        let action = self.control.leak_action.action();
        let config = LeakConfig { action, keys_file: self.control.leak_keys_file.clone(), secret };
        LeakIntake::open(config).context("reports of leaks cannot be taken in as the settings say")
    }

    /// The channels for notices, with the secrets that their files hold.
    pub fn notice_channels(&self) -> anyhow::Result<Vec<Channel>> {
        let open = |(name, definition): (&String, &ChannelDefinition)| {
            let text = |file: Option<&Path>| given(None, file).with_context(|| format!("notices.channels.{name}"));
            let (address, secret) = (text(definition.url_file.as_deref())?, text(definition.secret_file.as_deref())?);
            let opened =
                definition.clone().open(name, address.as_ref().map(|text| text.as_str()), secret, self.relay.allow_private_upstreams);
            opened.with_context(|| format!("notices.channels.{name}"))
        };
        self.notices.channels.iter().map(open).collect()
    }

    /// What is wrong with values only together.
    fn check(&self, from: &mut Reader) {
        if self.relay.listen == self.admin.listen && self.relay.listen.port() != 0 {
            from.refuse("admin.listen", "is the address of relay.listen; the two listeners need one each");
        }
        if self.admin.owner_token_file.is_some() && self.admin.owner_token.is_some() {
            from.refuse("admin.owner_token", "is given, and admin.owner_token_file too; give one of them");
        }
        if self.vault.root_key_file.is_some() && self.vault.root_key.is_some() {
            from.refuse("vault.root_key", "is given, and vault.root_key_file too; give one of them");
        }
        if self.relay.body_bytes_max > self.relay.bodies_bytes_max {
            from.refuse("relay.body_bytes_max", "is more than relay.bodies_bytes_max, so the largest bodies would never be taken");
        }
        self.nats.check(from);
    }
}

/// A secret that was set as it is, or as the name of a file that nobody else can read.
fn given(secret: Option<&Secret>, file: Option<&Path>) -> anyhow::Result<Option<Zeroizing<String>>> {
    let Some(file) = file else { return Ok(secret.map(|secret| secret.expose().clone())) };
    let bytes = files::read_secret(file)?;
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is not text", file.display()))?;
    Ok(Some(Zeroizing::new(text.trim().to_owned())))
}

impl Default for Config {
    fn default() -> Self {
        Self::load(Sources::default()).expect("a test loads the defaults")
    }
}

impl Relay {
    fn read(from: &mut Reader) -> Self {
        // The data plane's own defaults, which give their reasons.
        let gateway = GatewayConfig::default();
        Self {
            listen: from.setting("relay.listen", default::RELAY_LISTEN),
            allow_private_upstreams: from.setting("relay.allow_private_upstreams", gateway.allow_private_upstreams),
            connect_timeout: from.setting("relay.connect_timeout", gateway.connect_timeout),
            first_byte_timeout: from.setting("relay.first_byte_timeout", gateway.first_byte_timeout),
            idle_timeout: from.setting("relay.idle_timeout", gateway.idle_timeout),
            total_timeout: from.setting("relay.total_timeout", gateway.total_timeout),
            body_bytes_max: from.setting("relay.body_bytes_max", ByteSize::new(gateway.body_bytes_max)),
            bodies_bytes_max: from.setting("relay.bodies_bytes_max", ByteSize::new(gateway.bodies_bytes_max)),
            drain_timeout: from.setting("relay.drain_timeout", default::DRAIN_TIMEOUT),
            staleness_max: from.setting("relay.staleness_max", gateway.staleness_max),
        }
    }
}

impl Admin {
    fn read(from: &mut Reader) -> Self {
        Self {
            listen: from.setting("admin.listen", default::ADMIN_LISTEN),
            owner_token_file: from.optional("admin.owner_token_file"),
            owner_token: from.optional("admin.owner_token"),
        }
    }
}

impl Log {
    fn read(from: &mut Reader) -> Self {
        Self { level: from.setting("log.level", LogLevel::default()), format: from.setting("log.format", LogFormat::Text) }
    }
}

impl Nats {
    fn read(from: &mut Reader) -> Self {
        Self {
            url: from.optional("nats.url"),
            credentials: from.optional("nats.credentials"),
            nkey: from.optional("nats.nkey"),
            tls_ca: from.optional("nats.tls_ca"),
            tls_cert: from.optional("nats.tls_cert"),
            tls_key: from.optional("nats.tls_key"),
            replicas: from.optional("nats.replicas"),
            monitor_url: from.optional("nats.monitor_url"),
            require_verified_sync: from.setting("nats.require_verified_sync", false),
        }
    }

    fn check(&self, from: &mut Reader) {
        if self.url.is_none() {
            let given = [
                ("nats.credentials", self.credentials.is_some()),
                ("nats.nkey", self.nkey.is_some()),
                ("nats.tls_ca", self.tls_ca.is_some()),
                ("nats.tls_cert", self.tls_cert.is_some()),
                ("nats.tls_key", self.tls_key.is_some()),
                ("nats.replicas", self.replicas.is_some()),
                ("nats.monitor_url", self.monitor_url.is_some()),
                ("nats.require_verified_sync", self.require_verified_sync),
            ];
            for (name, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
                from.refuse(name, "is set, but nats.url is not, so that the log would be the embedded one; set nats.url too");
            }
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => from.refuse("nats.tls_cert", "is set without nats.tls_key; a certificate is shown with its key"),
            (None, Some(_)) => from.refuse("nats.tls_key", "is set without nats.tls_cert; a key is used with its certificate"),
            _ => {}
        }
        if self.credentials.is_some() && self.nkey.is_some() {
            from.refuse("nats.nkey", "is given, and nats.credentials too; give one of them");
        }
    }
}

impl Vault {
    fn read(from: &mut Reader) -> Self {
        Self {
            root_key_file: from.optional("vault.root_key_file"),
            root_key_files: from.optional("vault.root_key_files"),
            root_key: from.optional("vault.root_key"),
        }
    }
}

impl Policy {
    fn read(from: &mut Reader) -> Self {
        Self {
            slow_threads: from.setting("policy.slow_threads", Threads::new(SLOW_THREADS_DEFAULT)),
            decision_sample_ppm: from.setting("policy.decision_sample_ppm", default::DECISION_SAMPLE_PPM),
            baseline_output_tokens: from.optional("policy.baseline_output_tokens"),
        }
    }
}

impl Control {
    fn read(from: &mut Reader) -> Self {
        Self {
            expiry_interval: from.setting("control.expiry_interval", default::EXPIRY_INTERVAL),
            leak_action: from.setting("control.leak_action", OnLeak::Quarantine),
            leak_keys_file: from.optional("control.leak_keys_file"),
            leak_secret_file: from.optional("control.leak_secret_file"),
        }
    }
}

impl Oauth {
    fn read(from: &mut Reader) -> Self {
        let mut providers = Providers::presets();
        for (name, table) in from.table("oauth.providers") {
            let setting = format!("oauth.providers.{name}");
            match table.try_into::<Definition>() {
                Err(error) => from.refuse(&setting, &format!("is not a provider: {}", error.message())),
                Ok(definition) => match providers.define(&name, definition) {
                    Ok(()) => {}
                    Err(error) => from.refuse(&setting, &chain(&error)),
                },
            }
        }
        Self { providers }
    }
}

impl Rotation {
    fn read(from: &mut Reader) -> Self {
        let mut providers = KeyProviders::default();
        for (name, table) in from.table("rotation.providers") {
            let setting = format!("rotation.providers.{name}");
            match table.try_into::<KeyProviderDefinition>() {
                Err(error) => from.refuse(&setting, &format!("is not a provider: {}", error.message())),
                Ok(definition) => {
                    if let Err(error) = providers.define(&name, definition) {
                        from.refuse(&setting, &chain(&error));
                    }
                }
            }
        }
        for (name, table) in from.table("rotation.schedules") {
            let setting = format!("rotation.schedules.{name}");
            match table.try_into::<ScheduleDefinition>() {
                Err(error) => from.refuse(&setting, &format!("is not a schedule: {}", error.message())),
                Ok(definition) => {
                    if let Err(error) = providers.schedule(&name, definition) {
                        from.refuse(&setting, &chain(&error));
                    }
                }
            }
        }
        Self { providers }
    }
}

impl Notices {
    fn read(from: &mut Reader) -> Self {
        let mut channels = BTreeMap::new();
        for (name, table) in from.table("notices.channels") {
            let setting = format!("notices.channels.{name}");
            match table.try_into::<ChannelDefinition>() {
                Err(error) => from.refuse(&setting, &format!("is not a channel: {}", error.message())),
                Ok(definition) => match definition.check(&name) {
                    Ok(()) => drop(channels.insert(name, definition)),
                    Err(error) => from.refuse(&setting, &format!("is not a channel: {}", chain(&error))),
                },
            }
        }
        Self { channels }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source()).fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl Projector {
    fn read(from: &mut Reader) -> Self {
        let memory: ByteSize = from.setting("projector.memory_bytes", ByteSize::new(Memory::BYTES_DEFAULT));
        if memory.bytes() < Memory::BYTES_MIN {
            from.refuse("projector.memory_bytes", "is too little, expected 16MiB or more");
        }
        Self { memory_bytes: memory.bytes() }
    }
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
