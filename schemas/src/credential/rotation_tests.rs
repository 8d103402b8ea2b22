//! Rules of rotations, one by one.

use super::rotation::{
    EndCause, Installer, REFUSALS_MAX, RotationAborted, RotationCommand, RotationDraining, RotationError, RotationFallbackUsed,
    RotationFinished, RotationInstalled, RotationPromoted, RotationRolledBack, RotationStaged, RotationStep, RotationTested,
    SETTLE_SECONDS, StepCause,
};
use super::{Credential, CredentialAdded, CredentialCommand, CredentialError, CredentialReplaced};
use crate::aggregate::{Aggregate, Command};
use crate::event::Event;
use crate::id::{CredentialId, RotationId, UpstreamId, WriterId};
use crate::rules::{self, Given, later, tenant};
use crate::stream::Stream;

const DAY: u64 = 86_400;
const FIRST: RotationId = RotationId::from_bytes([7; 16]);

fn given() -> Given {
    let added = Event::CredentialAdded(CredentialAdded {
        upstream: UpstreamId::from_bytes([2; 16]),
        origin: "https://api.example.com".into(),
        fingerprint: "1:old".into(),
    });
    rules::given(Stream::credential(tenant(), CredentialId::from_bytes([1; 16])), [added])
}

fn staged(secret_version: u32) -> RotationStaged {
    RotationStaged {
        rotation: FIRST,
        secret_version,
        fingerprint: "1:new".into(),
        compromise: false,
        window_seconds: DAY,
        grace_seconds: 2 * DAY,
        unused_seconds: None,
        reason: None,
    }
}

fn rotate(command: RotationCommand) -> Command {
    Command::Credential(CredentialCommand::Rotate(command))
}

fn stage(staged: RotationStaged) -> Command {
    rotate(RotationCommand::Stage { staged: Box::new(staged), installed: Some(Installer::Operator) })
}

fn tested() -> RotationTested {
    let account = Some("1:account".to_owned());
    RotationTested {
        rotation: FIRST,
        node: WriterId::from_bytes([9; 16]),
        status: 200,
        account: account.clone(),
        previous_account: account,
    }
}

fn pass() -> Command {
    rotate(RotationCommand::Pass(Box::new(tested())))
}

fn promote() -> Command {
    rotate(RotationCommand::Promote { rotation: FIRST })
}

fn drain(cause: StepCause) -> Command {
    rotate(RotationCommand::Drain { rotation: FIRST, cause })
}

fn finish(cause: StepCause) -> Command {
    rotate(RotationCommand::Finish { rotation: FIRST, cause })
}

fn abort() -> Command {
    rotate(RotationCommand::Abort { rotation: FIRST, cause: EndCause::Asked })
}

fn roll_back() -> Command {
    rotate(RotationCommand::RollBack { rotation: FIRST, cause: EndCause::Asked })
}

fn fallback(second: u64) -> Command {
    let used = RotationFallbackUsed { rotation: FIRST, node: WriterId::from_bytes([9; 16]), uses: 2, last_used_at: later(second) };
    rotate(RotationCommand::NoteFallback(used))
}

fn credential(given: Given) -> Credential {
    let Aggregate::Credential(credential) = given.state() else { panic!("not a credential") };
    credential
}

/// In `dual` since the given second.
fn dual(staged: RotationStaged, second: u64) -> Given {
    given().when(stage(staged)).accepted().when(pass()).accepted().after(second).when(promote()).accepted()
}

#[test]
fn a_rotation_goes_its_way_and_each_step_is_one_event() {
    let given = given()
        .when(stage(staged(2)))
        .then([Event::RotationStaged(staged(2)), Event::RotationInstalled(RotationInstalled { rotation: FIRST, by: Installer::Operator })])
        .when(pass())
        .then([Event::RotationTested(tested())])
        .after(5)
        .when(promote())
        .then([Event::RotationPromoted(RotationPromoted { rotation: FIRST })])
        .after(DAY)
        .when(drain(StepCause::Due))
        .then([Event::RotationDraining(RotationDraining { rotation: FIRST, cause: StepCause::Due })])
        .after(DAY)
        .when(finish(StepCause::Due))
        .then([Event::RotationFinished(RotationFinished { rotation: FIRST, cause: StepCause::Due })]);
    let credential = credential(given);
    assert_eq!((credential.secret_version, credential.fingerprint.as_str(), credential.changed_at), (2, "1:new", later(5)));
    assert_eq!(credential.secret_versions(), [2]);
    assert_eq!(credential.rotations[0].previous.fingerprint, "1:old");
}

#[test]
fn the_secret_in_use_changes_with_the_promotion_and_not_before() {
    let before = credential(given().when(stage(staged(2))).accepted().when(pass()).accepted());
    assert_eq!((before.secret_version, before.secret_versions(), before.fallback_secret().is_none()), (1, vec![1, 2], true));
    let after = credential(dual(staged(2), 5));
    assert_eq!((after.secret_version, after.secret_versions()), (2, vec![2, 1]));
    assert_eq!(after.fallback_secret().map(|(_, previous)| previous.version), Some(1));
    let draining = credential(dual(staged(2), 5).when(drain(StepCause::Asked)).accepted());
    assert_eq!((draining.secret_versions(), draining.fallback_secret().is_none()), (vec![2, 1], true));
}

#[test]
fn the_same_step_again_changes_nothing() {
    let given = given().when(stage(staged(2))).accepted().when(stage(staged(2))).then_nothing();
    let given = given.when(pass()).accepted().when(pass()).then_nothing().when(stage(staged(2))).then_nothing();
    let given = given.when(promote()).accepted().when(promote()).then_nothing().when(pass()).then_nothing();
    let given = given.when(drain(StepCause::Asked)).accepted().when(drain(StepCause::Due)).then_nothing();
    let given = given.when(finish(StepCause::Asked)).accepted().when(finish(StepCause::Asked)).then_nothing();
    given.when(promote()).then_nothing().when(stage(staged(2))).then_nothing();
}

#[test]
fn no_step_is_left_out() {
    let at = |at| CredentialError::Rotation(RotationError::Step { at });
    let given = given().when(stage(staged(2))).accepted();
    let given = given.when(promote()).then_refused(at(RotationStep::Installed)).when(finish(StepCause::Asked));
    let given = given.then_refused(at(RotationStep::Installed)).when(pass()).accepted();
    given.when(drain(StepCause::Asked)).then_refused(at(RotationStep::Tested));
}

#[test]
fn a_credential_has_one_open_rotation_and_no_replacement_beside_it() {
    let other = RotationId::from_bytes([8; 16]);
    let open = || CredentialError::Rotation(RotationError::Open(FIRST));
    let second = RotationStaged { rotation: other, fingerprint: "1:third".into(), ..staged(3) };
    let replace = Command::Credential(CredentialCommand::Replace(CredentialReplaced { secret_version: 3, fingerprint: "1:x".into() }));
    let given = given().when(stage(staged(2))).accepted().when(stage(second.clone())).then_refused(open());
    let given = given.when(replace.clone()).then_refused(open()).when(abort()).accepted();
    // The number of a secret that was given up is not used again.
    let again = RotationStaged { secret_version: 2, ..second.clone() };
    let given = given.when(stage(again)).then_refused(CredentialError::SecretVersion { current: 1, given: 2 });
    given.when(replace).accepted().when(stage(RotationStaged { secret_version: 4, ..second })).accepted();
}

#[test]
fn an_id_means_one_secret_and_the_secret_in_use_is_no_new_one() {
    let other = RotationStaged { fingerprint: "1:other".into(), ..staged(3) };
    given().when(stage(staged(2))).accepted().when(stage(other)).then_refused(CredentialError::Rotation(RotationError::Reused(FIRST)));
    let same = RotationStaged { fingerprint: "1:old".into(), ..staged(2) };
    given().when(stage(same)).then_refused(CredentialError::Rotation(RotationError::SameSecret));
}

#[test]
fn times_have_bounds() {
    let times = |window_seconds, grace_seconds, unused_seconds| {
        stage(RotationStaged { window_seconds, grace_seconds, unused_seconds, ..staged(2) })
    };
    for wrong in [times(0, 1, None), times(2, 1, None), times(8 * DAY, 8 * DAY, None), times(1, 91 * DAY, None), times(1, 1, Some(0))] {
        given().when(wrong).then_refused(CredentialError::Rotation(RotationError::Times));
    }
    given().when(times(7 * DAY, 90 * DAY, Some(1))).accepted();
}

#[test]
fn what_was_not_promoted_is_aborted_and_what_was_is_rolled_back() {
    let refused = |error: RotationError| CredentialError::Rotation(error);
    let aborted = RotationAborted { rotation: FIRST, at: RotationStep::Installed, cause: EndCause::Asked };
    let over = || refused(RotationError::Over { at: RotationStep::Aborted });
    let ended = given().when(stage(staged(2))).accepted().when(roll_back()).then_refused(refused(RotationError::NotPromoted));
    let ended = ended.when(abort()).then([Event::RotationAborted(aborted)]).when(abort()).then_nothing();
    let ended = credential(ended.when(pass()).then_refused(over()).when(roll_back()).then_refused(over()));
    assert_eq!((ended.secret_version, ended.secret_versions(), ended.next_secret_version()), (1, vec![1], 3));

    let rolled_back = RotationRolledBack { rotation: FIRST, at: RotationStep::Dual, cause: EndCause::Asked };
    let ended = dual(staged(2), 5).when(abort()).then_refused(refused(RotationError::Promoted));
    let ended = ended.when(roll_back()).then([Event::RotationRolledBack(rolled_back)]).when(roll_back()).then_nothing();
    let ended = credential(ended.when(promote()).then_refused(refused(RotationError::Over { at: RotationStep::RolledBack })));
    assert_eq!((ended.secret_version, ended.fingerprint.as_str(), ended.changed_at), (1, "1:old", rules::NOW));
}

#[test]
fn after_the_end_there_is_no_way_back() {
    let over = || CredentialError::Rotation(RotationError::Over { at: RotationStep::Finished });
    let finished = dual(staged(2), 5).when(drain(StepCause::Asked)).accepted().when(finish(StepCause::Asked)).accepted();
    finished.when(roll_back()).then_refused(over()).when(abort()).then_refused(over());
}

#[test]
fn a_secret_that_others_know_is_no_fallback_and_goes_at_once() {
    let compromised = RotationStaged { compromise: true, ..staged(2) };
    let given = given().when(stage(compromised)).accepted().when(pass()).accepted().when(promote()).then([
        Event::RotationPromoted(RotationPromoted { rotation: FIRST }),
        Event::RotationDraining(RotationDraining { rotation: FIRST, cause: StepCause::Compromise }),
    ]);
    given.when(finish(StepCause::Compromise)).accepted();
}

#[test]
fn nothing_goes_on_by_itself_before_its_time() {
    let not_due = || CredentialError::Rotation(RotationError::NotDue);
    let given = dual(staged(2), 0).after(DAY - 1).when(drain(StepCause::Due)).then_refused(not_due());
    let given = given.when(drain(StepCause::Unused)).then_refused(not_due());
    // The old secret was needed a moment ago, so the window stays open.
    let given = given.after(1).when(fallback(DAY)).accepted().when(drain(StepCause::Due)).then_refused(not_due());
    let given = given.after(600).when(drain(StepCause::Due)).accepted();
    let given = given.when(finish(StepCause::Due)).then_refused(not_due()).after(DAY - 600);
    given.when(finish(StepCause::Due)).accepted();
}

#[test]
fn a_secret_that_nobody_needs_goes_early_where_that_was_asked_for() {
    let early = RotationStaged { unused_seconds: Some(60), ..staged(2) };
    let given = dual(early, 0).after(30).when(fallback(30)).accepted().after(59);
    let not_due = CredentialError::Rotation(RotationError::NotDue);
    let given = given.when(drain(StepCause::Unused)).then_refused(not_due).after(1).when(drain(StepCause::Unused)).accepted();
    let credential = credential(given.when(finish(StepCause::Unused)).accepted());
    let used = credential.rotations[0].fallback;
    assert_eq!((used.uses, used.last_used_at), (2, Some(later(30))));
}

#[test]
fn the_use_of_the_old_secret_counts_while_it_is_the_fallback() {
    given().when(stage(staged(2))).accepted().when(fallback(1)).then_nothing();
    let used = credential(dual(staged(2), 0).after(20).when(fallback(9)).accepted().when(fallback(3)).accepted());
    assert_eq!((used.rotations[0].fallback.uses, used.rotations[0].fallback.last_used_at), (4, Some(later(9))));
    // A node whose clock is ahead does not hold the old secret in use: what it tells was before its record.
    let ahead = credential(dual(staged(2), 0).after(20).when(fallback(86_400)).accepted());
    assert_eq!(ahead.rotations[0].fallback.last_used_at, Some(later(20)));
}

#[test]
fn a_credential_remembers_its_newest_rotations() {
    let mut given = given();
    for n in 0..40_u8 {
        let rotation = RotationId::from_bytes([n; 16]);
        let staged = RotationStaged { rotation, fingerprint: format!("1:{n}"), ..staged(u32::from(n) + 2) };
        given = given.when(stage(staged)).accepted();
        given = given.when(rotate(RotationCommand::Abort { rotation, cause: EndCause::Asked })).accepted();
    }
    let credential = credential(given);
    assert_eq!((credential.rotations.len(), credential.next_secret_version()), (super::rotation::ROTATIONS_KEPT, 42));
}

#[test]
fn a_revoked_credential_is_not_rotated() {
    let revoke = Command::Credential(CredentialCommand::Revoke);
    let given = given().when(stage(staged(2))).accepted().when(revoke).accepted();
    let given = given.when(pass()).then_refused(CredentialError::Revoked);
    assert!(credential(given).secret_versions().is_empty());
}

#[test]
fn what_a_provider_refuses_before_it_can_have_heard_of_a_secret_is_no_evidence() {
    let open = |given: Given| credential(given).open_rotation().cloned().expect("it is open");
    // Four at once, right after the change.
    let early = dual(staged(2), 10).after(11).when(fallback(11)).accepted().when(fallback(11)).accepted();
    let rotation = open(early);
    assert!(rotation.fallback.uses >= REFUSALS_MAX && !rotation.is_refused_in_use());
    assert!(!rotation.is_settled(later(10 + SETTLE_SECONDS - 1)) && rotation.is_settled(later(10 + SETTLE_SECONDS)));
    let late = 10 + SETTLE_SECONDS;
    let still = dual(staged(2), 10).after(11).when(fallback(11)).accepted().after(late).when(fallback(late)).accepted();
    assert!(open(still).is_refused_in_use());
    let once = dual(staged(2), 10).after(late).when(fallback(late)).accepted();
    assert!(!open(once).is_refused_in_use(), "two requests are no evidence yet");
}
