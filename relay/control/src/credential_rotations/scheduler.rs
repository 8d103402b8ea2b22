//! The loop that takes rotations forward. One node does at a time, by lease, and only while there is something to do.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use projector::Route;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::orders::Errand;
use super::{CredentialRotations, Next};
use schemas::credential::rotation::Rotation;

const LEASE: &str = "credential-rotation";
/// How soon another node goes on after the one that did died. Well below the minute that a rotation may take whose old secret is known to others.
const LEASE_TTL: Duration = Duration::from_secs(10);
/// How often it is looked what there is to do: a walk over the upstreams in memory.
const INTERVAL: Duration = Duration::from_millis(500);
/// Rotations taken forward at once, and providers asked.
const AT_ONCE: usize = 16;

/// Runs [`CredentialRotations`] by the clock.
pub struct RotationScheduler(pub Arc<CredentialRotations>);

impl RotationScheduler {
    /// Goes on until the node stops. A node whose read models are behind leaves it to the others. Providers that take their time hold no step back.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.steps(&stop), self.errands(&stop));
    }

    async fn steps(&self, stop: &CancellationToken) {
        let mut looks = tokio::time::interval(INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(looks.tick()).await.is_some() && stop.run_until_cancelled(self.take_steps()).await.is_some() {}
    }

    async fn errands(&self, stop: &CancellationToken) {
        let mut looks = tokio::time::interval(INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(looks.tick()).await.is_some() && stop.run_until_cancelled(self.run_errands()).await.is_some() {}
    }

    /// Whether this node is the one to act now. It is asked only where there is something to do.
    async fn is_chosen(&self) -> bool {
        matches!(self.0.coordination.lease(LEASE, LEASE_TTL).await, Ok(Some(_)))
    }

    fn is_level(&self) -> bool {
        let status = self.0.models.status();
        status.is_ready() && status.lag == 0
    }

    async fn take_steps(&self) {
        if !self.is_level() {
            return;
        }
        let work = self.work();
        if work.is_empty() || !self.is_chosen().await {
            return;
        }
        let steps: Vec<BoxFuture<'_, ()>> =
            work.into_iter().map(|(route, rotation, next)| self.take(route, rotation, next).boxed()).collect();
        stream::iter(steps).for_each_concurrent(AT_ONCE, |step| step).await;
    }

    async fn take(&self, route: Arc<Route>, rotation: Rotation, next: Next) {
        let Some(credential) = &route.credential else { return };
        if let Err(error) = self.0.go_on(&route, credential, &rotation, next).await {
            let (name, error) = (&route.upstream.details.name, &error as &dyn std::error::Error);
            tracing::warn!(upstream.name = name, rotation.id = %rotation.id, error, "a rotation does not go on now; it is tried again");
        }
    }

    async fn run_errands(&self) {
        if !self.is_level() {
            return;
        }
        let (routes, now) = (self.0.models.routes(), (self.0.clock)());
        let errand = |route: &Arc<Route>| Some((Arc::clone(route), self.0.errand(&routes, route, now)?));
        let errands: Vec<(Arc<Route>, Errand)> = routes.upstreams.iter().filter_map(errand).collect();
        if errands.is_empty() || !self.is_chosen().await {
            return;
        }
        let run = |(route, errand): (Arc<Route>, Errand)| async move { self.0.run_errand(&route, errand).await }.boxed();
        let errands: Vec<BoxFuture<'_, ()>> = errands.into_iter().map(run).collect();
        stream::iter(errands).for_each_concurrent(AT_ONCE, |errand| errand).await;
    }

    /// Rotations that need something now.
    fn work(&self) -> Vec<(Arc<Route>, Rotation, Next)> {
        let (routes, now) = (self.0.models.routes(), (self.0.clock)());
        let next = |route: &Arc<Route>| {
            let (rotation, next) = self.0.next(route.credential.as_ref()?, now)?;
            Some((Arc::clone(route), rotation, next))
        };
        routes.upstreams.iter().filter_map(next).collect()
    }
}
