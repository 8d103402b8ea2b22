//! How clusters begin, and who joins them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use control::founding::{self, Foundation, FoundingError};
use schemas::Sequence;
use tempfile::TempDir;
use vault::{Entry, KeyStore, MemoryKeyStore, RootKey, files};

use crate::shaky::ShakyLog;
use crate::world::{World, clock, sources};

const ROUNDS: usize = 60;
const NODES: usize = 3;

/// Starts nodes at once on an empty log and an empty key store.
async fn race(world: &World, roots: [Option<RootKey>; NODES]) -> Vec<(Result<Foundation, FoundingError>, TempDir)> {
    let start = Arc::new(tokio::sync::Barrier::new(NODES));
    let nodes = roots.map(|root| {
        let (world, start, data) = (world.clone(), start.clone(), tempfile::tempdir().unwrap());
        tokio::spawn(async move {
            start.wait().await;
            let sources = founding::Sources { owner_token: None, ..sources(data.path(), root.as_ref()) };
            (world.found_or_join(&sources).await, data)
        })
    });
    let mut ended = Vec::new();
    for node in nodes {
        ended.push(node.await.unwrap());
    }
    ended
}

/// The sealed secrets of the store: one pepper and one cluster key, if all went well.
fn sealed_in(store: &MemoryKeyStore) -> usize {
    let (sealed, wrapped) = (store.scan(Entry::Sealed, None, 100).unwrap(), store.scan(Entry::Wrapped, None, 100).unwrap());
    assert_eq!(sealed.len(), wrapped.len());
    sealed.len()
}

fn files_in(data: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_found_at_once_under_one_root_key_make_one_cluster() {
    for _ in 0..ROUNDS {
        let (world, root) = (World::default(), RootKey::generate().unwrap());
        let ended = race(&world, [Some(root.clone()), Some(root.clone()), Some(root)]).await;
        assert_eq!(world.log.true_head().await, Sequence(1));
        let nodes: Vec<_> = ended.iter().map(|(founded, data)| (founded.as_ref().unwrap(), data)).collect();
        assert_eq!(nodes.iter().filter(|(node, _)| node.is_new).count(), 1);
        let (first, _) = nodes[0];
        for (node, data) in &nodes {
            assert_eq!(node.cluster.id, first.cluster.id);
            assert_eq!(node.vault.fingerprint(b"x"), first.vault.fingerprint(b"x"));
            assert!(node.vault.cluster_key(&first.cluster.id).is_ok());
            let expected: &[&str] = if node.is_new { &["owner.token", "writer.key"] } else { &["writer.key"] };
            assert_eq!(files_in(data.path()), expected);
        }
        assert_eq!(sealed_in(&world.store), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_found_at_once_under_other_root_keys_are_refused_with_the_founder_named() {
    for round in 0..ROUNDS {
        let world = World::default();
        // Given from outside, or each drawn by the node itself.
        let roots = [(); NODES].map(|()| (round % 2 == 0).then(|| RootKey::generate().unwrap()));
        let ended = race(&world, roots).await;
        assert_eq!(world.log.true_head().await, Sequence(1));
        let founder = ended.iter().find_map(|(founded, _)| founded.as_ref().ok()).unwrap();
        assert!(founder.is_new);
        let (id, commitment) = (founder.cluster.id.to_string(), founder.cluster.root_keys.active().commitment.to_string());
        let refused: Vec<_> = ended.iter().filter_map(|(founded, data)| Some((founded.as_ref().err()?, data))).collect();
        assert_eq!(refused.len(), NODES - 1);
        for (error, data) in refused {
            assert!(matches!(error, FoundingError::OtherRootKey { .. } | FoundingError::RootKeyMissing { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(&id) && text.contains(&commitment) && text.contains("root.key"), "{text}");
            assert_eq!(files_in(data.path()), [""; 0]);
        }
        assert_eq!(sealed_in(&world.store), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_node_joins_with_the_root_key_and_only_with_it() {
    let (world, founder) = (World::default(), tempfile::tempdir().unwrap());
    let founded = world.found_or_join(&sources(founder.path(), None)).await.unwrap();
    let root_text = fs::read_to_string(founder.path().join("root.key")).unwrap();

    let copied = tempfile::tempdir().unwrap();
    files::write_secret(&copied.path().join("root.key"), root_text.as_bytes()).unwrap();
    let given = tempfile::tempdir().unwrap();
    let root = RootKey::parse(root_text.trim()).unwrap();
    for joining in [sources(copied.path(), None), sources(given.path(), Some(&root))] {
        let joined = world.found_or_join(&joining).await.unwrap();
        assert!(!joined.is_new);
        assert_eq!(joined.cluster.id, founded.cluster.id);
        assert_ne!(joined.writer.id(), founded.writer.id());
        assert_eq!(joined.vault.fingerprint(b"x"), founded.vault.fingerprint(b"x"));
    }

    let without = tempfile::tempdir().unwrap();
    let error = world.found_or_join(&sources(without.path(), None)).await.err().unwrap();
    assert!(matches!(error, FoundingError::RootKeyMissing { .. }), "{error:?}");
    let other = RootKey::generate().unwrap();
    let error = world.found_or_join(&sources(without.path(), Some(&other))).await.err().unwrap();
    assert!(matches!(error, FoundingError::OtherRootKey { given, .. } if given == other.commitment()), "{error:?}");
    assert_eq!(files_in(without.path()), [""; 0]);
    assert_eq!(world.log.true_head().await, Sequence(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_founded_cluster_does_not_begin_an_empty_key_store() {
    let (world, root, data) = (World::default(), RootKey::generate().unwrap(), tempfile::tempdir().unwrap());
    world.found_or_join(&sources(data.path(), Some(&root))).await.unwrap();
    let elsewhere = World { store: Arc::default(), ..world };
    let error = elsewhere.found_or_join(&sources(data.path(), Some(&root))).await.err().unwrap();
    assert!(matches!(error, FoundingError::Vault(vault::OpenError::Empty)), "{error:?}");
    assert_eq!(sealed_in(&elsewhere.store), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_log_a_node_starts_from_what_it_has_and_only_if_it_has_it() {
    let (world, root) = (World::default(), RootKey::generate().unwrap());
    let (node, data) = world.node(&root).await;
    let (id, position) = (node.id, node.models.position());
    node.stop().await;
    world.log.leave();

    let sources = sources(data.path(), Some(&root));
    let error = world.found_or_join(&sources).await.err().unwrap();
    assert!(error.is_unavailable(), "{error:?}");
    let (_projector, models) = world.open_models(data.path()).await;
    let local = founding::from_local(&sources, &models, world.store.clone()).await.unwrap();
    assert_eq!((local.writer.id(), local.is_new), (id, false));
    assert_eq!(models.position(), position);
    assert!(local.vault.cluster_key(&local.cluster.id).is_ok());

    let empty = tempfile::tempdir().unwrap();
    let (_projector, models) = world.open_models(empty.path()).await;
    let error = founding::from_local(&sources, &models, world.store.clone()).await.err().unwrap();
    assert!(matches!(error, FoundingError::NeverJoined), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_founding_that_never_reached_the_log_leaves_nothing_sealed_behind() {
    let (log, store, data) = (ShakyLog::default(), Arc::new(MemoryKeyStore::default()), tempfile::tempdir().unwrap());
    log.next_appends([crate::shaky::Turn::Away]);
    let error = founding::found_or_join(&sources(data.path(), None), &log, store.clone(), &clock()).await.err().unwrap();
    assert!(error.is_unavailable(), "{error:?}");
    assert_eq!(sealed_in(&store), 1, "the pepper alone");
    // The next start goes on with the files of the first.
    let founded = founding::found_or_join(&sources(data.path(), None), &log, store.clone(), &clock()).await.unwrap();
    assert!(founded.is_new);
    assert_eq!(sealed_in(&store), 2);
    assert_eq!(files_in(data.path()), ["root.key", "writer.key"]);
}
