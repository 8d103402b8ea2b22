//! Whether the servers that keep the stream sync before they acknowledge. The client API does not tell; their monitoring does.

use std::error::Error;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use http::Uri;
use http::uri::Scheme;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::time::{Instant, timeout, timeout_at};

use crate::contract::SyncMode;
use crate::nats::Nats;

const MONITOR_WAIT: Duration = Duration::from_secs(3);
const MONITOR_BYTES_MAX: usize = 1024 * 1024;
/// How long servers may take to answer a question to all of them; nobody says how many will.
const SYSTEM_WAIT: Duration = Duration::from_secs(1);
/// Answered by every server, if this account may ask.
const SYSTEM_SUBJECT: &str = "$SYS.REQ.SERVER.PING.JSZ";

/// What one server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerReport {
    pub(super) name: String,
    pub(super) version: String,
    /// None where the server does not say.
    pub(super) sync_always: Option<bool>,
}

/// The JetStream configuration, as monitoring and system requests spell it.
#[derive(Deserialize)]
struct JetStreamConfig {
    /// Left out where it is false.
    #[serde(default)]
    sync_always: bool,
}

#[derive(Deserialize)]
struct JetStreamReport {
    config: Option<JetStreamConfig>,
}

/// What `/varz` shows.
#[derive(Deserialize)]
struct Varz {
    server_name: String,
    version: String,
    jetstream: Option<JetStreamReport>,
}

/// An answer to [`SYSTEM_SUBJECT`].
#[derive(Deserialize)]
struct SystemAnswer {
    server: SystemServer,
    data: Option<JetStreamReport>,
}

#[derive(Deserialize)]
struct SystemServer {
    name: String,
    ver: String,
}

/// Asks every server that can be asked: by the monitoring addresses, and without them by a request to the system account.
pub(super) async fn reports(nats: &Nats, peers: &[&str]) -> Vec<ServerReport> {
    if nats.monitors().is_empty() {
        return from_system(nats, peers).await;
    }
    let is_tls = nats.monitors().iter().any(|monitor| monitor.scheme() == Some(&Scheme::HTTPS));
    if !is_tls {
        return from_monitors(HttpConnector::new(), nats.monitors()).await;
    }
    match HttpsConnectorBuilder::new().with_native_roots() {
        Ok(builder) => from_monitors(builder.https_or_http().enable_http1().build(), nats.monitors()).await,
        Err(error) => {
            tracing::warn!(%error, "the monitoring of the NATS servers cannot be asked");
            Vec::new()
        }
    }
}

async fn from_monitors<C: Connect + Clone + Send + Sync + 'static>(connector: C, monitors: &[Uri]) -> Vec<ServerReport> {
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let answers = monitors.iter().map(async |monitor| match from_monitor(&client, monitor).await {
        Ok(report) => Some(report),
        Err(error) => {
            tracing::warn!(%monitor, error = %error, "the monitoring of a NATS server does not answer");
            None
        }
    });
    join_all(answers).await.into_iter().flatten().collect()
}

async fn from_monitor<C: Connect + Clone + Send + Sync + 'static>(
    client: &Client<C, Empty<Bytes>>,
    monitor: &Uri,
) -> Result<ServerReport, Box<dyn Error + Send + Sync>> {
    let address = format!("{}/varz", monitor.to_string().trim_end_matches('/')).parse()?;
    let body = timeout(MONITOR_WAIT, async {
        let response = client.get(address).await?;
        let body = Limited::new(response.into_body(), MONITOR_BYTES_MAX).collect().await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(body.to_bytes())
    });
    let varz: Varz = serde_json::from_slice(&body.await??)?;
    Ok(ServerReport { name: varz.server_name, version: varz.version, sync_always: sync_always(varz.jetstream) })
}

async fn from_system(nats: &Nats, peers: &[&str]) -> Vec<ServerReport> {
    let client = nats.client();
    let inbox = client.new_inbox();
    // Every failure means the same: nobody could be asked.
    let Ok(mut answers) = client.subscribe(inbox.clone()).await else { return Vec::new() };
    let question = Bytes::from_static(b"{\"config\":true}");
    let asked = client.publish_with_reply_and_headers(SYSTEM_SUBJECT, inbox, HeaderMap::new(), question).await;
    let deadline = Instant::now() + SYSTEM_WAIT;
    let mut reports = Vec::new();
    while asked.is_ok() && !peers.iter().all(|peer| reports.iter().any(|report: &ServerReport| report.name == *peer)) {
        let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await else { break };
        let Ok(answer) = serde_json::from_slice::<SystemAnswer>(&answer.payload) else { break };
        let sync_always = sync_always(answer.data);
        reports.push(ServerReport { name: answer.server.name, version: answer.server.ver, sync_always });
    }
    reports
}

fn sync_always(report: Option<JetStreamReport>) -> Option<bool> {
    report?.config.map(|config| config.sync_always)
}

/// What the reports show of the servers that keep the stream, and what is missing.
pub(super) fn sync_mode(peers: &[&str], reports: &[ServerReport]) -> (SyncMode, String) {
    let of = |peer: &str| reports.iter().find(|report| report.name == *peer).and_then(|report| report.sync_always);
    let with = |wanted: Option<bool>| peers.iter().copied().filter(|peer| of(peer) == wanted).collect::<Vec<_>>().join(", ");
    let (lazy, unknown) = (with(Some(false)), with(None));
    if !lazy.is_empty() {
        return (SyncMode::Lazy, format!("{lazy} without sync_interval: always"));
    }
    if !unknown.is_empty() || peers.is_empty() {
        return (SyncMode::Unverified, format!("nothing was heard of {unknown}; nats.monitor_url says where to ask"));
    }
    (SyncMode::Verified, "all sync".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_keep_the_stream_have_to_say_so() {
        let report = |name: &str, sync_always| ServerReport { name: name.to_owned(), version: "2.15.1".to_owned(), sync_always };
        let mode = |reports: &[ServerReport]| sync_mode(&["a", "b"], reports).0;
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(mode(&[report("a", yes), report("b", yes)]), SyncMode::Verified);
        assert_eq!(mode(&[report("a", yes), report("b", yes), report("c", no)]), SyncMode::Verified);
        assert_eq!(mode(&[report("a", yes)]), SyncMode::Unverified);
        assert_eq!(mode(&[report("a", yes), report("b", None)]), SyncMode::Unverified);
        assert_eq!(mode(&[]), SyncMode::Unverified);
        assert_eq!(mode(&[report("b", no)]), SyncMode::Lazy);
        assert_eq!(mode(&[report("a", yes), report("b", no)]), SyncMode::Lazy);
        assert_eq!(sync_mode(&[], &[]).0, SyncMode::Unverified);
    }
}
