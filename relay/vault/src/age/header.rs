//! The header of an age file: a stanza for each recipient, and a code over them that only the file's key gives.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::armor::LINE_LENGTH;
use super::{FILE_KEY_LENGTH, derive};

const VERSION: &str = "age-encryption.org/v1\n";
const STANZA: &str = "-> ";
const FOOTER: &str = "---";
/// More than [`super::KEYS_MAX`], since others may stand among ours.
const STANZAS_MAX: usize = 256;

/// What is said to one recipient: a kind and its arguments, then the wrapped key.
pub(super) struct Stanza {
    pub(super) arguments: Vec<String>,
    pub(super) body: Vec<u8>,
}

/// A header that was read.
pub(super) struct Header<'a> {
    pub(super) stanzas: Vec<Stanza>,
    /// What the code is over: all up to it.
    covered: &'a [u8],
    code: Vec<u8>,
}

/// The header, its end included.
pub(super) fn text(stanzas: &[Stanza], file_key: &[u8; FILE_KEY_LENGTH]) -> String {
    let mut text = VERSION.to_owned();
    for Stanza { arguments, body } in stanzas {
        text += STANZA;
        text += &arguments.join(" ");
        let body = STANDARD_NO_PAD.encode(body);
        // A line shorter than the longest ends the stanza, an empty one if need be.
        let mut rest = body.as_str();
        loop {
            let (line, after) = rest.split_at(rest.len().min(LINE_LENGTH));
            text += "\n";
            text += line;
            if line.len() < LINE_LENGTH {
                break;
            }
            rest = after;
        }
        text += "\n";
    }
    text += FOOTER;
    let code = hmac::sign(&code_key(file_key), text.as_bytes());
    text + " " + &STANDARD_NO_PAD.encode(code) + "\n"
}

fn code_key(file_key: &[u8; FILE_KEY_LENGTH]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &*derive(file_key, &[], b"header"))
}

impl<'a> Header<'a> {
    /// The header of a file, and what comes after it.
    pub(super) fn read(file: &'a [u8]) -> Result<(Self, &'a [u8]), &'static str> {
        let mut rest = file.strip_prefix(VERSION.as_bytes()).ok_or("its version is not v1")?;
        let mut stanzas = Vec::new();
        loop {
            let covered = &file[..file.len() - rest.len() + FOOTER.len().min(rest.len())];
            let first = line(&mut rest)?;
            if let Some(code) = first.strip_prefix(FOOTER) {
                let code = code.strip_prefix(' ').and_then(|code| STANDARD_NO_PAD.decode(code).ok());
                return Ok((Self { stanzas, covered, code: code.ok_or("its header has no code")? }, rest));
            }
            let arguments = first.strip_prefix(STANZA).ok_or("a stanza does not begin like one")?;
            let arguments = arguments.split(' ').map(str::to_owned).collect();
            let mut body = String::new();
            while {
                let part = line(&mut rest)?;
                body += part;
                part.len() == LINE_LENGTH
            } {}
            let body = STANDARD_NO_PAD.decode(body).map_err(|_| "a stanza is not in base64")?;
            stanzas.push(Stanza { arguments, body });
            if stanzas.len() > STANZAS_MAX {
                return Err("it has more recipients than any");
            }
        }
    }

    /// Whether this key wrote it as it stands. Takes as long for any code.
    pub(super) fn is_by(&self, file_key: &[u8; FILE_KEY_LENGTH]) -> bool {
        hmac::verify(&code_key(file_key), self.covered, &self.code).is_ok()
    }
}

/// Takes a line, without its end.
fn line<'a>(rest: &mut &'a [u8]) -> Result<&'a str, &'static str> {
    let end = rest.iter().position(|byte| *byte == b'\n').ok_or("its header does not end")?;
    let (line, after) = rest.split_at(end);
    *rest = &after[1..];
    match std::str::from_utf8(line) {
        Ok(line) if line.is_ascii() => Ok(line),
        _ => Err("its header is not ASCII"),
    }
}
