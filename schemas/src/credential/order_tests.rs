//! Rules of orders, one by one.

use super::*;
use crate::aggregate::{Aggregate, Command};
use crate::credential::rotation::{RotationCommand, RotationStep};
use crate::credential::{CredentialAdded, CredentialCommand, CredentialReplaced};
use crate::id::{CredentialId, UpstreamId};
use crate::rules::{self, Given, later, tenant};
use crate::stream::Stream;

const DAY: u64 = 86_400;
const FIRST: RotationId = RotationId::from_bytes([7; 16]);
const SECOND: RotationId = RotationId::from_bytes([8; 16]);
const NODES: [WriterId; 2] = [WriterId::from_bytes([1; 16]), WriterId::from_bytes([2; 16])];

fn given() -> Given {
    let added = Event::CredentialAdded(CredentialAdded {
        upstream: UpstreamId::from_bytes([2; 16]),
        origin: "https://api.example.com".into(),
        fingerprint: "1:old".into(),
    });
    rules::given(Stream::credential(tenant(), CredentialId::from_bytes([1; 16])), [added])
}

fn order(command: OrderCommand) -> Command {
    Command::Credential(CredentialCommand::Order(command))
}

fn ordered(rotation: RotationId) -> RotationOrdered {
    RotationOrdered {
        rotation,
        provider: "openai".into(),
        compromise: false,
        window_seconds: DAY,
        grace_seconds: 2 * DAY,
        unused_seconds: None,
    }
}

fn place(rotation: RotationId) -> Command {
    order(OrderCommand::Place(ordered(rotation)))
}

fn claim(node: usize) -> Command {
    order(OrderCommand::Claim { rotation: FIRST, node: NODES[node] })
}

fn claimed(number: u32, node: usize) -> Event {
    Event::RotationOrderClaimed(RotationOrderClaimed { rotation: FIRST, number, node: NODES[node] })
}

fn staged(rotation: RotationId) -> RotationStaged {
    RotationStaged {
        rotation,
        secret_version: 2,
        fingerprint: "1:new".into(),
        compromise: false,
        window_seconds: DAY,
        grace_seconds: 2 * DAY,
        unused_seconds: None,
        reason: None,
    }
}

fn deliver() -> Command {
    order(OrderCommand::Deliver { staged: Box::new(staged(FIRST)), key: Some("svc_1".into()) })
}

fn noted() -> ProviderKeyNoted {
    ProviderKeyNoted { secret_version: 2, provider: "openai".into(), key: "svc_1".into() }
}

fn credential(given: Given) -> Credential {
    let Aggregate::Credential(credential) = given.state() else { panic!("not a credential") };
    credential
}

#[test]
fn a_delivery_begins_the_rotation_and_the_same_again_changes_nothing() {
    let given = given()
        .when(place(FIRST))
        .then([Event::RotationOrdered(ordered(FIRST))])
        .when(place(FIRST))
        .then_nothing()
        .when(claim(0))
        .then([claimed(1, 0)])
        .when(deliver())
        .then([
            Event::ProviderKeyNoted(noted()),
            Event::RotationStaged(staged(FIRST)),
            Event::RotationInstalled(RotationInstalled { rotation: FIRST, by: Installer::Provider }),
        ])
        .when(deliver())
        .then_nothing()
        .when(place(FIRST))
        .then_nothing();
    let credential = credential(given);
    assert!(credential.provider_side.order.is_none() && credential.provider_side.key(2).is_some());
    assert_eq!(credential.open_rotation().map(|rotation| rotation.step), Some(RotationStep::Installed));
}

#[test]
fn a_provider_is_asked_by_one_node_at_a_time() {
    given()
        .when(place(FIRST))
        .accepted()
        .when(claim(0))
        .accepted()
        .when(claim(1))
        .then_refused(CredentialError::from(RotationError::NotDue))
        .after(CLAIM_SECONDS - 1)
        .when(claim(0))
        .then_refused(CredentialError::from(RotationError::NotDue))
        .after(CLAIM_SECONDS)
        .when(claim(1))
        .then([claimed(2, 1)]);
}

#[test]
fn an_open_order_stands_in_the_way_of_any_other_secret_but_its_own() {
    let open = || given().when(place(FIRST)).accepted();
    let refused = CredentialError::from(RotationError::Open(FIRST));
    open().when(place(SECOND)).then_refused(refused.clone());
    let stage = |id| RotationCommand::Stage { staged: Box::new(staged(id)), installed: Some(Installer::Operator) };
    let stage = |id| Command::Credential(CredentialCommand::Rotate(stage(id)));
    open().when(stage(SECOND)).then_refused(refused.clone());
    let replaced = CredentialReplaced { secret_version: 2, fingerprint: "1:new".into() };
    open().when(Command::Credential(CredentialCommand::Replace(replaced))).then_refused(refused);
    // An operator who brings the secret himself, for this order.
    let entered = credential(open().when(stage(FIRST)).accepted());
    assert!(entered.provider_side.order.is_none() && entered.open_rotation().is_some());
}

#[test]
fn an_order_that_is_given_up_makes_room() {
    let dropped = |at| order(OrderCommand::Drop { rotation: at, cause: EndCause::Asked });
    given().when(dropped(FIRST)).then_refused(CredentialError::from(RotationError::NotFound));
    let given = given()
        .when(place(FIRST))
        .accepted()
        .after(5)
        .when(dropped(FIRST))
        .then([Event::RotationOrderDropped(RotationOrderDropped { rotation: FIRST, cause: EndCause::Asked })])
        .when(place(SECOND))
        .accepted();
    assert_eq!(credential(given).provider_side.dropped_at, Some(later(5)));
}

#[test]
fn a_key_at_the_provider_is_remembered_until_it_is_gone_there() {
    let retire = || order(OrderCommand::Retire(ProviderKeyRetired { secret_version: 2, key: "svc_1".into() }));
    let given = given()
        .when(order(OrderCommand::Note(noted())))
        .then([Event::ProviderKeyNoted(noted())])
        .when(order(OrderCommand::Note(noted())))
        .then_nothing()
        .when(retire())
        .then([Event::ProviderKeyRetired(ProviderKeyRetired { secret_version: 2, key: "svc_1".into() })])
        .when(retire())
        .then_nothing();
    assert!(credential(given).provider_side.keys.is_empty());
}
