use super::*;
use crate::aggregate::{Aggregate, At, Command};
use crate::event::Event;
use crate::name::NameError;
use crate::rules::{self, Given, NOW, later, tenant};
use crate::stream::Stream;

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

fn new_key(details: KeyDetails) -> NewKey {
    let secret = NewSecret { hash: hash(1), scheme: SecretScheme::Issued };
    NewKey { details, secret, term: Term::Never, metadata: METADATA_EMPTY.into(), dedicated: None, rotation: None }
}

fn create_as(new: NewKey) -> Command {
    Command::Key(KeyCommand::Create(Box::new(new)))
}

fn create(details: KeyDetails) -> Command {
    create_as(new_key(details))
}

fn renew(term: Term) -> Command {
    Command::Key(KeyCommand::Renew { term, enable: false })
}

fn renew_and_enable(term: Term) -> Command {
    Command::Key(KeyCommand::Renew { term, enable: true })
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
    assert_eq!(key.secrets, [KeySecret { number: 1, hash: hash(1), scheme: SecretScheme::Issued, valid_until: None }]);
    assert_eq!(key.state(NOW), KeyState::Active);
}

#[test]
fn a_key_is_created_once() {
    given([created(Expiry::Never)]).when(create(details())).then_refused(KeyError::Exists);
    given([created(Expiry::Never), revoked()]).when(create(details())).then_refused(KeyError::Exists);
}

#[test]
fn nothing_can_be_done_to_a_key_that_was_never_created() {
    for command in [renew(Term::Never), rotate(2, 0), disable(), ENABLE, EXPIRE, revoke(), change(KeyPatch::default())] {
        given([]).when(command).then_refused(KeyError::NotFound);
    }
}

#[test]
fn an_expiry_in_the_past_is_refused() {
    let create_until = |at| create_as(NewKey { term: Term::At(at), ..new_key(details()) });
    given([]).after(1).when(create_until(NOW)).then_refused(KeyError::ExpiryInThePast);
    given([]).when(create_until(NOW)).then_refused(KeyError::ExpiryInThePast);
    given([]).when(create_until(later(1))).then([created(Expiry::At(later(1)))]);
    given([created(Expiry::Never)]).after(1).when(renew(Term::At(NOW))).then_refused(KeyError::ExpiryInThePast);
}

#[test]
fn a_revoked_key_cannot_be_renewed() {
    given([created(Expiry::Never), revoked()]).when(renew(Term::Never)).then_refused(KeyError::Revoked);
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
        .when(renew(Term::At(later(9 * DAY))))
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
    given([created(Expiry::Never)]).when(renew(Term::Never)).then_nothing();
    // A recorded expiry can meet a later one only when two clocks disagree; it must still be lifted.
    let until = Expiry::At(later(DAY));
    given([created(until), expired(later(DAY))]).when(renew(Term::At(later(DAY)))).then([renewed(until)]);
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

fn awaited(seconds: u64) -> Event {
    Event::KeyActivationAwaited(KeyActivationAwaited { seconds })
}

fn activated(first_used_at: Timestamp, seconds: u64) -> Event {
    Event::KeyActivated(KeyActivated { first_used_at, expires_at: first_used_at.plus_seconds(seconds) })
}

fn activate(first_used_at: Timestamp, since: Timestamp) -> Command {
    Command::Key(KeyCommand::Activate { first_used_at, since })
}

fn archived() -> Event {
    Event::KeyArchived(KeyArchived { reason: None })
}

fn purged() -> Event {
    Event::KeyPurged(KeyPurged {})
}

const FINISH: Command = Command::Key(KeyCommand::FinishOverlap);
const ARCHIVE: Command = Command::Key(KeyCommand::Archive { reason: None });
const RESTORE: Command = Command::Key(KeyCommand::Restore);
const PURGE: Command = Command::Key(KeyCommand::Purge);

#[test]
fn a_key_that_awaits_its_first_use_expires_only_after_it() {
    let awaiting = new_key(details());
    let term = Term::AfterFirstUse { seconds: DAY };
    let waiting = given([]).when(create_as(NewKey { term, ..awaiting })).then([created(Expiry::Never), awaited(DAY)]);
    let waiting = waiting.after(900 * DAY).when(EXPIRE);
    let used = waiting.then_refused(KeyError::NotExpired).when(activate(later(900 * DAY), NOW)).then([activated(later(900 * DAY), DAY)]);
    let key = key(used);
    assert_eq!((key.expiry, key.first_used_at, key.activation), (Expiry::At(later(901 * DAY)), Some(later(900 * DAY)), None));
    assert_eq!(key.state(later(901 * DAY - 1)), KeyState::Active);
    assert_eq!(key.state(later(901 * DAY)), KeyState::Expired);
}

#[test]
fn the_first_activation_counts_and_a_later_one_changes_nothing() {
    let used = given([created(Expiry::Never), awaited(DAY)]).after(9).when(activate(later(5), NOW)).then([activated(later(5), DAY)]);
    // Seen earlier by another node, told later.
    used.when(activate(later(3), NOW)).then_nothing();
}

#[test]
fn an_expiry_after_the_first_use_is_recorded_as_any_other() {
    given([created(Expiry::Never), awaited(DAY), activated(later(5), DAY)])
        .after(DAY + 4)
        .when(EXPIRE)
        .then_refused(KeyError::NotExpired)
        .after(1)
        .when(EXPIRE)
        .then([expired(later(5).plus_seconds(DAY))]);
}

#[test]
fn a_first_use_lies_between_the_beginning_of_the_waiting_and_now() {
    let waiting = || given([created(Expiry::Never), awaited(DAY)]).after(10);
    waiting().when(activate(later(11), NOW)).then([activated(later(10), DAY)]);
    waiting().when(activate(Timestamp::from_micros(1), NOW)).then([activated(NOW, DAY)]);
}

#[test]
fn an_expiry_that_nobody_decided_on_is_told_from_never_until_a_renewal() {
    let undecided = || given([created(Expiry::Never), Event::KeyExpiryUnset(KeyExpiryUnset {})]);
    let new = NewKey { term: Term::Unset, ..new_key(details()) };
    given([]).when(create_as(new)).then([created(Expiry::Never), Event::KeyExpiryUnset(KeyExpiryUnset {})]);
    undecided().when(renew(Term::Unset)).then_nothing();
    undecided().when(renew(Term::Never)).then([renewed(Expiry::Never)]).when(renew(Term::Never)).then_nothing();
    let until = later(DAY);
    undecided().when(renew(Term::At(until))).then([renewed(Expiry::At(until))]).when(renew(Term::At(until))).then_nothing();
}

#[test]
fn a_first_use_of_before_a_renewal_does_not_start_the_time_of_after() {
    let term = Term::AfterFirstUse { seconds: 2 * DAY };
    let renewed_at = later(20);
    let waiting = given([created(Expiry::Never), awaited(DAY)])
        .after(20)
        .when(renew(term))
        .then([renewed(Expiry::Never), awaited(2 * DAY)])
        .after(1)
        .when(activate(later(19), NOW))
        .then_nothing();
    waiting.when(activate(later(21), renewed_at)).then([activated(later(21), 2 * DAY)]);
}

#[test]
fn a_renewal_can_begin_the_waiting_again_and_the_same_waiting_changes_nothing() {
    let term = Term::AfterFirstUse { seconds: DAY };
    given([created(Expiry::Never), awaited(DAY)]).after(5).when(renew(term)).then_nothing();
    let key = key(given([created(Expiry::Never), awaited(DAY), activated(NOW, DAY), expired(later(DAY))])
        .after(2 * DAY)
        .when(renew(term))
        .then([renewed(Expiry::Never), awaited(DAY)]));
    assert_eq!((key.first_used_at, key.expired_at, key.term()), (None, None, term));
    assert_eq!(key.state(later(900 * DAY)), KeyState::Active);
}

#[test]
fn the_time_after_the_first_use_is_bounded() {
    for seconds in [0, command::ACTIVATION_SECONDS_MAX + 1, u64::MAX] {
        let term = Term::AfterFirstUse { seconds };
        given([]).when(create_as(NewKey { term, ..new_key(details()) })).then_refused(KeyError::ActivationLength);
        given([created(Expiry::Never)]).when(renew(term)).then_refused(KeyError::ActivationLength);
    }
}

#[test]
fn a_renewal_lifts_a_disable_only_where_it_is_asked_to() {
    let until = later(9 * DAY);
    let key = key(given([created(Expiry::At(later(DAY))), expired(later(DAY)), disabled()])
        .after(2 * DAY)
        .when(renew_and_enable(Term::At(until)))
        .then([renewed(Expiry::At(until)), enabled()]));
    assert_eq!(key.state(later(2 * DAY)), KeyState::Active);
    given([created(Expiry::Never), disabled()]).when(renew_and_enable(Term::Never)).then([enabled()]);
    given([created(Expiry::Never)]).when(renew_and_enable(Term::Never)).then_nothing();
}

#[test]
fn an_overlap_can_be_finished_early() {
    let rotating = || given([created(Expiry::Never), rotated(2, 2, later(DAY))]).after(5);
    let finished = rotating().when(FINISH).then([Event::KeyOverlapFinished(KeyOverlapFinished {})]);
    let again = finished.when(FINISH).then_nothing();
    let key = key(again.when(rotate(3, 0)).then([rotated(3, 3, later(5))]));
    assert_eq!(key.secret(&hash(1), later(5)), None);
    given([created(Expiry::Never), rotated(2, 2, later(DAY))]).after(DAY).when(FINISH).then_nothing();
}

#[test]
fn a_restore_lifts_archived_and_nothing_else() {
    let until = later(DAY);
    let key = key(given([created(Expiry::At(until)), disabled(), expired(until), revoked(), archived()])
        .when(RESTORE)
        .then([Event::KeyRestored(KeyRestored {})])
        .when(RESTORE)
        .then_nothing());
    assert_eq!(key.archived, None);
    assert!(key.disabled.is_some() && key.expired_at.is_some() && key.revoked.is_some());
}

#[test]
fn an_archived_key_says_who_archived_it_and_takes_no_change_that_may_widen_it() {
    let put_away = given([created(Expiry::Never)]).when(Command::Key(KeyCommand::Archive { reason: sealed("left") }));
    let key = key(put_away.then([Event::KeyArchived(KeyArchived { reason: sealed("left") })]));
    assert_eq!(key.archived, Some(Fact { at: NOW, by: Actor::Owner, reason: sealed("left") }));
    for command in [renew(Term::At(later(DAY))), rotate(2, 0), ENABLE, change(KeyPatch::default())] {
        given([created(Expiry::Never), archived()]).when(command).then_refused(KeyError::Archived);
    }
    given([created(Expiry::Never), archived()]).when(disable()).then([disabled()]).when(revoke()).then([revoked()]);
}

#[test]
fn only_an_archived_key_is_purged_and_nothing_of_it_is_left() {
    given([created(Expiry::Never)]).when(PURGE).then_refused(KeyError::NotArchived);
    let key = key(given([created(Expiry::Never), disabled(), rotated(2, 2, later(DAY)), archived()]).after(7).when(PURGE).then([purged()]));
    assert_eq!((key.purged_at, key.is_purged()), (Some(later(7)), true));
    assert_eq!((&key.details, key.secrets.len(), &key.disabled, &key.archived), (&KeyDetails::default(), 0, &None, &None));
}

#[test]
fn a_purge_is_final_and_its_id_is_never_given_again() {
    let gone = || given([created(Expiry::Never), archived(), purged()]);
    for command in [renew(Term::Never), rotate(2, 0), FINISH, disable(), ENABLE, EXPIRE, revoke(), ARCHIVE, RESTORE, PURGE] {
        gone().when(command).then_refused(KeyError::NotFound);
    }
    gone().when(create(details())).then_refused(KeyError::Exists);
    let Aggregate::Key(key) = gone().state() else { panic!("a key stays a key") };
    assert_eq!(Key::apply(Some(*key), &stream(), &enabled(), &At { time: NOW, actor: Actor::Owner }), None);
}

#[test]
fn a_brought_secret_says_how_its_hash_was_made_and_a_rotation_gives_one_of_ours() {
    let scheme = SecretScheme::Peppered { pepper: 1 };
    let new = NewKey { secret: NewSecret { hash: hash(1), scheme }, ..new_key(details()) };
    let brought = Event::KeySecretBrought(KeySecretBrought { number: 1, scheme });
    let rotated_key =
        key(given([]).when(create_as(new)).then([created(Expiry::Never), brought]).when(rotate(2, DAY)).then([rotated(2, 2, later(DAY))]));
    assert_eq!(rotated_key.secrets.iter().map(|secret| secret.scheme).collect::<Vec<_>>(), [scheme, SecretScheme::Issued]);
}

#[test]
fn a_secret_of_an_older_scheme_is_upgraded_once() {
    let old = Event::KeySecretBrought(KeySecretBrought { number: 1, scheme: SecretScheme::ClaudeRelayService { salt: 1 } });
    let upgrade_from = |from, pepper| Command::Key(KeyCommand::UpgradeSecret { number: 1, from: hash(from), hash: hash(9), pepper });
    let upgrade = |pepper| upgrade_from(9, pepper);
    let upgraded = |pepper| Event::KeySecretUpgraded(KeySecretUpgraded { number: 1, hash: hash(9), pepper });
    let key = key(given([created(Expiry::Never), old])
        .when(upgrade_from(1, 2))
        .then([upgraded(2)])
        .when(upgrade_from(1, 2))
        .then_nothing()
        .when(upgrade(2))
        .then_nothing()
        .when(upgrade(1))
        .then_nothing()
        .when(upgrade(3))
        .then([upgraded(3)]));
    assert_eq!((key.secret(&hash(1), NOW), key.current_secret().hash), (None, hash(9)));
    given([created(Expiry::Never)]).when(upgrade(1)).then_refused(KeyError::NoSuchSecret);
    let other = Command::Key(KeyCommand::UpgradeSecret { number: 7, from: hash(1), hash: hash(9), pepper: 1 });
    given([created(Expiry::Never)]).when(other).then_refused(KeyError::NoSuchSecret);
}

#[test]
fn an_upgrade_that_waited_never_brings_a_replaced_secret_back() {
    let scheme = SecretScheme::ClaudeRelayService { salt: 1 };
    let old = Event::KeySecretBrought(KeySecretBrought { number: 1, scheme });
    let secrets = vec![ImportedSecret { number: 1, hash: hash(5), scheme, valid_until: None }];
    let imported = Event::KeyImported(KeyImported { secrets, created_at: NOW, renewed_at: None, rotated_at: None });
    let waited = Command::Key(KeyCommand::UpgradeSecret { number: 1, from: hash(1), hash: hash(9), pepper: 1 });
    let key = key(given([created(Expiry::Never), old, imported]).when(waited).then_nothing());
    assert_eq!(key.current_secret().hash, hash(5));
}

#[test]
fn metadata_and_a_dedicated_upstream_are_set_and_changed_beside_the_details() {
    let dedicated = |n| Some(Dedicated { upstream: UpstreamId::from_bytes([n; 16]), fallback: false });
    let metadata = |text: &str| Event::KeyMetadataSet(KeyMetadataSet { metadata: text.into() });
    let upstream = |dedicated| Event::KeyUpstreamDedicated(KeyUpstreamDedicated { dedicated });
    let new = NewKey { metadata: "{\"team\":1}".into(), dedicated: dedicated(1), ..new_key(details()) };
    let made = given([]).when(create_as(new)).then([created(Expiry::Never), metadata("{\"team\":1}"), upstream(dedicated(1))]);
    let named = KeyDetails { name: "b".into(), ..details() };
    let patch = KeyPatch { name: Some("b".into()), metadata: Some(METADATA_EMPTY.into()), dedicated: Some(None), ..KeyPatch::default() };
    let changed = [Event::KeyChanged(KeyChanged { details: named }), metadata(METADATA_EMPTY), upstream(None)];
    made.when(change(patch.clone())).then(changed).when(change(patch)).then_nothing();
}

#[test]
fn a_key_is_created_with_a_schedule_that_can_be() {
    let rotation = Some(RotationSchedule { every_seconds: 7 * DAY, overlap_seconds: DAY });
    let scheduled = Event::KeyRotationScheduled(KeyRotationScheduled { every_seconds: 7 * DAY, overlap_seconds: DAY });
    let made = given([]).when(create_as(NewKey { rotation, ..new_key(details()) })).then([created(Expiry::Never), scheduled]);
    assert_eq!(key(made).rotation, rotation);
    let rotation = Some(RotationSchedule { every_seconds: DAY, overlap_seconds: 2 * DAY });
    given([]).when(create_as(NewKey { rotation, ..new_key(details()) })).then_refused(KeyError::RotationSchedule);
}

#[test]
fn metadata_is_an_object_of_bounded_size() {
    let largest = format!("{{{}}}", " ".repeat(METADATA_BYTES_MAX - 2));
    let with = |metadata: &str| create_as(NewKey { metadata: metadata.into(), ..new_key(details()) });
    let set = Event::KeyMetadataSet(KeyMetadataSet { metadata: largest.clone() });
    given([]).when(with(&largest)).then([created(Expiry::Never), set]);
    for metadata in [&(largest + " "), "", "[]"] {
        given([]).when(with(metadata)).then_refused(KeyError::Metadata);
        let patch = KeyPatch { metadata: Some(metadata.into()), ..KeyPatch::default() };
        given([created(Expiry::Never)]).when(change(patch)).then_refused(KeyError::Metadata);
    }
}

#[test]
fn archived_weighs_more_than_revoked() {
    assert_eq!(key(given([created(Expiry::Never), revoked(), archived()])).state(NOW), KeyState::Archived);
}

#[test]
fn an_expiry_is_due_until_it_is_recorded_or_the_key_is_revoked() {
    let until = later(DAY);
    let due = |events: &[Event]| key(given(events.to_vec())).expiry_due_at();
    assert_eq!(due(&[created(Expiry::At(until))]), Some(until));
    assert_eq!(due(&[created(Expiry::At(until)), disabled(), archived()]), Some(until));
    assert_eq!(due(&[created(Expiry::At(until)), expired(until)]), None);
    assert_eq!(due(&[created(Expiry::At(until)), revoked()]), None);
    assert_eq!(due(&[created(Expiry::Never)]), None);
    assert_eq!(due(&[created(Expiry::Never), awaited(5)]), None);
}

fn leaked(hash_number: u8, action: LeakAction) -> Command {
    let report = LeakReport {
        hash: hash(hash_number),
        scanner: "github/1".into(),
        source: Some("content".into()),
        url: sealed("https://a.example"),
        action,
        reason: None,
    };
    Command::Key(KeyCommand::ReportLeak(Box::new(report)))
}

fn reported(number: u32) -> Event {
    let url = sealed("https://a.example");
    Event::KeyLeakReported(KeyLeakReported { number, scanner: "github/1".into(), source: Some("content".into()), url })
}

#[test]
fn a_leaked_secret_revokes_or_disables_the_key_and_a_second_report_of_it_does_nothing() {
    let taken = given([created(Expiry::Never)]).when(leaked(1, LeakAction::Revoke)).then([reported(1), revoked()]);
    taken.when(leaked(1, LeakAction::Revoke)).then_nothing();
    let held = given([created(Expiry::Never)]).when(leaked(1, LeakAction::Disable)).then([reported(1), disabled()]);
    // What the operator decides after the report stands against whoever sends it again.
    let lifted = held.when(leaked(1, LeakAction::Disable)).then_nothing().when(ENABLE).then([enabled()]);
    let key = key(lifted.when(leaked(1, LeakAction::Revoke)).then_nothing());
    assert_eq!((key.state(NOW), key.leaks.len(), key.leaks[0].number), (KeyState::Active, 1, 1));
    // The fact that somebody disabled it before stays theirs.
    given([created(Expiry::Never), disabled()]).when(leaked(1, LeakAction::Disable)).then([reported(1)]);
    given([created(Expiry::Never), archived()]).when(leaked(1, LeakAction::Disable)).then([reported(1), disabled()]);
}

#[test]
fn a_leaked_predecessor_counts_while_it_is_good_and_a_new_secret_leaks_anew() {
    let overlap = || given([created(Expiry::Never), rotated(2, 2, later(DAY))]);
    overlap().when(leaked(1, LeakAction::Disable)).then([reported(1), disabled()]);
    overlap().after(DAY).when(leaked(1, LeakAction::Disable)).then_nothing();
    overlap().when(leaked(9, LeakAction::Revoke)).then_nothing();
    let first = given([created(Expiry::Never)]).when(leaked(1, LeakAction::Disable)).accepted();
    let rotated = first.when(rotate(2, 0)).accepted().when(ENABLE).accepted();
    let key = key(rotated.when(leaked(2, LeakAction::Revoke)).then([reported(2), revoked()]));
    assert_eq!(key.leaks.iter().map(|leak| leak.number).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_leak_is_forgotten_with_its_secret() {
    let leaks = |given: Given| key(given).leaks;
    let leaked = || given([created(Expiry::Never)]).when(leaked(1, LeakAction::Disable)).accepted();
    assert_eq!(leaks(leaked().when(rotate(2, 0)).accepted().after(1).when(rotate(3, 0)).accepted()), []);
    assert_eq!(leaks(leaked().when(ARCHIVE).accepted().when(PURGE).accepted()), []);
}

const EVERY_WEEK: RotationSchedule = RotationSchedule { every_seconds: 7 * DAY, overlap_seconds: DAY };

fn schedule(rotation: Option<RotationSchedule>) -> Command {
    change(KeyPatch { rotation: Some(rotation), ..KeyPatch::default() })
}

fn scheduled() -> Event {
    Event::KeyRotationScheduled(KeyRotationScheduled { every_seconds: 7 * DAY, overlap_seconds: DAY })
}

fn turn(number: u32, hash_number: u8) -> Command {
    Command::Key(KeyCommand::RotateBySchedule { number, hash: hash(hash_number), overlap_seconds: DAY })
}

fn collect(number: u32) -> Command {
    Command::Key(KeyCommand::CollectSuccessor { number })
}

#[test]
fn a_rotation_by_schedule_gives_one_successor_however_often_it_is_asked() {
    let sealed = |number| Event::KeySuccessorSealed(KeySuccessorSealed { number });
    let set = given([created(Expiry::Never)]).when(schedule(Some(EVERY_WEEK))).then([scheduled()]);
    let rotated_once = set.after(7 * DAY).when(turn(2, 2)).then([rotated(2, 2, later(8 * DAY)), sealed(2)]);
    let waits = rotated_once.when(turn(2, 2)).then_nothing().when(turn(2, 9)).then_nothing();
    // A secret that nobody has is not followed by another.
    let waits = waits.after(8 * DAY).when(turn(3, 3)).then_nothing().when(collect(1)).then_refused(KeyError::NoSuccessor);
    let collected = waits.when(collect(2)).then([Event::KeySuccessorCollected(KeySuccessorCollected { number: 2 })]);
    let collected = collected.when(collect(2)).then_refused(KeyError::NoSuccessor);
    collected.when(turn(3, 3)).then([rotated(3, 3, later(16 * DAY)), sealed(3)]);
}

#[test]
fn a_rotation_by_hand_takes_the_place_of_one_that_waits() {
    let waits = given([created(Expiry::Never)]).when(turn(2, 2)).accepted();
    let by_hand = waits.when(rotate_and_finish(3, 0)).accepted().when(collect(2)).then_refused(KeyError::NoSuccessor);
    assert_eq!(key(by_hand).successor, None);
}

#[test]
fn a_rotation_is_due_when_the_secret_is_old_enough_and_the_last_overlap_is_over() {
    let due = |given: Given| key(given).rotation_due_at(EVERY_WEEK);
    assert_eq!(due(given([created(Expiry::Never)])), Some(later(7 * DAY)));
    assert_eq!(due(given([created(Expiry::Never), rotated(2, 2, later(30 * DAY))])), Some(later(30 * DAY)));
    for held in [disabled(), revoked(), archived(), expired(NOW), Event::KeySuccessorSealed(KeySuccessorSealed { number: 1 })] {
        assert_eq!(due(given([created(Expiry::Never), held])), None);
    }
}

#[test]
fn a_schedule_must_leave_room_for_its_overlap_and_can_be_taken_away() {
    let of = |every_seconds, overlap_seconds| Some(RotationSchedule { every_seconds, overlap_seconds });
    for wrong in [of(0, 0), of(DAY, DAY + 1), of(90 * DAY, 31 * DAY), of(ROTATION_SECONDS_MAX + 1, 0)] {
        given([created(Expiry::Never)]).when(schedule(wrong)).then_refused(KeyError::RotationSchedule);
    }
    let set = given([created(Expiry::Never), scheduled()]).when(schedule(Some(EVERY_WEEK))).then_nothing();
    let unset = set.when(schedule(None)).then([Event::KeyRotationUnscheduled(KeyRotationUnscheduled {})]);
    unset.when(schedule(None)).then_nothing();
}
