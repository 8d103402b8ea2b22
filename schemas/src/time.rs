//! Points in time and durations, as the record, the log and the API spell them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::id::text_schema;

/// A point in time: microseconds since the Unix epoch. RFC 3339 in UTC in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// Why a text is not a time or a duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseTimeError {
    #[error("expected a time as RFC 3339 between 1970 and 9999, such as 2026-11-22T08:00:00Z")]
    Timestamp,
    #[error("expected a duration such as 30d, 24h, 15m or 2s")]
    Duration,
}

impl Timestamp {
    /// 9999-12-30T00:00:00Z, the last time that is accepted from outside. The calendar library ends later on that day.
    pub const MAX: Self = Self(253_402_128_000_000_000);

    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    pub const fn as_micros(&self) -> u64 {
        self.0
    }

    /// This time moved on by a number of seconds, at most to [`Timestamp::MAX`].
    pub fn plus_seconds(&self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000))).min(Self::MAX)
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn as_seconds(&self) -> u64 {
        self.0 / 1_000_000
    }

    /// The hour in UTC: hours since the Unix epoch.
    pub const fn hour(&self) -> u32 {
        (self.0 / 3_600_000_000) as u32
    }

    /// The day in UTC: days since the Unix epoch.
    pub const fn day(&self) -> u32 {
        (self.0 / 86_400_000_000) as u32
    }

    /// The month of the calendar in UTC: months since January 1970.
    pub const fn month(&self) -> u32 {
        // A year that begins in March ends in its leap day, so that the length of a month depends on its place alone.
        let days = self.day() as u64 + DAYS_TO_1970;
        let (era, day) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day_of_year + 2) / 153;
        ((era * 400 + year) * 12 + month + 2 - MONTHS_TO_1970) as u32
    }

    /// The first moment of a month that [`Timestamp::month`] gave.
    pub const fn of_month(month: u32) -> Self {
        // Months since March of the year 0.
        let months = month as u64 + MONTHS_TO_1970 - 2;
        let (year, month) = (months / 12, months % 12);
        let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5;
        Self((days - DAYS_TO_1970) * 86_400_000_000)
    }
}

/// Days of 400 years of the calendar.
const DAYS_OF_ERA: u64 = 146_097;
/// Days from the first of March of the year 0 to the Unix epoch.
const DAYS_TO_1970: u64 = 719_468;
/// Months from January of the year 0 to the Unix epoch.
const MONTHS_TO_1970: u64 = 1970 * 12;

/// The first moment of a day that [`Timestamp::day`] gave, as `YYYY-MM-DD`.
pub fn day_text(day: u32) -> String {
    Timestamp(u64::from(day) * 86_400_000_000).to_string()[..10].to_owned()
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A header may carry any number; what lies beyond the calendar is shown as its last day.
        let micros = i64::try_from(self.0.min(Self::MAX.0)).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_microsecond(micros) {
            Ok(time) => fmt::Display::fmt(&time, f),
            Err(_) => f.write_str("9999-12-30T00:00:00Z"),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimeError;

    fn from_str(text: &str) -> Result<Self, ParseTimeError> {
        let time: jiff::Timestamp = text.parse().map_err(|_| ParseTimeError::Timestamp)?;
        let micros = u64::try_from(time.as_microsecond()).map_err(|_| ParseTimeError::Timestamp)?;
        if micros > Self::MAX.0 { Err(ParseTimeError::Timestamp) } else { Ok(Self(micros)) }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = Cow::<'de, str>::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

text_schema!(Timestamp, r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z$");

/// A duration as users write it: a whole number and one unit of `d`, `h`, `m`, `s`. At most 36,500 days.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DurationText {
    seconds: u64,
}

impl DurationText {
    /// A hundred years: beyond it, `never` is meant.
    pub const SECONDS_MAX: u64 = 36_500 * 86_400;

    pub const fn from_seconds(seconds: u64) -> Self {
        Self { seconds }
    }

    pub const fn as_seconds(&self) -> u64 {
        self.seconds
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, seconds) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
            if self.seconds > 0 && self.seconds.is_multiple_of(seconds) {
                return write!(f, "{}{unit}", self.seconds / seconds);
            }
        }
        write!(f, "{}s", self.seconds)
    }
}

impl fmt::Debug for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DurationText {
    type Err = ParseTimeError;

    fn from_str(text: &str) -> Result<Self, ParseTimeError> {
        let unit = text.chars().last().ok_or(ParseTimeError::Duration)?;
        let unit_seconds = match unit {
            'd' => 86_400,
            'h' => 3_600,
            'm' => 60,
            's' => 1,
            _ => return Err(ParseTimeError::Duration),
        };
        let digits = &text[..text.len() - 1];
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseTimeError::Duration);
        }
        let seconds = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit_seconds)).ok_or(ParseTimeError::Duration)?;
        if seconds > Self::SECONDS_MAX { Err(ParseTimeError::Duration) } else { Ok(Self { seconds }) }
    }
}

impl Serialize for DurationText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

text_schema!(DurationText, "^[0-9]+[dhms]$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let time: Timestamp = "2026-11-22T10:00:00+02:00".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-22T08:00:00Z");
        assert_eq!(day_text(time.day()), "2026-11-22");
        assert_eq!("1969-12-31T23:59:59Z".parse::<Timestamp>(), Err(ParseTimeError::Timestamp));
        assert_eq!(Timestamp::from_micros(u64::MAX).to_string(), Timestamp::MAX.to_string());
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-30T00:00:00Z");
        assert_eq!(Timestamp::MAX.to_string().parse(), Ok(Timestamp::MAX));
        assert_eq!("9999-12-30T00:00:01Z".parse::<Timestamp>(), Err(ParseTimeError::Timestamp));
        assert_eq!(time.plus_seconds(u64::MAX), Timestamp::MAX);
    }

    #[test]
    fn months_are_those_of_the_calendar() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!((time("1970-01-31T23:59:59Z").month(), time("1970-02-01T00:00:00Z").month()), (0, 1));
        for year in [1970, 1999, 2000, 2026, 2028, 2100, 2400, 9998] {
            for month in 1..=12 {
                let first = time(&format!("{year}-{month:02}-01T00:00:00Z"));
                let number = (year - 1970) * 12 + month - 1;
                assert_eq!((first.month(), Timestamp::of_month(number)), (number, first), "{first}");
                if number > 0 {
                    assert_eq!(Timestamp::from_micros(first.as_micros() - 1).month(), number - 1, "{first}");
                }
            }
        }
        assert_eq!((time("2026-11-22T10:30:00Z").hour(), time("1970-01-02T01:00:00Z").hour()), (498_706, 25));
    }

    #[test]
    fn durations_have_one_unit() {
        for (text, seconds) in [("30d", 2_592_000), ("24h", 86_400), ("15m", 900), ("2s", 2), ("0s", 0)] {
            assert_eq!(text.parse::<DurationText>().unwrap().as_seconds(), seconds);
        }
        for wrong in ["", "d", "1", "-1d", "1.5h", "1w", "1d2h", " 1d", "99999999999999999999d", "36501d", "1é"] {
            assert_eq!(wrong.parse::<DurationText>(), Err(ParseTimeError::Duration), "{wrong}");
        }
        assert_eq!(DurationText::from_seconds(86_400).to_string(), "1d");
    }
}
