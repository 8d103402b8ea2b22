//! Planted bugs for fault tests. Only with the feature `faults`.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use policy_host::Input;
use tokio::sync::mpsc;

/// The bug that `KEYRELAY_FAULT` plants in this process, by name.
static PLANTED: OnceLock<String> = OnceLock::new();

/// Plants the bug of this name; a process has one at most.
pub fn plant(name: &str) {
    PLANTED.get_or_init(|| name.to_owned());
}

/// Whether this is the bug that was planted.
pub(crate) fn is_planted(name: &str) -> bool {
    PLANTED.get().is_some_and(|planted| planted == name)
}

/// What a policy is given; with the bug `unrecorded-input` not what is recorded, but another seed.
pub(crate) fn given(recorded: &Arc<Input>) -> Arc<Input> {
    let mut input = Arc::clone(recorded);
    if is_planted("unrecorded-input") {
        match Arc::make_mut(&mut input) {
            Input::Expiry(input) => input.seed ^= 1,
            Input::Quota(input) => input.seed ^= 1,
            Input::Route(input) => input.seed ^= 1,
        }
    }
    input
}

/// An upstream's answer; with the bugs `keep-upstream-call` and `unbounded-stream` it is read ahead of the client, and on after it has left.
#[expect(clippy::disallowed_methods, reason = "a planted bug: nobody owns this task")]
pub(crate) fn upstream_body(body: Incoming) -> UnsyncBoxBody<Bytes, hyper::Error> {
    if !is_planted("keep-upstream-call") && !is_planted("unbounded-stream") {
        return body.boxed_unsync();
    }
    let (sender, receiver) = mpsc::unbounded_channel::<Result<Frame<Bytes>, hyper::Error>>();
    tokio::spawn(async move {
        let mut body = body;
        while let Some(frame) = body.frame().await {
            let _ = sender.send(frame);
        }
    });
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|frame| (frame, receiver)) });
    StreamBody::new(frames).boxed_unsync()
}
