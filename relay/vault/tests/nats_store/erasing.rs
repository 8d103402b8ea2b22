//! What is erased is gone from every mirror and does not come back.

use super::*;

#[test]
fn what_one_node_erases_leaves_the_files_of_the_others() {
    let (cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let paths = ["one", "two"].map(|name| dir.path().join(name));
    let nodes = paths.each_ref().map(|path| Node::level(&cluster.url(), path, 1));
    let root = RootKey::generate().unwrap();
    let vaults = nodes.each_ref().map(|node| Vault::open(RootKey::parse(&root.text()).unwrap(), node.store.clone()).unwrap());
    assert_eq!(vaults[0].seal(&address(1), b"sk-gone", LASTING).unwrap(), Sealing::Sealed);
    assert_eq!(vaults[0].seal(&address(2), b"sk-kept", LASTING).unwrap(), Sealing::Sealed);
    let entries = [sealed(&nodes[0], 1).unwrap(), wrapped(&nodes[0], 1).unwrap()];
    for (path, entry) in paths.iter().flat_map(|path| entries.iter().map(move |entry| (path, entry))) {
        until("the entry is in the mirror", || holds(path, entry));
    }
    vaults[0].erase(&address(1)).unwrap();
    assert!(entries.iter().all(|entry| !holds(&paths[0], entry)), "at once on the node that erased");
    assert!(matches!(vaults[1].unseal(&address(1)), Err(UnsealError::Missing | UnsealError::Erased)));
    until("it is in no file of the other", || entries.iter().all(|entry| !holds(&paths[1], entry)));
    assert!(matches!(vaults[1].unseal(&address(1)), Err(UnsealError::Missing)));
    assert_eq!(**vaults[1].unseal(&address(2)).unwrap(), b"sk-kept"[..]);
    drop(vaults);
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn what_was_erased_while_a_node_was_away_is_erased_there_when_it_comes_back() {
    let (cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let paths = ["one", "two"].map(|name| dir.path().join(name));
    let [one, two] = paths.each_ref().map(|path| Node::level(&cluster.url(), path, 1));
    let content: Vec<u8> = (0..=255).collect();
    put(&one, 1, &content);
    until("it is in the mirror", || holds(&paths[1], &content));
    two.stop();
    one.store.delete_sealed(&slot(1), &content).unwrap();
    let two = Node::level(&cluster.url(), &paths[1], 1);
    assert_eq!(sealed(&two, 1), None);
    until("it is in no file", || !holds(&paths[1], &content));
    assert_eq!(sealed(&one, 1), None);
    assert_eq!(two.store.mirrored().put_back, 0);
    one.stop();
    two.stop();
}

#[test]
fn an_address_that_was_erased_can_be_used_again() {
    let (cluster, dir) = (Cluster::start(1, Sync::Default).unwrap(), tempdir().unwrap());
    let [one, two] = ["one", "two"].map(|name| Node::level(&cluster.url(), &dir.path().join(name), 1));
    for round in 0..3 {
        let content = [round; 40];
        put(&one, 1, &content);
        swap(&one, 1, None, Some(&content));
        assert_eq!((sealed(&two, 1).unwrap(), wrapped(&two, 1).unwrap()), (content.to_vec(), content.to_vec()));
        two.store.delete_sealed(&slot(1), &content).unwrap();
        swap(&two, 1, Some(&content), None);
        until("deleted on the other", || sealed(&one, 1).is_none());
    }
    assert_eq!((one.store.mirrored().put_back, one.store.mirrored().erased_again), (0, 0));
    one.stop();
    two.stop();
}
