//! Personal texts and the keys of their subjects.

use super::*;

proptest! {
    #[test]
    fn personal_texts_are_sealed_and_unsealed(text in ".{0,200}") {
        let (vault, _) = open();
        let sealed = vault.seal_field(&key_stream(1), &text).unwrap();
        prop_assert_eq!(&*vault.unseal_field(&sealed).unwrap(), &text);
        prop_assert!(sealed.bytes.len() <= Sealed::BYTES_MAX);
    }
}

#[test]
fn a_personal_text_belongs_to_its_subject_and_ends_with_its_key() {
    let (vault, _) = open();
    let sealed = vault.seal_field(&key_stream(1), "for Ada").unwrap();
    let second = vault.seal_field(&key_stream(1), "for Ada").unwrap();
    assert_ne!(sealed, second);
    vault.seal_field(&key_stream(2), "for Bob").unwrap();
    let moved = Sealed { subject: key_stream(2), bytes: sealed.bytes.clone() };
    assert!(matches!(vault.unseal_field(&moved), Err(UnsealFieldError::Tampered)));
    for bit in 0..sealed.bytes.len() * 8 {
        let mut wrong = sealed.clone();
        wrong.bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(vault.unseal_field(&wrong), Err(UnsealFieldError::Tampered)), "bit {bit}");
    }
    for length in 0..sealed.bytes.len() {
        let cut = Sealed { bytes: sealed.bytes[..length].to_vec(), ..sealed.clone() };
        assert!(matches!(vault.unseal_field(&cut), Err(UnsealFieldError::Tampered)), "length {length}");
    }
    assert!(matches!(vault.seal_field(&key_stream(1), &"x".repeat(4097)), Err(SealFieldError::TooLong { bytes: 4097 })));

    for _ in 0..2 {
        vault.erase_subject(&key_stream(1)).unwrap();
        assert!([&sealed, &second].iter().all(|sealed| matches!(vault.unseal_field(sealed), Err(UnsealFieldError::Erased))));
    }
    // A later key of the subject does not bring it back.
    vault.seal_field(&key_stream(1), "new").unwrap();
    assert!(matches!(vault.unseal_field(&sealed), Err(UnsealFieldError::Tampered)));
}

#[test]
fn racing_first_uses_of_a_subject_share_one_key() {
    let (vault, _) = open();
    let barrier = Barrier::new(4);
    let sealed: Vec<Sealed> = thread::scope(|scope| {
        let seal = || {
            barrier.wait();
            vault.seal_field(&key_stream(1), "for Ada").unwrap()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(seal)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(sealed.iter().all(|sealed| *vault.unseal_field(sealed).unwrap() == "for Ada"));
}
