//! Load while a test does harm: control writes and relay requests at a steady rate over all nodes, all of it written down.
//!
//! A client here does what a careful one does: each write has an idempotency key, and is sent again, to the next node, until the answer is a
//! success or a refusal that stands. Only then does it count as known.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::admin::IssuedKey;
use crate::cluster::Cluster;
use crate::history::{Outcome, Read, Recorder, Request, Write};
use crate::http::Answer;
use crate::{Admin, Relay, wait};

/// So many writes are under way at most; a tick that finds no room is skipped, as when nothing is answered for a minute.
const WRITES_MAX: usize = 64;
const REQUESTS_MAX: usize = 256;
/// Between two attempts of one write.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long a write is tried before its outcome counts as unknown.
const WRITE_PATIENCE: Duration = Duration::from_secs(45);
/// Keys that are never revoked, for the relay load.
const STEADY_KEYS: usize = 3;

/// How much is asked.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    pub writes_per_second: u32,
    pub requests_per_second: u32,
    /// Whether revocations wait for every node, and are then held against them. A node that is cut off need not know.
    pub fences: bool,
}

/// Load that runs until it is told to stop.
pub struct Traffic {
    pub recorder: Arc<Recorder>,
    stop: CancellationToken,
    tasks: JoinSet<Result<()>>,
}

/// What all tasks share.
struct Shared {
    recorder: Arc<Recorder>,
    admins: Vec<Admin>,
    relays: Vec<Relay>,
    steady: Vec<IssuedKey>,
    /// Keys that nobody writes to now, with their version. Each is taken out while it is used, so that its version is known.
    idle: Mutex<VecDeque<Known>>,
    fences: bool,
}

/// A key that a writer knows all about.
#[derive(Debug, Clone)]
struct Known {
    id: String,
    secret: String,
    version: u64,
    /// Of its last record: a node that is behind is asked to wait for it.
    sequence: u64,
}

/// What an acknowledged write told.
struct Acknowledged {
    answer: Value,
    sequence: u64,
    version: u64,
}

impl Known {
    fn after(self, told: &Acknowledged) -> Self {
        Self { version: told.version, sequence: told.sequence, ..self }
    }
}

impl Traffic {
    /// Starts load on all nodes that run now.
    pub async fn start(cluster: &Cluster, rates: Rates) -> Result<Self> {
        let running = cluster.running();
        let admins = running.iter().map(|index| cluster.admin(*index)).collect::<Result<Vec<_>>>()?;
        let relays = running.iter().map(|index| cluster.relay(*index)).collect::<Result<Vec<_>>>()?;
        Self::on(admins, relays, rates).await
    }

    /// Starts load on some nodes of one cluster.
    pub async fn on(admins: Vec<Admin>, relays: Vec<Relay>, rates: Rates) -> Result<Self> {
        let mut steady = Vec::new();
        for number in 0..STEADY_KEYS {
            let key = admins[0].create_key(&json!({ "name": format!("steady-{number}"), "expires": "never" })).await?;
            for admin in &admins {
                admin.shown_after(&format!("/keys/{}", key.id), key.sequence).await?;
            }
            steady.push(key);
        }
        let recorder = Arc::new(Recorder::default());
        let (idle, fences) = (Mutex::default(), rates.fences);
        let shared = Arc::new(Shared { recorder: Arc::clone(&recorder), admins, relays, steady, idle, fences });
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let writing = Arc::clone(&shared);
        tasks.spawn(paced(rates.writes_per_second, WRITES_MAX, stop.clone(), move |number| Arc::clone(&writing).write(number)));
        tasks.spawn(paced(rates.requests_per_second, REQUESTS_MAX, stop.clone(), move |number| Arc::clone(&shared).request(number)));
        Ok(Self { recorder, stop, tasks })
    }

    /// Waits until so many writes more than now are acknowledged: what was done to the cluster is over.
    pub async fn goes_on(&self, writes: usize, within: Duration) -> Result<()> {
        let reached = self.recorder.look(|history| history.acknowledged()) + writes;
        let what = format!("{writes} more acknowledged writes");
        let went = wait::until_within(within, &what, || async {
            Ok(self.recorder.look(|history| (history.acknowledged() >= reached).then_some(())))
        });
        went.await.with_context(|| {
            let last = self.recorder.look(|history| history.writes.last().cloned());
            format!("of {reached} there are {}, the last write is {last:?}", self.recorder.look(|history| history.acknowledged()))
        })
    }

    /// Goes on for a while.
    pub async fn for_a_while(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Lets what is under way come to its end, and gives the recorder.
    pub async fn stop(mut self) -> Result<Arc<Recorder>> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(self.recorder)
    }
}

/// Runs tasks at a steady rate until it is told to stop, then waits for those that run.
async fn paced<F>(per_second: u32, most: usize, stop: CancellationToken, begin: impl Fn(u64) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    if per_second == 0 {
        return Ok(());
    }
    let room = Arc::new(Semaphore::new(most));
    let mut running = JoinSet::new();
    let mut pace = tokio::time::interval(Duration::from_secs(1) / per_second);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for number in 0.. {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = pace.tick() => {}
        }
        while let Some(ended) = running.try_join_next() {
            ended??;
        }
        if let Ok(permit) = Arc::clone(&room).try_acquire_owned() {
            let task = begin(number);
            running.spawn(async move {
                let _permit = permit;
                task.await
            });
        }
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

impl Shared {
    /// One step of the mix: creations, renewals, two that want the same version, revocations.
    async fn write(self: Arc<Self>, number: u64) -> Result<()> {
        match number % 5 {
            2 => self.renew(number).await,
            3 => self.contend(number).await,
            4 => self.revoke(number).await,
            _ => self.create(number).await,
        }
    }

    async fn create(&self, number: u64) -> Result<()> {
        let body = json!({ "name": format!("key-{number}"), "expires": "never" });
        if let Some(told) = self.execute(number, "create", None, None, &body).await? {
            let key = IssuedKey::parse(&told.answer)?;
            self.read_elsewhere(number, &key.id, &told).await?;
            self.give_back(Known { id: key.id, secret: key.secret, version: told.version, sequence: told.sequence });
        }
        Ok(())
    }

    async fn renew(&self, number: u64) -> Result<()> {
        let Some(key) = self.take() else { return Ok(()) };
        if let Some(told) = self.execute(number, "renew", Some(&key), None, &json!({ "expires_in": "90d" })).await? {
            self.read_elsewhere(number, &key.id, &told).await?;
            self.give_back(key.after(&told));
        }
        Ok(())
    }

    /// Two clients on two nodes expect the same version: one at most gets it.
    async fn contend(&self, number: u64) -> Result<()> {
        let Some(key) = self.take() else { return Ok(()) };
        let (one, two) = (json!({ "expires_in": "91d" }), json!({ "expires_in": "92d" }));
        let (one, two) = tokio::join!(
            self.execute(number, "race-a", Some(&key), Some(key.version), &one),
            self.execute(number + 1, "race-b", Some(&key), Some(key.version), &two),
        );
        // Whoever won: with both of unknown outcome the version is not known, and the key is not used again.
        if let (Some(told), _) | (None, Some(told)) = (one?, two?) {
            self.give_back(key.after(&told));
        }
        Ok(())
    }

    async fn revoke(&self, number: u64) -> Result<()> {
        let Some(key) = self.take() else { return Ok(()) };
        let told = self.execute(number, "revoke", Some(&key), None, &json!({})).await?;
        if self.fences && told.is_some_and(|told| told.answer["fence"]["reached"] == true) {
            self.recorder.fence(&key.id);
            for node in 0..self.relays.len() {
                self.chat(node, &key.id, &key.secret).await;
            }
        }
        Ok(())
    }

    async fn request(self: Arc<Self>, number: u64) -> Result<()> {
        let node = place(number, self.relays.len());
        let key = &self.steady[place(number / self.relays.len() as u64, self.steady.len())];
        self.chat(node, &key.id, &key.secret).await;
        Ok(())
    }

    async fn chat(&self, node: usize, key: &str, secret: &str) {
        let sent = self.recorder.now();
        let (status, reason) = match self.relays[node].chat(secret, "under load").await {
            Ok(answer) => (answer.status.as_u16(), answer.header("x-keyrelay-reason").to_owned()),
            Err(error) => (0, format!("{error:#}")),
        };
        let answered = self.recorder.now();
        self.recorder.request(Request { node, key: key.to_owned(), sent, answered, status, reason });
    }

    /// Another node shows a write to whoever waits for its sequence.
    async fn read_elsewhere(&self, number: u64, key: &str, told: &Acknowledged) -> Result<()> {
        let node = place(number + 1, self.admins.len());
        // A node that is behind says so, and one that cannot be reached shows nothing wrong.
        let Ok(answer) = self.admins[node].get_after(&format!("/keys/{key}"), told.sequence).await else { return Ok(()) };
        let shown = match answer.status.as_u16() {
            503 => None,
            404 => Some(0),
            _ => Some(answer.success()?["key"]["version"].as_u64().context("a version")?),
        };
        self.recorder.read(Read { node, key: key.to_owned(), version: told.version, shown });
        Ok(())
    }

    /// Sends one write until its outcome is known or its time is over, and writes it down.
    async fn execute(
        &self,
        number: u64,
        verb: &str,
        key: Option<&Known>,
        expected: Option<u64>,
        body: &Value,
    ) -> Result<Option<Acknowledged>> {
        let name = format!("{verb}-{number}");
        let (event, path) = match (verb, key) {
            ("create", _) => ("KeyCreated", "/keys".to_owned()),
            ("revoke", Some(key)) if self.fences => ("KeyRevoked", format!("/keys/{}/revoke?wait=true", key.id)),
            ("revoke", Some(key)) => ("KeyRevoked", format!("/keys/{}/revoke", key.id)),
            (_, key) => ("KeyRenewed", format!("/keys/{}/renew", key.context("a key")?.id)),
        };
        let version = expected.map(|version| version.to_string());
        let sequence = key.map(|key| key.sequence.to_string());
        let mut fields = vec![("idempotency-key", name.as_str())];
        fields.extend(version.as_ref().map(|version| ("if-match", version.as_str())));
        fields.extend(sequence.as_ref().map(|sequence| ("keyrelay-wait-for", sequence.as_str())));
        let invoked = self.recorder.now();
        let deadline = Instant::now() + WRITE_PATIENCE;
        let (mut told, mut outcome) = (None, Outcome::Unknown);
        for attempt in 0.. {
            let admin = &self.admins[place(number + attempt, self.admins.len())];
            let answer = admin.call(Method::POST, &format!("/api/v1{path}"), &fields, body).await;
            if let Ok(answer) = answer
                && !answer.status.is_server_error()
            {
                (told, outcome) = self.known(&answer, event)?;
                break;
            }
            if Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        let created = told.as_ref().and_then(|told: &Acknowledged| told.answer["key"]["id"].as_str());
        let key = key.map(|key| key.id.clone()).or_else(|| created.map(str::to_owned));
        self.recorder.write(Write { name, event, key, expected, invoked, outcome });
        Ok(told)
    }

    /// What an answer says that is none of "try again".
    fn known(&self, answer: &Answer, event: &str) -> Result<(Option<Acknowledged>, Outcome)> {
        if answer.status.is_success() {
            let at = self.recorder.now();
            let answer = answer.json()?;
            let number = |value: &Value| value.as_u64().with_context(|| format!("no number in the answer to a write: {answer}"));
            let (sequence, version) = (number(&answer["sequence"])?, number(&answer["key"]["version"])?);
            return Ok((Some(Acknowledged { answer, sequence, version }), Outcome::Acknowledged { at, sequence, version }));
        }
        ensure!([409, 412].contains(&answer.status.as_u16()), "{event} was answered {}: {}", answer.status, answer.text());
        Ok((None, Outcome::Refused { status: answer.status.as_u16() }))
    }

    fn take(&self) -> Option<Known> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn give_back(&self, key: Known) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push_back(key);
    }
}

fn place(number: u64, of: usize) -> usize {
    usize::try_from(number % of as u64).unwrap_or_default()
}
