//! Planted bugs: a fault test that stays green with the bug it is for shows nothing.
//!
//! A build with the feature `faults` reads `KEYRELAY_FAULT` and then has the bug of that name. `PLANTED.md` is the list.

use std::future::Future;

use anyhow::Result;

/// The variable that plants a bug.
pub const VARIABLE: &str = "KEYRELAY_FAULT";

/// Runs a check without and with a planted bug: it must pass without, and fail with it, saying one of the expected things.
pub async fn turns_red<F: Future<Output = Result<()>>>(bug: &str, finding: &str, check: impl Fn(Option<String>) -> F) -> Result<()> {
    let Err(error) = check(Some(bug.to_owned())).await else {
        anyhow::bail!("the planted bug {bug} was not noticed");
    };
    let text = format!("{error:#}");
    anyhow::ensure!(text.contains(finding), "the planted bug {bug} was noticed as something else: {text}");
    Ok(())
}

/// The environment of a node with a planted bug, or with none.
pub fn environment(bug: Option<&str>) -> Vec<(String, String)> {
    bug.map(|bug| (VARIABLE.to_owned(), bug.to_owned())).into_iter().collect()
}
