//! What is here and not in the file. A key is archived, which can be undone; upstreams, pools and bindings are removed.

use std::collections::HashSet;

use projector::ReadError;
use schemas::binding::BindingCommand;
use schemas::key::KeyCommand;
use schemas::pool::PoolCommand;
use schemas::upstream::UpstreamCommand;
use schemas::{Aggregate, Command, CommandId, PoolId, Stream, StreamKind, Version};

use super::file::Kind;
use super::import::{Import, Outcome};
use super::line::Line;
use super::objects::{PrepareError, Prepared, Step};
use crate::http::secret_address;

impl Import {
    /// What is to go, referrers first. Blocks.
    pub(crate) fn to_prune(&self) -> Result<Vec<Prepared>, PrepareError> {
        let mut kept = HashSet::new();
        let mut lines = self.staged.lines().map_err(|error| PrepareError::line("internal", error.to_string()))?;
        while let Some(raw) = lines.next().map_err(|error| PrepareError::line("internal", error.to_string()))? {
            match self.parse(&raw)? {
                Line::Pool(line) if line.removed => false,
                Line::Pool(line) => kept.insert(*self.pool(line.id).as_bytes()),
                Line::Upstream(line) => kept.insert(*self.upstream(line.id).as_bytes()),
                Line::Key(line) => kept.insert(*line.id.as_bytes()),
                Line::Binding(line) => kept.insert(*line.id.as_bytes()),
                Line::Tenant(_) | Line::Price(_) | Line::Policy(_) | Line::Usage(_) => false,
            };
        }
        kept.insert(*self.app.cluster_id.default_pool_id().as_bytes());
        // A pool stays as long as an upstream stands in it.
        let routes = self.app.models.routes();
        let stays = |id: &[u8; 16]| kept.contains(id) || !self.head().has(Kind::Upstreams);
        let upstreams = routes.upstreams.iter().map(|route| &route.upstream).filter(|upstream| stays(upstream.id.as_bytes()));
        let held: HashSet<PoolId> = upstreams.map(|upstream| upstream.details.pool).collect();
        let kinds = [
            (Kind::Bindings, StreamKind::Binding),
            (Kind::Keys, StreamKind::Key),
            (Kind::Upstreams, StreamKind::Upstream),
            (Kind::Pools, StreamKind::Pool),
        ];
        let tenant = self.scope.as_ref().map(|scope| &scope.into);
        let found = self.app.models.of_one_moment(tenant, |whole| {
            let mut found = Vec::new();
            for (kind, stream_kind) in kinds.into_iter().filter(|(kind, _)| self.head().has(*kind)) {
                for aggregate in whole.aggregates(stream_kind) {
                    let aggregate = aggregate?;
                    let is_held = matches!(&aggregate.value, Aggregate::Pool(pool) if held.contains(&pool.id));
                    if let Some((stream, command, revocation)) = removal(&aggregate.value, &kept).filter(|_| !is_held) {
                        found.push(self.pruned(kind, stream, command, revocation, aggregate.version)?);
                    }
                }
            }
            Ok::<_, ReadError>(found)
        });
        Ok(found??)
    }

    fn pruned(
        &self,
        kind: Kind,
        stream: Stream,
        command: Command,
        revocation: Option<Stream>,
        version: Version,
    ) -> Result<Prepared, ReadError> {
        let command_id = CommandId::of(stream.tenant(), &self.actor(), &format!("prune {} {}", stream.subject(), version.0));
        let request_digest = self.app.vault.keyed_digest(stream.subject().as_bytes());
        let id = stream.to_string();
        let id = id.rsplit('.').next().unwrap_or_default().to_owned();
        let erase = match &revocation {
            Some(credential) => match self.app.models.load(credential)?.0 {
                Some(Aggregate::Credential(held)) => Some(secret_address(&held.tenant, held.id, held.secret_version, &held.origin)),
                _ => None,
            },
            None => None,
        };
        let mut steps = vec![Step { command_id, stream, command, if_version: Some(version) }];
        steps.extend(revocation.map(|stream| Step {
            command_id: command_id.step("revocation"),
            stream,
            command: Command::Credential(schemas::credential::CredentialCommand::Revoke),
            if_version: None,
        }));
        Ok(Prepared { number: 0, kind, id, outcome: Outcome::Pruned, detail: None, steps, request_digest, erase, module: None })
    }
}

/// The command that takes an object away, if it is not kept, and the credential that goes with it.
fn removal(aggregate: &Aggregate, kept: &HashSet<[u8; 16]>) -> Option<(Stream, Command, Option<Stream>)> {
    match aggregate {
        Aggregate::Key(key) if !key.is_purged() && key.archived.is_none() && !kept.contains(key.id.as_bytes()) => {
            Some((Stream::key(key.tenant.clone(), key.id), Command::Key(KeyCommand::Archive { reason: None }), None))
        }
        Aggregate::Upstream(upstream) if !upstream.removed && !kept.contains(upstream.id.as_bytes()) => {
            let credential = upstream.credential.map(|id| Stream::credential(upstream.tenant.clone(), id));
            let stream = Stream::upstream(upstream.tenant.clone(), upstream.id);
            Some((stream, Command::Upstream(UpstreamCommand::Remove), credential))
        }
        Aggregate::Pool(pool) if !pool.removed && !kept.contains(pool.id.as_bytes()) => {
            Some((Stream::pool(pool.tenant.clone(), pool.id), Command::Pool(PoolCommand::Remove), None))
        }
        Aggregate::Binding(binding) if !binding.removed && !kept.contains(binding.id.as_bytes()) => {
            Some((Stream::binding(binding.tenant.clone(), binding.id), Command::Binding(BindingCommand::Remove), None))
        }
        _ => None,
    }
}
