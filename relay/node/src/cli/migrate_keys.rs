//! `keyrelay migrate-keys`: wraps everything that is sealed under another root key, while the cluster serves, or on a node that stands still.
//!
//! Every step can be made again: run the same command once more after it was cut short, and it goes on where it was.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::Method;
use schemas::Digest;
use serde_json::{Value, json};

use super::access::Access;
use super::client::{Call, Client};
use super::failure::Failure;
use super::output::Output;
use super::own_node::OwnNode;
use super::{Global, progress, root_key};
use crate::serve;

/// How often the node is asked how far it is.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct MigrateKeys {
    /// The root key in use: a file, or - for standard input
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The root key that is to be in use: a file, or - for standard input. Every node must have it. Alone it must be in use already, and what does
    /// not lie under it is wrapped again
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Go on though no copy of the new root key was recorded within a day
    #[arg(long)]
    without_backup: bool,
    /// Begin the re-wrap and do not wait for its end
    #[arg(long)]
    no_wait: bool,
    /// The settings that the node of --data is started with, if it stands still [default: none, as `serve`]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Talks to the node that runs. Where none does on a directory that was named, one is run for as long as it takes.
pub(super) async fn run_anywhere(
    args: MigrateKeys,
    global: &Global,
    environment: &BTreeMap<String, String>,
    output: &mut Output,
) -> Result<(), Failure> {
    let find = || Client::new(Access::find(global, environment)?);
    let data = global.data.as_deref().filter(|_| global.admin_url.is_none() && !environment.contains_key("KEYRELAY_ADMIN_URL"));
    let client = find()?;
    let Some(data) = data else { return run(args, &client, output).await };
    if client.readiness().await.is_ok() {
        return run(args, &client, output).await;
    }
    if args.no_wait {
        let why = "no node runs there, so there is nobody to go on with the re-wrap after this command; leave --no-wait out";
        return Err(root_key::refused("node_stands_still", why));
    }
    if !serve::is_data(data) {
        return Err(root_key::refused("no_node", &format!("{} is not the data directory of a node", data.display())));
    }
    output.note(&format!("No node runs on {}; one is started for this command, and ended with it.", data.display()));
    let node = OwnNode::start(data, args.config.as_deref())?;
    let outcome = run(args, &find()?, output).await;
    node.end()?;
    outcome
}

async fn run(args: MigrateKeys, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let Some(to) = &args.to else {
        let why = "say with --to under which root key everything is to lie. Encryption cannot be switched off: a credential is never kept in the \
                   clear, so there is no --from alone";
        return Err(root_key::refused("encryption_stays", why));
    };
    let to = root_key::read(to)?.commitment();
    let from = args.from.as_deref().map(root_key::read).transpose()?.map(|key| key.commitment());
    let body = json!({ "from": from, "to": to, "without_backup": args.without_backup });
    let forecast = client.send(Call::new(Method::POST, &["root-key", "forecast"]).body(body.clone())).await?;
    if args.dry_run {
        return output.answer(&forecast, |forecast| foretold(forecast, &to));
    }
    let answer = client.send(Call::new(Method::POST, &["root-key", "change"]).body(body)).await?;
    if args.no_wait {
        return output.answer(&answer, root_key::text);
    }
    let answer = settled(client, to, answer).await?;
    output.answer(&answer, root_key::text)?;
    let rewrap = &answer["rewrap"];
    if rewrap["damaged"] != 0 {
        output.note(
            "Some data keys do not open: the key store was changed from outside. The credentials at those places must be entered again.",
        );
        return Err(Failure::Findings);
    }
    output.note(
        "Everything lies under the new root key. When backups from before are no longer needed, or their root key is kept with them: keyrelay root-key \
         destroy OLD",
    );
    Ok(())
}

/// Follows the re-wrap to its end. What fails is tried again by the node, so that it is waited for all the same.
async fn settled(client: &Client, to: Digest, mut answer: Value) -> Result<Value, Failure> {
    let bar = progress::data_keys(0);
    loop {
        let rewrap = &answer["rewrap"];
        let number = |name: &str| rewrap[name].as_u64().unwrap_or_default();
        let has_older = answer["root_keys"].as_array().into_iter().flatten().any(|key| key["state"] == "decrypt_only");
        let is_of_this = rewrap["root_key"] == json!(to);
        bar.set_length(number("total"));
        bar.set_position(number("seen"));
        bar.set_message(rewrap["state"].as_str().unwrap_or_default().to_owned());
        if !has_older || is_of_this && rewrap["state"] == "done" {
            bar.finish_and_clear();
            return Ok(answer);
        }
        tokio::time::sleep(ASK_INTERVAL).await;
        answer = match client.send(Call::get(&["root-key"])).await {
            // A node that is away for a while goes on with it when it is back.
            Err(failure) if failure.may_be_done() => answer,
            asked => asked?,
        };
    }
}

fn foretold(forecast: &Value, to: &Digest) -> String {
    let is = |name: &str| if forecast[name] == true { "yes" } else { "no" };
    format!(
        "{} of {} data keys would be wrapped again under {to}. The node that was asked has that root key: {}. A copy of it was recorded within a \
         day: {}. Nothing was changed.",
        forecast["to_rewrap"],
        forecast["data_keys"],
        is("is_here"),
        is("is_backed_up")
    )
}
