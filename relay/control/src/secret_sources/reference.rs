//! What names a secret at a source: `vault:MOUNT/PATH#FIELD` or `aws:NAME#FIELD@STAGE`.

use std::str::FromStr;

use thiserror::Error;

/// The stage of Secrets Manager that is in use.
const STAGE_DEFAULT: &str = "AWSCURRENT";

/// One secret of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// Of a KV store of version 2. Without a field the secret must have one only.
    Kv { mount: String, path: String, field: Option<String> },
    /// Of AWS Secrets Manager, by name or ARN. Without a field the secret is the whole text, or the only field of a JSON object.
    Aws { id: String, field: Option<String>, stage: String },
}

/// Why a text names no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("expected vault:MOUNT/PATH#FIELD or aws:NAME#FIELD@STAGE, where the part from '#' on may be left out")]
pub struct ParseReferenceError;

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, ParseReferenceError> {
        let (kind, rest) = text.split_once(':').ok_or(ParseReferenceError)?;
        let (name, behind) = rest.split_once('#').map_or((rest, None), |(name, behind)| (name, Some(behind)));
        if name.is_empty() || behind == Some("") || text.chars().any(char::is_control) {
            return Err(ParseReferenceError);
        }
        match kind {
            "vault" => {
                let (mount, path) = name.split_once('/').ok_or(ParseReferenceError)?;
                // A dot segment would lead out of the mount, and of `data/`.
                if mount.is_empty() || path.split('/').chain([mount]).any(|part| matches!(part, "" | "." | "..")) {
                    return Err(ParseReferenceError);
                }
                Ok(Self::Kv { mount: mount.to_owned(), path: path.to_owned(), field: behind.map(str::to_owned) })
            }
            "aws" => {
                let (field, stage) = match behind.map(|behind| behind.rsplit_once('@').unwrap_or((behind, STAGE_DEFAULT))) {
                    Some((_, "")) => return Err(ParseReferenceError),
                    Some((field, stage)) => ((!field.is_empty()).then(|| field.to_owned()), stage),
                    None => (None, STAGE_DEFAULT),
                };
                Ok(Self::Aws { id: name.to_owned(), field, stage: stage.to_owned() })
            }
            _ => Err(ParseReferenceError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reference;

    #[test]
    fn names_of_secrets_are_taken_apart() {
        let kv = Reference::Kv { mount: "kv".to_owned(), path: "llm/openai".to_owned(), field: Some("api_key".to_owned()) };
        assert_eq!("vault:kv/llm/openai#api_key".parse(), Ok(kv));
        let arn = "arn:aws:secretsmanager:us-east-1:1:secret:llm/openai-x";
        let aws = Reference::Aws { id: arn.to_owned(), field: Some("key".to_owned()), stage: "AWSPENDING".to_owned() };
        assert_eq!(format!("aws:{arn}#key@AWSPENDING").parse(), Ok(aws));
        let whole = Reference::Aws { id: "openai".to_owned(), field: None, stage: "AWSCURRENT".to_owned() };
        assert_eq!("aws:openai".parse(), Ok(whole.clone()));
        assert_eq!("aws:openai#@AWSCURRENT".parse(), Ok(whole));
    }

    #[test]
    fn what_could_name_something_else_is_refused() {
        for text in ["", "openai", "vault:kv", "vault:/x", "vault:kv/../sys", "vault:kv//x", "vault:kv/x#", "aws:", "aws:x#f@", "gcp:x"] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }
}
