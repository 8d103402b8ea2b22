//! A line of an upstream, and the credential that comes with it.

use projector::ReadError;
use schemas::credential::{Credential, CredentialAdded, CredentialCommand};
use schemas::upstream::{Upstream, UpstreamCommand, UpstreamDetails, UpstreamImport, UpstreamLabels, UpstreamPatch, origin};
use schemas::{Aggregate, Command, Stream};
use vault::{Lifetime, Sealing, SecretAddress};
use zeroize::Zeroizing;

use super::{Import, Outcome, Pass, PrepareError, Prepared, Step};
use crate::http::{canonical_base_url, secret_address};
use crate::session_cookie::{self, is_session_cookie};
use crate::transfer::line::UpstreamLine;

impl Import {
    pub(super) fn upstream_line(&self, line: &UpstreamLine, pass: Pass, prepared: &mut Prepared) -> Result<(), PrepareError> {
        let id = self.upstream(line.id);
        let stream = Stream::upstream(line.tenant.clone(), id);
        let here = self.here(&stream)?;
        let before = match &here.state {
            Some(Aggregate::Upstream(upstream)) if here.is_there => Some(&**upstream),
            _ => None,
        };
        let base_url = canonical_base_url(&line.base_url).map_err(|error| PrepareError::line("bad_base_url", error.to_string()))?;
        let origin = origin(&base_url).unwrap_or_default().to_owned();
        let command_id = self.command_id(&stream, prepared.number, &here);
        let secret = line.credential.as_ref().map(|text| self.text("upstream", line.id, "credential", text)).transpose()?;
        if secret.as_ref().is_some_and(|secret| secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(PrepareError::line("bad_credential", "a credential is visible ASCII characters"));
        }
        if secret.as_ref().is_some_and(|secret| is_session_cookie(secret)) {
            return Err(PrepareError::line("bad_credential", session_cookie::REFUSED));
        }
        let held = before.map(|upstream| self.live_credential(upstream)).transpose()?.flatten();
        let kept = held.as_ref().filter(|credential| {
            let is_same = |secret: &Zeroizing<String>| credential.fingerprint == self.app.vault.fingerprint(secret.as_bytes());
            // A sanitised file does not say what the credential is, and none says it of a grant.
            credential.origin == origin && secret.as_ref().map_or(self.head().sanitized || credential.grant.is_some(), is_same)
        });
        let new = secret.as_ref().filter(|_| kept.is_none()).map(|_| command_id.new_credential_id());
        let credential = kept.map(|credential| credential.id).or(new);
        let details = UpstreamDetails {
            name: line.name.clone(),
            dialect: line.dialect,
            base_url,
            pool: self.pool(line.pool),
            priority: line.priority,
            weight: line.weight,
            models: line.models.clone(),
        };
        let labels = UpstreamLabels { region: line.region.clone(), tags: line.tags.clone() };
        let withheld = self.head().sanitized && credential.is_none();
        let disabled = match &line.disabled {
            Some(fact) => {
                Some(self.reason(&stream, "upstream", line.id, "disabled", fact, pass, before.is_none_or(|b| b.disabled.is_none()))?)
            }
            None => withheld.then_some(None),
        };
        let merge = before.map(|upstream| merge_upstream(upstream, &details, &labels, new));
        let import = UpstreamImport { details, labels, credential, disabled };
        let command = Command::Upstream(UpstreamCommand::Import(Box::new(import)));
        let judged = self.judge(
            &stream,
            prepared.number,
            &here,
            command,
            merge.map(|patch| Command::Upstream(UpstreamCommand::Change(Box::new(patch)))),
        )?;
        (prepared.outcome, prepared.detail) = (judged.outcome, judged.detail);
        if withheld && judged.outcome == Outcome::Created {
            prepared.detail = Some("disabled: it has no credential".to_owned());
        }
        if !matches!(judged.outcome, Outcome::Created | Outcome::Changed) {
            return Ok(());
        }
        let credential_after = match &judged.command {
            Command::Upstream(UpstreamCommand::Import(import)) => import.credential,
            Command::Upstream(UpstreamCommand::Change(patch)) => patch.credential.unwrap_or(held.as_ref().map(|held| held.id)),
            _ => None,
        };
        if let (Some(secret), Some(new)) = (&secret, new.filter(|new| credential_after == Some(*new))) {
            let address = secret_address(&line.tenant, new, 1, &origin);
            if pass == Pass::Apply {
                self.seal(&address, secret)?;
            }
            let added = CredentialAdded { upstream: id, origin, fingerprint: self.app.vault.fingerprint(secret.as_bytes()) };
            prepared.steps.push(Step {
                command_id: command_id.step("credential"),
                stream: Stream::credential(line.tenant.clone(), new),
                command: Command::Credential(CredentialCommand::Add(added)),
                if_version: None,
            });
        }
        prepared.steps.push(Step { command_id, stream, command: judged.command, if_version: Some(here.head.version) });
        if let Some(held) = held.filter(|held| Some(held.id) != credential_after) {
            prepared.erase = Some(secret_address(&line.tenant, held.id, held.secret_version, &held.origin));
            prepared.steps.push(Step {
                command_id: command_id.step("revocation"),
                stream: Stream::credential(line.tenant.clone(), held.id),
                command: Command::Credential(CredentialCommand::Revoke),
                if_version: None,
            });
        }
        Ok(())
    }

    fn live_credential(&self, upstream: &Upstream) -> Result<Option<Credential>, ReadError> {
        let Some(id) = upstream.credential else { return Ok(None) };
        match self.app.models.load(&Stream::credential(upstream.tenant.clone(), id))?.0 {
            Some(Aggregate::Credential(credential)) if !credential.revoked => Ok(Some(credential)),
            _ => Ok(None),
        }
    }

    fn seal(&self, address: &SecretAddress, secret: &str) -> Result<(), PrepareError> {
        let vault = &self.app.vault;
        match vault.seal(address, secret.as_bytes(), Lifetime::lasting(self.app.now()))? {
            Sealing::Sealed => Ok(()),
            Sealing::Exists if vault.unseal(address)?.as_slice() == secret.as_bytes() => Ok(()),
            Sealing::Exists => Err(PrepareError::line("credential_taken", "another secret is sealed in this one's place")),
        }
    }
}

/// What an upstream that is here does not have, and the file does.
fn merge_upstream(
    upstream: &Upstream,
    details: &UpstreamDetails,
    labels: &UpstreamLabels,
    credential: Option<schemas::CredentialId>,
) -> UpstreamPatch {
    // A secret goes only where it was entered for.
    let is_same_base = upstream.details.base_url == details.base_url;
    UpstreamPatch {
        models: upstream.details.models.is_empty().then(|| details.models.clone()),
        region: upstream.labels.region.is_none().then(|| labels.region.clone()),
        tags: upstream.labels.tags.is_empty().then(|| labels.tags.clone()),
        credential: credential.filter(|_| upstream.credential.is_none() && is_same_base).map(Some),
        ..UpstreamPatch::default()
    }
}
