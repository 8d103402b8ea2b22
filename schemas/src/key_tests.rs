use proptest::prelude::*;

use super::*;
use crate::aggregate::{Aggregate, Command, decide};
use crate::rules::{self, Given, NOW, later, tenant};

const DAY: u64 = 86_400;

fn stream() -> Stream {
    Stream::key(tenant(), KeyId::from_bytes([1; 16]))
}

fn given(events: impl IntoIterator<Item = Event>) -> Given {
    rules::given(stream(), events)
}

fn details() -> KeyDetails {
    KeyDetails {
        name: "ci".into(),
        description: None,
        owner: None,
        tags: vec![],
        pools: vec![PoolId::from_bytes([1; 16])],
        models: vec![],
        endpoints: vec![],
        limits: Limits::default(),
    }
}

fn hash(number: u8) -> Digest {
    Digest::from_bytes([number; 32])
}

fn sealed(text: &str) -> Option<Sealed> {
    Some(Sealed { subject: stream(), bytes: text.as_bytes().to_vec() })
}

fn created(expiry: Expiry) -> Event {
    Event::KeyCreated(KeyCreated { details: details(), hash: hash(1), expiry })
}

fn renewed(expiry: Expiry) -> Event {
    Event::KeyRenewed(KeyRenewed { expiry })
}

fn rotated(number: u32, hash_number: u8, previous_valid_until: Timestamp) -> Event {
    Event::KeyRotated(KeyRotated { number, hash: hash(hash_number), previous_valid_until })
}

fn disabled() -> Event {
    Event::KeyDisabled(KeyDisabled { reason: None })
}

fn enabled() -> Event {
    Event::KeyEnabled(KeyEnabled {})
}

fn expired(expired_at: Timestamp) -> Event {
    Event::KeyExpired(KeyExpired { expired_at })
}

fn revoked() -> Event {
    Event::KeyRevoked(KeyRevoked { reason: None })
}

fn create(details: KeyDetails) -> Command {
    Command::Key(KeyCommand::Create { details: Box::new(details), hash: hash(1), expiry: Expiry::Never })
}

fn renew(expiry: Expiry) -> Command {
    Command::Key(KeyCommand::Renew { expiry })
}

fn rotate(hash_number: u8, overlap_seconds: u64) -> Command {
    Command::Key(KeyCommand::Rotate { hash: hash(hash_number), overlap_seconds, finish_previous: false })
}

fn rotate_and_finish(hash_number: u8, overlap_seconds: u64) -> Command {
    Command::Key(KeyCommand::Rotate { hash: hash(hash_number), overlap_seconds, finish_previous: true })
}

fn disable() -> Command {
    Command::Key(KeyCommand::Disable { reason: None })
}

fn revoke() -> Command {
    Command::Key(KeyCommand::Revoke { reason: None })
}

fn change(patch: KeyPatch) -> Command {
    Command::Key(KeyCommand::Change(Box::new(patch)))
}

const ENABLE: Command = Command::Key(KeyCommand::Enable);
const EXPIRE: Command = Command::Key(KeyCommand::Expire);

fn key(given: Given) -> Key {
    match given.state() {
        Aggregate::Key(key) => *key,
        other => panic!("not a key: {other:?}"),
    }
}

#[test]
fn a_new_key_is_active_and_holds_secret_number_one() {
    let key = key(given([]).when(create(details())).then([created(Expiry::Never)]));
    assert_eq!((key.id, key.tenant.clone(), key.created_at), (KeyId::from_bytes([1; 16]), tenant(), NOW));
    assert_eq!(key.secrets, [KeySecret { number: 1, hash: hash(1), valid_until: None }]);
    assert_eq!(key.state(NOW), KeyState::Active);
}

#[test]
fn a_key_is_created_once() {
    given([created(Expiry::Never)]).when(create(details())).then_refused(KeyError::Exists);
    given([created(Expiry::Never), revoked()]).when(create(details())).then_refused(KeyError::Exists);
}

#[test]
fn nothing_can_be_done_to_a_key_that_was_never_created() {
    for command in [renew(Expiry::Never), rotate(2, 0), disable(), ENABLE, EXPIRE, revoke(), change(KeyPatch::default())] {
        given([]).when(command).then_refused(KeyError::NotFound);
    }
}

#[test]
fn an_expiry_in_the_past_is_refused() {
    let create_until = |at| Command::Key(KeyCommand::Create { details: Box::new(details()), hash: hash(1), expiry: Expiry::At(at) });
    given([]).after(1).when(create_until(NOW)).then_refused(KeyError::ExpiryInThePast);
    given([]).when(create_until(NOW)).then_refused(KeyError::ExpiryInThePast);
    given([]).when(create_until(later(1))).then([created(Expiry::At(later(1)))]);
    given([created(Expiry::Never)]).after(1).when(renew(Expiry::At(NOW))).then_refused(KeyError::ExpiryInThePast);
}

#[test]
fn a_revoked_key_cannot_be_renewed() {
    given([created(Expiry::Never), revoked()]).when(renew(Expiry::Never)).then_refused(KeyError::Revoked);
}

#[test]
fn revocation_is_final() {
    for command in [rotate(2, 0), rotate_and_finish(2, 0), disable(), ENABLE, EXPIRE, change(KeyPatch::default())] {
        given([created(Expiry::At(later(DAY))), revoked()]).after(2 * DAY).when(command).then_refused(KeyError::Revoked);
    }
}

#[test]
fn revoking_twice_changes_nothing() {
    let once = given([created(Expiry::Never)]).when(revoke()).then([revoked()]);
    let twice = Command::Key(KeyCommand::Revoke { reason: sealed("again") });
    let key = key(once.after(9).when(twice).then_nothing());
    assert_eq!(key.revoked, Some(Fact { at: NOW, by: Actor::Owner, reason: None }));
}

#[test]
fn disabling_and_enabling_twice_changes_nothing() {
    given([created(Expiry::Never)])
        .when(ENABLE)
        .then_nothing()
        .when(disable())
        .then([disabled()])
        .when(Command::Key(KeyCommand::Disable { reason: sealed("again") }))
        .then_nothing()
        .when(ENABLE)
        .then([enabled()])
        .when(ENABLE)
        .then_nothing();
}

#[test]
fn a_disabled_key_says_who_disabled_it_and_why() {
    let command = Command::Key(KeyCommand::Disable { reason: sealed("leaked") });
    let event = Event::KeyDisabled(KeyDisabled { reason: sealed("leaked") });
    let key = key(given([created(Expiry::Never)]).after(5).when(command).then([event]));
    assert_eq!(key.disabled, Some(Fact { at: later(5), by: Actor::Owner, reason: sealed("leaked") }));
}

#[test]
fn expiry_is_recorded_only_after_it_passed() {
    let until = later(DAY);
    given([created(Expiry::Never)]).after(DAY).when(EXPIRE).then_refused(KeyError::NotExpired);
    given([created(Expiry::At(until))])
        .after(DAY - 1)
        .when(EXPIRE)
        .then_refused(KeyError::NotExpired)
        .after(1)
        .when(EXPIRE)
        .then([expired(until)])
        .after(DAY)
        .when(EXPIRE)
        .then_nothing();
}

#[test]
fn an_expired_key_is_refused_whether_or_not_that_was_recorded() {
    let key = key(given([created(Expiry::At(later(DAY)))]));
    assert_eq!(key.refusal(later(DAY - 1)), None);
    assert_eq!(key.refusal(later(DAY)), Some(KeyRefusal::Expired));
    assert_eq!(key.state(later(DAY)), KeyState::Expired);
}

#[test]
fn renewal_lifts_expiry_but_never_an_operators_disable() {
    let until = Expiry::At(later(9 * DAY));
    let key = key(given([created(Expiry::At(later(DAY))), expired(later(DAY)), disabled()])
        .after(2 * DAY)
        .when(renew(until))
        .then([renewed(until)]));
    assert_eq!(key.state(later(2 * DAY)), KeyState::Disabled);
    assert_eq!((key.expiry, key.expired_at, key.renewed_at), (until, None, Some(later(2 * DAY))));
}

#[test]
fn enabling_never_lifts_an_expiry() {
    let key = key(given([created(Expiry::At(later(DAY))), disabled()]).after(2 * DAY).when(ENABLE).then([enabled()]));
    assert_eq!(key.state(later(2 * DAY)), KeyState::Expired);
}

#[test]
fn renewal_to_the_same_expiry_changes_nothing_unless_the_expiry_was_recorded() {
    given([created(Expiry::Never)]).when(renew(Expiry::Never)).then_nothing();
    // A recorded expiry can meet a later one only when two clocks disagree; it must still be lifted.
    let until = Expiry::At(later(DAY));
    given([created(until), expired(later(DAY))]).when(renew(until)).then([renewed(until)]);
}

#[test]
fn both_secrets_are_good_in_the_overlap_and_the_old_one_is_refused_after() {
    let key = key(given([created(Expiry::Never)]).when(rotate(2, DAY)).then([rotated(2, 2, later(DAY))]));
    let good = |n, at| key.secret(&hash(n), at).map(|secret| secret.number);
    assert_eq!((good(1, later(DAY - 1)), good(2, later(DAY - 1))), (Some(1), Some(2)));
    assert_eq!((good(1, later(DAY)), good(2, later(DAY))), (None, Some(2)));
    assert_eq!(good(3, NOW), None);
    assert_eq!(key.current_secret().number, 2);
    assert_eq!(key.rotated_at, Some(NOW));
}

#[test]
fn rotation_without_an_overlap_refuses_the_old_secret_at_once() {
    let key = key(given([created(Expiry::Never)]).when(rotate(2, 0)).then([rotated(2, 2, NOW)]));
    assert_eq!(key.secret(&hash(1), NOW), None);
}

#[test]
fn an_overlap_ends_with_the_key_at_the_latest() {
    given([created(Expiry::At(later(DAY)))]).when(rotate(2, 2 * DAY)).then([rotated(2, 2, later(DAY))]);
    given([created(Expiry::At(later(DAY)))]).when(rotate(2, DAY / 2)).then([rotated(2, 2, later(DAY / 2))]);
}

#[test]
fn an_overlap_is_at_most_thirty_days() {
    given([created(Expiry::Never)]).when(rotate(2, 30 * DAY)).then([rotated(2, 2, later(30 * DAY))]);
    given([created(Expiry::Never)]).when(rotate(2, 30 * DAY + 1)).then_refused(KeyError::OverlapTooLong);
    given([created(Expiry::Never)]).when(rotate(2, u64::MAX)).then_refused(KeyError::OverlapTooLong);
}

#[test]
fn a_second_rotation_during_the_overlap_is_refused_unless_the_previous_is_finished() {
    let rotating = || given([created(Expiry::Never), rotated(2, 2, later(DAY))]).after(DAY - 1);
    rotating().when(rotate(3, DAY)).then_refused(KeyError::RotationRunning { valid_until: later(DAY) });
    let key = key(rotating().when(rotate_and_finish(3, DAY)).then([rotated(3, 3, later(2 * DAY - 1))]));
    assert_eq!(key.secret(&hash(1), later(DAY - 1)), None);
    assert_eq!(key.secrets.iter().map(|secret| secret.number).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn a_key_can_be_rotated_again_when_the_overlap_is_over() {
    given([created(Expiry::Never), rotated(2, 2, later(DAY))]).after(DAY).when(rotate(3, 0)).then([rotated(3, 3, later(DAY))]);
}

#[test]
fn the_new_secret_must_be_another_one() {
    given([created(Expiry::Never)]).when(rotate(1, DAY)).then_refused(KeyError::SameSecret);
    given([created(Expiry::Never), rotated(2, 2, later(DAY))]).when(rotate_and_finish(1, DAY)).then_refused(KeyError::SameSecret);
}

#[test]
fn an_expired_key_must_be_renewed_before_it_is_rotated() {
    given([created(Expiry::At(later(DAY)))]).after(DAY).when(rotate(2, DAY)).then_refused(KeyError::Expired);
}

#[test]
fn a_disabled_key_can_be_rotated_and_stays_disabled() {
    let key = key(given([created(Expiry::Never), disabled()]).when(rotate(2, 0)).then([rotated(2, 2, NOW)]));
    assert_eq!(key.state(NOW), KeyState::Disabled);
}

#[test]
fn a_change_to_what_already_is_changes_nothing() {
    given([created(Expiry::Never)]).when(change(KeyPatch::default())).then_nothing();
    given([created(Expiry::Never)])
        .when(change(KeyPatch { name: Some("ci".into()), owner: Some(None), ..KeyPatch::default() }))
        .then_nothing();
}

#[test]
fn a_change_touches_only_what_it_names() {
    let labelled = KeyDetails { owner: Some("ada".into()), tags: vec!["a".into()], ..details() };
    let patch = KeyPatch { owner: Some(Some("ada".into())), tags: Some(vec!["a".into()]), ..KeyPatch::default() };
    let cleared = KeyDetails { tags: vec!["a".into()], ..details() };
    given([created(Expiry::Never)])
        .when(change(patch))
        .then([Event::KeyChanged(KeyChanged { details: labelled })])
        .when(change(KeyPatch { owner: Some(None), ..KeyPatch::default() }))
        .then([Event::KeyChanged(KeyChanged { details: cleared })]);
}

#[test]
fn details_are_checked_on_creation_and_on_change() {
    let pool = |n| PoolId::from_bytes([n; 16]);
    let limits = |requests_per_minute, concurrency| Limits { requests_per_minute, concurrency };
    let cases: Vec<(KeyPatch, KeyError)> = vec![
        (KeyPatch { name: Some(String::new()), ..KeyPatch::default() }, NameError::Empty { field: "name" }.into()),
        (KeyPatch { name: Some("x".repeat(129)), ..KeyPatch::default() }, NameError::TooLong { field: "name" }.into()),
        (KeyPatch { owner: Some(Some(" ada".into())), ..KeyPatch::default() }, NameError::Untrimmed { field: "owner" }.into()),
        (KeyPatch { tags: Some(vec!["a\n".into()]), ..KeyPatch::default() }, NameError::Control { field: "tags" }.into()),
        (
            KeyPatch { tags: Some(vec!["a".into(), "a".into()]), ..KeyPatch::default() },
            NameError::Twice { field: "tags", entry: "a".into() }.into(),
        ),
        (
            KeyPatch { models: Some((0..65).map(|n| n.to_string()).collect()), ..KeyPatch::default() },
            NameError::TooMany { field: "models" }.into(),
        ),
        (KeyPatch { pools: Some(vec![]), ..KeyPatch::default() }, KeyError::NoPools),
        (KeyPatch { pools: Some(vec![pool(1), pool(1)]), ..KeyPatch::default() }, KeyError::List { field: "pools" }),
        (KeyPatch { pools: Some((0..65).map(pool).collect()), ..KeyPatch::default() }, KeyError::List { field: "pools" }),
        (KeyPatch { endpoints: Some(vec![Endpoint::Models; 2]), ..KeyPatch::default() }, KeyError::List { field: "endpoints" }),
        (KeyPatch { limits: Some(limits(Some(0), None)), ..KeyPatch::default() }, KeyError::LimitZero { field: "requests_per_minute" }),
        (KeyPatch { limits: Some(limits(None, Some(0))), ..KeyPatch::default() }, KeyError::LimitZero { field: "concurrency" }),
    ];
    for (patch, error) in cases {
        given([]).when(create(patch.applied_to(&details()))).then_refused(error.clone());
        given([created(Expiry::Never)]).when(change(patch)).then_refused(error);
    }
}

#[test]
fn revoked_weighs_more_than_expired_and_expired_more_than_disabled() {
    let until = later(DAY);
    let all = key(given([created(Expiry::At(until)), disabled(), expired(until), revoked()]));
    assert_eq!(all.refusal(until), Some(KeyRefusal::Revoked));
    assert_eq!(Key { revoked: None, ..all.clone() }.refusal(until), Some(KeyRefusal::Expired));
    assert_eq!(Key { revoked: None, expired_at: None, expiry: Expiry::Never, ..all }.refusal(until), Some(KeyRefusal::Disabled));
}

/// Any command on a key that exists, and how many seconds the clock moves before it; clocks of two nodes disagree, so it may go back.
fn any_command() -> impl Strategy<Value = (i64, KeyCommand)> {
    let expiry = prop_oneof![Just(Expiry::Never), (0_u64..200).prop_map(|seconds| Expiry::At(later(seconds)))];
    let command = prop_oneof![
        2 => expiry.prop_map(|expiry| KeyCommand::Renew { expiry }),
        2 => (0_u8..6, 0_u64..40, any::<bool>())
            .prop_map(|(n, overlap_seconds, finish_previous)| KeyCommand::Rotate { hash: hash(n), overlap_seconds, finish_previous }),
        2 => Just(KeyCommand::Disable { reason: None }),
        2 => Just(KeyCommand::Enable),
        3 => Just(KeyCommand::Expire),
        1 => Just(KeyCommand::Revoke { reason: None }),
        1 => proptest::option::of("[ab]{0,2}").prop_map(|name| KeyCommand::Change(Box::new(KeyPatch { name, ..KeyPatch::default() }))),
    ];
    (-5_i64..30, command)
}

/// What a key's refusal must be, told from the accepted commands alone, newest first.
fn expected_refusal(first_expiry: Expiry, accepted: &[KeyCommand], now: Timestamp) -> Option<KeyRefusal> {
    let newest_first = || accepted.iter().rev();
    if newest_first().any(|command| matches!(command, KeyCommand::Revoke { .. })) {
        return Some(KeyRefusal::Revoked);
    }
    let recorded =
        newest_first().take_while(|command| !matches!(command, KeyCommand::Renew { .. })).any(|command| *command == KeyCommand::Expire);
    let renewal = newest_first().find_map(|command| match command {
        KeyCommand::Renew { expiry } => Some(*expiry),
        _ => None,
    });
    let passed = match renewal.unwrap_or(first_expiry) {
        Expiry::At(at) => at.as_micros() <= now.as_micros(),
        Expiry::Never => false,
    };
    if recorded || passed {
        return Some(KeyRefusal::Expired);
    }
    let last_switch = newest_first().find(|command| matches!(command, KeyCommand::Disable { .. } | KeyCommand::Enable));
    matches!(last_switch, Some(KeyCommand::Disable { .. })).then_some(KeyRefusal::Disabled)
}

proptest! {
    #[test]
    fn any_run_of_commands_can_be_applied_and_leads_to_the_refusal_that_they_say(
        first_expiry in prop_oneof![Just(Expiry::Never), (1_u64..100).prop_map(|seconds| Expiry::At(later(seconds)))],
        commands in proptest::collection::vec(any_command(), 0..40),
    ) {
        let mut state = given([created(first_expiry)]).state();
        let (mut now, mut accepted) = (NOW, vec![]);
        for (seconds, command) in commands {
            now = Timestamp::from_micros(now.as_micros().saturating_add_signed(seconds * 1_000_000));
            let context = Context { now, actor: Actor::Scheduler };
            if let Ok(events) = decide(Some(&state), &Command::Key(command.clone()), &context) {
                prop_assert!(events.len() <= 1);
                let at = At { time: now, actor: Actor::Scheduler };
                state = events.iter().try_fold(state, |state, event| crate::apply(Some(state), &stream(), event, &at)).unwrap();
                accepted.push(command);
            }
            let Aggregate::Key(key) = &state else { panic!("a key stays a key") };
            prop_assert_eq!(key.refusal(now), expected_refusal(first_expiry, &accepted, now));
            // At most two secrets, numbered in a row, and only the older has an end.
            let (current, older) = key.secrets.split_last().unwrap();
            prop_assert!(older.len() <= 1 && current.valid_until.is_none());
            prop_assert!(older.iter().all(|secret| secret.number + 1 == current.number && secret.valid_until.is_some()));
        }
    }
}
