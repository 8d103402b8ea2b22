//! What is wrong with a file that is to be imported.

use axum::http::StatusCode;

use crate::transfer::elsewhere::SourceError;
use crate::transfer::file::FileError;

pub(super) fn file_status(error: &FileError) -> (StatusCode, &'static str) {
    const UNFIT: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
    match error {
        FileError::Head(_) => (UNFIT, "bad_head"),
        FileError::Format(_) => (UNFIT, "bad_format"),
        FileError::Digest => (UNFIT, "bad_digest"),
        FileError::PassphraseNeeded | FileError::Unsealed => (StatusCode::BAD_REQUEST, "passphrase_needed"),
        FileError::UnderPassphrase => (StatusCode::BAD_REQUEST, "sealed_under_passphrase"),
        FileError::IdentityNeeded => (StatusCode::BAD_REQUEST, "identity_needed"),
        FileError::ToRecipients => (StatusCode::BAD_REQUEST, "sealed_to_recipients"),
        FileError::WrongIdentity => (UNFIT, "wrong_identity"),
        FileError::Identity(_) | FileError::TooManyIdentities { .. } => (StatusCode::BAD_REQUEST, "bad_identity"),
        FileError::Recipient(_) | FileError::Seal(_) => (StatusCode::BAD_REQUEST, "bad_recipient"),
        FileError::SealedTwice => (StatusCode::BAD_REQUEST, "bad_sealing"),
        FileError::WrongPassphrase => (UNFIT, "wrong_passphrase"),
        FileError::Stretch(_) => (StatusCode::BAD_REQUEST, "bad_passphrase"),
        FileError::Sanitized => (StatusCode::CONFLICT, "sanitized_refused"),
        FileError::SameCluster => (StatusCode::CONFLICT, "same_cluster"),
        FileError::Prune => (StatusCode::BAD_REQUEST, "bad_prune"),
    }
}

pub(super) fn source_status(error: &SourceError) -> (StatusCode, &'static str) {
    const UNFIT: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
    match error {
        SourceError::Form { .. } => (UNFIT, "bad_source"),
        SourceError::OldKeyNeeded => (StatusCode::BAD_REQUEST, "old_key_needed"),
        SourceError::Sanitized => (UNFIT, "sanitized_source"),
        SourceError::Missing(_) => (StatusCode::BAD_REQUEST, "source_incomplete"),
        SourceError::TooManySalts => (StatusCode::CONFLICT, "too_many_salts"),
    }
}
