//! Snapshots of the read models: one node of the cluster takes them from time to time, and a node that begins with nothing begins with one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use control::{Commands, Writer, founding};
use coordination::Coordination;
use event_log::EventLog;
use event_log::artefacts::Snapshots;
use projector::{Config, InstallError, Projector, ReadModels, install_snapshot};
use schemas::Sequence;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A log shorter than this is folded sooner than a snapshot is fetched.
const RECORDS_MIN: u64 = 10_000;
/// A snapshot is due after so many records ...
const RECORDS_BETWEEN: u64 = 500_000;
/// ... or after so long, if there are enough new records to be worth it.
const TIME_BETWEEN: Duration = Duration::from_secs(3600);
/// How often a node looks whether one is due.
const INTERVAL: Duration = Duration::from_secs(30);
/// The right to take one, long enough for the largest.
const LEASE: &str = "snapshots";
const LEASE_TTL: Duration = Duration::from_secs(600);
/// What a snapshot says of itself beside its manifest.
const POSITION: &str = "position";
const VERSION: &str = "version";

/// Takes snapshots for the cluster until the node stops. One that fails is tried again when the next look is due.
pub(super) async fn take(
    store: Snapshots,
    projector: Arc<Projector>,
    models: ReadModels,
    coordination: Arc<dyn Coordination>,
    commands: Commands,
    data: PathBuf,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut last: Option<(Sequence, Instant)> = None;
    loop {
        if stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_none() {
            return Ok(());
        }
        let position = models.position().sequence;
        let is_due = models.status().is_ready() && last.map_or(position.0 >= RECORDS_MIN, |last| is_due(last, position));
        if !is_due {
            continue;
        }
        let taken = Box::pin(take_one(&store, &projector, &*coordination, commands.writer(), &data, position));
        let taken = stop.run_until_cancelled(taken);
        match taken.await {
            None => return Ok(()),
            Some(Ok(at)) => last = at.map(|at| (at, Instant::now())).or(last),
            Some(Err(error)) => tracing::warn!(error = format!("{error:#}"), "no snapshot could be taken"),
        }
    }
}

fn is_due((at, when): (Sequence, Instant), position: Sequence) -> bool {
    let new = position.0.saturating_sub(at.0);
    new >= RECORDS_BETWEEN || (new >= RECORDS_MIN && when.elapsed() >= TIME_BETWEEN)
}

/// Takes one if this node has the right to and nobody has lately. Gives the position of the newest there is.
async fn take_one(
    store: &Snapshots,
    projector: &Projector,
    coordination: &dyn Coordination,
    writer: &Writer,
    data: &Path,
    position: Sequence,
) -> anyhow::Result<Option<Sequence>> {
    if coordination.lease(LEASE, LEASE_TTL).await?.is_none() {
        return Ok(None);
    }
    let newest = store.list().await?.iter().filter_map(|entry| usable(&entry.metadata)).max();
    if let Some(newest) = newest.filter(|newest| position.0 < newest.0 + RECORDS_BETWEEN) {
        return Ok(Some(newest));
    }
    let place = Place::new(data)?;
    let manifest = projector.snapshot(&place.rows, writer.public_key(), |statement| writer.sign_statement(statement)).await?;
    let (rows, file) = (place.rows.clone(), place.file.clone());
    tokio::task::spawn_blocking(move || pack(&rows, &file)).await?.context("the snapshot cannot be packed")?;
    let name = format!("{:012}-v{}", manifest.position.0, manifest.version);
    let metadata =
        BTreeMap::from([(POSITION.to_owned(), manifest.position.to_string()), (VERSION.to_owned(), manifest.version.to_string())]);
    let entry = store.put(&name, &place.file, metadata).await?;
    tracing::info!(name, bytes = entry.bytes, position = manifest.position.0, "a snapshot is there for new nodes");
    Ok(Some(manifest.position))
}

/// Begins the read models of this node with the newest snapshot, if it has none and the log is long. Whatever is wrong with a snapshot, the
/// log can still be folded from its beginning.
pub(super) async fn install(store: &Snapshots, config: &Config, log: &dyn EventLog) -> anyhow::Result<()> {
    let Some(cluster) = founding::founded_cluster(log).await? else { return Ok(()) };
    if log.head().await?.0 < RECORDS_MIN {
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

/// Where a snapshot lies on its way; it goes with the value.
struct Place {
    _scratch: tempfile::TempDir,
    rows: PathBuf,
    file: PathBuf,
}

impl Place {
    /// In the data directory, whose disk has room for read models.
    fn new(data: &Path) -> io::Result<Self> {
        let scratch = tempfile::Builder::new().prefix("snapshot-").tempdir_in(data)?;
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
        let now = Instant::now();
        assert!(!is_due((Sequence(1), now), Sequence(RECORDS_BETWEEN)));
        assert!(is_due((Sequence(1), now), Sequence(RECORDS_BETWEEN + 1)));
        let long_ago = now.checked_sub(TIME_BETWEEN);
        assert!(
            long_ago.is_none_or(|then| is_due((Sequence(1), then), Sequence(RECORDS_MIN + 1)) && !is_due((Sequence(1), then), Sequence(2)))
        );
    }
}
