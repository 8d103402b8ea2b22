//! `GET /keys`: searched, filtered, sorted and paged over a million keys.

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use projector::keys::{KeyFilter, KeyQuery, KeySearch, KeySort, Total};
use schemas::key::KeyState;
use schemas::{Digest, Sequence, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{KeyView, view};
use crate::http::app::App;
use crate::http::conventions::{Caller, Params, limit, named_pool};
use crate::http::error::{ApiError, ReadProblems};

/// The most characters of a search.
const SEARCH_LENGTH_MAX: usize = 256;
/// Bytes of a cursor that say what list it is of.
const CURSOR_MARK: usize = 8;

/// Which keys, and in what order. What is absent is not asked; all that is given must hold.
#[derive(Debug, Clone, Default, Deserialize, Serialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct KeyChoice {
    /// Part of the name in any case; or an id or its beginning; or the visible beginning of a client key, `sk-kr-…`, up to the whole of it. Of a
    /// client key nothing but the id is looked at; it stands in the URL, so send no more than the id.
    #[serde(default)]
    pub(super) search: Option<String>,
    #[serde(default)]
    pub(super) tag: Option<String>,
    #[serde(default)]
    pub(super) owner: Option<String>,
    #[serde(default)]
    #[param(inline)]
    pub(super) state: Option<KeyState>,
    /// A pool the key may use, by name or id.
    #[serde(default)]
    pub(super) pool: Option<String>,
    /// Keys that never expire do not match.
    #[serde(default)]
    pub(super) expires_before: Option<Timestamp>,
    /// From this time on. Keys that never expire do not match.
    #[serde(default)]
    pub(super) expires_after: Option<Timestamp>,
    #[serde(default)]
    pub(super) created_before: Option<Timestamp>,
    /// From this time on.
    #[serde(default)]
    pub(super) created_after: Option<Timestamp>,
    /// Whether somebody decided that it never expires.
    #[serde(default)]
    pub(super) never_expires: Option<bool>,
    /// Whether it was imported without an expiry, and nobody has decided on one since.
    #[serde(default)]
    pub(super) expiry_unset: Option<bool>,
    /// Keys that were neither used nor created since.
    #[serde(default)]
    pub(super) unused_since: Option<Timestamp>,
    /// `id` if not given, and whenever the search is for an id.
    #[serde(default)]
    #[param(inline)]
    pub(super) sort: Option<Sort>,
    #[serde(default)]
    #[param(inline)]
    pub(super) order: Direction,
    /// The `next` of the page before, of the same list.
    #[serde(default)]
    pub(super) cursor: Option<String>,
    /// Entries of a page, at most 1000.
    #[serde(default)]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub(super) limit: Option<usize>,
}

/// What a list is sorted by; equal ones come by id.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Sort {
    Id,
    /// Whatever the case.
    Name,
    CreatedAt,
    /// What never expires comes last.
    ExpiresAt,
    /// What was never used comes first.
    LastUsedAt,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Direction {
    #[default]
    Asc,
    Desc,
}

/// A key in a list.
#[derive(Debug, Serialize, ToSchema)]
struct ListedKeyView {
    #[serde(flatten)]
    key: KeyView,
    /// When a request with it was last settled; null where it was never used.
    last_used_at: Option<Timestamp>,
}

/// A page looks at a bounded number of keys, so it may hold fewer than asked for, even none: `next` says whether there is more.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct KeyPage {
    keys: Vec<ListedKeyView>,
    /// The cursor of the next page; null at the end.
    next: Option<String>,
    /// How many keys match. With a filter it is told with the first page only, and only where counting them is cheap.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    /// Where it is not: how many are known to match.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_at_least: Option<u64>,
    as_of: Sequence,
}

/// List keys: all, or those that a search and filters find.
#[utoipa::path(get, path = "/keys", tag = "keys", operation_id = "list_keys", params(KeyChoice),
    responses((status = 200, body = KeyPage), ReadProblems))]
pub(in crate::http) async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(choice): Params<KeyChoice>,
) -> Result<Json<KeyPage>, ApiError> {
    let limit = limit(choice.limit)?;
    let mut query = choice.query(&app, &caller.tenant, limit)?;
    query.sort = query.sort.or(Some(KeySort::Id));
    query.after = choice.place()?;
    let as_of = app.position();
    let page = app.blocking(move |app| -> Result<KeyPage, ApiError> {
        let page = app.models.find_keys(&app.usage, &query)?;
        let keys = page.keys.iter().map(|listed| Ok(ListedKeyView { key: view(app, &listed.key)?, last_used_at: listed.last_used_at }));
        let (total, total_at_least) = match page.total {
            Total::Exact(total) => (Some(total), None),
            Total::AtLeast(total) => (None, Some(total)),
            Total::Untold => (None, None),
        };
        let next = page.next.map(|place| choice.cursor(&place));
        Ok(KeyPage { keys: keys.collect::<Result<_, ApiError>>()?, next, total, total_at_least, as_of })
    });
    Ok(Json(page.await??))
}

impl KeyChoice {
    /// The first page of these keys.
    pub(super) fn query(&self, app: &App, tenant: &TenantId, limit: usize) -> Result<KeyQuery, ApiError> {
        let search = self.search.as_deref().unwrap_or_default();
        if search.chars().count() > SEARCH_LENGTH_MAX {
            return Err(ApiError::BadRequest(format!("a search has at most {SEARCH_LENGTH_MAX} characters")));
        }
        let filter = KeyFilter {
            search: KeySearch::parse(search),
            tag: self.tag.clone(),
            owner: self.owner.clone(),
            state: self.state,
            pool: self.pool.as_ref().map(|pool| named_pool(app, tenant, pool)).transpose()?,
            expires_before: self.expires_before,
            expires_after: self.expires_after,
            created_before: self.created_before,
            created_after: self.created_after,
            never_expires: self.never_expires,
            expiry_unset: self.expiry_unset,
            unused_since: self.unused_since,
        };
        let sort = self.sort.map(|sort| match sort {
            Sort::Id => KeySort::Id,
            Sort::Name => KeySort::Name,
            Sort::CreatedAt => KeySort::CreatedAt,
            Sort::ExpiresAt => KeySort::ExpiresAt,
            Sort::LastUsedAt => KeySort::LastUsedAt,
        });
        let descending = self.order == Direction::Desc;
        Ok(KeyQuery { tenant: tenant.clone(), filter, sort, descending, after: None, limit, now: app.now() })
    }

    /// The text of a place in this list.
    fn cursor(&self, place: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode([&self.mark()[..], place].concat())
    }

    /// The place that this choice's cursor stands for. A cursor of another list is refused: its places mean nothing here.
    fn place(&self) -> Result<Option<Vec<u8>>, ApiError> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let place = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| bytes.strip_prefix(&self.mark()[..]).map(<[u8]>::to_vec));
        place.map(Some).ok_or_else(|| ApiError::BadRequest("the cursor is not one that this list gave".to_owned()))
    }

    /// What tells this list from others, whatever the page.
    fn mark(&self) -> [u8; CURSOR_MARK] {
        let list = Self { cursor: None, limit: None, ..self.clone() };
        let digest = Digest::blake3(&serde_json::to_vec(&list).unwrap_or_default());
        std::array::from_fn(|at| digest.as_bytes()[at])
    }
}
