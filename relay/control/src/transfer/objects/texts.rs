//! Personal texts of a line: opened with the file's passphrase, and sealed here.

use schemas::{Sealed, Stream};
use zeroize::Zeroizing;

use super::{Import, Pass, PrepareError};
use crate::http::FREE_TEXT_LENGTH_MAX;
use crate::transfer::import::Texts;
use crate::transfer::line::{FactLine, SealedText};
use crate::transfer::privacy::{open, place, read_plain};

impl Import {
    /// The reason of a fact, sealed here where the fact is new.
    #[expect(clippy::too_many_arguments, reason = "where a text stands takes four words, and what becomes of it two")]
    pub(super) fn reason(
        &self,
        stream: &Stream,
        kind: &str,
        id: impl std::fmt::Display,
        member: &str,
        fact: &FactLine,
        pass: Pass,
        is_new: bool,
    ) -> Result<Option<Sealed>, PrepareError> {
        let Some(reason) = &fact.reason else { return Ok(None) };
        let text = self.text(kind, id, member, reason)?;
        if is_new { self.sealed(stream, &text, pass).map(Some) } else { Ok(None) }
    }

    pub(super) fn sealed(&self, stream: &Stream, text: &str, pass: Pass) -> Result<Sealed, PrepareError> {
        if text.chars().count() > FREE_TEXT_LENGTH_MAX {
            let detail = format!("a description or reason has at most {FREE_TEXT_LENGTH_MAX} characters");
            return Err(PrepareError::line("bad_request", detail));
        }
        match pass {
            Pass::Apply => Ok(self.app.vault.seal_field(stream, text)?),
            // Only that there is another text counts here.
            Pass::Look => Ok(Sealed { subject: stream.clone(), bytes: Vec::new() }),
        }
    }

    pub(super) fn text(
        &self,
        kind: &str,
        id: impl std::fmt::Display,
        member: &str,
        text: &SealedText,
    ) -> Result<Zeroizing<String>, PrepareError> {
        let fault = |detail: &str| PrepareError::line("bad_seal", format!("{member}: {detail}"));
        match &self.texts {
            Texts::None => Err(fault("the file's head says nothing of a passphrase")),
            Texts::Sealed(key) => open(key, &place(kind, id, member), text).map_err(|error| fault(&error.to_string())),
            Texts::Plain => read_plain(text).ok_or_else(|| fault("it is no text")),
        }
    }
}
