//! What is told.

use schemas::{TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most characters of a notice's text. The shortest bound of a form, WeCom's, is 2048 bytes; a character has 4 at the most.
pub(super) const TEXT_LENGTH_MAX: usize = 500;
/// Hexadecimal digits of an id, beside its prefix.
const ID_DIGITS: usize = 32;

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Somebody tries a channel.
    Test,
    /// The provider of an upstream's account wants a login.
    LoginRequired,
    /// The token of an upstream's account ends within a day, and nothing renews it.
    CredentialExpiring,
    /// The provider of an upstream rejects its credential in test calls.
    CredentialRejected,
    /// A rotation of an upstream's credential does not go on, or was given up.
    RotationStuck,
    /// What was told before is over.
    Recovered,
}

impl Kind {
    /// As it is spelt everywhere: `login_required`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::LoginRequired => "login_required",
            Self::CredentialExpiring => "credential_expiring",
            Self::CredentialRejected => "credential_rejected",
            Self::RotationStuck => "rotation_stuck",
            Self::Recovered => "recovered",
        }
    }
}

/// One thing to tell, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The same for the same kind, subject and time of the cause, so that a receiver can drop what it has seen.
    pub id: String,
    pub kind: Kind,
    /// Whose thing it is about; none where it is about the cluster.
    pub tenant: Option<TenantId>,
    /// The id of what it is about.
    pub subject: String,
    /// One line for people.
    pub text: String,
    /// When its cause came to be.
    pub at: Timestamp,
}

impl Notice {
    /// A notice whose text is one line without control characters, cut at 500 characters.
    pub fn new(kind: Kind, tenant: Option<TenantId>, subject: String, text: &str, at: Timestamp) -> Self {
        let of = tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        let digest = blake3::hash(format!("{}\n{of}\n{subject}\n{}", kind.name(), at.as_micros()).as_bytes());
        let id = format!("ntc_{}", &digest.to_hex()[..ID_DIGITS]);
        Self { id, kind, tenant, subject, text: line(text), at }
    }
}

/// The text in one line. Directional marks go too: they make a text read as another.
fn line(text: &str) -> String {
    let is_hidden = |c: char| c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().take(TEXT_LENGTH_MAX).map(|c| if is_hidden(c) { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(kind: Kind, subject: &str, text: &str, second: u64) -> Notice {
        let at = Timestamp::from_micros(second * 1_000_000);
        Notice::new(kind, Some(TenantId::default_tenant()), subject.to_owned(), text, at)
    }

    #[test]
    fn an_id_is_the_same_for_the_same_cause_whatever_the_words() {
        let first = notice(Kind::LoginRequired, "crd_1", "one", 1);
        assert_eq!(first.id, notice(Kind::LoginRequired, "crd_1", "other words", 1).id);
        for other in [
            notice(Kind::Recovered, "crd_1", "one", 1),
            notice(Kind::LoginRequired, "crd_2", "one", 1),
            notice(Kind::LoginRequired, "crd_1", "one", 2),
        ] {
            assert_ne!(first.id, other.id);
        }
    }

    #[test]
    fn a_text_is_one_line_of_bounded_length() {
        assert_eq!(notice(Kind::Test, "", "a\r\nBcc: x\u{202e}y\0", 1).text, "a  Bcc: x y ");
        assert_eq!(notice(Kind::Test, "", &"語".repeat(9000), 1).text.chars().count(), TEXT_LENGTH_MAX);
    }
}
