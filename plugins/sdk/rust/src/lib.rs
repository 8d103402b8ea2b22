//! Write a Keyrelay policy in Rust.
//!
//! A policy is a pure function over one request: it is given all that it may know (the key, the demand, the candidates or meters, the time, a
//! seed, its settings) and answers with a verdict. It imports nothing, so it has no clock, no randomness, no file and no network, and equal
//! inputs give equal outputs. It can only narrow what the relay would allow without it.
//!
//! There are three kinds, a trait for each:
//!
//! - [`RoutePolicy`]: which upstreams, and in which order;
//! - [`QuotaPolicy`]: how much may be used;
//! - [`ExpiryPolicy`]: until when a key is good.
//!
//! Implement one, and export it with [`export_route!`], [`export_quota!`] or [`export_expiry!`]:
//!
//! ```
//! use keyrelay_policy::{DeclaredReason, Effect, Fault, Kind, Manifest, QuotaPolicy, Verdict, quota};
//! use serde::Deserialize;
//!
//! struct LargestRequest;
//!
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Settings {
//!     request_bytes_max: u64,
//! }
//!
//! const TOO_LARGE: &str = "request.too_large";
//!
//! impl QuotaPolicy for LargestRequest {
//!     const MANIFEST: Manifest = Manifest {
//!         name: "largest-request",
//!         version: "1.0.0",
//!         description: "Refuses requests with more bytes than the settings allow.",
//!         effects: &[Effect::Deny, Effect::NotApplicable],
//!         reasons: &[DeclaredReason { code: TOO_LARGE, text: "the request has too many bytes" }],
//!         settings: r#"{"type":"object","required":["request_bytes_max"],"additionalProperties":false,
//!                       "properties":{"request_bytes_max":{"type":"integer","minimum":1}}}"#,
//!         ..Manifest::new(Kind::Quota)
//!     };
//!     type Settings = Settings;
//!
//!     fn decide(settings: &Settings, input: &quota::Input) -> Result<quota::Output, Fault> {
//!         if input.demand.request_bytes <= settings.request_bytes_max {
//!             return Ok(Verdict::not_applicable().into());
//!         }
//!         Ok(Verdict::deny(TOO_LARGE).public(format!("at most {} bytes", settings.request_bytes_max)).into())
//!     }
//! }
//!
//! keyrelay_policy::export_quota!(LargestRequest);
//!
//! // On the machine that it is written on, a policy is an ordinary function: no WebAssembly is needed for its unit tests.
//! let settings = Settings { request_bytes_max: 10 };
//! let mut input = keyrelay_policy::testing::quota_input();
//! input.demand.request_bytes = 11;
//! assert_eq!(LargestRequest::decide(&settings, &input)?.verdict.effect, Effect::Deny);
//! # Ok::<(), Fault>(())
//! ```
//!
//! `cargo build --release --target wasm32-unknown-unknown` makes the module; `keyrelay policy check`, `test`, `run` and `bench` try it on
//! this machine; `keyrelay policy upload` and `bind` put it into force.
//!
//! A module is instantiated anew for every decision, so what an instance touches is what a decision costs. Link with a small stack and with
//! a heap from the start (`-Clink-arg=-zstack-size=32768 -Clink-arg=--initial-heap=65536` in `.cargo/config.toml`, as the template of
//! `keyrelay policy new` has it): together they halve the time.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failing test says where"))]

#[doc(hidden)]
pub mod bindings;
#[doc(hidden)]
pub mod guest;
mod manifest;
mod outputs;
mod policy;
mod subject;
pub mod testing;
mod verdict;

pub use bindings::setup::keyrelay::policy::types::{Advice, Attribute, Demand, Effect, Fault, Obligation, Price, Reason, Subject, Verdict};
pub use manifest::{DeclaredReason, Kind, Manifest};
pub use policy::{ExpiryPolicy, QuotaPolicy, RoutePolicy};

/// The standard library's allocator, in the release that begins with the memory a module already has. That of the toolchain asks for more at
/// the first allocation, and each time a memory grows the system changes its page table twice.
#[cfg(target_family = "wasm")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Which upstreams, and in which order.
pub mod route {
    pub use crate::bindings::route::exports::keyrelay::policy::route_policy::{Candidate, Input, Output, Pick};
}

/// How much may be used.
pub mod quota {
    pub use crate::bindings::quota::exports::keyrelay::policy::quota_policy::{Charge, Input, Meter, Output, Unit};
}

/// Until when a key is good.
pub mod expiry {
    pub use crate::bindings::expiry::exports::keyrelay::policy::expiry_policy::{Input, KeyFacts, Output};
}

/// Exports a [`RoutePolicy`] as this module's policy. Said once in a crate; on other targets than WebAssembly it only checks the type.
#[macro_export]
macro_rules! export_route {
    ($policy:ty) => {
        $crate::export_policy!($policy, Route, route, __export_route_impl);
    };
}

/// Exports a [`QuotaPolicy`] as this module's policy. Said once in a crate; on other targets than WebAssembly it only checks the type.
#[macro_export]
macro_rules! export_quota {
    ($policy:ty) => {
        $crate::export_policy!($policy, Quota, quota, __export_quota_impl);
    };
}

/// Exports an [`ExpiryPolicy`] as this module's policy. Said once in a crate; on other targets than WebAssembly it only checks the type.
#[macro_export]
macro_rules! export_expiry {
    ($policy:ty) => {
        $crate::export_policy!($policy, Expiry, expiry, __export_expiry_impl);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! export_policy {
    ($policy:ty, $guest:ident, $module:ident, $export:ident) => {
        const _: () = {
            type Exported = $crate::guest::$guest<$policy>;
            // The names of the exports are not names that a native linker takes.
            #[cfg(target_arch = "wasm32")]
            const _: () = {
        $crate::__export_setup_impl!(Exported with_types_in $crate::bindings::setup);
        $crate::$export!(Exported with_types_in $crate::bindings::$module);
            };
            #[cfg(not(target_arch = "wasm32"))]
            const _: fn() = $crate::guest::is_exported::<Exported>;
        };
    };
}
