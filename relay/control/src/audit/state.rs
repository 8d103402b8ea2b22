//! The state in an export: what the exporting node's read models say the records mean, row by row.
//!
//! Each row is a length (4 bytes, big-endian) and that many bytes of postcard. First the void records by sequence, then the streams in
//! their order.

use std::io::Read;

use schemas::aggregate::Head;
use schemas::{Aggregate, Digest, Sequence, Stream, VoidReason};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::record::{ReadRecordError, read_length};

pub const STATE: &str = "state.bin";
/// No aggregate comes near: an event has 64 KiB at most, and lists in a state have bounds of their own.
const ROW_BYTES_MAX: usize = 1024 * 1024;

/// One thing that the node believes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateRow {
    /// The record at this sequence is void.
    Void { sequence: Sequence, reason: VoidReason, leaf: Digest },
    /// Where a stream stands; no aggregate where all records on its subject are void.
    Stream { stream: Stream, head: Head, aggregate: Option<Aggregate> },
}

/// Why a row cannot be read.
#[derive(Debug, Error)]
pub enum ReadRowError {
    #[error(transparent)]
    Framing(#[from] ReadRecordError),
    #[error("the bytes are not a row")]
    Malformed,
}

/// A row as the file has it.
pub(super) fn encode(row: &StateRow) -> Vec<u8> {
    let bytes = postcard::to_allocvec(row).expect("a row is plain data; encoding to memory cannot fail");
    let length = u32::try_from(bytes.len()).expect("a state is far smaller than 4 GiB");
    [length.to_be_bytes().as_slice(), &bytes].concat()
}

/// Reads the next row; none at the end of the file.
pub fn read(from: &mut impl Read) -> Result<Option<StateRow>, ReadRowError> {
    let Some(length) = read_length::<4>(from)? else { return Ok(None) };
    if length > ROW_BYTES_MAX {
        return Err(ReadRecordError::Length.into());
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).map_err(|_| ReadRecordError::CutShort)?;
    match postcard::take_from_bytes(&bytes) {
        Ok((row, [])) => Ok(Some(row)),
        _ => Err(ReadRowError::Malformed),
    }
}
