//! A file of one tenant: what is in it belongs to that one, or goes to another that is named.

use schemas::TenantId;

use super::file::FileError;
use super::import::{Import, RawLine, Staged};
use super::line::Line;
use super::objects::PrepareError;
use crate::http::ApiError;

/// Of which tenant a file is, and into which it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TenantScope {
    pub(crate) from: TenantId,
    pub(crate) into: TenantId,
}

impl TenantScope {
    /// The scope of a file; none where it is of a whole cluster and goes where it says.
    pub(super) fn of(staged: &Staged, into: Option<TenantId>) -> Result<Option<Self>, ApiError> {
        let from = match (&staged.head.tenant, &into) {
            (Some(from), _) => from.clone(),
            (None, None) => return Ok(None),
            // Of other systems' data the head names no tenant; the lines are all of one, or are refused.
            (None, Some(into)) => match staged.lines().map_err(ApiError::Spool)?.next().map_err(ApiError::Spool)? {
                Some(first) => Import::parse_as_it_is(&first).map_or_else(|_| into.clone(), |line| line.tenant().clone()),
                None => into.clone(),
            },
        };
        let into = into.unwrap_or_else(|| from.clone());
        Ok(Some(Self { from, into }))
    }

    pub(crate) fn is_renamed(&self) -> bool {
        self.from != self.into
    }
}

impl Import {
    /// Reads a line, and makes it one of the tenant that it goes to.
    pub(crate) fn parse(&self, raw: &RawLine) -> Result<Line, PrepareError> {
        let mut line = Self::parse_as_it_is(raw)?;
        if let Some(TenantScope { from, into }) = &self.scope {
            if line.tenant() != from {
                let detail =
                    format!("it is of tenant {}, and the file of tenant {from}: only one tenant's data goes into another", line.tenant());
                return Err(PrepareError::line("other_tenant", detail));
            }
            line.set_tenant(into.clone());
        }
        Ok(line)
    }

    fn parse_as_it_is(raw: &RawLine) -> Result<Line, PrepareError> {
        serde_json::from_slice(&raw.text).map_err(|error| PrepareError::line("bad_line", error.to_string()))
    }

    /// The tenant that this one is in the file.
    pub(super) fn tenant_of_file<'a>(&'a self, tenant: &'a TenantId) -> &'a TenantId {
        self.scope.as_ref().map_or(tenant, |scope| &scope.from)
    }

    /// Whether the file is another tenant's than its data goes to.
    pub(super) fn is_renamed(&self) -> bool {
        self.scope.as_ref().is_some_and(TenantScope::is_renamed)
    }

    /// Refuses to put a tenant's data beside itself.
    pub(super) fn check_scope(&self) -> Result<(), FileError> {
        let is_own = self.head().is_ours() && self.head().cluster_id == self.app.cluster_id;
        if is_own && self.is_renamed() { Err(FileError::SameCluster) } else { Ok(()) }
    }
}
