use super::*;
use crate::aggregate::{Aggregate, Command};
use crate::credential::{CredentialAdded, CredentialCommand, CredentialReplaced, CredentialRevoked};
use crate::id::{CredentialId, UpstreamId};
use crate::rules::{self, Given, NOW, later, tenant};
use crate::stream::Stream;

const LIFE_SECONDS: u64 = 3600;

fn authorized(is_refreshable: bool) -> CredentialAuthorized {
    CredentialAuthorized {
        provider: "acme".into(),
        account: "1:02".into(),
        scopes: vec!["chat".into()],
        expires_at: Some(later(LIFE_SECONDS)),
        is_refreshable,
    }
}

fn added() -> CredentialAdded {
    CredentialAdded { upstream: UpstreamId::from_bytes([2; 16]), origin: "https://api.example.com".into(), fingerprint: "1:01".into() }
}

fn given(events: impl IntoIterator<Item = Event>) -> Given {
    let begin = [Event::CredentialAdded(added()), Event::CredentialAuthorized(authorized(true))];
    rules::given(Stream::credential(tenant(), CredentialId::from_bytes([1; 16])), begin.into_iter().chain(events))
}

fn node(n: u8) -> WriterId {
    WriterId::from_bytes([n; 16])
}

fn command(command: GrantCommand) -> Command {
    Command::Credential(CredentialCommand::Grant(command))
}

fn claim(takes_over: Option<u32>) -> Command {
    command(GrantCommand::ClaimRefresh { node: node(1), takes_over })
}

fn claimed(generation: u32) -> Event {
    Event::CredentialRefreshClaimed(CredentialRefreshClaimed { generation, node: node(1) })
}

fn mark(generation: u32) -> Command {
    command(GrantCommand::MarkSent { generation })
}

fn sent(generation: u32) -> Event {
    Event::CredentialRefreshSent(CredentialRefreshSent { generation })
}

fn answer(generation: u32, secret_version: u32) -> CredentialRefreshed {
    CredentialRefreshed {
        generation,
        secret_version,
        fingerprint: "1:03".into(),
        expires_at: Some(later(2 * LIFE_SECONDS)),
        is_rotated: true,
    }
}

fn refresh(generation: u32, secret_version: u32) -> Command {
    command(GrantCommand::Refresh(answer(generation, secret_version)))
}

fn refreshed(generation: u32, secret_version: u32) -> Event {
    Event::CredentialRefreshed(answer(generation, secret_version))
}

fn release(generation: u32, reason: RefreshFailure) -> Command {
    command(GrantCommand::ReleaseRefresh { generation, reason })
}

fn require_login(generation: u32, reason: LoginReason) -> Command {
    command(GrantCommand::RequireLogin { generation, reason })
}

fn login_required(reason: LoginReason) -> Event {
    Event::CredentialLoginRequired(CredentialLoginRequired { reason })
}

fn ask(secret_version: u32) -> Command {
    command(GrantCommand::AskRefresh { secret_version })
}

fn asked() -> Event {
    Event::CredentialRefreshAsked(CredentialRefreshAsked { secret_version: 1 })
}

fn grant(given: Given) -> (u32, Grant) {
    let Aggregate::Credential(credential) = given.state() else { panic!("not a credential") };
    (credential.secret_version, *credential.grant.unwrap())
}

fn superseded(generation: u32) -> CredentialError {
    GrantError::Superseded { generation }.into()
}

#[test]
fn a_grant_is_added_with_its_credential_in_one_record() {
    let add = Command::Credential(CredentialCommand::AddGrant(added(), authorized(true)));
    let empty = rules::given(Stream::credential(tenant(), CredentialId::from_bytes([1; 16])), []);
    let given = empty.when(add).then([Event::CredentialAdded(added()), Event::CredentialAuthorized(authorized(true))]);
    let (version, grant) = grant(given);
    assert_eq!((version, grant.issued_at, grant.generation, grant.refresh), (1, NOW, 0, Refresh::Idle));
}

#[test]
fn a_refresh_is_claimed_then_sent_then_answered() {
    let given = given([]).when(claim(None)).then([claimed(1)]).when(mark(1)).then([sent(1)]).after(2);
    let (version, grant) = grant(given.when(refresh(1, 2)).then([refreshed(1, 2)]));
    assert_eq!((version, grant.issued_at, grant.expires_at), (2, later(2), Some(later(2 * LIFE_SECONDS))));
    assert_eq!((grant.refresh, grant.is_rotating, grant.generation), (Refresh::Idle, Some(true), 1));
}

#[test]
fn one_claim_stands_at_a_time() {
    let given = given([claimed(1)]).when(claim(None)).then_refused(CredentialError::from(GrantError::UnderWay { generation: 1 }));
    given.when(claim(Some(7))).then_refused(CredentialError::from(GrantError::UnderWay { generation: 1 }));
}

#[test]
fn a_claim_that_was_not_sent_is_taken_over_and_its_holder_sends_no_more() {
    let given = given([claimed(1)]).when(claim(Some(1))).then([claimed(2)]);
    let given = given.when(mark(1)).then_refused(superseded(1)).when(refresh(1, 2)).then_refused(superseded(1));
    given.when(release(1, RefreshFailure::NotSent)).then_refused(superseded(1)).when(mark(2)).then([sent(2)]);
}

#[test]
fn what_was_sent_is_not_taken_over_nor_sent_again() {
    let given = given([claimed(1), sent(1)]).after(3600).when(claim(Some(1)));
    let given = given.then_refused(CredentialError::from(GrantError::UnderWay { generation: 1 }));
    given.when(mark(1)).then_refused(superseded(1));
}

#[test]
fn an_answer_without_having_sent_is_refused() {
    given([claimed(1)]).when(refresh(1, 2)).then_refused(superseded(1));
    given([]).when(refresh(0, 2)).then_refused(superseded(0));
}

#[test]
fn an_answer_takes_a_number_above_the_present_one_and_may_skip_some() {
    for (given_version, fits) in [(0, false), (1, false), (2, true), (3, true), (65, true), (66, false)] {
        let decided = given([claimed(1), sent(1)]).when(refresh(1, given_version));
        if fits {
            decided.then([refreshed(1, given_version)]);
        } else {
            decided.then_refused(CredentialError::SecretVersion { current: 1, given: given_version });
        }
    }
}

#[test]
fn a_lost_outcome_requires_a_login_and_an_answer_that_was_kept_mends_it() {
    let given = given([claimed(1), sent(1)]).when(require_login(1, LoginReason::OutcomeUnknown));
    let given = given.then([login_required(LoginReason::OutcomeUnknown)]);
    let given = given.when(claim(None)).then_refused(CredentialError::from(GrantError::LoginRequired));
    let (version, grant) = grant(given.when(refresh(1, 2)).then([refreshed(1, 2)]));
    assert_eq!((version, grant.refresh), (2, Refresh::Idle));
}

#[test]
fn a_holder_that_wakes_up_late_says_that_it_has_not_sent() {
    let lost = || given([claimed(1), sent(1), login_required(LoginReason::OutcomeUnknown)]);
    lost().when(release(1, RefreshFailure::NoAnswer)).then_refused(superseded(1));
    lost().when(release(1, RefreshFailure::NotSent)).accepted().when(claim(None)).then([claimed(2)]);
    let refused = given([claimed(1), sent(1), login_required(LoginReason::InvalidGrant)]);
    refused.when(release(1, RefreshFailure::NotSent)).then_refused(superseded(1));
}

#[test]
fn a_takeover_of_what_has_ended_is_refused() {
    given([]).when(claim(Some(0))).then_refused(superseded(0));
}

#[test]
fn a_refused_token_is_never_shown_again() {
    let given = given([claimed(1), sent(1)]).when(require_login(1, LoginReason::InvalidGrant));
    let given = given.then([login_required(LoginReason::InvalidGrant)]).after(7200);
    let given = given.when(claim(None)).then_refused(CredentialError::from(GrantError::LoginRequired));
    given.when(refresh(1, 2)).then_refused(superseded(1)).when(ask(1)).then_nothing();
}

#[test]
fn a_new_login_goes_on_with_the_numbers_of_claims() {
    let replaced = CredentialReplaced { secret_version: 2, fingerprint: "1:09".into() };
    let login = Command::Credential(CredentialCommand::ReplaceGrant(replaced.clone(), authorized(true)));
    let given = given([claimed(1), sent(1), login_required(LoginReason::InvalidGrant)]).when(login);
    let given = given.then([Event::CredentialReplaced(replaced), Event::CredentialAuthorized(authorized(true))]);
    let given = given.when(claim(None)).then([claimed(2)]);
    given.when(refresh(1, 3)).then_refused(superseded(1));
}

#[test]
fn an_account_is_tried_at_most_every_thirty_seconds() {
    let begun = || given([claimed(1), sent(1)]).when(release(1, RefreshFailure::NoAnswer)).accepted();
    begun().after(29).when(claim(None)).then_refused(CredentialError::from(GrantError::TooSoon));
    begun().after(30).when(claim(None)).then([claimed(2)]);
    // Nothing reached the provider, so nothing was tried.
    given([claimed(1), sent(1)]).when(release(1, RefreshFailure::NotSent)).accepted().when(claim(None)).then([claimed(2)]);
}

#[test]
fn failures_are_counted_until_a_refresh() {
    let given = given([claimed(1), sent(1)]).when(release(1, RefreshFailure::NoAnswer)).accepted().after(30);
    let given = given.when(claim(None)).accepted().when(mark(2)).accepted();
    let given = given.when(release(2, RefreshFailure::RateLimited)).accepted().after(30);
    let given = given.when(claim(None)).accepted().when(mark(3)).accepted();
    assert_eq!(grant(given.when(refresh(3, 2)).accepted()).1.failures, 0);
}

#[test]
fn a_refresh_is_asked_for_once_and_not_for_a_young_token() {
    given([]).after(ASK_AGE_SECONDS - 1).when(ask(1)).then_nothing();
    let given = given([]).after(ASK_AGE_SECONDS).when(ask(2)).then_nothing();
    let given = given.when(ask(1)).then([asked()]).when(ask(1)).then_nothing();
    assert_eq!(grant(given).1.refresh_at(0), Some(later(ASK_AGE_SECONDS)));
}

#[test]
fn a_refresh_begins_between_three_quarters_and_four_fifths_of_a_tokens_life() {
    let (_, grant) = grant(given([]));
    assert_eq!((grant.refresh_at(0), grant.refresh_at(1000)), (Some(later(2880)), Some(later(2700))));
    assert_eq!(grant.refresh_at(u16::MAX), grant.refresh_at(1000));
}

#[test]
fn a_grant_without_refresh_token_is_never_refreshed() {
    let events = [Event::CredentialAdded(added()), Event::CredentialAuthorized(authorized(false))];
    let given = rules::given(Stream::credential(tenant(), CredentialId::from_bytes([1; 16])), events).after(LIFE_SECONDS);
    let given = given.when(ask(1)).then_nothing();
    let given = given.when(claim(None)).then_refused(CredentialError::from(GrantError::NotRefreshable));
    assert_eq!(grant(given).1.refresh_at(0), None);
}

#[test]
fn a_plain_credential_has_no_grant_and_a_revoked_one_no_refresh() {
    let stream = || Stream::credential(tenant(), CredentialId::from_bytes([1; 16]));
    rules::given(stream(), [Event::CredentialAdded(added())]).when(claim(None)).then_refused(CredentialError::from(GrantError::NoGrant));
    let given = given([claimed(1), sent(1), Event::CredentialRevoked(CredentialRevoked {})]);
    given.when(refresh(1, 2)).then_refused(CredentialError::Revoked);
}

#[test]
fn the_status_is_what_an_operator_must_know() {
    let mut grant = grant(given([])).1;
    assert_eq!((grant.status(NOW), grant.status(later(LIFE_SECONDS))), (GrantStatus::Expiring, GrantStatus::Expired));
    grant.expires_at = Some(later(24 * 3600));
    assert_eq!((grant.status(NOW), grant.status(later(1))), (GrantStatus::Valid, GrantStatus::Expiring));
    grant.expires_at = None;
    assert_eq!(grant.status(NOW), GrantStatus::Valid);
    grant.refresh = Refresh::LoginRequired { reason: LoginReason::InvalidGrant, at: NOW };
    assert_eq!(grant.status(NOW), GrantStatus::LoginRequired);
}
