//! What all aggregates have in common: one state type, one `decide`, one `apply`.
//!
//! `decide` turns a command into events or refuses it; `apply` folds one event into the state. Live nodes, rebuilds and audits call
//! the same two functions.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::actor::Actor;
use crate::binding::{Binding, BindingCommand, BindingError};
use crate::cluster::{Cluster, ClusterCommand, ClusterError};
use crate::credential::{Credential, CredentialCommand, CredentialError};
use crate::event::Event;
use crate::key::{Key, KeyCommand, KeyError};
use crate::login::{Login, LoginCommand, LoginError};
use crate::policy::{Policy, PolicyCommand, PolicyError};
use crate::pool::{Pool, PoolCommand, PoolError};
use crate::record::{Record, Sequence, Version};
use crate::stream::{Stream, StreamKind};
use crate::tenant::{Tenant, TenantCommand, TenantError};
use crate::time::Timestamp;
use crate::upstream::{Upstream, UpstreamCommand, UpstreamError};
use crate::writer::{Writer, WriterCommand, WriterError};

/// The state of any aggregate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aggregate {
    Cluster(Cluster),
    Writer(Writer),
    Tenant(Box<Tenant>),
    Key(Box<Key>),
    Upstream(Box<Upstream>),
    Credential(Credential),
    Pool(Pool),
    Policy(Box<Policy>),
    Binding(Box<Binding>),
    Login(Box<Login>),
}

/// Where a stream stands: what the next append to it expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Head {
    /// The number of valid records.
    pub version: Version,
    /// The last record on the subject, void ones included; 0 if there is none.
    pub sequence: Sequence,
}

/// What a decision knows besides the state.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// The time that the record's header will carry.
    pub now: Timestamp,
    pub actor: Actor,
}

/// What an event's record says about it.
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub time: Timestamp,
    pub actor: Actor,
}

/// A request to change one aggregate, which may be refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Cluster(ClusterCommand),
    Writer(WriterCommand),
    Tenant(TenantCommand),
    Key(KeyCommand),
    Upstream(UpstreamCommand),
    Credential(CredentialCommand),
    Pool(PoolCommand),
    Policy(PolicyCommand),
    Binding(BindingCommand),
    Login(LoginCommand),
}

impl Command {
    /// The kind of stream this command can be decided on.
    pub const fn stream_kind(&self) -> StreamKind {
        match self {
            Self::Cluster(_) => StreamKind::Cluster,
            Self::Writer(_) => StreamKind::Writer,
            Self::Tenant(_) => StreamKind::Tenant,
            Self::Key(_) => StreamKind::Key,
            Self::Upstream(_) => StreamKind::Upstream,
            Self::Credential(_) => StreamKind::Credential,
            Self::Pool(_) => StreamKind::Pool,
            Self::Policy(_) => StreamKind::Policy,
            Self::Binding(_) => StreamKind::Binding,
            Self::Login(_) => StreamKind::Login,
        }
    }
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejection {
    #[error("the command does not belong to a stream of this kind")]
    WrongStream,
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Writer(#[from] WriterError),
    #[error(transparent)]
    Tenant(#[from] TenantError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Binding(#[from] BindingError),
    #[error(transparent)]
    Login(#[from] LoginError),
}

/// An event that cannot follow on the state it met. No `decide` of any release produces one; the fold stops at it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{event} cannot follow on the state of {stream}")]
pub struct ApplyError {
    pub stream: Stream,
    pub event: &'static str,
}

/// Decides a command on a state. No events means that the state already is as asked.
pub fn decide(state: Option<&Aggregate>, command: &Command, context: &Context) -> Result<Vec<Event>, Rejection> {
    use Aggregate as A;
    Ok(match (command, state) {
        (Command::Cluster(command), None) => Cluster::decide(None, command, context)?,
        (Command::Cluster(command), Some(A::Cluster(state))) => Cluster::decide(Some(state), command, context)?,
        (Command::Writer(command), None) => Writer::decide(None, command)?,
        (Command::Writer(command), Some(A::Writer(state))) => Writer::decide(Some(state), command)?,
        (Command::Tenant(command), None) => Tenant::decide(None, command)?,
        (Command::Tenant(command), Some(A::Tenant(state))) => Tenant::decide(Some(state), command)?,
        (Command::Key(command), None) => Key::decide(None, command, context)?,
        (Command::Key(command), Some(A::Key(state))) => Key::decide(Some(state), command, context)?,
        (Command::Upstream(command), None) => Upstream::decide(None, command)?,
        (Command::Upstream(command), Some(A::Upstream(state))) => Upstream::decide(Some(state), command)?,
        (Command::Credential(command), None) => Credential::decide(None, command, context)?,
        (Command::Credential(command), Some(A::Credential(state))) => Credential::decide(Some(state), command, context)?,
        (Command::Pool(command), None) => Pool::decide(None, command)?,
        (Command::Pool(command), Some(A::Pool(state))) => Pool::decide(Some(state), command)?,
        (Command::Policy(command), None) => Policy::decide(None, command)?,
        (Command::Policy(command), Some(A::Policy(state))) => Policy::decide(Some(state), command)?,
        (Command::Binding(command), None) => Binding::decide(None, command)?,
        (Command::Binding(command), Some(A::Binding(state))) => Binding::decide(Some(state), command)?,
        (Command::Login(command), None) => Login::decide(None, command, context)?,
        (Command::Login(command), Some(A::Login(state))) => Login::decide(Some(state), command, context)?,
        _ => return Err(Rejection::WrongStream),
    })
}

/// Folds one event into the state of its stream.
pub fn apply(state: Option<Aggregate>, stream: &Stream, event: &Event, at: &At) -> Result<Aggregate, ApplyError> {
    use Aggregate as A;
    let applied = match (stream.kind(), state) {
        (StreamKind::Cluster, None) => Cluster::apply(None, event, at).map(A::Cluster),
        (StreamKind::Cluster, Some(A::Cluster(state))) => Cluster::apply(Some(state), event, at).map(A::Cluster),
        (StreamKind::Writer, None) => Writer::apply(None, event).map(A::Writer),
        (StreamKind::Writer, Some(A::Writer(state))) => Writer::apply(Some(state), event).map(A::Writer),
        (StreamKind::Tenant, None) => Tenant::apply(None, stream, event, at).map(|tenant| A::Tenant(Box::new(tenant))),
        (StreamKind::Tenant, Some(A::Tenant(state))) => {
            Tenant::apply(Some(*state), stream, event, at).map(|tenant| A::Tenant(Box::new(tenant)))
        }
        (StreamKind::Key, None) => Key::apply(None, stream, event, at).map(|key| A::Key(Box::new(key))),
        (StreamKind::Key, Some(A::Key(state))) => Key::apply(Some(*state), stream, event, at).map(|key| A::Key(Box::new(key))),
        (StreamKind::Upstream, None) => Upstream::apply(None, stream, event, at).map(|upstream| A::Upstream(Box::new(upstream))),
        (StreamKind::Upstream, Some(A::Upstream(state))) => {
            Upstream::apply(Some(*state), stream, event, at).map(|upstream| A::Upstream(Box::new(upstream)))
        }
        (StreamKind::Credential, None) => Credential::apply(None, stream, event, at).map(A::Credential),
        (StreamKind::Credential, Some(A::Credential(state))) => Credential::apply(Some(state), stream, event, at).map(A::Credential),
        (StreamKind::Pool, None) => Pool::apply(None, stream, event, at).map(A::Pool),
        (StreamKind::Pool, Some(A::Pool(state))) => Pool::apply(Some(state), stream, event, at).map(A::Pool),
        (StreamKind::Policy, None) => Policy::apply(None, stream, event, at).map(|policy| A::Policy(Box::new(policy))),
        (StreamKind::Policy, Some(A::Policy(state))) => {
            Policy::apply(Some(*state), stream, event, at).map(|policy| A::Policy(Box::new(policy)))
        }
        (StreamKind::Binding, None) => Binding::apply(None, stream, event, at).map(|binding| A::Binding(Box::new(binding))),
        (StreamKind::Binding, Some(A::Binding(state))) => {
            Binding::apply(Some(*state), stream, event, at).map(|binding| A::Binding(Box::new(binding)))
        }
        (StreamKind::Login, None) => Login::apply(None, stream, event, at).map(|login| A::Login(Box::new(login))),
        (StreamKind::Login, Some(A::Login(state))) => Login::apply(Some(*state), stream, event, at).map(|login| A::Login(Box::new(login))),
        _ => None,
    };
    applied.ok_or_else(|| ApplyError { stream: stream.clone(), event: event.name() })
}

/// Folds all events of a valid record into the state of its stream.
pub fn apply_record(state: Option<Aggregate>, record: &Record) -> Result<Option<Aggregate>, ApplyError> {
    let at = At { time: record.header.time, actor: record.header.actor };
    record.events.iter().try_fold(state, |state, event| apply(state, &record.header.stream, event, &at).map(Some))
}
