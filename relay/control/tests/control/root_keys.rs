//! What a node starts with while the root key changes: the log's own stream says which root keys it needs, before anything is folded.

use std::path::PathBuf;
use std::time::Duration;

use control::founding::{self, FoundingError};
use control::{Commands, Request, Writer};
use event_log::{Appended, EventLog as _, Expect};
use schemas::cluster::ClusterCommand;
use schemas::record::{Frame, Header, Seen};
use schemas::root_key::{RootKeyChanged, RootKeyCommand};
use schemas::{Actor, Command, CommandId, Digest, Event, Sequence, Stream, Version};
use vault::{RootKey, files};

use crate::world::{Node, World, sources};

async fn execute(node: &Node, name: &str, command: RootKeyCommand) {
    let request = Request {
        stream: Stream::CLUSTER,
        command: Command::Cluster(ClusterCommand::RootKey(command)),
        actor: Actor::Owner,
        command_id: CommandId::of(&schemas::TenantId::default_tenant(), &Actor::Owner, name),
        request_digest: Digest::blake3(name.as_bytes()),
        if_version: None,
        deadline: Commands::deadline(),
    };
    node.commands.execute(request).await.unwrap();
}

async fn announce_and_change(node: &Node, old: &RootKey, new: &RootKey) {
    execute(node, "announce", RootKeyCommand::Announce { commitment: new.commitment() }).await;
    execute(node, "change", RootKeyCommand::Change { previous: old.commitment(), commitment: new.commitment() }).await;
}

/// A node that is given these root keys: the first from outside, the others in files.
fn given(data: &tempfile::TempDir, keys: &[&RootKey]) -> founding::Sources {
    let name = |(index, key): (usize, &&RootKey)| -> PathBuf {
        let path = data.path().join(format!("given.{index}"));
        files::write_secret(&path, format!("{}\n", key.text().as_str()).as_bytes()).unwrap();
        path
    };
    let root_key_files = keys[1..].iter().enumerate().map(name).collect();
    founding::Sources { root_key_files, ..sources(data.path(), Some(keys[0])) }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_change_a_node_needs_the_new_root_key_and_the_old_one_as_long_as_anything_lies_under_it() {
    let (world, old, new) = (World::default(), RootKey::generate().unwrap(), RootKey::generate().unwrap());
    let (node, _data) = world.node(&old).await;
    announce_and_change(&node, &old, &new).await;
    node.vault.hold_root_key(&new);
    node.vault.activate_root_key(new.version()).unwrap();

    let data = tempfile::tempdir().unwrap();
    let refused = world.found_or_join(&given(&data, &[&old])).await.err().unwrap();
    let FoundingError::OtherRootKey { founder, given: told, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!((founder.commitment, *told), (new.commitment(), old.commitment()));
    // The pepper itself lies under the old one still.
    assert!(world.found_or_join(&given(&data, &[&new])).await.is_err());
    for keys in [[&old, &new], [&new, &old]] {
        let joined = world.found_or_join(&given(&data, &keys)).await.unwrap();
        assert_eq!(joined.vault.root_key_version(), new.version());
        assert_eq!(joined.vault.fingerprint(b"x"), node.vault.fingerprint(b"x"));
    }

    // The pepper alone is re-wrapped, as it may be when a re-wrap was cut short.
    let (part, _) = node.vault.rewrap(None, 1).unwrap();
    assert_eq!(part.rewrapped, 1);
    let refused = world.found_or_join(&given(&data, &[&new])).await.err().unwrap();
    assert!(
        matches!(&refused, FoundingError::OlderRootKeyMissing { missing, data_keys: 1.. } if *missing == old.commitment()),
        "{refused:?}"
    );
    while node.vault.rewrap(None, 1000).unwrap().0.rewrapped > 0 {}
    let joined = world.found_or_join(&given(&data, &[&new])).await.unwrap();
    assert!(joined.vault.cluster_key(&joined.cluster.id).is_ok());

    // Destroyed, it is needed by nobody and taken from nobody.
    execute(&node, "destroy", RootKeyCommand::Destroy { commitment: old.commitment(), data_keys: 3 }).await;
    let joined = world.found_or_join(&given(&data, &[&new, &old])).await.unwrap();
    assert!(!joined.vault.holds_root_key(old.version()));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_no_writer_of_the_cluster_signed_is_not_believed_at_start() {
    let (world, old, forged) = (World::default(), RootKey::generate().unwrap(), RootKey::generate().unwrap());
    let (node, _data) = world.node(&old).await;
    execute(&node, "announce", RootKeyCommand::Announce { commitment: forged.commitment() }).await;
    let stored = world.log.read_subject(&Stream::CLUSTER.subject(), Sequence(1), 10).await.unwrap();
    let last = stored.last().unwrap();
    let header = Frame::parse(&last.bytes).unwrap().header().unwrap();
    let stranger = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let writer = Writer::new(&[7; 32]).id();
    let cluster = world.log.identity().await.unwrap().unwrap();
    let header = Header { writer, version: Version(header.version.0 + 1), seen: Seen::nothing(), ..header };
    let change = Event::RootKeyChanged(RootKeyChanged { commitment: forged.commitment(), previous: old.commitment() });
    let bytes = schemas::record::encode(cluster, &header, &[change], &stranger).unwrap();
    let expect = Expect { subject: last.sequence, log: None };
    let appended = world.log.append(&Stream::CLUSTER.subject(), expect, bytes.into()).await.unwrap();
    assert!(matches!(appended, Appended::Appended(_)), "{appended:?}");

    let data = tempfile::tempdir().unwrap();
    let joined = world.found_or_join(&given(&data, &[&old])).await.unwrap();
    assert_eq!(joined.cluster.root_keys.active().commitment, old.commitment());
    assert!(node.models.wait_for(world.log.true_head().await, Duration::from_secs(5)).await);
    // As the fold has it.
    let Some(schemas::Aggregate::Cluster(folded)) = node.models.load(&Stream::CLUSTER).unwrap().0 else { panic!("no cluster") };
    assert_eq!(folded, joined.cluster);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_holds_no_root_key_or_that_others_may_read_is_refused_and_one_that_is_not_there_is_not() {
    use std::os::unix::fs::PermissionsExt as _;
    let (world, old) = (World::default(), RootKey::generate().unwrap());
    let (node, _data) = world.node(&old).await;
    let data = tempfile::tempdir().unwrap();
    let further = data.path().join("further.key");
    let with_further = || founding::Sources { root_key_files: vec![further.clone()], ..sources(data.path(), Some(&old)) };
    assert!(world.found_or_join(&with_further()).await.is_ok());
    files::write_secret(&further, b"no key\n").unwrap();
    assert!(matches!(world.found_or_join(&with_further()).await, Err(FoundingError::RootKey(_))));
    files::write_secret(&further, format!("{}\n", RootKey::generate().unwrap().text().as_str()).as_bytes()).unwrap();
    assert!(world.found_or_join(&with_further()).await.is_ok());
    std::fs::set_permissions(&further, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(world.found_or_join(&with_further()).await, Err(FoundingError::ReadSecret(_))));
    node.stop().await;
}
