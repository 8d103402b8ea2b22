//! Putting back what the bucket lost.
//!
//! A server can lose what it acknowledged. A node that sees the bucket behind its mirror writes what it knows over what the bucket holds,
//! expecting just that, and says of which writing it is a copy. So any number of nodes may do this at once: one write is stored, the others
//! find it and are level with it; and of nodes that know different things the one that knows the latest has the last word.

use std::sync::atomic::Ordering;
use std::thread;

use tokio_util::sync::CancellationToken;

use super::bucket::{Away, Published, Write};
use super::entry_key::EntryKey;
use super::link::Retry;
use super::mirror::Held;
use super::state::{Standing, State};
use super::{OPERATION_WAIT, Shared, unavailable, wait, write_id};
use crate::key_store::StoreError;

/// Entries that are put back at once: what a leader takes from one node without making the others wait.
const AT_ONCE: usize = 8;

/// Brings one entry of the bucket to what this node knows, or this node to what the bucket holds, whichever is newer.
pub(super) fn heal(shared: &Shared, key: &EntryKey, retry: &mut Retry) -> Result<(), StoreError> {
    let id = write_id()?;
    loop {
        let found = match shared.link.get(key, retry.deadline()) {
            Ok(found) => found,
            Err(away) => {
                wait(retry, away)?;
                continue;
            }
        };
        if let Some(state) = &found
            && shared.mirror.adopt(key, state)? != Standing::Behind
        {
            return Ok(());
        }
        // The mirror may have moved on since; what it holds now is what to put back, if the bucket is still behind that.
        let Some(Held { mark, content }) = shared.mirror.held(key)? else { return Ok(()) };
        let content = content.map(bytes::Bytes::from);
        let expected = found.as_ref().map_or(0, |state| state.revision);
        let write = Write { key: key.clone(), expected, content: content.clone(), origin: Some(mark.origin), id: id.clone() };
        match shared.link.publish(write, retry.deadline()) {
            Ok(Published::Stored(revision)) => {
                let counter = if content.is_some() { &shared.progress.put_back } else { &shared.progress.erased_again };
                counter.fetch_add(1, Ordering::Relaxed);
                let state = State { revision, origin: mark.origin, is_restored: true, content, write_id: None };
                shared.mirror.adopt(key, &state)?;
                return Ok(());
            }
            Ok(Published::Refused) if retry.is_over() => return Err(unavailable("too many others write to one entry")),
            Ok(Published::Refused) => {}
            Ok(Published::Unknown(reason)) => wait(retry, Away(reason))?,
            Err(away) => wait(retry, away)?,
        }
    }
}

/// Heals many entries, and stops at the first that NATS does not answer for or when told to. Says in the log how many there were.
pub(super) fn heal_all(shared: &Shared, keys: &[EntryKey], stop: &CancellationToken) -> Result<(), StoreError> {
    let before = shared.progress.mirrored();
    let share = keys.len().div_ceil(AT_ONCE).max(1);
    let outcome = thread::scope(|scope| {
        let heal_share = |share: &[EntryKey]| {
            for key in share {
                if stop.is_cancelled() {
                    return Ok(());
                }
                heal(shared, key, &mut Retry::within(OPERATION_WAIT))?;
            }
            Ok(())
        };
        let workers: Vec<_> = keys.chunks(share).map(|share| scope.spawn(move || heal_share(share))).collect();
        let mut outcome = Ok(());
        for worker in workers {
            outcome = outcome.and(worker.join().expect("healing an entry does not panic"));
        }
        outcome
    });
    let after = shared.progress.mirrored();
    let (put_back, erased_again) = (after.put_back - before.put_back, after.erased_again - before.erased_again);
    if put_back + erased_again > 0 {
        tracing::warn!(put_back, erased_again, "the bucket of the key store had lost entries; they are back");
    }
    outcome
}
