//! How a command can fail, and the exit code of each way.

use std::io;
use std::process::ExitCode;

use http::StatusCode;
use serde::Deserialize;

/// Why a command did not do what it was told.
#[derive(Debug)]
pub(super) enum Failure {
    /// The node refused; its words.
    Refused(Problem),
    /// It ran, and what it found is printed already.
    Findings,
    /// It could not run.
    Failed(anyhow::Error),
}

/// A problem as the node words it (RFC 9457).
#[derive(Debug, Deserialize)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) detail: String,
    /// The lines of a file that are at fault, or in conflict.
    #[serde(default)]
    pub(super) lines: Vec<ProblemLine>,
}

/// What a node says about a line of a file.
#[derive(Debug, Deserialize)]
pub(super) struct ProblemLine {
    line: u64,
    code: String,
    detail: String,
}

impl Problem {
    /// Whether the node is at fault or away, so that the request itself may have been right.
    fn is_the_nodes(&self) -> bool {
        StatusCode::from_u16(self.status).is_ok_and(|status| status.is_server_error())
    }
}

impl Failure {
    /// Whether what was asked for may have been done all the same.
    pub(super) fn may_be_done(&self) -> bool {
        match self {
            Self::Refused(problem) => problem.is_the_nodes(),
            Self::Findings => false,
            Self::Failed(_) => true,
        }
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Refused(problem) if problem.is_the_nodes() => ExitCode::from(2),
            Self::Refused(_) | Self::Findings => ExitCode::from(1),
            // Whoever read our output has seen enough; that is no failure.
            Self::Failed(_) if self.is_broken_pipe() => ExitCode::SUCCESS,
            Self::Failed(_) => ExitCode::from(2),
        }
    }

    /// What to say; nothing where everything was said.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Refused(problem) => {
                let lines = problem.lines.iter().map(|line| format!("\n  line {}: {} ({})", line.line, line.detail, line.code));
                Some(format!("{} ({}){}", problem.detail, problem.code, lines.collect::<String>()))
            }
            Self::Findings => None,
            Self::Failed(_) if self.is_broken_pipe() => None,
            Self::Failed(error) => Some(format!("{error:#}")),
        }
    }

    fn is_broken_pipe(&self) -> bool {
        let Self::Failed(error) = self else { return false };
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}
