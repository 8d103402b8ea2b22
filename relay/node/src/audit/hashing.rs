//! Length and BLAKE3 of what is read, taken in passing.

use std::io::{self, Read};

use schemas::Digest;

pub(super) struct Hashing<R> {
    from: R,
    hash: blake3::Hasher,
    bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, hash: blake3::Hasher::new(), bytes: 0 }
    }

    /// Reads what is left, and gives length and digest of everything.
    pub(super) fn finish(mut self) -> io::Result<(u64, Digest)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((self.bytes, Digest::from_bytes(self.hash.finalize().into())))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.bytes += length as u64;
        Ok(length)
    }
}
