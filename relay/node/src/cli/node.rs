//! `serve`, `config` and `version`: the node itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use schemas::record::FORMAT;
use serde_json::json;

use super::failure::Failure;
use super::output::Output;
use super::{Global, render};
use crate::config::{Config, Setting, Sources};
use crate::logging;
use crate::serve::serve as serve_node;

/// Where settings come from besides the environment.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    relay_listen: Option<String>,
    /// Where the API and the metrics are [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<String>,
    /// The NATS servers whose log this node shares with others, separated by commas [default: none, the log is embedded]
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
}

impl ConfigArgs {
    fn load(self, global: Global, environment: BTreeMap<String, String>) -> Result<Config, Failure> {
        let data = global.data.map(|data| ("data", "--data", data.to_string_lossy().into_owned()));
        let relay = self.relay_listen.map(|text| ("relay.listen", "--relay-listen", text));
        let admin = self.admin_listen.map(|text| ("admin.listen", "--admin-listen", text));
        let nats = self.nats.map(|text| ("nats.url", "--nats", text));
        let flags = [data, relay, admin, nats].into_iter().flatten().collect();
        Config::load(Sources { file: self.config, environment, flags }).map_err(|faults| Failure::Failed(faults.into()))
    }
}

pub(super) async fn serve(args: ConfigArgs, global: Global, environment: BTreeMap<String, String>) -> Result<(), Failure> {
    let config = args.load(global, environment)?;
    logging::start(&config.log)?;
    Box::pin(serve_node(config)).await.map_err(Failure::Failed)
}

pub(super) fn config(args: ConfigArgs, global: Global, environment: BTreeMap<String, String>, output: &mut Output) -> Result<(), Failure> {
    let config = args.load(global, environment)?;
    let row = |setting: &Setting| json!({ "name": setting.name, "value": setting.value, "source": setting.source.to_string() });
    let settings: Vec<_> = config.settings.iter().map(row).collect();
    output.answer(&json!({ "settings": settings }), |_| {
        render::table(&settings, &[("setting", "/name"), ("value", "/value"), ("source", "/source")])
    })
}

pub(super) fn version(output: &mut Output) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    output.answer(&json!({ "version": version, "record_format": FORMAT }), |_| format!("keyrelay {version}"))
}
