//! How far behind the log the read models may be, remembered across restarts: `DATA/read-models/CONTACT`.
//!
//! The file is one line: when it was written, how long the rows had not been level then, and the position they had. It is written while the
//! log is followed, also when the log is away, so that what a start adds by the wall clock is only the time that nothing ran. Best
//! effort: without the file, or with one that cannot be believed, the rows count as never level, and serve nothing until they are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use schemas::{Sequence, Timestamp};

use crate::store::Store;

/// The first word of the line: its shape.
const FORMAT: &str = "1";

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contact {
    pub written_at: Timestamp,
    /// How long the rows had not been level with the log then.
    pub staleness: Duration,
    /// A position that the rows had, durably, then.
    pub position: Sequence,
}

impl Contact {
    /// How long rows at a position have not been level. None if nobody can tell: the clock went backwards, or the rows have lost
    /// what they had when this was written.
    pub(crate) fn staleness_at(&self, now: Timestamp, position: Sequence) -> Option<Duration> {
        if position < self.position {
            return None;
        }
        let passed = now.as_micros().checked_sub(self.written_at.as_micros())?;
        Some(self.staleness.saturating_add(Duration::from_micros(passed)))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_suffix('\n')?.split(' ');
        let is_ours = words.next() == Some(FORMAT);
        let mut number = || words.next()?.parse::<u64>().ok();
        let (written_at, staleness, position) = (number()?, number()?, number()?);
        (is_ours && words.next().is_none()).then_some(Self {
            written_at: Timestamp::from_micros(written_at),
            staleness: Duration::from_micros(staleness),
            position: Sequence(position),
        })
    }

    fn line(&self) -> String {
        let staleness = u64::try_from(self.staleness.as_micros()).unwrap_or(u64::MAX);
        format!("{FORMAT} {} {staleness} {}\n", self.written_at.as_micros(), self.position)
    }
}

/// The file. Blocking throughout.
pub(crate) struct ContactFile {
    path: PathBuf,
    /// The position up to which the rows were synced. Written by whoever writes the file, one at a time.
    synced: Mutex<Sequence>,
}

impl ContactFile {
    /// The file in the directory of the read models.
    pub(crate) fn new(directory: &Path) -> Self {
        Self { path: directory.join("CONTACT"), synced: Mutex::default() }
    }

    pub(crate) fn read(&self) -> Option<Contact> {
        Contact::parse(&fs::read_to_string(&self.path).ok()?)
    }

    /// Replaces the file. The rows are synced first, since a crash of the machine may take those that are not, and with them a revocation
    /// that the file would say is there.
    pub(crate) fn write(&self, contact: &Contact, store: &Store) {
        let mut synced = self.synced.lock();
        if contact.position != *synced {
            if let Err(error) = store.sync() {
                tracing::warn!(error = &error as &dyn std::error::Error, "the read models could not be synced");
                return;
            }
            *synced = contact.position;
        }
        let temporary = self.path.with_extension("new");
        let replaced = fs::write(&temporary, contact.line()).and_then(|()| fs::rename(&temporary, &self.path));
        if let Err(error) = replaced {
            tracing::warn!(path = %self.path.display(), error = %error, "when the read models were last level could not be noted");
        }
    }

    /// Removes the file: what is opened next has not been level here.
    pub(crate) fn forget(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    fn contact() -> Contact {
        Contact { written_at: Timestamp::from_micros(1_000_000_000), staleness: Duration::from_secs(3), position: Sequence(7) }
    }

    #[test]
    fn a_line_says_the_contact_and_nothing_else_does() {
        assert_eq!(Contact::parse(&contact().line()), Some(contact()));
        for wrong in ["", "\n", "1 2 3 4", "1 2 3\n", "2 1 1 1\n", "1 2 3 4 5\n", "1 2 x 4\n", "1 2 -3 4\n", "\0\0\0\0"] {
            assert_eq!(Contact::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn time_in_which_nothing_ran_is_added() {
        let later = Timestamp::from_micros(1_060_000_000);
        assert_eq!(contact().staleness_at(later, Sequence(7)), Some(Duration::from_secs(63)));
    }

    #[test]
    fn a_clock_that_went_backwards_makes_nothing_fresh() {
        assert_eq!(contact().staleness_at(Timestamp::from_micros(999_999_999), Sequence(7)), None);
    }

    #[test]
    fn rows_that_lost_what_they_had_are_not_fresh() {
        assert_eq!(contact().staleness_at(Timestamp::from_micros(1_000_000_001), Sequence(6)), None);
    }
}
