//! Keys whose time begins with their first accepted request, until the log says when that was.
//!
//! The first request on this node starts a provisional time, past which the key is refused here whatever becomes of the log; the command that
//! fixes it for all nodes goes into the outbox. Nothing of this survives the process: a node that dies before the command was written has not
//! seen the first use.

use std::collections::HashMap;

use parking_lot::Mutex;
use schemas::key::{Activation, Key, KeyCommand};
use schemas::{Command, KeyId, Stream, TenantId, Timestamp};

use crate::outbox::{Outbound, Outbox};

/// First uses that the log does not have yet. Beyond this many, keys are used without a provisional time until the log answers.
const FIRST_USES_MAX: usize = 65_536;

/// First uses on this node, by key.
#[derive(Default)]
pub(crate) struct Activations {
    /// Written by requests, and by the reader of the outbox.
    first_uses: Mutex<HashMap<(TenantId, KeyId), FirstUse>>,
}

struct FirstUse {
    /// Which waiting of the key it ended.
    since: Timestamp,
    at: Timestamp,
}

impl Activations {
    /// Whether the provisional time of a key that awaits its first use is over.
    pub(crate) fn is_over(&self, key: &Key, now: Timestamp) -> bool {
        let Some(Activation { seconds, since }) = key.activation else { return false };
        let first_uses = self.first_uses.lock();
        let first_use = first_uses.get(&(key.tenant.clone(), key.id)).filter(|first_use| first_use.since == since);
        first_use.is_some_and(|first_use| first_use.at.plus_seconds(seconds) <= now)
    }

    /// A request of the key goes to an upstream. The first one starts the key's time; each one sees to it that the log comes to know.
    pub(crate) fn used(&self, key: &Key, now: Timestamp, outbox: &Outbox) {
        let Some(Activation { since, .. }) = key.activation else { return };
        let first_used_at = self.first_use(key, since, now);
        let stream = Stream::key(key.tenant.clone(), key.id);
        outbox.offer(Outbound { stream, command: Command::Key(KeyCommand::Activate { first_used_at, since }) });
    }

    fn first_use(&self, key: &Key, since: Timestamp, now: Timestamp) -> Timestamp {
        let mut first_uses = self.first_uses.lock();
        let place = (key.tenant.clone(), key.id);
        match first_uses.get(&place).filter(|first_use| first_use.since == since) {
            Some(first_use) => first_use.at,
            None => {
                if first_uses.len() < FIRST_USES_MAX {
                    first_uses.insert(place, FirstUse { since, at: now });
                }
                now
            }
        }
    }

    /// The log has an answer, which the read model has too.
    pub(crate) fn forget(&self, stream: &Stream, since: Timestamp) {
        let place = (stream.tenant().clone(), KeyId::from_bytes(*stream.id()));
        let mut first_uses = self.first_uses.lock();
        if first_uses.get(&place).is_some_and(|first_use| first_use.since == since) {
            first_uses.remove(&place);
        }
    }
}
