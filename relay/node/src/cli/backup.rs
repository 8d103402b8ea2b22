//! `keyrelay backup` and `keyrelay restore`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use schemas::DurationText;
use serde_json::json;

use super::client::{Call, Client};
use super::failure::Failure;
use super::output::Output;
use super::{Global, access, progress, render, stream};
use crate::backup::{self, BackupReport, Outcome, Restored, Step, Target};
use crate::config::{Config, Sources};
use crate::serve;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Backup {
    #[command(subcommand)]
    pub(super) command: Option<BackupCommand>,
    /// A file that is not there, or a folder, in which it gets a name of its own
    #[arg(long, value_name = "FILE|DIR", default_value = ".")]
    output: PathBuf,
    /// Then remove this cluster's backups in the folder that are older: 7d
    #[arg(long, value_name = "DURATION")]
    keep: Option<DurationText>,
}

#[derive(Debug, Subcommand)]
pub(super) enum BackupCommand {
    /// Prove a backup without restoring it: digests, every record, the root, secrets and modules. Findings are exit code 1, warnings
    /// about what a node can go on without are not. Needs no node and no network
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    file: PathBuf,
    /// Also open every secret that is in use with this root key
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    file: PathBuf,
    /// The cluster's root key, which becomes DIR/root.key [default: DIR/root.key, else vault.root_key_file from the environment]
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
}

/// Takes a backup from the running node.
pub(super) async fn take(args: Backup, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let target = Target::of(&args.output);
    // Before the node does any work.
    target.check()?;
    if args.keep.is_some() && matches!(target, Target::File(_)) {
        return Err(anyhow::anyhow!("--keep is about a folder of backups: give --output a folder").into());
    }
    let body = client.open(Call::get(&["backup"])).await?.into_body();
    let bar = progress::unbounded();
    let received = stream::drive(body, move |body| {
        let received = backup::receive(bar.wrap_read(body), &target);
        bar.finish_and_clear();
        received
    });
    let received = received.await??;
    let removed = match args.keep {
        Some(keep) => backup::prune(&received.path, &received.manifest, keep).context("older backups cannot be removed")?,
        None => Vec::new(),
    };
    let (manifest, file) = (&received.manifest, received.path.display().to_string());
    let removed: Vec<String> = removed.iter().map(|path| path.display().to_string()).collect();
    let answer = json!({
        "file": file, "bytes": received.bytes, "cluster": manifest.cluster, "sequence": manifest.sequence, "root": manifest.root,
        "created_at": manifest.created_at, "parts": manifest.parts, "removed": removed,
    });
    output.answer(&answer, |_| {
        let (sequence, bytes) = (manifest.sequence, received.bytes);
        let older = if removed.is_empty() { String::new() } else { format!(" {} older files were removed.", removed.len()) };
        format!("{sequence} records and what they refer to are in {file}, {bytes} bytes.{older} Prove it anywhere with: keyrelay backup verify {file}")
    })
}

pub(super) fn verify(args: Verify, output: &mut Output) -> Result<(), Failure> {
    let root_key = args.root_key.as_deref().map(backup::read_root_key).transpose()?;
    let unreadable = || format!("cannot read {}", args.file.display());
    let bar = progress::bytes(std::fs::metadata(&args.file).with_context(unreadable)?.len());
    let report = backup::verify(&args.file, root_key.as_ref(), |bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    conclude(&report, output)
}

/// Makes a data directory of a backup.
pub(super) async fn restore(
    args: Restore,
    global: &Global,
    environment: BTreeMap<String, String>,
    output: &mut Output,
) -> Result<(), Failure> {
    let data = access::layout(global, &environment).data().to_owned();
    let own = data.join("root.key");
    let root_key = match &args.root_key {
        Some(path) => Some(backup::read_root_key(path)?),
        None if own.exists() => Some(backup::read_root_key(&own)?),
        None => {
            let sources = Sources { file: None, environment, flags: Vec::new() };
            Config::load(sources).map_err(|faults| Failure::Failed(faults.into()))?.root_key()?
        }
    };
    let keep_root_key = args.root_key.is_some();
    let bar = Arc::new(Mutex::new(Bar::default()));
    let told = bar.clone();
    let progress = Arc::new(move |step| told.lock().unwrap_or_else(PoisonError::into_inner).show(step));
    let restore = backup::Restore { file: args.file, data: data.clone(), root_key, keep_root_key, clock: serve::clock() };
    let outcome = restore.run(progress).await;
    bar.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let restored = match outcome? {
        Outcome::Refused(report) => {
            output.note("The backup is not good, and nothing was restored.");
            return conclude(&report, output);
        }
        Outcome::Restored(restored) => restored,
    };
    let Restored {
        cluster,
        sequence,
        root,
        secrets,
        modules,
        usage_batches,
        usage_left_out,
        decision_batches,
        is_opened,
        warnings,
        warnings_more,
    } = restored;
    let data = data.display().to_string();
    let answer = json!({
        "data": data, "cluster": cluster, "sequence": sequence, "root": root, "key_store_entries": secrets, "modules": modules,
        "usage_batches": usage_batches, "usage_left_out": usage_left_out, "decision_batches": decision_batches, "secrets_opened": is_opened,
        "warnings": warnings, "warnings_more": warnings_more,
    });
    output.answer(&answer, |_| {
        let more = (warnings_more > 0).then(|| format!("WARNING: {warnings_more} more\n"));
        let warned: String = warnings.iter().map(|warning| format!("WARNING: {warning}\n")).chain(more).collect();
        let needs = if is_opened { "" } else { " It needs the cluster's root.key there, which nothing was checked against yet." };
        format!(
            "{warned}{sequence} records of cluster {cluster} are in {data}, root {root} as in the backup.{needs} Start it with keyrelay serve --data \
             {data}, and never again the node that was backed up. The owner token is the cluster's: keep it as {data}/owner.token or set \
             KEYRELAY_TOKEN."
        )
    })
}

/// Prints a report; findings are exit code 1, warnings alone are 0.
fn conclude(report: &BackupReport, output: &mut Output) -> Result<(), Failure> {
    output.answer(report, text)?;
    if report.ok { Ok(()) } else { Err(Failure::Findings) }
}

fn text(report: &BackupReport) -> String {
    let shown = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let opened = match report.secrets_opened {
        Some(0) if report.secrets > 0 && !report.ok => "none of them opened: the root key that was given does not fit".to_owned(),
        Some(opened) => format!("{opened} of them opened"),
        None => "none of them opened: give --root-key to try".to_owned(),
    };
    let unreadable = match report.usage_unreadable {
        0 => String::new(),
        count => format!(", {count} places unreadable on the node"),
    };
    let mut lines = vec![render::pairs(&[
        ("cluster", shown(report.cluster.map(|id| id.to_string()))),
        ("cluster key", shown(report.cluster_public_key.map(|key| key.to_string()))),
        ("taken", format!("{} by keyrelay {}", shown(report.created_at.map(|time| time.to_string())), shown(report.release.clone()))),
        ("records", format!("{}, {} valid and {} void", report.sequence, report.valid, report.void)),
        ("root", report.root.to_string()),
        ("secrets", format!("{} in use, {opened}", report.secrets)),
        ("modules", report.modules.to_string()),
        ("usage", format!("{} batches{unreadable}", report.usage_batches)),
        ("decisions", format!("{} batches", report.decision_batches)),
    ])];
    lines.extend(report.findings.iter().map(|finding| format!("FINDING: {finding}")));
    if report.findings_more > 0 {
        lines.push(format!("FINDING: {} more", report.findings_more));
    }
    lines.extend(report.warnings.iter().map(|warning| format!("WARNING: {warning}")));
    if report.warnings_more > 0 {
        lines.push(format!("WARNING: {} more", report.warnings_more));
    }
    let verdict = match (report.ok, report.warnings.is_empty()) {
        (true, true) => "good: no findings",
        (true, false) => "good, with warnings: it can be restored, and the cure of each is told",
        (false, _) => "NOT GOOD",
    };
    lines.push(verdict.to_owned());
    lines.join("\n")
}

/// A bar for each step of a restore.
#[derive(Default)]
struct Bar {
    shown: Option<(&'static str, ProgressBar)>,
}

impl Bar {
    fn show(&mut self, step: Step) {
        let (name, position, of, bar): (_, _, _, fn(u64) -> ProgressBar) = match step {
            Step::Verifying { bytes, of } => ("verifying", bytes, of, progress::bytes),
            Step::Restoring { bytes, of } => ("restoring", bytes, of, progress::bytes),
            Step::Folding { position, head } => ("judging", position.0, head.0, progress::records),
        };
        if self.shown.as_ref().is_none_or(|(shown, _)| *shown != name) {
            self.clear();
            self.shown = Some((name, bar(of).with_message(name)));
        }
        if let Some((_, bar)) = &self.shown {
            bar.set_position(position);
        }
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.shown.take() {
            bar.finish_and_clear();
        }
    }
}
