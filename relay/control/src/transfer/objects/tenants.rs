//! A line of a tenant.

use schemas::tenant::{TenantChanged, TenantCommand};
use schemas::{Aggregate, Command, Stream};

use super::{Import, Pass, PrepareError, Prepared};
use crate::transfer::line::TenantLine;

impl Import {
    pub(super) fn tenant(&self, line: &TenantLine, pass: Pass, prepared: &mut Prepared) -> Result<(), PrepareError> {
        let stream = Stream::tenant_of(line.tenant.clone());
        let here = self.here(&stream)?;
        let is_new = !matches!(&here.state, Some(Aggregate::Tenant(tenant)) if tenant.suspended.is_some());
        let suspended = match &line.suspended {
            Some(fact) => Some(self.reason(&stream, "tenant", &line.tenant, "suspended", fact, pass, is_new)?),
            None => None,
        };
        let &TenantLine { default_expiry_seconds, expiry_seconds_max, .. } = line;
        let details = TenantChanged { name: line.name.clone(), default_expiry_seconds, expiry_seconds_max };
        self.settle(stream, &here, Command::Tenant(TenantCommand::Import { details, suspended }), None, prepared)
    }
}
