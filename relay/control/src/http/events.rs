//! `/events`: the log, record by record, as JSON.

use std::convert::Infallible;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use event_log::Stored;
use futures_util::{StreamExt as _, stream};
use schemas::record::Frame;
use schemas::{
    Actor, BindingId, CommandId, CredentialId, Event, KeyId, LoginId, PoolId, RecordId, Sequence, Stream, TenantId, Timestamp, UpstreamId,
    Version, VoidReason, WriterId,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::app::App;
use super::conventions::{Caller, Params, limit};
use super::error::{ApiError, ReadProblems};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// The first sequence of the page; 1 if not given.
    #[serde(default)]
    #[param(minimum = 1)]
    from: Option<u64>,
    /// Records of a page, at most 1000. A record's events are never cut apart.
    #[serde(default)]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
    /// Only the records of one stream of any tenant (`default.key.key_…`), or of the tenant's key, upstream, credential, pool or login with this id.
    #[serde(default)]
    stream: Option<String>,
    /// Go on with what comes, as server-sent events, one per record.
    #[serde(default)]
    follow: bool,
}

/// One event, or one void record.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum EventView {
    Event(Box<OneEvent>),
    Void {
        sequence: Sequence,
        /// Why the record is void; it changed nothing.
        void: VoidReason,
    },
}

#[derive(Debug, Serialize, ToSchema)]
struct OneEvent {
    sequence: Sequence,
    /// The event's place in its record, from 0.
    index: usize,
    stream: Stream,
    /// The aggregate's id: `key_…`, `up_…`.
    id: String,
    version: Version,
    /// `KeyCreated`, `KeyRevoked`, ...
    r#type: &'static str,
    schema_version: u8,
    time: Timestamp,
    actor: Actor,
    command_id: CommandId,
    record_id: RecordId,
    writer: WriterId,
    /// The event's fields, as its JSON Schema in `schemas/json` has them.
    #[schema(value_type = Object)]
    data: serde_json::Value,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventPage {
    events: Vec<EventView>,
    /// `from` of the next page; null when this page reaches the end of what is applied.
    next: Option<Sequence>,
    as_of: Sequence,
}

/// Read events, oldest first. The log is one for all tenants, and the owner's: a tenant that is named says only whose an id is.
#[utoipa::path(get, path = "/events", tag = "log", operation_id = "list_events", params(EventsQuery),
    responses((status = 200, description = "A page, or with `follow` a stream of server-sent events", content((EventPage = "application/json"), (String = "text/event-stream"))), ReadProblems))]
pub(super) async fn list(State(app): State<App>, caller: Caller, Params(query): Params<EventsQuery>) -> Result<Response, ApiError> {
    let from = Sequence(query.from.unwrap_or(1).max(1));
    let stream = query.stream.as_deref().map(|text| parse_stream(&caller.tenant, text)).transpose()?;
    if query.follow {
        return follow(app, from, stream).await;
    }
    let (limit, as_of) = (limit(query.limit)?, app.position());
    let mut records = match &stream {
        None => app.log.read_range(from, limit).await?,
        Some(stream) => app.log.read_subject(&stream.subject(), Sequence(from.0 - 1), limit).await?,
    };
    records.retain(|record| record.sequence <= as_of);
    let last = records.last().map(|record| record.sequence);
    let next = last.filter(|last| records.len() == limit && *last < as_of).map(Sequence::next);
    let mut events = Vec::with_capacity(records.len());
    for record in &records {
        events.extend(views(&app, record)?);
    }
    Ok(Json(EventPage { events, next, as_of }).into_response())
}

/// Every record from a sequence on, as it is applied here; ends when the client leaves or the node stops.
async fn follow(app: App, from: Sequence, only: Option<Stream>) -> Result<Response, ApiError> {
    let batches = app.log.read(from).await?;
    let subject = only.map(|stream| stream.subject());
    let mut ready = app.ready.clone();
    let stopping = async move {
        // Both waits end early only with the node itself.
        ready.wait_for(|is_ready| *is_ready).await.map(drop).ok();
        ready.wait_for(|is_ready| !*is_ready).await.map(drop).ok();
    };
    let messages = batches
        .take_while(|batch| std::future::ready(batch.is_ok()))
        .flat_map(|batch| stream::iter(batch.unwrap_or_default()))
        .filter(move |record| std::future::ready(subject.as_ref().is_none_or(|subject| **subject == *record.subject)))
        .filter_map(move |record| {
            let app = app.clone();
            async move {
                let mut position = app.models.subscribe();
                position.wait_for(|applied| *applied >= record.sequence).await.ok()?;
                let views = views(&app, &record).ok()?;
                let event = axum::response::sse::Event::default().id(record.sequence.to_string()).json_data(views).ok()?;
                Some(Ok::<_, Infallible>(event))
            }
        });
    Ok(Sse::new(messages.take_until(Box::pin(stopping))).keep_alive(KeepAlive::default()).into_response())
}

/// The events of one stored record that is applied here.
fn views(app: &App, stored: &Stored) -> Result<Vec<EventView>, ApiError> {
    let sequence = stored.sequence;
    if let Some(void) = app.models.void(sequence)? {
        return Ok(vec![EventView::Void { sequence, void }]);
    }
    // What was judged valid can be read; a record that cannot is shown as what it is to a reader without its verdict.
    let unreadable = || vec![EventView::Void { sequence, void: VoidReason::Unframed }];
    let Ok(frame) = Frame::parse(&stored.bytes) else { return Ok(unreadable()) };
    let (Ok(header), Ok(events)) = (frame.header(), frame.events()) else { return Ok(unreadable()) };
    let view = |(index, event): (usize, Event)| {
        EventView::Event(Box::new(OneEvent {
            sequence,
            index,
            stream: header.stream.clone(),
            id: header.stream.id_text(),
            version: header.version,
            r#type: event.name(),
            schema_version: event.schema_version(),
            time: header.time,
            actor: header.actor,
            command_id: header.command_id,
            record_id: header.record_id,
            writer: header.writer,
            data: data(&event),
        }))
    };
    Ok(events.into_iter().enumerate().map(view).collect())
}

/// The fields of an event, without its name.
fn data(event: &Event) -> serde_json::Value {
    match serde_json::to_value(event) {
        Ok(serde_json::Value::Object(mut members)) => members.remove("data").unwrap_or_default(),
        _ => serde_json::Value::Null,
    }
}

/// A stream's full name, or the id of something that belongs to the tenant.
fn parse_stream(tenant: &TenantId, text: &str) -> Result<Stream, ApiError> {
    let by_id = || {
        let tenant = tenant.clone();
        if let Ok(id) = text.parse::<KeyId>() {
            Some(Stream::key(tenant, id))
        } else if let Ok(id) = text.parse::<UpstreamId>() {
            Some(Stream::upstream(tenant, id))
        } else if let Ok(id) = text.parse::<CredentialId>() {
            Some(Stream::credential(tenant, id))
        } else if let Ok(id) = text.parse::<BindingId>() {
            Some(Stream::binding(tenant, id))
        } else if let Ok(id) = text.parse::<LoginId>() {
            Some(Stream::login(tenant, id))
        } else {
            text.parse::<PoolId>().ok().map(|id| Stream::pool(tenant, id))
        }
    };
    let stream = text.parse().ok().or_else(by_id);
    stream.ok_or_else(|| ApiError::BadRequest("stream is a stream such as default.key.key_…, or an id".to_owned()))
}
