#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::str::FromStr;

use super::*;

/// One address a line, `public` or `private` before it.
const CORPUS: &str = include_str!("../tests/fixtures/addresses.txt");

#[test]
fn every_address_of_the_corpus_is_judged_right() {
    let mut rows = 0;
    for line in CORPUS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (kind, address) = line.split_once(' ').unwrap();
        assert_eq!(is_public(address.parse().unwrap()), kind == "public", "{line}");
        rows += 1;
    }
    assert!(rows > 80, "{rows}");
}

#[test]
fn literals_are_seen_in_every_spelling_that_skips_the_resolver() {
    for host in ["127.0.0.1", "[::1]", "::1", "[::ffff:10.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[fe80::1%25eth0]", "169.254.169.254"] {
        assert!(forbids_literal(host), "{host}");
    }
    for host in ["1.1.1.1", "[2606:4700:4700::1111]", "api.example.com", "localhost"] {
        assert!(!forbids_literal(host), "{host}");
    }
}

#[tokio::test]
async fn names_and_odd_spellings_of_private_addresses_are_refused_by_the_resolver() {
    for host in ["localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1"] {
        let name = Name::from_str(host).unwrap();
        assert!(Resolver::new(false).call(name).await.is_err(), "{host}");
    }
    let allowed = Resolver::new(true).call(Name::from_str("localhost").unwrap()).await.unwrap();
    assert!(allowed.count() > 0);
}

#[test]
fn of_a_clients_address_only_the_class_is_told() {
    for (class, addresses) in [
        (AddressClass::Loopback, &["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"][..]),
        (AddressClass::Private, &["10.1.2.3", "192.168.0.9", "::ffff:172.16.0.1", "100.64.0.1", "fd00::1", "fe80::1"]),
        (AddressClass::Public, &["1.1.1.1", "::ffff:8.8.8.8", "2606:4700::1111"]),
    ] {
        for address in addresses {
            assert_eq!(ClientAddress(address.parse().unwrap()).class(), class, "{address}");
        }
    }
}
