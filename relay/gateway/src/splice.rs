//! Edits of a body that leave all other bytes as they are.

use bytes::Bytes;

/// Some bytes in place of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Splice {
    pub(crate) at: usize,
    pub(crate) replaced: usize,
    pub(crate) text: String,
}

impl Splice {
    /// A member, with the comma behind it, in front of the first of an object that has one.
    pub(crate) fn first_member(object: &[u8], text: String) -> Option<Self> {
        let at = object.iter().position(|byte| *byte == b'{')? + 1;
        Some(Self { at, replaced: 0, text })
    }
}

/// The body with these edits, none of which overlap.
pub(crate) fn splice(body: &Bytes, mut splices: Vec<Splice>) -> Bytes {
    if splices.is_empty() {
        return body.clone();
    }
    splices.sort_by_key(|splice| splice.at);
    let mut spliced = Vec::with_capacity(body.len() + splices.iter().map(|splice| splice.text.len()).sum::<usize>());
    let mut from = 0;
    for Splice { at, replaced, text } in splices {
        spliced.extend_from_slice(&body[from..at]);
        spliced.extend_from_slice(text.as_bytes());
        from = at + replaced;
    }
    spliced.extend_from_slice(&body[from..]);
    spliced.into()
}
