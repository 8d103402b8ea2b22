//! A traced run: every acknowledgement leaves the process after a completed sync of the log that began after the request came in.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Launch, wait};

const TRACED: &str = "fdatasync,fsync,write,writev,sendto,sendmsg,read,readv,recvfrom,recvmsg";

/// One line of the trace: who, and what. A call that another thread interrupted is two lines.
struct Line<'a> {
    thread: &'a str,
    call: &'a str,
}

/// What of the trace matters here, in the order in which it happened.
#[derive(Debug, PartialEq, Eq)]
enum Happened {
    Request(String),
    /// A sync of the event log's write-ahead log that began at this line is complete.
    Synced {
        began: usize,
    },
    Answer(String),
}

fn lines(trace: &str) -> impl Iterator<Item = Line<'_>> {
    trace.lines().filter_map(|line| line.split_once(' ').map(|(thread, call)| Line { thread, call: call.trim_start() }))
}

/// The text that a call moves, as the tracer quotes it.
fn quoted(call: &str) -> &str {
    call.split_once('"').map_or("", |(_, text)| text)
}

fn is_log_sync(call: &str, log: &str) -> bool {
    let named = call.split_once('<').map_or("", |(_, rest)| rest);
    (call.starts_with("fdatasync(") || call.starts_with("fsync(")) && named.contains(log) && named.contains(".log")
}

fn happened(trace: &str, log: &str) -> Vec<(usize, Happened)> {
    let mut syncing: HashMap<&str, usize> = HashMap::new();
    let mut happened = Vec::new();
    for (number, Line { thread, call }) in lines(trace).enumerate() {
        if is_log_sync(call, log) {
            if call.contains("<unfinished") {
                syncing.insert(thread, number);
            } else if call.ends_with("= 0") {
                happened.push((number, Happened::Synced { began: number }));
            }
        } else if call.starts_with("<... fdatasync resumed") || call.starts_with("<... fsync resumed") {
            if let Some(began) = syncing.remove(thread).filter(|_| call.ends_with("= 0")) {
                happened.push((number, Happened::Synced { began }));
            }
        } else {
            let text = quoted(call);
            if let Some(path) = text.strip_prefix("POST ") {
                happened.push((number, Happened::Request(path.split(' ').next().unwrap_or_default().to_owned())));
            } else if let Some(status) = text.strip_prefix("HTTP/1.1 ") {
                happened.push((number, Happened::Answer(status.chars().take(3).collect())));
            }
        }
    }
    happened
}

/// Checks that each request was answered with a success after a sync of its own; gives the number of answers.
fn check(trace: &str, log: &Path) -> Result<usize> {
    let (mut request, mut synced, mut answers) = (None, false, 0);
    for (number, what) in happened(trace, &log.to_string_lossy()) {
        match what {
            Happened::Request(path) => (request, synced) = (Some((number, path)), false),
            Happened::Synced { began } => synced |= request.as_ref().is_some_and(|(asked, _)| began > *asked),
            Happened::Answer(status) => {
                let Some((_, path)) = request.take() else { continue };
                ensure!(status.starts_with('2'), "{path} was answered {status}");
                ensure!(synced, "the answer to {path} left before a sync of the log that covers it was complete");
                answers += 1;
            }
        }
    }
    Ok(answers)
}

async fn answers_leave_after_the_sync(bug: Option<String>) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let trace = directory.path().join("trace");
    let mut launch = Launch::new(&directory.path().join("data")).with_bug(bug.as_deref());
    // -D: the tracer is the grandchild, so that signals go to the node itself. -y names the file behind a descriptor.
    for word in ["strace", "-D", "-f", "-y", "-s", "64", "-e", TRACED, "-o"] {
        launch.under.push(word.into());
    }
    launch.under[7] = format!("trace={TRACED}").into();
    launch.under.push(trace.clone().into_os_string());
    let node = launch.start().await.context("is strace installed, and may this user trace?")?;

    let admin = node.admin()?;
    let key = admin.create_key(&json!({ "name": "traced", "expires": "never" })).await?;
    let steps: [(&str, Value); 5] = [
        ("renew", json!({ "expires_in": "1h" })),
        ("rotate", json!({ "overlap": "1h" })),
        ("disable", json!({})),
        ("enable", json!({})),
        ("revoke", json!({})),
    ];
    for (step, body) in &steps {
        admin.post(&format!("/keys/{}/{step}", key.id), body).await?.success()?;
    }
    admin.add_upstream("traced", "openai", "http://127.0.0.1:9/v1", "sk-never-used-here").await?;

    let log = std::fs::canonicalize(node.data())?.join("log");
    let pid = node.pid();
    node.stop().await?;
    let ended = format!("{pid} ");
    let text = wait::until("the end of the trace", || async {
        let text = std::fs::read_to_string(&trace)?;
        let is_whole = text.lines().any(|line| line.starts_with(&ended) && line.ends_with("+++ exited with 0 +++"));
        Ok(is_whole.then_some(text))
    })
    .await?;
    let answers = check(&text, &log)?;
    ensure!(answers == steps.len() + 2, "the trace shows {answers} answers");
    Ok(())
}

#[tokio::test]
async fn every_answer_leaves_after_a_sync_that_covers_it() -> Result<()> {
    answers_leave_after_the_sync(None).await
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_log_that_does_not_sync_is_noticed() -> Result<()> {
    tests::planted::turns_red("unsynced-log", "left before a sync", answers_leave_after_the_sync).await
}

#[test]
fn the_reader_of_traces_tells_before_from_after() {
    let log = Path::new("/d/log");
    let request = r#"7 recvfrom(9<TCP:[1]>, "POST /api/v1/keys HTTP/1.1\r\n"..., 8192, 0, NULL, NULL) = 300"#;
    let begun = "8 fdatasync(5</d/log/rocks/000004.log> <unfinished ...>";
    let other = "9 fdatasync(6</d/keys/000004.log>) = 0";
    let done = "8 <... fdatasync resumed>)               = 0";
    let answer = r#"7 writev(9<TCP:[1]>, [{iov_base="HTTP/1.1 201 Created\r\n"..., iov_len=99}], 1) = 99"#;
    let covered = [request, other, begun, done, answer].join("\n");
    assert_eq!(check(&covered, log).ok(), Some(1));
    for early in [[request, begun, other, answer, done], [begun, request, other, done, answer]] {
        assert!(check(&early.join("\n"), log).is_err());
    }
}
