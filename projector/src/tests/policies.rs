//! The snapshot of policies and bindings: swapped when one changes, whole after a rebuild and an installed snapshot.

use std::path::Path;
use std::sync::Arc;

use schemas::binding::{BindingChanged, BindingCreated, BindingRemoved, BindingRolledBack, Bound, Mode, OnFault, Scope};
use schemas::policy::{PolicyClass, PolicyKind, PolicyUploaded};
use schemas::{BindingId, Digest, Event, Stream, TenantId, Version};

use super::models::{Node, config};
use super::start::{fold, open};
use super::world::{World, tenant};
use crate::{Policies, install_snapshot};

fn digest(policy: u8) -> Digest {
    Digest::from_bytes([policy; 32])
}

fn binding_stream(n: u8) -> Stream {
    Stream::binding(tenant(), BindingId::from_bytes([n; 16]))
}

fn bound(policy: u8, mode: Mode) -> Bound {
    Bound { policy: digest(policy), settings: "{}".into(), mode, on_fault: OnFault::Baseline }
}

fn changed(policy: u8, mode: Mode) -> Event {
    Event::BindingChanged(BindingChanged { bound: bound(policy, mode) })
}

fn upload(world: &mut World, tenant: TenantId, policy: u8) {
    let uploaded = PolicyUploaded {
        name: format!("policy {policy}"),
        digest: digest(policy),
        uploaded_digest: digest(policy),
        kind: PolicyKind::Route,
        class: PolicyClass::Fast,
        bytes: 1,
        manifest: "{}".into(),
    };
    world.append(&Stream::policy(tenant, &digest(policy)), &[Event::PolicyUploaded(uploaded)]);
}

fn bind(world: &mut World, n: u8, policy: u8) {
    let created = BindingCreated { kind: PolicyKind::Route, scope: Scope::Tenant, bound: bound(policy, Mode::Enforce) };
    world.append(&binding_stream(n), &[Event::BindingCreated(created)]);
}

/// Three policies, of which one was bound first and another later; one removed binding; one of another tenant's policies.
fn furnished() -> World {
    let mut world = World::founded();
    for policy in [9, 3, 5] {
        upload(&mut world, tenant(), policy);
    }
    upload(&mut world, "default-2".parse().unwrap(), 3);
    for n in [8, 2, 4] {
        bind(&mut world, n, 3);
    }
    world.append(&binding_stream(2), &[changed(5, Mode::Shadow)]);
    world.append(&binding_stream(4), &[Event::BindingRemoved(BindingRemoved {})]);
    world
}

/// What [`furnished`] comes to.
fn is_furnished(policies: &Policies) {
    let digests = |tenant: &TenantId| policies.policies(tenant).iter().map(|policy| policy.value.uploaded.digest).collect::<Vec<_>>();
    assert_eq!(digests(&tenant()), [digest(3), digest(5), digest(9)]);
    assert_eq!(digests(&"default-2".parse().unwrap()), [digest(3)]);
    assert_eq!(digests(&"other".parse().unwrap()), []);
    let bindings: Vec<_> = policies.bindings(&tenant()).iter().map(|binding| (binding.value.id, binding.version)).collect();
    assert_eq!(bindings, [(BindingId::from_bytes([2; 16]), Version(2)), (BindingId::from_bytes([8; 16]), Version(1))]);
    assert_eq!(policies.all_bindings().len(), 2);
    let binding = &policies.binding(&tenant(), BindingId::from_bytes([2; 16])).unwrap().value;
    assert_eq!((&binding.bound, &binding.previous), (&bound(5, Mode::Shadow), &Some(bound(3, Mode::Enforce))));
    assert!(policies.binding(&tenant(), BindingId::from_bytes([4; 16])).is_none(), "a removed binding is not there");
    assert_eq!(policies.policy(&tenant(), &digest(9)).unwrap().value.uploaded.name, "policy 9");
    assert!(policies.policy(&tenant(), &digest(4)).is_none());
}

#[tokio::test]
async fn policies_swap_when_a_policy_or_a_binding_changes_and_only_then() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), furnished());
    let node = Node::start(data.path(), &world).await;
    let before = node.models.policies();
    is_furnished(&before);
    assert!(before.as_of <= world.head());
    world.create_key(1);
    world.create_pool(1);
    world.add_upstream(1);
    node.catch_up(&world).await;
    assert!(Arc::ptr_eq(&before, &node.models.policies()), "neither a key nor a pool nor an upstream changes a policy");
    let routes = node.models.routes();

    world.append(&binding_stream(8), &[changed(5, Mode::Enforce)]);
    node.catch_up(&world).await;
    let now = node.models.policies();
    assert_eq!(now.as_of, world.head());
    let binding = now.binding(&tenant(), BindingId::from_bytes([8; 16])).unwrap();
    assert_eq!((binding.value.bound.policy, binding.version), (digest(5), Version(2)));
    assert!(Arc::ptr_eq(&routes, &node.models.routes()), "a binding changes no route");

    world.append(&binding_stream(8), &[Event::BindingRolledBack(BindingRolledBack {})]);
    upload(&mut world, tenant(), 1);
    node.catch_up(&world).await;
    let now = node.models.policies();
    assert_eq!(now.binding(&tenant(), BindingId::from_bytes([8; 16])).unwrap().value.bound.policy, digest(3));
    assert_eq!(now.policies(&tenant())[0].value.uploaded.digest, digest(1));
    node.stop().await;
}

#[tokio::test]
async fn policies_are_there_after_a_start_and_after_a_rebuild() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), furnished());
    fold(data.path(), &world).await;
    let (projector, models) = open(data.path(), &world).await.unwrap();
    is_furnished(&models.policies());
    drop((projector, models));

    let node = Node::start(data.path(), &world).await;
    node.projector.rebuild(crate::Verdicts::Judged, |_| {}).await.unwrap();
    is_furnished(&node.models.policies());
    world.append(&binding_stream(8), &[Event::BindingRemoved(BindingRemoved {})]);
    node.catch_up(&world).await;
    assert_eq!(node.models.policies().bindings(&tenant()).len(), 1, "the rebuilt model is followed");
    node.stop().await;
}

#[tokio::test]
async fn policies_are_there_in_an_installed_snapshot() {
    let (world, data, into) = (furnished(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from: &Path = &into.path().join("snapshot");
    {
        let taken_from = tempfile::tempdir().unwrap();
        fold(taken_from.path(), &world).await;
        let (projector, _models) = open(taken_from.path(), &world).await.unwrap();
        projector.snapshot(from, world.writer(), |statement| world.sign(statement)).await.unwrap();
    }
    let (cluster, key) = world.cluster();
    install_snapshot(&config(data.path()), from, cluster, key, &world.log().await).await.unwrap();
    let (_projector, models) = open(data.path(), &world).await.unwrap();
    is_furnished(&models.policies());
}
