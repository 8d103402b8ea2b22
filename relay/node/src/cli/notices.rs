//! `keyrelay notices`: the channels that operators are told through, what was sent, and a test of one.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::client::{Call, Client};
use super::failure::Failure;
use super::output::Output;
use super::render::{self, Field};

#[derive(Debug, Args)]
pub(super) struct NoticesArgs {
    #[command(subcommand)]
    command: Option<NoticesCommand>,
}

#[derive(Debug, Subcommand)]
enum NoticesCommand {
    /// List the channels and the last attempts of the node that answers
    List,
    /// Send a test notice to a channel; exit code 1 if it is not taken
    Test { channel: String },
}

const CHANNEL: [Field; 4] = [("name", "/name"), ("form", "/form"), ("kinds", "/kinds"), ("tenants", "/tenants")];
const ATTEMPT: [Field; 6] =
    [("at", "/at"), ("kind", "/kind"), ("tenant", "/tenant"), ("outcome", "/outcome"), ("status", "/status"), ("text", "/text")];

pub(super) async fn run(args: NoticesArgs, client: &Client, output: &mut Output) -> Result<(), Failure> {
    match args.command {
        None | Some(NoticesCommand::List) => {
            let answer = client.send(Call::new(Method::GET, &["notices"])).await?;
            output.answer(&answer, shown)
        }
        Some(NoticesCommand::Test { channel }) => {
            let path = ["notices", "channels", channel.as_str(), "test"];
            let answer = client.send(Call::new(Method::POST, &path).body(json!({}))).await?;
            output.answer(&answer, |answer| render::block(&answer["delivery"], &ATTEMPT))?;
            if answer["delivery"]["outcome"] == "delivered" { Ok(()) } else { Err(Failure::Findings) }
        }
    }
}

fn shown(answer: &Value) -> String {
    let Some(channels) = answer["channels"].as_array().filter(|channels| !channels.is_empty()) else {
        return "none; channels stand in the settings under [notices.channels]".to_owned();
    };
    let one = |channel: &Value| {
        let recent = channel["recent"].as_array().map(Vec::as_slice).unwrap_or_default();
        format!("{}\n{}", render::block(channel, &CHANNEL), render::table(recent, &ATTEMPT))
    };
    channels.iter().map(one).collect::<Vec<_>>().join("\n\n")
}
