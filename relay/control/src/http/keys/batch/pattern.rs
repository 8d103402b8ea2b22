//! Names of keys that are created together: `ci-{n}`, `ci-{n:04}`.

/// A text with one place for a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamePattern {
    before: String,
    /// The least digits; zeros fill up.
    digits: usize,
    after: String,
}

/// The most digits that a pattern may ask for.
const DIGITS_MAX: usize = 9;

impl NamePattern {
    /// None where `{n}` or `{n:04}` does not stand in the text exactly once.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (before, rest) = text.split_once('{')?;
        let (place, after) = rest.split_once('}')?;
        let digits = match place.strip_prefix('n')? {
            "" => 1,
            digits => digits.strip_prefix(":0")?.parse().ok().filter(|digits| (1..=DIGITS_MAX).contains(digits))?,
        };
        let is_single = !before.contains('}') && !after.contains(['{', '}']);
        is_single.then(|| Self { before: before.to_owned(), digits, after: after.to_owned() })
    }

    pub(super) fn name(&self, number: u64) -> String {
        let Self { before, digits, after } = self;
        format!("{before}{number:0digits$}{after}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_has_one_place_for_the_number() {
        let name = |pattern, number| NamePattern::parse(pattern).map(|pattern| pattern.name(number));
        assert_eq!(name("ci-{n}", 7).as_deref(), Some("ci-7"));
        assert_eq!(name("ci-{n:04}-eu", 7).as_deref(), Some("ci-0007-eu"));
        assert_eq!(name("{n:02}", 123).as_deref(), Some("123"));
        for wrong in ["ci", "ci-{n", "ci-n}", "{n}{n}", "{m}", "{n:4}", "{n:00}", "{n:010}", "{n:0x}", "}{n}", "{n}}"] {
            assert_eq!(NamePattern::parse(wrong), None, "{wrong}");
        }
    }
}
