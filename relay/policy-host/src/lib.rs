//! Policies: WebAssembly modules of users that decide on requests, loaded, bounded and called here and nowhere else.

pub mod contract;
