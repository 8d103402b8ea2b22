//! Cheap looks into a JSON text without parsing it, so that most events of a stream cost a scan and nothing more.
//!
//! A name in quotes cannot occur inside a JSON string, where its quotes would be escaped; so a hit that is followed by a colon is a
//! member of some object, at whatever depth.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::request_head::string_length;

/// A member's name, to be looked for.
pub(super) struct Name(LazyLock<Finder<'static>>);

impl Name {
    /// `quoted` is the name with its quotes.
    pub(super) const fn new(finder: fn() -> Finder<'static>) -> Self {
        Self(LazyLock::new(finder))
    }

    /// What follows each member of this name, from the first byte of its value.
    pub(super) fn values<'a>(&'a self, json: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.0.find_iter(json).filter_map(|at| {
            let after = json[at + self.0.needle().len()..].trim_ascii_start();
            after.strip_prefix(b":").map(<[u8]>::trim_ascii_start)
        })
    }

    /// Whether a member of this name has an object for a value.
    pub(super) fn has_object(&self, json: &[u8]) -> bool {
        self.values(json).any(|value| value.first() == Some(&b'{'))
    }

    /// Whether a member of this name has a text for a value.
    pub(super) fn has_text(&self, json: &[u8]) -> bool {
        self.values(json).any(|value| value.first() == Some(&b'"'))
    }

    /// The bytes of all texts that members of this name have for values, as they stand there, escapes included.
    pub(super) fn text_bytes(&self, json: &[u8]) -> u64 {
        self.values(json).filter_map(|value| value.strip_prefix(b"\"")).map(|text| string_length(text) as u64).sum()
    }
}

/// `name!(USAGE, "usage")`: a name to look for, compiled once.
macro_rules! name {
    ($ident:ident, $name:literal) => {
        static $ident: $crate::tap::json_scan::Name =
            $crate::tap::json_scan::Name::new(|| memchr::memmem::Finder::new(concat!("\"", $name, "\"")));
    };
}
pub(super) use name;
