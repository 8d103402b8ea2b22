use super::super::*;
use super::ImportedFact;
use crate::aggregate::{Aggregate, Command};
use crate::event::Event;
use crate::rules::{self, Given, NOW, later, tenant};
use crate::stream::Stream;

fn given(events: impl IntoIterator<Item = Event>) -> Given {
    rules::given(Stream::key(tenant(), KeyId::from_bytes([1; 16])), events)
}

fn secret(number: u32, valid_until: Option<Timestamp>) -> ImportedSecret {
    ImportedSecret { number, hash: Digest::from_bytes([number as u8; 32]), scheme: SecretScheme::Issued, valid_until }
}

fn plain() -> KeyImport {
    KeyImport {
        details: KeyDetails { name: "ci".into(), pools: vec![PoolId::from_bytes([1; 16])], ..KeyDetails::default() },
        metadata: METADATA_EMPTY.into(),
        dedicated: None,
        rotation: Some(None),
        secrets: vec![secret(1, None)],
        term: Term::Never,
        first_used_at: None,
        created_at: Timestamp::from_micros(1),
        renewed_at: None,
        rotated_at: None,
        expired_at: None,
        disabled: None,
        revoked: None,
        archived: None,
    }
}

/// A key to which everything has happened that can happen to one at once.
fn eventful() -> KeyImport {
    let fact = || Some(ImportedFact { reason: None });
    KeyImport {
        metadata: r#"{"team":"a"}"#.into(),
        dedicated: Some(Dedicated { upstream: UpstreamId::from_bytes([9; 16]), fallback: true }),
        rotation: Some(Some(WEEKLY)),
        secrets: vec![secret(4, Some(later(60))), secret(5, None)],
        term: Term::At(Timestamp::from_micros(500)),
        first_used_at: Some(Timestamp::from_micros(400)),
        renewed_at: Some(Timestamp::from_micros(2)),
        rotated_at: Some(Timestamp::from_micros(3)),
        expired_at: Some(Timestamp::from_micros(500)),
        disabled: fact(),
        archived: fact(),
        ..plain()
    }
}

const WEEKLY: RotationSchedule = RotationSchedule { every_seconds: 7 * 86_400, overlap_seconds: 86_400 };

fn import(key: KeyImport) -> Command {
    Command::Key(KeyCommand::Import(Box::new(key)))
}

fn names(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(Event::name).collect()
}

fn state(given: Given) -> Key {
    let Aggregate::Key(key) = given.state() else { panic!("not a key") };
    *key
}

/// The key after an import onto these events.
fn imported(events: Vec<Event>, key: KeyImport) -> Given {
    given(events).when(import(key)).accepted()
}

#[test]
fn a_key_is_imported_whole() {
    let key = state(imported(vec![], eventful()));
    assert_eq!(key.secrets.iter().map(|secret| (secret.number, secret.valid_until)).collect::<Vec<_>>(), [(4, Some(later(60))), (5, None)]);
    assert_eq!((key.created_at, key.renewed_at, key.rotated_at), (eventful().created_at, eventful().renewed_at, eventful().rotated_at));
    assert_eq!(
        (key.expiry, key.expired_at, key.first_used_at),
        (Expiry::At(Timestamp::from_micros(500)), eventful().expired_at, eventful().first_used_at)
    );
    assert_eq!((key.metadata.as_str(), key.dedicated), (r#"{"team":"a"}"#, eventful().dedicated));
    assert!(key.disabled.is_some() && key.archived.is_some() && key.revoked.is_none());
    assert_eq!(key.disabled.as_ref().map(|fact| fact.at), Some(NOW));
}

#[test]
fn the_same_import_again_changes_nothing() {
    let waiting = KeyImport { term: Term::AfterFirstUse { seconds: 60 }, ..plain() };
    let undecided = KeyImport { term: Term::Unset, ..plain() };
    for key in [plain(), eventful(), waiting, undecided] {
        imported(vec![], key.clone()).after(5).when(import(key)).then_nothing();
    }
}

#[test]
fn a_key_that_is_there_is_set_to_what_it_was_elsewhere_and_back() {
    for (from, to) in [(plain(), eventful()), (eventful(), plain())] {
        let given = imported(vec![], from).after(5).when(import(to.clone())).accepted();
        let given = given.when(import(to.clone())).then_nothing();
        let key = state(given);
        assert_eq!(Some(key.rotation), to.rotation);
        assert_eq!(key.secrets, KeyImported { secrets: to.secrets, created_at: NOW, renewed_at: None, rotated_at: None }.secrets());
    }
}

#[test]
fn a_schedule_that_is_not_told_stays_and_one_that_cannot_be_is_refused() {
    let untold = KeyImport { rotation: None, ..plain() };
    let scheduled = KeyImport { rotation: Some(Some(WEEKLY)), ..plain() };
    assert_eq!(state(imported(vec![], untold.clone())).rotation, None);
    let kept = imported(vec![], scheduled.clone()).when(import(untold)).then_nothing();
    assert_eq!(state(kept).rotation, Some(WEEKLY));
    let endless = KeyImport { rotation: Some(Some(RotationSchedule { every_seconds: 0, ..WEEKLY })), ..plain() };
    given([]).when(import(endless.clone())).then_refused(KeyError::RotationSchedule);
    imported(vec![], scheduled).when(import(endless)).then_refused(KeyError::RotationSchedule);
}

#[test]
fn only_what_differs_becomes_an_event() {
    let named = KeyImport { details: KeyDetails { name: "other".into(), ..plain().details }, ..plain() };
    let changed = Event::KeyChanged(KeyChanged { details: named.details.clone() });
    imported(vec![], plain()).when(import(named)).then([changed]);
}

#[test]
fn a_revocation_is_never_taken_back() {
    let revoked = KeyImport { revoked: Some(ImportedFact { reason: None }), ..plain() };
    let given = imported(vec![], revoked.clone()).when(import(plain())).then_refused(KeyError::Revoked);
    let given = given.when(import(revoked)).then_nothing();
    given
        .when(Command::Key(KeyCommand::Archive { reason: None }))
        .accepted()
        .when(Command::Key(KeyCommand::Purge))
        .accepted()
        .when(import(plain()))
        .then_refused(KeyError::NotFound);
}

#[test]
fn a_leaked_secret_stays_disabled_until_an_import_takes_it_away() {
    let leak = LeakReport {
        hash: secret(1, None).hash,
        scanner: "own".into(),
        source: None,
        url: None,
        action: LeakAction::Disable,
        reason: None,
    };
    let leaked = || imported(vec![], plain()).when(Command::Key(KeyCommand::ReportLeak(Box::new(leak.clone())))).accepted();
    leaked().when(import(plain())).then_nothing();
    let named = KeyImport { details: KeyDetails { name: "other".into(), ..plain().details }, ..plain() };
    let given = leaked().when(import(named.clone())).then([Event::KeyChanged(KeyChanged { details: named.details.clone() })]);
    let key = state(given);
    assert!(named.keeps_quarantine(&key) && !plain().keeps_quarantine(&state(imported(vec![], plain()))));
    assert!(key.disabled.is_some() && key.leaks.len() == 1);

    let replaced = KeyImport { secrets: vec![secret(2, None)], ..plain() };
    let key = state(leaked().when(import(replaced)).accepted());
    assert!(key.disabled.is_none() && key.leaks.is_empty());
    // What an operator enabled stays so.
    leaked().when(Command::Key(KeyCommand::Enable)).accepted().when(import(plain())).then_nothing();
}

#[test]
fn secrets_and_times_that_do_not_go_together_are_refused() {
    let until = || Some(later(60));
    let secrets = |secrets| KeyImport { secrets, ..plain() };
    for wrong in [
        secrets(vec![]),
        secrets(vec![secret(0, None)]),
        secrets(vec![secret(1, until())]),
        secrets(vec![secret(1, None), secret(2, None)]),
        secrets(vec![secret(2, until()), secret(1, None)]),
        secrets(vec![secret(2, until()), secret(2, None)]),
        secrets(vec![secret(1, until()), secret(2, until()), secret(3, None)]),
        KeyImport { expired_at: Some(NOW), ..plain() },
        KeyImport { first_used_at: Some(NOW), ..plain() },
    ] {
        given([]).when(import(wrong)).then_refused(KeyError::Imported);
    }
    given([])
        .when(import(KeyImport { details: KeyDetails { pools: vec![], ..plain().details }, ..plain() }))
        .then_refused(KeyError::NoPools);
}

#[test]
fn one_record_tells_all() {
    let Command::Key(command) = import(eventful()) else { panic!("a key") };
    let context = crate::Context { now: NOW, actor: crate::Actor::Owner };
    let events = Key::decide(None, &command, &context).unwrap();
    assert_eq!(
        names(&events),
        [
            "KeyCreated",
            "KeyActivated",
            "KeyExpired",
            "KeyImported",
            "KeyMetadataSet",
            "KeyUpstreamDedicated",
            "KeyRotationScheduled",
            "KeyDisabled",
            "KeyArchived"
        ]
    );
}
