//! `keyrelay upstreams login`: opens an account at a provider, with a browser here, a browser elsewhere, or a device code.

mod listener;

use std::io::{self, BufRead as _, IsTerminal as _};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{Details, FIELDS};
use crate::cli::client::{Call, Client};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::render;
use listener::Listener;

#[derive(Debug, Args)]
pub(in crate::cli) struct Login {
    /// Name or id of the upstream; with --dialect and --base-url the name of a new one
    upstream: String,
    /// Where the account is [default: where the upstream's account is]
    #[arg(long, required = false)]
    provider: Option<String>,
    /// openai or anthropic, of a new upstream
    #[arg(long, requires = "base_url", requires = "provider")]
    dialect: Option<String>,
    /// Of a new upstream
    #[arg(long, value_name = "URL", requires = "dialect")]
    base_url: Option<String>,
    #[command(flatten)]
    details: Details,
    /// Listen for no browser: paste the address that it ends on
    #[arg(long)]
    paste: bool,
    /// Type a code in at the provider's page instead
    #[arg(long, conflicts_with = "paste")]
    device: bool,
    /// Take the account without asking whether it is the right one
    #[arg(long)]
    yes: bool,
}

/// Answers after which the same login can go on.
const GO_ON: [&str; 5] =
    ["oauth_paste_invalid", "oauth_state_unknown", "oauth_upstream_unreachable", "oauth_rate_limited", "log_unavailable"];

pub(super) async fn run(login: Login, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let is_interactive = io::stdin().is_terminal();
    if !login.yes && !is_interactive && !login.paste {
        return Err(anyhow!("nobody can be asked whether the account is the right one; say --yes").into());
    }
    let listener = if login.paste || login.device { None } else { listen(&login, client, output).await? };
    let started = start(&login, client, listener.as_ref().map(Listener::port)).await?;
    let id = started["login"]["id"].as_str().context("the node's answer has no login")?.to_owned();
    let outcome = go_on(&login, client, output, &started, &id, listener).await;
    if outcome.is_err() {
        // The failure is what is told; a login that is left ends by itself.
        let _ = client.send(Call::new(Method::DELETE, &["logins", &id])).await;
    }
    outcome
}

async fn go_on(
    login: &Login,
    client: &Client,
    output: &mut Output,
    started: &Value,
    id: &str,
    listener: Option<Listener>,
) -> Result<(), Failure> {
    let known = match started["authorize_url"].as_str() {
        None => by_device(client, output, started, id).await?,
        Some(url) => {
            output.note(&format!("Open this address in a browser, within ten minutes:\n\n{url}\n"));
            match listener {
                Some(listener) => {
                    output.note(&format!("Waiting for the browser on port {}.", listener.port()));
                    bring(client, id, &listener.callback().await?).await?
                }
                None => by_paste(client, output, id).await?,
            }
        }
    };
    let identity = known["login"]["identity"].as_str().unwrap_or("an account that the provider does not name").to_owned();
    if !login.yes && !agreed(output, &identity)? {
        return Err(anyhow!("the account was not taken").into());
    }
    let confirmed = client.send(Call::new(Method::POST, &["logins", id, "confirm"])).await?;
    output.note(confirmed["detail"].as_str().unwrap_or_default());
    output.answer(&confirmed, |confirmed| render::block(&confirmed["upstream"], &FIELDS))
}

/// Takes the first port that the provider allows and nobody else has; none where the provider sends browsers elsewhere.
async fn listen(login: &Login, client: &Client, output: &mut Output) -> Result<Option<Listener>, Failure> {
    let name = match &login.provider {
        Some(name) => name.clone(),
        None => {
            let shown = client.send(Call::get(&["upstreams", &login.upstream])).await?;
            let name = shown.pointer("/upstream/credential/grant/provider").and_then(Value::as_str);
            name.context("the upstream has no account yet; name a provider with --provider")?.to_owned()
        }
    };
    let listed = client.send(Call::get(&["providers"])).await?;
    let provider = listed["providers"].as_array().into_iter().flatten().find(|provider| provider["name"] == *name);
    let provider = provider.with_context(|| format!("the node knows no provider {name:?}"))?;
    let (Some(host), Some(path)) = (provider["redirect_host"].as_str(), provider["redirect_path"].as_str()) else { return Ok(None) };
    let allowed = provider["redirect_ports"].as_array().into_iter().flatten().filter_map(Value::as_u64);
    let ports: Vec<u16> = allowed.filter_map(|port| port.try_into().ok()).collect();
    let listener = Listener::bind(host, path, &ports).await;
    if listener.is_none() {
        output.note("None of the ports that the provider allows is free here, so paste the address that the browser ends on.");
    }
    Ok(listener)
}

async fn start(login: &Login, client: &Client, port: Option<u16>) -> Result<Value, Failure> {
    let mut body = Map::new();
    body.extend(login.provider.clone().map(|provider| ("provider".to_owned(), provider.into())));
    body.extend(login.device.then(|| ("flow".to_owned(), "device".into())));
    body.extend(port.map(|port| ("redirect_port".to_owned(), port.into())));
    let (Some(dialect), Some(base_url)) = (&login.dialect, &login.base_url) else {
        return client.send(Call::new(Method::POST, &["upstreams", &login.upstream, "logins"]).body(body.into())).await;
    };
    let mut upstream = login.details.clone().body(&std::collections::BTreeMap::new())?;
    let own = [("name", &login.upstream), ("dialect", dialect), ("base_url", base_url)];
    upstream.extend(own.map(|(name, value)| (name.to_owned(), value.clone().into())));
    body.insert("upstream".to_owned(), upstream.into());
    client.send(Call::new(Method::POST, &["logins"]).body(body.into())).await
}

async fn bring(client: &Client, id: &str, callback_url: &str) -> Result<Value, Failure> {
    client.send(Call::new(Method::POST, &["logins", id, "callback"]).body(json!({ "callback_url": callback_url }))).await
}

/// Takes pastes until one is the provider's answer, or the login is over.
async fn by_paste(client: &Client, output: &mut Output, id: &str) -> Result<Value, Failure> {
    output.note(
        "Then paste the address that the browser ends on; that it cannot be opened there does not matter. Paste none that you were sent.",
    );
    loop {
        let pasted = read_masked()?;
        match bring(client, id, pasted.trim()).await {
            Err(Failure::Refused(problem)) if GO_ON.contains(&problem.code.as_str()) => {
                output.note(&format!("{} ({}); paste again:", problem.detail, problem.code));
            }
            answer => return answer,
        }
    }
}

/// A line of standard input, which a terminal does not show.
fn read_masked() -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::new());
    if io::stdin().is_terminal() {
        *line = console::Term::stderr().read_secure_line().context("nothing can be read from the terminal")?;
    } else if io::stdin().lock().read_line(&mut line).context("cannot read standard input")? == 0 {
        return Err(anyhow!("standard input ended before an address was pasted").into());
    }
    Ok(line)
}

async fn by_device(client: &Client, output: &mut Output, started: &Value, id: &str) -> Result<Value, Failure> {
    let device = &started["device"];
    let text = |name: &str| device[name].as_str().unwrap_or_default().to_owned();
    output.note(&format!("Open {} within ten minutes and type in this code:\n\n{}\n", text("verification_uri"), text("user_code")));
    let interval = Duration::from_secs(device["interval"].as_u64().unwrap_or(5).max(1));
    loop {
        tokio::time::sleep(interval).await;
        match client.send(Call::new(Method::POST, &["logins", id, "callback"])).await {
            Err(Failure::Refused(problem)) if GO_ON.contains(&problem.code.as_str()) => {}
            Ok(answer) if answer["login"]["state"] == "open" => {}
            answer => return answer,
        }
    }
}

/// Asks whether the account is the right one.
fn agreed(output: &mut Output, identity: &str) -> Result<bool, Failure> {
    output.note(&format!("This is {identity}. Use it? [y/N]"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
