//! Which keys a command is about: flags of a list, and filters of a batch.

use clap::Args;
use serde_json::{Map, Value};

/// What a client key begins with.
const CLIENT_KEY_PREFIX: &str = "sk-kr-";

/// What a filter may ask, as the API calls it.
const FILTERS: [&str; 13] = [
    "search",
    "tag",
    "owner",
    "state",
    "pool",
    "expires_before",
    "expires_after",
    "created_before",
    "created_after",
    "never_expires",
    "expiry_unset",
    "unused_since",
    "limit",
];

#[derive(Debug, Args)]
pub(in crate::cli) struct KeyListing {
    /// At most this many [default: all]
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<usize>,
    /// Part of a name in any case, an id or its beginning, or a client key: of that only the id is sent
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    #[arg(long)]
    tag: Option<String>,
    #[arg(long)]
    owner: Option<String>,
    /// active, disabled, expired, revoked or archived
    #[arg(long)]
    state: Option<String>,
    /// A pool it may use, by name or id
    #[arg(long)]
    pool: Option<String>,
    /// RFC 3339, such as 2027-01-31T00:00:00Z; keys that never expire do not match
    #[arg(long, value_name = "TIME")]
    expires_before: Option<String>,
    #[arg(long, value_name = "TIME")]
    expires_after: Option<String>,
    #[arg(long, value_name = "TIME")]
    created_before: Option<String>,
    #[arg(long, value_name = "TIME")]
    created_after: Option<String>,
    /// Only keys that never expire
    #[arg(long)]
    never_expires: bool,
    /// Neither used nor created since
    #[arg(long, value_name = "TIME")]
    unused_since: Option<String>,
    /// id, name, created_at, expires_at or last_used_at
    #[arg(long)]
    sort: Option<String>,
    /// asc or desc
    #[arg(long)]
    order: Option<String>,
}

impl KeyListing {
    /// The parameters of the list but for the page's size.
    pub(super) fn query(self) -> Vec<(&'static str, String)> {
        let parameters = [
            ("search", self.search.map(|text| head(&text).to_owned())),
            ("tag", self.tag),
            ("owner", self.owner),
            ("state", self.state),
            ("pool", self.pool),
            ("expires_before", self.expires_before),
            ("expires_after", self.expires_after),
            ("created_before", self.created_before),
            ("created_after", self.created_after),
            ("never_expires", self.never_expires.then(|| true.to_string())),
            ("unused_since", self.unused_since),
            ("sort", self.sort),
            ("order", self.order),
        ];
        parameters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// The filter that `NAME=VALUE` texts mean, all of which must hold.
pub(super) fn filter(texts: &[String]) -> anyhow::Result<Value> {
    let mut members = Map::new();
    for text in texts {
        let (name, value) = text.split_once('=').ok_or_else(|| anyhow::anyhow!("--filter is NAME=VALUE, such as tag=ci, not {text:?}"))?;
        let known = FILTERS.contains(&name);
        anyhow::ensure!(known, "--filter knows {}; not {name:?}", FILTERS.join(", "));
        let member = match name {
            "never_expires" | "expiry_unset" => value.parse::<bool>().ok().map(Value::from),
            "limit" => value.parse::<usize>().ok().map(Value::from),
            "search" => Some(head(value).into()),
            _ => Some(value.into()),
        };
        let member = member.ok_or_else(|| anyhow::anyhow!("--filter {name}: {value:?} is not a value of it"))?;
        anyhow::ensure!(members.insert(name.to_owned(), member).is_none(), "--filter {name} is given twice");
    }
    Ok(members.into())
}

/// A search without what may be secret of a client key: everything behind the id.
fn head(text: &str) -> &str {
    let text = text.trim();
    match text.strip_prefix(CLIENT_KEY_PREFIX).and_then(|rest| rest.find('-')) {
        Some(id_end) => &text[..CLIENT_KEY_PREFIX.len() + id_end],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_client_key_nothing_is_sent_but_the_id() {
        assert_eq!(head("sk-kr-abc-secret"), "sk-kr-abc");
        assert_eq!(head(" sk-kr-abc "), "sk-kr-abc");
        assert_eq!(head("ci-1"), "ci-1");
    }

    #[test]
    fn filters_are_read_strictly() {
        let of = |texts: &[&str]| filter(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).ok();
        assert_eq!(of(&["tag=ci", "never_expires=true", "limit=5"]), Some(json!({ "tag": "ci", "never_expires": true, "limit": 5 })));
        for wrong in [&["tga=ci"][..], &["tag"], &["tag=a", "tag=b"], &["limit=x"], &["never_expires=yes"]] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
    }
}
