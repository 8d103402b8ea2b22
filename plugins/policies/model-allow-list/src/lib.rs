//! The models that a key may ask for, by its tags. What is allowed is left to other policies and to the relay: nothing is ranked.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failing test says where"))]

use std::collections::BTreeMap;

use keyrelay_policy::route::{Input, Output};
use keyrelay_policy::{DeclaredReason, Effect, Fault, Kind, Manifest, RoutePolicy, Verdict};
use serde::Deserialize;

const NOT_ALLOWED: &str = "model.not_allowed";

struct ModelAllowList;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    tags: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    others: Vec<String>,
}

impl RoutePolicy for ModelAllowList {
    const MANIFEST: Manifest = Manifest {
        name: "model-allow-list",
        description: "Refuses models that none of the key's tags allows.",
        effects: &[Effect::Deny, Effect::NotApplicable],
        reasons: &[DeclaredReason { code: NOT_ALLOWED, text: "the key's tags do not allow the model" }],
        settings: include_str!("../settings.schema.json"),
        ..Manifest::new(Kind::Route)
    };
    type Settings = Settings;

    fn decide(settings: &Settings, input: &Input) -> Result<Output, Fault> {
        let mut lists = settings.tags.iter().filter(|(tag, _)| input.subject.has_tag(tag)).map(|(_, models)| models).peekable();
        let model = &input.demand.model;
        let allows = |models: &Vec<String>| models.iter().any(|pattern| matches(pattern, model));
        let is_allowed = if lists.peek().is_some() { lists.any(allows) } else { allows(&settings.others) };
        if is_allowed {
            return Ok(Verdict::not_applicable().into());
        }
        Ok(Verdict::deny(NOT_ALLOWED).public("this key may not ask for this model").into())
    }
}

/// Whether the text has the form of the pattern, in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    // The first place where a part fits is the best one: it leaves the most for those after it.
    for part in parts {
        let Some((_, after)) = text.split_once(part) else { return false };
        text = after;
    }
    text.ends_with(tail)
}

keyrelay_policy::export_route!(ModelAllowList);

#[cfg(test)]
mod tests {
    use keyrelay_policy::testing;

    use super::*;

    fn is_refused(tags: &[&str], model: &str) -> bool {
        let models = |models: &[&str]| models.iter().map(|model| (*model).to_owned()).collect::<Vec<_>>();
        let tagged = [("research".to_owned(), models(&["gpt-*", "o1"])), ("support".to_owned(), models(&["*-mini"]))];
        let settings = Settings { tags: tagged.into(), others: models(&["gpt-4o-mini"]) };
        let mut input = testing::route_input();
        input.subject.tags = models(tags);
        input.demand.model = model.to_owned();
        ModelAllowList::decide(&settings, &input).unwrap().verdict.is_deny()
    }

    #[test]
    fn a_tag_allows_its_models_and_no_others() {
        assert!(!is_refused(&["research"], "gpt-4o") && !is_refused(&["research"], "o1"));
        assert!(is_refused(&["research"], "o1-mini"));
    }

    #[test]
    fn several_tags_allow_the_models_of_each() {
        assert!(!is_refused(&["research", "support"], "o1-mini") && !is_refused(&["research", "support"], "gpt-4o"));
    }

    #[test]
    fn keys_without_a_listed_tag_have_a_list_of_their_own() {
        assert!(!is_refused(&["unlisted"], "gpt-4o-mini") && is_refused(&[], "gpt-4o"));
    }

    #[test]
    fn a_star_stands_for_any_text() {
        assert!(matches("*", "") && matches("a*c", "abc") && matches("a*", "a") && matches("*a*b*", "xaxbx") && matches("a*b*c", "abbc"));
        assert!(!matches("a*c", "ab") && !matches("ab*ba", "aba") && !matches("", "a") && !matches("a*b*a", "aba-"));
    }
}
