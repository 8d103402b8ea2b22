//! `keyrelay policy`: WebAssembly modules that decide on requests, where they apply, and what they decided.

mod bench;
mod bindings;
mod check;
mod diff;
mod example;
mod module_file;
mod new;
mod records;
mod replay;
mod run;
mod schema;
mod template;
mod test;
mod vectors;
mod workbench;

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use schemas::policy::{PolicyClass, PolicyKind};
use serde_json::Value;

use self::bindings::settings;
pub(super) use self::workbench::CodeFolder;
use self::workbench::likely_kind;
use super::client::{Call, Client};
use super::failure::Failure;
use super::output::Output;
use super::render::{self, Field};
use super::resource::{Listing, list, rows};

/// A policy of the class `slow` may be compiled for minutes before it is answered.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Above what any class allows; the node knows its own bound.
const UPLOAD_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    #[command(flatten)]
    Author(AuthorCommand),
    /// Upload a module: a component, or a core module that describes its world
    Upload(Upload),
    /// List policies
    List(Listing),
    /// Show a policy and its manifest, by digest or the first 8 or more characters of it
    Show { digest: String },
    /// Bind a policy to a tenant, a pool or a key
    Bind(bindings::Bind),
    /// List bindings, or show one
    Bindings {
        id: Option<String>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Change a binding: its policy, settings, mode, or what a fault counts as
    Update(bindings::Update),
    /// Return a binding to what it enforced before
    Rollback(bindings::Rollback),
    /// Remove a binding
    Unbind(bindings::Unbind),
    /// List decisions, newest first, or export them for replay
    Decisions(records::Decisions),
    /// Run recorded decisions again and compare every byte. Exit code 1 if anything differs
    Replay(replay::Replay),
    /// Run a candidate over recorded decisions and tell what it would have changed. Exit code 1 if a request would have got something else
    Diff(diff::Diff),
}

/// What needs no node.
#[derive(Debug, Subcommand)]
pub(super) enum AuthorCommand {
    /// Begin a policy: a folder with a source to change, its tests and all that building it needs
    New(new::New),
    /// Judge a module as a node would at upload, and show what it says of itself
    Check(check::Check),
    /// Run a module against a file of inputs and expected answers
    Test(test::Test),
    /// Ask a module once and print its answer
    Run(run::Run),
    /// Measure a module: time, fuel, and the room that its class leaves
    Bench(bench::Bench),
}

#[derive(Debug, Args)]
pub(super) struct Upload {
    /// The module, or '-' for standard input
    file: PathBuf,
    /// What it decides on [default: what the module exports, which its manifest has to say as well]
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// [default: the name in its manifest]
    #[arg(long)]
    name: Option<String>,
    /// The limits that it runs under; slow is for JavaScript and Python
    #[arg(long, value_enum, default_value_t = Class::Fast)]
    class: Class,
}

/// What a policy decides on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    Route,
    Quota,
    Expiry,
}

/// The limits that a policy runs under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Class {
    Fast,
    Slow,
}

/// Compiles a policy from standard input to standard output, under limits of its own: what a node's child runs.
#[derive(Debug, Args)]
pub(super) struct CompilePolicy {
    #[arg(long, value_enum)]
    class: Class,
}

const COLUMNS: [Field; 7] = [
    ("digest", "/digest"),
    ("name", "/name"),
    ("kind", "/kind"),
    ("class", "/class"),
    ("bytes", "/bytes"),
    ("bindings", "/bindings"),
    ("uploaded", "/uploaded_at"),
];
const FIELDS: [Field; 15] = [
    ("digest", "/policy/digest"),
    ("name", "/policy/name"),
    ("kind", "/policy/kind"),
    ("class", "/policy/class"),
    ("bytes", "/policy/bytes"),
    ("uploaded", "/policy/uploaded_at"),
    ("uploaded digest", "/policy/uploaded_digest"),
    ("bindings", "/policy/bindings"),
    ("says of itself", "/manifest/description"),
    ("version", "/manifest/version"),
    ("effects", "/manifest/effects"),
    ("reasons", "/manifest/reasons"),
    ("obligations", "/manifest/obligations"),
    ("advice", "/manifest/advice"),
    ("meters", "/manifest/meters"),
];

/// `connect` finds the node; what works on files alone does not ask for it.
pub(super) async fn run(
    command: PolicyCommand,
    folder: CodeFolder,
    connect: impl FnOnce() -> Result<Client, Failure>,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        PolicyCommand::Author(command) => author(command, &folder, output),
        PolicyCommand::Upload(args) => upload(args, &connect()?, output).await,
        PolicyCommand::List(Listing { limit }) => {
            let page = list(&connect()?, "policies", limit).await?;
            output.answer(&page, |page| render::table(rows(page, "policies"), &COLUMNS))
        }
        PolicyCommand::Show { digest } => shown(&connect()?.send(Call::get(&["policies", &digest])).await?, output),
        PolicyCommand::Bind(bind) => bindings::bind(bind, &connect()?, output).await,
        PolicyCommand::Bindings { id: Some(id), .. } => bindings::show(&id, &connect()?, output).await,
        PolicyCommand::Bindings { id: None, listing } => bindings::list_all(listing, &connect()?, output).await,
        PolicyCommand::Update(update) => bindings::update(update, &connect()?, output).await,
        PolicyCommand::Rollback(back) => bindings::roll_back(back, &connect()?, output).await,
        PolicyCommand::Unbind(unbind) => bindings::unbind(unbind, &connect()?, output).await,
        PolicyCommand::Decisions(args) => records::run(args, &connect()?, output).await,
        PolicyCommand::Replay(args) => replay::run(args, folder, connect, output).await,
        PolicyCommand::Diff(args) => diff::run(args, folder, connect, output).await,
    }
}

pub(super) fn author(command: AuthorCommand, folder: &CodeFolder, output: &mut Output) -> Result<(), Failure> {
    match command {
        AuthorCommand::New(args) => new::run(&args, output),
        AuthorCommand::Check(args) => check::run(&args, folder, output),
        AuthorCommand::Test(args) => test::run(&args, folder, output),
        AuthorCommand::Run(args) => run::run(&args, folder, output),
        AuthorCommand::Bench(args) => bench::run(&args, folder, output),
    }
}

async fn upload(upload: Upload, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let Upload { file, kind, name, class } = upload;
    let bytes = read(&file)?;
    let kind = kind.map_or_else(|| likely_kind(&bytes), PolicyKind::from);
    let call = Call::new(Method::POST, &["policies"]).wasm(bytes).patience(UPLOAD_TIMEOUT);
    let call = call.query("kind", Some(kind.as_str())).query("name", name).query("class", Some(class.as_str()));
    let answer = client.send(call).await?;
    shown(&answer, output)?;
    if let Some(name) = answer["name_not_taken"].as_str() {
        let kept = render::cell(answer.pointer("/policy/name"));
        let name = render::cell(Some(&name.into()));
        output.note(&format!("these bytes are here already as {kept}, and keep that name; {name} was not taken"));
    }
    Ok(())
}

/// Runs before anything of a node is set up: the process has limits of its own from here on, and nothing but two pipes.
pub(super) fn compile(args: &CompilePolicy) -> io::Result<()> {
    policy_host::compile_child(args.class.into(), io::stdin().lock(), io::stdout().lock())
}

fn shown(answer: &Value, output: &mut Output) -> Result<(), Failure> {
    output.answer(answer, |answer| format!("{}\n{}", render::block(answer, &FIELDS), schema::text(&answer["manifest"]["settings"])))
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        io::stdin().lock().take(UPLOAD_BYTES_MAX).read_to_end(&mut bytes).context("cannot read the module from standard input")?;
    } else {
        bytes = std::fs::read(file).with_context(|| format!("cannot read the module from {}", file.display()))?;
    }
    Ok(bytes)
}

impl Class {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Slow => "slow",
        }
    }
}

impl From<Kind> for PolicyKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Route => Self::Route,
            Kind::Quota => Self::Quota,
            Kind::Expiry => Self::Expiry,
        }
    }
}

impl From<Class> for PolicyClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Fast => Self::Fast,
            Class::Slow => Self::Slow,
        }
    }
}
