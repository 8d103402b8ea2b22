use super::*;
use crate::actor::Actor;
use crate::aggregate::{Aggregate, Command};
use crate::rules::{self, Given, NOW, tenant};

fn given(events: impl IntoIterator<Item = Event>) -> Given {
    rules::given(Stream::upstream(tenant(), UpstreamId::from_bytes([1; 16])), events)
}

fn details() -> UpstreamDetails {
    UpstreamDetails {
        name: "a".into(),
        dialect: Dialect::Openai,
        base_url: "https://api.example.com/v1".into(),
        pool: PoolId::from_bytes([1; 16]),
        priority: 50,
        weight: 1,
        models: vec![],
    }
}

fn credential(number: u8) -> Option<CredentialId> {
    Some(CredentialId::from_bytes([number; 16]))
}

fn added() -> Event {
    Event::UpstreamAdded(UpstreamAdded { details: details(), credential: credential(1) })
}

fn changed(details: UpstreamDetails, credential: Option<CredentialId>) -> Event {
    Event::UpstreamChanged(UpstreamChanged { details, credential })
}

fn removed() -> Event {
    Event::UpstreamRemoved(UpstreamRemoved {})
}

fn add(details: UpstreamDetails) -> Command {
    Command::Upstream(UpstreamCommand::Add { details: Box::new(details), labels: UpstreamLabels::default(), credential: credential(1) })
}

fn change(patch: UpstreamPatch) -> Command {
    Command::Upstream(UpstreamCommand::Change(Box::new(patch)))
}

fn disable() -> Command {
    Command::Upstream(UpstreamCommand::Disable { reason: None })
}

const ENABLE: Command = Command::Upstream(UpstreamCommand::Enable);
const REMOVE: Command = Command::Upstream(UpstreamCommand::Remove);

fn upstream(given: Given) -> Upstream {
    match given.state() {
        Aggregate::Upstream(upstream) => *upstream,
        other => panic!("not an upstream: {other:?}"),
    }
}

#[test]
fn a_new_upstream_is_enabled_and_knows_its_origin() {
    let upstream = upstream(given([]).when(add(details())).then([added()]));
    assert!(upstream.is_enabled());
    assert_eq!(upstream.origin(), "https://api.example.com");
    assert_eq!((upstream.credential, upstream.created_at), (credential(1), NOW));
}

#[test]
fn an_upstream_is_added_once() {
    given([added()]).when(add(details())).then_refused(UpstreamError::Exists);
}

#[test]
fn nothing_can_be_done_to_an_upstream_that_was_never_added() {
    for command in [change(UpstreamPatch::default()), disable(), ENABLE, REMOVE] {
        given([]).when(command).then_refused(UpstreamError::NotFound);
    }
}

#[test]
fn a_removed_upstream_refuses_everything() {
    given([added(), removed()]).when(add(details())).then_refused(UpstreamError::Exists);
    for command in [change(UpstreamPatch::default()), disable(), ENABLE, REMOVE] {
        given([added(), removed()]).when(command).then_refused(UpstreamError::NotFound);
    }
}

#[test]
fn a_removed_upstream_is_not_enabled_and_has_no_credential() {
    let upstream = upstream(given([added()]).when(REMOVE).then([removed()]));
    assert!(!upstream.is_enabled());
    assert_eq!(upstream.credential, None);
}

#[test]
fn disabling_and_enabling_twice_changes_nothing() {
    let disabled = Event::UpstreamDisabled(UpstreamDisabled { reason: None });
    let given = given([added()]).when(ENABLE).then_nothing().when(disable()).then([disabled]).when(disable()).then_nothing();
    let upstream_now = given.when(ENABLE).then([Event::UpstreamEnabled(UpstreamEnabled {})]).when(ENABLE).then_nothing();
    assert!(upstream(upstream_now).is_enabled());
}

#[test]
fn a_disabled_upstream_says_who_disabled_it_and_stays_disabled_when_changed() {
    let patch = UpstreamPatch { weight: Some(2), ..UpstreamPatch::default() };
    let given = given([added(), Event::UpstreamDisabled(UpstreamDisabled { reason: None })]);
    let upstream = upstream(given.when(change(patch)).then([changed(UpstreamDetails { weight: 2, ..details() }, credential(1))]));
    assert_eq!(upstream.disabled, Some(Fact { at: NOW, by: Actor::Owner, reason: None }));
}

#[test]
fn a_change_to_what_already_is_changes_nothing() {
    given([added()]).when(change(UpstreamPatch::default())).then_nothing();
    let patch = UpstreamPatch { base_url: Some(details().base_url), ..UpstreamPatch::default() };
    given([added()]).when(change(patch)).then_nothing();
}

#[test]
fn naming_the_credential_is_a_change_because_its_secret_is_another() {
    let patch = UpstreamPatch { credential: Some(credential(1)), ..UpstreamPatch::default() };
    given([added()]).when(change(patch)).then([changed(details(), credential(1))]);
}

#[test]
fn a_changed_base_url_drops_the_credential_unless_a_new_one_is_given() {
    // Even on the same origin: what an operator entered the secret for is the whole base URL.
    for base_url in ["https://elsewhere.example/v1", "https://api.example.com/v2"] {
        let moved = UpstreamDetails { base_url: base_url.into(), ..details() };
        let patch = UpstreamPatch { base_url: Some(base_url.into()), ..UpstreamPatch::default() };
        given([added()]).when(change(patch.clone())).then([changed(moved.clone(), None)]);
        let patch = UpstreamPatch { credential: Some(credential(2)), ..patch };
        given([added()]).when(change(patch)).then([changed(moved, credential(2))]);
    }
}

#[test]
fn a_credential_can_be_changed_and_taken_away() {
    let patch = |credential| UpstreamPatch { credential: Some(credential), ..UpstreamPatch::default() };
    given([added()]).when(change(patch(credential(2)))).then([changed(details(), credential(2))]);
    given([added()]).when(change(patch(None))).then([changed(details(), None)]);
}

#[test]
fn details_are_checked_when_added_and_when_changed() {
    let cases: Vec<(UpstreamPatch, UpstreamError)> = vec![
        (UpstreamPatch { name: Some("a\tb".into()), ..UpstreamPatch::default() }, NameError::Control { field: "name" }.into()),
        (UpstreamPatch { models: Some(vec![String::new()]), ..UpstreamPatch::default() }, NameError::Empty { field: "models" }.into()),
        (UpstreamPatch { priority: Some(RANK_MAX + 1), ..UpstreamPatch::default() }, UpstreamError::Rank { field: "priority" }),
        (UpstreamPatch { weight: Some(RANK_MAX + 1), ..UpstreamPatch::default() }, UpstreamError::Rank { field: "weight" }),
        (UpstreamPatch { base_url: Some(format!("https://h/{}", "x".repeat(2048))), ..UpstreamPatch::default() }, UpstreamError::BaseUrl),
    ];
    for (patch, error) in cases {
        let current = upstream(given([added()]));
        given([]).when(add(patch.applied_to(&current).0)).then_refused(error.clone());
        given([added()]).when(change(patch)).then_refused(error);
    }
}

#[test]
fn a_base_url_has_an_origin_and_nothing_that_hides_one() {
    assert_eq!(origin("http://127.0.0.1:9000/v1"), Some("http://127.0.0.1:9000"));
    assert_eq!(origin("https://api.example.com"), Some("https://api.example.com"));
    assert_eq!(origin("https://[::1]:8443/a/b"), Some("https://[::1]:8443"));
    for wrong in [
        "",
        "api.example.com",
        "ftp://api.example.com",
        "HTTPS://api.example.com",
        "https://",
        "https:///v1",
        "https://api.example.com/",
        "https://user:pass@api.example.com",
        "https://api.example.com\\@evil.example",
        "https://api.example.com/v1?key=1",
        "https://api.example.com/v1#top",
        "https://api.example.com/v 1",
        "https://api.example.com/\u{7f}v1",
    ] {
        assert_eq!(origin(wrong), None, "{wrong}");
    }
}

#[test]
fn labels_come_with_the_upstream_and_change_apart_from_its_details() {
    let labels = UpstreamLabels { region: Some("eu".into()), tags: vec!["fast".into()] };
    let labelled = |labels: &UpstreamLabels| Event::UpstreamLabelled(UpstreamLabelled { labels: labels.clone() });
    let add = UpstreamCommand::Add { details: Box::new(details()), labels: labels.clone(), credential: credential(1) };
    let given = given([]).when(Command::Upstream(add)).then([added(), labelled(&labels)]);
    let without_region = UpstreamLabels { region: None, ..labels };
    let patch = UpstreamPatch { region: Some(None), ..UpstreamPatch::default() };
    given.when(change(patch.clone())).then([labelled(&without_region)]).when(change(patch)).then_nothing();
}

#[test]
fn labels_need_clean_names() {
    let patch = UpstreamPatch { region: Some(Some(" eu".into())), ..UpstreamPatch::default() };
    given([added()]).when(change(patch)).then_refused(UpstreamError::Name(NameError::Untrimmed { field: "region" }));
}

#[test]
fn an_import_makes_an_upstream_sets_it_and_brings_a_removed_one_back() {
    let import = |import: &UpstreamImport| Command::Upstream(UpstreamCommand::Import(Box::new(import.clone())));
    let labels = UpstreamLabels { region: Some("eu".into()), tags: vec![] };
    let disabled = Event::UpstreamDisabled(UpstreamDisabled { reason: None });
    let plain = UpstreamImport { details: details(), labels: UpstreamLabels::default(), credential: credential(1), disabled: None };
    let other = UpstreamImport { labels: labels.clone(), disabled: Some(None), ..plain.clone() };
    let labelled = || Event::UpstreamLabelled(UpstreamLabelled { labels: labels.clone() });
    let given = given([]).when(import(&plain)).then([added()]).when(import(&plain)).then_nothing();
    let given = given.when(import(&other)).then([labelled(), disabled.clone()]).when(import(&other)).then_nothing();
    let given = given.when(Command::Upstream(UpstreamCommand::Remove)).then([removed()]);
    let given = given.when(import(&other)).then([added(), labelled(), disabled]).when(import(&other)).then_nothing();
    let spoken = UpstreamImport { details: UpstreamDetails { dialect: Dialect::Anthropic, ..details() }, ..plain };
    given.when(import(&spoken)).then_refused(UpstreamError::Exists);
}
