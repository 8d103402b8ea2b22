//! Which keys are in a canary's share.

use schemas::binding::Mode;
use schemas::{BindingId, Digest, KeyId};

/// How much of what a binding's policy says counts for one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The present policy is enforced.
    Enforced,
    /// The same, as the key is within the canary's share.
    Canary,
    /// What was enforced before the canary, if anything was.
    Previous,
    Shadow,
    Off,
}

/// What a binding of this mode does to requests of the key.
///
/// The key is hashed, not the request, so that a key does not flip between versions; with the binding, so that not the same keys are first
/// in every canary. Whoever is in a share is in every larger one.
pub fn part(mode: Mode, binding: BindingId, key: KeyId) -> Part {
    match mode {
        Mode::Enforce => Part::Enforced,
        Mode::Canary(percent) if bucket(binding, key) < u64::from(percent) => Part::Canary,
        Mode::Canary(_) => Part::Previous,
        Mode::Shadow => Part::Shadow,
        Mode::Off => Part::Off,
    }
}

/// 0 to 99.
fn bucket(binding: BindingId, key: KeyId) -> u64 {
    const DOMAIN: &[u8; 16] = b"keyrelay canary1";
    let mut bytes = [0; 48];
    bytes[..16].copy_from_slice(DOMAIN);
    bytes[16..32].copy_from_slice(binding.as_bytes());
    bytes[32..].copy_from_slice(key.as_bytes());
    let digest = Digest::blake3(&bytes);
    let (first, _) = digest.as_bytes().split_first_chunk::<8>().expect("a digest has 32 bytes");
    u64::from_be_bytes(*first) % 100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> KeyId {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        KeyId::from_bytes(bytes)
    }

    const BINDING: BindingId = BindingId::from_bytes([1; 16]);

    #[test]
    fn a_wider_canary_keeps_those_who_were_in() {
        for n in 0..2_000 {
            let is_in = |percent| part(Mode::Canary(percent), BINDING, key(n)) == Part::Canary;
            let first = (1..=99).find(|percent| is_in(*percent)).unwrap_or(100);
            assert!((first..=99).all(is_in), "key {n}");
        }
    }

    #[test]
    fn a_share_is_about_as_large_as_it_says_and_another_binding_takes_others() {
        let other = BindingId::from_bytes([2; 16]);
        let is_in = |binding, n| part(Mode::Canary(20), binding, key(n)) == Part::Canary;
        let (mut shares, mut both) = ([0_u32; 2], 0_u32);
        for n in 0..10_000 {
            let ins = [is_in(BINDING, n), is_in(other, n)];
            ins.iter().zip(&mut shares).for_each(|(is_in, share)| *share += u32::from(*is_in));
            both += u32::from(ins == [true; 2]);
        }
        // Six standard deviations of a binomial with 10,000 draws are below 240.
        assert!(shares.iter().all(|share| share.abs_diff(2_000) < 240), "{shares:?}");
        assert!(both.abs_diff(400) < 240, "{both}");
    }

    #[test]
    fn the_choice_is_what_it_was_in_every_release() {
        let chosen: Vec<u32> = (0..40).filter(|n| part(Mode::Canary(10), BINDING, key(*n)) == Part::Canary).collect();
        assert_eq!(chosen, [0, 15, 18, 32, 39]);
    }
}
