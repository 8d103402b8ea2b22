//! Ending logins that nobody goes on with: their verifiers are destroyed, and tokens that were not confirmed are given back.

use std::time::Duration;

use schemas::login::{Login, LoginCommand};
use schemas::{Actor, Aggregate, Command, CommandId, Stream, StreamKind};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::super::problem::LoginProblem;
use super::Logins;
use crate::commands::{Commands, Request};
use crate::secrets;

/// How long after its time a login may be open still.
const INTERVAL: Duration = Duration::from_secs(30);

impl Logins {
    /// Sweeps until the node stops. Every node does: a login is ended by one append, and whoever made that one gives its tokens back.
    pub async fn sweep_until(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if stop.run_until_cancelled(ticks.tick()).await.is_none() {
                return;
            }
            if let Some(Err(error)) = stop.run_until_cancelled(self.sweep()).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "overdue logins are left to the next sweep");
            }
        }
    }

    /// Ends what is overdue; how many that were.
    pub(crate) async fn sweep(&self) -> Result<usize, LoginProblem> {
        let status = self.parts().models.status();
        if !status.is_ready() || status.lag > 0 {
            return Ok(0);
        }
        let (models, mut ended) = (self.parts().models.clone(), 0);
        let listed = tokio::task::spawn_blocking(move || {
            models.at_one_moment(|whole| {
                whole.aggregates(StreamKind::Login).map(|row| row.map(|row| row.value)).collect::<Result<Vec<_>, _>>()
            })
        });
        for aggregate in listed.await??? {
            if let Aggregate::Login(login) = aggregate {
                ended += usize::from(self.end_if_overdue(&login).await?);
            }
        }
        Ok(ended)
    }

    async fn end_if_overdue(&self, login: &Login) -> Result<bool, LoginProblem> {
        let Some(code) = login.overdue((self.parts().clock)()) else { return Ok(false) };
        let request = Request {
            stream: Stream::login(login.tenant.clone(), login.id),
            command: Command::Login(LoginCommand::Fail(code)),
            actor: Actor::Scheduler,
            command_id: CommandId::from_bytes(secrets::random_bytes()),
            request_digest: self.parts().vault.keyed_digest(login.id.as_bytes()),
            if_version: None,
            deadline: Commands::deadline(),
        };
        let receipt = self.execute(request).await?;
        if receipt.recorded {
            self.abandon(login).await;
        }
        Ok(receipt.recorded)
    }
}
