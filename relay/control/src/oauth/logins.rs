//! Logins from start to end: the only code that moves one on.
//!
//! What decides is always an append: of two nodes that are shown the same answer, one appends that it is taken, and only that one speaks to
//! the provider. What must finish once that is appended runs in an owned task, since a handler is dropped when its client leaves.

mod confirm;
mod exchange;
mod sweep;

pub(crate) use exchange::placeholder;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use event_log::EventLog;
use projector::ReadModels;
use schemas::login::{LOGIN_SECONDS, Login, LoginCommand, LoginError, LoginFailure, LoginFlow, LoginMisuse, LoginStarted, LoginState};
use schemas::upstream::{UpstreamDetails, UpstreamLabels};
use schemas::{Aggregate, Command, CommandId, LoginId, Rejection, Stream, StreamKind, TenantId, UpstreamId};
use tokio::time::Instant;
use url::Url;
use vault::Vault;
use zeroize::Zeroizing;

use super::flow::{DeviceSecret, FlowSecret, state_hash};
use super::paste::{self, Outcome};
use super::problem::LoginProblem;
use super::provider::{Provider, Providers};
use super::throttle::Throttle;
use super::token_client::TokenClient;
use crate::commands::Request;
use crate::{Clock, Commands, ExecuteError, Receipt, secrets};

/// Open logins of one actor, and of one tenant.
const OPEN_OF_ACTOR_MAX: usize = 5;
const OPEN_OF_TENANT_MAX: usize = 20;
/// How long this node may take to learn what the log holds, before it answers from what it knows.
const CATCH_UP: Duration = Duration::from_secs(2);

/// What it takes to log in at providers.
pub struct LoginsParts {
    pub commands: Commands,
    pub models: ReadModels,
    pub vault: Arc<Vault>,
    pub log: Arc<dyn EventLog>,
    pub clock: Clock,
    pub providers: Providers,
    pub tokens: TokenClient,
}

/// The logins of this node. Cheap to clone.
#[derive(Clone)]
pub struct Logins(Arc<Shared>);

struct Shared {
    parts: LoginsParts,
    throttle: Throttle,
    /// When each device code may be polled again, and how long the wait after that is.
    polls: Mutex<HashMap<LoginId, (Instant, Duration)>>,
}

/// What is to be logged in to.
pub(crate) struct NewLogin {
    pub(crate) provider: String,
    pub(crate) is_device: bool,
    /// Where somebody listens for the browser; none where its address will be pasted.
    pub(crate) port: Option<u16>,
    /// The upstream whose credential this is to be; none where `creates` makes it.
    pub(crate) upstream: Option<UpstreamId>,
    pub(crate) creates: Option<UpstreamDetails>,
    pub(crate) labels: UpstreamLabels,
}

/// A login as it begins.
pub(crate) struct Begun {
    pub(crate) receipt: Receipt,
    pub(crate) authorize_url: Option<Url>,
    pub(crate) device: Option<DeviceSecret>,
}

impl Logins {
    pub fn new(parts: LoginsParts) -> Self {
        Self(Arc::new(Shared { parts, throttle: Throttle::default(), polls: Mutex::default() }))
    }

    fn parts(&self) -> &LoginsParts {
        &self.0.parts
    }

    /// The providers of this node.
    pub fn providers(&self) -> &Providers {
        &self.parts().providers
    }

    /// Starts a login. `request` is what the command of the login will be, but for the command itself.
    pub(crate) async fn start(&self, request: Request, new: NewLogin) -> Result<Begun, LoginProblem> {
        let (tenant, id) = (request.stream.tenant().clone(), LoginId::from_bytes(*request.stream.id()));
        let provider = self.provider(&new.provider)?;
        let redirect_uri = match (new.is_device, &provider.authorize_url) {
            (true, _) if provider.device_url.is_none() => return Err(LoginProblem::Bad(format!("{} has no device codes", provider.name))),
            (true, _) => None,
            (false, None) => return Err(LoginProblem::Bad(format!("{} has device codes only", provider.name))),
            (false, Some(_)) => {
                let refusal = || LoginProblem::Bad(format!("{} does not send browsers to this port", provider.name));
                Some(provider.redirect.address(new.port).ok_or_else(refusal)?.to_string())
            }
        };
        if self.parts().models.command(&request.command_id)?.is_none() {
            self.refuse_too_many(&tenant, &request).await?;
        }
        let flow = self.flow_secret(&provider, &tenant, id, redirect_uri.as_deref()).await?;
        let now = (self.parts().clock)();
        let upstream = new.upstream.unwrap_or_else(|| confirm::command_id(&tenant, &request.actor, id).new_upstream_id());
        let provided = flow.device.as_ref().map_or(LOGIN_SECONDS, |device| device.expires_in_seconds);
        let started = LoginStarted {
            provider: provider.name.clone(),
            flow: match &redirect_uri {
                Some(uri) => LoginFlow::Code { redirect_uri: uri.clone(), state_hash: state_hash(&flow.state()) },
                None => LoginFlow::Device,
            },
            upstream,
            creates: new.creates,
            labels: new.labels,
            account: self.account_of(&tenant, new.upstream, &provider),
            expires_at: now.plus_seconds(provided.min(LOGIN_SECONDS)),
        };
        let command = Command::Login(LoginCommand::Start(Box::new(started)));
        let receipt = self.execute(Request { command, ..request }).await?;
        let authorize_url = redirect_uri.and_then(|uri| flow.authorize_url(&provider, &uri));
        Ok(Begun { receipt, authorize_url, device: flow.device.clone() })
    }

    /// Goes on with what the browser brought back.
    pub(crate) async fn bring(&self, request: Request, pasted: Zeroizing<String>) -> Result<Receipt, LoginProblem> {
        let (tenant, actor, now) = (request.stream.tenant().clone(), request.actor, (self.parts().clock)());
        if self.0.throttle.is_closed(&tenant, actor, now) {
            return Err(LoginProblem::TooManyPastes);
        }
        let checked = self.checked(&request, &pasted).await;
        if matches!(checked, Err(LoginProblem::Paste(_) | LoginProblem::StateUnknown)) && self.0.throttle.count(&tenant, actor, now) {
            self.close_all(&tenant, &request).await?;
            return Err(LoginProblem::TooManyPastes);
        }
        let (login, code) = checked?;
        // Never the caller's own command id: the same command again would be answered as if it had taken the code.
        let consumed = self.execute(with(&request, LoginCommand::Consume)).await.map_err(|problem| match problem {
            LoginProblem::Ended => LoginProblem::StateUsed(None),
            problem => problem,
        });
        consumed?;
        let (this, deadline) = (self.clone(), request);
        self.owned(async move { this.exchange(&deadline, &login, &code).await }).await
    }

    /// The checks of a paste, in the order of the table; the code if all hold.
    async fn checked(&self, request: &Request, pasted: &str) -> Result<(Login, Zeroizing<String>), LoginProblem> {
        let pasted = paste::parse(pasted)?;
        let login = self.at_head(&request.stream).await?.ok_or(LoginProblem::StateUnknown)?;
        let LoginFlow::Code { redirect_uri, state_hash: expected } = &login.started.flow else { return Err(LoginProblem::StateUnknown) };
        // Digests of 256 random bits: how long the comparison takes tells nothing that helps.
        if state_hash(&pasted.state) != *expected {
            return Err(LoginProblem::StateUnknown);
        }
        if login.by != request.actor {
            tracing::warn!(login.id = %login.id, actor = %request.actor, "somebody brought the state of another's login");
            self.execute(with(request, LoginCommand::ReportMisuse(LoginMisuse::ForeignActor))).await?;
            return Err(LoginProblem::StateUnknown);
        }
        match &login.state {
            LoginState::Open if login.overdue((self.parts().clock)()).is_none() => {}
            LoginState::Open => return Err(self.fail(request, LoginFailure::Expired, LoginProblem::StateExpired).await),
            LoginState::Failed(LoginFailure::Expired) => return Err(LoginProblem::StateExpired),
            LoginState::Confirmed(_) => return Err(LoginProblem::StateUsed(Some(login.started.upstream))),
            _ => return Err(LoginProblem::StateUsed(None)),
        }
        let sent = Url::parse(redirect_uri).map_err(|_| LoginProblem::RedirectMismatch)?;
        if pasted.address.as_ref().is_some_and(|address| !paste::is_at(address, &sent)) {
            return Err(self.fail(request, LoginFailure::RedirectMismatch, LoginProblem::RedirectMismatch).await);
        }
        let provider = self.provider(&login.started.provider)?;
        if let (Some(given), Some(issuer)) = (&pasted.issuer, &provider.issuer)
            && given != issuer
        {
            tracing::warn!(login.id = %login.id, "an answer came from another issuer than the login's");
            return Err(self.fail(request, LoginFailure::IssuerMismatch, LoginProblem::IssuerMismatch).await);
        }
        match pasted.outcome {
            Outcome::Code(code) => Ok((login, code)),
            Outcome::Denied(text) => Err(self.fail(request, LoginFailure::Denied, LoginProblem::Denied(text)).await),
        }
    }

    /// A login as this actor may see it.
    pub(crate) async fn show(&self, request: &Request) -> Result<Login, LoginProblem> {
        self.at_head(&request.stream).await?.filter(|login| login.by == request.actor).ok_or(LoginProblem::NotFound)
    }

    /// Ends a login. Tokens that wait are given back.
    pub(crate) async fn cancel(&self, request: Request) -> Result<Receipt, LoginProblem> {
        let login = self.show(&request).await?;
        let receipt = self.execute(Request { command: Command::Login(LoginCommand::Cancel), ..request }).await?;
        let this = self.clone();
        self.owned(async move {
            this.abandon(&login).await;
            Ok(receipt)
        })
        .await
    }

    /// The login on this stream as the log has it now, as far as it can be reached.
    async fn at_head(&self, stream: &Stream) -> Result<Option<Login>, LoginProblem> {
        let parts = self.parts();
        if let Ok(Ok(head)) = tokio::time::timeout(CATCH_UP, parts.log.head()).await {
            parts.models.wait_for(head, CATCH_UP).await;
        }
        Ok(match parts.models.load(stream)?.0 {
            Some(Aggregate::Login(login)) => Some(*login),
            _ => None,
        })
    }

    fn provider(&self, name: &str) -> Result<Arc<Provider>, LoginProblem> {
        let refusal = || LoginProblem::Bad(format!("there is no provider {name:?} in this node's settings"));
        let provider = self.parts().providers.get(name).ok_or_else(refusal)?;
        if provider.client.is_none() && provider.registration_url.is_none() {
            return Err(LoginProblem::Bad(format!("the provider {name:?} has no client; set oauth.providers.{name}.client_id")));
        }
        Ok(provider)
    }

    /// The account that a further login of an upstream must be for.
    fn account_of(&self, tenant: &TenantId, upstream: Option<UpstreamId>, provider: &Provider) -> Option<String> {
        let routes = self.parts().models.routes();
        let route = routes.upstreams.iter().find(|route| route.upstream.tenant == *tenant && Some(route.upstream.id) == upstream)?;
        let grant = route.credential.as_ref()?.grant.as_ref().filter(|grant| grant.provider == provider.name)?;
        Some(grant.account.clone()).filter(|account| !account.is_empty())
    }

    /// What the login keeps sealed: what a try before has sealed, else new.
    async fn flow_secret(
        &self,
        provider: &Arc<Provider>,
        tenant: &TenantId,
        id: LoginId,
        redirect_uri: Option<&str>,
    ) -> Result<FlowSecret, LoginProblem> {
        let client = match &provider.client {
            Some(client) => client.clone(),
            None => self.parts().tokens.register(provider, redirect_uri).await?,
        };
        let device = match redirect_uri {
            Some(_) => None,
            None => {
                let started = self.parts().tokens.device_start(provider, &client).await?;
                Some(DeviceSecret {
                    device_code: started.device_code.to_string(),
                    user_code: started.user_code,
                    verification_uri: started.verification_uri,
                    verification_uri_complete: started.verification_uri_complete,
                    interval_seconds: started.interval.as_secs(),
                    expires_in_seconds: started.expires_in.as_secs(),
                })
            }
        };
        let (tenant, now, secret) = (tenant.clone(), (self.parts().clock)(), FlowSecret::new(&client, device));
        Ok(self.vault(move |vault| secret.seal(vault, &tenant, id, now)).await??)
    }

    async fn refuse_too_many(&self, tenant: &TenantId, request: &Request) -> Result<(), LoginProblem> {
        let open = self.of_tenant(tenant).await?;
        let of_actor = open.iter().filter(|login| login.by == request.actor).count();
        if of_actor >= OPEN_OF_ACTOR_MAX {
            return Err(LoginProblem::TooManyLogins { max: OPEN_OF_ACTOR_MAX, of: "of yours" });
        }
        if open.len() >= OPEN_OF_TENANT_MAX {
            return Err(LoginProblem::TooManyLogins { max: OPEN_OF_TENANT_MAX, of: "of this tenant" });
        }
        Ok(())
    }

    /// The logins of a tenant that something can still come of.
    async fn of_tenant(&self, tenant: &TenantId) -> Result<Vec<Login>, LoginProblem> {
        let (models, tenant, now) = (self.parts().models.clone(), tenant.clone(), (self.parts().clock)());
        let listed = tokio::task::spawn_blocking(move || {
            models.of_one_moment(Some(&tenant), |whole| {
                let logins = whole.aggregates(StreamKind::Login).map(|row| row.map(|row| row.value));
                logins.collect::<Result<Vec<_>, _>>()
            })
        });
        let logins = listed.await???.into_iter().filter_map(|aggregate| match aggregate {
            Aggregate::Login(login) => Some(*login),
            _ => None,
        });
        Ok(logins.filter(|login| !login.has_ended() && login.overdue(now).is_none()).collect())
    }

    /// Closes whatever logins somebody has open who pastes what no provider answers.
    async fn close_all(&self, tenant: &TenantId, request: &Request) -> Result<(), LoginProblem> {
        tracing::warn!(actor = %request.actor, "too many pasted answers were wrong; the open logins of whoever brought them are closed");
        for login in self.of_tenant(tenant).await?.into_iter().filter(|login| login.by == request.actor) {
            let stream = Stream::login(tenant.clone(), login.id);
            let of_login = Request { stream, ..request.clone() };
            self.execute(with(&of_login, LoginCommand::Fail(LoginFailure::TooManyPastes))).await?;
            self.abandon(&login).await;
        }
        Ok(())
    }

    /// Ends a login and destroys what it kept; gives the problem back, or what kept the login from ending.
    async fn fail(&self, request: &Request, code: LoginFailure, problem: LoginProblem) -> LoginProblem {
        match self.execute(with(request, LoginCommand::Fail(code))).await {
            Err(error) => error,
            Ok(receipt) => {
                if let Aggregate::Login(login) = receipt.aggregate
                    && let Err(error) = self.erase(&login).await
                {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a login's secrets are left to the sweep");
                }
                problem
            }
        }
    }

    async fn erase(&self, login: &Login) -> Result<(), LoginProblem> {
        let (tenant, id) = (login.tenant.clone(), login.id);
        Ok(self.vault(move |vault| super::flow::erase_all(vault, &tenant, id)).await??)
    }

    async fn execute(&self, request: Request) -> Result<Receipt, LoginProblem> {
        self.parts().commands.execute(request).await.map_err(|error| match error {
            ExecuteError::Rejected(Rejection::Login(refusal)) => match refusal {
                LoginError::NotFound | LoginError::Foreign => LoginProblem::NotFound,
                LoginError::Expired => LoginProblem::StateExpired,
                LoginError::Used => LoginProblem::StateUsed(None),
                LoginError::NotExchanged => LoginProblem::NotExchanged,
                LoginError::Ended | LoginError::Exists => LoginProblem::Ended,
            },
            error => LoginProblem::Execute(error),
        })
    }

    async fn vault<T: Send + 'static>(&self, work: impl FnOnce(&Vault) -> T + Send + 'static) -> Result<T, tokio::task::JoinError> {
        let vault = self.parts().vault.clone();
        tokio::task::spawn_blocking(move || work(&vault)).await
    }

    /// Runs work to its end, whether or not its client stays.
    async fn owned<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, LoginProblem>> + Send + 'static,
    ) -> Result<T, LoginProblem> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.parts().commands.spawn_task(async move {
            // Nobody may be there to hear it any more.
            let _ = sender.send(work.await);
        });
        receiver.await.unwrap_or(Err(LoginProblem::Execute(ExecuteError::Stopping)))
    }
}

/// Another command on the same login, under an id of its own and with a patience of its own.
fn with(request: &Request, command: LoginCommand) -> Request {
    Request {
        command: Command::Login(command),
        command_id: CommandId::from_bytes(secrets::random_bytes()),
        if_version: None,
        deadline: Commands::deadline(),
        ..request.clone()
    }
}
