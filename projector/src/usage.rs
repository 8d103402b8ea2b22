//! Usage read models: what was used, by key, model, upstream and day.
//!
//! They lie in a directory of their own, because the usage stream has another volume and another life than the event log. Their
//! position is a vector: the place in the stream, and per (node, incarnation) the number of the last batch, which tells repeats and
//! gaps. Sums keep absent apart from zero: a part that no request reported stays absent.

mod cost;
mod fold;
mod follow;
mod query;
mod recent;
mod rows;
mod tally;

pub use cost::{Cost, PricedUsage};
pub use fold::UsageFoldError;
#[cfg(test)]
pub(crate) use fold::UsageFolder;
pub use follow::{UsageFollowError, UsageOpenError, UsageProjector};
pub use query::{GroupBy, KeyUsage, UsageGroup, UsageModels, UsageQuery, UsageStatus};
pub use recent::RecentUse;
pub use rows::{GapFinding, OutcomeCounts, REQUESTS_KEPT, Totals};
pub use tally::{Recent, Served, Tally, UsageScope};
