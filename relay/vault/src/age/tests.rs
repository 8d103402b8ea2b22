#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use super::*;

/// Written by rage, through pyrage 1.4, for the two pairs of keys below, which it made; with a stanza of an unknown kind, as it adds them.
const WRITTEN_BY_RAGE: &str = "\
-----BEGIN AGE ENCRYPTED FILE-----\n\
YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSAvVmpCUnJwVVk2cnVUQkFV\n\
TVRscTRZcGtlcy94WGthdTV3aG1rd1crSzJJCmVTbzdJemUrZnQ2ZloxYkh3Vnlz\n\
OFBmRWF6Nm1nR2JMZzFKN0hxd3RXN28KLT4gWDI1NTE5IHlEeVM0bVh2N2tSTCth\n\
Mk80VitCNmJVcGNGTVJIQkJIOStkUHdHcjJRVWsKQmV5Sk0zS0pLdkx1UGNCYkVT\n\
QitZazg2aVNLQzkzZkltMmFIV0orK0xGUQotPiAvLWdyZWFzZQpUTTlPS2VxVmNs\n\
dGFZWWRkbWtqMkpXWjk3Q0pSQTlCRDM1dXF2K2RHTU1lRWFWc2UyUzZ6Tlh3cVNX\n\
RjQyT1A0CjFYUUFSdWRIWjFzZ1VNem1TcFMvWkdBTEhGTWFCYnVGMlNIQmlHYncK\n\
LS0tIFZtVGE5cGlROW5JWllsSnRXZEFPcHBsUXo2NHgyZlFEbEwrY04wbXJCamMK\n\
huW/7/JiUx5ASmEd0HIUJCbYcscJVGY31mGNpVsOqhRcKaVrNZUuGub3jpQWv2Fu\n\
N8N79fNpyPH2wevmKIflig==\n\
-----END AGE ENCRYPTED FILE-----\n";
const PAIRS: [(&str, &str); 2] = [
    (
        "AGE-SECRET-KEY-1YWEX5H9GR4S3FS0RGKVG7D8556JGD6CJ8HX58986FCCGHEJVY2XSLWUAVT",
        "age1w9k3rmc02y02v5559rvljzuqpxcwsfcmyph7028m3ummf9avt5lsgq49sx",
    ),
    (
        "AGE-SECRET-KEY-19VTCJFHKAXR83JKT75TM52GJ9TQJR5GAGLUT2C4RZX59A7JNECASWDTEVC",
        "age13pyj847wy98cququvcj44ql45um0xzvwdzrerkagp9s5jw4ej3hs5fgvhl",
    ),
];

fn pair(index: usize) -> (Identity, Recipient) {
    (PAIRS[index].0.parse().unwrap(), PAIRS[index].1.parse().unwrap())
}

#[test]
fn a_file_of_another_implementation_opens_with_each_of_its_identities() {
    for index in [0, 1] {
        let (identity, recipient) = pair(index);
        assert_eq!(identity.recipient(), recipient);
        assert_eq!(recipient.to_string(), PAIRS[index].1);
        let key = open(WRITTEN_BY_RAGE, &[identity]).unwrap();
        assert!(key.as_bytes().iter().copied().eq(1..=32), "another key");
    }
}

#[test]
fn a_key_opens_for_its_recipients_only() {
    let ((first, to_first), (second, to_second)) = (pair(0), pair(1));
    let key = FileKey::draw().unwrap();
    let to_both = seal(&key, &[to_first, to_second]).unwrap();
    for identity in [pair(0).0, pair(1).0] {
        assert_eq!(open(&to_both, &[identity]).unwrap().as_bytes(), key.as_bytes());
    }
    let to_one = seal(&key, &[to_first]).unwrap();
    assert_eq!(open(&to_one, &[second]).err(), Some(OpenAgeError::NoIdentity));
    assert_eq!(open(&to_one, &[pair(1).0, first]).unwrap().as_bytes(), key.as_bytes());
    assert_eq!(open(&to_one, &[]).err(), Some(OpenAgeError::NoIdentity));
    assert_ne!(to_one, seal(&key, &[to_first]).unwrap(), "two files are sealed alike");
}

#[test]
fn nothing_that_was_changed_opens() {
    let (_, recipient) = pair(0);
    let key = FileKey::draw().unwrap();
    let file = armor::read(&seal(&key, &[recipient]).unwrap()).unwrap();
    for bit in 0..file.len() * 8 {
        let mut wrong = file.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&armor::text(&wrong), &[pair(0).0]).is_err(), "bit {bit}");
    }
    for length in 0..file.len() {
        assert!(open(&armor::text(&file[..length]), &[pair(0).0]).is_err(), "length {length}");
    }
    let longer = [&file[..], b"x"].concat();
    assert!(open(&armor::text(&longer), &[pair(0).0]).is_err());
}

#[test]
fn a_stanza_as_long_as_lines_are_ends_with_an_empty_one() {
    let stanza = header::Stanza { arguments: vec!["x".to_owned()], body: vec![7; 48] };
    let text = header::text(&[stanza], &[1; FILE_KEY_LENGTH]);
    let (header, rest) = Header::read(text.as_bytes()).unwrap();
    assert!(rest.is_empty() && header.stanzas[0].body == [7; 48] && header.is_by(&[1; FILE_KEY_LENGTH]));
    assert!(!header.is_by(&[2; FILE_KEY_LENGTH]));
}

#[test]
fn a_text_that_is_no_key_is_told_from_the_other_kind() {
    let [(identity, recipient), _] = PAIRS;
    let mistyped = recipient.replacen('w', "q", 1);
    for text in ["", "age1", "ssh-ed25519 AAAA", &mistyped, &recipient.to_uppercase(), &recipient[..40], "age1pq1qqqq"] {
        assert_eq!(text.parse::<Recipient>().err(), Some(ParseKeyError::Recipient), "{text}");
    }
    assert_eq!(identity.parse::<Recipient>().err(), Some(ParseKeyError::IdentityForRecipient));
    assert_eq!(recipient.parse::<Identity>().err(), Some(ParseKeyError::RecipientForIdentity));
    assert_eq!(identity[..50].parse::<Identity>().err(), Some(ParseKeyError::Identity));
    let shown = format!("{:?}", identity.parse::<Identity>().unwrap());
    assert!(!shown.contains("SECRET"), "{shown}");
}

#[test]
fn nothing_is_sealed_to_nobody_nor_to_a_key_that_hides_nothing() {
    let key = FileKey::draw().unwrap();
    assert_eq!(seal(&key, &[]).err(), Some(SealAgeError::Recipients));
    assert_eq!(seal(&key, &vec![pair(0).1; KEYS_MAX + 1]).err(), Some(SealAgeError::Recipients));
    // The public key that makes every shared secret zero.
    let zero = bech32::encode::<bech32::Bech32>(bech32::Hrp::parse_unchecked("age"), &[0; 32]).unwrap();
    let zero: Recipient = zero.parse().unwrap();
    assert_eq!(seal(&key, &[zero]).err(), Some(SealAgeError::Weak(zero)));
}
