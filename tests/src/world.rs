//! A node and a scripted upstream that know each other: where most tests begin.

use anyhow::Result;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::admin::IssuedKey;
use crate::{Admin, Launch, Node, Relay, ScriptedUpstream};

/// What the relay shows the scripted upstream. No client ever sees it.
pub const CREDENTIAL: &str = "sk-provider-Zq7vX2mL9tRw4KdB8sYh";

/// One node, one upstream in both dialects.
pub struct World {
    pub node: Node,
    pub upstream: ScriptedUpstream,
    pub admin: Admin,
    pub relay: Relay,
    /// Kept for its removal at the end.
    pub directory: TempDir,
}

impl World {
    pub async fn start() -> Result<Self> {
        Self::with(|launch| launch).await
    }

    /// A world whose node has a planted bug, if there is one.
    pub async fn with_bug(bug: Option<&str>) -> Result<Self> {
        Self::with(|launch| launch.with_bug(bug)).await
    }

    pub async fn with(change: impl FnOnce(Launch) -> Launch) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let node = change(Launch::new(&directory.path().join("data"))).start().await?;
        let upstream = ScriptedUpstream::start().await?;
        let (admin, relay) = (node.admin()?, node.relay());
        admin.add_upstream("openai", "openai", &upstream.openai_url(), CREDENTIAL).await?;
        admin.add_upstream("anthropic", "anthropic", &upstream.origin(), CREDENTIAL).await?;
        Ok(Self { node, upstream, admin, relay, directory })
    }

    /// A key for a month, with these limits and rules.
    pub async fn key(&self, rules: Value) -> Result<IssuedKey> {
        let mut body = json!({ "name": "ci", "expires_in": "30d" });
        if let (Some(body), Value::Object(rules)) = (body.as_object_mut(), rules) {
            body.extend(rules);
        }
        self.admin.create_key(&body).await
    }

    /// The same world after the node stopped, something was done to its data, and it started again.
    pub async fn restarted(self, between: impl FnOnce(&std::path::Path) -> Result<()>) -> Result<Self> {
        let launch = self.node.stop().await?;
        between(&launch.data)?;
        let node = launch.start().await?;
        let (admin, relay) = (node.admin()?, node.relay());
        Ok(Self { node, admin, relay, upstream: self.upstream, directory: self.directory })
    }
}
