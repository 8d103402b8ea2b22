//! Snapshots of the read models: one node of the cluster takes them from time to time, and a node that begins with nothing begins with one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use control::{Clock, Commands, founding};
use coordination::Coordination;
use event_log::EventLog;
use event_log::artefacts::Snapshots;
use projector::{Config, InstallError, Projector, ReadModels, install_snapshot};
use schemas::Sequence;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// When snapshots are worth it.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    /// A log shorter than this is folded sooner than a snapshot is fetched.
    records_min: u64,
    /// A snapshot is due after so many records ...
    records_between: u64,
    /// ... or after so long, if there are enough new records to be worth it.
    time_between: Duration,
    /// How often a node looks whether one is due.
    interval: Duration,
}

const SCHEDULE: Schedule =
    Schedule { records_min: 10_000, records_between: 500_000, time_between: Duration::from_secs(3600), interval: Duration::from_secs(30) };

/// The schedule of this process: a test's, in which time alone makes a second snapshot due, or the one there is.
fn schedule() -> Schedule {
    #[cfg(feature = "faults")]
    if crate::faults::is_planted("eager-snapshots") {
        let (time_between, interval) = (Duration::from_secs(1), Duration::from_millis(200));
        return Schedule { records_min: 5, time_between, interval, ..SCHEDULE };
    }
    SCHEDULE
}
/// The right to take one, long enough for the largest.
const LEASE: &str = "snapshots";
const LEASE_TTL: Duration = Duration::from_secs(600);
/// What a snapshot says of itself beside its manifest.
const POSITION: &str = "position";
const VERSION: &str = "version";
/// What the name of a directory begins with in which one lies on its way.
const SCRATCH: &str = "snapshot-";

/// What it takes to take snapshots for the cluster.
pub(super) struct Taker {
    pub(super) store: Snapshots,
    pub(super) projector: Arc<Projector>,
    pub(super) models: ReadModels,
    pub(super) coordination: Arc<dyn Coordination>,
    /// Whose writer signs them.
    pub(super) commands: Commands,
    pub(super) clock: Clock,
    pub(super) data: PathBuf,
}

impl Taker {
    /// Takes snapshots until the node stops. One that fails is tried again when the next look is due.
    pub(super) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let schedule = schedule();
        // The newest that is known of, and when it was heard of.
        let mut last: Option<(Sequence, Instant)> = None;
        loop {
            if stop.run_until_cancelled(tokio::time::sleep(schedule.interval)).await.is_none() {
                return Ok(());
            }
            let position = self.models.position().sequence;
            let is_time = last.map_or(position.0 >= schedule.records_min, |(at, when)| schedule.is_due(at, when.elapsed(), position));
            if !is_time || !self.models.status().is_ready() {
                continue;
            }
            match stop.run_until_cancelled(Box::pin(self.take(position))).await {
                None => return Ok(()),
                Some(Ok(at)) => last = at.map(|at| (at, Instant::now())).or(last),
                Some(Err(error)) => tracing::warn!(error = format!("{error:#}"), "no snapshot could be taken"),
            }
        }
    }

    /// Takes one if this node has the right to and nobody has lately. Gives the position of the newest there is.
    async fn take(&self, position: Sequence) -> anyhow::Result<Option<Sequence>> {
        if self.coordination.lease(LEASE, LEASE_TTL).await?.is_none() {
            return Ok(None);
        }
        let newest = self.store.list().await?.into_iter().filter_map(|entry| Some((usable(&entry.metadata)?, entry.stored_at))).max();
        if let Some((newest, stored_at)) = newest {
            let age = Duration::from_micros((self.clock)().as_micros().saturating_sub(stored_at.as_micros()));
            if !schedule().is_due(newest, age, position) {
                return Ok(Some(newest));
            }
        }
        let (place, writer) = (Place::new(&self.data)?, self.commands.writer());
        let manifest = self.projector.snapshot(&place.rows, writer.public_key(), |statement| writer.sign_statement(statement)).await?;
        let (rows, file) = (place.rows.clone(), place.file.clone());
        tokio::task::spawn_blocking(move || pack(&rows, &file)).await?.context("the snapshot cannot be packed")?;
        let name = format!("{:012}-v{}", manifest.position.0, manifest.version);
        let metadata =
            BTreeMap::from([(POSITION.to_owned(), manifest.position.to_string()), (VERSION.to_owned(), manifest.version.to_string())]);
        let entry = self.store.put(&name, &place.file, metadata).await?;
        tracing::info!(name, bytes = entry.bytes, position = manifest.position.0, "a snapshot is there for new nodes");
        Ok(Some(manifest.position))
    }
}

impl Schedule {
    /// Whether the newest snapshot is far enough behind, at this position and of this age.
    fn is_due(&self, newest: Sequence, age: Duration, position: Sequence) -> bool {
        let new = position.0.saturating_sub(newest.0);
        new >= self.records_between || (new >= self.records_min && age >= self.time_between)
    }
}

/// Begins the read models of this node with the newest snapshot, if it has none and the log is long. Whatever is wrong with a snapshot, the
/// log can still be folded from its beginning.
pub(super) async fn install(store: &Snapshots, config: &Config, log: &dyn EventLog) -> anyhow::Result<()> {
    let Some(cluster) = founding::founded_cluster(log).await? else { return Ok(()) };
    if log.head().await?.0 < schedule().records_min {
        return Ok(());
    }
    for entry in store.list().await?.iter().filter(|entry| usable(&entry.metadata).is_some()) {
        let place = Place::new(&config.data)?;
        let begin = Instant::now();
        store.fetch(&entry.name, &place.file).await?;
        let (file, rows) = (place.file.clone(), place.rows.clone());
        let unpacked = tokio::task::spawn_blocking(move || unpack(&file, &rows)).await?;
        let installed = match unpacked {
            Ok(()) => install_snapshot(config, &place.rows, cluster.id, cluster.public_key, log).await,
            Err(source) => Err(InstallError::Io { path: place.rows.clone(), source }),
        };
        match installed {
            Ok(position) => {
                tracing::info!(name = entry.name, position = position.sequence.0, elapsed = ?begin.elapsed(), "began with a snapshot");
                return Ok(());
            }
            Err(error) => {
                tracing::warn!(name = entry.name, error = &error as &dyn std::error::Error, "a snapshot is refused");
            }
        }
    }
    Ok(())
}

/// The position of a snapshot that this release can open.
fn usable(metadata: &BTreeMap<String, String>) -> Option<Sequence> {
    let number = |name: &str| metadata.get(name)?.parse::<u64>().ok();
    number(VERSION).filter(|version| *version == u64::from(projector::VERSION))?;
    number(POSITION).map(Sequence)
}

/// Removes what a node that was killed left of a snapshot on its way.
pub(super) fn sweep(data: &Path) -> io::Result<()> {
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(SCRATCH) && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Where a snapshot lies on its way; it goes with the value.
struct Place {
    _scratch: tempfile::TempDir,
    rows: PathBuf,
    file: PathBuf,
}

impl Place {
    /// In the data directory, whose disk has room for read models.
    fn new(data: &Path) -> io::Result<Self> {
        let scratch = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(data)?;
        Ok(Self { rows: scratch.path().join("rows"), file: scratch.path().join("rows.tar"), _scratch: scratch })
    }
}

fn pack(rows: &Path, file: &Path) -> io::Result<()> {
    let mut tar = tar::Builder::new(File::create(file)?);
    tar.append_dir_all(".", rows)?;
    tar.into_inner()?.sync_all()
}

fn unpack(file: &Path, rows: &Path) -> io::Result<()> {
    fs::create_dir_all(rows)?;
    // It refuses what would lie outside of the folder; what lies in it is judged by the manifest.
    tar::Archive::new(File::open(file)?).unpack(rows)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]
    use super::*;

    #[test]
    fn a_packed_snapshot_is_unpacked_as_it_was() {
        let from = tempfile::tempdir().unwrap();
        fs::create_dir(from.path().join("rows")).unwrap();
        fs::write(from.path().join("rows/1.sst"), "rows").unwrap();
        fs::write(from.path().join("manifest.json"), "{}").unwrap();
        let place = Place::new(from.path()).unwrap();
        pack(&from.path().join("rows"), &place.file).unwrap();
        unpack(&place.file, &place.rows).unwrap();
        assert_eq!(fs::read_to_string(place.rows.join("1.sst")).unwrap(), "rows");
    }

    #[test]
    fn a_snapshot_of_another_version_is_not_used() {
        let metadata = |version: u32| BTreeMap::from([(POSITION.to_owned(), "7".to_owned()), (VERSION.to_owned(), version.to_string())]);
        assert_eq!(usable(&metadata(projector::VERSION)), Some(Sequence(7)));
        assert_eq!(usable(&metadata(projector::VERSION + 1)), None);
        assert_eq!(usable(&BTreeMap::new()), None);
    }

    #[test]
    fn a_snapshot_is_due_by_records_or_by_time_and_records() {
        let due = |age, position| SCHEDULE.is_due(Sequence(1), age, Sequence(position));
        let Schedule { records_min, records_between, time_between, .. } = SCHEDULE;
        assert!(!due(Duration::ZERO, records_between) && due(Duration::ZERO, records_between + 1));
        assert!(due(time_between, records_min + 1) && !due(time_between, 2));
    }
}
