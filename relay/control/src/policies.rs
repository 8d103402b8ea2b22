//! The policies of this node: the modules that bindings need, loaded off the request path, and the bindings that are in effect.
//!
//! ```text
//! projector: policies and bindings ──> PolicyLoader ──> Active, swapped whole ──> the data plane
//!                                          │  ^
//!                         what is missing  v  │ modules, loaded once each
//!                                      PolicyModules ──> machine code kept on this machine, else the artefact, compiled
//! ```
//!
//! A removal and the mode `off` take effect with the record. Anything else does when the module is loaded; until then what was in effect
//! stays. A module that cannot be had leaves its binding in effect without one, so that `on_fault` applies, and is tried again.

mod assembly;
mod loader;
mod modules;
mod status;

pub use loader::{PolicyLoader, PolicyLoaderParts};
pub use modules::{ModuleError, PolicyModules};
pub use status::{MissingModule, PolicyHealth};

pub(crate) use modules::ModuleKey;
