//! Applying a file that was found good: line by line, each one a command or a few, whose ids derive from the file and the line.
//!
//! Lines of one kind go side by side, kinds one after the other. What stopped halfway is sent again and goes on: what was applied is known by
//! its command's id, or is as the file says.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use event_log::artefacts::ArtefactKind;
use futures_util::{StreamExt as _, stream};
use schemas::Sequence;
use tokio::sync::mpsc;

use super::import::{Import, Item, Lines, Outcome, Plan, Stopped, Tally, Told};
use super::objects::{Pass, PrepareError, Prepared};
use crate::http::ApiError;
use crate::{Commands, Request};

/// Commands of one import that are under way at once.
const SIDE_BY_SIDE: usize = 64;
/// Lines that are prepared together.
const RUN: usize = 512;

/// What is told, as it happens. Whoever no longer listens stops the import after the lines that are under way.
pub(crate) type Teller = mpsc::Sender<Told>;

/// Nobody listens any more, or the import cannot go on.
enum Halt {
    Gone,
    Stopped(Stopped),
}

impl From<ApiError> for Halt {
    fn from(error: ApiError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "an import stopped");
        let (code, detail) = error.code_and_detail();
        Self::Stopped(Stopped { code, detail })
    }
}

impl From<PrepareError> for ApiError {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::Line { detail, .. } => Self::BadRequest(detail),
            PrepareError::Read(error) => error.into(),
            PrepareError::SealField(error) => error.into(),
            PrepareError::UnsealField(error) => error.into(),
            PrepareError::Seal(error) => error.into(),
            PrepareError::Unseal(error) => error.into(),
        }
    }
}

/// Applies the file, or in a dry run only tells what would come of it.
pub(crate) async fn run(import: Arc<Import>, planned: Tally, dry_run: bool, teller: Teller) {
    let head = import.head();
    let (digest, origin, sanitized, lines) = (head.digest, head.origin.clone(), head.sanitized, head.lines());
    let plan = Plan { digest, origin, sanitized, dry_run, lines, tally: planned };
    let mut tally = Tally::default();
    let last = match all(&import, plan, dry_run, &mut tally, &teller).await {
        Ok(()) => Told::Done(tally),
        Err(Halt::Stopped(stopped)) => Told::Stopped(stopped),
        Err(Halt::Gone) => return,
    };
    // Nobody may be there to hear it.
    let _ = teller.send(last).await;
}

async fn all(import: &Arc<Import>, plan: Plan, dry_run: bool, tally: &mut Tally, teller: &Teller) -> Result<(), Halt> {
    tell(teller, Told::Plan(plan)).await?;
    for left in import.not_carried() {
        tally.not_carried += 1;
        tell(teller, Told::NotCarried(left.clone())).await?;
    }
    let pass = if dry_run { Pass::Look } else { Pass::Apply };
    let mut lines = import.staged.lines().map_err(unreadable)?;
    let mut carried = None;
    loop {
        let (run, rest) = prepare(import.clone(), lines, carried, pass).await?;
        (lines, carried) = rest;
        if run.is_empty() {
            break;
        }
        let executed = stream::iter(run).map(|prepared| execute(import, prepared, dry_run)).buffered(SIDE_BY_SIDE);
        let mut executed = std::pin::pin!(executed);
        while let Some(item) = executed.next().await {
            let (item, halt) = item;
            tally.count(item.outcome);
            tell(teller, Told::Item(item)).await?;
            if let Some(error) = halt {
                return Err(error.into());
            }
        }
    }
    if import.prune {
        prune(import, dry_run, tally, teller).await?;
    }
    Ok(())
}

async fn prune(import: &Arc<Import>, dry_run: bool, tally: &mut Tally, teller: &Teller) -> Result<(), Halt> {
    let found = blocking({
        let import = import.clone();
        move || import.to_prune().map_err(ApiError::from)
    })
    .await?;
    for prepared in found {
        let (item, halt) = execute(import, prepared, dry_run).await;
        tally.count(item.outcome);
        tell(teller, Told::Item(item)).await?;
        if let Some(error) = halt {
            return Err(error.into());
        }
    }
    Ok(())
}

async fn tell(teller: &Teller, told: Told) -> Result<(), Halt> {
    teller.send(told).await.map_err(|_| Halt::Gone)
}

fn unreadable(error: io::Error) -> Halt {
    tracing::error!(error = &error as &dyn std::error::Error, "the received file cannot be read again");
    Halt::Stopped(Stopped { code: "internal", detail: "the node could not answer; its log says why".to_owned() })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ApiError> + Send + 'static) -> Result<T, Halt> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(ApiError::from)??)
}

/// A line that was read and belongs to the next run.
type Carried = Option<(super::import::RawLine, super::line::Line)>;

/// The next lines of one kind, prepared.
async fn prepare(
    import: Arc<Import>,
    mut lines: Lines,
    mut carried: Carried,
    pass: Pass,
) -> Result<(Vec<Prepared>, (Lines, Carried)), Halt> {
    let work = move || {
        let mut run: Vec<Prepared> = Vec::new();
        while run.len() < RUN {
            let (raw, line) = match carried.take() {
                Some(pair) => pair,
                None => {
                    let Some(raw) = lines.next().map_err(|_| ApiError::NotFound("such file any more"))? else { break };
                    let line = import.parse(&raw)?;
                    (raw, line)
                }
            };
            if run.last().is_some_and(|last| last.kind != line.kind()) {
                carried = Some((raw, line));
                break;
            }
            run.push(import.prepare(&raw, &line, pass)?);
        }
        Ok((run, (lines, carried)))
    };
    blocking(work).await
}

/// Executes the commands of a line. With an error that concerns more than this line, the import does not go on.
async fn execute(import: &Arc<Import>, prepared: Prepared, dry_run: bool) -> (Item, Option<ApiError>) {
    let Prepared { number, kind, id, outcome, detail, steps, request_digest, erase, module } = prepared;
    let source = import.source_of(number).map(str::to_owned);
    let mut item = Item { line: (number > 0).then_some(number), source, kind, id, outcome, sequence: None, detail };
    if dry_run || steps.is_empty() {
        return (item, None);
    }
    let mut outcome = match module {
        Some(digest) => keep(import, digest).await,
        None => Ok(()),
    };
    for step in steps {
        if outcome.is_err() {
            break;
        }
        let request = Request {
            stream: step.stream,
            command: step.command,
            actor: import.actor(),
            command_id: step.command_id,
            request_digest,
            if_version: step.if_version,
            deadline: Commands::deadline(),
        };
        match import.app.commands.execute(request).await {
            Ok(receipt) => item.sequence = item.sequence.max(Some(receipt.sequence)).filter(|sequence| *sequence != Sequence::ZERO),
            Err(error) => outcome = Err(error.into()),
        }
    }
    if let (Ok(()), Some(address)) = (&outcome, erase) {
        outcome = match import.app.vault(move |vault| vault.erase_owner(&address.tenant, address.owner_kind, &address.owner_id)).await {
            Ok(erased) => erased.map_err(ApiError::from),
            Err(error) => Err(error.into()),
        };
    }
    match outcome {
        Ok(()) => (item, None),
        Err(error) => {
            let (code, detail) = error.code_and_detail();
            (item.outcome, item.detail) = (Outcome::Failed, Some(format!("{detail} ({code})")));
            let concerns_all = error.is_the_nodes();
            (item, concerns_all.then_some(error))
        }
    }
}

/// Puts an admitted module where every node finds it.
async fn keep(import: &Arc<Import>, digest: schemas::Digest) -> Result<(), ApiError> {
    let Some(admitted) = import.admitted.get(&digest) else { return Ok(()) };
    let component = Bytes::copy_from_slice(&admitted.component);
    import.app.modules.artefacts().put(ArtefactKind::PolicyModule, component).await?;
    import.app.modules.tell_mended();
    Ok(())
}
