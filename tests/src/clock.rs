//! The clock of nodes that have the planted `moved-clock`, and the machine's.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

/// What plants it.
pub const MOVED: &str = "moved-clock";

/// Puts a node's clock so many seconds ahead of the machine's. Backwards is a clock that was set back.
pub fn ahead(data: &Path, seconds: u64) -> Result<()> {
    // Renamed, as the node may look at any moment.
    let (file, new) = (data.join("clock-ahead"), data.join("clock-ahead.new"));
    std::fs::write(&new, seconds.to_string())?;
    Ok(std::fs::rename(new, file)?)
}

/// The machine's clock, in milliseconds since the Unix epoch.
pub fn now_ms() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}
