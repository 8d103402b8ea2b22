//! `keyrelay log migrate`: one command, run again until it says that it is done.

use std::collections::BTreeMap;
use std::io::{self, Seek as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use indicatif::ProgressBar;
use schemas::Sequence;
use serde_json::json;

use super::access::Access;
use super::client::{Call, Client};
use super::failure::Failure;
use super::output::Output;
use super::{Global, access, progress, stream};
use crate::config::{Config, Sources};
use crate::migrate::{Direction, Migration, NodeIsRunning, Step};
use crate::serve;

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Into JetStream on these servers, separated by commas
    #[arg(long, value_name = "URL", required_unless_present = "to_embedded", conflicts_with_all = ["to_embedded", "nats"])]
    to_nats: Option<String>,
    /// Back into the data directory, from the servers of --nats
    #[arg(long)]
    to_embedded: bool,
    /// The servers to come back from [default: nats.url]
    #[arg(long, value_name = "URL", requires = "to_embedded")]
    nats: Option<String>,
    /// A TOML file with settings, such as nats.credentials
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn run(args: Migrate, global: &Global, environment: BTreeMap<String, String>, output: &mut Output) -> Result<(), Failure> {
    let direction = if args.to_embedded { Direction::ToEmbedded } else { Direction::ToJetStream };
    let data = access::layout(global, &environment).data().to_owned();
    let flags = [
        Some(("data", "--data", data.to_string_lossy().into_owned())),
        args.to_nats.map(|url| ("nats.url", "--to-nats", url)),
        args.nats.map(|url| ("nats.url", "--nats", url)),
    ];
    let sources = Sources { file: args.config, environment: environment.clone(), flags: flags.into_iter().flatten().collect() };
    let config = Config::load(sources).map_err(|faults| Failure::Failed(faults.into()))?;
    let nats = config.nats().ok_or_else(|| anyhow::anyhow!("no NATS server is named: give --nats URL"))?;
    let migration = Migration { data, nats, direction, clock: serve::clock() };
    let mut bar = Bar::default();
    match migration.run(&mut |step| bar.show(step)).await {
        Ok(done) => {
            let seconds = done.elapsed.as_secs_f64();
            let answer = json!({
                "done": true, "repeat": done.is_repeat, "cluster": done.cluster, "size": done.size, "root": done.root, "copied": done.copied, "compared": done.compared,
                "secrets": done.secrets, "artefacts": done.artefacts, "usage_batches": done.usage_batches,
                "decision_batches": done.decision_batches, "seconds": seconds,
            });
            let next = match direction {
                Direction::ToJetStream => "Start the node with --nats from now on.",
                Direction::ToEmbedded => "Start the node without --nats from now on, and no other node on those servers.",
            };
            output.answer(&answer, |_| {
                let (size, root) = (done.size, done.root);
                if done.is_repeat {
                    return format!("{size} records were handed over already, root {root}; both logs were compared just now. {next}");
                }
                format!("{size} records are handed over, root {root}; {} were copied just now, in {seconds:.1} s. {next}", done.copied)
            })
        }
        Err(error) if error.is::<NodeIsRunning>() && direction == Direction::ToJetStream => {
            let client = Client::new(Access::find(global, &environment)?)?;
            let ahead = copy_ahead(&migration, &client, bar).await?;
            output.answer(&json!({ "done": false, "ahead": ahead }), |_| {
                format!(
                    "The node is running. {ahead} records are on the servers already, and the node's own log is the one that counts. \
                     Stop the node and run the same command again: only what came since is left to copy."
                )
            })
        }
        Err(error) => Err(Failure::Failed(error)),
    }
}

/// Takes the running node's export, and copies what is in it.
async fn copy_ahead(migration: &Migration, client: &Client, mut bar: Bar) -> Result<Sequence, Failure> {
    let body = client.open(Call::get(&["audit", "export"])).await?.into_body();
    // Written down first: the node cuts off a connection that stands still for long, and servers that elect a leader let it stand still.
    let data = migration.data.clone();
    let export = stream::drive(body, move |mut body| {
        let mut file = tempfile::tempfile_in(data)?;
        io::copy(&mut body, &mut file)?;
        file.rewind()?;
        io::Result::Ok(file)
    });
    let export = export.await?.context("the export of the running node cannot be taken")?;
    migration.copy_ahead(export, &mut |step| bar.show(step)).await.map_err(Failure::Failed)
}

/// A bar for each step that takes long.
#[derive(Default)]
struct Bar {
    shown: Option<(&'static str, ProgressBar)>,
}

impl Bar {
    fn show(&mut self, step: Step) {
        let (name, position, head) = match step {
            Step::Secrets => ("secrets, policies and usage", Sequence::ZERO, Sequence::ZERO),
            Step::Comparing { position, head } => ("comparing", position, head),
            Step::Copying { position, head } => ("copying", position, head),
            Step::Folding { position, head } => ("judging", position, head),
            Step::Verifying { position, head } => ("comparing again", position, head),
        };
        if self.shown.as_ref().is_none_or(|(shown, _)| *shown != name) {
            if let Some((_, bar)) = self.shown.take() {
                bar.finish_and_clear();
            }
            self.shown = Some((name, progress::records(head.0).with_message(name)));
        }
        if let Some((_, bar)) = &self.shown {
            bar.set_length(head.0);
            bar.set_position(position.0);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some((_, bar)) = self.shown.take() {
            bar.finish_and_clear();
        }
    }
}
