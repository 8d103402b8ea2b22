//! A line of a tenant.

use schemas::tenant::TenantCommand;
use schemas::{Aggregate, Command, Stream};

use super::{Import, Pass, PrepareError, Prepared};
use crate::transfer::line::TenantLine;

impl Import {
    pub(super) fn tenant(&self, line: &TenantLine, pass: Pass, prepared: &mut Prepared) -> Result<(), PrepareError> {
        let stream = Stream::tenant_of(line.tenant.clone());
        let here = self.here(&stream)?;
        if here.is_there && self.is_renamed() {
            prepared.detail = Some("what is said of the tenant here stays".to_owned());
            return Ok(());
        }
        let is_new = !matches!(&here.state, Some(Aggregate::Tenant(tenant)) if tenant.suspended.is_some());
        let suspended = match &line.suspended {
            Some(fact) => Some(self.reason(&stream, "tenant", self.tenant_of_file(&line.tenant), "suspended", fact, pass, is_new)?),
            None => None,
        };
        let details = line.details();
        self.settle(
            stream,
            &here,
            Command::Tenant(TenantCommand::Import { details, rotations: line.rotations.clone(), suspended }),
            None,
            prepared,
        )
    }
}
