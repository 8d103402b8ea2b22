//! A secret in all the spellings in which it could come to light.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A secret, and the spellings in which it could come to light.
pub struct Canary {
    pub name: &'static str,
    spellings: Vec<(&'static str, Vec<u8>)>,
}

impl Canary {
    pub fn new(name: &'static str, secret: &[u8]) -> Self {
        let hex = |upper: bool| secret.iter().map(|b| if upper { format!("{b:02X}") } else { format!("{b:02x}") }).collect::<String>();
        let percent =
            |upper: bool| secret.iter().map(|b| if upper { format!("%{b:02X}") } else { format!("%{b:02x}") }).collect::<String>();
        let mut spellings = vec![
            ("raw", secret.to_vec()),
            ("hex", hex(false).into_bytes()),
            ("HEX", hex(true).into_bytes()),
            ("percent", percent(false).into_bytes()),
            ("PERCENT", percent(true).into_bytes()),
            ("UTF-16LE", secret.iter().flat_map(|b| [*b, 0]).collect()),
            ("UTF-16BE", secret.iter().flat_map(|b| [0, *b]).collect()),
            // As a list of numbers, the way a `Debug` of bytes prints it.
            ("numbers", format!("{secret:?}").trim_matches(['[', ']']).to_owned().into_bytes()),
        ];
        for shift in 0..3 {
            spellings.push(("base64", shifted(secret, shift, |bytes| STANDARD_NO_PAD.encode(bytes))));
            spellings.push(("base64url", shifted(secret, shift, |bytes| URL_SAFE_NO_PAD.encode(bytes))));
        }
        Self { name, spellings }
    }

    /// The spelling in which it stands in some bytes, if it does.
    pub fn found_in(&self, bytes: &[u8]) -> Option<&'static str> {
        let stands = |spelling: &[u8]| find(bytes, spelling);
        self.spellings.iter().find(|(_, spelling)| stands(spelling)).map(|(name, _)| *name)
    }
}

/// What base64 makes of a secret that begins `shift` bytes after a boundary: the characters that depend on the secret alone.
fn shifted(secret: &[u8], shift: usize, encode: impl Fn(&[u8]) -> String) -> Vec<u8> {
    let text = encode(&[&vec![0; shift], secret].concat());
    let begin = (shift * 8).div_ceil(6);
    let end = (shift + secret.len()) * 8 / 6;
    text.as_bytes()[begin..end].to_vec()
}

fn find(bytes: &[u8], what: &[u8]) -> bool {
    let first = what[0];
    let mut rest = bytes;
    while let Some(place) = rest.iter().position(|b| *b == first) {
        if rest[place..].starts_with(what) {
            return true;
        }
        rest = &rest[place + 1..];
    }
    false
}
