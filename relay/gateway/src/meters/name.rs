//! The names of meters: `<scope>.<unit>.<window>`.

use std::fmt;
use std::str::FromStr;

use policy_host::contract::quota::Unit;
use schemas::Timestamp;
use thiserror::Error;

/// Whose use a meter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    Key,
    Tenant,
}

/// A stretch of the calendar in UTC, or all time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Window {
    Hour,
    Day,
    Month,
    Total,
}

/// A meter, such as `key.micro_usd.day`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MeterName {
    pub(crate) scope: Scope,
    pub(crate) unit: Unit,
    pub(crate) window: Window,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a meter is <key|tenant>.<requests|tokens|micro_usd>.<hour|day|month|total>")]
pub(crate) struct ParseMeterError;

impl Window {
    /// When the window that holds `now` ends, in milliseconds since the Unix epoch; none for one that never does.
    pub(crate) fn resets_ms(self, now: Timestamp) -> Option<i64> {
        let micros = match self {
            Self::Hour => (u64::from(now.hour()) + 1) * 3_600_000_000,
            Self::Day => (u64::from(now.day()) + 1) * 86_400_000_000,
            Self::Month => Timestamp::of_month(now.month() + 1).as_micros(),
            Self::Total => return None,
        };
        i64::try_from(micros / 1_000).ok()
    }
}

impl FromStr for MeterName {
    type Err = ParseMeterError;

    fn from_str(text: &str) -> Result<Self, ParseMeterError> {
        let mut parts = text.split('.');
        let (Some(scope), Some(unit), Some(window), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(ParseMeterError);
        };
        let scope = match scope {
            "key" => Scope::Key,
            "tenant" => Scope::Tenant,
            _ => return Err(ParseMeterError),
        };
        let unit = match unit {
            "requests" => Unit::Requests,
            "tokens" => Unit::Tokens,
            "micro_usd" => Unit::MicroUsd,
            _ => return Err(ParseMeterError),
        };
        let window = match window {
            "hour" => Window::Hour,
            "day" => Window::Day,
            "month" => Window::Month,
            "total" => Window::Total,
            _ => return Err(ParseMeterError),
        };
        Ok(Self { scope, unit, window })
    }
}

impl fmt::Display for MeterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = match self.scope {
            Scope::Key => "key",
            Scope::Tenant => "tenant",
        };
        let unit = match self.unit {
            Unit::Requests => "requests",
            Unit::Tokens => "tokens",
            Unit::MicroUsd => "micro_usd",
        };
        let window = match self.window {
            Window::Hour => "hour",
            Window::Day => "day",
            Window::Month => "month",
            Window::Total => "total",
        };
        write!(f, "{scope}.{unit}.{window}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for scope in ["key", "tenant"] {
            for unit in ["requests", "tokens", "micro_usd"] {
                for window in ["hour", "day", "month", "total"] {
                    let text = format!("{scope}.{unit}.{window}");
                    assert_eq!(text.parse::<MeterName>().unwrap().to_string(), text);
                }
            }
        }
        for wrong in ["", "key.tokens", "key.tokens.week", "pool.tokens.day", "key.usd.day", "key.tokens.day.more", "Key.tokens.day"] {
            assert_eq!(wrong.parse::<MeterName>(), Err(ParseMeterError), "{wrong}");
        }
    }

    #[test]
    fn windows_end_with_the_calendar() {
        let ends = |now: &str, window: Window| {
            let end = window.resets_ms(now.parse().unwrap())?;
            Some(Timestamp::from_micros(u64::try_from(end).unwrap() * 1000).to_string())
        };
        assert_eq!(ends("2028-02-28T22:59:59.9Z", Window::Hour).unwrap(), "2028-02-28T23:00:00Z");
        assert_eq!(ends("2028-02-28T22:59:59.9Z", Window::Day).unwrap(), "2028-02-29T00:00:00Z");
        assert_eq!(ends("2027-12-31T23:59:59.9Z", Window::Month).unwrap(), "2028-01-01T00:00:00Z");
        assert_eq!(ends("2027-12-31T23:59:59.9Z", Window::Total), None);
    }
}
