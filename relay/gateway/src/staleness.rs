//! How old what this node knows may be: level with the log it is served as it is, behind it with a header that says so, and beyond the bound not
//! at all, since a key may have been revoked in the meantime.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::headers::STALE_SECONDS;
use crate::refusal::Refusal;

/// From here on answers tell their age. Below it lies what a change of the log's leader takes, which is nobody's concern.
const TOLD_FROM: Duration = Duration::from_secs(10);

/// The age that an answer tells, in whole seconds; none while there is nothing to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Staleness(Option<u64>);

impl Staleness {
    /// Judges how long ago the read models were last known to be level with the log.
    pub(crate) fn judge(age: Duration, max: Duration) -> Result<Self, Refusal> {
        if age > max {
            return Err(Refusal::Stale);
        }
        Ok(Self((age >= TOLD_FROM).then_some(age.as_secs())))
    }

    pub(crate) fn write(self, headers: &mut HeaderMap) {
        if let Some(seconds) = self.0 {
            headers.insert(STALE_SECONDS, HeaderValue::from(seconds));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(900);

    #[test]
    fn age_is_told_from_ten_seconds_on_and_refused_beyond_the_bound() {
        let judge = |ms| Staleness::judge(Duration::from_millis(ms), MAX);
        assert_eq!(judge(0), Ok(Staleness(None)));
        assert_eq!(judge(9_999), Ok(Staleness(None)));
        assert_eq!(judge(10_000), Ok(Staleness(Some(10))));
        assert_eq!(judge(900_000), Ok(Staleness(Some(900))));
        assert_eq!(judge(900_001), Err(Refusal::Stale));
    }

    #[test]
    fn a_bound_below_the_telling_is_kept() {
        assert_eq!(Staleness::judge(Duration::from_secs(3), Duration::from_secs(2)), Err(Refusal::Stale));
    }

    #[test]
    fn the_header_is_there_only_where_there_is_an_age_to_tell() {
        let mut headers = HeaderMap::new();
        Staleness(None).write(&mut headers);
        assert!(headers.is_empty());
        Staleness(Some(42)).write(&mut headers);
        assert_eq!(headers["x-keyrelay-stale-seconds"], "42");
    }
}
