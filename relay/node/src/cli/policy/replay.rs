//! `keyrelay policy replay`: recorded decisions, bit for bit.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use http_body_util::{BodyExt as _, Limited};
use policy_host::Module;
use policy_host::replay::{Difference, Report};
use schemas::Digest;
use schemas::decision::DecisionRecord;
use schemas::policy::PolicyClass;
use serde::Serialize;
use tokio::runtime::Handle;

use super::records::{self, Source};
use super::workbench::{CodeFolder, Workbench};
use crate::cli::client::{Call, Client};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::render;

/// Above what any class allows.
const MODULE_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Debug, Args)]
pub(in crate::cli) struct Replay {
    #[command(flatten)]
    source: Source,
    /// A module that decisions were made with; others are asked of the node
    #[arg(long = "module", value_name = "FILE")]
    modules: Vec<PathBuf>,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    report: Report,
    /// Of this program.
    engine: String,
    policies: usize,
    /// Policies whose modules are not at hand.
    missing_policies: Vec<Digest>,
}

pub(super) async fn run(
    args: Replay,
    folder: CodeFolder,
    connect: impl FnOnce() -> Result<Client, Failure>,
    output: &mut Output,
) -> Result<(), Failure> {
    let Replay { source, modules } = args;
    // Files alone need no node, but what is missing from them is asked of one where there is one.
    let client = match connect() {
        Ok(client) => Some(Arc::new(client)),
        Err(_) if source.from.is_some() => None,
        Err(failure) => return Err(failure),
    };
    let (asked, runtime) = (client.clone(), Handle::current());
    let answer = records::process(source, client.as_deref(), move |decisions| {
        let mut shelf = Shelf::new(&folder, &modules, asked, runtime)?;
        let (mut report, engine) = (Report::default(), shelf.workbench.host.engine_profile().to_owned());
        for decision in decisions {
            let (id, record) = decision?;
            let module = shelf.module(&record)?;
            report.add(&id, &record, module.as_deref(), &engine);
        }
        let mut missing_policies: Vec<_> =
            shelf.loaded.iter().filter(|(_, module)| module.is_none()).map(|((digest, _), _)| *digest).collect();
        missing_policies.sort();
        Ok(Answer { report, engine, policies: shelf.loaded.len(), missing_policies })
    });
    let answer = answer.await?;
    output.answer(&answer, text)?;
    if answer.report.is_clean() { Ok(()) } else { Err(Failure::Findings) }
}

/// The modules that decisions were made with.
struct Shelf {
    workbench: Workbench,
    /// Components from files.
    files: HashMap<Digest, Vec<u8>>,
    client: Option<Arc<Client>>,
    runtime: Handle,
    /// None where a module is not at hand.
    loaded: HashMap<(Digest, PolicyClass), Option<Arc<Module>>>,
}

impl Shelf {
    fn new(folder: &CodeFolder, files: &[PathBuf], client: Option<Arc<Client>>, runtime: Handle) -> anyhow::Result<Self> {
        let workbench = Workbench::new(folder)?;
        // Admitted only to learn what is stored of it; the class that counts is the record's.
        let components = files.iter().map(|file| {
            let admitted = workbench.admit(file, None, PolicyClass::Fast).or_else(|_| workbench.admit(file, None, PolicyClass::Slow))?;
            Ok((admitted.digest, admitted.component))
        });
        let files = components.collect::<anyhow::Result<_>>()?;
        Ok(Self { workbench, files, client, runtime, loaded: HashMap::new() })
    }

    /// The module of a record; none if it is not at hand, or none was loaded when it was decided.
    fn module(&mut self, record: &DecisionRecord) -> anyhow::Result<Option<Arc<Module>>> {
        let Some(class) = record.class else { return Ok(None) };
        let (digest, kind) = (record.policy, record.kind);
        if let Some(module) = self.loaded.get(&(digest, class)) {
            return Ok(module.clone());
        }
        let component = match self.files.get(&digest) {
            Some(component) => Some(component.clone()),
            None => self.runtime.block_on(fetch(self.client.as_deref(), &digest))?,
        };
        let load = |component: Vec<u8>| self.workbench.host.load(&digest, kind, class, &component);
        let module = component.map(load).transpose().with_context(|| format!("the module of policy {digest} does not load"))?;
        self.loaded.insert((digest, class), module.clone());
        Ok(module)
    }
}

/// Asks the node for a module; none if it has none.
async fn fetch(client: Option<&Client>, digest: &Digest) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(client) = client else { return Ok(None) };
    match client.open(Call::get(&["policies", &digest.to_string(), "module"])).await {
        Ok(response) => {
            let body = Limited::new(response.into_body(), MODULE_BYTES_MAX).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!(error).context("a module broke off"))?;
            Ok(Some(body.to_bytes().to_vec()))
        }
        Err(Failure::Refused(problem)) if problem.status == 404 => Ok(None),
        Err(failure) => Err(anyhow::anyhow!(failure.text().unwrap_or_default()).context(format!("policy {digest} cannot be had"))),
    }
}

fn text(answer: &Answer) -> String {
    let Answer { report, engine, policies, missing_policies } = answer;
    let counts = [
        ("decisions", report.decisions),
        ("same, bit for bit", report.same),
        ("differing", report.differing),
        ("not replayable", report.not_replayable),
        ("undecided", report.undecided),
        ("without module", report.missing),
        ("of another engine", report.other_engine),
    ];
    let mut pairs: Vec<_> = counts.iter().map(|(title, count)| (*title, count.to_string())).collect();
    pairs.push(("policies", policies.to_string()));
    pairs.push(("engine here", engine.clone()));
    let mut lines = vec![render::pairs(&pairs)];
    lines.extend(report.named.iter().map(|named| {
        let difference = match &named.difference {
            Difference::Input => "the input is none of this contract".to_owned(),
            Difference::Answer { recorded, found } => format!("recorded {recorded}, found {found}"),
            Difference::Fuel { recorded, found } => format!("recorded fuel {recorded}, found {found}"),
        };
        format!("differs: {} of request {}, policy {}: {difference}", named.id, named.request, named.policy)
    }));
    lines.extend(missing_policies.iter().map(|digest| format!("no module: policy {digest}; give it with --module")));
    lines.join("\n")
}
