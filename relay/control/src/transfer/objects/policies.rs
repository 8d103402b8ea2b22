//! A line of a policy.

use schemas::policy::{PolicyCommand, PolicyUploaded};
use schemas::{Aggregate, Command, Stream};

use super::{Import, Outcome, PrepareError, Prepared};
use crate::transfer::line::PolicyLine;

impl Import {
    pub(super) fn policy(&self, line: &PolicyLine, prepared: &mut Prepared) -> Result<(), PrepareError> {
        let stream = Stream::policy(line.tenant.clone(), &line.digest);
        let here = self.here(&stream)?;
        // One that is here is the same bytes: it needs no second look.
        let (bytes, manifest) = match (&here.state, self.admitted.get(&line.digest)) {
            (Some(Aggregate::Policy(policy)), _) => (policy.uploaded.bytes, policy.uploaded.manifest.clone()),
            (_, Some(admitted)) => (admitted.component.len() as u64, policy_host::Manifest::canonical(&admitted.manifest)),
            (_, None) => return Err(PrepareError::line("bad_policy", "the module was not admitted")),
        };
        let uploaded = PolicyUploaded {
            name: line.name.clone(),
            digest: line.digest,
            uploaded_digest: line.uploaded_digest,
            kind: line.kind,
            class: line.class,
            bytes,
            manifest,
        };
        self.settle(stream, &here, Command::Policy(PolicyCommand::Upload(Box::new(uploaded))), None, prepared)?;
        prepared.module = (prepared.outcome == Outcome::Created).then_some(line.digest);
        Ok(())
    }
}
