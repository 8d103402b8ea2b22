//! Export and import of data: a file of JSON lines that holds what the read models know, and the commands that make it so elsewhere.
//!
//! `file` is the file's frame (head, kinds, digest), `line` its lines, `privacy` what becomes of secrets and personal texts in it, `sealing` how they
//! are sealed.
//! `export` writes one from the rows of one moment. `import` takes one in: the whole file is checked before anything is appended, and every
//! line then is a command whose id derives from the file and the line, so that doing it again changes nothing. `elsewhere` makes lines of the files
//! of other systems.
//!
//! A file holds no plaintext of a secret: hashes of 256-bit random secrets may travel, since there is nothing to guess; credentials and
//! personal texts are sealed under a passphrase or to recipients, or left out.

pub(crate) mod apply;
pub(crate) mod check;
pub(crate) mod csv;
pub(crate) mod elsewhere;
pub(crate) mod export;
pub mod file;
pub(crate) mod import;
pub mod line;
pub(crate) mod objects;
pub mod privacy;
pub(crate) mod prune;
pub(crate) mod scope;
pub mod sealing;
