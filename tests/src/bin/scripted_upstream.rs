//! The scripted upstream as a program: for tests in other languages, and the demo upstream of `deploy/quickstart`.
//!
//! `scripted-upstream [--demo] [--port N]` prints one line, `{"event":"ready","origin":"http://127.0.0.1:…"}`, and serves until it is ended. With
//! `--demo` it speaks a sentence at the pace of a model.

use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use tests::{Behaviour, ScriptedUpstream};

const DEMO: &str = "Hello from the demo upstream. Every word you see is one chunk of a stream that Keyrelay passed on and counted.";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (is_demo, rest) = match words.as_slice() {
        ["--demo", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let port: u16 = match rest {
        [] => 0,
        ["--port", port] => port.parse().context("--port takes a number")?,
        _ => bail!("usage: scripted-upstream [--demo] [--port N]"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let upstream = ScriptedUpstream::listen(&format!("127.0.0.1:{port}")).await?;
        if is_demo {
            let words = DEMO.split(' ').count() as u64;
            upstream.always(Behaviour { text: Some(DEMO.to_owned()), words, drip_ms: 60, ..Behaviour::default() });
        }
        writeln!(std::io::stdout(), r#"{{"event":"ready","origin":"{}"}}"#, upstream.origin())?;
        upstream.run().await;
        Ok(())
    })
}
