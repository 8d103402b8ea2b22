//! What is wrong with a file that is to be imported.

use axum::http::StatusCode;

use crate::transfer::file::FileError;

pub(super) fn file_status(error: &FileError) -> (StatusCode, &'static str) {
    const UNFIT: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
    match error {
        FileError::Head(_) => (UNFIT, "bad_head"),
        FileError::Format(_) => (UNFIT, "bad_format"),
        FileError::Digest => (UNFIT, "bad_digest"),
        FileError::PassphraseNeeded => (StatusCode::BAD_REQUEST, "passphrase_needed"),
        FileError::WrongPassphrase => (UNFIT, "wrong_passphrase"),
        FileError::Stretch(_) => (StatusCode::BAD_REQUEST, "bad_passphrase"),
        FileError::Sanitized => (StatusCode::CONFLICT, "sanitized_refused"),
        FileError::Prune => (StatusCode::BAD_REQUEST, "bad_prune"),
    }
}
