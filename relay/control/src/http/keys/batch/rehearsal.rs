//! A dry run: what each item would change, decided as it would be and appended nowhere.

use std::collections::BTreeMap;

use projector::Versioned;
use schemas::aggregate::At;
use schemas::key::{Key, KeyCommand, NewSecret, SecretScheme};
use schemas::{Aggregate, Command, Context, Digest, apply, decide};
use serde::Serialize;
use serde_json::Value;

use super::item::{Deed, Item, Plan, Target, told};
use super::{ItemLine, Outcome};
use crate::commands::ExecuteError;
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::keys::{KeyChange, NewKey, change, creation, view};
use crate::tenants;

/// Members of a key that would be others, by name.
#[derive(Debug, Serialize)]
pub(in crate::http) struct Difference {
    /// The events that would be recorded.
    events: Vec<&'static str>,
    members: BTreeMap<String, Change>,
}

#[derive(Debug, Serialize)]
struct Change {
    from: Value,
    to: Value,
}

/// Rehearses one item.
pub(super) async fn rehearse(app: &App, plan: &Plan, item: Item) -> ItemLine {
    let outcome = difference(app, plan, &item).await;
    told(item, outcome)
}

async fn difference(app: &App, plan: &Plan, item: &Item) -> Result<ItemLine, ApiError> {
    let id = plan.key_id(item)?;
    let stream = plan.stream(id);
    // A text would be sealed for good, so it is told beside what the command does.
    let mut description = None;
    let command = match (&plan.deed, &item.target) {
        (Deed::Create(body), Target::New { name, .. }) => {
            description = body.description.clone();
            let body = NewKey { name: name.clone(), description: None, ..body.clone() };
            creation(app, &stream, &body, NewSecret { hash: Digest::from_bytes([0; 32]), scheme: SecretScheme::Issued }).await?
        }
        (Deed::Create(_), _) => return Err(ApiError::NotFound("such key")),
        (Deed::Change(body), _) => {
            description = body.description.clone().flatten();
            change(app, &stream, &KeyChange { description: body.description.as_ref().map(|_| None), ..body.clone() }).await?
        }
        (Deed::Renew { term, enable }, _) => KeyCommand::Renew { term: *term, enable: *enable },
        (Deed::Disable(_), _) => KeyCommand::Disable { reason: None },
        (Deed::Enable, _) => KeyCommand::Enable,
        (Deed::Revoke(_), _) => KeyCommand::Revoke { reason: None },
        (Deed::Archive(_), _) => KeyCommand::Archive { reason: None },
        (Deed::Restore, _) => KeyCommand::Restore,
        (Deed::Purge, _) => KeyCommand::Purge,
    };
    let (now, actor, is_new) = (app.now(), plan.actor, matches!(plan.deed, Deed::Create(_)));
    let worked_out = app.blocking(move |app| -> Result<ItemLine, ApiError> {
        let (state, head) = app.models.load(&stream)?;
        let before = match &state {
            Some(Aggregate::Key(key)) => members(app, key, head.version)?,
            _ => BTreeMap::new(),
        };
        let name_before = match &state {
            Some(Aggregate::Key(key)) => Some(key.details.name.clone()),
            _ => None,
        };
        let events = decide(state.as_ref(), &Command::Key(command), &Context { now, actor }).map_err(ExecuteError::Rejected)?;
        tenants::check_expiry(&app.models, &stream, &events, now)?;
        let at = At { time: now, actor };
        let after = events.iter().try_fold(state, |state, event| apply(state, &stream, event, &at).map(Some));
        let Some(Some(Aggregate::Key(key))) = after.ok() else { return Err(ApiError::NotFound("such key")) };
        let mut after = members(app, &key, head.version)?;
        if let Some(text) = description {
            after.insert("description".to_owned(), text.into());
        }
        let changes = after.into_iter().filter_map(|(name, to)| {
            let from = before.get(&name).cloned().unwrap_or_default();
            (from != to).then_some((name, Change { from, to }))
        });
        let members: BTreeMap<_, _> = changes.collect();
        let outcome = if events.is_empty() && members.is_empty() { Outcome::Unchanged } else { Outcome::Changed };
        let difference = Difference { events: events.iter().map(schemas::Event::name).collect(), members };
        // Of a key that would be purged nothing else is left.
        let name = if key.is_purged() { name_before } else { Some(key.details.name) };
        let status = if is_new { 201 } else { 200 };
        Ok(ItemLine { id: (!is_new).then(|| id.to_string()), name, status, outcome, difference: Some(difference), ..ItemLine::default() })
    });
    worked_out.await?
}

/// What the API shows of a key, without what every command moves.
fn members(app: &App, key: &Key, version: schemas::Version) -> Result<BTreeMap<String, Value>, ApiError> {
    let view = view(app, &Versioned { value: key.clone(), version })?;
    let Ok(Value::Object(members)) = serde_json::to_value(view) else { return Ok(BTreeMap::new()) };
    Ok(members.into_iter().collect())
}
