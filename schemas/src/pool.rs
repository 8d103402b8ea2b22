//! Pools: groups of upstreams. A key names the pools it may use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::aggregate::At;
use crate::event::Event;
use crate::id::{PoolId, TenantId};
use crate::name::{self, NameError};
use crate::stream::Stream;
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolCreated {
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolChanged {
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolRemoved {}

/// The state of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub id: PoolId,
    pub tenant: TenantId,
    pub name: String,
    pub created_at: Timestamp,
    pub removed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolCommand {
    Create { name: String },
    Change { name: String },
    Remove,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PoolError {
    #[error("the pool exists already")]
    Exists,
    #[error("there is no such pool")]
    NotFound,
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Pool {
    pub(crate) fn decide(state: Option<&Self>, command: &PoolCommand) -> Result<Vec<Event>, PoolError> {
        if let PoolCommand::Create { name } | PoolCommand::Change { name } = command {
            name::check("name", name)?;
        }
        match (state, command) {
            (None, PoolCommand::Create { name }) => Ok(vec![Event::PoolCreated(PoolCreated { name: name.clone() })]),
            (Some(_), PoolCommand::Create { .. }) => Err(PoolError::Exists),
            (None | Some(Self { removed: true, .. }), _) => Err(PoolError::NotFound),
            (Some(pool), PoolCommand::Change { name }) if pool.name == *name => Ok(vec![]),
            (Some(_), PoolCommand::Change { name }) => Ok(vec![Event::PoolChanged(PoolChanged { name: name.clone() })]),
            (Some(_), PoolCommand::Remove) => Ok(vec![Event::PoolRemoved(PoolRemoved {})]),
        }
    }

    pub(crate) fn apply(state: Option<Self>, stream: &Stream, event: &Event, at: &At) -> Option<Self> {
        match (state, event) {
            (None, Event::PoolCreated(created)) => Some(Self {
                id: PoolId::from_bytes(*stream.id()),
                tenant: stream.tenant().clone(),
                name: created.name.clone(),
                created_at: at.time,
                removed: false,
            }),
            (Some(pool), Event::PoolChanged(changed)) => Some(Self { name: changed.name.clone(), ..pool }),
            (Some(pool), Event::PoolRemoved(_)) => Some(Self { removed: true, ..pool }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Command;
    use crate::rules::{self, Given, tenant};

    fn given(events: impl IntoIterator<Item = Event>) -> Given {
        rules::given(Stream::pool(tenant(), PoolId::from_bytes([1; 16])), events)
    }

    fn created(name: &str) -> Event {
        Event::PoolCreated(PoolCreated { name: name.into() })
    }

    fn create(name: &str) -> Command {
        Command::Pool(PoolCommand::Create { name: name.into() })
    }

    fn change(name: &str) -> Command {
        Command::Pool(PoolCommand::Change { name: name.into() })
    }

    const REMOVE: Command = Command::Pool(PoolCommand::Remove);

    #[test]
    fn a_pool_is_created_renamed_and_removed() {
        given([])
            .when(create("default"))
            .then([created("default")])
            .when(change("fast"))
            .then([Event::PoolChanged(PoolChanged { name: "fast".into() })])
            .when(REMOVE)
            .then([Event::PoolRemoved(PoolRemoved {})]);
    }

    #[test]
    fn a_pool_is_created_once_even_after_it_was_removed() {
        given([created("a")]).when(create("a")).then_refused(PoolError::Exists);
        given([created("a"), Event::PoolRemoved(PoolRemoved {})]).when(create("a")).then_refused(PoolError::Exists);
    }

    #[test]
    fn the_same_name_again_changes_nothing() {
        given([created("a")]).when(change("a")).then_nothing();
    }

    #[test]
    fn a_pool_that_is_not_there_can_be_neither_changed_nor_removed() {
        for events in [vec![], vec![created("a"), Event::PoolRemoved(PoolRemoved {})]] {
            given(events.clone()).when(change("b")).then_refused(PoolError::NotFound);
            given(events).when(REMOVE).then_refused(PoolError::NotFound);
        }
    }

    #[test]
    fn a_pool_needs_a_clean_name() {
        given([]).when(create("")).then_refused(PoolError::Name(NameError::Empty { field: "name" }));
        given([created("a")]).when(change(" b")).then_refused(PoolError::Name(NameError::Untrimmed { field: "name" }));
    }
}
