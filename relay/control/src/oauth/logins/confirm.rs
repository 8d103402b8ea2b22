//! From a confirmed login to a credential, and to an upstream where the login makes one.
//!
//! The confirmation is recorded first. What follows has ids that come from the login's, so that confirming again, on any node, goes on where
//! a crash has left it and never makes anything twice.

use schemas::credential::grant::CredentialAuthorized;
use schemas::credential::{Credential, CredentialAdded, CredentialCommand, CredentialReplaced};
use schemas::login::{Login, LoginCommand, LoginExchanged, LoginState};
use schemas::upstream::{UpstreamCommand, UpstreamPatch, origin};
use schemas::{Actor, Aggregate, Command, CommandId, CredentialId, LoginId, Stream, TenantId};
use vault::{GrantSecret, Lifetime, Sealing, SecretAddress};
use zeroize::Zeroizing;

use super::super::flow;
use super::super::problem::LoginProblem;
use super::Logins;
use crate::commands::Request;
use crate::http::secret_address;
use crate::{ExecuteError, Receipt};

/// The command under which a login's upstream and credential are made.
pub(super) fn command_id(tenant: &TenantId, actor: &Actor, id: LoginId) -> CommandId {
    CommandId::of(tenant, actor, &format!("confirmation of {id}"))
}

impl Logins {
    /// Says that the account is the right one, and uses it. Gives the confirmed login and the record of its upstream.
    pub(crate) async fn confirm(&self, request: Request) -> Result<(Login, Receipt), LoginProblem> {
        let login = self.show(&request).await?;
        if matches!(login.state, LoginState::Exchanged(_)) && login.overdue((self.parts().clock)()).is_some() {
            return Err(LoginProblem::StateExpired);
        }
        let confirmed = self.execute(Request { command: Command::Login(LoginCommand::Confirm), ..request.clone() }).await?;
        let Aggregate::Login(login) = confirmed.aggregate else { return Err(LoginProblem::NotFound) };
        let LoginState::Confirmed(exchanged) = login.state.clone() else { return Err(LoginProblem::NotExchanged) };
        let this = self.clone();
        self.owned(async move {
            let receipt = this.finish(&request, &login, &exchanged).await?;
            this.abandon(&login).await;
            Ok((*login, receipt))
        })
        .await
    }

    async fn finish(&self, request: &Request, login: &Login, exchanged: &LoginExchanged) -> Result<Receipt, LoginProblem> {
        let id = command_id(&login.tenant, &login.by, login.id);
        let base = Request {
            command_id: id,
            // Nobody's request but the login's own: whoever confirms again is to find the same commands.
            request_digest: self.parts().vault.keyed_digest(login.id.as_bytes()),
            if_version: None,
            ..request.clone()
        };
        let stream = Stream::upstream(login.tenant.clone(), login.started.upstream);
        let upstream = match self.parts().models.load(&stream)?.0 {
            Some(Aggregate::Upstream(upstream)) if !upstream.removed => Some(upstream),
            _ => None,
        };
        let base_url = match (&upstream, &login.started.creates) {
            (Some(upstream), _) => upstream.details.base_url.clone(),
            (None, Some(details)) => details.base_url.clone(),
            (None, None) => return Err(LoginProblem::Bad("the upstream was removed meanwhile".to_owned())),
        };
        let origin = origin(&base_url).unwrap_or_default().to_owned();
        let held = match upstream.as_ref().and_then(|upstream| upstream.credential) {
            Some(held) => self.held(&login.tenant, held)?.filter(|held| held.origin == origin),
            None => None,
        };
        let credential = self.credential(&base, login, exchanged, held.as_ref(), &origin).await?;
        let command = match (&login.started.creates, upstream) {
            (Some(details), _) => UpstreamCommand::Add {
                details: Box::new(details.clone()),
                labels: login.started.labels.clone(),
                credential: Some(credential),
            },
            (None, _) => {
                UpstreamCommand::Change(Box::new(UpstreamPatch { credential: Some(Some(credential)), ..UpstreamPatch::default() }))
            }
        };
        self.execute(Request { command_id: id.step("upstream"), stream, command: Command::Upstream(command), ..base }).await
    }

    fn held(&self, tenant: &TenantId, id: CredentialId) -> Result<Option<Credential>, LoginProblem> {
        Ok(match self.parts().models.load(&Stream::credential(tenant.clone(), id))?.0 {
            Some(Aggregate::Credential(credential)) if !credential.revoked => Some(credential),
            _ => None,
        })
    }

    /// Seals the tokens where the upstream will look for them, records them, and destroys what they replace.
    async fn credential(
        &self,
        base: &Request,
        login: &Login,
        exchanged: &LoginExchanged,
        held: Option<&Credential>,
        origin: &str,
    ) -> Result<CredentialId, LoginProblem> {
        let step = base.command_id.step("credential");
        if let Some(row) = self.parts().models.command(&step)? {
            return Ok(CredentialId::from_bytes(*row.stream.id()));
        }
        let (tenant, id) = (login.tenant.clone(), login.id);
        let bytes = self.vault(move |vault| flow::waiting_grant(vault, &tenant, id)).await?.map_err(flow::FlowError::Unseal)?;
        let Some(bytes) = bytes else {
            // Another node may have confirmed at the same time, and destroyed what it had used.
            let row = self.parts().models.command(&step)?.ok_or(LoginProblem::GrantGone)?;
            return Ok(CredentialId::from_bytes(*row.stream.id()));
        };
        let grant = GrantSecret::from_bytes(&bytes).map_err(|_| LoginProblem::GrantGone)?;
        let fingerprint = self.parts().vault.fingerprint(grant.access_token.as_bytes());
        let authorized = CredentialAuthorized {
            provider: login.started.provider.clone(),
            account: exchanged.account.clone(),
            scopes: exchanged.scopes.clone(),
            expires_at: exchanged.token_expires_at,
            is_refreshable: exchanged.is_refreshable,
        };
        let (id, version) = held.map_or((base.command_id.new_credential_id(), 1), |held| (held.id, held.next_secret_version()));
        let address = secret_address(&login.tenant, id, version, origin);
        if !self.seal(address, bytes).await? {
            return Err(LoginProblem::Execute(ExecuteError::Contention));
        }
        let command = match held {
            Some(_) => CredentialCommand::ReplaceGrant(CredentialReplaced { secret_version: version, fingerprint }, authorized),
            None => {
                let added = CredentialAdded { upstream: login.started.upstream, origin: origin.to_owned(), fingerprint };
                CredentialCommand::AddGrant(added, authorized)
            }
        };
        let stream = Stream::credential(login.tenant.clone(), id);
        self.execute(Request { command_id: step, stream, command: Command::Credential(command), ..base.clone() }).await?;
        if let Some(held) = held {
            let before = secret_address(&login.tenant, held.id, held.secret_version, origin);
            self.vault(move |vault| vault.erase(&before)).await??;
        }
        Ok(id)
    }

    /// Seals where nothing was sealed before; false if something else stands there.
    async fn seal(&self, address: SecretAddress, bytes: Zeroizing<Vec<u8>>) -> Result<bool, LoginProblem> {
        let now = (self.parts().clock)();
        let sealed =
            self.vault(move |vault| match vault.seal(&address, &bytes, Lifetime::lasting(now)).map_err(flow::FlowError::Seal)? {
                Sealing::Sealed => Ok(true),
                Sealing::Exists => Ok(*vault.unseal(&address).map_err(flow::FlowError::Unseal)? == *bytes),
            });
        sealed.await?
    }
}
