//! `keyrelay usage`: what was used, by whom.

use clap::{Subcommand, ValueEnum};
use serde_json::Value;

use super::client::{Call, Client};
use super::failure::Failure;
use super::output::Output;
use super::render::{self, Field};
use super::resource::rows;

#[derive(Debug, Subcommand)]
pub(super) enum UsageCommand {
    /// Sums of requests, tokens and what they cost
    Show {
        #[arg(long, value_enum, default_value_t = GroupBy::Key)]
        group_by: GroupBy,
        /// The first day in UTC, such as 2026-11-22
        #[arg(long, value_name = "DAY")]
        from: Option<String>,
        /// The last day in UTC
        #[arg(long, value_name = "DAY")]
        to: Option<String>,
    },
    /// Everything that is known about one request
    Explain {
        /// What x-request-id said
        request_id: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum GroupBy {
    Key,
    Model,
    Upstream,
    Day,
}

impl GroupBy {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Model => "model",
            Self::Upstream => "upstream",
            Self::Day => "day",
        }
    }

    const fn columns(self) -> [Field; 6] {
        let group = match self {
            Self::Key => ("key", "/key"),
            Self::Model => ("model", "/model"),
            Self::Upstream => ("upstream", "/upstream"),
            Self::Day => ("day", "/day"),
        };
        [
            group,
            ("requests", "/requests"),
            ("input tokens", "/input_tokens"),
            ("output tokens", "/output_tokens"),
            ("cost microusd", "/cost_microusd"),
            ("last used", "/last_used"),
        ]
    }
}

/// What policies decided on a request, in order.
const DECISIONS: [Field; 8] = [
    ("decision", "/id"),
    ("kind", "/kind"),
    ("effect", "/effect"),
    ("combined", "/combined"),
    ("mode", "/mode"),
    ("reasons", "/reasons"),
    ("fault", "/fault/code"),
    ("binding", "/binding"),
];

pub(super) async fn run(command: UsageCommand, client: &Client, output: &mut Output) -> Result<(), Failure> {
    match command {
        UsageCommand::Show { group_by, from, to } => {
            let call = Call::get(&["usage"]).query("group_by", Some(group_by.as_str())).query("from", from).query("to", to);
            let answer = client.send(call).await?;
            output.answer(&answer, |answer| render::table(rows(answer, "usage"), &group_by.columns()))
        }
        UsageCommand::Explain { request_id } => {
            let answer = client.send(Call::get(&["requests", &request_id])).await?;
            output.answer(&answer, |answer| {
                let decisions = rows(answer, "decisions");
                let request = members(&answer["request"]);
                if decisions.is_empty() {
                    request
                } else {
                    format!("{request}\n\n{}", render::table(decisions, &DECISIONS)).trim_start().to_owned()
                }
            })
        }
    }
}

/// Every member of an object on a line of its own.
fn members(value: &Value) -> String {
    let members = value.as_object().into_iter().flatten();
    let members: Vec<_> = members.map(|(name, value)| (name.as_str(), render::cell(Some(value)))).collect();
    render::pairs(&members)
}
