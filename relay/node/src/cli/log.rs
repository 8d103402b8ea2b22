//! `keyrelay log`: where the log stands, what is in it, and whether it is whole.

use clap::{Args, Subcommand};
use http_body_util::BodyExt as _;
use schemas::{Digest, PublicKey, Sequence};
use serde::Deserialize;
use serde_json::Value;

use super::audit::conclude;
use super::client::{Call, Client};
use super::failure::Failure;
use super::output::Output;
use super::render::{self, Field};
use super::resource::rows;
use super::{progress, stream};
use crate::audit::{self, Expected};
use crate::layout::Layout;

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Show the log's head and root
    Head,
    /// Read events, oldest first
    Read(Read),
    /// Fold the whole log again here and compare it with what the node believes
    Verify(Verify),
    /// Fold the node's read models anew from the log, beside those in use, and put them in their place
    Rebuild(super::rebuild::Rebuild),
    /// Move a stopped node's log, with its secrets and usage, into NATS JetStream or back, byte for byte; of a running node, copy ahead
    Migrate(super::migrate::Migrate),
}

#[derive(Debug, Args)]
pub(super) struct Read {
    /// The first sequence
    #[arg(long, value_name = "SEQUENCE", default_value_t = 1)]
    from: u64,
    /// Records, at most 1000
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "follow")]
    limit: usize,
    /// Only one stream, such as default.key.key_…, or the id of a key, an upstream, a credential or a pool
    #[arg(long)]
    stream: Option<String>,
    /// Go on with what comes; with --json one event on each line
    #[arg(long)]
    follow: bool,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Trust this cluster public key (64 hexadecimal digits) and not the log's own founding
    #[arg(long, value_name = "HEX")]
    cluster_key: Option<PublicKey>,
    /// Open the log in the data directory itself; the node must not be running
    #[arg(long)]
    pub(super) offline: bool,
}

/// Where the node says that the log stands.
#[derive(Deserialize)]
struct LogHead {
    position: Sequence,
    root: Digest,
}

const HEAD: [Field; 7] = [
    ("cluster", "/cluster"),
    ("node", "/node"),
    ("head", "/head"),
    ("position", "/position"),
    ("root", "/root"),
    ("void", "/void"),
    ("sync", "/sync"),
];
const EVENTS: [Field; 6] =
    [("sequence", "/sequence"), ("time", "/time"), ("type", "/type"), ("stream", "/stream"), ("version", "/version"), ("void", "/void")];

pub(super) async fn run(command: LogCommand, client: &Client, output: &mut Output) -> Result<(), Failure> {
    match command {
        LogCommand::Head => {
            let answer = client.send(Call::get(&["log"])).await?;
            output.answer(&answer, |answer| render::block(answer, &HEAD))
        }
        LogCommand::Read(args) if args.follow => follow(args, client, output).await,
        LogCommand::Read(Read { from, limit, stream, .. }) => {
            let call = Call::get(&["events"]).query("from", Some(from)).query("limit", Some(limit)).query("stream", stream);
            let page = client.send(call).await?;
            output.answer(&page, |page| render::table(rows(page, "events"), &EVENTS))?;
            match page["next"].as_u64() {
                Some(next) if !output.is_json() => output.note(&format!("There is more: --from {next}")),
                _ => {}
            }
            Ok(())
        }
        LogCommand::Verify(args) => verify(args, client, output).await,
        LogCommand::Rebuild(args) => super::rebuild::run(args, client, output).await,
        LogCommand::Migrate(_) => unreachable!("a migration needs no node and was run before"),
    }
}

/// Prints events as they come, until the node goes or the reader of our output does.
async fn follow(args: Read, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let call = Call::get(&["events"]).query("from", Some(args.from)).query("follow", Some(true)).query("stream", args.stream);
    let mut body = client.open(call).await?.into_body();
    let mut unread = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(anyhow::Error::from).map_err(|error| error.context("the connection to the node was lost"))?;
        unread.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            for event in events_of(&line) {
                let text = if output.is_json() { event.to_string() } else { one_line(&event) };
                output.line(&text)?;
            }
        }
    }
    Ok(())
}

/// The events in one line of a server-sent stream: its `data` is a list; other lines have none.
fn events_of(line: &[u8]) -> Vec<Value> {
    line.strip_prefix(b"data:").and_then(|data| serde_json::from_slice(data).ok()).unwrap_or_default()
}

fn one_line(event: &Value) -> String {
    let cells = EVENTS.iter().filter_map(|(_, pointer)| Some(render::cell(Some(event.pointer(pointer)?))));
    cells.collect::<Vec<_>>().join("  ")
}

/// Takes the log from the node, folds it here, and compares it with what the node signed and with what it had said before.
async fn verify(args: Verify, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let head = client.send(Call::get(&["log"])).await?;
    let LogHead { position, root } = serde_json::from_value(head).map_err(anyhow::Error::from)?;
    let body = client.open(Call::get(&["audit", "export"])).await?.into_body();
    let expected = Expected { cluster_key: args.cluster_key, root: Some((position, root)) };
    let bar = progress::records(position.0);
    let report = stream::drive(body, move |body| audit::verify_stream(body, expected, |size| bar.set_position(size.0))).await?;
    conclude(&report.map_err(anyhow::Error::from)?, output)
}

/// Folds the log of a stopped node, and compares it with the read models beside it.
pub(super) async fn verify_offline(args: &Verify, layout: &Layout, output: &mut Output) -> Result<(), Failure> {
    let bar = progress::records(0);
    let progress = |size: Sequence, head: Sequence| {
        bar.set_length(head.0);
        bar.set_position(size.0);
    };
    let report = audit::verify_data(layout.data(), args.cluster_key, progress).await?;
    bar.finish_and_clear();
    conclude(&report, output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_in_a_server_sent_stream() {
        assert_eq!(events_of(b"data: [{\"sequence\":3,\"type\":\"KeyCreated\"},{\"sequence\":3}]\n").len(), 2);
        assert!(events_of(b"id: 3\n").is_empty() && events_of(b"\n").is_empty() && events_of(b": keep-alive\n").is_empty());
        let event = serde_json::json!({ "sequence": 3, "type": "KeyCreated", "stream": "default.key.x" });
        assert_eq!(one_line(&event), "3  KeyCreated  default.key.x");
    }
}
