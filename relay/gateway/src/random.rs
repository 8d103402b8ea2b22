//! Numbers that need not be secret: request ids and weighted choices.
//!
//! A request that policies decided on draws from a seed of its own, so that what became of it can be worked out again.

use std::sync::atomic::{AtomicU64, Ordering};

use schemas::RequestId;

/// The odd constant of splitmix64; adding it walks through all 2^64 states.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A splitmix64 generator that many threads share without a lock.
pub(crate) struct Random {
    state: AtomicU64,
    /// Drawn once per process, the first half of every request id.
    prefix: [u8; 8],
}

impl Random {
    /// Seeded from the system.
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let mut prefix = [0; 8];
        getrandom::fill(&mut prefix)?;
        Ok(Self { state: AtomicU64::new(getrandom::u64()?), prefix })
    }

    pub(crate) fn next(&self) -> u64 {
        mix(self.state.fetch_add(STEP, Ordering::Relaxed))
    }

    /// A number below `bound`, which is at least 1. The bias is below `bound` / 2^64.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        scale(self.next(), bound)
    }

    /// Unique in this process, since splitmix64 repeats no output in its period, and among processes by the prefix.
    pub(crate) fn request_id(&self) -> RequestId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.prefix);
        id[8..].copy_from_slice(&self.next().to_be_bytes());
        RequestId::from_bytes(id)
    }
}

/// The same generator for one request alone: equal seeds draw equal numbers.
#[derive(Debug, Clone)]
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`, which is at least 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        scale(mix(self.0), bound)
    }
}

fn mix(state: u64) -> u64 {
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn scale(number: u64, bound: u64) -> u64 {
    ((u128::from(number) * u128::from(bound)) >> 64) as u64
}
