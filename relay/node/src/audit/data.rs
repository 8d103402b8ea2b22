//! The log in a node's data directory, opened here because the node is not running.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use event_log::{EmbeddedLog, EventLog, RUN_RECORDS_MAX};
use projector::{Memory, Projector, ReadModels};
use schemas::{PublicKey, Sequence, Timestamp};

use super::fold::Fold;
use super::report::{Expected, Findings, Report};
use super::verification::chain;
use crate::backup;
use crate::layout::Layout;

/// What findings call the log.
const LOG: &str = "log";
/// What findings call the read models.
const READ_MODELS: &str = "read-models";

/// Folds the whole embedded log and compares it with the read models in the data directory, if there are any.
///
/// An error is a log that cannot be opened or read; everything else is in the report. `progress` is told the records folded, and of how many.
pub async fn verify_data(data: &Path, cluster_key: Option<PublicKey>, progress: impl Fn(Sequence, Sequence)) -> Result<Report> {
    backup::refuse_unfinished(data)?;
    let layout = Layout::new(data);
    let path = layout.log();
    ensure!(path.is_dir(), "there is no log in {}", data.display());
    let log = tokio::task::spawn_blocking(move || EmbeddedLog::open(&path)).await?.context("the log cannot be opened")?;
    let log: Arc<dyn EventLog> = Arc::new(log);
    let (mut fold, mut findings) = (Fold::default(), Findings::default());
    let is_whole = fold_all(&*log, &mut fold, &mut findings, progress).await?;
    if is_whole && layout.read_models().is_dir() {
        // The rows are looked at and not served: how stale they are is no question here.
        let clock: projector::Clock = Arc::new(|| Timestamp::from_micros(0));
        let config = projector::Config { data: data.to_owned(), memory: Memory::new(Memory::BYTES_DEFAULT), clock };
        match Projector::open(config, log).await {
            Ok((_projector, models)) => compare(&models, &fold, &mut findings)?,
            Err(error) => findings.add(READ_MODELS, None, chain(&error)),
        }
    }
    let expected = Expected { cluster_key, root: None };
    findings.compare(LOG, &fold, &expected);
    Ok(Report::new(&fold, findings, &expected, None))
}

/// Folds all records; false where one stops the fold.
async fn fold_all(log: &dyn EventLog, fold: &mut Fold, findings: &mut Findings, progress: impl Fn(Sequence, Sequence)) -> Result<bool> {
    let head = log.head().await?;
    let mut has_seen_fault = false;
    while fold.size() < head {
        let records = log.read_range(fold.size().next(), RUN_RECORDS_MAX).await?;
        ensure!(!records.is_empty(), "the log ends after {} records, before its own head {head}", fold.size());
        for record in records {
            match fold.add(&record.subject, &record.bytes) {
                Ok(Some(fault)) if !has_seen_fault => {
                    has_seen_fault = true;
                    findings.add(LOG, Some(record.sequence), fault.to_string());
                }
                Ok(_) => {}
                Err(error) => {
                    findings.add(LOG, Some(record.sequence), format!("{}; what follows was not folded", chain(&error)));
                    return Ok(false);
                }
            }
        }
        progress(fold.size(), head);
    }
    Ok(true)
}

/// Compares position, root and every row that has not moved on since the models' position.
fn compare(models: &ReadModels, fold: &Fold, findings: &mut Findings) -> Result<()> {
    let position = models.position();
    if fold.root_at(position.sequence).is_some_and(|root| root != position.root) {
        let problem = format!("the read models have the root {}, the log has another", position.root);
        findings.add(READ_MODELS, Some(position.sequence), problem);
    }
    let due = fold.streams().iter().filter(|(_, row)| row.head.sequence <= position.sequence);
    for (stream, row) in due {
        let (aggregate, head) = models.load(stream)?;
        if (head, &aggregate) != (row.head, &row.aggregate) {
            let problem = format!("the read models' row of {stream} is not what the records lead to");
            findings.add(READ_MODELS, Some(row.head.sequence), problem);
        }
    }
    for (sequence, (reason, _)) in fold.voids().range(..=position.sequence) {
        if models.void(*sequence)? != Some(*reason) {
            findings.add(
                READ_MODELS,
                Some(*sequence),
                format!("the record is void ({}), the read models have it otherwise", reason.as_str()),
            );
        }
    }
    Ok(())
}
