//! The loop that takes rotations forward. One node does at a time, by lease, and only while there is something to do.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use projector::Route;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{CredentialRotations, Next};
use schemas::credential::rotation::Rotation;

const LEASE: &str = "credential-rotation";
/// How soon another node goes on after the one that did died. Well below the minute that a rotation may take whose old secret is known to others.
const LEASE_TTL: Duration = Duration::from_secs(10);
/// How often it is looked what there is to do: a walk over the upstreams in memory.
const INTERVAL: Duration = Duration::from_millis(500);
/// Rotations taken forward at once.
const ROTATIONS_AT_ONCE: usize = 16;

/// Runs [`CredentialRotations`] by the clock.
pub struct RotationScheduler(pub Arc<CredentialRotations>);

impl RotationScheduler {
    /// Goes on until the node stops. A node whose read models are behind leaves it to the others.
    pub async fn run(self, stop: CancellationToken) {
        let mut looks = tokio::time::interval(INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if stop.run_until_cancelled(looks.tick()).await.is_none() || stop.run_until_cancelled(self.look()).await.is_none() {
                return;
            }
        }
    }

    async fn look(&self) {
        let rotations = &self.0;
        let status = rotations.models.status();
        if !status.is_ready() || status.lag > 0 {
            return;
        }
        let work = self.work();
        if work.is_empty() || !matches!(rotations.coordination.lease(LEASE, LEASE_TTL).await, Ok(Some(_))) {
            return;
        }
        let each = |(route, rotation, next): (Arc<Route>, Rotation, Next)| async move {
            let Some(credential) = &route.credential else { return };
            if let Err(error) = rotations.go_on(&route, credential, &rotation, next).await {
                let (name, error) = (&route.upstream.details.name, &error as &dyn std::error::Error);
                tracing::warn!(upstream.name = name, rotation.id = %rotation.id, error, "a rotation does not go on now; it is tried again");
            }
        };
        stream::iter(work).for_each_concurrent(ROTATIONS_AT_ONCE, each).await;
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
