//! When the secret of an upstream is due for the next one.

use schemas::credential::Credential;
use schemas::upstream::{RiskClass, Upstream};
use schemas::{Digest, TenantId, Timestamp, name};

use super::ScheduleError;

/// From the promotion to the end of the old secret, where nothing is said: 48 hours.
pub(crate) const GRACE_SECONDS_DEFAULT: u64 = 48 * 3600;
/// The most of it in which the old secret is the fall-back, where nothing is said.
const WINDOW_SECONDS_DEFAULT: u64 = 24 * 3600;
const DAY_SECONDS: u64 = 86_400;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// 1970-01-01 was a Thursday.
const EPOCH_DAY: u64 = 3;

/// The part of a grace in which the old secret is the fall-back, where nothing is said: half, and a day at most.
pub(crate) fn window_default(grace_seconds: u64) -> u64 {
    (grace_seconds / 2).clamp(1, WINDOW_SECONDS_DEFAULT)
}

/// How old the secrets of some upstreams may become, and how they are rotated.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    pub(crate) name: String,
    pub(super) tenant: TenantId,
    pub(super) upstreams: Option<Vec<String>>,
    pub(super) pool: Option<String>,
    pub(super) provider: Option<String>,
    pub(super) risk: Option<RiskClass>,
    pub(crate) every_seconds: u64,
    pub(super) jitter_seconds: u64,
    pub(super) may_begin: Option<Window>,
    pub(crate) grace_seconds: u64,
    pub(crate) window_seconds: u64,
    pub(crate) unused_seconds: Option<u64>,
}

/// A time of day, in seconds of UTC, and the days on which it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    from: u64,
    /// At or below `from` where it goes past midnight.
    to: u64,
    days: [bool; 7],
}

impl Schedule {
    /// What a risk class means by itself.
    pub(super) fn preset(risk: RiskClass) -> Self {
        let every_seconds = risk.interval_seconds();
        Self {
            name: "risk".to_owned(),
            tenant: TenantId::default_tenant(),
            upstreams: None,
            pool: None,
            provider: None,
            risk: Some(risk),
            every_seconds,
            jitter_seconds: every_seconds / 20,
            may_begin: None,
            grace_seconds: GRACE_SECONDS_DEFAULT,
            window_seconds: window_default(GRACE_SECONDS_DEFAULT),
            unused_seconds: None,
        }
    }

    pub(super) fn is_for(&self, risk: RiskClass) -> bool {
        self.risk == Some(risk)
    }

    pub(super) fn fits(&self, upstream: &Upstream, pool: Option<&str>, provider: Option<&str>) -> bool {
        let of_name = |patterns: &Vec<String>| patterns.iter().any(|pattern| name::matches(pattern, &upstream.details.name));
        self.tenant == upstream.tenant
            && self.upstreams.as_ref().is_none_or(of_name)
            && self.pool.as_deref().is_none_or(|wanted| pool == Some(wanted))
            && self.provider.as_deref().is_none_or(|wanted| provider == Some(wanted))
            && self.risk.is_none_or(|risk| upstream.risk() == Some(risk))
    }

    /// When the secret in use has become as old as it may.
    pub(crate) fn due_at(&self, credential: &Credential) -> Timestamp {
        credential.changed_at.plus_seconds(self.every_seconds)
    }

    /// Whether the next secret is to be ordered now: a while before the time, a different one for each secret, so that not all are rotated at once.
    pub(crate) fn is_time(&self, credential: &Credential, now: Timestamp) -> bool {
        let id = Digest::blake3(format!("{} {}", credential.id, credential.secret_version).as_bytes());
        let drawn = id.as_bytes().iter().take(8).fold(0_u64, |drawn, byte| (drawn << 8) | u64::from(*byte));
        let early = drawn.checked_rem(self.jitter_seconds).unwrap_or(0);
        let at = credential.changed_at.plus_seconds(self.every_seconds - early);
        at <= now && self.may_begin.is_none_or(|window| window.holds(now))
    }
}

impl Window {
    pub(super) fn parse(between: Option<&str>, days: Option<&[String]>) -> Result<Option<Self>, ScheduleError> {
        if between.is_none() && days.is_none() {
            return Ok(None);
        }
        let (from, to) = match between {
            Some(text) => {
                let (from, to) = text.split_once('-').ok_or(ScheduleError::Between)?;
                (time_of_day(from).ok_or(ScheduleError::Between)?, time_of_day(to).ok_or(ScheduleError::Between)?)
            }
            None => (0, DAY_SECONDS),
        };
        let mut meant = [days.is_none(); 7];
        for day in days.into_iter().flatten() {
            let place = DAYS.iter().position(|name| name == day).ok_or(ScheduleError::Days)?;
            meant[place] = true;
        }
        if !meant.contains(&true) {
            return Err(ScheduleError::Days);
        }
        Ok(Some(Self { from, to, days: meant }))
    }

    fn holds(&self, now: Timestamp) -> bool {
        let (day, time) = (now.as_seconds() / DAY_SECONDS, now.as_seconds() % DAY_SECONDS);
        let is_day = |day: u64| usize::try_from((day + EPOCH_DAY) % 7).is_ok_and(|place| self.days[place]);
        if self.from < self.to {
            return is_day(day) && (self.from..self.to).contains(&time);
        }
        (is_day(day) && time >= self.from) || (day > 0 && is_day(day - 1) && time < self.to)
    }
}

fn time_of_day(text: &str) -> Option<u64> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let part = |text: &str, max: u64| text.parse::<u64>().ok().filter(|value| text.len() == 2 && *value <= max);
    let seconds = part(hours, 24)? * 3600 + part(minutes, 59)? * 60;
    (seconds <= DAY_SECONDS).then_some(seconds)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test says where")]

    use super::*;

    /// 2026-01-05, a Monday, at this hour.
    fn monday(hour: u64) -> Timestamp {
        Timestamp::from_micros((1_767_571_200 + hour * 3600) * 1_000_000)
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        let days = ["mon".to_owned()];
        let night = Window::parse(Some("22:00-06:00"), Some(&days)).unwrap().unwrap();
        for (hour, holds) in [(5, false), (21, false), (22, true), (29, true), (30, false), (46, false)] {
            assert_eq!(night.holds(monday(hour)), holds, "hour {hour}");
        }
        let any = Window::parse(Some("09:00-17:30"), None).unwrap().unwrap();
        assert!(any.holds(monday(9)) && any.holds(monday(24 + 17)) && !any.holds(monday(18)));
        assert!(Window::parse(None, None).unwrap().is_none());
        for wrong in ["9-17", "09:00", "25:00-26:00", "09:60-10:00", "09:00-17:00-18:00"] {
            assert!(Window::parse(Some(wrong), None).is_err(), "{wrong}");
        }
        assert!(Window::parse(None, Some(&["monday".to_owned()])).is_err());
        assert!(Window::parse(None, Some(&[])).is_err());
    }
}
