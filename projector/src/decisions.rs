//! The decision models: what policies decided lately, by time, request, key, binding and policy.
//!
//! They lie in a directory of their own and hold a bounded number of decisions in bounded bytes; the oldest go first. Their position is the
//! place in the decision stream, and per (node, incarnation) the number of the last batch, which tells repeats and losses. Neither is an alarm:
//! decisions are evidence, and what is missing of it is counted. Where the stream has begun anew, what was folded before stays.

mod fold;
mod follow;
mod query;
mod rows;

pub use fold::DecisionFoldError;
#[cfg(test)]
pub(crate) use fold::DecisionFolder;
pub use follow::{DecisionFollowError, DecisionOpenError, DecisionProjector};
pub use query::{Decision, DecisionModels, DecisionPage, DecisionPlace, DecisionQuery, DecisionStatus};
pub use rows::DecisionBounds;
