#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;

/// The leaves and roots of the reference test of Certificate Transparency.
const LEAVES: [&[u8]; 8] = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    b"\x50\x51\x52\x53\x54\x55\x56\x57",
    b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
];
const ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn leaf(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest([&[LEAF], bytes].concat()).into()
}

/// The definition of RFC 6962, section 2.1, word for word.
fn naive_root(leaves: &[[u8; 32]]) -> Digest {
    match leaves {
        [] => Digest::from_bytes(Sha256::digest([]).into()),
        [leaf] => Digest::from_bytes(*leaf),
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            parent(&naive_root(&leaves[..split]), &naive_root(&leaves[split..]))
        }
    }
}

#[test]
fn roots_are_those_of_the_reference_test() {
    let mut frontier = Frontier::default();
    assert_eq!(frontier.root().to_string(), ROOTS[0]);
    for (bytes, root) in LEAVES.into_iter().zip(&ROOTS[1..]) {
        frontier.push(leaf(bytes));
        assert_eq!(frontier.root().to_string(), *root);
    }
    assert_eq!(frontier.size(), 8);
}

#[test]
fn an_edge_that_does_not_fit_the_size_is_refused() {
    let mut frontier = Frontier::default();
    (0..7).for_each(|n| frontier.push([n; 32]));
    let bytes = postcard::to_allocvec(&frontier).unwrap();
    assert_eq!(postcard::from_bytes::<Frontier>(&bytes).unwrap(), frontier);
    let wrong = postcard::to_allocvec(&(8_u64, frontier.edge)).unwrap();
    assert!(postcard::from_bytes::<Frontier>(&wrong).is_err());
}

#[test]
fn void_leaves_bind_subject_and_bytes() {
    let expected = Sha256::digest([b"\0\0\0\x03a.b".as_slice(), &Sha256::digest(b"junk")].concat());
    assert_eq!(leaf_of_void("a.b", b"junk"), <[u8; 32]>::from(expected));
    assert_ne!(leaf_of_void("a", b"junk"), leaf_of_void("b", b"junk"));
}

proptest! {
    #[test]
    fn a_frontier_has_the_root_of_the_naive_tree(leaves in proptest::collection::vec(any::<[u8; 32]>(), 0..300)) {
        let mut frontier = Frontier::default();
        leaves.iter().for_each(|leaf| frontier.push(*leaf));
        prop_assert_eq!(frontier.size(), leaves.len() as u64);
        prop_assert_eq!(frontier.root(), naive_root(&leaves));
    }
}
