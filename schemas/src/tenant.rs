//! Tenants: whom keys, upstreams and pools belong to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::event::Event;
use crate::id::TenantId;
use crate::name::{self, NameError};
use crate::stream::Stream;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantCreated {
    /// For people; the tenant's id is its stream's.
    pub name: String,
}

/// The state of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantCommand {
    Create { name: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TenantError {
    #[error("the tenant exists already")]
    Exists,
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Tenant {
    pub(crate) fn decide(state: Option<&Self>, command: &TenantCommand) -> Result<Vec<Event>, TenantError> {
        match (state, command) {
            (Some(_), TenantCommand::Create { .. }) => Err(TenantError::Exists),
            (None, TenantCommand::Create { name }) => {
                name::check("name", name)?;
                Ok(vec![Event::TenantCreated(TenantCreated { name: name.clone() })])
            }
        }
    }

    pub(crate) fn apply(state: Option<Self>, stream: &Stream, event: &Event) -> Option<Self> {
        match (state, event) {
            (None, Event::TenantCreated(created)) => Some(Self { id: stream.tenant().clone(), name: created.name.clone() }),
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
        rules::given(Stream::tenant_of(tenant()), events)
    }

    fn created() -> Event {
        Event::TenantCreated(TenantCreated { name: "Default".into() })
    }

    fn create(name: &str) -> Command {
        Command::Tenant(TenantCommand::Create { name: name.into() })
    }

    #[test]
    fn a_tenant_is_created_once() {
        given([]).when(create("Default")).then([created()]).when(create("Default")).then_refused(TenantError::Exists);
    }

    #[test]
    fn a_tenant_needs_a_clean_name() {
        given([]).when(create("")).then_refused(TenantError::Name(NameError::Empty { field: "name" }));
    }
}
