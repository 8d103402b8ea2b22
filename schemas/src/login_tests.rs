use super::*;
use crate::aggregate::{self, Aggregate, Command, Rejection};
use crate::id::PoolId;
use crate::rules::{self, Given, NOW, later, tenant};
use crate::upstream::Dialect;

fn started(flow: LoginFlow) -> LoginStarted {
    let details = UpstreamDetails {
        name: "mail".into(),
        dialect: Dialect::Openai,
        base_url: "https://api.example.com/v1".into(),
        pool: PoolId::from_bytes([3; 16]),
        priority: 50,
        weight: 1,
        models: vec![],
    };
    LoginStarted {
        provider: "corp".into(),
        flow,
        upstream: UpstreamId::from_bytes([2; 16]),
        creates: Some(details),
        labels: UpstreamLabels::default(),
        account: None,
        expires_at: later(LOGIN_SECONDS),
    }
}

fn code() -> Event {
    let flow = LoginFlow::Code { redirect_uri: "http://127.0.0.1:1/cb".into(), state_hash: Digest::from_bytes([7; 32]) };
    Event::LoginStarted(started(flow))
}

fn exchanged() -> LoginExchanged {
    LoginExchanged {
        identity: None,
        account: "1:ab".into(),
        scopes: vec!["read".into()],
        token_expires_at: None,
        is_refreshable: true,
        confirm_by: later(LOGIN_SECONDS),
    }
}

fn given(events: impl IntoIterator<Item = Event>) -> Given {
    rules::given(Stream::login(tenant(), LoginId::from_bytes([1; 16])), events)
}

fn command(command: LoginCommand) -> Command {
    Command::Login(command)
}

fn consumed() -> Event {
    Event::LoginConsumed(LoginConsumed {})
}

fn reopened() -> Event {
    Event::LoginReopened(LoginReopened { is_rate_limited: false })
}

#[test]
fn an_answer_is_used_once() {
    let once = given([code()]).when(command(LoginCommand::Consume)).then([consumed()]);
    once.when(command(LoginCommand::Consume)).then_refused(LoginError::Used);
    let done = given([code(), consumed(), Event::LoginExchanged(exchanged())]);
    done.when(command(LoginCommand::Consume)).then_refused(LoginError::Used);
    let failed = given([code(), failed(LoginFailure::CodeRejected)]);
    failed.when(command(LoginCommand::Consume)).then_refused(LoginError::Used);
}

#[test]
fn an_answer_that_comes_late_is_not_taken() {
    let late = given([code()]).after(LOGIN_SECONDS);
    late.when(command(LoginCommand::Consume)).then_refused(LoginError::Expired);
    given([code()]).after(LOGIN_SECONDS - 1).when(command(LoginCommand::Consume)).then([consumed()]);
    given([code(), failed(LoginFailure::Expired)]).when(command(LoginCommand::Consume)).then_refused(LoginError::Expired);
}

#[test]
fn a_login_opens_again_three_times_at_most_where_nothing_was_sent() {
    let reopen = || command(LoginCommand::Reopen { is_rate_limited: false });
    let mut events = vec![code()];
    for _ in 0..REOPENED_MAX {
        events.push(consumed());
        given(events.clone()).when(reopen()).then([reopened()]);
        events.push(reopened());
    }
    events.push(consumed());
    given(events.clone()).when(reopen()).then([failed(LoginFailure::Unreachable)]);
    // Being asked to come again does not count.
    let limited = Event::LoginReopened(LoginReopened { is_rate_limited: true });
    given(events).when(command(LoginCommand::Reopen { is_rate_limited: true })).then([limited]);
}

#[test]
fn an_account_is_used_only_after_it_is_confirmed_in_time() {
    given([code(), consumed()]).when(command(LoginCommand::Confirm)).then_refused(LoginError::NotExchanged);
    let exchanged = || given([code(), consumed(), Event::LoginExchanged(exchanged())]);
    let confirmed = exchanged().when(command(LoginCommand::Confirm)).then([Event::LoginConfirmed(LoginConfirmed {})]);
    confirmed.when(command(LoginCommand::Confirm)).then_nothing().when(command(LoginCommand::Cancel)).then_refused(LoginError::Ended);
    exchanged().after(LOGIN_SECONDS).when(command(LoginCommand::Confirm)).then_refused(LoginError::Expired);
}

#[test]
fn a_cancelled_login_takes_no_tokens() {
    let cancelled = given([code(), consumed()]).when(command(LoginCommand::Cancel)).then([Event::LoginCancelled(LoginCancelled {})]);
    cancelled.when(command(LoginCommand::Exchange(Box::new(exchanged())))).then_refused(LoginError::Ended);
}

#[test]
fn the_tokens_of_a_device_code_need_no_answer_to_be_taken_first() {
    let device = given([Event::LoginStarted(started(LoginFlow::Device))]);
    let done = device.when(command(LoginCommand::Exchange(Box::new(exchanged())))).then([Event::LoginExchanged(exchanged())]);
    done.when(command(LoginCommand::Exchange(Box::new(exchanged())))).then_refused(LoginError::Used);
    given([code()]).when(command(LoginCommand::Exchange(Box::new(exchanged())))).then_refused(LoginError::NotExchanged);
}

fn decided(state: &Aggregate, by: Actor, after: u64, given: LoginCommand) -> Result<Vec<Event>, Rejection> {
    aggregate::decide(Some(state), &command(given), &Context { now: NOW.plus_seconds(after), actor: by })
}

#[test]
fn nobody_else_can_go_on_with_a_login() {
    let state = given([code()]).state();
    let (other, foreign) = (Actor::Key(crate::id::KeyId::from_bytes([9; 16])), Rejection::Login(LoginError::Foreign));
    for tried in [LoginCommand::Consume, LoginCommand::Confirm, LoginCommand::Cancel, LoginCommand::Fail(LoginFailure::Denied)] {
        assert_eq!(decided(&state, other, 0, tried), Err(foreign.clone()));
    }
    let misuse = LoginCommand::ReportMisuse(LoginMisuse::ForeignActor);
    assert_eq!(decided(&state, other, 0, misuse.clone()).unwrap().len(), 1);
    let noted = Event::LoginMisused(LoginMisused { misuse: LoginMisuse::ForeignActor });
    let full = given([code()].into_iter().chain(std::iter::repeat_n(noted, MISUSES_MAX as usize))).state();
    assert_eq!(decided(&full, other, 0, misuse), Ok(vec![]));
}

#[test]
fn time_ends_what_is_left_and_nothing_sooner() {
    let fail = |state: &Aggregate, after, code| decided(state, Actor::Scheduler, after, LoginCommand::Fail(code)).unwrap().len();
    let open = given([code()]).state();
    assert_eq!(fail(&open, LOGIN_SECONDS - 1, LoginFailure::Expired), 0);
    assert_eq!(fail(&open, LOGIN_SECONDS, LoginFailure::Expired), 1);
    assert_eq!(fail(&open, LOGIN_SECONDS, LoginFailure::Denied), 0);
    let waits = given([code(), consumed(), Event::LoginExchanged(exchanged())]).state();
    assert_eq!(fail(&waits, LOGIN_SECONDS - 1, LoginFailure::Unconfirmed), 0);
    assert_eq!(fail(&waits, LOGIN_SECONDS, LoginFailure::Unconfirmed), 1);
}

#[test]
fn a_foreign_issuer_is_a_misuse_and_an_end() {
    let misused = Event::LoginMisused(LoginMisused { misuse: LoginMisuse::ForeignIssuer });
    let fail = command(LoginCommand::Fail(LoginFailure::IssuerMismatch));
    given([code()]).when(fail.clone()).then([misused, failed(LoginFailure::IssuerMismatch)]).when(fail).then_nothing();
}
