//! From the data plane to the control plane: commands that requests gave rise to are executed here, while the requests have long gone on.

use std::sync::Arc;
use std::time::Duration;

use control::{Commands, ExecuteError, Request};
use gateway::{Outbound, OutboxReader};
use schemas::{Actor, CommandId, Digest, KeyId, StreamKind};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Commands under way at once.
const COMMANDS_MAX: usize = 64;
/// The pause before a command that could not be executed goes back into the queue.
const PAUSE: Duration = Duration::from_secs(1);

/// Executes what comes until the node stops. What then still waits is lost: a later request gives rise to it again.
pub(super) async fn run(reader: OutboxReader, commands: Commands, tracker: TaskTracker, stop: CancellationToken) {
    let (reader, turns) = (Arc::new(reader), Arc::new(Semaphore::new(COMMANDS_MAX)));
    loop {
        let next = async {
            let turn = Arc::clone(&turns).acquire_owned().await;
            (turn, reader.next().await)
        };
        let Some((turn, outbound)) = stop.run_until_cancelled(next).await else { return };
        let (reader, commands, stop) = (Arc::clone(&reader), commands.clone(), stop.clone());
        tracker.spawn(async move {
            let _turn = turn;
            match stop.run_until_cancelled(execute(&commands, &outbound)).await {
                None => return,
                Some(true) => return reader.done(&outbound),
                Some(false) => {}
            }
            if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some() {
                reader.again(outbound);
            }
        });
    }
}

/// Whether the command needs no further attempt.
async fn execute(commands: &Commands, outbound: &Outbound) -> bool {
    let Outbound { stream, command } = outbound;
    // Who did it is whoever showed the key.
    let actor = match stream.kind() {
        StreamKind::Key => Actor::Key(KeyId::from_bytes(*stream.id())),
        _ => Actor::Node(commands.writer().id()),
    };
    let Some(command_id) = command_id() else { return false };
    let request = Request {
        stream: stream.clone(),
        command: command.clone(),
        actor,
        command_id,
        request_digest: Digest::blake3(b"keyrelay outbox"),
        if_version: None,
        deadline: Commands::deadline(),
    };
    match commands.execute(request).await {
        // Without its row here, the next request would begin all over.
        Ok(receipt) => receipt.applied,
        Err(ExecuteError::Rejected(rejection)) => {
            tracing::debug!(stream = %stream, reason = %rejection, "a command of the data plane was refused");
            true
        }
        Err(error) => {
            tracing::warn!(stream = %stream, error = &error as &dyn std::error::Error, "a command of the data plane waits: it could not be executed");
            false
        }
    }
}

fn command_id() -> Option<CommandId> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok().map(|()| CommandId::from_bytes(bytes))
}
