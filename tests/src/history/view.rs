//! The log as one place shows it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use event_log::merkle::{Frontier, leaf_of_valid, leaf_of_void};
use event_log::{EventLog, RUN_RECORDS_MAX, Stored};
use schemas::Sequence;
use schemas::record::Frame;
use serde_json::Value;

use crate::Admin;
use crate::admin::Used;

/// The log as a node or the log itself shows it.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Who shows it.
    pub name: String,
    /// In the order in which they were shown.
    pub records: Vec<Record>,
    /// The last sequence that is applied, and the root there.
    pub position: u64,
    pub root: Option<String>,
    /// By key; none where nobody counts.
    pub usage: Option<BTreeMap<String, Used>>,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub sequence: u64,
    /// Why it is void, if who shows it says so; nothing else is known of it then.
    pub void: Option<String>,
    pub stream: String,
    pub version: u64,
    pub command: String,
    pub events: Vec<String>,
}

impl View {
    /// The log, the root and the usage as a node shows them.
    pub async fn of_node(name: &str, admin: &Admin) -> Result<Self> {
        let log = admin.get("/log").await?.success()?;
        let usage = admin.get("/usage?group_by=key").await?.success()?;
        let row = |row: &Value| Some((row["key"].as_str()?.to_owned(), Used::parse(row)));
        Ok(Self {
            name: name.to_owned(),
            records: records(&admin.events().await?)?,
            position: log["position"].as_u64().context("a position")?,
            root: log["root"].as_str().map(str::to_owned),
            usage: Some(usage["usage"].as_array().into_iter().flatten().filter_map(row).collect()),
        })
    }

    /// The bytes as a log keeps them. It judges nothing: which records are void another view says, and the root follows from that.
    pub async fn of_log(name: &str, log: &dyn EventLog, judged: &Self) -> Result<Self> {
        let head = log.head().await?;
        let (mut records, mut tree) = (Vec::new(), Frontier::default());
        while (records.len() as u64) < head.0 {
            let run = log.read_range(Sequence(records.len() as u64 + 1), RUN_RECORDS_MAX).await?;
            ensure!(!run.is_empty(), "{name} ends at {} before its head {head}", records.len());
            for stored in run {
                let void = judged.records.get(records.len()).and_then(|record| record.void.as_deref());
                let (record, leaf) = Record::of_stored(&stored, void);
                records.push(record);
                tree.push(leaf);
            }
        }
        let root = Some(tree.root().to_string());
        Ok(Self { name: name.to_owned(), records, position: head.0, root, usage: None })
    }
}

impl Record {
    fn void(sequence: u64, reason: &str) -> Self {
        let (stream, command) = (String::new(), String::new());
        Self { sequence, void: Some(reason.to_owned()), stream, version: 0, command, events: Vec::new() }
    }

    /// A stored record and its leaf in the tree.
    fn of_stored(stored: &Stored, void: Option<&str>) -> (Self, [u8; 32]) {
        let sequence = stored.sequence.0;
        let as_void = |reason| (Self::void(sequence, reason), leaf_of_void(&stored.subject, &stored.bytes));
        if let Some(reason) = void {
            return as_void(reason);
        }
        let Ok(frame) = Frame::parse(&stored.bytes) else { return as_void("unframed") };
        let (Ok(header), Ok(events)) = (frame.header(), frame.events()) else { return as_void("unreadable") };
        let record = Self {
            sequence,
            void: None,
            stream: header.stream.to_string(),
            version: header.version.0,
            command: header.command_id.to_string(),
            events: events.iter().map(|event| event.name().to_owned()).collect(),
        };
        (record, leaf_of_valid(&frame))
    }
}

/// Puts the events of `GET /events` together to the records they came in.
fn records(events: &[Value]) -> Result<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    for event in events {
        let sequence = event["sequence"].as_u64().with_context(|| format!("no sequence in {event}"))?;
        if let Some(reason) = event["void"].as_str() {
            records.push(Record::void(sequence, reason));
            continue;
        }
        let text = |name: &str| event[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {event}"));
        let index = event["index"].as_u64().with_context(|| format!("no index in {event}"))?;
        if index > 0 {
            let record = records.last_mut().filter(|record| record.sequence == sequence).context("an event without its record")?;
            ensure!(record.events.len() as u64 == index, "an event is missing before {event}");
            record.events.push(text("type")?);
            continue;
        }
        records.push(Record {
            sequence,
            void: None,
            stream: text("stream")?,
            version: event["version"].as_u64().with_context(|| format!("no version in {event}"))?,
            command: text("command_id")?,
            events: vec![text("type")?],
        });
    }
    Ok(records)
}
