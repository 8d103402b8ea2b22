//! Secrets that a client has already: what they must be like, and that no two keys have the same.

use std::collections::HashSet;
use std::sync::Arc;

use schemas::key::{Key, KeyCommand, NewSecret, SecretScheme};
use schemas::{Command, Digest, KeyId, Stream, client_key};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;
use vault::UnsealError;
use zeroize::Zeroizing;

use crate::Receipt;
use crate::http::app::App;
use crate::http::conventions::Mutation;
use crate::http::error::ApiError;

/// How long a brought secret may be, in characters.
pub(in crate::http) const LENGTH: std::ops::RangeInclusive<usize> = 16..=512;
/// What a secret must be worth by [`bits`], or it is weak.
const BITS_MIN: f64 = 80.0;

/// A secret on its way in. Its `Debug` hides it, and its memory is wiped.
#[derive(Clone, ToSchema)]
#[schema(value_type = String, format = Password, min_length = 16, max_length = 512)]
pub(in crate::http) struct BroughtSecret(Zeroizing<String>);

impl std::fmt::Debug for BroughtSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BroughtSecret")
    }
}

impl<'de> Deserialize<'de> for BroughtSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        match fault(&text) {
            Some(fault) => Err(serde::de::Error::custom(fault)),
            None => Ok(Self(text)),
        }
    }
}

/// Why a text cannot be a brought secret at all.
pub(crate) fn fault(text: &str) -> Option<&'static str> {
    // Headers carry no more: what surrounds a value is trimmed, and what is not ASCII reaches servers in as many ways as there are clients.
    if !LENGTH.contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') || text != text.trim() {
        return Some("a secret is 16 to 512 printable ASCII characters, and no space at its beginning or end: headers carry nothing else");
    }
    text.starts_with(client_key::PREFIX)
        .then_some("a secret that begins with sk-kr- is one that a relay of this kind issued; it cannot be brought")
}

/// Whether a secret can be guessed.
pub(crate) fn is_weak(text: &str) -> bool {
    bits(text) < BITS_MIN
}

/// The key that a text is the secret of by the hash of the system it came from. Blocks.
pub(crate) fn older_holder(app: &App, text: &str) -> Result<Option<Arc<Key>>, ApiError> {
    for salt in app.models.salts().iter() {
        match app.vault.open_salt(*salt) {
            Ok(()) => {}
            // Keys under it came with another cluster's export.
            Err(UnsealError::Missing) => continue,
            Err(error) => return Err(error.into()),
        }
        let Some(hash) = app.vault.salted_hash(*salt, text) else { continue };
        if let Some(key) = app.models.key_by_hash(&hash)? {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// The secret as the log has it, if it is strong enough and no other key's.
pub(super) async fn admitted(app: &App, secret: &BroughtSecret, allow_weak: bool, id: KeyId) -> Result<NewSecret, ApiError> {
    if !allow_weak && is_weak(&secret.0) {
        return Err(ApiError::WeakSecret);
    }
    let text = secret.0.clone();
    let ((hash, pepper), older) = app.blocking(move |app| (app.vault.client_key_hash(&text), older_holder(app, &text))).await?;
    if is_anothers(app, &hash, id)? || older?.is_some_and(|key| key.id != id) {
        return Err(ApiError::SecretTaken);
    }
    Ok(NewSecret { hash, scheme: SecretScheme::Peppered { pepper } })
}

/// Takes a key back that lost a race for its secret: the log gave the secret to the first, so that nobody can ever use this one.
pub(super) async fn confirm<T>(
    app: &App,
    mutation: &Mutation<T>,
    receipt: &Receipt,
    (stream, id): (Stream, KeyId),
    hash: &Digest,
) -> Result<(), ApiError> {
    if !receipt.applied || !is_anothers(app, hash, id)? {
        return Ok(());
    }
    let revoke = Command::Key(KeyCommand::Revoke { reason: None });
    app.commands.execute(mutation.step("taken", stream, revoke)).await?;
    Err(ApiError::SecretTaken)
}

fn is_anothers(app: &App, hash: &Digest, id: KeyId) -> Result<bool, ApiError> {
    Ok(app.models.key_by_hash(hash)?.is_some_and(|key| key.id != id))
}

/// A rough count of what a guess costs: the characters that do not merely repeat the one before or step on from it, each worth the logarithm of
/// how many different ones there are. Random keys of other relays are worth 100 bits and more; words and keyboard runs fall short.
fn bits(text: &str) -> f64 {
    let bytes = text.as_bytes();
    let different = bytes.iter().collect::<HashSet<_>>().len();
    let fresh = 1 + bytes.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) > 1).count();
    fresh as f64 * (different as f64).log2()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test says where")]

    use super::*;

    #[test]
    fn random_keys_are_strong_and_what_people_type_is_weak() {
        for strong in [
            "cr_4f1c9a7e03b8d2566e1f9b0c8a7d3e2f4f1c9a7e03b8d2566e1f9b0c8a7d3e2f",
            "sk-Jx82kQm1ZtR9vWbY3nLp0A",
            "sk-proj-9aKq7Lm2Vx5Rt8Yw1Zc4Bn6Df3Gh0Js",
            "3f0a9c7e-1b52-4d68-8e9a-c4f7d2b61e05",
        ] {
            assert!(bits(strong) >= BITS_MIN, "{strong}: {}", bits(strong));
        }
        for weak in [
            "1234567890123456789",
            "abcdefghijklmnopqrstuvwxyz0123456789",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "secret-secret-secret-secret",
            "changeme-changeme",
            "password12345678",
        ] {
            assert!(bits(weak) < BITS_MIN, "{weak}: {}", bits(weak));
        }
    }

    #[test]
    fn only_printable_characters_of_a_bounded_length_are_a_secret() {
        let parse = |text: &str| serde_json::from_value::<BroughtSecret>(text.into()).is_ok();
        assert!(parse(&"x".repeat(16)) && parse(&"~".repeat(512)) && parse("with a space inside it"));
        for wrong in [
            &"x".repeat(15),
            &"x".repeat(513),
            " with a space before it",
            "with a space behind it ",
            "with\ta tab inside it",
            "with-ümlaut-inside",
            &format!("sk-kr-{}", "a".repeat(40)),
        ] {
            assert!(!parse(wrong), "{wrong}");
        }
        assert_eq!(format!("{:?}", serde_json::from_value::<BroughtSecret>("x".repeat(16).into()).unwrap()), "BroughtSecret");
    }
}
