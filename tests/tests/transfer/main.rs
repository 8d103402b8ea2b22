//! Data that moves: exported from one node and imported into another, over the real binary.

mod carried;
mod conflicts;
mod elsewhere;
mod expiry;
mod faults;
mod killed;
mod node;
mod recipients;
mod sanitized;
mod schedules;
mod tenant;
