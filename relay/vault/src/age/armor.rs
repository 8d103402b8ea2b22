//! The armour of an age file: base64 in lines of 64, between two lines that say what it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const END: &str = "-----END AGE ENCRYPTED FILE-----";
pub(super) const LINE_LENGTH: usize = 64;

pub(super) fn text(file: &[u8]) -> String {
    let encoded = STANDARD.encode(file);
    let lines = encoded.as_bytes().chunks(LINE_LENGTH).map(|line| std::str::from_utf8(line).expect("base64 is ASCII"));
    let lines: Vec<_> = [BEGIN].into_iter().chain(lines).chain([END]).collect();
    lines.join("\n") + "\n"
}

/// The bytes in it; none where it is not as [`text`] writes it.
pub(super) fn read(armored: &str) -> Option<Vec<u8>> {
    let body = armored.trim_end().strip_prefix(BEGIN)?.strip_suffix(END)?;
    let encoded: String = body.lines().collect();
    let file = STANDARD.decode(encoded).ok()?;
    (text(&file).trim_end() == armored.trim_end()).then_some(file)
}
