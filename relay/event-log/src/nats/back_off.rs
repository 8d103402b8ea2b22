//! The waits between attempts to connect.

use std::time::Duration;

use super::ConnectError;

/// The longest wait before the first attempt; each further one may be twice as long ...
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
/// ... up to this.
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// The wait before an attempt, the first of which has number 1. Half of it is random, so that nodes that lost a server together do not
/// come back together.
pub(super) fn back_off() -> Result<impl Fn(usize) -> Duration + Send + Sync + 'static, ConnectError> {
    // Randomness that is there once is there for ever.
    random_share().map_err(ConnectError::Randomness)?;
    Ok(|attempt| wait(attempt, random_share().unwrap_or(1.0)))
}

fn wait(attempt: usize, share: f64) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let longest = BACK_OFF_MIN.saturating_mul(1 << doublings).min(BACK_OFF_MAX);
    longest.mul_f64(0.5 + share / 2.0)
}

fn random_share() -> Result<f64, getrandom::Error> {
    Ok(f64::from(getrandom::u32()?) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn waits_grow_to_a_bound() {
        assert_eq!(wait(1, 1.0), BACK_OFF_MIN);
        assert_eq!(wait(1, 0.0), BACK_OFF_MIN / 2);
        assert_eq!(wait(3, 1.0), BACK_OFF_MIN * 4);
        assert_eq!(wait(usize::MAX, 1.0), BACK_OFF_MAX);
        assert_eq!(wait(usize::MAX, 0.0), BACK_OFF_MAX / 2);
        let random = back_off().unwrap();
        assert!((1..100).map(|_| random(9)).any(|wait| wait != random(9)));
    }
}
