//! How the policies of this node stand, for `/readyz`, the metrics, and whoever waits for them.

use schemas::{Digest, Sequence};
use serde::Serialize;
use utoipa::ToSchema;

/// The bindings in effect on this node, and the modules that they need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PolicyHealth {
    /// What the log says up to here was taken in.
    #[serde(skip)]
    pub as_of: Sequence,
    /// Bindings are in effect as the log has them up to here, with every module that could be had.
    #[serde(skip)]
    pub in_effect: Sequence,
    /// Bindings that are not removed.
    pub bindings: usize,
    /// Modules that bindings need and that are loaded.
    pub loaded: usize,
    /// Modules that bindings need and that are being loaded for the first time.
    pub loading: usize,
    /// Modules that bindings need and that cannot be had: their bindings' `on_fault` applies. They are tried again.
    pub missing: Vec<MissingModule>,
}

/// A module that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct MissingModule {
    pub policy: Digest,
    pub name: String,
    /// Why the last attempt came to nothing.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
}
