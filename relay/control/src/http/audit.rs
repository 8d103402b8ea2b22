//! `/audit/export`: the log up to this node's position, with what the node believes it means, signed.

use std::collections::BTreeSet;
use std::io::{self, Write as _};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use event_log::merkle;
use projector::Position;
use schemas::aggregate::{ApplyError, Head, apply_record};
use schemas::record::Frame;
use schemas::{Aggregate, Digest, Record, Sequence, Stream, Version};
use thiserror::Error;
use tokio::runtime::Handle;

use super::app::App;
use super::conventions::Caller;
use super::error::{ApiError, ReadProblems};
use super::outpour::{self, Chunks};
use crate::audit::{Claims, Export, StateRow};

/// Records of one read of the log.
const READ_RECORDS: usize = 1024;

/// Export the log up to this node's position, as a tar stream of signed files for `keyrelay audit verify`.
#[utoipa::path(get, path = "/audit/export", tag = "log", operation_id = "export_audit",
    responses((status = 200, content_type = "application/x-tar", body = String), ReadProblems))]
pub(super) async fn export(State(app): State<App>, _caller: Caller) -> Result<Response, ApiError> {
    let (position, runtime) = (app.models.position(), Handle::current());
    let body = outpour::body("export", move |out| write(&app, &runtime, position, out));
    let headers =
        [(header::CONTENT_TYPE, "application/x-tar"), (header::CONTENT_DISPOSITION, "attachment; filename=\"keyrelay-export.tar\"")];
    Ok((headers, body).into_response())
}

/// Why an export broke off.
#[derive(Debug, Error)]
enum ExportError {
    #[error("the export cannot be written")]
    Write(#[from] io::Error),
    #[error("the log cannot be read")]
    Log(#[from] event_log::ReadError),
    #[error("the read models cannot be read")]
    Models(#[from] projector::ReadError),
    #[error("record {0} was judged valid and cannot be read")]
    Unreadable(Sequence),
    #[error("a record cannot be applied")]
    Apply(#[from] ApplyError),
    #[error("the read models have no cluster")]
    NotFounded,
}

fn write(app: &App, runtime: &Handle, position: Position, out: Chunks) -> Result<(), ExportError> {
    let Some(Aggregate::Cluster(cluster)) = app.models.load(&Stream::CLUSTER)?.0 else { return Err(ExportError::NotFounded) };
    let created_at = app.now();
    let mut export = Export::begin(out, created_at)?;
    let mut streams = BTreeSet::new();
    let mut from = Sequence(1);
    while from <= position.sequence {
        let records = runtime.block_on(app.log.read_range(from, READ_RECORDS))?;
        for record in records.iter().take_while(|record| record.sequence <= position.sequence) {
            export.record(&record.subject, &record.bytes)?;
            streams.extend(Stream::from_subject(&record.subject));
            if let Some(reason) = app.models.void(record.sequence)? {
                let leaf = Digest::from_bytes(merkle::leaf_of_void(&record.subject, &record.bytes));
                export.row(&StateRow::Void { sequence: record.sequence, reason, leaf })?;
            }
        }
        from = records.last().ok_or(ExportError::Unreadable(from))?.sequence.next();
    }
    for stream in streams {
        let (aggregate, head) = load_at(app, runtime, &stream, position.sequence)?;
        export.row(&StateRow::Stream { stream, head, aggregate })?;
    }
    let writer = app.commands.writer();
    let claims =
        Claims { cluster: cluster.id, cluster_public_key: cluster.public_key, root: position.root, writer: writer.id(), created_at };
    export.finish(claims, |statement| writer.sign_statement(statement))?.flush()?;
    Ok(())
}

/// The row of a stream as it was at a sequence: the read model's own, or where that has moved on since, the fold of its records.
fn load_at(app: &App, runtime: &Handle, stream: &Stream, at: Sequence) -> Result<(Option<Aggregate>, Head), ExportError> {
    let (aggregate, head) = app.models.load(stream)?;
    if head.sequence <= at {
        return Ok((aggregate, head));
    }
    let (mut aggregate, mut head) = (None, Head { version: Version(0), sequence: Sequence::ZERO });
    loop {
        let records = runtime.block_on(app.log.read_subject(&stream.subject(), head.sequence, READ_RECORDS))?;
        for record in &records {
            if record.sequence > at {
                return Ok((aggregate, head));
            }
            head.sequence = record.sequence;
            if app.models.void(record.sequence)?.is_none() {
                let unreadable = ExportError::Unreadable(record.sequence);
                let Some(decoded) = decode(&record.bytes) else { return Err(unreadable) };
                aggregate = apply_record(aggregate, &decoded)?;
                head.version = decoded.header.version;
            }
        }
        if records.is_empty() {
            return Ok((aggregate, head));
        }
    }
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let frame = Frame::parse(bytes).ok()?;
    Some(Record { header: frame.header().ok()?, events: frame.events().ok()? })
}
