//! Writes an export as a tar stream.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek as _, Write};

use schemas::{ClusterId, Digest, PublicKey, Sequence, Timestamp, WriterId};

use super::manifest::{self, FORMAT, FileEntry, MANIFEST, Manifest, SIGNATURE};
use super::record;
use super::state::{self, STATE, StateRow};

/// A record file ends with the record that brings it to this many bytes: what is held in memory, and the grain of a damage report.
const RUN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What the manifest claims besides the files.
#[derive(Debug, Clone)]
pub struct Claims {
    pub cluster: ClusterId,
    pub cluster_public_key: PublicKey,
    /// The root over the exported records, from the node's own position.
    pub root: Digest,
    pub writer: WriterId,
    pub created_at: Timestamp,
}

/// An export under way: all records from sequence 1 on, then the state's rows, then [`finish`](Export::finish).
///
/// Blocking. Memory holds one run of records; the state waits in an unnamed temporary file, because a tar entry begins with its length.
pub struct Export<W: Write> {
    tar: tar::Builder<W>,
    files: Vec<FileEntry>,
    run: Vec<u8>,
    run_first: Sequence,
    last: Sequence,
    state: BufWriter<File>,
    created_at: u64,
}

impl<W: Write> Export<W> {
    pub fn begin(out: W, created_at: Timestamp) -> io::Result<Self> {
        Ok(Self {
            tar: tar::Builder::new(out),
            files: Vec::new(),
            run: Vec::new(),
            run_first: Sequence(1),
            last: Sequence::ZERO,
            state: BufWriter::new(tempfile::tempfile()?),
            created_at: created_at.as_seconds(),
        })
    }

    /// Adds the next record.
    pub fn record(&mut self, subject: &str, bytes: &[u8]) -> io::Result<()> {
        record::write(&mut self.run, subject, bytes);
        self.last = self.last.next();
        if self.run.len() >= RUN_BYTES_MAX { self.end_run() } else { Ok(()) }
    }

    /// Adds a row of the state.
    pub fn row(&mut self, row: &StateRow) -> io::Result<()> {
        self.state.write_all(&state::encode(row))
    }

    /// Writes what is left: the state, the manifest, and the signature over its statement.
    pub fn finish(mut self, claims: Claims, sign: impl FnOnce(&[u8]) -> [u8; 64]) -> io::Result<W> {
        self.end_run()?;
        let state = self.end_state()?;
        let Claims { cluster, cluster_public_key, root, writer, created_at } = claims;
        let files = std::mem::take(&mut self.files);
        let manifest = Manifest { format: FORMAT, cluster, cluster_public_key, size: self.last, root, state, writer, created_at, files };
        let manifest = serde_json::to_vec_pretty(&manifest)?;
        let signature = manifest::signature_text(&sign(&manifest::statement(&manifest)));
        self.append(MANIFEST, manifest.len() as u64, manifest.as_slice())?;
        self.append(SIGNATURE, signature.len() as u64, signature.as_bytes())?;
        self.tar.into_inner()
    }

    fn end_run(&mut self) -> io::Result<()> {
        if self.run.is_empty() {
            return Ok(());
        }
        let (name, run) = (record::file_name(self.run_first), std::mem::take(&mut self.run));
        self.append(&name, run.len() as u64, run.as_slice())?;
        self.files.push(FileEntry { name, bytes: run.len() as u64, blake3: Digest::blake3(&run) });
        self.run = run;
        self.run.clear();
        self.run_first = self.last.next();
        Ok(())
    }

    fn end_state(&mut self) -> io::Result<Digest> {
        self.state.flush()?;
        let mut file = self.state.get_ref().try_clone()?;
        let bytes = file.stream_position()?;
        file.rewind()?;
        let mut hashing = Hashing { from: file, hash: blake3::Hasher::new() };
        let header = header(STATE, bytes, self.created_at)?;
        self.tar.append(&header, &mut hashing)?;
        let digest = Digest::from_bytes(hashing.hash.finalize().into());
        self.files.push(FileEntry { name: STATE.to_owned(), bytes, blake3: digest });
        Ok(digest)
    }

    fn append(&mut self, name: &str, bytes: u64, content: impl Read) -> io::Result<()> {
        self.tar.append(&header(name, bytes, self.created_at)?, content)
    }
}

fn header(name: &str, bytes: u64, modified_at: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_mtime(modified_at);
    header.set_cksum();
    Ok(header)
}

/// Hashes what is read through it.
struct Hashing {
    from: File,
    hash: blake3::Hasher,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}
