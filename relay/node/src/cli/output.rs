//! Where answers and errors are written: the only writer of stdout and stderr in the command line.

use std::io::{self, Write as _};

use serde::Serialize;

use super::failure::Failure;

pub(super) struct Output {
    is_json: bool,
}

impl Output {
    pub(super) const fn new(is_json: bool) -> Self {
        Self { is_json }
    }

    pub(super) const fn is_json(&self) -> bool {
        self.is_json
    }

    /// Prints an answer: as JSON, or as people read it.
    pub(super) fn answer<T: Serialize>(&mut self, answer: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        if self.is_json {
            let json = serde_json::to_string_pretty(answer).map_err(anyhow::Error::from)?;
            self.line(&json)
        } else {
            let text = text(answer);
            self.line(text.trim_end_matches('\n'))
        }
    }

    /// Prints one line, or several, right away.
    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush());
        written.map_err(|error| Failure::Failed(error.into()))
    }

    /// Says something that is not part of the answer.
    pub(super) fn note(&mut self, text: &str) {
        // There is no better place to complain about a stderr that is gone.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    pub(super) fn failure(&mut self, failure: &Failure) {
        if let Some(text) = failure.text() {
            self.note(&format!("error: {text}"));
        }
    }
}
