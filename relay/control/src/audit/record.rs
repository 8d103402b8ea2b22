//! Records in an export: the length of the subject (2 bytes), the subject, the length of the record (4 bytes), the record.
//!
//! Lengths are big-endian. A sequence is not stored: it is the record's place, counted from the first of the file's name.

use std::io::{self, ErrorKind, Read};

use event_log::{RECORD_BYTES_MAX, SUBJECT_BYTES_MAX};
use schemas::Sequence;
use thiserror::Error;

/// The folder of the record files.
pub const FOLDER: &str = "records";

/// The name of the file that begins with this record.
pub fn file_name(first: Sequence) -> String {
    format!("{FOLDER}/{:012}.bin", first.0)
}

/// The first sequence of a record file, by its name.
pub fn first_of(name: &str) -> Option<Sequence> {
    let digits = name.strip_prefix(FOLDER)?.strip_prefix('/')?.strip_suffix(".bin")?;
    let first = Sequence(digits.parse().ok()?);
    (file_name(first) == name).then_some(first)
}

/// Why a record file cannot be read on.
#[derive(Debug, Error)]
pub enum ReadRecordError {
    #[error("the file ends within a record")]
    CutShort,
    #[error("a length is out of bounds")]
    Length,
    #[error("the subject is not text")]
    Subject,
    #[error(transparent)]
    Io(io::Error),
}

/// Appends one record.
pub(super) fn write(out: &mut Vec<u8>, subject: &str, bytes: &[u8]) {
    let subject_length = u16::try_from(subject.len()).expect("a log takes no subject of more than 255 bytes");
    let length = u32::try_from(bytes.len()).expect("a log takes no record of more than 64 KiB");
    out.extend_from_slice(&subject_length.to_be_bytes());
    out.extend_from_slice(subject.as_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Reads the next record; none at the end of the file.
pub fn read(from: &mut impl Read) -> Result<Option<(String, Vec<u8>)>, ReadRecordError> {
    let Some(subject_length) = read_length::<2>(from)? else { return Ok(None) };
    let subject = read_exactly(from, subject_length, SUBJECT_BYTES_MAX)?;
    let subject = String::from_utf8(subject).map_err(|_| ReadRecordError::Subject)?;
    let length = read_length::<4>(from)?.ok_or(ReadRecordError::CutShort)?;
    let bytes = read_exactly(from, length, RECORD_BYTES_MAX)?;
    Ok(Some((subject, bytes)))
}

fn read_exactly(from: &mut impl Read, length: usize, length_max: usize) -> Result<Vec<u8>, ReadRecordError> {
    if length > length_max {
        return Err(ReadRecordError::Length);
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).map_err(cut_short)?;
    Ok(bytes)
}

/// Reads a length of `N` bytes; none where the file ends right before it.
pub(super) fn read_length<const N: usize>(from: &mut impl Read) -> Result<Option<usize>, ReadRecordError> {
    let mut bytes = [0; N];
    let first = loop {
        match from.read(&mut bytes[..1]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            first => break first.map_err(ReadRecordError::Io)?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    from.read_exact(&mut bytes[1..]).map_err(cut_short)?;
    Ok(Some(bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))))
}

fn cut_short(error: io::Error) -> ReadRecordError {
    if error.kind() == ErrorKind::UnexpectedEof { ReadRecordError::CutShort } else { ReadRecordError::Io(error) }
}
