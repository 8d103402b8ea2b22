//! `keyrelay doctor`: what is wrong with the cluster, or will be, and what to do about it.
//!
//! It asks a node what the node says of itself and of the others, and judges that; it changes nothing. What is wrong now is a finding and ends
//! with exit code 1, what will be if nobody does anything is a warning.

use schemas::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::client::{Call, Client};
use super::failure::Failure;
use super::output::Output;
use super::resource::list;
use crate::serve;

/// How old the record of a root key's copy may be before somebody should try the copy again.
const COPY_DAYS_MAX: u64 = 180;
/// How long a root key that is not wrapped under any more may stay before it is forgotten to be destroyed.
const DECRYPT_ONLY_DAYS_MAX: u64 = 30;
/// How many records a node may be behind the others and still only be busy.
const LAG_MAX: u64 = 1000;
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// What was looked at, and what was seen.
#[derive(Debug, Serialize)]
struct Finding {
    about: &'static str,
    state: State,
    /// In words.
    found: String,
    /// What to do; none where nothing is to be done.
    cure: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Good,
    Warning,
    Wrong,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Whether nothing is wrong; warnings are not.
    ok: bool,
    findings: Vec<Finding>,
}

impl Report {
    fn of(findings: Vec<Finding>) -> Self {
        Self { ok: findings.iter().all(|finding| finding.state != State::Wrong), findings }
    }

    fn text(&self) -> String {
        let line = |finding: &Finding| {
            let mark = match finding.state {
                State::Good => "ok",
                State::Warning => "warning",
                State::Wrong => "WRONG",
            };
            let cure = finding.cure.as_ref().map(|cure| format!("\n{:9}{cure}", "")).unwrap_or_default();
            format!("{mark:9}{}: {}{cure}\n", finding.about, finding.found)
        };
        self.findings.iter().map(line).collect()
    }
}

fn good(about: &'static str, found: impl Into<String>) -> Finding {
    Finding { about, state: State::Good, found: found.into(), cure: None }
}

fn warning(about: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding { about, state: State::Warning, found: found.into(), cure: Some(cure.into()) }
}

fn wrong(about: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding { about, state: State::Wrong, found: found.into(), cure: Some(cure.into()) }
}

pub(super) async fn run(client: &Client, output: &mut Output) -> Result<(), Failure> {
    let ready = client.readiness().await?;
    let mut findings = readiness(&ready);
    let members = list(client, "nodes", None).await?;
    findings.extend(nodes(&members));
    findings.extend(root_keys(&client.send(Call::get(&["root-key"])).await?, &members, serve::clock()()));
    findings.extend(upstreams(&ready["upstreams"]));
    let report = Report::of(findings);
    output.answer(&report, Report::text)?;
    if report.ok { Ok(()) } else { Err(Failure::Findings) }
}

/// What the node that is asked says of itself.
fn readiness(ready: &Value) -> Vec<Finding> {
    let reasons: Vec<&str> = ready["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut findings = vec![match (&ready["ready"], &ready["degraded"]) {
        (Value::Bool(true), Value::Bool(false)) => good("node", "ready"),
        (Value::Bool(true), _) => warning(
            "node",
            format!("serves, degraded: {}", reasons.join(", ")),
            "it goes on for `relay.staleness_max` without its log; look at the NATS servers and the way to them",
        ),
        _ => wrong("node", format!("not ready: {} {}", reasons.join(", "), shown(&ready["reason"])), "see its log"),
    }];
    findings.push(match (ready["log"]["connected"].as_bool(), ready["log"]["trust"].as_str()) {
        // Before what is thought of it: that is not known before it was compared again.
        (Some(false), _) => {
            wrong("log", format!("cannot be reached for {} s", ready["stale_seconds"]), "look at the NATS servers and the way to them")
        }
        (_, Some("trusted")) => good("log", format!("connected, at {}", ready["position"])),
        (_, trust) => wrong(
            "log",
            format!("{}: {}", trust.unwrap_or("unknown"), shown(&ready["log"]["trust_reason"])),
            "nothing is written to it before an operator looks; see `keyrelay log verify`",
        ),
    });
    findings.push(match ready["sync"].as_str() {
        Some("embedded" | "verified") => good("durability", "every record is on disk before it is told"),
        Some("lazy") => wrong(
            "durability",
            "the NATS servers write to disk later than they answer: a power failure loses records that were told",
            "set `sync_interval: always` on every server",
        ),
        _ => warning(
            "durability",
            "nobody looked whether the NATS servers write to disk before they answer",
            "name their monitoring URLs in `nats.monitor_url`, or give a system credential",
        ),
    });
    if let Some(missing) = ready["policies"]["missing"].as_array().filter(|missing| !missing.is_empty()) {
        findings.push(wrong("policies", format!("{} modules that bindings name are not here", missing.len()), "upload them again"));
    }
    findings
}

fn nodes(page: &Value) -> Vec<Finding> {
    let nodes: Vec<&Value> = page["nodes"].as_array().into_iter().flatten().collect();
    let named = |node: &Value| shown(&node["id"]);
    let mut findings = Vec::new();
    for node in nodes.iter().filter(|node| node["membership"] == "enrolled") {
        if node["live"] != true {
            let cure =
                format!("start it, or `keyrelay nodes retire {}` if it is gone for good: changes of the root key wait for it", named(node));
            findings.push(warning("nodes", format!("{} has not been heard since {}", named(node), shown(&node["heard_at"])), cure));
        } else if node["lag"].as_u64() > Some(LAG_MAX) {
            findings.push(warning(
                "nodes",
                format!("{} is {} records behind", named(node), node["lag"]),
                "look at its load, or at its way to the log",
            ));
        }
    }
    let live: Vec<&&Value> = nodes.iter().filter(|node| node["live"] == true).collect();
    let mut releases: Vec<String> = live.iter().map(|node| shown(&node["release"])).collect();
    releases.sort_unstable();
    releases.dedup();
    if releases.len() > 1 {
        findings.push(warning("nodes", format!("of releases {}", releases.join(", ")), "finish the upgrade"));
    }
    if findings.is_empty() {
        findings.push(good("nodes", format!("{} live, none missing", live.len())));
    }
    findings
}

/// Whether the root key could be lost, and whether a change of it is under way or forgotten.
fn root_keys(answer: &Value, members: &Value, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    // One that is away has told nothing, and is told of as such.
    let live: Vec<&Value> =
        members["nodes"].as_array().into_iter().flatten().filter(|node| node["live"] == true).map(|node| &node["id"]).collect();
    for key in answer["root_keys"].as_array().into_iter().flatten() {
        let (name, age) = (brief(&key["commitment"]), days_since(&key["since"], now));
        let missing = key["missing_on"].as_array().into_iter().flatten().filter(|node| live.contains(node)).count();
        match key["state"].as_str() {
            Some("active") => {
                findings.push(copy(&name, days_since(&key["backed_up_at"], now)));
                if missing > 0 {
                    let cure = "put it where they look for it; they can open no secret that was sealed since the change";
                    findings.push(wrong("root key", format!("{name} is missing on {missing} nodes"), cure));
                }
            }
            Some("announced") if missing > 0 => {
                let found = format!("{name} is announced and missing on {missing} nodes");
                findings.push(warning("root key", found, "give it to them, then `keyrelay migrate-keys`; or `keyrelay root-key withdraw`"));
            }
            Some("decrypt_only") if age > Some(DECRYPT_ONLY_DAYS_MAX) => {
                let found = format!("{name} was replaced {} days ago and still opens secrets", age.unwrap_or_default());
                findings.push(warning("root key", found, "`keyrelay root-key destroy` once `root-key show` says that the re-wrap is done"));
            }
            _ => {}
        }
    }
    let rewrap = &answer["rewrap"];
    let damaged = rewrap["damaged"].as_u64().unwrap_or_default() + rewrap["unheld"].as_u64().unwrap_or_default();
    if damaged > 0 {
        let found = format!("{damaged} data keys do not open, the first at {}", shown(&rewrap["at_fault"][0]));
        findings.push(wrong("root key", found, "enter those credentials again, and find out who changed the key store"));
    } else if rewrap["state"] == "failed" {
        findings.push(wrong(
            "root key",
            format!("the re-wrap stopped: {}", shown(&rewrap["reason"])),
            "it is tried again; mend the reason",
        ));
    }
    findings
}

fn copy(name: &str, age: Option<u64>) -> Finding {
    const MAKE: &str = "`keyrelay root-key backup --to FILE` onto another medium; without the root key nobody opens a secret again";
    match age {
        None => warning("root key", format!("no copy of {name} was ever recorded"), MAKE),
        Some(days) if days > COPY_DAYS_MAX => warning(
            "root key",
            format!("the copy of {name} was recorded {days} days ago"),
            "try it: `keyrelay root-key verify-backup FILE`, or make another",
        ),
        Some(days) => good("root key", format!("a copy of {name} was recorded {days} days ago")),
    }
}

fn upstreams(told: &Value) -> Vec<Finding> {
    let number = |name: &str| told[name].as_u64().unwrap_or_default();
    let (enabled, usable) = (number("enabled"), number("usable"));
    let mut findings = Vec::new();
    for account in told["need_login"].as_array().into_iter().flatten() {
        let (upstream, reason) = (shown(&account["upstream"]), shown(&account["reason"]));
        let cure = format!("`keyrelay upstreams login {upstream}`");
        findings.push(wrong("upstreams", format!("{upstream} needs a login since {}: {reason}", shown(&account["since"])), cure));
    }
    if enabled > 0 && usable == 0 {
        findings.push(wrong("upstreams", format!("none of {enabled} can be used"), "see `keyrelay upstreams list`"));
    } else if findings.is_empty() {
        findings.push(good("upstreams", format!("{usable} of {enabled} can be used")));
    }
    findings
}

/// Whole days; none where there is no such time.
fn days_since(at: &Value, now: Timestamp) -> Option<u64> {
    let at: Timestamp = at.as_str()?.parse().ok()?;
    Some(now.as_seconds().saturating_sub(at.as_seconds()) / DAY_SECONDS)
}

/// A text as it is, anything else as JSON; nothing for null.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The beginning of a commitment, which is enough to tell root keys apart.
fn brief(commitment: &Value) -> String {
    shown(commitment).chars().take(12).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test says where")]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-01T00:00:00Z".parse().unwrap()
    }

    fn states(findings: &[Finding]) -> Vec<State> {
        findings.iter().map(|finding| finding.state).collect()
    }

    #[test]
    fn the_record_of_a_root_keys_copy_ages() {
        let of = |backed_up_at: Value| {
            let key = json!({ "commitment": "fbb57374bc67bdc8", "state": "active", "since": "2026-01-01T00:00:00Z", "backed_up_at": backed_up_at, "missing_on": [] });
            root_keys(&json!({ "root_keys": [key], "rewrap": { "state": "idle" } }), &Value::Null, now()).remove(0)
        };
        assert_eq!(of(Value::Null).state, State::Warning);
        assert_eq!(of(json!("2026-10-30T00:00:00Z")).state, State::Good);
        let old = of(json!("2026-01-01T00:00:00Z"));
        assert_eq!(old.state, State::Warning);
        assert!(old.found.contains("304 days"), "{}", old.found);
    }

    #[test]
    fn a_root_key_that_a_node_lacks_is_wrong_and_one_that_was_forgotten_is_told() {
        let key = |state: &str, missing: &[&str]| json!({ "commitment": "aa", "state": state, "since": "2026-01-01T00:00:00Z", "backed_up_at": "2026-10-31T00:00:00Z", "missing_on": missing });
        let answer = json!({ "root_keys": [key("active", &["node_b"]), key("decrypt_only", &[]), key("announced", &["node_b"]), key("destroyed", &[])],
            "rewrap": { "state": "done", "damaged": 1, "at_fault": ["default/credential/00/secret/1"] } });
        let page = |live: bool| json!({ "nodes": [{ "id": "node_b", "live": live }] });
        let found = root_keys(&answer, &page(true), now());
        assert_eq!(states(&found), [State::Good, State::Wrong, State::Warning, State::Warning, State::Wrong]);
        let found = root_keys(&answer, &page(false), now());
        assert_eq!(states(&found), [State::Good, State::Warning, State::Wrong], "a node that is away has told nothing");
    }

    #[test]
    fn what_a_node_says_of_itself_is_judged() {
        let ready = |sync: &str, trust: &str, connected: bool| {
            json!({ "ready": true, "degraded": !connected, "reasons": [], "sync": sync, "position": 4, "stale_seconds": 0,
                "log": { "connected": connected, "trust": trust, "trust_reason": null }, "policies": { "missing": [] } })
        };
        assert!(Report::of(readiness(&ready("verified", "trusted", true))).findings.iter().all(|finding| finding.state == State::Good));
        assert_eq!(states(&readiness(&ready("lazy", "trusted", true))), [State::Good, State::Good, State::Wrong]);
        assert_eq!(states(&readiness(&ready("unverified", "trusted", true))), [State::Good, State::Good, State::Warning]);
        assert_eq!(states(&readiness(&ready("embedded", "frozen", true)))[1], State::Wrong);
        assert_eq!(states(&readiness(&ready("embedded", "trusted", false))), [State::Warning, State::Wrong, State::Good]);
        let away = readiness(&ready("unverified", "unknown", false));
        assert!(away[1].found.starts_with("cannot be reached"), "{}", away[1].found);
    }

    #[test]
    fn nodes_that_are_away_and_accounts_that_need_a_login_are_named() {
        let page = json!({ "nodes": [
            { "id": "node_a", "membership": "enrolled", "live": true, "lag": 0, "release": "0.1.0" },
            { "id": "node_b", "membership": "enrolled", "live": false, "heard_at": "2026-10-31T00:00:00Z" },
            { "id": "node_c", "membership": "retired", "live": false },
        ] });
        let found = nodes(&page);
        assert_eq!(states(&found), [State::Warning]);
        assert!(found[0].found.starts_with("node_b"));
        let told = json!({ "enabled": 2, "usable": 1, "need_login": [{ "upstream": "up_a", "reason": "invalid_grant", "since": "2026-10-31T00:00:00Z" }] });
        let report = Report::of(upstreams(&told));
        assert!(!report.ok && report.text().contains("keyrelay upstreams login up_a"), "{}", report.text());
    }
}
