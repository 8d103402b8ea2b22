//! The types of settings, each with one text form in all sources.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use schemas::DurationText;
use schemas::key::LeakAction;
use url::Url;
use zeroize::Zeroizing;

/// A type that a setting can have.
pub(super) trait Value: Sized {
    /// What a fault says was expected.
    const EXPECTED: &'static str;
    /// Whether the text must not be shown.
    const IS_SECRET: bool = false;

    fn parse(text: &str) -> Option<Self>;
    /// The text as `keyrelay config` prints it.
    fn show(&self) -> String;
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for SocketAddr {
    const EXPECTED: &'static str = "an address and a port such as 127.0.0.1:8080; port 0 picks one";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.into())
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Value for Duration {
    const EXPECTED: &'static str = "a duration from 1s on, such as 90s, 15m or 24h";

    fn parse(text: &str) -> Option<Self> {
        let duration: DurationText = text.parse().ok()?;
        (duration.as_seconds() > 0).then(|| Self::from_secs(duration.as_seconds()))
    }

    fn show(&self) -> String {
        DurationText::from_seconds(self.as_secs()).to_string()
    }
}

/// The servers of one NATS deployment, any of which may answer. A user and a password may stand in an address, so neither `Debug` nor a fault
/// shows what was given.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrls(Vec<Url>);

impl NatsUrls {
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(|url| url.as_str().to_owned()).collect()
    }
}

impl fmt::Debug for NatsUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

impl Value for NatsUrls {
    const EXPECTED: &'static str = "one or more addresses such as nats://127.0.0.1:4222 or tls://host:4222, separated by commas";
    const IS_SECRET: bool = true;

    fn parse(text: &str) -> Option<Self> {
        urls(text, &["nats", "tls"]).map(Self)
    }

    fn show(&self) -> String {
        let shown = self.0.iter().map(|url| {
            let mut url = url.clone();
            if !url.username().is_empty() || url.password().is_some() {
                // An address with a host takes both.
                let _ = url.set_username("hidden").and_then(|()| url.set_password(None));
            }
            url.to_string()
        });
        shown.collect::<Vec<_>>().join(",")
    }
}

/// The monitoring endpoints of NATS servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorUrls(Vec<Url>);

impl MonitorUrls {
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(|url| url.as_str().trim_end_matches('/').to_owned()).collect()
    }
}

impl Value for MonitorUrls {
    const EXPECTED: &'static str = "one or more origins such as http://127.0.0.1:8222, separated by commas";

    fn parse(text: &str) -> Option<Self> {
        // Shown wherever settings are, so it takes no password; servers ask for none there.
        let is_plain = |urls: &Vec<Url>| urls.iter().all(|url| url.username().is_empty() && url.password().is_none());
        urls(text, &["http", "https"]).filter(is_plain).map(Self)
    }

    fn show(&self) -> String {
        self.texts().join(",")
    }
}

/// Files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths(Vec<PathBuf>);

impl Paths {
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.clone()
    }
}

impl Value for Paths {
    const EXPECTED: &'static str = "one or more paths, separated by commas";

    fn parse(text: &str) -> Option<Self> {
        let path = |text: &str| Some(text.trim()).filter(|text| !text.is_empty()).map(PathBuf::from);
        text.split(',').map(path).collect::<Option<Vec<_>>>().map(Self)
    }

    fn show(&self) -> String {
        self.0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(",")
    }
}

/// Addresses with a host, separated by commas, each of one of these schemes.
fn urls(text: &str, schemes: &[&str]) -> Option<Vec<Url>> {
    let url = |text: &str| Url::parse(text.trim()).ok().filter(|url| url.has_host() && schemes.contains(&url.scheme()));
    text.split(',').map(url).collect()
}

/// On how many servers a stream is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas(usize);

impl Replicas {
    pub const fn get(self) -> usize {
        self.0
    }
}

impl Value for Replicas {
    const EXPECTED: &'static str = "a number from 1 to 5";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|replicas| (1..=5).contains(replicas)).map(Self)
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// How many threads do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threads(usize);

impl Threads {
    pub const fn new(threads: usize) -> Self {
        Self(threads)
    }

    pub const fn get(self) -> usize {
        self.0
    }
}

impl Value for Threads {
    const EXPECTED: &'static str = "a number from 1 to 64";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|threads| (1..=64).contains(threads)).map(Self)
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// What is done about a key that was found in the open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLeak {
    /// It is refused for ever.
    Revoke,
    /// It is disabled until somebody enables it.
    Quarantine,
}

impl OnLeak {
    pub const fn action(self) -> LeakAction {
        match self {
            Self::Revoke => LeakAction::Revoke,
            Self::Quarantine => LeakAction::Disable,
        }
    }
}

impl Value for OnLeak {
    const EXPECTED: &'static str = "revoke or quarantine";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "revoke" => Some(Self::Revoke),
            "quarantine" => Some(Self::Quarantine),
            _ => None,
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Revoke => "revoke".to_owned(),
            Self::Quarantine => "quarantine".to_owned(),
        }
    }
}

/// So many of a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartsPerMillion(u32);

impl PartsPerMillion {
    pub const fn new(parts: u32) -> Self {
        Self(parts)
    }

    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Value for PartsPerMillion {
    const EXPECTED: &'static str = "a number from 0 to 1000000";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|parts| *parts <= 1_000_000).map(Self)
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

impl Value for NonZeroU64 {
    const EXPECTED: &'static str = "a number from 1 on";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(usize);

impl ByteSize {
    const UNITS: [(&'static str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

    pub const fn new(bytes: usize) -> Self {
        Self(bytes)
    }

    pub const fn bytes(self) -> usize {
        self.0
    }
}

impl Value for ByteSize {
    const EXPECTED: &'static str = "a size such as 64KiB, 32MiB or 1GiB";

    fn parse(text: &str) -> Option<Self> {
        let unit = Self::UNITS.into_iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
        let (digits, unit) = unit.unwrap_or((text, 1));
        let bytes = digits.trim_end().parse::<usize>().ok()?.checked_mul(unit)?;
        (bytes > 0).then_some(Self(bytes))
    }

    fn show(&self) -> String {
        let unit = Self::UNITS.into_iter().find(|(_, bytes)| self.0.is_multiple_of(*bytes));
        unit.map_or_else(|| self.0.to_string(), |(unit, bytes)| format!("{}{unit}", self.0 / bytes))
    }
}

/// How lines of the process's log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl Value for LogFormat {
    const EXPECTED: &'static str = "text or json";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Json => "json".to_owned(),
        }
    }
}

/// What is logged: a level, and levels for single modules after it (`info,gateway=debug`). In the words of `tracing`'s filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel(String);

impl LogLevel {
    const WORDS: [&'static str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogLevel {
    /// What an operator wants to know; per request there is nothing at this level.
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl Value for LogLevel {
    const EXPECTED: &'static str = "off, error, warn, info, debug or trace, and for single modules such as info,gateway=debug";

    fn parse(text: &str) -> Option<Self> {
        let is_level = |level: &str| Self::WORDS.contains(&level);
        let is_module = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':') && !name.is_empty();
        let is_part = |part: &str| part.split_once('=').map_or_else(|| is_level(part), |(name, level)| is_module(name) && is_level(level));
        text.split(',').all(is_part).then(|| Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// A secret on its way to where it is used. Neither `Debug` nor `keyrelay config` shows it, and its memory is wiped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    pub fn expose(&self) -> &Zeroizing<String> {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Value for Secret {
    const EXPECTED: &'static str = "a secret without spaces around it";
    const IS_SECRET: bool = true;

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty() && text.trim() == text).then(|| Self::new(text))
    }

    fn show(&self) -> String {
        "(hidden)".to_owned()
    }
}
