//! What is asked of attributes and tags again and again.

use crate::{Attribute, Subject};

impl Subject {
    /// Whether the key has the tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }
}

impl Attribute {
    /// The value of the attribute of this name in a `more`.
    pub fn find<'a>(more: &'a [Self], name: &str) -> Option<&'a str> {
        more.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.value.as_str())
    }
}
