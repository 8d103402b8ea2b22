//! `keyrelay audit`: exports, and their verification without a node.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use schemas::PublicKey;
use serde_json::json;

use super::client::{Call, Client};
use super::failure::Failure;
use super::output::Output;
use super::{progress, render, stream};
use crate::audit::{self, Anchor, Expected, Report};

/// Void records that are shown to people; `--json` has all.
const VOIDS_SHOWN: usize = 20;

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Write the log and what the node believes it means into a folder, signed
    Export(Export),
    /// Verify such a folder: bytes, digests, signatures, enrolment, versions, root and state. Needs no node and no network
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// A folder that is not there, or is empty
    directory: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    directory: PathBuf,
    /// Trust this cluster public key (64 hexadecimal digits) and not the export's own founding
    #[arg(long, value_name = "HEX")]
    cluster_key: Option<PublicKey>,
}

pub(super) async fn export(args: Export, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let body = client.open(Call::get(&["audit", "export"])).await?.into_body();
    let (directory, bar) = (args.directory.clone(), progress::unbounded());
    let unpacked = stream::drive(body, move |body| {
        let unpacked = audit::unpack(bar.wrap_read(body), &directory);
        bar.finish_and_clear();
        unpacked
    });
    let manifest = unpacked.await?.map_err(anyhow::Error::from)?;
    let directory = args.directory.display().to_string();
    let answer = json!({ "directory": directory, "size": manifest.size, "root": manifest.root, "writer": manifest.writer });
    output.answer(&answer, |_| {
        let size = manifest.size;
        format!("{size} records are in {directory}. Verify them anywhere with: keyrelay audit verify {directory}")
    })
}

pub(super) fn verify(args: Verify, output: &mut Output) -> Result<(), Failure> {
    let unreadable = || format!("cannot read {}", args.directory.display());
    let bar = progress::bytes(audit::directory_bytes(&args.directory).with_context(unreadable)?);
    let expected = Expected { cluster_key: args.cluster_key, root: None };
    let report = audit::verify_directory(&args.directory, expected, |bytes| bar.inc(bytes)).with_context(unreadable)?;
    bar.finish_and_clear();
    conclude(&report, output)
}

/// Prints a report; findings are exit code 1.
pub(super) fn conclude(report: &Report, output: &mut Output) -> Result<(), Failure> {
    output.answer(report, text)?;
    if report.ok { Ok(()) } else { Err(Failure::Findings) }
}

fn text(report: &Report) -> String {
    let shown = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let records = format!(
        "{}, {} valid and {} void, with {} events on {} streams",
        report.size, report.valid, report.void, report.events, report.streams
    );
    let anchor = match report.anchor {
        Anchor::ClusterKey => "the cluster key that was given".to_owned(),
        Anchor::OwnFounding => "the log's own founding: give --cluster-key to tell it from another log made from scratch".to_owned(),
    };
    let mut pairs = vec![
        ("cluster", shown(report.cluster.map(|id| id.to_string()))),
        ("cluster key", shown(report.cluster_public_key.map(|key| key.to_string()))),
        ("anchor", anchor),
        ("records", records),
        ("root", report.root.to_string()),
    ];
    if let (Some(writer), Some(created_at)) = (report.writer, report.created_at) {
        pairs.push(("signed by", format!("{writer} at {created_at}")));
    }
    let mut lines = vec![render::pairs(&pairs)];
    let voids = report.voids.iter().take(VOIDS_SHOWN);
    lines.extend(voids.map(|void| format!("void: sequence {} ({})", void.sequence, void.reason.as_str())));
    if report.voids.len() > VOIDS_SHOWN {
        lines.push(format!("void: {} more", report.voids.len() - VOIDS_SHOWN));
    }
    lines.extend(report.findings.iter().map(|finding| format!("FINDING: {finding}")));
    if report.findings_more > 0 {
        lines.push(format!("FINDING: {} more", report.findings_more));
    }
    lines.push(if report.ok { "good: no findings" } else { "NOT GOOD" }.to_owned());
    lines.join("\n")
}
