//! A loaded policy, and one evaluation of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use schemas::Digest;
use schemas::policy::{PolicyClass, PolicyKind};
use serde::Serialize;
use thiserror::Error;

use crate::contract::Fault;
use crate::engine::Ticker;
use crate::instance::{Spent, Template};
use crate::schema::Schema;
use crate::slow::Pool;
use crate::{Input, Manifest, Output, PolicyFault};
use crate::{checks, limits};

/// A policy, compiled and ready for instances. It keeps nothing between calls.
pub struct Module {
    pub(crate) digest: Digest,
    pub(crate) class: PolicyClass,
    pub(crate) manifest: Manifest,
    pub(crate) template: Template,
    pub(crate) slow: Arc<Pool>,
    /// The epoch advances for as long as there is a module, also one that outlives its host.
    pub(crate) _ticker: Arc<Ticker>,
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module")
            .field("digest", &self.digest)
            .field("kind", &self.kind())
            .field("class", &self.class)
            .finish_non_exhaustive()
    }
}

/// What came of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    pub result: Result<Output, PolicyFault>,
    /// Used: the same on every run of the same module, input and engine.
    pub fuel: u64,
    /// Bytes of linear memory that the instance had at its end, which is the most it had; as fixed as the fuel. Other than the fuel it is no
    /// part of a decision record.
    pub memory_bytes: u64,
    /// From the call to the answer, with the instance; a wait in a queue is not in it.
    pub elapsed: Duration,
}

/// One thing that is wrong with settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingsFault {
    /// [`crate::SCHEMA_CODE`], or one of the policy's own.
    pub code: String,
    /// The place in the settings, as a JSON pointer, empty for all of them; only what the schema finds has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    pub detail: String,
}

impl SettingsFault {
    /// Where it is, if that is known, and what it is.
    pub(crate) fn place_and_detail(&self) -> String {
        match self.path.as_deref() {
            None => self.detail.clone(),
            Some("") => format!("settings: {}", self.detail),
            Some(path) => format!("{path}: {}", self.detail),
        }
    }
}

impl std::fmt::Display for SettingsFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.place_and_detail())
    }
}

impl From<Fault> for SettingsFault {
    fn from(Fault { code, detail }: Fault) -> Self {
        Self { code, path: None, detail }
    }
}

/// Why settings are not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigureError {
    /// All that is wrong with them at once: what the manifest's schema finds, or else what the policy says.
    #[error("the settings are refused: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<SettingsFault>),
    #[error(transparent)]
    Fault(PolicyFault),
}

impl Evaluation {
    pub(crate) fn without_call(fault: PolicyFault) -> Self {
        Self { result: Err(fault), fuel: 0, memory_bytes: 0, elapsed: Duration::ZERO }
    }
}

impl Module {
    /// Of the component.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    pub fn kind(&self) -> PolicyKind {
        self.manifest.kind
    }

    pub fn class(&self) -> PolicyClass {
        self.class
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Judges settings, which are canonical JSON, by the manifest's schema, and asks the policy itself about those that fit it. Blocks for up
    /// to the class's time.
    pub fn configure(&self, settings: &str) -> Result<(), ConfigureError> {
        if settings.len() > schemas::binding::SETTINGS_BYTES_MAX {
            return Err(ConfigureError::Fault(PolicyFault::InvalidInput));
        }
        // A policy that was admitted before schemas were looked at may have one that is not understood: then it alone is asked.
        if let (Ok(schema), Ok(value)) = (Schema::parse(&self.manifest.settings), serde_json::from_str(settings)) {
            let faults = schema.faults(&value);
            if !faults.is_empty() {
                return Err(ConfigureError::Refused(faults));
            }
        }
        match self.template.configure(settings) {
            Err(fault) => Err(ConfigureError::Fault(fault)),
            Ok(Ok(())) => Ok(()),
            Ok(Err(faults)) => {
                let faults = faults.into_iter().take(limits::FAULTS_MAX).map(checks::shown_fault);
                Err(ConfigureError::Refused(faults.map(SettingsFault::from).collect()))
            }
        }
    }

    /// Evaluates the policy on this thread, in an instance of its own, and checks what it answers.
    ///
    /// For the fast class, whose fuel bounds it to some milliseconds. A slow module runs too, and blocks the thread for up to its class's
    /// time: tools do that, the request path uses [`Self::decide_slow`].
    pub fn decide(&self, input: &Input) -> Evaluation {
        if input.kind() != self.kind() || input.encoded_bytes() > limits::input_bytes_max(self.kind()) {
            return Evaluation::without_call(PolicyFault::InvalidInput);
        }
        let start = Instant::now();
        let (answer, Spent { fuel, memory_bytes }) = self.template.decide(input);
        let result = match answer {
            Ok(Ok(output)) => checks::check(&self.manifest, input, output).map_err(PolicyFault::InvalidOutput),
            Ok(Err(fault)) => Err(PolicyFault::Declared(checks::shown_fault(fault))),
            Err(fault) => Err(fault),
        };
        Evaluation { result, fuel, memory_bytes, elapsed: start.elapsed() }
    }

    /// Evaluates the policy on the bounded pool of threads. A full queue is [`PolicyFault::Busy`] at once.
    pub async fn decide_slow(self: &Arc<Self>, input: Arc<Input>) -> Evaluation {
        match self.slow.submit(self.clone(), input) {
            // The sender is dropped only by a job that waited too long, or with the whole pool.
            Some(answer) => answer.await.unwrap_or_else(|_| Evaluation::without_call(PolicyFault::Busy)),
            None => Evaluation::without_call(PolicyFault::Busy),
        }
    }
}
