//! What has to hold before a node may use the log: servers that keep what they acknowledge, and the stream as it has to be.

use std::collections::BTreeMap;
use std::time::Duration;

use schemas::Sequence;
use serde_json::{Map, Value};
use thiserror::Error;

use super::definition::{Difference, creation, differences};
use super::leader::StreamInfo;
use super::sync::{ServerReport, sync_mode};
use super::{JetStreamLog, STREAM, Shared};
use crate::contract::{ReadError, SyncMode};
use crate::nats::api::{ApiError, code};

/// The first servers without the faults that lost records: of each line the first patch, and every later line.
const VERSIONS_MIN: [(u32, u32, u32); 2] = [(2, 12, 12), (2, 14, 3)];
const LINE_MAX: (u32, u32) = (2, 14);
/// The longest message that has to pass: the largest record in base64, and what stands around it.
const PAYLOAD_BYTES_MIN: usize = 128 * 1024;
const QUESTION_WAIT: Duration = Duration::from_secs(3);
/// Making a stream takes an election among the servers that keep it.
const CREATION_WAIT: Duration = Duration::from_secs(10);

/// What was found, or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Whether the stream was made just now.
    pub is_new: bool,
    pub replicas: usize,
    pub sync: SyncMode,
    pub head: Sequence,
    /// The servers that are known, with their versions.
    pub servers: BTreeMap<String, String>,
}

/// Why the log cannot be used. All but [`Unavailable`](Self::Unavailable) stay until somebody changes something.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PrepareError {
    /// It may work later.
    #[error("NATS cannot be reached: {reason}")]
    Unavailable { reason: String },
    #[error("JetStream is not enabled on NATS server {server}: {reason}")]
    NoJetStream { server: String, reason: String },
    #[error(
        "NATS server {server} has version {version}, which may lose records; it has to be 2.12.12 or later of 2.12, or 2.14.3 or later"
    )]
    OldServer { server: String, version: String },
    #[error("NATS server {server} passes messages of {bytes} bytes, and {PAYLOAD_BYTES_MIN} have to pass: see max_payload")]
    SmallPayload { server: String, bytes: usize },
    #[error("the stream {STREAM} is not what it has to be; it was not touched: {}", list(differences))]
    Differs { differences: Vec<Difference> },
    /// The stream was there before, and is not made again.
    #[error(
        "the stream {STREAM} was on the NATS servers and is not any more; it is never made a second time: bring the servers' data back, or \
         start on an empty data directory"
    )]
    Gone,
    #[error("the NATS servers refuse the stream {STREAM}: {reason}")]
    Refused { reason: String },
    #[error("nats.require_verified_sync is set, and the sync mode of the NATS servers is {}: {reason}", mode.as_str())]
    Sync { mode: SyncMode, reason: String },
    #[error("the log cannot be used")]
    Log(#[source] ReadError),
}

fn list(differences: &[Difference]) -> String {
    differences.iter().map(Difference::to_string).collect::<Vec<_>>().join("; ")
}

impl JetStreamLog {
    /// Makes the stream, or checks the one that is there, and the servers. To be called until it passes; an error other than
    /// [`PrepareError::Unavailable`] is a refusal. The stream is never changed, and made only for a [`new`](JetStreamLog::new) log that was never
    /// prepared before.
    pub async fn prepare(&self) -> Result<Prepared, PrepareError> {
        let shared = &self.shared;
        let nats = &shared.nats;
        let connected = nats.server().filter(|_| nats.is_up());
        let (Some(server), Some(replicas)) = (connected, nats.replicas()) else {
            return Err(PrepareError::Unavailable { reason: "there is no connection".to_owned() });
        };
        check_version(&server.server_name, &server.version)?;
        if server.max_payload < PAYLOAD_BYTES_MIN {
            return Err(PrepareError::SmallPayload { server: server.server_name, bytes: server.max_payload });
        }
        let account = nats.ask::<Map<String, Value>>("INFO", &Map::new(), QUESTION_WAIT).await;
        account.map_err(|error| without_jetstream(&server.server_name, server.jetstream, error))?;

        let (stream, is_new) = shared.find_or_create(replicas).await?;
        let differences = differences(&stream.config, replicas);
        if !differences.is_empty() {
            return Err(PrepareError::Differs { differences });
        }
        // Where the servers tell no leader, there is the one that was asked.
        let mut peers: Vec<&str> = stream.cluster.names().collect();
        if peers.is_empty() {
            peers.push(&server.server_name);
        }
        let reports = super::sync::reports(nats, &peers).await;
        let mut servers = BTreeMap::from([(server.server_name.clone(), server.version.clone())]);
        servers.extend(reports.iter().map(|report| (report.name.clone(), report.version.clone())));
        for (name, version) in &servers {
            check_version(name, version)?;
        }
        let sync = shared.check_sync(&peers, &reports)?;
        let remembered = shared.prepared.write().replace(sync);
        let head = shared.head().await.map_err(|error| {
            *shared.prepared.write() = remembered;
            match error {
                ReadError::Unavailable { reason } => PrepareError::Unavailable { reason },
                error => PrepareError::Log(error),
            }
        })?;
        Ok(Prepared { is_new, replicas, sync, head, servers })
    }
}

impl Shared {
    async fn find_or_create(&self, replicas: usize) -> Result<(StreamInfo, bool), PrepareError> {
        let info = format!("STREAM.INFO.{STREAM}");
        let found = self.nats.ask(&info, &Map::new(), QUESTION_WAIT).await;
        match found {
            Ok(stream) => return Ok((stream, false)),
            Err(error) if error.is(code::STREAM_NOT_FOUND) => {}
            Err(error) => return Err(refused(error)),
        }
        if self.is_known || self.prepared.read().is_some() {
            return Err(PrepareError::Gone);
        }
        let created = self.nats.ask(&format!("STREAM.CREATE.{STREAM}"), &creation(replicas), CREATION_WAIT).await;
        match created {
            Ok(stream) => Ok((stream, true)),
            // Another node was faster, and made another one.
            Err(error) if error.is(code::STREAM_NAME_IN_USE) => {
                let stream = self.nats.ask(&info, &Map::new(), QUESTION_WAIT).await.map_err(refused)?;
                Ok((stream, false))
            }
            Err(error) => Err(refused(error)),
        }
    }

    fn check_sync(&self, peers: &[&str], reports: &[ServerReport]) -> Result<SyncMode, PrepareError> {
        let (mode, reason) = sync_mode(peers, reports);
        match mode {
            SyncMode::Verified => return Ok(mode),
            SyncMode::Lazy => tracing::error!(reason, "a power cut may lose records that NATS acknowledged"),
            _ => tracing::warn!(reason, "it was not checked whether the NATS servers sync before they acknowledge"),
        }
        if self.nats.requires_verified_sync() { Err(PrepareError::Sync { mode, reason }) } else { Ok(mode) }
    }
}

fn without_jetstream(server: &str, has_jetstream: bool, error: ApiError) -> PrepareError {
    let is_refusal = error.is(code::NOT_ENABLED) || error.is(code::NOT_ENABLED_FOR_ACCOUNT);
    if is_refusal || !has_jetstream {
        return PrepareError::NoJetStream { server: server.to_owned(), reason: error.to_string() };
    }
    PrepareError::Unavailable { reason: error.to_string() }
}

fn refused(error: ApiError) -> PrepareError {
    match error {
        ApiError::Refused(refusal) if !refusal.is_passing() => PrepareError::Refused { reason: refusal.to_string() },
        error => PrepareError::Unavailable { reason: error.to_string() },
    }
}

fn check_version(server: &str, version: &str) -> Result<(), PrepareError> {
    let is_late = parse_version(version).is_some_and(|(major, minor, patch)| {
        (major, minor) > LINE_MAX || VERSIONS_MIN.iter().any(|least| (major, minor) == (least.0, least.1) && patch >= least.2)
    });
    if is_late { Ok(()) } else { Err(PrepareError::OldServer { server: server.to_owned(), version: version.to_owned() }) }
}

/// The numbers of `2.14.3-beta.1`.
fn parse_version(version: &str) -> Option<(u32, u32, u32)> {
    let release = version.split(['-', '+']).next()?;
    let mut numbers = release.trim_start_matches('v').split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_lose_records_are_refused() {
        for version in ["2.12.12", "2.12.15", "2.14.3", "2.14.5", "2.15.0", "2.15.1-beta.2", "3.0.0"] {
            assert_eq!(check_version("n0", version), Ok(()), "{version}");
        }
        for version in ["2.9.10", "2.11.99", "2.12.11", "2.13.9", "2.14.2", "2.14", "", "dev"] {
            let refused = PrepareError::OldServer { server: "n0".to_owned(), version: version.to_owned() };
            assert_eq!(check_version("n0", version), Err(refused));
        }
    }
}
