//! A line of a key.

use schemas::key::import::ImportedFact;
use schemas::key::{
    Dedicated, ImportedSecret, Key, KeyCommand, KeyDetails, KeyImport, KeyPatch, Limits, METADATA_EMPTY, RotationSchedule, SecretScheme,
    Term,
};
use schemas::{Aggregate, Command, Sealed, Stream};
use vault::UnsealFieldError;

use super::{Import, Outcome, Pass, PrepareError, Prepared};
use crate::transfer::check::SECRET_TAKEN;
use crate::transfer::line::{FactLine, KeyLine, RotationLine, SchemeText, SecretLine};
use crate::transfer::privacy::withheld_hash;

impl Import {
    pub(super) fn key_line(&self, line: &KeyLine, pass: Pass, prepared: &mut Prepared) -> Result<(), PrepareError> {
        let stream = Stream::key(line.tenant.clone(), line.id);
        let here = self.here(&stream)?;
        let before = match &here.state {
            Some(Aggregate::Key(key)) if here.is_there => Some(&**key),
            _ => None,
        };
        let is_sanitized = self.head().sanitized;
        let details = KeyDetails {
            name: line.name.clone(),
            description: self.description(&stream, line, before, pass)?,
            // A sanitised file has none to say.
            owner: line.owner.clone().or_else(|| before.filter(|_| is_sanitized)?.details.owner.clone()),
            tags: line.tags.clone(),
            pools: line.pools.iter().map(|pool| self.pool(*pool)).collect(),
            models: line.models.clone(),
            endpoints: line.endpoints.clone(),
            limits: line.limits.clone(),
        };
        let metadata = match before.filter(|_| is_sanitized) {
            Some(key) => key.metadata.clone(),
            None => policy_host::canonical_json(&serde_json::Value::Object(line.metadata.clone())),
        };
        let dedicated = line.dedicated.as_ref().map(|to| Dedicated { upstream: self.upstream(to.upstream), fallback: to.fallback });
        let term = match (line.activation_seconds, line.expires_at, line.expiry_unset) {
            (Some(seconds), None, false) => Term::AfterFirstUse { seconds },
            (None, Some(at), false) => Term::At(at),
            (None, None, true) => Term::Unset,
            (None, None, false) => Term::Never,
            _ => return Err(PrepareError::line("bad_import", "expires_at, activation_seconds and expiry_unset exclude each other")),
        };
        let time = self.time(line, term, before)?;
        let fact = |member, fact: &Option<FactLine>, is_new| {
            let sealed = |fact: &FactLine| {
                Ok::<_, PrepareError>(ImportedFact { reason: self.reason(&stream, "key", line.id, member, fact, pass, is_new)? })
            };
            fact.as_ref().map(sealed).transpose()
        };
        let mut import = KeyImport {
            details,
            metadata,
            dedicated,
            rotation: line.rotation.map(|rotation| rotation.map(schedule)),
            secrets: secrets(line, before, is_sanitized),
            term: time.term,
            first_used_at: time.first_used_at,
            created_at: line.created_at,
            renewed_at: line.renewed_at,
            rotated_at: line.rotated_at,
            expired_at: time.expired_at,
            disabled: fact("disabled", &line.disabled, before.is_none_or(|key| key.disabled.is_none()))?,
            revoked: fact("revoked", &line.revoked, before.is_none_or(|key| key.revoked.is_none()))?,
            archived: fact("archived", &line.archived, before.is_none_or(|key| key.archived.is_none()))?,
        };
        let is_withheld = is_sanitized && before.is_none_or(|key| key.secrets.iter().all(|secret| secret.hash == withheld_hash(key.id)));
        if is_withheld {
            import.disabled = import.disabled.or(Some(ImportedFact { reason: None }));
        }
        let stays_disabled = before.is_some_and(|key| import.keeps_quarantine(key));
        let merge = before.map(|key| Command::Key(KeyCommand::Change(Box::new(merge_key(key, &import)))));
        let is_foreign = self.head().is_ours() && self.head().cluster_id != self.app.cluster_id;
        let is_keyed = |secret: &SecretLine| secret.scheme != SchemeText::Issued && secret.scheme != SecretScheme::UNSALTED.into();
        let is_keyed = line.secrets.iter().any(is_keyed);
        self.settle(stream, &here, Command::Key(KeyCommand::Import(Box::new(import))), merge, prepared)?;
        let is_to_be_done = matches!(prepared.outcome, Outcome::Created | Outcome::Changed);
        if is_to_be_done && pass == Pass::Apply && self.is_secret_taken(line)? {
            // By a key that came while the lines before this one were applied.
            (prepared.outcome, prepared.detail) = (Outcome::Refused, Some(SECRET_TAKEN.to_owned()));
            prepared.steps.clear();
            return Ok(());
        }
        if is_to_be_done {
            prepared.detail = prepared.detail.take().or(time.detail);
        }
        if stays_disabled && matches!(prepared.outcome, Outcome::Changed | Outcome::Unchanged) {
            prepared.detail = prepared.detail.take().or_else(|| Some("stays disabled: a secret of it was found in the open".to_owned()));
        }
        if prepared.outcome == Outcome::Created && is_withheld {
            prepared.detail = Some("disabled: no secret opens it; rotate it for one, then enable it".to_owned());
        } else if is_keyed && is_foreign {
            prepared.detail =
                Some("a secret that was brought to the other cluster is known by that cluster's pepper, and opens nothing here".to_owned());
        }
        Ok(())
    }

    /// The description, sealed here: as it stands where it says the same.
    fn description(&self, stream: &Stream, line: &KeyLine, before: Option<&Key>, pass: Pass) -> Result<Option<Sealed>, PrepareError> {
        let held = before.and_then(|key| key.details.description.as_ref());
        let Some(text) = &line.description else {
            return Ok(held.filter(|_| self.head().sanitized).cloned());
        };
        let text = self.text("key", line.id, "description", text)?;
        if let Some(held) = held {
            match self.app.vault.unseal_field(held) {
                Ok(present) if present == text => return Ok(Some(held.clone())),
                Ok(_) | Err(UnsealFieldError::Erased) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.sealed(stream, &text, pass).map(Some)
    }
}

fn schedule(line: RotationLine) -> RotationSchedule {
    RotationSchedule { every_seconds: line.every_seconds, overlap_seconds: line.overlap_seconds }
}

/// The secrets that the key is to have: the file's, or of a sanitised file those that are here, or one that nothing opens.
fn secrets(line: &KeyLine, before: Option<&Key>, is_sanitized: bool) -> Vec<ImportedSecret> {
    match before {
        _ if !is_sanitized => {
            let of = |secret: &SecretLine| {
                let scheme = secret.scheme.into();
                ImportedSecret { number: secret.number, hash: secret.hash, scheme, valid_until: secret.valid_until }
            };
            line.secrets.iter().map(of).collect()
        }
        Some(key) => {
            let of = |secret: &schemas::key::KeySecret| ImportedSecret {
                number: secret.number,
                hash: secret.hash,
                scheme: secret.scheme,
                valid_until: secret.valid_until,
            };
            key.secrets.iter().map(of).collect()
        }
        None => vec![ImportedSecret { number: 1, hash: withheld_hash(line.id), scheme: SecretScheme::Issued, valid_until: None }],
    }
}

/// What a key that is here does not have, and the file does.
fn merge_key(key: &Key, import: &KeyImport) -> KeyPatch {
    let (held, given) = (&key.details, &import.details);
    let fill = |held: &Vec<String>, given: &Vec<String>| held.is_empty().then(|| given.clone());
    let limits = Limits {
        requests_per_minute: held.limits.requests_per_minute.or(given.limits.requests_per_minute),
        concurrency: held.limits.concurrency.or(given.limits.concurrency),
    };
    KeyPatch {
        description: held.description.is_none().then(|| given.description.clone()),
        owner: held.owner.is_none().then(|| given.owner.clone()),
        tags: fill(&held.tags, &given.tags),
        models: fill(&held.models, &given.models),
        endpoints: held.endpoints.is_empty().then(|| given.endpoints.clone()),
        limits: Some(limits),
        metadata: (key.metadata == METADATA_EMPTY).then(|| import.metadata.clone()),
        dedicated: key.dedicated.is_none().then_some(import.dedicated),
        rotation: import.rotation.filter(|_| key.rotation.is_none()),
        ..KeyPatch::default()
    }
}
