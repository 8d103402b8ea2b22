//! What a batch does, to which keys, and what one of them came to.

use projector::Versioned;
use schemas::key::{Expiry, Key, KeyCommand, KeyState, NewSecret, SecretScheme, Term};
use schemas::{Actor, Aggregate, Command, CommandId, Digest, KeyId, Sequence, Stream, TenantId, Timestamp, Version, client_key};
use serde::Serialize;
use zeroize::Zeroizing;

use super::pattern::NamePattern;
use super::{Batch, ITEMS_MAX, ItemLine, Outcome};
use crate::commands::{Commands, Receipt, Request};
use crate::http::app::App;
use crate::http::conventions::{Mutation, Reason, term};
use crate::http::error::ApiError;
use crate::http::keys::life::purged;
use crate::http::keys::listing::KeyChoice;
use crate::http::keys::{KeyChange, NewKey, Renewal, change, creation, key_of, parse_id, seal_text};
use crate::secrets::BatchSeed;

/// How much of a text that is no id is told.
const TEXT_CHARACTERS_MAX: usize = 64;

/// What is done to each key.
pub(super) enum Deed {
    Create(NewKey),
    Change(KeyChange),
    /// The same time for all, whenever their turn comes.
    Renew {
        term: Term,
        enable: bool,
    },
    Disable(Option<String>),
    Enable,
    Revoke(Option<String>),
    Archive(Option<String>),
    Restore,
    Purge,
}

/// A batch that was found to make sense.
pub(super) struct Plan {
    pub(super) tenant: TenantId,
    pub(super) actor: Actor,
    batch: CommandId,
    pub(super) request_digest: Digest,
    pub(super) deed: Deed,
    targets: Targets,
    /// Of a batch that creates keys for good.
    seed: Option<BatchSeed>,
}

enum Targets {
    New { count: usize, first: u64, names: NamePattern },
    Ids(Vec<String>),
    Choice(KeyChoice),
}

/// One key of a batch.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) index: usize,
    pub(super) target: Target,
}

#[derive(Debug, Clone)]
pub(super) enum Target {
    New {
        number: u64,
        name: String,
    },
    Key(KeyId),
    /// Something that is no key's id.
    Text(String),
}

/// A key after a command, as far as a line tells.
#[derive(Debug, Serialize)]
pub(in crate::http) struct After {
    state: KeyState,
    expires_at: Option<Timestamp>,
    version: Version,
    sequence: Sequence,
    /// False where this node's read models do not have the record yet.
    applied: bool,
}

impl Plan {
    pub(super) async fn of(app: &App, mutation: Mutation<Batch>) -> Result<Self, ApiError> {
        let Mutation { caller, body, command_id: batch, request_digest, .. } = mutation;
        let Batch { create, change, renew, disable, enable, revoke, archive, restore, purge, keys, filter, dry_run } = body;
        let renewal = |to: Renewal| {
            let term = term(app.now(), to.expires_in, to.expires_at, to.expires, to.expires_after_first_use)?;
            Ok::<_, ApiError>(Deed::Renew { term, enable: to.enable })
        };
        let renew = renew.map(renewal).transpose()?;
        if create.as_ref().is_some_and(|create| create.key.secret.is_some()) {
            return Err(bad("a secret is brought to one key, not to many"));
        }
        let mut new = None;
        let create = create.map(|create| {
            new = Some((create.count, create.first, NamePattern::parse(&create.key.name)));
            Deed::Create(create.key)
        });
        let reason = |reason: Reason| reason.reason;
        let deeds = [
            create,
            change.map(Deed::Change),
            renew,
            disable.map(|why| Deed::Disable(reason(why))),
            enable.map(|_| Deed::Enable),
            revoke.map(|why| Deed::Revoke(reason(why))),
            archive.map(|why| Deed::Archive(reason(why))),
            restore.map(|_| Deed::Restore),
            purge.map(|_| Deed::Purge),
        ];
        let mut deeds = deeds.into_iter().flatten();
        let (Some(deed), None) = (deeds.next(), deeds.next()) else {
            return Err(bad("give exactly one of create, change, renew, disable, enable, revoke, archive, restore and purge"));
        };
        let targets = match (new, keys, filter) {
            (Some((count, ..)), None, None) if !(1..=ITEMS_MAX).contains(&count) => {
                return Err(bad(format!("count is 1 to {ITEMS_MAX}")));
            }
            (Some((_, _, None)), None, None) => {
                return Err(bad("the name is a pattern with one {n} in it, or {n:04} for at least four digits"));
            }
            (Some((count, first, Some(names))), None, None) => Targets::New { count, first, names },
            (None, Some(keys), None) if (1..=ITEMS_MAX).contains(&keys.len()) => Targets::Ids(keys),
            (None, Some(_), None) => return Err(bad(format!("keys are 1 to {ITEMS_MAX} ids"))),
            (None, None, Some(choice)) if choice.cursor.is_some() => return Err(bad("a filter has no cursor")),
            (None, None, Some(choice)) => Targets::Choice(choice),
            _ => return Err(bad("give either keys or a filter; a batch that creates keys has neither")),
        };
        let tenant = caller.tenant;
        let seed = match &deed {
            Deed::Create(_) if !dry_run => {
                let (tenant, now) = (tenant.clone(), app.now());
                Some(app.vault(move |vault| BatchSeed::of(vault, &tenant, batch.record_id(), now)).await??)
            }
            _ => None,
        };
        Ok(Self { tenant, actor: caller.actor, batch, request_digest, deed, targets, seed })
    }

    /// The keys it is about: a filter is resolved at one position.
    pub(super) async fn items(&self, app: &App) -> Result<Vec<Item>, ApiError> {
        let targets: Vec<Target> = match &self.targets {
            Targets::New { count, first, names } => {
                let numbers = (*first..).take(*count);
                numbers.map(|number| Target::New { number, name: names.name(number) }).collect()
            }
            Targets::Ids(texts) => {
                texts.iter().map(|text| parse_id(text).map_or_else(|_| Target::Text(text.clone()), Target::Key)).collect()
            }
            Targets::Choice(choice) => {
                let query = choice.query(app, &self.tenant, choice.limit.unwrap_or(usize::MAX))?;
                let ids = app.blocking(move |app| app.models.find_key_ids(&app.usage, &query)).await??;
                ids.into_iter().map(Target::Key).collect()
            }
        };
        Ok(targets.into_iter().enumerate().map(|(index, target)| Item { index, target }).collect())
    }

    /// The id of an item's command: what the item is about decides, not its place.
    pub(super) fn command_id(&self, item: &Item) -> CommandId {
        #[cfg(feature = "faults")]
        if crate::faults::is_planted("batch-by-place") {
            return self.batch.step(&format!("item {}", item.index));
        }
        match &item.target {
            Target::New { number, .. } => self.batch.step(&format!("key {number}")),
            Target::Key(id) => self.batch.step(&id.to_string()),
            Target::Text(text) => self.batch.step(text),
        }
    }

    /// The key of an item; for a new one, the id that it will have.
    pub(super) fn key_id(&self, item: &Item) -> Result<KeyId, ApiError> {
        match &item.target {
            Target::New { .. } => Ok(self.command_id(item).new_key_id()),
            Target::Key(id) => Ok(*id),
            Target::Text(_) => Err(ApiError::NotFound("such key")),
        }
    }

    pub(super) fn stream(&self, id: KeyId) -> Stream {
        Stream::key(self.tenant.clone(), id)
    }

    /// The command on one key, its texts sealed. `hash` is for a new one.
    async fn command(&self, app: &App, stream: &Stream, item: &Item, hash: Digest) -> Result<KeyCommand, ApiError> {
        Ok(match &self.deed {
            Deed::Create(body) => {
                let Target::New { name, .. } = &item.target else { return Err(ApiError::NotFound("such key")) };
                creation(app, stream, &NewKey { name: name.clone(), ..body.clone() }, NewSecret { hash, scheme: SecretScheme::Issued })
                    .await?
            }
            Deed::Change(body) => change(app, stream, body).await?,
            Deed::Renew { term, enable } => KeyCommand::Renew { term: *term, enable: *enable },
            Deed::Disable(reason) => KeyCommand::Disable { reason: seal_text(app, stream, reason.as_deref()).await? },
            Deed::Enable => KeyCommand::Enable,
            Deed::Revoke(reason) => KeyCommand::Revoke { reason: seal_text(app, stream, reason.as_deref()).await? },
            Deed::Archive(reason) => KeyCommand::Archive { reason: seal_text(app, stream, reason.as_deref()).await? },
            Deed::Restore => KeyCommand::Restore,
            Deed::Purge => KeyCommand::Purge,
        })
    }

    async fn execute(&self, app: &App, item: &Item) -> Result<ItemLine, ApiError> {
        let id = self.key_id(item)?;
        let stream = self.stream(id);
        let secret = self.seed.as_ref().map(|seed| seed.client_key(id));
        let hash = secret.as_ref().map_or(Digest::from_bytes([0; 32]), |secret| client_key::hash(secret));
        let command = self.command(app, &stream, item, hash).await?;
        let request = Request {
            stream,
            command: Command::Key(command),
            actor: self.actor,
            command_id: self.command_id(item),
            request_digest: self.request_digest,
            if_version: None,
            deadline: Commands::deadline(),
        };
        if matches!(self.deed, Deed::Purge) {
            return purge(app, id, request).await;
        }
        let receipt = app.commands.execute(request).await?;
        let outcome = outcome(&receipt);
        let (sequence, applied) = (receipt.sequence, receipt.applied);
        let secret = match secret {
            // Once the 24 hours are over, the seed is another one, and its secrets are no key's.
            Some(secret) if outcome == Outcome::Repeated => self.shown_again(app, secret)?,
            secret => secret,
        };
        let Versioned { value: key, version } = key_of(receipt)?;
        let status = if matches!(self.deed, Deed::Create(_)) { 201 } else { 200 };
        let after = After { state: key.state(app.now()), expires_at: expires_at(&key), version, sequence, applied };
        Ok(ItemLine {
            id: Some(id.to_string()),
            name: Some(key.details.name),
            status,
            outcome,
            after: Some(after),
            secret,
            ..ItemLine::default()
        })
    }

    fn shown_again(&self, app: &App, secret: Zeroizing<String>) -> Result<Option<Zeroizing<String>>, ApiError> {
        Ok(app.models.key_by_hash(&client_key::hash(&secret))?.map(|_| secret))
    }
}

/// Purges one key, as the command alone does.
async fn purge(app: &App, id: KeyId, request: Request) -> Result<ItemLine, ApiError> {
    let (receipt, erased) = purged(app, request).await?;
    // Nothing is left of it but that it was there.
    let name = match &receipt.before {
        Some(Aggregate::Key(before)) if !before.is_purged() => Some(before.details.name.clone()),
        _ => None,
    };
    Ok(ItemLine { id: Some(id.to_string()), name, status: 200, outcome: outcome(&receipt), erased: Some(erased), ..ItemLine::default() })
}

const fn outcome(receipt: &Receipt) -> Outcome {
    match (receipt.recorded, receipt.repeated) {
        (false, _) => Outcome::Unchanged,
        (true, true) => Outcome::Repeated,
        (true, false) => Outcome::Changed,
    }
}

/// Does one item.
pub(super) async fn execute(app: &App, plan: &Plan, item: Item) -> ItemLine {
    let outcome = plan.execute(app, &item).await;
    told(item, outcome)
}

/// The line of an item, however it ended.
pub(super) fn told(item: Item, outcome: Result<ItemLine, ApiError>) -> ItemLine {
    let index = item.index;
    match outcome {
        Ok(line) => ItemLine { index, ..line },
        Err(error) => {
            let (status, code, detail) = error.told();
            let (id, name) = match item.target {
                Target::New { name, .. } => (None, Some(name)),
                Target::Key(id) => (Some(id.to_string()), None),
                Target::Text(text) => (Some(shortened(text)), None),
            };
            let (code, detail) = (Some(code), Some(detail));
            ItemLine { index, id, name, status: status.as_u16(), outcome: Outcome::Failed, code, detail, ..ItemLine::default() }
        }
    }
}

/// A text of the caller's, at most as much of it as tells it from others.
fn shortened(mut text: String) -> String {
    if text.chars().count() > TEXT_CHARACTERS_MAX {
        text = text.chars().take(TEXT_CHARACTERS_MAX).chain(['…']).collect();
    }
    text
}

const fn expires_at(key: &Key) -> Option<Timestamp> {
    match key.expiry {
        Expiry::Never => None,
        Expiry::At(at) => Some(at),
    }
}

fn bad(detail: impl Into<String>) -> ApiError {
    ApiError::BadRequest(detail.into())
}
