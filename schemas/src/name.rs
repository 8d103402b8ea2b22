//! Names, tags, patterns: the small texts that users choose. They are not personal and stand in the log as they are.

use thiserror::Error;

/// The most characters of a name, an owner or a tag.
pub const LENGTH_MAX: usize = 128;
/// The most entries of a list in a command: tags, models, pools, endpoints.
pub const LIST_MAX: usize = 64;

/// Why a text or a list that a user chose is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    #[error("{field} is empty")]
    Empty { field: &'static str },
    #[error("{field} has more than {LENGTH_MAX} characters")]
    TooLong { field: &'static str },
    #[error("{field} holds a control character")]
    Control { field: &'static str },
    #[error("{field} begins or ends with white space")]
    Untrimmed { field: &'static str },
    #[error("{field} has more than {LIST_MAX} entries")]
    TooMany { field: &'static str },
    #[error("{field} names {entry:?} twice")]
    Twice { field: &'static str, entry: String },
}

/// Checks a name: 1 to 128 characters, no control characters, no white space at either end.
pub fn check(field: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { field });
    }
    if text.chars().count() > LENGTH_MAX {
        return Err(NameError::TooLong { field });
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::Control { field });
    }
    if text.trim() != text { Err(NameError::Untrimmed { field }) } else { Ok(()) }
}

/// Checks a list of names: each one as [`check`] does, at most 64, none twice.
pub fn check_list(field: &'static str, entries: &[String]) -> Result<(), NameError> {
    if entries.len() > LIST_MAX {
        return Err(NameError::TooMany { field });
    }
    for (index, entry) in entries.iter().enumerate() {
        check(field, entry)?;
        if entries[..index].contains(entry) {
            return Err(NameError::Twice { field, entry: entry.clone() });
        }
    }
    Ok(())
}

/// Whether a text matches a pattern in which `*` stands for any run of characters. Linear in the product of the lengths at worst.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && pattern[p] == text[t] {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            star = Some((star_p, star_t + 1));
            p = star_p + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_with_stars() {
        for (pattern, text, expected) in [
            ("gpt-*", "gpt-4o", true),
            ("gpt-*", "claude", false),
            ("*", "", true),
            ("*-mini", "gpt-4o-mini", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b", "a-b-c", false),
            ("gpt-4o", "gpt-4o-mini", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn names_are_short_and_clean() {
        assert!(check("name", "ci").is_ok());
        assert_eq!(check("name", ""), Err(NameError::Empty { field: "name" }));
        assert_eq!(check("name", "a\nb"), Err(NameError::Control { field: "name" }));
        assert_eq!(check("name", " a"), Err(NameError::Untrimmed { field: "name" }));
        assert_eq!(check("name", &"é".repeat(129)), Err(NameError::TooLong { field: "name" }));
        assert!(check_list("tags", &["a".into(), "a".into()]).is_err());
    }
}
