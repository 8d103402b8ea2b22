//! From the provider's answer to tokens that wait to be confirmed.

use std::time::Duration;

use schemas::login::{LOGIN_SECONDS, Login, LoginCommand, LoginExchanged, LoginFailure, LoginFlow, LoginState};
use schemas::{Aggregate, Command, Stream};
use tokio::time::Instant;
use vault::{GrantSecret, Sealing};

use super::super::flow::{self, FlowSecret};
use super::super::problem::LoginProblem;
use super::super::provider::{OauthClient, Provider};
use super::super::token_client::{Account, Polled, TokenError, Tokens};
use super::{Logins, with};
use crate::commands::Request;
use crate::{ExecuteError, Receipt};

/// How much longer a provider wants to be left alone that says `slow_down` (RFC 8628, 3.5).
const SLOWER: Duration = Duration::from_secs(5);

impl Logins {
    /// Redeems a code that was taken by an append of this very call.
    pub(super) async fn exchange(&self, request: &Request, login: &Login, code: &str) -> Result<Receipt, LoginProblem> {
        let LoginFlow::Code { redirect_uri, .. } = &login.started.flow else { return Err(LoginProblem::StateUnknown) };
        let provider = self.provider(&login.started.provider)?;
        let flow = match self.flow_of(login).await {
            Ok(flow) => flow,
            Err(problem) => return Err(self.reopen(request, false, problem).await),
        };
        let (client, verifier) = (flow.client(), flow.verifier(&provider));
        match self.parts().tokens.exchange_code(&provider, &client, code, verifier, redirect_uri).await {
            Ok(tokens) => self.receive(request, login, &provider, &client, tokens).await,
            Err(error @ TokenError::NotSent(_)) => Err(self.reopen(request, false, error.into()).await),
            Err(error @ TokenError::RateLimited { .. }) => Err(self.reopen(request, true, error.into()).await),
            Err(error) => {
                let code = match &error {
                    TokenError::Unknown(_) => LoginFailure::OutcomeUnknown,
                    TokenError::InvalidGrant => LoginFailure::CodeRejected,
                    _ => LoginFailure::UpstreamInvalid,
                };
                Err(self.fail(request, code, error.into()).await)
            }
        }
    }

    /// Asks the provider whether the user has agreed. Sooner than it wants to be asked, the login is answered as it is.
    pub(crate) async fn poll(&self, request: Request) -> Result<Login, LoginProblem> {
        let login = self.show(&request).await?;
        match &login.state {
            LoginState::Open => {}
            LoginState::Failed(LoginFailure::Expired) => return Err(LoginProblem::StateExpired),
            LoginState::Failed(_) | LoginState::Cancelled => return Err(LoginProblem::Ended),
            LoginState::Consumed | LoginState::Exchanged(_) | LoginState::Confirmed(_) => return Ok(login),
        }
        if login.overdue((self.parts().clock)()).is_some() {
            return Err(self.fail(&request, LoginFailure::Expired, LoginProblem::StateExpired).await);
        }
        let provider = self.provider(&login.started.provider)?;
        let flow = self.flow_of(&login).await?;
        let device = flow.device.clone().ok_or(LoginProblem::StateUnknown)?;
        if !self.may_poll(&login, Duration::from_secs(device.interval_seconds)) {
            return Ok(login);
        }
        let (this, client) = (self.clone(), flow.client());
        self.owned(async move {
            match this.parts().tokens.device_poll(&provider, &client, &device.device_code).await? {
                Polled::Pending => Ok(login),
                Polled::SlowDown => {
                    this.slow_down(&login);
                    Ok(login)
                }
                Polled::Denied => {
                    let problem = LoginProblem::Denied("access_denied".to_owned());
                    Err(this.fail(&request, LoginFailure::Denied, problem).await)
                }
                Polled::Expired => Err(this.fail(&request, LoginFailure::Expired, LoginProblem::StateExpired).await),
                Polled::Done(tokens) => match this.receive(&request, &login, &provider, &client, *tokens).await?.aggregate {
                    Aggregate::Login(login) => Ok(*login),
                    _ => Err(LoginProblem::NotFound),
                },
            }
        })
        .await
    }

    /// Whether it is time; if so, the next time is later.
    fn may_poll(&self, login: &Login, interval: Duration) -> bool {
        let mut polls = self.0.polls.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        // A device code lives ten minutes; what is older is nobody's.
        polls.retain(|_, (next, _)| *next + Duration::from_secs(LOGIN_SECONDS) > now);
        let (next, wait) = polls.entry(login.id).or_insert((now, interval));
        if *next > now {
            return false;
        }
        *next = now + *wait;
        true
    }

    fn slow_down(&self, login: &Login) {
        let mut polls = self.0.polls.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((next, wait)) = polls.get_mut(&login.id) {
            *wait += SLOWER;
            *next += SLOWER;
        }
    }

    async fn flow_of(&self, login: &Login) -> Result<FlowSecret, LoginProblem> {
        let (tenant, id) = (login.tenant.clone(), login.id);
        Ok(self.vault(move |vault| FlowSecret::unseal(vault, &tenant, id)).await??)
    }

    /// The same answer may be brought again.
    async fn reopen(&self, request: &Request, is_rate_limited: bool, problem: LoginProblem) -> LoginProblem {
        match self.execute(with(request, LoginCommand::Reopen { is_rate_limited })).await {
            Ok(_) | Err(LoginProblem::Ended) => problem,
            Err(error) => error,
        }
    }

    /// Takes tokens in: checks them, seals them, and says so. Tokens that come to nothing are given back.
    async fn receive(
        &self,
        request: &Request,
        login: &Login,
        provider: &Provider,
        client: &OauthClient,
        tokens: Tokens,
    ) -> Result<Receipt, LoginProblem> {
        let taken = self.take(request, login, provider, client, &tokens).await;
        if let Err((code, problem)) = taken {
            if matches!(problem, LoginProblem::Execute(ExecuteError::OutcomeUnknown { .. })) {
                // The log may have them yet; if not, they are destroyed with the login.
                return Err(problem);
            }
            self.give_back(provider, client, tokens.refresh_token.as_deref().unwrap_or(&tokens.access_token)).await;
            return Err(match code {
                Some(code) => self.fail(request, code, problem).await,
                None => problem,
            });
        }
        taken.map_err(|(_, problem)| problem)
    }

    async fn take(
        &self,
        request: &Request,
        login: &Login,
        provider: &Provider,
        client: &OauthClient,
        tokens: &Tokens,
    ) -> Result<Receipt, (Option<LoginFailure>, LoginProblem)> {
        let missing: Vec<&str> = tokens.missing_scopes(provider).collect();
        let lacks_refresh = (provider.needs_refresh_token && tokens.refresh_token.is_none()).then_some("a refresh token");
        if lacks_refresh.is_some() || !missing.is_empty() {
            let text = lacks_refresh.into_iter().chain(missing).collect::<Vec<_>>().join(", ");
            return Err((Some(LoginFailure::GrantIncomplete), LoginProblem::GrantIncomplete(text)));
        }
        let account = self.parts().tokens.account(provider, client, tokens).await;
        let account = account.map_err(|error| (Some(LoginFailure::UpstreamInvalid), LoginProblem::UpstreamInvalid(error)))?;
        let fingerprint = self.fingerprint(provider, account.as_ref());
        if login.started.account.as_ref().is_some_and(|expected| *expected != fingerprint) {
            return Err((Some(LoginFailure::AccountMismatch), LoginProblem::AccountMismatch));
        }
        self.keep(request, login, client, tokens, account, fingerprint).await.map_err(|problem| (None, problem))
    }

    /// The keyed digest of an account; empty where the provider does not tell whose it is.
    fn fingerprint(&self, provider: &Provider, account: Option<&Account>) -> String {
        account.map_or_else(String::new, |account| {
            let named = format!("oauth account\0{}\0{}", provider.name, account.id);
            self.parts().vault.fingerprint(named.as_bytes())
        })
    }

    async fn keep(
        &self,
        request: &Request,
        login: &Login,
        client: &OauthClient,
        tokens: &Tokens,
        account: Option<Account>,
        fingerprint: String,
    ) -> Result<Receipt, LoginProblem> {
        let (tenant, id, now) = (login.tenant.clone(), login.id, (self.parts().clock)());
        let expires_at = tokens.expires_in.map(|wait| now.plus_seconds(wait.as_secs()));
        let grant = GrantSecret {
            access_token: tokens.access_token.to_string(),
            refresh_token: tokens.refresh_token.as_ref().map(|token| token.to_string()),
            token_type: tokens.token_type.clone(),
            client_id: client.id.clone(),
            client_secret: client.secret.as_ref().map(|secret| secret.to_string()),
            expires_at,
            ..GrantSecret::default()
        };
        let stream = Stream::login(tenant.clone(), id);
        let identity = self.vault(move |vault| {
            // The append below is refused if another call was first, whose tokens these are then.
            let bytes = grant.to_bytes();
            let Sealing::Sealed = flow::seal_grant(vault, &tenant, id, &bytes, now).map_err(flow::FlowError::Seal)? else {
                return Err(LoginProblem::StateUsed(None));
            };
            Ok(account.map(|account| vault.seal_field(&stream, &account.shown)).transpose()?)
        });
        let exchanged = LoginExchanged {
            identity: identity.await??,
            account: fingerprint,
            scopes: tokens.scopes.clone(),
            token_expires_at: expires_at,
            is_refreshable: tokens.refresh_token.is_some(),
            confirm_by: now.plus_seconds(LOGIN_SECONDS),
        };
        let receipt = self.execute(with(request, LoginCommand::Exchange(Box::new(exchanged)))).await;
        let (tenant, refused) = (login.tenant.clone(), matches!(receipt, Err(LoginProblem::Ended)));
        let erased =
            self.vault(move |vault| if refused { flow::erase_all(vault, &tenant, id) } else { flow::erase_flow(vault, &tenant, id) });
        if let Err(error) = erased.await? {
            tracing::warn!(error = &error as &dyn std::error::Error, "a login's verifier is left to the sweep");
        }
        receipt
    }

    /// Gives a token back, as well as the provider lets us.
    pub(super) async fn give_back(&self, provider: &Provider, client: &OauthClient, token: &str) {
        if let Err(error) = self.parts().tokens.revoke(provider, client, token).await {
            tracing::warn!(
                provider.name = provider.name,
                error = &error as &dyn std::error::Error,
                "a token that came to nothing could not be given back to its provider"
            );
        }
    }

    /// Gives back and destroys whatever a login has that has ended.
    pub(super) async fn abandon(&self, login: &Login) {
        let (tenant, id) = (login.tenant.clone(), login.id);
        if matches!(login.state, LoginState::Exchanged(_))
            && let Ok(Ok(Some(bytes))) = self.vault(move |vault| flow::waiting_grant(vault, &tenant, id)).await
            && let (Ok(grant), Ok(provider)) = (GrantSecret::from_bytes(&bytes), self.provider(&login.started.provider))
        {
            let secret = grant.client_secret.clone().map(zeroize::Zeroizing::new);
            let client = OauthClient { id: grant.client_id.clone(), secret };
            self.give_back(&provider, &client, grant.refresh_token.as_deref().unwrap_or(&grant.access_token)).await;
        }
        if let Err(error) = self.erase(login).await {
            tracing::warn!(login.id = %login.id, error = &error as &dyn std::error::Error, "a login's secrets are left to the sweep");
        }
    }
}

/// The command that a request carries before it has one of its own.
pub(crate) const fn placeholder() -> Command {
    Command::Login(LoginCommand::Consume)
}
