//! Reads a backup, in one pass, from anywhere.

use std::io::{self, ErrorKind, Read};

use schemas::Digest;
use thiserror::Error;

use super::manifest::{FORMAT, KIND};
use super::{
    END_FRAME, FRAME_BYTES_MAX, MAGIC, MANIFEST_BYTES_MAX, MANIFEST_FRAME, Manifest, Part, PartEntry, SIGNATURE_FRAME, SignedManifest,
};

/// Why bytes are not taken for a backup.
#[derive(Debug, Error)]
pub enum BackupError {
    #[error("this is not a backup of keyrelay")]
    NotABackup,
    #[error("the backup ends early, after {bytes} bytes")]
    CutShort { bytes: u64 },
    #[error("the backup is damaged at byte {at} or before: {what}")]
    Damaged { at: u64, what: &'static str },
    #[error("what the manifest says of the part {} is not what stands in the backup", part.as_str())]
    Part { part: Part },
    #[error("the backup has format {found}, and this keyrelay reads format {FORMAT}: use the release that wrote it, {release}")]
    Format { found: u16, release: String },
    #[error("the backup cannot be read")]
    Io(#[source] io::Error),
}

/// Entries of one part that follow on each other.
pub struct Chunk<'a> {
    pub part: Part,
    pub entries: Vec<&'a [u8]>,
}

/// Reads a backup to its end and hands on its entries as they come: what they are worth is known only when this returns. Every byte is checked,
/// and that nothing comes after the last; whose signature the manifest has is for the caller to check, who knows the writers by then. Blocking;
/// memory holds one frame.
pub fn read<E: From<BackupError>>(from: impl Read, mut take: impl FnMut(Chunk<'_>) -> Result<(), E>) -> Result<SignedManifest, E> {
    let mut from = Frames { from, hash: blake3::Hasher::new(), at: 0 };
    from.magic()?;
    let mut tallies = Part::ALL.map(|part| Tally { part, hash: blake3::Hasher::new(), entries: 0, bytes: 0 });
    let mut current = 0;
    let bytes = loop {
        let (kind, content) = from.frame()?;
        if kind == MANIFEST_FRAME {
            break content;
        }
        let place = Part::from_number(kind).and_then(|part| Part::ALL.iter().position(|one| *one == part));
        let Some(place) = place.filter(|place| *place >= current) else { return Err(from.damaged("a frame is out of place").into()) };
        let Some(entries) = split(&content) else { return Err(from.damaged("a frame does not divide into entries").into()) };
        current = place;
        tallies[place].count(&content, entries.len());
        take(Chunk { part: Part::ALL[place], entries })?;
    };
    // A format from before signatures is told as such, and not as damage.
    let manifest = parse(&bytes).map_err(|error| error.unwrap_or_else(|| from.damaged("the manifest is none")))?;
    let signature = from.signature()?;
    from.end()?;
    let parts = tallies.map(Tally::finish);
    for (place, counted) in parts.iter().enumerate() {
        if manifest.parts.get(place) != Some(counted) && !is_trusting() {
            return Err(BackupError::Part { part: counted.part }.into());
        }
    }
    if manifest.parts.len() == parts.len() {
        Ok(SignedManifest { manifest, bytes, signature })
    } else {
        Err(from.damaged("the manifest names too many parts").into())
    }
}

/// Whether digests are taken on trust: only with a planted bug.
fn is_trusting() -> bool {
    #[cfg(feature = "faults")]
    return crate::faults::is_planted("trusting-backup");
    #[cfg(not(feature = "faults"))]
    return false;
}

/// The manifest; an error without content is one that says nothing.
fn parse(bytes: &[u8]) -> Result<Manifest, Option<BackupError>> {
    /// What every format has.
    #[derive(serde::Deserialize)]
    struct Head {
        kind: String,
        format: u16,
        release: String,
    }
    let Head { kind, format, release } = serde_json::from_slice(bytes).map_err(|_| None)?;
    if kind != KIND {
        return Err(None);
    }
    if format != FORMAT {
        return Err(Some(BackupError::Format { found: format, release }));
    }
    serde_json::from_slice(bytes).map_err(|_| None)
}

fn split(mut content: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !content.is_empty() {
        let (length, rest) = content.split_first_chunk::<4>()?;
        let (entry, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        entries.push(entry);
        content = rest;
    }
    Some(entries)
}

struct Tally {
    part: Part,
    hash: blake3::Hasher,
    entries: u64,
    bytes: u64,
}

impl Tally {
    fn count(&mut self, content: &[u8], entries: usize) {
        self.hash.update(content);
        self.entries += entries as u64;
        self.bytes += content.len() as u64;
    }

    fn finish(self) -> PartEntry {
        let Self { part, hash, entries, bytes } = self;
        PartEntry { part, entries, bytes, blake3: Digest::from_bytes(hash.finalize().into()) }
    }
}

struct Frames<R> {
    from: R,
    hash: blake3::Hasher,
    /// Bytes read so far.
    at: u64,
}

impl<R: Read> Frames<R> {
    fn magic(&mut self) -> Result<(), BackupError> {
        let found = self.exactly(MAGIC.len()).map_err(|error| match error {
            BackupError::CutShort { .. } => BackupError::NotABackup,
            error => error,
        })?;
        if found == MAGIC { Ok(()) } else { Err(BackupError::NotABackup) }
    }

    fn frame(&mut self) -> Result<(u8, Vec<u8>), BackupError> {
        let head = self.exactly(5)?;
        let (kind, length) = (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]));
        let bytes_max = if kind == MANIFEST_FRAME { MANIFEST_BYTES_MAX } else { FRAME_BYTES_MAX };
        let length = usize::try_from(length).ok().filter(|length| *length <= bytes_max);
        let length = length.ok_or_else(|| self.damaged("a length is out of bounds"))?;
        Ok((kind, self.exactly(length)?))
    }

    fn signature(&mut self) -> Result<[u8; 64], BackupError> {
        let (kind, content) = self.frame()?;
        let signature = <[u8; 64]>::try_from(content).ok().filter(|_| kind == SIGNATURE_FRAME);
        signature.ok_or_else(|| self.damaged("no signature follows on the manifest"))
    }

    /// The digest of everything before, and nothing after it.
    fn end(&mut self) -> Result<(), BackupError> {
        let digest = *self.hash.finalize().as_bytes();
        let (kind, found) = self.frame()?;
        if kind != END_FRAME || (found != digest && !is_trusting()) {
            return Err(self.damaged("the digest over the whole backup is another one"));
        }
        let mut byte = [0];
        loop {
            match self.from.read(&mut byte) {
                Ok(0) => return Ok(()),
                Ok(_) => return Err(self.damaged("something follows on the end")),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(BackupError::Io(error)),
            }
        }
    }

    /// Reads so many bytes; memory grows with what is there, not with what a length says.
    fn exactly(&mut self, length: usize) -> Result<Vec<u8>, BackupError> {
        let mut bytes = Vec::new();
        (&mut self.from).take(length as u64).read_to_end(&mut bytes).map_err(BackupError::Io)?;
        self.hash.update(&bytes);
        self.at += bytes.len() as u64;
        if bytes.len() == length { Ok(bytes) } else { Err(BackupError::CutShort { bytes: self.at }) }
    }

    const fn damaged(&self, what: &'static str) -> BackupError {
        BackupError::Damaged { at: self.at, what }
    }
}

#[cfg(test)]
#[path = "reading_tests.rs"]
mod tests;
