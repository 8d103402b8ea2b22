//! Policies: WebAssembly modules of users that decide on requests, loaded, bounded and called here and nowhere else.
//!
//! A policy is a component of one world of `plugins/wit/policy.wit`. It is admitted once ([`Host::admit`]), compiled once in a child process
//! with limits of its own, and gets a fresh instance for every evaluation ([`Module::decide`]). Fuel decides when it has run too long, an
//! epoch is the net below that; memory, input and output are capped; what it answers is checked so that it can only narrow what the relay
//! would allow without it.
//!
//! Where to look first: [`host`] for a policy's way from bytes to a [`Module`], [`mod@module`] for one evaluation, [`limits`] for all bounds.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failing test says where"))]

pub mod active;
pub mod backtest;
pub mod breaker;
pub mod canonical;
pub mod chain;
pub mod contract;
pub mod exchange;
pub mod fault;
pub mod host;
pub mod limits;
pub mod manifest;
pub mod module;
pub mod replay;

pub use canonical::canonical_json;
pub use compile::{SUBCOMMAND as COMPILE_SUBCOMMAND, compile_child, kind_of};
pub use exchange::{Input, Output};
pub use fault::{InvalidOutput, PolicyFault, Trapped};
pub use host::{
    AdmissionError, Admitted, CacheError, CompileError, Compiler, EngineError, Host, HostConfig, HostError, LoadError, WorldError,
};
pub use manifest::{DeclaredReason, Manifest, ManifestError};
pub use module::{ConfigureError, Evaluation, Module, SettingsFault};
pub use schema::{SCHEMA_CODE, SchemaError};

mod checks;
mod clock;
mod code_cache;
mod compile;
mod engine;
mod instance;
mod schema;
mod slow;
