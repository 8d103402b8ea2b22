use proptest::prelude::*;

use super::*;
use crate::aggregate::{self, Aggregate, Command, Context};
use crate::cluster::{ClusterCommand, ClusterFounded, FORMAT_LEVEL};
use crate::id::{ClusterId, PublicKey};
use crate::rules::{self, Given, NOW};
use crate::stream::Stream;
use crate::{Actor, Rejection};

fn key(number: u8) -> Digest {
    Digest::from_bytes([number; 32])
}

fn founded() -> Event {
    Event::ClusterFounded(ClusterFounded {
        cluster_id: ClusterId::from_bytes([1; 16]),
        format_level: FORMAT_LEVEL,
        cluster_public_key: PublicKey::from_bytes([2; 32]),
        root_key_commitment: key(1),
        owner_token_hash: key(9),
    })
}

fn given(events: impl IntoIterator<Item = Event>) -> Given {
    rules::given(Stream::CLUSTER, [founded()].into_iter().chain(events))
}

fn command(command: RootKeyCommand) -> Command {
    Command::Cluster(ClusterCommand::RootKey(command))
}

fn announce(number: u8) -> Command {
    command(RootKeyCommand::Announce { commitment: key(number) })
}

fn change(from: u8, to: u8) -> Command {
    command(RootKeyCommand::Change { previous: key(from), commitment: key(to) })
}

fn destroy(number: u8) -> Command {
    command(RootKeyCommand::Destroy { commitment: key(number), data_keys: 7 })
}

fn withdraw(number: u8) -> Command {
    command(RootKeyCommand::Withdraw { commitment: key(number) })
}

fn back_up(number: u8) -> Command {
    command(RootKeyCommand::BackUp { commitment: key(number) })
}

fn announced(number: u8) -> Event {
    Event::RootKeyAnnounced(RootKeyAnnounced { commitment: key(number) })
}

fn changed(from: u8, to: u8) -> Event {
    Event::RootKeyChanged(RootKeyChanged { commitment: key(to), previous: key(from) })
}

fn destroyed(number: u8) -> Event {
    Event::RootKeyDestroyed(RootKeyDestroyed { commitment: key(number), data_keys: 7 })
}

fn root_keys(given: Given) -> RootKeys {
    let Aggregate::Cluster(cluster) = given.state() else { panic!("not a cluster") };
    cluster.root_keys
}

fn refused(error: RootKeyError) -> Rejection {
    crate::cluster::ClusterError::from(error).into()
}

#[test]
fn a_root_key_is_announced_then_active_then_decrypt_only_then_destroyed() {
    let given = given([]).when(announce(2)).then([announced(2)]).when(change(1, 2)).then([changed(1, 2)]);
    let given = given.when(announce(3)).then([announced(3)]).when(destroy(1)).then([destroyed(1)]);
    let keys = root_keys(given.when(change(2, 3)).then([changed(2, 3)]));
    assert_eq!((keys.active().commitment, keys.destroyed.as_slice()), (key(3), [key(1)].as_slice()));
    assert_eq!(keys.decrypt_only().map(|key| key.commitment).collect::<Vec<_>>(), [key(2)]);
}

#[test]
fn what_is_done_already_is_asked_for_again_without_effect() {
    let given = given([announced(2)]).when(announce(2)).then_nothing().when(announce(1)).then_nothing();
    let given = given.when(change(1, 2)).then([changed(1, 2)]).when(change(1, 2)).then_nothing();
    given.when(destroy(1)).then([destroyed(1)]).when(destroy(1)).then_nothing();
}

#[test]
fn a_change_from_another_root_key_than_the_one_in_use_is_refused() {
    let wrong = refused(RootKeyError::NotActive { given: key(5), active: key(1) });
    given([announced(2)]).when(change(5, 2)).then_refused(wrong);
}

#[test]
fn only_an_announced_root_key_becomes_the_active_one() {
    given([]).when(change(1, 2)).then_refused(refused(RootKeyError::NotAnnounced { commitment: key(2) }));
    given([]).when(change(1, 1)).then_refused(refused(RootKeyError::InUse { commitment: key(1) }));
}

#[test]
fn a_root_key_that_was_in_use_does_not_come_back() {
    let spent = || refused(RootKeyError::Spent { commitment: key(1) });
    let given = given([announced(2), changed(1, 2)]).when(announce(1)).then_refused(spent()).when(change(2, 1)).then_refused(spent());
    given.when(destroy(1)).then([destroyed(1)]).when(announce(1)).then_refused(spent()).when(change(2, 1)).then_refused(spent());
}

#[test]
fn one_root_key_is_announced_at_a_time_and_may_be_withdrawn() {
    let given = given([announced(2)]).when(announce(3)).then_refused(refused(RootKeyError::AnotherAnnounced { commitment: key(2) }));
    let given = given.when(withdraw(1)).then_refused(refused(RootKeyError::InUse { commitment: key(1) }));
    let withdrawn = Event::RootKeyWithdrawn(RootKeyWithdrawn { commitment: key(2) });
    given.when(withdraw(2)).then([withdrawn]).when(announce(3)).then([announced(3)]);
}

#[test]
fn what_is_in_use_or_only_announced_is_not_destroyed() {
    given([]).when(destroy(1)).then_refused(refused(RootKeyError::InUse { commitment: key(1) }));
    given([announced(2)]).when(destroy(2)).then_refused(refused(RootKeyError::OnlyAnnounced { commitment: key(2) }));
    given([]).when(destroy(8)).then_refused(refused(RootKeyError::Unknown { commitment: key(8) }));
}

#[test]
fn a_backup_is_remembered_with_its_time() {
    let backed_up = Event::RootKeyBackedUp(RootKeyBackedUp { commitment: key(1) });
    let given = given([]).when(back_up(2)).then_refused(refused(RootKeyError::Unknown { commitment: key(2) }));
    let keys = root_keys(given.after(60).when(back_up(1)).then([backed_up]));
    assert_eq!(keys.active().backed_up_at, Some(rules::later(60)));
}

#[test]
fn older_root_keys_are_bounded_in_number() {
    let events = (2..5).flat_map(|number| [announced(number), changed(number - 1, number)]);
    given(events).when(announce(5)).then_refused(refused(RootKeyError::TooMany { count: 3 }));
}

fn any_command() -> impl Strategy<Value = Command> {
    let number = || 1_u8..6;
    prop_oneof![
        number().prop_map(announce),
        number().prop_map(withdraw),
        (number(), number()).prop_map(|(from, to)| change(from, to)),
        number().prop_map(destroy),
        number().prop_map(back_up),
    ]
}

proptest! {
    #[test]
    fn there_is_one_active_root_key_whatever_is_asked_for(commands in proptest::collection::vec(any_command(), 0..40)) {
        let at = At { time: NOW, actor: Actor::Owner };
        let mut state = aggregate::apply(None, &Stream::CLUSTER, &founded(), &at).unwrap();
        for command in commands {
            let context = Context { now: NOW, actor: Actor::Owner };
            for event in aggregate::decide(Some(&state), &command, &context).unwrap_or_default() {
                state = aggregate::apply(Some(state), &Stream::CLUSTER, &event, &at).unwrap();
            }
            let Aggregate::Cluster(cluster) = &state else { panic!("not a cluster") };
            let active = cluster.root_keys.held.iter().filter(|key| key.state == RootKeyState::Active).count();
            prop_assert_eq!(active, 1);
            prop_assert!(cluster.root_keys.held.len() <= HELD_MAX);
            prop_assert!(cluster.root_keys.held.iter().all(|key| !cluster.root_keys.destroyed.contains(&key.commitment)));
        }
    }
}

#[test]
fn nobody_but_the_owner_changes_root_keys() {
    let state = given([]).state();
    let actor = Actor::Node(crate::WriterId::from_bytes([3; 16]));
    let refused = aggregate::decide(Some(&state), &announce(2), &Context { now: NOW, actor });
    assert_eq!(refused, Err(crate::cluster::ClusterError::NotOwner.into()));
}
