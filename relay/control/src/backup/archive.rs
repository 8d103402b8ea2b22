//! Writes a backup.

use std::io::{self, Write};

use schemas::Digest;

use super::{END_FRAME, ENTRY_BYTES_MAX, FRAME_BYTES, MAGIC, MANIFEST_FRAME, Manifest, Part, PartEntry, SIGNATURE_FRAME, statement};

/// A backup under way: entries of one part after the other, then [`finish`](Archive::finish). Blocking; memory holds one frame.
pub struct Archive<W: Write> {
    out: W,
    hash: blake3::Hasher,
    part: Part,
    frame: Vec<u8>,
    tally: Tally,
    parts: Vec<PartEntry>,
}

#[derive(Default)]
struct Tally {
    hash: blake3::Hasher,
    entries: u64,
    bytes: u64,
}

impl<W: Write> Archive<W> {
    pub fn begin(out: W) -> io::Result<Self> {
        let (frame, tally, parts) = (Vec::new(), Tally::default(), Vec::new());
        let mut archive = Self { out, hash: blake3::Hasher::new(), part: Part::ALL[0], frame, tally, parts };
        archive.write(MAGIC)?;
        Ok(archive)
    }

    /// Adds an entry. Parts come in the order of [`Part::ALL`]; one that is never named is empty.
    pub fn entry(&mut self, part: Part, entry: &[u8]) -> io::Result<()> {
        assert!(part >= self.part, "the parts of a backup come in their order");
        if entry.len() > ENTRY_BYTES_MAX {
            return Err(io::Error::other(format!("an entry of {} bytes is too large for a backup", entry.len())));
        }
        self.end_parts_before(part)?;
        let length = u32::try_from(entry.len()).expect("the bound is far below");
        self.frame.extend_from_slice(&length.to_be_bytes());
        self.frame.extend_from_slice(entry);
        self.tally.entries += 1;
        if self.frame.len() >= FRAME_BYTES { self.end_frame() } else { Ok(()) }
    }

    /// Writes what is left, the manifest, its signature and the end. The manifest is completed with what the parts came to, and `sign` signs a
    /// statement about it with the key of the writer that it names.
    pub fn finish(mut self, manifest: Manifest, sign: impl FnOnce(&[u8]) -> [u8; 64]) -> io::Result<W> {
        while self.parts.len() < Part::ALL.len() {
            self.end_part()?;
        }
        let manifest = Manifest { parts: std::mem::take(&mut self.parts), ..manifest };
        let manifest = serde_json::to_vec_pretty(&manifest)?;
        self.frame(MANIFEST_FRAME, &manifest)?;
        self.frame(SIGNATURE_FRAME, &sign(&statement(&manifest)))?;
        let digest = *self.hash.finalize().as_bytes();
        self.frame(END_FRAME, &digest)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn end_parts_before(&mut self, part: Part) -> io::Result<()> {
        while self.part < part {
            self.end_part()?;
        }
        Ok(())
    }

    fn end_part(&mut self) -> io::Result<()> {
        self.end_frame()?;
        let Tally { hash, entries, bytes } = std::mem::take(&mut self.tally);
        self.parts.push(PartEntry { part: self.part, entries, bytes, blake3: Digest::from_bytes(hash.finalize().into()) });
        self.part = Part::ALL.get(self.parts.len()).copied().unwrap_or(self.part);
        Ok(())
    }

    fn end_frame(&mut self) -> io::Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let mut frame = std::mem::take(&mut self.frame);
        self.tally.hash.update(&frame);
        self.tally.bytes += frame.len() as u64;
        self.frame(self.part as u8, &frame)?;
        frame.clear();
        self.frame = frame;
        Ok(())
    }

    fn frame(&mut self, kind: u8, content: &[u8]) -> io::Result<()> {
        let length = u32::try_from(content.len()).map_err(io::Error::other)?;
        self.write(&[kind])?;
        self.write(&length.to_be_bytes())?;
        self.write(content)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }
}
