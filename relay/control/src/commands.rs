//! Executing a command: load, decide, append, wait until it is applied here.
//!
//! The work runs in an owned task, since a handler is dropped when its client leaves and a command is never half done. Only the append
//! decides; the read model merely proposes the head that the append expects.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use event_log::{AppendError, Appended, EventLog, Expect};
use projector::{CommandRow, ReadModels};
use schemas::aggregate::{At, apply_record};
use schemas::record::{EncodeError, Frame, Header, Record, Seen};
use schemas::{
    Actor, Aggregate, ClusterId, Command, CommandId, Context, Digest, DurationText, Head, Rejection, Sequence, Stream, Timestamp, Version,
    VoidReason, apply, decide,
};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;
use crate::{Clock, Writer, tenants};

/// How long a caller waits for an outcome before it is told that there is none yet.
const OUTCOME_WAIT: Duration = Duration::from_secs(15);
/// How long before the caller's patience ends nothing is sent any more for the first time, so that whoever is answered that the log is
/// away can rely on nothing having been written.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);
/// The first wait for a log that cannot be reached; each further one is twice as long ...
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
/// ... up to this.
const BACK_OFF_MAX: Duration = Duration::from_millis(500);
/// How many commands may be under way; the next ones wait for their turn. All of these permits are taken by [`Commands::execute_last`].
const COMMANDS_MAX: u32 = 65_536;
/// How long the owned task goes on asking after an unknown outcome; the caller has long been told.
const RESOLVE_MAX: Duration = Duration::from_secs(3600);
/// How long an answer waits for the local projector, after which it says `"applied": false`.
const APPLIED_WAIT: Duration = Duration::from_secs(2);
/// Records of one read of an aggregate's history.
const HISTORY_RUN: usize = 256;
/// How often a command is decided again after another one took its place.
const CONFLICTS_MAX: u32 = 3;

/// Executes commands on this node's log. Cheap to clone.
#[derive(Clone)]
pub struct Commands {
    parts: Arc<CommandsParts>,
    /// A permit for each command under way. Closed once this writer has signed its last record.
    turns: Arc<Semaphore>,
}

/// What it takes to execute commands.
pub struct CommandsParts {
    pub log: Arc<dyn EventLog>,
    pub models: ReadModels,
    /// The identity that signs this node's records, for this cluster.
    pub writer: Writer,
    pub cluster: ClusterId,
    pub clock: Clock,
    pub tasks: TaskTracker,
    pub metrics: Metrics,
}

/// One command with everything its record's header says.
#[derive(Debug, Clone)]
pub struct Request {
    pub stream: Stream,
    pub command: Command,
    pub actor: Actor,
    pub command_id: CommandId,
    pub request_digest: Digest,
    /// The version that the caller saw (`If-Match`); none takes whatever there is.
    pub if_version: Option<Version>,
    /// When the caller's patience ends, see [`Commands::deadline`].
    pub deadline: Instant,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The aggregate before the command; none where the command made it.
    pub before: Option<Aggregate>,
    /// The aggregate after the command, and the version of that state.
    pub aggregate: Aggregate,
    pub version: Version,
    /// The command's record; for a command without events the stream's last.
    pub sequence: Sequence,
    /// Whether this node's read models have the record. False only when the projector lags by more than two seconds.
    pub applied: bool,
    /// The answer repeats one that was given before, under the same command id.
    pub repeated: bool,
    /// Whether the command has a record; it has none where the state was as asked.
    pub recorded: bool,
}

/// Why a command was not executed, or why nobody knows yet.
#[derive(Debug, Error)]
pub enum ExecuteError {
    #[error("the command is refused")]
    Rejected(#[source] Rejection),
    #[error("the version is {actual}, the caller expected {expected}")]
    VersionMismatch { expected: Version, actual: Version },
    #[error("a key of this tenant is good for at most {max} from now, and does not go on for ever")]
    ExpiryTooLong { max: DurationText },
    #[error("the same idempotency key was sent with another request")]
    CommandReused,
    #[error("other commands on the same aggregate kept coming first")]
    Contention,
    #[error("the outcome of command {command_id} is not known yet")]
    OutcomeUnknown { command_id: CommandId },
    #[error("record {sequence} of this node was judged void: {}", reason.as_str())]
    RecordVoid { sequence: Sequence, reason: VoidReason },
    #[error("the record cannot be written")]
    Encode(#[source] EncodeError),
    #[error("the log ends at {reported}, but record {known} was there before")]
    LogLost { known: Sequence, reported: Sequence },
    #[error("the log does not take records")]
    Log(#[source] AppendError),
    #[error("the read models cannot be read")]
    Read(#[source] projector::ReadError),
    #[error("the history of the aggregate cannot be read")]
    History(#[source] event_log::ReadError),
    #[error("record {sequence} was applied but cannot be read again")]
    HistoryGone { sequence: Sequence },
    #[error("the node is stopping")]
    Stopping,
}

impl ExecuteError {
    /// Whether the log is away, and nothing was written.
    pub fn is_log_away(&self) -> bool {
        matches!(self, Self::Log(AppendError::Unavailable { .. }) | Self::History(event_log::ReadError::Unavailable { .. }))
    }
}

impl Commands {
    pub fn new(parts: CommandsParts) -> Self {
        Self { parts: Arc::new(parts), turns: Arc::new(Semaphore::new(COMMANDS_MAX as usize)) }
    }

    /// When the patience of a caller ends that begins now. A request of several commands has one for all of them.
    pub fn deadline() -> Instant {
        Instant::now() + OUTCOME_WAIT
    }

    /// Runs work that gives many commands, and that the end of the node waits for.
    pub(crate) fn spawn_task(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.parts.tasks.spawn(work);
    }

    /// The identity that signs this node's records.
    pub fn writer(&self) -> &Writer {
        &self.parts.writer
    }

    /// Executes one command.
    ///
    /// A log that cannot be reached is tried again until shortly before the caller's patience ends: an election of its leader takes seconds.
    ///
    /// An error other than [`ExecuteError::OutcomeUnknown`], `RecordVoid` and `Stopping` means that nothing was written.
    pub async fn execute(&self, request: Request) -> Result<Receipt, ExecuteError> {
        self.spawn(request, 1).await
    }

    /// Waits until this node's read models have what the log held when this was called. False where that takes longer, or the log is away.
    pub(crate) async fn catch_up(&self, patience: Duration) -> bool {
        match self.parts.log.head().await {
            Ok(head) => self.parts.models.wait_for(head, patience).await,
            Err(_) => false,
        }
    }

    /// Executes the last command of this writer, its own retirement: waits for those under way, holds back others, and if this one succeeds,
    /// refuses all that come later. Whatever they signed would be void.
    pub async fn execute_last(&self, request: Request) -> Result<Receipt, ExecuteError> {
        self.spawn(request, COMMANDS_MAX).await
    }

    async fn spawn(&self, request: Request, turns_taken: u32) -> Result<Receipt, ExecuteError> {
        let (command_id, deadline) = (request.command_id, request.deadline);
        let (parts, turns) = (self.parts.clone(), self.turns.clone());
        let task = self.parts.tasks.spawn(async move {
            let outcome = match tokio::time::timeout_at(request.give_up(), turns.acquire_many(turns_taken)).await {
                Ok(Ok(_turn)) => parts.run(request).await,
                Ok(Err(_closed)) => Err(ExecuteError::Stopping),
                Err(_) => Err(ExecuteError::Contention),
            };
            if turns_taken == COMMANDS_MAX && outcome.is_ok() {
                turns.close();
            }
            parts.metrics.count_command(&outcome);
            outcome
        });
        match tokio::time::timeout_at(deadline, task).await {
            Err(_) => Err(ExecuteError::OutcomeUnknown { command_id }),
            Ok(Err(_)) => Err(ExecuteError::Stopping),
            Ok(Ok(outcome)) => outcome,
        }
    }
}

impl Request {
    /// From when on nothing is begun any more.
    fn give_up(&self) -> Instant {
        self.deadline.checked_sub(ANSWER_MARGIN).unwrap_or(self.deadline)
    }
}

/// A command as decided: the record to append, and the state that it leads to.
struct Decision {
    record: Bytes,
    before: Option<Aggregate>,
    aggregate: Aggregate,
    version: Version,
}

impl CommandsParts {
    async fn run(&self, request: Request) -> Result<Receipt, ExecuteError> {
        for _ in 0..=CONFLICTS_MAX {
            let (state, head) = self.models.load(&request.stream).map_err(ExecuteError::Read)?;
            if let Some(row) = self.models.command(&request.command_id).map_err(ExecuteError::Read)? {
                return self.repeat(&request, &row).await;
            }
            let decision = match self.decide(&request, state, head)? {
                Decided::Changes(decision) => *decision,
                Decided::Unchanged(aggregate) => {
                    let (version, sequence) = (head.version, head.sequence);
                    let before = Some(aggregate.clone());
                    return Ok(Receipt { before, aggregate, version, sequence, applied: true, repeated: false, recorded: false });
                }
            };
            let expect = Expect { subject: head.sequence, log: None };
            let started = Instant::now();
            let outcome = self.append(&request, expect, &decision.record).await;
            self.metrics.observe_append(started.elapsed());
            match outcome.map_err(ExecuteError::Log)? {
                Appended::Appended(sequence) | Appended::AlreadyAppended(sequence) => return self.receipt(decision, sequence).await,
                Appended::Conflict { subject_last, .. } if subject_last < head.sequence => {
                    return Err(ExecuteError::LogLost { known: head.sequence, reported: subject_last });
                }
                // The record that came first is loaded before deciding again, as long as anybody waits for it.
                Appended::Conflict { subject_last, .. } => {
                    let patience = request.give_up().saturating_duration_since(Instant::now());
                    if !self.models.wait_for(subject_last, patience).await {
                        return Err(ExecuteError::Contention);
                    }
                }
                Appended::Unknown => return Err(ExecuteError::OutcomeUnknown { command_id: request.command_id }),
            }
        }
        Err(ExecuteError::Contention)
    }

    /// Appends a decided record. A log that cannot be reached is tried again until it is time to give up, and then nothing was written. What
    /// was sent and has no outcome is asked after for as long as it takes.
    async fn append(&self, request: &Request, expect: Expect, record: &Bytes) -> Result<Appended, AppendError> {
        let (subject, give_up, mut back_off) = (request.stream.subject(), request.give_up(), BACK_OFF_MIN);
        loop {
            let resolve_until = Instant::now() + RESOLVE_MAX;
            let outcome = event_log::append_resolving(&*self.log, &subject, expect, record.clone(), resolve_until).await;
            let next_attempt = Instant::now() + back_off;
            match outcome {
                Err(AppendError::Unavailable { .. }) if next_attempt < give_up => sleep_until(next_attempt).await,
                outcome => return outcome,
            }
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    fn decide(&self, request: &Request, state: Option<Aggregate>, head: Head) -> Result<Decided, ExecuteError> {
        if let Some(expected) = request.if_version.filter(|expected| *expected != head.version) {
            return Err(ExecuteError::VersionMismatch { expected, actual: head.version });
        }
        let now: Timestamp = (self.clock)();
        let context = Context { now, actor: request.actor };
        let events = decide(state.as_ref(), &request.command, &context).map_err(ExecuteError::Rejected)?;
        if events.is_empty() {
            return state.map(Decided::Unchanged).ok_or(ExecuteError::Rejected(Rejection::WrongStream));
        }
        // An aggregate knows nothing of another one, so what the tenant says about its keys is asked here, whoever sent the command.
        tenants::check_expiry(&self.models, &request.stream, &events, now)?;
        let position = self.models.position();
        let version = head.version.next();
        let header = Header {
            writer: self.writer.id(),
            record_id: request.command_id.record_id(),
            command_id: request.command_id,
            request_digest: request.request_digest,
            stream: request.stream.clone(),
            version,
            actor: request.actor,
            causation: None,
            correlation: request.command_id,
            time: now,
            seen: Seen { sequence: position.sequence, root: position.root },
        };
        let record = self.writer.encode(self.cluster, &header, &events).map_err(ExecuteError::Encode)?;
        let at = At { time: now, actor: request.actor };
        let aggregate = events.iter().try_fold(state.clone(), |state, event| apply(state, &request.stream, event, &at).map(Some));
        // What `decide` gives can be applied: the schemas' property tests hold the two together.
        let aggregate = aggregate.ok().flatten().ok_or(ExecuteError::Rejected(Rejection::WrongStream))?;
        Ok(Decided::Changes(Box::new(Decision { record, before: state, aggregate, version })))
    }

    /// The answer to a command that was executed before, from its record: the state that the record led to, whatever came after.
    async fn repeat(&self, request: &Request, row: &CommandRow) -> Result<Receipt, ExecuteError> {
        if row.request_digest != request.request_digest || row.stream != request.stream {
            return Err(ExecuteError::CommandReused);
        }
        let (subject, mut after, mut before, mut state) = (row.stream.subject(), Sequence::ZERO, None, None);
        while after < row.sequence {
            let run = self.log.read_subject(&subject, after, HISTORY_RUN).await.map_err(ExecuteError::History)?;
            let last = run.last().map(|stored| stored.sequence).ok_or(ExecuteError::HistoryGone { sequence: row.sequence })?;
            for stored in run.iter().take_while(|stored| stored.sequence <= row.sequence) {
                if self.models.void(stored.sequence).map_err(ExecuteError::Read)?.is_none() {
                    before.clone_from(&state);
                    state = fold(state, &stored.bytes).ok_or(ExecuteError::HistoryGone { sequence: stored.sequence })?;
                }
            }
            after = last;
        }
        let aggregate = state.ok_or(ExecuteError::HistoryGone { sequence: row.sequence })?;
        Ok(Receipt { before, aggregate, version: row.version, sequence: row.sequence, applied: true, repeated: true, recorded: true })
    }

    /// A success is answered only for a record that was judged valid here.
    async fn receipt(&self, decision: Decision, sequence: Sequence) -> Result<Receipt, ExecuteError> {
        let applied = self.models.wait_for(sequence, APPLIED_WAIT).await;
        if let Some(reason) = self.models.void(sequence).map_err(ExecuteError::Read)? {
            tracing::error!(sequence = sequence.0, reason = reason.as_str(), "a record of this node was judged void");
            return Err(ExecuteError::RecordVoid { sequence, reason });
        }
        let Decision { before, aggregate, version, .. } = decision;
        Ok(Receipt { before, aggregate, version, sequence, applied, repeated: false, recorded: true })
    }
}

/// What deciding came to.
enum Decided {
    Changes(Box<Decision>),
    /// The state already is as asked.
    Unchanged(Aggregate),
}

/// Folds one record that was judged valid before.
fn fold(state: Option<Aggregate>, bytes: &[u8]) -> Option<Option<Aggregate>> {
    let frame = Frame::parse(bytes).ok()?;
    let record = Record { header: frame.header().ok()?, events: frame.events().ok()? };
    apply_record(state, &record).ok()
}
