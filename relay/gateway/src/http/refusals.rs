//! The refusals as the document lists them: one entry per status.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response, ResponseBuilder};

use crate::refusal::Refusal;

const DESCRIPTIONS: [(&str, &str); 11] = [
    ("400", "The body is not usable: `body_invalid`"),
    (
        "401",
        "`key_missing`, `key_malformed`, `keys_conflict`, `key_unknown`, `key_expired`, `key_revoked`, `key_archived` or `key_superseded`",
    ),
    ("403", "`key_disabled`, `tenant_suspended`, `endpoint_not_allowed`, `model_not_allowed` or `policy_denied`"),
    ("404", "`endpoint_unknown` or `model_unknown`"),
    ("405", "`method_not_allowed`"),
    ("408", "`body_timeout`"),
    ("413", "`body_too_large`"),
    ("429", "`rate_limited`, `concurrency_limited` or `quota_denied`"),
    ("502", "`upstream_failed`"),
    ("503", "`no_upstream`, `draining`, `overloaded`, `usage_spool_full`, `unavailable`, `stale` or `policy_fault`"),
    ("504", "`upstream_timeout`"),
];

/// The code stands in the header `x-keyrelay-reason`; the body is an error in the caller's dialect.
impl IntoResponses for Refusal {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let entry =
            |(status, description): (&str, &str)| (status.to_owned(), ResponseBuilder::new().description(description).build().into());
        DESCRIPTIONS.into_iter().map(entry).collect()
    }
}
