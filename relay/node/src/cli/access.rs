//! Where the node's admin side is, and the token for it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use url::Url;

use super::Global;
use crate::config::{Config, Secret, Sources};
use crate::layout::Layout;

/// A node's admin side, and the tenant to act in there.
pub(super) struct Access {
    pub(super) url: Url,
    pub(super) token: Secret,
    /// None leaves it to the node: `default`.
    pub(super) tenant: Option<String>,
}

/// The data directory that a command means, as `serve` would without a file.
pub(super) fn layout(global: &Global, environment: &BTreeMap<String, String>) -> Layout {
    let from_environment = || environment.get("KEYRELAY_DATA").filter(|data| !data.is_empty()).map(PathBuf::from);
    Layout::new(global.data.clone().or_else(from_environment).unwrap_or_else(default_data))
}

impl Access {
    pub(super) fn find(global: &Global, environment: &BTreeMap<String, String>) -> Result<Self> {
        let layout = layout(global, environment);
        let set = |name: &str| environment.get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let url = match global.admin_url.clone().or_else(|| set("KEYRELAY_ADMIN_URL")) {
            Some(url) => url,
            None => read(&layout.admin_address())?.unwrap_or_else(|| format!("http://{}", Config::default().admin.listen)),
        };
        let url = Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = url.context("the admin URL must be http or https with a host")?;
        let token = match set("KEYRELAY_TOKEN") {
            Some(token) => token,
            None => read(&layout.owner_token())?.with_context(|| {
                format!("no token: set KEYRELAY_TOKEN, or name a node's data directory with --data ({} has none)", layout.data().display())
            })?,
        };
        let given = global.tenant.as_deref().map(str::trim).filter(|tenant| !tenant.is_empty());
        let tenant = given.map(str::to_owned).or_else(|| set("KEYRELAY_TENANT"));
        Ok(Self { url, token: Secret::new(token), tenant })
    }
}

fn default_data() -> PathBuf {
    Config::load(Sources::default()).map(|config| config.data).unwrap_or_default()
}

/// A one-line file; none where it is not there.
fn read(path: &std::path::Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
